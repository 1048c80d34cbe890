"""The wrapper around LLaMA-Factory's ``run_exp``: it removes the ``mig_*`` keys, selects, and passes the subset on.

Every way to train goes through ``llamafactory.train.tuner.run_exp``. The wrapper runs before the host parses its
arguments, when there is no process group and no DeepSpeed configuration yet. Without a ``mig_`` key it does nothing.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from mig_selector._autoload import is_disabled
from mig_selector.errors import HostError, MigSelectorError
from mig_selector.settings import PREFIX, is_own_key


logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from mig_selector.integration.handover import TrainingOrigin
    from mig_selector.pipeline.deliver import Outcome

Result = TypeVar("Result")


def install(tuner: ModuleType) -> None:
    """Wrap ``run_exp`` of the host's tuner module; a second call changes nothing."""
    original = getattr(tuner, "run_exp", None)
    if original is None or getattr(original, "is_mig_selector", False):
        return
    # Old versions without read_args must train as usual too; they are refused only if there is a mig_ key.
    read_args = getattr(tuner, "read_args", _read_args)

    def run_host(args: Any, callbacks: Any) -> Any:
        # Not passed if None: the host's default for it differs between versions.
        return original(args) if callbacks is None else original(args, callbacks)

    @functools.wraps(original)
    def run_exp(args: Any = None, callbacks: Any = None) -> Any:
        given = read_args(args)
        if is_disabled():
            return run_host(_without_own_keys(given) if _has_mig_key(given) else args, callbacks)
        if not isinstance(given, Mapping) and {"-h", "--help"} & set(given):
            _print_help()
        elif _has_mig_key(given):
            # Without arguments this is a command line, whose user gets a message. A program gets the exception.
            args, selected = _exit_on_error(_select, given) if args is None else _select(given)
            if selected is not None:
                outcome, training = selected
                callbacks = [*(callbacks or []), *_callbacks(outcome, training)]
                with _marked(training):
                    return run_host(args, callbacks)
        return run_host(args, callbacks)

    run_exp.is_mig_selector = True  # type: ignore[attr-defined]
    tuner.run_exp = run_exp  # type: ignore[attr-defined]


def install_v1_guard(arg_parser: ModuleType) -> None:
    """Reject ``mig_`` keys in the host's v1 trainer; with ALLOW_EXTRA_KEYS it would silently train on all rows."""
    original = arg_parser.get_args
    if getattr(original, "is_mig_selector", False):
        return

    @functools.wraps(original)
    def get_args(args: Any = None) -> Any:
        given = _read_args(args)
        if not _has_mig_key(given):
            return original(args)
        if not is_disabled() and not _is_switched_off(given):
            _exit_on_error(_reject_v1, args) if args is None else _reject_v1(args)
        return original(_without_own_keys(given))

    get_args.is_mig_selector = True  # type: ignore[attr-defined]
    arg_parser.get_args = get_args  # type: ignore[attr-defined]


def _read_args(args: Any) -> Any:
    """Read the command line as the host does; a configuration that cannot be read is left to the host to report."""
    from mig_selector.integration.config import read_config

    if args is not None:
        return args
    words = sys.argv[1:]
    if words and words[0].endswith((".yaml", ".yml", ".json")):
        with contextlib.suppress(MigSelectorError):
            return read_config(Path(words[0]), words[1:])
    return words


def _has_mig_key(args: Any) -> bool:
    """Whether a configuration or a list of options sets a ``mig_`` key."""
    if isinstance(args, Mapping):
        # After a YAML, --mig_x=1 is a key with dashes; like MIG_X and mig-x it must be reported rather than ignored.
        return any(is_own_key(key) for key in args)
    # The host accepts --mig-key for --mig_key.
    return any(str(option).replace("-", "_").startswith(f"__{PREFIX}") for option in args)


def _is_switched_off(args: Any) -> bool:
    """Whether ``mig_enabled`` is false in a configuration or a list of options."""
    from mig_selector.arguments import is_switched_off
    from mig_selector.integration.config import read_options

    return is_switched_off(args if isinstance(args, Mapping) else read_options(args))


def _without_own_keys(args: Any) -> Any:
    """Return a configuration or a list of options without the ``mig_`` keys: what the host gets if nothing is done."""
    from mig_selector.integration.config import drop_options, read_options

    if isinstance(args, Mapping):
        return {key: value for key, value in args.items() if not _has_mig_key({key: value})}
    return drop_options(args, {key: value for key, value in read_options(args).items() if key.startswith(PREFIX)})


