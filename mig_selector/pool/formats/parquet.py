"""Parquet files, row group by row group."""

from __future__ import annotations

import contextlib
import faulthandler
import itertools
import os
import resource
import warnings
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mig_selector.pool.formats.parquet_leaves import ShapeLeaves, find_leaves, find_shape_leaves
from mig_selector.pool.formats.row_source import BATCH_ROWS, Span
from mig_selector.pool.formats.tables import (
    LEAF_ROWS,
    LeafBatch,
    TableSource,
    bytes_of_texts,
    check_declared,
    names_among,
    text_dictionaries,
    text_limit,
)
from mig_selector.pool.leaves.arrow import take_rows
from mig_selector.pool.leaves.decoder import LeafDecoder


_FIRST_ROWS = 64
"""Rows that are read to see the dictionary of a row group."""
_BATCH_BYTES = 64 << 20
"""Approximate size of a batch of whole rows."""
_FEW_ROWS, _ROWS_PER_BYTE = 1 << 20, 64
_FEW_VALUES, _VALUES_PER_BYTE = 1 << 24, 1_024
"""A file that declares more rows, or more values of a column, than both the number and its size in bytes times the
other number allow, is refused before memory is allocated: compressed, billions of equal values take a few bytes."""


class ParquetSource(TableSource):
    """A Parquet file."""

    kind, title = "parquet", "Parquet"

    def __init__(self, path: Path, name: str) -> None:
        """Read `path`; messages say `name`."""
        self.files, self.name, self.size = [path], name, path.stat().st_size
        with self._open() as file:  # a file that is not Parquet is an error now, not after the rest was read
            check_declared("rows", file.metadata.num_rows, max(_FEW_ROWS, _ROWS_PER_BYTE * self.size))

    def spans(self, size: int) -> list[Span]:
        """Divide by row groups, the smallest unit that can be read on its own."""
        with self._open() as file:
            _check_metadata(file.metadata)
            groups = file.num_row_groups
            limit = max(_FEW_VALUES, _VALUES_PER_BYTE * self.size)
            for group in range(groups):
                metadata = file.metadata.row_group(group)
                for column in range(metadata.num_columns):
                    check_declared(f"values in row group {group + 1}", metadata.column(column).num_values, limit)
        self._check_texts()
        each = max(groups * size // max(self.size, 1), 1)
        bounds = [*range(0, groups, each), groups]
        share = self.size / max(groups, 1)
        return [
            Span(start, stop, round(stop * share) - round(start * share)) for start, stop in itertools.pairwise(bounds)
        ]

    def _check_texts(self) -> None:
        """Refuse texts that would take too much memory: pyarrow writes out each that is kept in a dictionary."""
        limit = text_limit(self.size)
        with self._open() as file:
            leaves = [file.schema.column(index).path for index in range(len(file.schema))]
        with self._wrapped_errors(), pq.ParquetFile(self.files[0], read_dictionary=leaves) as file:
            for group, (index, leaf) in itertools.product(range(file.num_row_groups), enumerate(leaves)):
                bound = 0
                for bound in _text_bounds(file, group, index, leaf):
                    if bound <= limit:
                        break
                check_declared(f"bytes of text in {leaf!r} of row group {group + 1}", bound, limit)

    def _num_rows(self, span: Span) -> int:
        with self._open() as file:
            return _rows_of_groups(file, range(span.start, span.stop))

    def _rows_before(self, span: Span) -> int:
        with self._open() as file:
            return _rows_of_groups(file, range(span.start))

    def _batches(self, columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
        with self._open() as file:
            for group in range(file.num_row_groups):
                yield from _read_group(file, group, _present(file, columns), _batch_rows(file, group))

    def _batches_with(
        self, source_rows: Sequence[int], columns: Sequence[str] | None
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        start = 0
        with self._open() as file:
            for group in range(file.num_row_groups):
                end = start + file.metadata.row_group(group).num_rows
                if bisect_left(source_rows, start) < bisect_left(source_rows, end):  # others are not read at all
                    for batch in _read_group(file, group, _present(file, columns), _batch_rows(file, group)):
                        yield start, batch
                        start += batch.num_rows
                start = end

    def _leaf_batches(self, span: Span, decoder: LeafDecoder) -> Iterator[LeafBatch]:
        # Parquet stores each leaf of a nested column on its own, and a dotted name selects the leaves below it: of
        # `annotation.deita.quality_scores` neither the siblings nor the conversation of the row are read. Of the
        # conversation the roles are read; whether a content is null is known from the statistics of the row group.
        with self._open() as file:
            wanted = find_leaves(file, decoder.paths)
            for group in range(span.start, span.stop):  # pyarrow cannot read nested dictionaries across row groups
                leaves = ShapeLeaves() if decoder.shapes is None else find_shape_leaves(file, group, decoder.shapes)
                rows = _WholeRows(partial(self._whole_batches, group, decoder.columns))
                start = 0
                for batch in _read_group(file, group, [*wanted, *leaves.columns], LEAF_ROWS):
                    yield LeafBatch(batch, leaves.known_texts, partial(rows.read, start))
                    start += batch.num_rows

    def _whole_batches(self, group: int, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        with self._open() as file:
            start = _rows_of_groups(file, range(group))
            for batch in _read_group(file, group, _present(file, columns), BATCH_ROWS):
                yield self._check_batch(batch, start)
                start += batch.num_rows

    @contextlib.contextmanager
    def _open(self) -> Iterator[pq.ParquetFile]:
        with self._wrapped_errors(), pq.ParquetFile(self.files[0]) as file:
            yield file


def _check_metadata(metadata: pq.FileMetaData) -> None:
    """Look at the metadata of every column in another process: where they are damaged, pyarrow ends the process.

    Raises:
        ValueError: It did.
    """
    with warnings.catch_warnings():
        # The child takes no lock that a thread could have held: it reads what is in memory, and ends.
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        try:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            faulthandler.disable()
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            for group, column in itertools.product(range(metadata.num_row_groups), range(metadata.num_columns)):
                _ = metadata.row_group(group).column(column).statistics
        finally:
            os._exit(0)  # an exception is met again below, where it is not fatal
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        raise ValueError("the metadata of a column are damaged")


def _text_bounds(file: pq.ParquetFile, group: int, index: int, leaf: str) -> Iterator[int]:
    """Yield upper bounds for the bytes of a leaf's texts, each closer and more costly to find; the last is exact.

    Args:
        file: Opened so that the leaf is read as a dictionary.
        group: The row group.
        index: The leaf's index among those of the file.
        leaf: Its path.
    """
    chunk = file.metadata.row_group(group).column(index)
    if chunk.physical_type != "BYTE_ARRAY" or not chunk.has_dictionary_page:
        return
    yield chunk.num_values * chunk.total_uncompressed_size
    [first] = next(file.iter_batches(_FIRST_ROWS, [group], [leaf])).columns
    for coded in text_dictionaries(first):
        if len(coded.dictionary):  # then it has all texts of the row group, except for those that are written out
            longest = pc.max(pc.binary_length(coded.dictionary)).as_py()
            yield chunk.num_values * longest + chunk.total_uncompressed_size
    yield sum(bytes_of_texts(batch.column(0)) for batch in file.iter_batches(LEAF_ROWS, [group], [leaf]))


class _WholeRows:
    """Rows of a row group with some whole columns, read in ascending order."""

    def __init__(self, open_batches: Callable[[], Iterator[pa.RecordBatch]]) -> None:
        self._open_batches = open_batches
        self._batches = open_batches()
        self._batch, self._start, self._end = pa.record_batch({}), 0, 0

    def read(self, start: int, rows: Sequence[int]) -> list[dict[str, Any]]:
        """Read rows whose indices count from row `start` of the group."""
        wanted, taken, found = [start + row for row in rows], 0, list[dict[str, Any]]()
        if wanted[0] < self._start:
            self._batches, self._start, self._end = self._open_batches(), 0, 0
        while taken < len(wanted):
            while wanted[taken] >= self._end:
                self._batch = next(self._batches)
                self._start, self._end = self._end, self._end + self._batch.num_rows
            until = bisect_left(wanted, self._end, taken)
            found += take_rows(self._batch, [row - self._start for row in wanted[taken:until]])
            taken = until
        return found


def _read_group(file: pq.ParquetFile, group: int, columns: Sequence[str], size: int) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a row group; pyarrow stops without an error where a column has too few values."""
    count, found = file.metadata.row_group(group).num_rows, 0
    for batch in file.iter_batches(size, row_groups=[group], columns=columns):
        found += batch.num_rows
        yield batch
    if found != count:
        raise ValueError(f"row group {group + 1} declares {count} rows but contains {found}")


def _rows_of_groups(file: pq.ParquetFile, groups: range) -> int:
    return sum(file.metadata.row_group(group).num_rows for group in groups)


def _batch_rows(file: pq.ParquetFile, group: int) -> int:
    """Return how many rows to read at a time: fewer where they are long, as images are."""
    metadata = file.metadata.row_group(group)
    return max(1, min(BATCH_ROWS, _BATCH_BYTES * int(metadata.num_rows) // max(int(metadata.total_byte_size), 1)))


def _present(file: pq.ParquetFile, columns: Sequence[str] | None) -> list[str]:
    return names_among(dict.fromkeys(file.schema_arrow.names), columns)
