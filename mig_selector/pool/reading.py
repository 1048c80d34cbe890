"""One pass over a pool, cached: labels, scores and where each row stands; the text is not kept."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mig_selector.arrays import RowLabels
from mig_selector.errors import PoolError
from mig_selector.pool.entry import HubSource, PoolEntry
from mig_selector.pool.formats.row_source import RowSource
from mig_selector.pool.index.cache import IndexCache
from mig_selector.pool.index.file_index import LISTED_ROWS, Extract, Tally
from mig_selector.pool.index.judge import RowJudge
from mig_selector.pool.index.parallel import Readers
from mig_selector.pool.leaves.batch import Numbering


@dataclass(frozen=True)
class ReadingReport:
    """What became of the rows."""

    read: int
    """Rows of the pool, blank lines not counted."""
    kept: int
    dropped: Counter[str]
    """Readable rows that lack something, by reason."""
    unreadable: Counter[str]
    """Skipped rows, by reason without the values."""
    unreadable_rows: list[str]
    """``file:line: reason`` of the first skipped rows."""
    duplicates: int | None
    """Kept rows whose text is that of an earlier kept row; None where a format without text is in the pool."""


@dataclass(frozen=True)
class PoolRow:
    """A row that was read whole, or some columns of it."""

    entry_index: int
    """Which entry of the pool it belongs to."""
    where: str
    """Where it stands, for messages."""
    record: dict[str, Any]


@dataclass(frozen=True)
class Pool:
    """The kept rows of a pool. N rows, S sources in the order of the names in `dataset`."""

    sources: list[RowSource]
    source_entry_indices: list[int]
    """Which entry each source belongs to."""
    source_starts: NDArray[np.int64]
    """How many rows come before each source. Shape (S,)."""
    labels: RowLabels
    """As the rows name them, repetitions included; the names in order of appearance."""
    scores: NDArray[np.float64]
    """Shape (N,); NaN throughout where the score is the number of labels."""
    pool_indices: NDArray[np.int64]
    """Place of each kept row among all rows of the pool, from 0 on, ascending. Shape (N,)."""
    byte_offsets: NDArray[np.int64] | None
    """Where each row begins in its file; 0 in a source that does not find rows by offset. Shape (N,); None if no
    source does."""
    report: ReadingReport

    def locate(self, kept: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the source of each of some kept rows, and its place among the rows of that source, from 0 on."""
        rows = self.pool_indices[kept]
        sources = np.searchsorted(self.source_starts, rows, side="right") - 1
        return sources, rows - self.source_starts[sources]

    def byte_offsets_of(self, kept: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the byte offsets of some kept rows; 0 in a source that does not find rows by offset."""
        return np.zeros(len(kept), np.int64) if self.byte_offsets is None else self.byte_offsets[kept]

    def rows(self, columns: Sequence[str] | None) -> Iterator[PoolRow]:
        """Read the kept rows again, in the order of the pool: those of `columns` that a row has, or all it has."""
        sources, rows = self.locate(np.arange(len(self.pool_indices)))
        for number, source in enumerate(self.sources):
            mine = slice(*np.searchsorted(sources, [number, number + 1]))
            places = rows[mine].tolist()
            byte_offsets = self.byte_offsets[mine].tolist() if self.byte_offsets is not None else [0] * len(places)
            for place, record in zip(places, source.read(places, byte_offsets, columns), strict=True):
                yield PoolRow(self.source_entry_indices[number], f"{source.name}, row {place + 1}", record)

    def without(self, is_dropped: NDArray[np.bool_], reason: str) -> Pool:
        """Drop some of the kept rows, shape (N,), and count them."""
        dropped = self.report.dropped + Counter({reason: int(is_dropped.sum())})
        return self._take(~is_dropped, replace(self.report, dropped=dropped))

    def skipping(self, faults: Mapping[int, str], reason: str) -> Pool:
        """Skip some of the kept rows as unreadable, count and list them: by place among the kept, what is wrong."""
        keep = np.ones(len(self.pool_indices), np.bool_)
        keep[list(faults)] = False
        unreadable = self.report.unreadable + Counter({reason: len(faults)})
        listed = [*self.report.unreadable_rows, *faults.values()][:LISTED_ROWS]
        return self._take(keep, replace(self.report, unreadable=unreadable, unreadable_rows=listed))

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
    contents: Sequence[Sequence[Sequence[str]]],
    judge: RowJudge,
    on_bad_row: Literal["error", "skip"],
    on_bytes: Callable[[int], object],
    extracts: IndexCache,
) -> Pool:
    """Read labels and scores of every row, or take them from the cache.

    Args:
        entries: The pool, name by name.
        sources: The files of each entry.
        contents: The hashes that the files of each source are known by.
        judge: What a row must have.
        on_bad_row: Whether an unreadable row ends the reading.
        on_bytes: Called with the number of bytes read since the last call.
        extracts: The cache.

    Returns:
        The kept rows and a report of all.

    Raises:
        PoolError: A row is unreadable and `on_bad_row` is ``error``, no row is kept, or a file was changed meanwhile.
    """
    flat = [source for files in sources for source in files]
    size = sum(source.size for source in flat)
    with Readers(size, judge, on_bytes, stop_at_unreadable=on_bad_row == "error") as readers:
        found = [
            [extracts.get(file, content, readers) for file, content in zip(files, hashes, strict=True)]
            for files, hashes in zip(sources, contents, strict=True)
        ]
    parts = [part for entry, whole in zip(entries, found, strict=True) for part in _inside_split(entry, whole)]
    owners = [place for place, files in enumerate(sources) for _ in files]
    report = _report(flat, parts)
    if report.kept == 0:
        lost = report.dropped + report.unreadable
        raise PoolError(
            f"none of the {report.read} rows of {', '.join(source.name for source in flat)} can be selected from: "
            f"{'; '.join(f'{count} {reason}' for reason, count in lost.items())}. Check mig_labels and mig_score."
        )
    return _assemble(flat, owners, parts, report)


def _report(sources: Sequence[RowSource], parts: Sequence[Extract]) -> ReadingReport:
    """Add up what became of the rows of each source."""
    tally = Tally()
    for part in parts:
        tally.add(part.tally)
    listed = (
        f"{source.name}:{place}: {reason}"
        for source, part in zip(sources, parts, strict=True)
        for place, reason in part.tally.listed
    )
    return ReadingReport(
        read=tally.rows,
        kept=sum(len(part.scores) for part in parts),
        dropped=tally.dropped,
        unreadable=tally.unreadable,
        unreadable_rows=list(itertools.islice(listed, LISTED_ROWS)),
        duplicates=_count_duplicates([part.digests for part in parts]),
    )


def _inside_split(entry: PoolEntry, parts: Sequence[Extract]) -> list[Extract]:
    """Leave out the rows of a local entry that the host would not train on, because they lie outside `split`."""
    if isinstance(entry.source, HubSource) or entry.split == "train":
        return list(parts)
    counts = np.array([part.tally.rows for part in parts])
    is_inside = _rows_of_split(entry, int(counts.sum()))
    inside = []
    for part, start in zip(parts, np.cumsum(counts) - counts, strict=True):
        keep = is_inside[start + part.rows]
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


def _count_duplicates(digests: Sequence[NDArray[np.uint64] | None]) -> int | None:
    present = [column for column in digests if column is not None]
    if len(present) < len(digests):
        return None
    known = np.sort(np.concatenate(present))
    return int(np.count_nonzero(known[1:] == known[:-1]))


def _assemble(sources: list[RowSource], owners: list[int], parts: Sequence[Extract], report: ReadingReport) -> Pool:
    """Put the extracts one behind the other."""
    counts = np.array([part.tally.rows for part in parts], np.int64)
    starts = np.cumsum(counts) - counts
    numbering = Numbering()
    renumbered = [numbering.of_all(part.label_names) for part in parts]
    has_positions = any(part.positions is not None for part in parts)
    return Pool(
        sources=sources,
        source_entry_indices=owners,
        source_starts=starts,
        labels=RowLabels(
            list(numbering),
            _offsets([part.lengths for part in parts]),
            _join([_renumber(part, numbers) for part, numbers in zip(parts, renumbered, strict=True)]),
        ),
        scores=_join([part.scores for part in parts]),
        pool_indices=_join([_shift(part.rows, start) for part, start in zip(parts, starts.tolist(), strict=True)]),
        byte_offsets=_join([_positions(part) for part in parts]) if has_positions else None,
        report=report,
    )


def _renumber(part: Extract, numbers: NDArray[np.int32]) -> NDArray[np.int32]:
    """Number a part's labels as the pool's; those of the first part keep their numbers."""
    return part.label_ids if np.array_equal(numbers, np.arange(len(numbers))) else numbers[part.label_ids]


def _shift(rows: NDArray[np.int64], start: int) -> NDArray[np.int64]:
    """Number a part's rows as the pool's; those of the first part keep their numbers."""
    return rows + start if start else rows


def _offsets(lengths: Sequence[NDArray[np.int32]]) -> NDArray[np.int64]:
    joined = _join(lengths)
    offsets = np.zeros(len(joined) + 1, np.int64)
    np.cumsum(joined, out=offsets[1:])
    return offsets


def _positions(part: Extract) -> NDArray[np.int64]:
    return np.zeros(len(part.rows), np.int64) if part.positions is None else part.positions


def _join(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Concatenate; a single array is not copied."""
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
