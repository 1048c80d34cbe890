"""The figures of several methods that chose from the same pool, and their table for a terminal.

`picture` draws them, `page` lays them out as HTML, `writing` writes all of it to files. Text that comes from data is
kept unchanged here and escaped where it is shown.
"""

from __future__ import annotations

import math
import textwrap
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any, Literal

from mig_selector.console import printable


MISSING = "-"
"""Shown instead of a figure that is not known."""

_LINE_WIDTH = 120
_BETWEEN = "  "
_NAME_WIDTH = 28
_LEAST_NAME_WIDTH = 12
_NOTE_WIDTH = 300


@dataclass(frozen=True)
class Example:
    """A row that a method chose."""

    row_index: int
    """0-based index among all rows of the pool."""
    question: str
    """What the user asks first; as in the data."""


@dataclass(frozen=True)
class MethodFigures:
    """What one method chose, and the time and memory it took."""

    method: str
    rows: int
    """Number of chosen rows."""
    seconds: float | None
    """Of the choice alone; None if it was made by an earlier run."""
    memory_bytes: int | None
    """Most memory that the choice added to what the process held before it; None if it is not known."""
    information: float | None
    """E(D) of the chosen rows (Eq. 8)."""
    label_coverage: float | None
    """Share of the labels in use in the pool that at least one chosen row has, in [0, 1]."""
    mean_score: float | None
    tokens: int | None
    sources: Mapping[str, int]
    """Number of chosen rows per source."""
    folder: str
    """Folder of the subset."""
    note: str | None = None
    """A short remark for readers, such as how many rows were filled up."""
    usable_rows: int | None = None
    """Rows that the method could choose from if it were alone; None if that is not known."""
    examples: Sequence[Example] = ()
    """The first rows chosen."""
    tokens_error: int | None = None
    """Half of the 95 % interval around `tokens`, if they are estimated; None if all were counted."""
    report: str | None = None
    """Relative URL of the selection's report, if there is one."""
    supervised_tokens: int | None = None
    """Those of `tokens` that have a loss; None where the tokens that training is fed are not known."""
    supervised_tokens_error: int | None = None
    """As `tokens_error`."""
    steps: int | None = None
    """Optimizer steps of the configured training on these rows; None if it is not known."""

    def share_of(self, sources: Sequence[str]) -> float:
        """Return the share of the chosen rows that comes from these sources, in [0, 1]."""
        return sum(self.sources.get(source, 0) for source in sources) / (sum(self.sources.values()) or 1)


@dataclass(frozen=True)
class Comparison:
    """Several methods that chose from the same pool with the same budget."""

    pool: str
    budget: int
    """Rows or tokens that each method was asked for."""
    kept_rows: int
    """Rows of the pool that were eligible."""
    read_rows: int
    """Rows of the pool, dropped ones included."""
    score: str
    """The score whose mean is `MethodFigures.mean_score`."""
    tokenizer: str | None
    """The tokenizer behind `MethodFigures.tokens`; None if tokens were not counted."""
    figures: Sequence[MethodFigures]
    """One per method, in the order of the configuration."""
    overlaps: Sequence[Sequence[float]]
    """``overlaps[a][b]``: share of method a's rows that method b also chose, in [0, 1]."""
    settings: Mapping[str, Any]
    """Keys of the configuration and their values, which JSON can hold."""
    versions: Mapping[str, Any]
    """Names and versions of the software involved; values that JSON can hold."""
    all_rows: MethodFigures | None = None
    """The figures of all rows that the methods chose from."""
    unit: Literal["rows", "tokens", "supervised tokens"] = "rows"
    """What `budget` counts."""

    def __post_init__(self) -> None:
        """Refuse overlaps that are not one row and one column per method."""
        widths = [len(row) for row in self.overlaps]
        if not self.figures or widths != [len(self.figures)] * len(self.figures):
            expected = f"one row and one column per method ({len(self.figures)})"
            raise ValueError(f"overlaps must have {expected}, got rows of lengths {widths}")

    @property
    def methods(self) -> list[str]:
        """Names of the methods, in the order of the configuration."""
        return [figures.method for figures in self.figures]

    @property
    def asked(self) -> str:
        """The budget, and out of how many rows."""
        unit = "of" if self.unit == "rows" else f"{self.unit} from"
        return f"{self.budget:,} {unit} {self.kept_rows:,}"

    @property
    def shown(self) -> list[MethodFigures]:
        """The methods, then all rows if they are known: the lines of the table."""
        return [*self.figures, *([self.all_rows] if self.all_rows else [])]

    @property
    def columns(self) -> list[Column]:
        """The columns of the table; those that depend on the training configuration only if they are known."""
        return [
            column
            for column in COLUMNS
            if column.key not in _OF_TRAINING or any(column.value(each) is not None for each in self.shown)
        ]

    @property
    def tokens_counted(self) -> str | None:
        """Say what the tokens are; None if they were not counted."""
        if self.tokenizer is None:
            return None
        are_fed = any(each.supervised_tokens is not None for each in self.figures)
        what = "as training is fed them, with its template and cutoff_len" if are_fed else "in the text of the rows"
        return f"counted with {self.tokenizer}, {what}{describe_error(self.all_rows)}"

    @property
    def random_overlap(self) -> float:
        """Share of the rows of a random choice that another one has too, in [0, 1]."""
        offered = {
            "rows": self.kept_rows,
            "tokens": self.all_rows and self.all_rows.tokens,
            "supervised tokens": self.all_rows and self.all_rows.supervised_tokens,
        }[self.unit]
        return min(self.budget / (offered or self.budget), 1.0)

    @property
    def sources(self) -> list[str]:
        """Names of all sources, by descending number of chosen rows over all methods."""
        totals: dict[str, int] = {}
        for figures in self.figures:
            for source, rows in figures.sources.items():
                totals[source] = totals.get(source, 0) + rows
        return sorted(totals, key=lambda source: (-totals[source], source))

    @property
    def all_sources(self) -> list[str]:
        """The names of `sources`, then those from which no row was chosen, by descending number of rows."""
        chosen = self.sources
        offered = self.all_rows.sources if self.all_rows else {}
        others = sorted(set(offered) - set(chosen), key=lambda source: (-offered[source], source))
        return [*chosen, *others]

    @property
    def rows_compared(self) -> str | None:
        """Say which rows the methods chose from, if one of them could use others too; None otherwise."""
        usable = [(each.method, each.usable_rows) for each in self.figures if each.usable_rows is not None]
        if all(rows == self.kept_rows for _, rows in usable):
            return None
        alone = ", ".join(f"{shorten(method, _NAME_WIDTH)} {rows:,}" for method, rows in usable)
        return f"all methods choose from the {self.kept_rows:,} rows that every one of them can use (alone: {alone})"


