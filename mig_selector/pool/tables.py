"""Columnar pools: Parquet, Arrow, and datasets from a hub, of which only the wanted columns are read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mig_selector.errors import PoolError
from mig_selector.pool.entry import HubSource
from mig_selector.pool.fields import LeafDecoder
from mig_selector.pool.rows import OnBytes, ScannedRow


_BATCH_ROWS = 4_096


class TableSource(ABC):
    """A source that yields record batches."""

    name: str
    size: int

    def scan(self, decoder: LeafDecoder, on_bytes: OnBytes) -> Iterator[ScannedRow]:
        """Pass over the rows."""
        number = 0
        share = self.size / max(self._num_rows(), 1)
        for batch in self._batches(decoder.columns):
            for record in batch.to_pylist():
                number += 1
                yield ScannedRow(decoder.of_mapping(record), number, 0, None)
            on_bytes(int(share * batch.num_rows))

    def read(self, rows: Sequence[int], positions: Sequence[int], columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Read whole rows, batch by batch."""
        del positions
        start, taken = 0, 0
        for batch in self._batches(columns):
            local = []
            while taken < len(rows) and rows[taken] < start + batch.num_rows:
                local.append(rows[taken] - start)
                taken += 1
            if local:
                yield from batch.take(pa.array(local, pa.int64())).to_pylist()
            start += batch.num_rows
            if taken == len(rows):
                return

    @abstractmethod
    def _num_rows(self) -> int: ...

    @abstractmethod
    def _batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]: ...


class ParquetSource(TableSource):
    """A Parquet file."""

    def __init__(self, path: Path, name: str) -> None:
        """Read `path`, call it `name`."""
        self.files, self.name, self.size = [path], name, path.stat().st_size
        try:
            self._file = pq.ParquetFile(path)
        except (pa.ArrowException, OSError) as error:
            raise PoolError(f"{name}: is no Parquet file ({error}).") from error

    def _num_rows(self) -> int:
        return int(self._file.metadata.num_rows)

    def _batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        present = [column for column in self._file.schema_arrow.names if column in columns]
        yield from self._file.iter_batches(_BATCH_ROWS, columns=present)


class ArrowSource(TableSource):
    """An Arrow file, in the file or in the stream format."""

    def __init__(self, path: Path, name: str) -> None:
        """Read `path`, call it `name`."""
        self.files, self.name, self.size = [path], name, path.stat().st_size

    def _num_rows(self) -> int:
        return sum(batch.num_rows for batch in self._batches([]))

    def _batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        try:
            with pa.memory_map(str(self.files[0])) as data:
                for batch in _open_arrow(data):
                    yield batch.select([name for name in batch.schema.names if name in columns])
        except pa.ArrowException as error:
            raise PoolError(f"{self.name}: is no Arrow file ({error}).") from error


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

    def __init__(self, source: HubSource, split: str, name: str) -> None:
        """Load `source` as the host does; downloads what is not there yet."""
        self.name = name
        self._table = _load_from_hub(source, split)
        self.size = int(self._table.data.nbytes)

    @property
    def files(self) -> list[Path]:
        """The Arrow files that `datasets` prepared."""
        return [Path(file["filename"]) for file in self._table.cache_files]

    def _num_rows(self) -> int:
        return len(self._table)

    def _batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        present = [column for column in self._table.column_names if column in columns]
        # Without any column `datasets` forgets how many rows there are.
        arrow = self._table.select_columns(present or self._table.column_names[:1]).with_format("arrow")
        for table in arrow.iter(_BATCH_ROWS):
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
