"""The wrapper around LLaMA-Factory's ``run_exp``: takes the ``mig_*`` keys out, selects, hands the subset over.

Every way to train goes through ``llamafactory.train.tuner.run_exp``. The wrapper runs before the host parses
anything: no process group and no DeepSpeed configuration is alive then. Without a ``mig_`` key it does nothing.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, TypeVar

from mig_selector._autoload import is_disabled
from mig_selector.arguments import PREFIX
from mig_selector.errors import MigSelectorError


Result = TypeVar("Result")


def install(tuner: ModuleType) -> None:
    """Wrap ``run_exp`` of the host's tuner module; doing it again changes nothing."""
    if not hasattr(tuner, "run_exp") or not hasattr(tuner, "read_args"):
        print(  # noqa: T201  the host has no log yet
            "[mig_selector] this version of LLaMA-Factory has no train.tuner.run_exp and read_args: mig_ keys are not "
            "available; see mig_selector's supported versions.",
            file=sys.stderr,
        )
        return
    original = tuner.run_exp
    if getattr(original, "is_mig_selector", False):
        return

    @functools.wraps(original)
    def run_exp(args: Any = None, callbacks: Any = None) -> Any:
        if is_disabled():
            return original(args, callbacks)
        is_command = args is None
        args = tuner.read_args(args)
        if not isinstance(args, Mapping) and {"-h", "--help"} & set(args):
            _print_help()
        elif _names_a_key(args):
            args, lines = _as_command(_run, args) if is_command else _run(args)
            callbacks = [*(callbacks or []), _summary_callback(lines)]
        return original(args, callbacks)

    run_exp.is_mig_selector = True  # type: ignore[attr-defined]
    tuner.run_exp = run_exp  # type: ignore[attr-defined]


def _names_a_key(args: Any) -> bool:
    if isinstance(args, Mapping):
        return any(str(key).lstrip("-").startswith(PREFIX) for key in args)
    return any(str(option).startswith(f"--{PREFIX}") for option in args)


def _as_command(work: Callable[[Any], Result], args: Any) -> Result:
    """Do `work` for a user who started a command: what is wrong is one message, not a traceback."""
    try:
        return work(args)
    except MigSelectorError as error:
        print(f"[mig_selector] error: {error}", file=sys.stderr, flush=True)  # noqa: T201
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print("[mig_selector] interrupted", file=sys.stderr, flush=True)  # noqa: T201
        raise SystemExit(130) from None


def _run(args: Any) -> tuple[Any, list[str]]:
    """Select; return the host's arguments with the subset in place of the pool, and what happened."""
    from mig_selector.console import show_log
    from mig_selector.integration.config import check_overrides, drop_options, read_options, to_options
    from mig_selector.pipeline.recipe import run_selection
    from mig_selector.ranks.world import connect

    settings = dict(args) if isinstance(args, Mapping) else read_options(args)
    show_log(is_main=os.environ.get("RANK", "0") == "0")
    if isinstance(args, Mapping):
        check_overrides(settings)
    with connect() as ranks:
        outcome = run_selection(settings, ranks, training=True)[0]
    own = {key: value for key, value in settings.items() if key.startswith(PREFIX)}
    if isinstance(args, Mapping):
        host = {key: value for key, value in settings.items() if key not in own}
        return {**host, **outcome.settings}, outcome.summary
    return [*drop_options(args, {**own, **outcome.settings}), *to_options(outcome.settings)], outcome.summary


def _print_help() -> None:
    from transformers import HfArgumentParser

    from mig_selector.arguments import MigArguments

    parser = HfArgumentParser(
        MigArguments, prog="llamafactory-cli train", description="Keys of mig_selector.", add_help=False
    )
    print(parser.format_help())  # noqa: T201  help goes to stdout


def _summary_callback(lines: list[str]) -> Any:
    from mig_selector.integration.callback import SelectionSummary

    return SelectionSummary(lines)
