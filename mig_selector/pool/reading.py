"""One pass over a pool: labels, scores and where each row stands; the text is not kept."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mig_selector.errors import PoolError
from mig_selector.pool.entry import LocalSource, PoolEntry
from mig_selector.pool.fields import Dropped, LeafDecoder, RowJudge, Unreadable
from mig_selector.pool.rows import RowSource


_LISTED_ROWS = 1_000
"""Unreadable rows that are listed one by one; more are only counted."""


@dataclass
class ReadingReport:
    """What became of the rows."""

    read: int = 0
    """Rows of the pool, blank lines not counted."""
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    """Readable rows that lack something, by reason."""
    unreadable: Counter[str] = field(default_factory=Counter)
    """Skipped rows, by reason without the values."""
    unreadable_rows: list[str] = field(default_factory=list)
    """``file:line: reason`` of the first skipped rows."""
    duplicates: int | None = 0
    """Kept rows whose text is that of an earlier kept row; None where a format without text is in the pool."""


@dataclass(frozen=True)
class Pool:
    """The kept rows of a pool. N rows; sources in the order of the names in `dataset`."""

    sources: list[RowSource]
    source_entries: list[int]
    """Which entry each source belongs to."""
    label_names: list[str]
    """Every label that a kept row names, in order of appearance."""
    label_offsets: NDArray[np.int64]
    """Where each row's labels begin in `label_ids`. Shape (N + 1,)."""
    label_ids: NDArray[np.int32]
    """Positions in `label_names`, as the rows name them, doubles included."""
    scores: NDArray[np.float64]
    """Shape (N,); NaN throughout where the score is the number of labels."""
    row_indices: NDArray[np.int64]
    """Place of each kept row among all rows of the pool, from 0 on. Shape (N,)."""
    row_sources: NDArray[np.int32]
    """Index in `sources`. Shape (N,)."""
    source_rows: NDArray[np.int64]
    """Place among the rows of the source, from 0 on. Shape (N,)."""
    positions: NDArray[np.int64]
    """What the source needs to find the row again. Shape (N,)."""
    report: ReadingReport


class _Columns:
    """Growing columns of the kept rows."""

    def __init__(self) -> None:
        self.names: dict[str, int] = {}
        self.lengths, self.labels = array("q"), array("i")
        self.scores = array("d")
        self.indices, self.sources, self.rows, self.positions = array("q"), array("i"), array("q"), array("q")
        self.digests = array("Q")


def read_pool(
    entries: Sequence[PoolEntry],
    sources: Sequence[Sequence[RowSource]],
    judge: RowJudge,
    on_bad_row: Literal["error", "skip"],
    on_bytes: Callable[[int], object],
) -> Pool:
    """Read labels and scores of every row.

    Args:
        entries: The pool, name by name.
        sources: The files of each entry.
        judge: What a row must have.
        on_bad_row: Whether an unreadable row ends the reading.
        on_bytes: Called with the number of bytes read since the last call.

    Returns:
        The kept rows and a report of all.

    Raises:
        PoolError: A row is unreadable and `on_bad_row` is ``error``, or no row is kept.
    """
    columns, report = _Columns(), ReadingReport()
    decoder = LeafDecoder(judge.paths)
    flat: list[RowSource] = []
    owners: list[int] = []
    outside: list[tuple[PoolEntry, NDArray[np.int64]]] = []
    for place, (entry, files) in enumerate(zip(entries, sources, strict=True)):
        first_row = report.read
        for source in files:
            _read_source(source, len(flat), judge, decoder, on_bad_row, on_bytes, columns, report)
            flat.append(source)
            owners.append(place)
        if isinstance(entry.source, LocalSource) and entry.split != "train":
            outside.append((entry, first_row + _rows_outside_split(entry, report.read - first_row)))
    inside = _drop_outside(columns, outside, report)
    return _finish(flat, owners, columns, inside, report)


