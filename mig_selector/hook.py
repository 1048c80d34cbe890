"""The wrapper around LLaMA-Factory's ``run_exp``: takes the ``mig_*`` keys out, selects, hands the subset over.

Every way to train goes through ``llamafactory.train.tuner.run_exp``. The wrapper runs before the host parses
anything: no process group and no DeepSpeed configuration is alive then. Without a ``mig_`` key it does nothing.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from mig_selector._autoload import is_disabled
from mig_selector.arguments import PREFIX
from mig_selector.errors import MigSelectorError


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
            args, lines = _run(args, _exit_on_error if is_command else _raise_error)
            callbacks = [*(callbacks or []), _summary_callback(lines)]
        return original(args, callbacks)

    run_exp.is_mig_selector = True  # type: ignore[attr-defined]
    tuner.run_exp = run_exp  # type: ignore[attr-defined]


def _names_a_key(args: Any) -> bool:
    if isinstance(args, Mapping):
        return any(str(key).lstrip("-").startswith(PREFIX) for key in args)
    return any(str(option).startswith(f"--{PREFIX}") for option in args)


def _run(args: Any, on_error: Callable[[MigSelectorError], None]) -> tuple[Any, list[str]]:
    """Select; return the host's arguments with the subset in place of the pool, and what happened."""
    from mig_selector.console import show_log
    from mig_selector.integration.config import check_overrides, drop_options, read_options, to_options
    from mig_selector.pipeline.recipe import run_selection
    from mig_selector.ranks import connect

    ranks = connect()
    show_log(is_main=ranks.is_main)
    settings = dict(args) if isinstance(args, Mapping) else read_options(args)
    try:
        if isinstance(args, Mapping):
            check_overrides(settings)
        outcome = run_selection(settings, ranks, training=True)[0]
    except MigSelectorError as error:
        on_error(error)
        raise
    own = {key: value for key, value in settings.items() if key.startswith(PREFIX)}
    if isinstance(args, Mapping):
        host = {key: value for key, value in settings.items() if key not in own}
        return {**host, **outcome.settings}, outcome.summary
    return [*drop_options(args, {**own, **outcome.settings}), *to_options(outcome.settings)], outcome.summary


def _exit_on_error(error: MigSelectorError) -> None:
    from mig_selector.console import print_error

    print_error("[mig_selector] error", error)
    raise SystemExit(1) from None


def _raise_error(error: MigSelectorError) -> None:
    raise error


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
