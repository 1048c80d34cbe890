"""What is known of several methods that chose from one pool, and the table of it for a terminal.

`picture` draws it, `page` lays it out as HTML, `writing` writes all of it to files. Text out of data is kept as it is
here and made harmless where it is shown.
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
from typing import Any

from mig_selector.console import printable


MISSING = "-"
"""Shown in the place of a figure that is not known."""

_LINE_WIDTH = 120
_BETWEEN = "  "
_NAME_WIDTH = 28
_LEAST_NAME_WIDTH = 12
_NOTE_WIDTH = 300


@dataclass(frozen=True)
class MethodFigures:
    """What one method chose, and what it took."""

    method: str
    rows: int
    """How many it chose."""
    seconds: float
    peak_memory_bytes: int | None
    information: float | None
    """E(D) of the chosen rows (Eq. 8)."""
    label_coverage: float | None
    """Share of the labels in use that at least one chosen row has, in [0, 1]."""
    mean_score: float | None
    tokens: int | None
    sources: Mapping[str, int]
    """Chosen rows per source."""
    folder: str
    """Where the subset is."""
    note: str | None = None
    """What else one should know of this choice, in a few words."""

    def share_of(self, sources: Sequence[str]) -> float:
        """Return which share of the chosen rows is from these sources."""
        return sum(self.sources.get(source, 0) for source in sources) / (sum(self.sources.values()) or 1)


@dataclass(frozen=True)
class Comparison:
    """Several methods that chose from one pool with one budget."""

    pool: str
    budget: int
    """Rows that each method was asked for."""
    kept_rows: int
    """Rows that could be chosen."""
    read_rows: int
    score: str
    """What `MethodFigures.mean_score` is the mean of."""
    tokenizer: str | None
    """What counted `MethodFigures.tokens`; None if nothing did."""
    figures: Sequence[MethodFigures]
    """One per method, in the order asked."""
    overlaps: Sequence[Sequence[float]]
    """``overlaps[a][b]``: share of the rows of method a that method b chose, too, in [0, 1]."""
    settings: Mapping[str, Any]
    """Keys that the choices were made with; JSON values."""
    versions: Mapping[str, Any]
    """Versions of the programs involved; JSON values."""

    def __post_init__(self) -> None:
        """Refuse overlaps that are not those of these methods."""
        widths = [len(row) for row in self.overlaps]
        if not self.figures or widths != [len(self.figures)] * len(self.figures):
            raise ValueError(f"{len(self.figures)} methods, but rows of overlaps of lengths {widths}")

    @property
    def methods(self) -> list[str]:
        """Names of the methods, in the order asked."""
        return [figures.method for figures in self.figures]

    @property
    def sources(self) -> list[str]:
        """Names of all sources; first the one that most rows were chosen from, over all methods."""
        totals: dict[str, int] = {}
        for figures in self.figures:
            for source, rows in figures.sources.items():
                totals[source] = totals.get(source, 0) + rows
        return sorted(totals, key=lambda source: (-totals[source], source))


@dataclass(frozen=True)
class Column:
    """A figure that every method has: its name in files, its head and its form for people."""

    key: str
    """Field of `MethodFigures`; the name of the column in CSV and JSON."""
    head: str
    """With the unit."""
    meaning: str
    """For people who have not read the paper."""
    form: Callable[[float], str]

    def value(self, figures: MethodFigures) -> float | None:
        """Return the figure; None if it is not known or not finite, which CSV and JSON could not say alike."""
        value: float | None = getattr(figures, self.key)
        return value if value is not None and math.isfinite(value) else None

    def text(self, figures: MethodFigures) -> str:
        """Return the figure as people are shown it."""
        value = self.value(figures)
        return MISSING if value is None else self.form(value)


def _decimal(value: float, decimals: int) -> str:
    return f"{value:,.{decimals}f}" if abs(value) < 1e15 else f"{value:.6g}"


def _significant(value: float, digits: int) -> str:
    if abs(value) < 1e-4:
        return f"{value:.{digits}g}"
    return _decimal(value, max(0, digits - 1 - math.floor(math.log10(abs(value)))))


COLUMNS = (
    Column(
        "rows",
        "rows",
        "Rows chosen. Fewer than the budget only where the method found no more.",
        "{:,}".format,
    ),
    Column(
        "information",
        "E(D)",
        "Information of the chosen rows as MIG defines it (Eq. 8). A row gives its score to its labels and to labels "
        "of like meaning; the more a label has got already, the less another row adds. MIG searches for the largest "
        "E(D), so it should lead here. It does not say how good a model trained on the rows will be.",
        partial(_decimal, decimals=2),
    ),
    Column(
        "label_coverage",
        "labels (%)",
        "Share of the labels in use in the pool that at least one chosen row has.",
        lambda share: f"{100 * share:.1f}",
    ),
    Column(
        "mean_score",
        "mean score",
        "Mean over the chosen rows of the score named above. A method that looks at scores alone leads here.",
        partial(_significant, digits=4),
    ),
    Column(
        "tokens",
        "tokens",
        "Tokens of all chosen rows together. Training takes time in proportion, and a method that prefers long rows "
        "trains on more text at the same number of rows.",
        "{:,}".format,
    ),
    Column(
        "seconds",
        "time (s)",
        "Seconds that the method took to choose.",
        partial(_significant, digits=3),
    ),
    Column(
        "peak_memory_bytes",
        "memory (MiB)",
        "The most memory that the process held while it chose, in units of 1,048,576 bytes.",
        lambda size: f"{size / 2**20:,.0f}",
    ),
)


def summary(comparison: Comparison) -> str:
    """Say in one line what was chosen from what."""
    return (
        f"{shorten(comparison.pool, 60)}: {comparison.budget:,} of {comparison.kept_rows:,} rows "
        f"({comparison.read_rows:,} read)"
    )


def format_table(comparison: Comparison) -> str:
    """Lay the figures out for a terminal.

    Args:
        comparison: What to show; a name is cut off where the line would get longer than 120 columns.

    Returns:
        Lines without a line end at the last: what was chosen from what, heads with units, one line a method, notes.
    """
    numbers = [[column.head, *map(column.text, comparison.figures)] for column in COLUMNS]
    numbers = [_aligned_right(cells) for cells in numbers]
    room = _LINE_WIDTH - sum(len(cells[0]) + len(_BETWEEN) for cells in numbers)
    room = max(_LEAST_NAME_WIDTH, min(_NAME_WIDTH, room))
    names = _aligned_left(["method", *(shorten(name, room) for name in comparison.methods)])
    head, *lines = map(_BETWEEN.join, zip(names, *numbers, strict=True))
    return "\n".join([summary(comparison), "", head, "-" * len(head), *lines, "", *_notes(comparison)])


def _aligned_right(cells: Sequence[str]) -> list[str]:
    width = max(map(len, cells))
    return [cell.rjust(width) for cell in cells]


def _aligned_left(names: Sequence[str]) -> list[str]:
    width = max(map(_display_width, names))
    return [name + " " * (width - _display_width(name)) for name in names]


def _notes(comparison: Comparison) -> list[str]:
    said = [("score", comparison.score)]
    if comparison.tokenizer is not None:
        said.append(("tokens", f"counted with {comparison.tokenizer}"))
    said += [(shorten(each.method, _NAME_WIDTH), each.note) for each in comparison.figures if each.note]
    lines = (f"{name}: {shorten(text, _NOTE_WIDTH)}" for name, text in said)
    return [textwrap.fill(line, _LINE_WIDTH, subsequent_indent="  ") for line in lines]


def shorten(text: str, width: int) -> str:
    """Make text out of data harmless and at most `width` columns of a terminal wide; an ellipsis where it was cut."""
    text = printable(text)
    # Marks over letters take no columns, and there is no end to how many a letter can have: characters count as well.
    ends = list(accumulate(map(_display_width, text[: width + 1])))
    if len(text) <= width and ends[-1:] <= [width]:
        return text
    return text[: bisect_right(ends, width - 1)] + "…"


def _display_width(text: str) -> int:
    """Count the columns that printable text takes where all characters are as wide as each other, or twice as wide."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    marks = sum(unicodedata.category(character) in {"Mn", "Me"} for character in text)
    return len(text) + wide - marks
