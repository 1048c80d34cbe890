"""The figures of one selection: what was chosen from a pool, why, and how it differs from the rest of the pool.

`figures` builds them from arrays, `page` lays them out as HTML, `selection_picture` draws them for papers, `writing`
writes all of it to files. Text that comes from data is kept unchanged here and escaped where it is shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mig_selector.report.comparison import MethodFigures


@dataclass(frozen=True)
class Point:
    """A point of the information curve."""

    rows: int
    """So many rows of the selection, from the first."""
    information: float
    """E(D) of these rows (Eq. 8)."""
    share: float
    """`information` as a share of that of the whole selection."""


@dataclass(frozen=True)
class Curve:
    """How information grows with the number of rows, in the order of choice."""

    points: Sequence[Point]
    """Ascending; beyond the budget if the choice was continued."""
    knee: Point
    """Where the curve is highest above the straight line to its end at the budget: rows after it add less than the
    average row."""
    at_shares: Mapping[str, Point]
    """At 10, 25, 50 and 100 % of the budget."""
    pool_information: float
    """E(D) of all rows of the pool."""
    rows_needed: Mapping[str, int | None]
    """Rows that reach 80, 90, 95 and 99 % of `pool_information`; None if that is beyond the last point."""


@dataclass(frozen=True)
class Bin:
    """Part of a distribution."""

    name: str
    """The category, or the number at which the bin begins."""
    pool: float
    """Share of the rows of the pool, in [0, 1]."""
    chosen: float
    """Share of the chosen rows, in [0, 1]."""


@dataclass(frozen=True)
class Distribution:
    """A property of rows: how it is distributed over the pool, and over the chosen rows."""

    key: str
    title: str
    bins: Sequence[Bin]
    is_numeric: bool
    """Whether the bins are numbers, ascending, rather than categories, the largest first."""
    pool_mean: float | None
    chosen_mean: float | None
    pool_rows: int
    """Rows of the pool that were measured: all, or a random sample."""
    chosen_rows: int
    """Chosen rows that were measured."""


@dataclass(frozen=True)
class LabelCount:
    """How often a label occurs."""

    name: str
    pool: int
    """Rows of the pool that have it."""
    chosen: int
    """Chosen rows that have it."""
    ratio: float
    """`chosen`, divided by the rows that a random choice of as many rows would have on average."""


@dataclass(frozen=True)
class MapLabel:
    """A label on the map."""

    count: LabelCount
    x: float
    y: float
    """Position in [0, 1]; labels of similar meaning are near each other."""


@dataclass(frozen=True)
class Labels:
    """What became of the labels."""

    in_use: int
    """Labels that at least one row of the pool has."""
    covered: int
    """Labels that at least one chosen row has."""
    not_counted: int
    """Labels of the pool that do not count: fewer rows than ``mig_min_label_count`` have them, or they are not in
    ``mig_label_vocabulary``."""
    over: Sequence[LabelCount]
    """The twenty most over-represented, by `ratio` with a row more on both sides, so that rare labels do not lead."""
    under: Sequence[LabelCount]
    """The twenty most under-represented, likewise."""
    missing: Sequence[LabelCount]
    """All labels in use that no chosen row has, the most frequent first."""
    map: Sequence[MapLabel]
    """The most frequent labels, if their vectors are known."""
    edges: Sequence[tuple[int, int]]
    """Pairs of labels on the map that share an edge of the label graph, as indices into `map`."""


@dataclass(frozen=True)
class ChosenRow:
    """A chosen row, and its receipt."""

    rank: int
    """0-based position in the order of choice."""
    pool_index: int
    """0-based index over all rows of the pool."""
    file: str
    source_row: int
    """0-based row within the file."""
    row_id: str | None
    question: str
    """What the user asks first, cut off where it is long."""
    answer: str
    """The reply to it, cut off where it is long."""
    labels: Sequence[str]
    score: float | None
    gain: float | None
    """What the row was worth to the method when it was chosen; None if the method weighs nothing."""
    information: float | None
    """What the row added to E."""
    earned: Sequence[tuple[str, float]] = ()
    """The row's labels and their shares of the gain, the largest first."""
    runner_up: int | None = None
    """Pool index of the row that would have been chosen in its place; None if it is not known."""
    runner_up_gain: float | None = None


@dataclass(frozen=True)
class AnnotatedRow:
    """A row of the pool with the labels and the score that it has after annotation."""

    pool_index: int
    """0-based index over all rows of the pool."""
    text: str
    """All that is said in the row, cut off where it is long."""
    labels: Sequence[str]
    score: float | None


@dataclass(frozen=True)
class Training:
    """What training on the rows takes, as planned by the run that selected them; a later run may train otherwise."""

    steps: int
    rows_per_step: int
    processes: int
    epochs: float | None
    """None where the number of steps is given instead."""
    planned_on: str
    """The day of that run, such as 2026-11-26."""


@dataclass(frozen=True)
class SelectionReport:
    """All figures of a selection."""

    name: str
    """Of the dataset that was made."""
    method: str
    rows: int
    kept_rows: int
    """Rows of the pool that could be chosen."""
    read_rows: int
    dropped: Mapping[str, int]
    """Rows that could not be chosen, by reason; unreadable ones included."""
    score: str | None
    """The kind of score; None if none was needed."""
    this: MethodFigures
    """The figures of the selection."""
    others: Sequence[MethodFigures]
    """The same figures of other choices of as many rows from the same pool."""
    all_rows: MethodFigures
    """The same figures of the whole pool."""
    tokenizer: str | None
    training: Training | None
    curve: Curve | None
    labels: Labels | None
    distributions: Sequence[Distribution]
    annotation: Mapping[str, Any] | None
    """The health of the annotations, as the manifest has it; None if the run annotated nothing."""
    annotated_rows: Sequence[AnnotatedRow]
    """A random sample of the pool, ascending; empty if the run annotated nothing."""
    first_rows: Sequence[ChosenRow]
    """The first rows, in the order of choice."""
    sampled_rows: Sequence[ChosenRow]
    """A random sample of the rows after these, in the order of choice."""
    notes: Sequence[str]
    """What is estimated, or left out, and why."""
    command: str | None
    """Repeats the selection; None where a comparison or a study said which rows there were to choose from."""
    settings: Mapping[str, Any]
    """Keys that differ from their defaults."""
    files: Sequence[Mapping[str, Any]]
    """The files of the pool: dataset, file, bytes, sha256."""
    versions: Mapping[str, str]
    fingerprint: str
