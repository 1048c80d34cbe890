"""What selection needs of a pool file: labels, score and place of every row that is kept; the text is not kept."""

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
from mig_selector.pool.index.judge import RowJudge
from mig_selector.pool.leaves.batch import Leaves, Numbering, Ragged
from mig_selector.pool.leaves.decoder import LeafDecoder
from mig_selector.pool.leaves.verdicts import Dropped, Unreadable


LISTED_ROWS = 1_000
"""Unreadable rows that are listed one by one; more are only counted."""


@dataclass
class Tally:
    """What became of the rows of a file or of a part of it."""

    rows: int = 0
    """All rows; blank lines are none."""
    places: int = 0
    """Lines or rows passed, blank lines included."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Readable rows that lack something, by reason."""
    unreadable: Counter[str] = field(default_factory=Counter)
    """Rows that cannot be used, by reason without the values."""
    listed: list[tuple[int, str]] = field(default_factory=list)
    """Place, from 1 on, and reason of the first unreadable rows."""

    def note(self, place: int, reason: str) -> None:
        """Count an unreadable row."""
        self.unreadable[reason.split(" (")[0].split(", got")[0]] += 1
        if len(self.listed) < LISTED_ROWS:
            self.listed.append((place, reason))

    def add(self, other: Tally) -> None:
        """Count the rows of the part that follows."""
        self.listed += [(self.places + place, reason) for place, reason in other.listed]
        del self.listed[LISTED_ROWS:]
        self.rows += other.rows
        self.places += other.places
        self.dropped.update(other.dropped)
        self.unreadable.update(other.unreadable)


@dataclass(frozen=True)
class Extract:
    """The kept rows of a file or of a part of it. N rows."""

    label_names: list[str]
    """Every label that a kept row names, in order of appearance."""
    lengths: NDArray[np.int32]
    """Number of labels that each row names, doubles included. Shape (N,)."""
    label_ids: NDArray[np.int32]
    """Labels of all rows, one row after the other, as positions in `label_names`."""
    scores: NDArray[np.float64]
    """NaN where the score is the number of labels. Shape (N,)."""
    rows: NDArray[np.int64]
    """Place among all rows of the file or part, from 0 on. Shape (N,)."""
    positions: NDArray[np.int64] | None
    """Byte offset in the file, where the format has one. Shape (N,)."""
    digests: NDArray[np.uint64] | None
    """64-bit hash of the row's text, where the format is read whole. Shape (N,)."""
    tally: Tally

    def take(self, keep: NDArray[np.bool_]) -> Extract:
        """Keep the rows that a mask names; names of labels and tally stay."""
        return replace(
            self,
            lengths=self.lengths[keep],
            label_ids=self.label_ids[np.repeat(keep, self.lengths)],
            scores=self.scores[keep],
            rows=self.rows[keep],
            positions=None if self.positions is None else self.positions[keep],
            digests=None if self.digests is None else self.digests[keep],
        )


def extract_rows(
    source: RowSource, span: Span, judge: RowJudge, on_bytes: OnBytes, *, stop_at_unreadable: bool
) -> Extract:
    """Pass over a part of a file and keep what selection needs.

    Args:
        source: The file.
        span: The part.
        judge: What a row must have.
        on_bytes: Called with the number of bytes read since the last call.
        stop_at_unreadable: End early once an unreadable row was found; what comes after it is not looked at.

    Returns:
        The kept rows, and what became of the others.
    """
    numbering, tally = Numbering(), Tally()
    parts: list[Extract] = []
    with _paused_garbage_collection():
        for leaves in source.scan(span, LeafDecoder(judge.paths), numbering, on_bytes):
            parts.append(_keep(leaves, judge, numbering, tally, stop_at_unreadable))
            if stop_at_unreadable and tally.unreadable:
                break
    return _join(parts, list(numbering), tally)


@contextlib.contextmanager
def _paused_garbage_collection() -> Iterator[None]:
    """Look for no cycles: decoding makes millions of small objects and no cycle, and each look goes through many."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _keep(leaves: Leaves, judge: RowJudge, numbering: Numbering, tally: Tally, stop_at_unreadable: bool) -> Extract:
    """Judge a batch, count its rows, and keep those that are fit; its labels are numbered by `numbering`."""
    judgement = judge.judge_all(leaves)
    is_kept, scores, labels = judgement.is_kept, judgement.scores, leaves.labels
    tally.dropped.update(judgement.dropped)
    late: dict[int, NDArray[np.int32]] = {}
    for row in judgement.unclear.tolist():
        values = leaves.of_row(row)
        verdict = values if isinstance(values, Unreadable) else judge.judge(values)
        if isinstance(verdict, Unreadable):
            tally.note(int(leaves.places[row]), verdict.reason)
            if stop_at_unreadable:
                break
        elif isinstance(verdict, Dropped):
            tally.dropped[verdict.reason] += 1
        else:
            late[row] = numbering.of_all(verdict[0])
            scores[row] = verdict[1]
            is_kept[row] = True
    kept = _replace(labels, late).take(is_kept)
    first_row = tally.rows
    tally.rows += len(leaves)
    tally.places = leaves.end_place
    return Extract(
        label_names=[],
        lengths=kept.lengths.astype(np.int32),
        label_ids=kept.flat.astype(np.int32),
        scores=scores[is_kept],
        rows=first_row + np.flatnonzero(is_kept),
        positions=None if leaves.positions is None else leaves.positions[is_kept],
        digests=None if leaves.digests is None else leaves.digests[is_kept],
        tally=tally,
    )


def _replace(labels: Ragged, late: dict[int, NDArray[np.int32]]) -> Ragged:
    """Give some rows other labels."""
    if not late:
        return labels
    starts, lengths = labels.starts.copy(), labels.lengths.copy()
    end = len(labels.values)
    for row, values in late.items():
        starts[row], lengths[row] = end, len(values)
        end += len(values)
    return Ragged(starts, lengths, np.concatenate((labels.values, *late.values())))


def _join(parts: Sequence[Extract], names: Sequence[str], tally: Tally) -> Extract:
    """Put batches with one numbering together, and leave out the names that no kept row has."""
    ids = _concatenate([part.label_ids for part in parts], np.int32)
    is_used = np.zeros(len(names), np.bool_)
    is_used[ids] = True
    return Extract(
        label_names=[name for name, keep in zip(names, is_used.tolist(), strict=True) if keep],
        lengths=_concatenate([part.lengths for part in parts], np.int32),
        label_ids=(np.cumsum(is_used, dtype=np.int32) - 1)[ids],
        scores=_concatenate([part.scores for part in parts], np.float64),
        rows=_concatenate([part.rows for part in parts], np.int64),
        positions=_concatenate_if_any([part.positions for part in parts]),
        digests=_concatenate_if_any([part.digests for part in parts]),
        tally=tally,
    )


def _concatenate(arrays: Sequence[NDArray[Any]], kind: type[np.generic]) -> NDArray[Any]:
    return np.concatenate([np.zeros(0, kind), *arrays])


def _concatenate_if_any(arrays: Sequence[NDArray[Any] | None]) -> NDArray[Any] | None:
    """Join columns that a part without rows may lack."""
    present = [array for array in arrays if array is not None]
    return np.concatenate(present) if present else None
