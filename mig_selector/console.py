"""Output for people while a selection runs: log lines and progress bars on stderr, on rank 0 only."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import unicodedata
from collections.abc import Callable, Iterator
from typing import Any


LOGGER_NAME = "mig_selector"


def printable(text: str, keep: str = "") -> str:
    r"""Escape characters that a terminal or a log would interpret rather than show.

    Names, labels and messages of libraries may contain any text from the data; it must not move the cursor, forge a
    line of the log, or reverse the direction of writing.

    Args:
        text: Text that may come from data.
        keep: Characters that are not escaped, such as line ends in a message of several lines.

    Returns:
        The text with control characters, line ends, direction marks and lone surrogates as escapes (``\x1b``, ``\n``,
        ``\u202e``); the letters and spaces of all scripts are kept.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in keep or _is_space(char) else _escape(char) for char in text)


def _is_space(char: str) -> bool:
    """Whether `char` is a space of any script; all but the ASCII space count as unprintable in Python."""
    return unicodedata.category(char) == "Zs"


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def print_error(prefix: str, error: Exception) -> None:
    """Print an error that the user can fix to stderr.

    Line ends are kept, as a library's message may have several. All lines but the first are indented: a name in the
    data that holds a line end must not look like a message of its own.
    """
    message = printable(str(error), keep="\n\t").replace("\n", "\n    ")
    print_line(f"{prefix}: {message}")


def print_line(text: str) -> None:
    """Print a line to stderr, if there is one: a selection does not fail because nobody can read how it goes."""
    _Stderr().write(f"{text}\n")


class _Stderr:
    """The current ``sys.stderr``; once it is closed or full, what is written to it is dropped."""

    def write(self, text: str) -> int:
        if sys.stderr is not None:
            try:
                sys.stderr.write(text)
                sys.stderr.flush()
            except (OSError, ValueError):
                # What could not be written stays in its buffer, and would turn the exit code into 120 at the end.
                sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123  until the process ends
        return len(text)

    def flush(self) -> None:
        """Do nothing: `write` has done it."""

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)  # isatty, fileno, encoding: for the progress bar


class _StderrHandler(logging.Handler):
    """Writes to the current ``sys.stderr``: one kept from an earlier call may have been replaced and closed."""

    def emit(self, record: logging.LogRecord) -> None:
        print_line(printable(self.format(record)))


def show_log(*, is_main: bool) -> None:
    """Send the package's log to stderr: from INFO on the main rank, from WARNING on others."""
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
        title: What is being done.
        total: The total amount of work, in `unit`.
        unit: ``B`` for bytes, otherwise the name of what is counted.
        is_main: Whether this rank shows progress bars.

    Yields:
        A function to call with the amount done since its last call.
    """
    from tqdm import tqdm

    bar = tqdm(
        total=total,
        desc=f"[mig_selector] {title}",
        unit=unit,
        unit_scale=True,
        unit_divisor=1024 if unit == "B" else 1000,
        disable=not is_main or sys.stderr is None,
        file=_Stderr(),
        dynamic_ncols=True,
    )
    with bar:
        yield bar.update
        # Estimates by rank, or rows that were left out, may not add up to the total.
        bar.update(max(total - bar.n, 0))
