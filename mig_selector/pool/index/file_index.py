"""The index of a pool file: labels, scores and byte offsets of its kept rows, but not their text."""

from __future__ import annotations

import contextlib
import gc
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mig_selector.pool.formats.row_source import OnBytes, RowSource, Span
from mig_selector.pool.index.judge import Judgement, RowJudge
from mig_selector.pool.leaves.batch import Leaves, Numbering, Ragged
from mig_selector.pool.leaves.verdicts import Dropped, Unreadable


LISTED_ROWS = 1_000
"""Number of unreadable rows that are listed one by one; more are only counted."""


@dataclass
class Tally:
    """What became of the rows of a file or of a span of it."""

    rows: int = 0
    """All rows; blank lines are not rows."""
    lines: int = 0
    """All lines (rows, in formats without lines), blank ones included."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Counts of valid rows without something that selection needs, by reason."""
    unreadable: Counter[str] = field(default_factory=Counter)
    """Counts of rows that cannot be used, by reason without the values."""
    listed: list[tuple[int, str]] = field(default_factory=list)
    """Line (1-based) and reason of the first unreadable rows."""

    def add_unreadable(self, line: int, reason: str) -> None:
        """Count an unreadable row, and list it if it is among the first."""
        self.unreadable[reason.split(" (")[0].split(", got")[0]] += 1
        if len(self.listed) < LISTED_ROWS:
            self.listed.append((line, reason))

    def add(self, other: Tally) -> None:
        """Add the counts of the next span."""
        self.listed += [(self.lines + line, reason) for line, reason in other.listed]
        del self.listed[LISTED_ROWS:]
        self.rows += other.rows
        self.lines += other.lines
        self.dropped.update(other.dropped)
        self.unreadable.update(other.unreadable)


@dataclass(frozen=True)
class FileIndex:
    """The N kept rows of a file or of a span of it, and what became of the others."""

    label_names: list[str]
    """Every label of a kept row, in order of appearance."""
    label_counts: NDArray[np.int32]
    """Number of labels of each row, repetitions included. Shape (N,)."""
    label_ids: NDArray[np.int32]
    """Labels of all rows, one row after the other, as indices into `label_names`."""
    scores: NDArray[np.float64]
    """NaN where the score is the number of labels. Shape (N,)."""
    source_rows: NDArray[np.int64]
    """0-based index of each row among all rows of the file or span. Shape (N,)."""
    byte_offsets: NDArray[np.int64] | None
    """Where each row begins in the file, in formats whose rows are found by offset. Shape (N,)."""
    digests: NDArray[np.uint64] | None
    """64-bit hash of each row's text; None for formats of which only some columns are read. Shape (N,)."""
    tally: Tally

    def take(self, keep: NDArray[np.bool_]) -> FileIndex:
        """Keep the rows that a mask selects; label names and tally stay as they are."""
        return replace(
            self,
            label_counts=self.label_counts[keep],
            label_ids=self.label_ids[np.repeat(keep, self.label_counts)],
            scores=self.scores[keep],
            source_rows=self.source_rows[keep],
            byte_offsets=None if self.byte_offsets is None else self.byte_offsets[keep],
            digests=None if self.digests is None else self.digests[keep],
        )


def index_span(
    source: RowSource, span: Span, judge: RowJudge, on_bytes: OnBytes, *, stop_at_unreadable: bool
) -> FileIndex:
    """Scan a span of a file, and index the rows that are kept.

    Args:
        source: The file.
        span: Which part of it.
        judge: Decides what becomes of a row.
        on_bytes: Called with the number of bytes read since the last call.
        stop_at_unreadable: Stop at the first unreadable row; rows after it are not looked at.

    Returns:
        The kept rows, and what became of the others.
    """
    numbering, tally, decoder = Numbering(), Tally(), judge.decoder()
    batches: list[FileIndex] = []
    with _paused_garbage_collection():
        for leaves in source.scan(span, decoder, numbering, on_bytes):
            judgement = judge.judge_all(leaves, decoder.shapes)
            batches.append(_index_batch(leaves, judge, judgement, numbering, tally, stop_at_unreadable))
            if stop_at_unreadable and tally.unreadable:
                break
    return _join(batches, list(numbering), tally)