@dataclass(frozen=True)
class Column:
    """A figure of each method: its name in files, and its heading, explanation and format for readers."""

    key: str
    """Field of `MethodFigures`; the name of the column in CSV and JSON."""
    head: str
    """Heading, with the unit."""
    meaning: str
    """Explanation for readers who do not know the paper."""
    form: Callable[[float], str]

    def value(self, figures: MethodFigures) -> float | None:
        """Return the figure; None if it is not known or not finite: JSON has no NaN or infinity."""
        value: float | None = getattr(figures, self.key)
        return value if value is not None and math.isfinite(value) else None

    def text(self, figures: MethodFigures) -> str:
        """Return the figure as readers see it."""
        value = self.value(figures)
        if value is None:
            return MISSING
        error: int | None = getattr(figures, f"{self.key}_error", None)
        return self.form(value) if error is None else f"~{self.form(round_to_error(int(value), error)[0])}"


def round_to_error(value: int, error: int) -> tuple[int, int]:
    """Round away the digits of an estimate that its error leaves uncertain; the error is rounded up to one digit."""
    unit: int = 10 ** (len(str(error)) - 1)
    return round(value / unit) * unit, math.ceil(error / unit) * unit


def _decimal(value: float, decimals: int) -> str:
    return f"{value:,.{decimals}f}" if abs(value) < 1e15 else f"{value:.6g}"


def significant(value: float, digits: int) -> str:
    """Format a number with so many significant digits; those before the decimal point are all shown."""
    if abs(value) < 1e-4:
        return f"{value:.{digits}g}"
    return _decimal(value, max(0, digits - 1 - math.floor(math.log10(abs(value)))))


