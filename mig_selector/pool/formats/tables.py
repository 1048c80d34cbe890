"""Columnar pools: Parquet, Arrow, and datasets from a hub, of which only the wanted columns are read."""

from __future__ import annotations

import contextlib
import itertools
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mig_selector.errors import PoolError
from mig_selector.pool.entry import HubSource
from mig_selector.pool.formats.row_source import BATCH_ROWS, OnBytes, Span
from mig_selector.pool.leaves.arrow import take_leaves
from mig_selector.pool.leaves.batch import Leaves, Numbering
from mig_selector.pool.leaves.decoder import LeafDecoder


_LEAF_ROWS = 65_536
"""Rows of leaves that are looked at together; whole rows can be long, so fewer of those are."""


class TableSource(ABC):
    """A source that yields record batches."""

    name: str
    size: int
    title: str
    """What the format is called."""
    can_seek = False

    def spans(self, size: int) -> list[Span]:
        """Take the table whole, where a format does not know better."""
        del size
        return [Span(size=self.size)]

    def scan(self, span: Span, decoder: LeafDecoder, numbering: Numbering, on_bytes: OnBytes) -> Iterator[Leaves]:
        """Pass over the rows of a part."""
        start = 0
        with self._wrapped_errors():
            share = span.size / max(self._num_rows(span), 1)
            for whole in self._leaf_batches(span, decoder):
                _check(whole, start)
                for offset in range(0, whole.num_rows, _LEAF_ROWS):
                    batch = whole.slice(offset, _LEAF_ROWS)
                    yield take_leaves(batch, decoder, numbering, start)
                    start += batch.num_rows
                    on_bytes(int(share * batch.num_rows))

    def read(
        self, rows: Sequence[int], positions: Sequence[int], columns: Sequence[str] | None
    ) -> Iterator[dict[str, Any]]:
        """Read whole rows, batch by batch."""
        del positions
        taken = 0
        with self._wrapped_errors():
            for start, batch in self._batches_with(rows, columns):
                end = bisect_left(rows, start + batch.num_rows, taken)
                if end > taken:
                    _check(batch, start)
                    local = [row - start for row in rows[taken:end]]
                    yield from batch.take(pa.array(local, pa.int64())).to_pylist()
                taken = end
                if taken == len(rows):
                    return

    @contextlib.contextmanager
    def _wrapped_errors(self) -> Iterator[None]:
        """Name the file in what pyarrow finds wrong with it."""
        try:
            yield
        except (pa.ArrowException, OSError, ValueError, OverflowError, KeyError, RecursionError) as error:
            raise PoolError(f"{self.name}: cannot be read as {self.title} ({error}).") from error

    @abstractmethod
    def _num_rows(self, span: Span) -> int: ...

    @abstractmethod
    def _batches(self, columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
        """Yield all rows, with those of the top-level `columns` that there are."""

    def _batches_with(
        self, rows: Sequence[int], columns: Sequence[str] | None
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Yield at least the batches that hold some of `rows`, each with the number of rows before it."""
        del rows
        start = 0
        for batch in self._batches(columns):
            yield start, batch
            start += batch.num_rows

    def _leaf_batches(self, span: Span, decoder: LeafDecoder) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a part with at least what stands at the decoder's paths."""
        del span
        return self._batches(decoder.columns)


def _check(batch: pa.RecordBatch, start: int) -> None:
    """Look at names, offsets and texts before anything relies on them: nothing did when they were read."""
    for name, times in Counter(batch.schema.names).items():
        if times > 1:
            raise ValueError(f"{times} columns are named {name!r}")
    try:
        batch.validate(full=True)
    except pa.ArrowInvalid as error:
        raise ValueError(f"rows {start + 1} to {start + batch.num_rows}: {error}") from error


class ParquetSource(TableSource):
    """A Parquet file."""

    kind, title = "parquet", "Parquet"

    def __init__(self, path: Path, name: str) -> None:
        """Read `path`, call it `name`."""
        self.files, self.name, self.size = [path], name, path.stat().st_size
        with self._open():
            pass

    def spans(self, size: int) -> list[Span]:
        """Cut by row groups."""
        with self._open() as file:
            groups = file.num_row_groups
        each = max(groups * size // max(self.size, 1), 1)
        bounds = [*range(0, groups, each), groups]
        share = self.size / max(groups, 1)
        return [
            Span(start, stop, round(stop * share) - round(start * share)) for start, stop in itertools.pairwise(bounds)
        ]

    def _num_rows(self, span: Span) -> int:
        with self._open() as file:
            return sum(file.metadata.row_group(group).num_rows for group in range(span.start, span.stop))

    def _batches(self, columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
        with self._open() as file:
            for group in range(file.num_row_groups):
                yield from _read_group(file, group, _present(file, columns), BATCH_ROWS)

    def _batches_with(
        self, rows: Sequence[int], columns: Sequence[str] | None
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        # Row groups in which nothing was chosen are not read.
        start = 0
        with self._open() as file:
            for group in range(file.num_row_groups):
                end = start + file.metadata.row_group(group).num_rows
                if bisect_left(rows, start) < bisect_left(rows, end):
                    for batch in _read_group(file, group, _present(file, columns), BATCH_ROWS):
                        yield start, batch
                        start += batch.num_rows
                start = end

    def _leaf_batches(self, span: Span, decoder: LeafDecoder) -> Iterator[pa.RecordBatch]:
        # A dotted name stands for all columns below it: the siblings of a wanted leaf are not read.
        wanted = [".".join(path) for path in decoder.wanted]
        with self._open() as file:
            for group in range(span.start, span.stop):  # nested dictionaries cannot be read across row groups
                yield from _read_group(file, group, wanted, _LEAF_ROWS)

    @contextlib.contextmanager
    def _open(self) -> Iterator[pq.ParquetFile]:
        with self._wrapped_errors(), pq.ParquetFile(self.files[0]) as file:
            yield file


def _read_group(file: pq.ParquetFile, group: int, columns: Sequence[str], size: int) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a row group; pyarrow ends in silence where a column has fewer values than there are rows."""
    count, found = file.metadata.row_group(group).num_rows, 0
    for batch in file.iter_batches(size, row_groups=[group], columns=columns):
        found += batch.num_rows
        yield batch
    if found != count:
        raise ValueError(f"row group {group + 1} says that it has {count} rows, but has {found}")


def _present(file: pq.ParquetFile, columns: Sequence[str] | None) -> list[str]:
    return _chosen(dict.fromkeys(file.schema_arrow.names), columns)


def _chosen(names: Iterable[str], columns: Sequence[str] | None) -> list[str]:
    """Return those of `names` that are among `columns`; all if None."""
    return [name for name in names if columns is None or name in columns]


class ArrowSource(TableSource):
    """An Arrow file, in the file or in the stream format."""

    kind, title = "arrow", "Arrow"

    def __init__(self, path: Path, name: str) -> None:
        """Read `path`, call it `name`."""
        self.files, self.name, self.size = [path], name, path.stat().st_size

    def _num_rows(self, span: Span) -> int:
        del span
        return sum(batch.num_rows for batch in self._batches([]))

    def _batches(self, columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
        with pa.memory_map(str(self.files[0])) as data:
            for batch in _open_arrow(data):
                names = batch.schema.names
                yield batch.select([place for place, name in enumerate(names) if columns is None or name in columns])


def _open_arrow(data: pa.NativeFile) -> Iterator[pa.RecordBatch]:
    try:
        reader = pa.ipc.open_file(data)
    except pa.ArrowInvalid:
        data.seek(0)
        yield from pa.ipc.open_stream(data)
        return
    for place in range(reader.num_record_batches):
        yield reader.get_batch(place)


class HubTable(TableSource):
    """A dataset from a hub, as `datasets` prepared it on this machine."""

    title = "a dataset"

    def __init__(self, source: HubSource, split: str, name: str) -> None:
        """Load `source` as the host does; downloads what is not there yet."""
        self.name, self.kind = name, f"hub, split {split}"
        self._table = _load_from_hub(source, split)
        self.size = int(self._table.data.nbytes)

    @property
    def files(self) -> list[Path]:
        """The Arrow files that `datasets` prepared."""
        return [Path(file["filename"]) for file in self._table.cache_files]

    def _num_rows(self, span: Span) -> int:
        del span
        return len(self._table)

    def _batches(self, columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
        present = _chosen(self._table.column_names, columns)
        # Without any column `datasets` forgets how many rows there are.
        arrow = self._table.select_columns(present or self._table.column_names[:1]).with_format("arrow")
        for table in arrow.iter(BATCH_ROWS):
            for batch in table.combine_chunks().to_batches():
                yield batch.select(present)


def _load_from_hub(source: HubSource, split: str) -> Any:
    try:
        if source.hub == "ms":
            return _load_from_modelscope(source, split)
        from datasets import load_dataset

        return load_dataset(
            source.repository,
            name=source.subset,
            data_dir=source.folder,
            split=split,
            cache_dir=source.cache_dir,
            token=source.token,
        )
    except Exception as error:
        raise PoolError(
            f"the dataset {source.repository!r} cannot be loaded from its hub ({type(error).__name__}: {error})."
        ) from error


def _load_from_modelscope(source: HubSource, split: str) -> Any:
    from modelscope import MsDataset
    from modelscope.utils.config_ds import MS_DATASETS_CACHE

    table = MsDataset.load(
        dataset_name=source.repository,
        subset_name=source.subset,
        data_dir=source.folder,
        split=split,
        cache_dir=source.cache_dir or MS_DATASETS_CACHE,
        token=source.token,
    )
    return table.to_hf_dataset() if isinstance(table, MsDataset) else table
