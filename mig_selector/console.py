"""What people see while a selection runs: log lines and progress bars on stderr, on rank 0 only."""

from __future__ import annotations

import contextlib
import logging
import sys
import unicodedata
from collections.abc import Callable, Iterator


LOGGER_NAME = "mig_selector"


def printable(text: str, keep: str = "") -> str:
    r"""Escape what a terminal or a log would act upon instead of showing it: whatever data hold, it is only shown.

    Args:
        text: Perhaps with text out of data: names, labels, messages of libraries.
        keep: Characters that stay as they are, such as line ends in a message of several lines.

    Returns:
        The text with control characters, line ends, marks of direction and halves of surrogate pairs as escapes
        (``\x1b``, ``\n``, ``\u202e``); letters and spaces of all scripts stay.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in keep or _is_space(char) else _escape(char) for char in text)


def _is_space(char: str) -> bool:
    return unicodedata.category(char) == "Zs"


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def print_error(prefix: str, error: Exception) -> None:
    """Tell people on stderr what they can put right; a library's message may have several lines."""
    message = printable(str(error), keep="\n\t")
    print(f"{prefix}: {message}", file=sys.stderr, flush=True)  # noqa: T201  people read this


class _StderrHandler(logging.Handler):
    """Writes a line to what stderr is at that moment; a stream kept from an earlier call may be closed."""

    def emit(self, record: logging.LogRecord) -> None:
        print(printable(self.format(record)), file=sys.stderr, flush=True)  # noqa: T201  this is the log


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