def _read_source(
    source: RowSource,
    place: int,
    judge: RowJudge,
    decoder: LeafDecoder,
    on_bad_row: str,
    on_bytes: Callable[[int], object],
    columns: _Columns,
    report: ReadingReport,
) -> None:
    names = columns.names
    row = -1
    for row, scanned in enumerate(source.scan(decoder, on_bytes)):
        index = report.read
        report.read += 1
        values = scanned.values
        verdict = values if isinstance(values, Unreadable) else judge.judge(values)
        if isinstance(verdict, Unreadable):
            _note_unreadable(f"{source.name}:{scanned.place}", verdict.reason, on_bad_row, report)
            continue
        if isinstance(verdict, Dropped):
            report.dropped[verdict.reason] += 1
            continue
        labels, score = verdict
        columns.lengths.append(len(labels))
        columns.labels.extend([names.setdefault(label, len(names)) for label in labels])
        columns.scores.append(score)
        columns.indices.append(index)
        columns.sources.append(place)
        columns.rows.append(row)
        columns.positions.append(scanned.position)
        if scanned.digest is None:
            report.duplicates = None
        else:
            columns.digests.append(scanned.digest)
    if row < 0:
        raise PoolError(f"{source.name} holds no rows; a pool needs at least one.")


def _note_unreadable(where: str, reason: str, on_bad_row: str, report: ReadingReport) -> None:
    if on_bad_row == "error":
        raise PoolError(f"{where}: {reason}. Mend the row, or set mig_on_bad_row: skip to count such rows and go on.")
    report.unreadable[reason.split(" (")[0].split(", got")[0]] += 1
    if len(report.unreadable_rows) < _LISTED_ROWS:
        report.unreadable_rows.append(f"{where}: {reason}")


def _rows_outside_split(entry: PoolEntry, count: int) -> NDArray[np.int64]:
    """Return which of a local file's rows the host would not train on, because they lie outside `split`."""
    from datasets import ReadInstruction

    is_outside = np.ones(count, np.bool_)
    try:
        for part in ReadInstruction.from_spec(entry.split).to_absolute({"train": count}):
            is_outside[part.from_ or 0 : count if part.to is None else part.to] = False
    except (ValueError, AssertionError) as error:
        raise PoolError(
            f"dataset {entry.name!r}: split {entry.split!r} of a local file must be a part of train ({error})."
        ) from error
    return np.flatnonzero(is_outside)


def _drop_outside(
    columns: _Columns, outside: Sequence[tuple[PoolEntry, NDArray[np.int64]]], report: ReadingReport
) -> NDArray[np.bool_]:
    """Return which of the kept rows lie inside their entry's split; count the others as dropped."""
    indices = np.frombuffer(columns.indices, np.int64)
    inside = np.ones(len(indices), np.bool_)
    for entry, rows in outside:
        out = np.isin(indices, rows)
        report.dropped[f"outside split {entry.split}"] += int(out.sum())
        inside &= ~out
    return inside


def _finish(
    sources: list[RowSource],
    owners: list[int],
    columns: _Columns,
    inside: NDArray[np.bool_],
    report: ReadingReport,
) -> Pool:
    report.kept = int(inside.sum())
    if report.kept == 0:
        reasons = "; ".join(f"{count} {reason}" for reason, count in (report.dropped + report.unreadable).items())
        raise PoolError(
            f"none of the {report.read} rows of {', '.join(source.name for source in sources)} can be selected from: "
            f"{reasons}. Check mig_labels and mig_score."
        )
    if report.duplicates is not None:
        digests = np.frombuffer(columns.digests, np.uint64)[inside]
        report.duplicates = len(digests) - len(np.unique(digests))
    lengths = np.frombuffer(columns.lengths, np.int64)
    return Pool(
        sources=sources,
        source_entries=owners,
        label_names=list(columns.names),
        label_offsets=np.concatenate((np.zeros(1, np.int64), np.cumsum(lengths[inside]))),
        label_ids=np.frombuffer(columns.labels, np.int32)[np.repeat(inside, lengths)],
        scores=np.frombuffer(columns.scores, np.float64)[inside],
        row_indices=np.frombuffer(columns.indices, np.int64)[inside],
        row_sources=np.frombuffer(columns.sources, np.int32)[inside],
        source_rows=np.frombuffer(columns.rows, np.int64)[inside],
        positions=np.frombuffer(columns.positions, np.int64)[inside],
        report=report,
    )
