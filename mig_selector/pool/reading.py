"""The pool: labels, scores and byte offsets of the kept rows of all its files, and a report of all rows.

The text stays in the files; rows that are needed whole are read again.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mig_selector.arrays import RowLabels
from mig_selector.errors import PoolError
from mig_selector.pool.diagnosis import describe_loss, explain_entry
from mig_selector.pool.entry import HubSource, PoolEntry
from mig_selector.pool.formats.row_source import RowSource
from mig_selector.pool.index.cache import IndexCache, UnreadableRowError
from mig_selector.pool.index.file_index import LISTED_ROWS, FileIndex, Tally
from mig_selector.pool.index.judge import RowJudge
from mig_selector.pool.index.parallel import Readers
from mig_selector.pool.leaves.batch import Numbering


@dataclass(frozen=True)
class ReadingReport:
    """What became of the rows of a pool."""

    read: int
    """All rows; blank lines are not rows."""
    kept: int
    dropped: Counter[str]
    """Counts of valid rows without something that selection needs, by reason."""
    unreadable: Counter[str]
    """Counts of skipped rows, by reason without the values."""
    unreadable_rows: list[str]
    """``file:line: reason`` of the first skipped rows."""
    duplicates: int | None
    """Kept rows with the same text as an earlier one; None if a format whose text is not read is in the pool."""


@dataclass(frozen=True)
class PoolRow:
    """All or some columns of a kept row."""

    entry_index: int
    """Which entry of the pool the row belongs to."""
    where: str
    """File and row number, for messages."""
    record: dict[str, Any]


@dataclass(frozen=True)
class Pool:
    """The N kept rows of a pool with S sources, which are in the order of the names in `dataset`."""

    sources: list[RowSource]
    source_entry_indices: list[int]
    """Which entry each source belongs to. Length S."""
    source_starts: NDArray[np.int64]
    """Pool index of the first row of each source. Shape (S,)."""
    labels: RowLabels
    """As the rows name them, repetitions included; the names in order of appearance."""
    scores: NDArray[np.float64]
    """Shape (N,); NaN throughout where the score is the number of labels."""
    pool_indices: NDArray[np.int64]
    """0-based index of each kept row among all rows of the pool, ascending. Shape (N,)."""
    byte_offsets: NDArray[np.int64] | None
    """Where each row begins in its file; 0 in a source that does not find rows by offset. Shape (N,); None if no
    source does."""
    report: ReadingReport
    dropped_later: tuple[tuple[str, NDArray[np.int64]], ...] = ()
    """Reason and pool indices of the rows that `without` dropped."""

    def locate(self, kept: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return for some kept indices the source, as an index into `sources`, and the source row."""
        pool_indices = self.pool_indices[kept]
        sources = np.searchsorted(self.source_starts, pool_indices, side="right") - 1
        return sources, pool_indices - self.source_starts[sources]

    def byte_offsets_of(self, kept: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return for some kept indices the byte offset; 0 in a source that does not find rows by offset."""
        return np.zeros(len(kept), np.int64) if self.byte_offsets is None else self.byte_offsets[kept]

    def rows(self, columns: Sequence[str] | None, kept: NDArray[np.int64] | None = None) -> Iterator[PoolRow]:
        """Read kept rows again, in the order of the pool.

        Args:
            columns: Top-level columns to keep, where a row has them; all if None.
            kept: Kept indices of the rows, ascending; all rows if None.
        """
        kept = np.arange(len(self.pool_indices)) if kept is None else kept
        sources, source_rows = self.locate(kept)
        for index, source in enumerate(self.sources):
            mine = slice(*np.searchsorted(sources, [index, index + 1]))
            rows, byte_offsets = source_rows[mine].tolist(), self.byte_offsets_of(kept[mine]).tolist()
            for row, record in zip(rows, source.read(rows, byte_offsets, columns), strict=True):
                yield PoolRow(self.source_entry_indices[index], f"{source.name}, row {row + 1}", record)

    def without(self, is_dropped: NDArray[np.bool_], reason: str) -> Pool:
        """Drop the kept rows where `is_dropped`, shape (N,), is true, and count them."""
        dropped = self.report.dropped + Counter({reason: int(is_dropped.sum())})
        kept = self._take(~is_dropped, replace(self.report, dropped=dropped))
        return replace(kept, dropped_later=(*self.dropped_later, (reason, self.pool_indices[is_dropped])))

    def locate_any(self, pool_index: int) -> tuple[int, int]:
        """Return for any row of the pool, kept or not, the source, as an index into `sources`, and the source row."""
        index = int(np.searchsorted(self.source_starts, pool_index, side="right")) - 1
        return index, pool_index - int(self.source_starts[index])

    def _take(self, keep: NDArray[np.bool_], report: ReadingReport) -> Pool:
        return replace(
            self,
            labels=self.labels.take(keep),
            scores=self.scores[keep],
            pool_indices=self.pool_indices[keep],
            byte_offsets=None if self.byte_offsets is None else self.byte_offsets[keep],
            report=replace(report, kept=int(keep.sum())),
        )


def read_pool(
    entries: Sequence[PoolEntry],
    sources: Sequence[Sequence[RowSource]],
    file_hashes: Sequence[Sequence[Sequence[str]]],
    judges: Sequence[RowJudge],
    on_bad_row: Literal["error", "skip"],
    on_bytes: Callable[[int], object],
    cache: IndexCache,
) -> Pool:
    """Read the labels and scores of all rows, or take them from the cache.

    Args:
        entries: The pool, name by name.
        sources: The files of each entry.
        file_hashes: Content hashes of the files of each source, taken when the run began.
        judges: For each entry, what decides what becomes of a row.
        on_bad_row: Whether an unreadable row is an error, or skipped.
        on_bytes: Called with the number of bytes read since the last call.
        cache: The pool index.

    Returns:
        The kept rows and a report.

    Raises:
        PoolError: A row is unreadable and `on_bad_row` is ``error``, no row is kept, the host trains on none of the
            rows of an entry, or a file changed.
    """
    all_sources = [source for files in sources for source in files]
    size = sum(source.size for source in all_sources)
    with Readers(size, on_bytes, stop_at_unreadable=on_bad_row == "error") as readers:
        indexes = [
            _index_entry(entry, files, hashes, judge, cache, readers)
            for entry, files, hashes, judge in zip(entries, sources, file_hashes, judges, strict=True)
        ]
    parts = [part for entry, files in zip(entries, indexes, strict=True) for part in _inside_split(entry, files)]
    entry_indices = [entry_index for entry_index, files in enumerate(sources) for _ in files]
    report = _report(all_sources, parts)
    if report.kept == 0:
        raise PoolError(describe_loss(str(report.read), all_sources, report.dropped + report.unreadable))
    return _assemble(all_sources, entry_indices, parts, report)


def _index_entry(
    entry: PoolEntry,
    sources: Sequence[RowSource],
    file_hashes: Sequence[Sequence[str]],
    judge: RowJudge,
    cache: IndexCache,
    readers: Readers,
) -> list[FileIndex]:
    """Index the files of an entry; where the host would train on no row, say what is wrong with the entry."""
    parts: list[FileIndex] = []
    for source, hashes in zip(sources, file_hashes, strict=True):
        try:
            parts.append(cache.get(source, hashes, judge, readers))
        except UnreadableRowError as error:
            if judge.stage is not None and (message := explain_entry(entry, source, judge.stage)):
                raise PoolError(message) from error
            raise
    if judge.stage is not None and not any(len(part.scores) for part in parts):
        messages = [explain_entry(entry, source, judge.stage) for source in sources]
        if messages[0] is not None and None not in messages:
            raise PoolError(messages[0])
    return parts


def _inside_split(entry: PoolEntry, parts: Sequence[FileIndex]) -> list[FileIndex]:
    """Drop the rows of a local entry outside its `split`, which the host would not train on.

    `datasets` itself leaves those of a hub's dataset out.
    """
    if isinstance(entry.source, HubSource) or entry.split == "train":
        return list(parts)
    counts = np.array([part.tally.rows for part in parts])
    is_inside = _rows_of_split(entry, int(counts.sum()))
    inside = []
    for part, start in zip(parts, np.cumsum(counts) - counts, strict=True):
        keep = is_inside[start + part.source_rows]
        dropped = part.tally.dropped + Counter({f"outside split {entry.split}": int(np.count_nonzero(~keep))})
        inside.append(replace(part.take(keep), tally=replace(part.tally, dropped=dropped)))
    return inside


def _rows_of_split(entry: PoolEntry, count: int) -> NDArray[np.bool_]:
    from datasets import ReadInstruction

    is_inside = np.zeros(count, np.bool_)
    try:
        for part in ReadInstruction.from_spec(entry.split).to_absolute({"train": count}):
            is_inside[part.from_ or 0 : count if part.to is None else part.to] = True
    except (ValueError, AssertionError) as error:
        raise PoolError(
            f"dataset {entry.name!r}: split {entry.split!r} of a local file must be a part of train ({error})."
        ) from error
    return is_inside


def _report(sources: Sequence[RowSource], parts: Sequence[FileIndex]) -> ReadingReport:
    """Add up what became of the rows of each source."""
    tally = Tally()
    for part in parts:
        tally.add(part.tally)
    listed = (
        f"{source.name}:{line}: {reason}"
        for source, part in zip(sources, parts, strict=True)
        for line, reason in part.tally.listed
    )
    return ReadingReport(
        read=tally.rows,
        kept=sum(len(part.scores) for part in parts),
        dropped=tally.dropped,
        unreadable=tally.unreadable,
        unreadable_rows=list(itertools.islice(listed, LISTED_ROWS)),
        duplicates=_count_duplicates([part.digests for part in parts]),
    )


def _count_duplicates(digests: Sequence[NDArray[np.uint64] | None]) -> int | None:
    present = [digest for digest in digests if digest is not None]
    if len(present) < len(digests):
        return None
    ordered = np.sort(np.concatenate(present))
    return int(np.count_nonzero(ordered[1:] == ordered[:-1]))


def _assemble(
    sources: list[RowSource], entry_indices: list[int], parts: Sequence[FileIndex], report: ReadingReport
) -> Pool:
    """Join the indexes of all files, in the order of the sources.

    Most pools are one file: its arrays, which can be of gigabytes, are then used as they are instead of copied.
    """
    counts = np.array([part.tally.rows for part in parts], np.int64)
    starts = np.cumsum(counts) - counts
    numbering = Numbering()
    label_ids = []
    for part in parts:
        ids = numbering.of_all(part.label_names)
        # The first file's labels keep their ids.
        label_ids.append(part.label_ids if np.array_equal(ids, np.arange(len(ids))) else ids[part.label_ids])
    label_counts = _join([part.label_counts for part in parts])
    label_offsets = np.zeros(len(label_counts) + 1, np.int64)
    np.cumsum(label_counts, out=label_offsets[1:])
    has_offsets = any(part.byte_offsets is not None for part in parts)
    return Pool(
        sources=sources,
        source_entry_indices=entry_indices,
        source_starts=starts,
        labels=RowLabels(list(numbering), label_offsets, _join(label_ids)),
        scores=_join([part.scores for part in parts]),
        pool_indices=_join(
            [
                part.source_rows + start if start else part.source_rows
                for part, start in zip(parts, starts, strict=True)
            ]
        ),
        byte_offsets=_join([_byte_offsets(part) for part in parts]) if has_offsets else None,
        report=report,
    )


def _byte_offsets(part: FileIndex) -> NDArray[np.int64]:
    return np.zeros(len(part.source_rows), np.int64) if part.byte_offsets is None else part.byte_offsets


def _join(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Concatenate; a single array is not copied."""
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
