"""Output for people while a selection runs: log lines and progress bars on stderr, on rank 0 only."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator
from typing import Any


LOGGER_NAME = "mig_selector"
logger = logging.getLogger(__name__)


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


def plural(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural where that is right: ``1 row``, ``2,000 rows``."""
    ending = "" if number == 1 else "es" if noun.endswith("s") else "s"
    return f"{number:,} {noun}{ending}"


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


def has_terminal() -> bool:
    """Whether somebody watches stderr at a terminal."""
    try:
        return sys.stderr is not None and sys.stderr.isatty()
    except ValueError:  # it is closed
        return False


class _StderrHandler(logging.Handler):
    """Writes to the current ``sys.stderr``: one kept from an earlier call may have been replaced and closed."""

    def emit(self, record: logging.LogRecord) -> None:
        line = printable(self.format(record))
        if "tqdm" in sys.modules and has_terminal():  # a bar may be there: it has to make room for the line
            from tqdm import tqdm

            tqdm.write(line, file=_Stderr())
        else:
            print_line(line)


def show_log(*, is_main: bool) -> None:
    """Send the package's log to stderr: from INFO on the main rank, from WARNING on others."""
    logger = logging.getLogger(LOGGER_NAME)
    if not logger.handlers:
        handler = _StderrHandler()
        handler.setFormatter(logging.Formatter("[mig_selector] %(message)s"))
        logger.addHandler(handler)
        logger.propagate = False
    logger.setLevel(logging.INFO if is_main else logging.WARNING)


_LINE_SECONDS = 10.0
"""Without a terminal, a line of progress is logged at least this often while work comes in."""
_LINE_SHARE = 0.1
"""Share of the work after which a line is logged sooner, but not within a second of the last one."""


@contextlib.contextmanager
def progress(title: str, total: int, unit: str, *, is_main: bool) -> Iterator[Callable[[int], object]]:
    """Show a progress bar while the block runs; without a terminal, log a line now and then instead.

    Args:
        title: What is being done.
        total: The total amount of work, in `unit`.
        unit: ``B`` for bytes, otherwise the name of what is counted.
        is_main: Whether this rank shows progress.

    Yields:
        A function to call with the amount done since its last call.
    """
    if is_main and not has_terminal():
        yield LoggedProgress(title, total, unit).update
        return
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


class LoggedProgress:
    """Progress as lines of the log: in a file, a bar that redraws itself is one endless line."""

    def __init__(self, title: str, total: int, unit: str, clock: Callable[[], float] = time.monotonic) -> None:
        """Log what begins, and how much of it there is; see `progress`."""
        self._title, self._total, self._clock = title, total, clock
        self._amount = f"{total / 2**20:,.1f} MB" if unit == "B" else plural(total, unit.removesuffix("s"))
        self._done = self._logged = 0
        self._logged_at = clock()
        logger.info("%s: %s", title, self._amount)

    def update(self, count: int) -> None:
        """Add to what is done; log a line if enough of it, or enough time, has passed since the last one."""
        self._done += count
        seconds = self._clock() - self._logged_at
        has_share = self._done - self._logged >= _LINE_SHARE * self._total
        if self._done >= self._total or not (seconds >= _LINE_SECONDS or (seconds >= 1 and has_share)):
            return
        self._logged, self._logged_at = self._done, self._clock()
        logger.info("%s: %d %% of %s", self._title, 100 * self._done // max(self._total, 1), self._amount)