COLUMNS = (
    Column(
        "rows",
        "rows",
        "Number of rows chosen. It is below a budget of rows only if the method found no more rows; with a budget of "
        "tokens, a method that prefers long rows gets fewer of them.",
        "{:,}".format,
    ),
    Column(
        "information",
        "E(D)",
        "Information of the chosen rows as defined by MIG (Eq. 8). A row contributes its score to its labels and to "
        "labels of similar meaning; the more a label has received, the less another row adds. MIG aims at a large "
        "E(D); by the gradient rule (mig_gain) it covers labels first, so while the budget is small, the rows of the "
        "highest scores can have a larger one. E(D) does not tell how good a model trained on the rows will be.",
        partial(_decimal, decimals=2),
    ),
    Column(
        "label_coverage",
        "labels (%)",
        "Share of all labels in use in the pool that appear on at least one chosen row.",
        lambda share: f"{100 * share:.1f}",
    ),
    Column(
        "mean_score",
        "mean score",
        "Mean of the score named above over the chosen rows. A method that ranks by this score alone leads here.",
        partial(significant, digits=4),
    ),
    Column(
        "tokens",
        "tokens",
        "Total tokens of the chosen rows: as training is fed them where the configuration names a model and a "
        "template, else those of their text alone, without what a template adds and before cutoff_len. Training time "
        "is proportional to it, and a method that prefers long rows trains on more text with the same number of rows. "
        "A figure after ~ is estimated from a random sample of rows.",
        "{:,}".format,
    ),
    Column(
        "supervised_tokens",
        "supervised",
        "Those of the tokens that have a loss: what the model learns to write.",
        "{:,}".format,
    ),
    Column(
        "steps",
        "steps",
        "Optimizer steps that training on the rows takes as configured, with the processes that this machine would "
        "start.",
        "{:,}".format,
    ),
    Column(
        "seconds",
        "time (s)",
        "Time the method took to choose, in seconds, once everything it needs was read, computed and compiled. Empty "
        "where an earlier run had made the selection: only times of the same run can be compared.",
        partial(significant, digits=3),
    ),
    Column(
        "memory_bytes",
        "memory (MiB)",
        "Most memory that the choice added to what the process held when it began, in MiB (1,048,576 bytes). Empty "
        "where the time is.",
        lambda size: f"{size / 2**20:,.0f}",
    ),
)


_OF_TRAINING = frozenset({"supervised_tokens", "steps"})
"""Columns that are known only where the configuration is that of a training."""


def summary(comparison: Comparison) -> str:
    """Return one line: the pool, the budget and the numbers of rows."""
    return f"{shorten(comparison.pool, 60)}: {comparison.asked} rows ({comparison.read_rows:,} read)"


def format_table(comparison: Comparison) -> str:
    """Format the figures as a table for a terminal.

    Args:
        comparison: What to show; names are shortened where a line would exceed 120 columns.

    Returns:
        The summary, headings with units, one line per method and one for all rows, and notes. No line break at the
        end.
    """
    shown = comparison.shown
    numbers = [[column.head, *map(column.text, shown)] for column in comparison.columns]
    numbers = [_aligned_right(cells) for cells in numbers]
    room = _LINE_WIDTH - sum(len(cells[0]) + len(_BETWEEN) for cells in numbers)
    room = max(_LEAST_NAME_WIDTH, min(_NAME_WIDTH, room))
    names = _aligned_left(["method", *(shorten(each.method, room) for each in shown)])
    head, *lines = map(_BETWEEN.join, zip(names, *numbers, strict=True))
    return "\n".join([summary(comparison), "", head, "-" * len(head), *lines, "", *_notes(comparison)])


def _aligned_right(cells: Sequence[str]) -> list[str]:
    width = max(map(len, cells))
    return [cell.rjust(width) for cell in cells]


def _aligned_left(names: Sequence[str]) -> list[str]:
    width = max(map(_display_width, names))
    return [name + " " * (width - _display_width(name)) for name in names]


def _notes(comparison: Comparison) -> list[str]:
    lines = [("rows", comparison.rows_compared)] if comparison.rows_compared else []
    lines.append(("score", comparison.score))
    if comparison.tokens_counted is not None:
        lines.append(("tokens", comparison.tokens_counted))
    lines += [(shorten(each.method, _NAME_WIDTH), each.note) for each in comparison.figures if each.note]
    notes = (f"{name}: {shorten(text, _NOTE_WIDTH)}" for name, text in lines)
    return [textwrap.fill(note, _LINE_WIDTH, subsequent_indent="  ") for note in notes]


def describe_error(all_rows: MethodFigures | None) -> str:
    """Say how far off an estimate of the tokens of all rows may be; empty if it is none."""
    if all_rows is None or all_rows.tokens is None or all_rows.tokens_error is None:
        return ""
    return f"; all rows: +- {round_to_error(all_rows.tokens, all_rows.tokens_error)[1]:,}, from a random sample"


def shorten(text: str, width: int) -> str:
    """Escape text that comes from data, and cut it to `width` terminal columns, with an ellipsis where it was cut."""
    text = printable(text)
    # Combining marks take no columns, and a letter can have any number of them, so characters are limited as well.
    ends = list(accumulate(map(_display_width, text[: width + 1])))
    if len(text) <= width and ends[-1:] <= [width]:
        return text
    return text[: bisect_right(ends, width - 1)] + "…"


def _display_width(text: str) -> int:
    """Count the columns that printable text takes in a monospaced font: 0 for combining marks, 2 for wide letters."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    marks = sum(unicodedata.category(character) in {"Mn", "Me"} for character in text)
    return len(text) + wide - marks