def _reject_v1(args: Any) -> None:
    """Raise the error for ``mig_`` keys in the v1 trainer."""
    raise HostError(
        "LLaMA-Factory's v1 trainer (USE_V1) is not supported: nothing would be selected. "
        "Unset USE_V1, or remove the mig_ keys."
    )


def _exit_on_error(work: Callable[[Any], Result], args: Any) -> Result:
    """Do `work` for a command: print an error of the user as one message without a traceback, and exit.

    The exit code is 1 after an error and 130 after Ctrl-C.
    """
    try:
        return work(args)
    except MigSelectorError as error:
        from mig_selector.console import print_error

        print_error("[mig_selector] error", error)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        from mig_selector.console import print_line

        print_line("[mig_selector] interrupted")
        raise SystemExit(130) from None


def _select(args: Any) -> tuple[Any, tuple[Outcome, TrainingOrigin] | None]:
    """Select; return the host's arguments with the subset in place of the pool, what was selected, and what to mark.

    Where ``mig_enabled`` is false nothing is selected.
    """
    from mig_selector.console import show_log
    from mig_selector.integration.config import HostArguments, check_overrides, drop_options, read_options, to_options
    from mig_selector.integration.handover import TrainingOrigin
    from mig_selector.integration.host import check_host
    from mig_selector.integration.host_settings import find_host_faults
    from mig_selector.pipeline.recipe import run_selection
    from mig_selector.ranks.world import connect

    settings = dict(args) if isinstance(args, Mapping) else read_options(args)
    show_log(is_main=os.environ.get("RANK", "0") == "0")
    if _is_switched_off(settings):
        logger.info("mig_enabled: false; nothing is selected, training uses the whole pool")
        return _without_own_keys(args), None
    with connect() as ranks:
        check_host()
        if isinstance(args, Mapping):
            check_overrides(settings)
        host_settings = {key: value for key, value in settings.items() if not is_own_key(key)}
        find_faults = functools.partial(find_host_faults, host_settings)
        outcome = run_selection(settings, ranks, training=True, find_faults=find_faults)[0]
    origin = {"fingerprint": outcome.fingerprint, "subset": outcome.folder, "dataset": list(outcome.entries.values())}
    training = TrainingOrigin.prepare(HostArguments.read(settings), origin, is_local_main=_is_local_main())
    own = {key: value for key, value in settings.items() if is_own_key(key)}
    if isinstance(args, Mapping):
        host = {key: value for key, value in settings.items() if key not in own}
        return {**host, **outcome.settings}, (outcome, training)
    options = [*drop_options(args, {**own, **outcome.settings}), *to_options(outcome.settings)]
    return options, (outcome, training)


def _is_local_main() -> bool:
    """Whether this is the first process of its node, by the environment of torchrun."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


@contextlib.contextmanager
def _marked(training: TrainingOrigin) -> Iterator[None]:
    """Mark what the host wrote while the block ran, if it ended well.

    Callbacks have marked checkpoints. A run that does not train calls none, and the final model is saved after all.
    """
    from mig_selector.integration.callback import warn_on_error

    try:
        yield
    except SystemExit as end:
        # Some versions of the host exit when they have written tokenized data.
        if end.code in (None, 0) and _is_local_main():
            warn_on_error(training.mark_tokenized)
        raise
    if _is_local_main():
        warn_on_error(training.finish)


def _print_help() -> None:
    """Print the keys of this package, before the host prints its own."""
    from transformers import HfArgumentParser

    from mig_selector.reference import keys_as_dataclass

    parser = HfArgumentParser(
        keys_as_dataclass(), prog="llamafactory-cli train", description="Keys of mig_selector.", add_help=False
    )
    print(parser.format_help())  # noqa: T201  help goes to stdout


def _callbacks(outcome: Outcome, training: TrainingOrigin) -> list[Any]:
    """Return the callbacks for the host; in a function, because importing them imports transformers."""
    from mig_selector.integration.callback import KeyFigures, OriginMarkers, SelectionSummary

    return [SelectionSummary(outcome.summary), KeyFigures(outcome.figures), OriginMarkers(training)]
