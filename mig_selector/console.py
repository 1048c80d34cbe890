"""What people see while a selection runs: log lines and progress bars on stderr, on rank 0 only."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator


LOGGER_NAME = "mig_selector"


class _StderrHandler(logging.Handler):
    """Writes to what stderr is at that moment; a stream kept from an earlier call may be closed."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr, flush=True)  # noqa: T201  this is the log


def show_log(*, is_main: bool) -> None:
    """Send the package's log lines to stderr; on other ranks only warnings."""
    logger = logging.getLogger(LOGGER_NAME)
    if not logger.handlers:
        handler = _StderrHandler()
        handler.setFormatter(logging.Formatter("[mig_selector] %(message)s"))
        logger.addHandler(handler)
        logger.propagate = False
    logger.setLevel(logging.INFO if is_main else logging.WARNING)


@contextlib.contextmanager
def progress(title: str, total: int, unit: str, *, is_main: bool) -> Iterator[Callable[[int], object]]:
    """Show a progress bar while the block runs.

    Args:
        title: What is going on.
        total: How much there is to do.
        unit: ``B`` for bytes, else the name of what is counted.
        is_main: Whether this rank shows bars.

    Yields:
        A function that takes how much was done since its last call.
    """
    from tqdm import tqdm

    bar = tqdm(
        total=total,
        desc=f"[mig_selector] {title}",
        unit=unit,
        unit_scale=True,
        unit_divisor=1024 if unit == "B" else 1000,
        disable=not is_main,
        file=sys.stderr,
        dynamic_ncols=True,
    )
    with bar:
        yield bar.update
        bar.update(max(total - bar.n, 0))