def judge_row(source: RowSource, source_row: int, judge: RowJudge) -> str | None:
    """Return why a row is not in the index of its file, by reading the file up to it; None if it is in the index.

    Args:
        source: The file.
        source_row: 0-based row within the file.
        judge: Decides what becomes of a row.
    """
    numbering, decoder, start = Numbering(), judge.decoder(), 0
    for span in source.spans(max(source.size, 1)):
        for leaves in source.scan(span, decoder, numbering, lambda num_bytes: None):
            if source_row < start + len(leaves):
                values = leaves.of_row(source_row - start)
                verdict = values if isinstance(values, Unreadable) else judge.judge(values)
                return None if isinstance(verdict, tuple) else verdict.reason
            start += len(leaves)
    raise ValueError(f"row {source_row} of {source.name}: the file has {start} rows")


@contextlib.contextmanager
def _paused_garbage_collection() -> Iterator[None]:
    """Pause the search for reference cycles: decoding makes millions of objects and no cycles."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _index_batch(
    leaves: Leaves,
    judge: RowJudge,
    judgement: Judgement,
    numbering: Numbering,
    tally: Tally,
    stop_at_unreadable: bool,
) -> FileIndex:
    """Judge the unclear rows of a batch, add all to `tally`, and index those that are kept.

    `numbering` has the names of their labels.
    """
    is_kept, scores, labels = judgement.is_kept, judgement.scores, leaves.labels
    tally.dropped.update(judgement.dropped)
    # Rows that the arrays do not fully describe, or that have a fault to report, are judged one by one.
    label_ids_of: dict[int, NDArray[np.int32]] = {}
    for row in judgement.unclear.tolist():
        values = leaves.of_row(row)
        verdict = values if isinstance(values, Unreadable) else judge.judge(values)
        if isinstance(verdict, Unreadable):
            tally.add_unreadable(int(leaves.lines[row]), verdict.reason)
            if stop_at_unreadable:
                break
        elif isinstance(verdict, Dropped):
            tally.dropped[verdict.reason] += 1
        else:
            label_ids_of[row] = numbering.of_all(verdict[0])
            scores[row] = verdict[1]
            is_kept[row] = True
    kept = _replace(labels, label_ids_of).take(is_kept)
    first_row = tally.rows
    tally.rows += len(leaves)
    tally.lines = leaves.end_line
    return FileIndex(
        label_names=[],
        label_counts=kept.lengths.astype(np.int32),
        label_ids=kept.flat.astype(np.int32),
        scores=scores[is_kept],
        source_rows=first_row + np.flatnonzero(is_kept),
        byte_offsets=None if leaves.byte_offsets is None else leaves.byte_offsets[is_kept],
        digests=None if leaves.digests is None else leaves.digests[is_kept],
        tally=tally,
    )


def _replace(labels: Ragged, label_ids_of: dict[int, NDArray[np.int32]]) -> Ragged:
    """Replace the labels of some rows: the new ones are appended to the values, and `starts` point to them."""
    if not label_ids_of:
        return labels
    starts, lengths = labels.starts.copy(), labels.lengths.copy()
    end = len(labels.values)
    for row, label_ids in label_ids_of.items():
        starts[row], lengths[row] = end, len(label_ids)
        end += len(label_ids)
    return Ragged(starts, lengths, np.concatenate((labels.values, *label_ids_of.values())))


def _join(batches: Sequence[FileIndex], names: Sequence[str], tally: Tally) -> FileIndex:
    """Join batches that share label ids, and leave out the names that no kept row has."""
    ids = _concatenate([batch.label_ids for batch in batches], np.int32)
    is_used = np.zeros(len(names), np.bool_)
    is_used[ids] = True
    return FileIndex(
        label_names=[name for name, keep in zip(names, is_used.tolist(), strict=True) if keep],
        label_counts=_concatenate([batch.label_counts for batch in batches], np.int32),
        label_ids=(np.cumsum(is_used, dtype=np.int32) - 1)[ids],
        scores=_concatenate([batch.scores for batch in batches], np.float64),
        source_rows=_concatenate([batch.source_rows for batch in batches], np.int64),
        byte_offsets=_concatenate_if_any([batch.byte_offsets for batch in batches]),
        digests=_concatenate_if_any([batch.digests for batch in batches]),
        tally=tally,
    )


def _concatenate(arrays: Sequence[NDArray[Any]], kind: type[np.generic]) -> NDArray[Any]:
    return np.concatenate([np.zeros(0, kind), *arrays])


def _concatenate_if_any(arrays: Sequence[NDArray[Any] | None]) -> NDArray[Any] | None:
    """Join columns that a batch may lack: one without rows, or every batch of a format that has none."""
    present = [array for array in arrays if array is not None]
    return np.concatenate(present) if present else None
