"""Arrow files, in the file (random access) or the stream format."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from mig_selector.pool.formats.row_source import Span
from mig_selector.pool.formats.tables import TableSource


class ArrowSource(TableSource):
    """An Arrow file, in the file or the stream format."""

    kind, title = "arrow", "Arrow"

    def __init__(self, path: Path, name: str) -> None:
        """Read `path`; messages say `name`."""
        self.files, self.name, self.size = [path], name, path.stat().st_size

    def _num_rows(self, span: Span) -> int:
        del span
        return sum(batch.num_rows for batch in self._batches([]))

    def _batches(self, columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
        # Read and not mapped: if another program cut off a mapped file, the system would kill this process.
        with pa.OSFile(str(self.files[0])) as data:
            open_reader, names = _open_arrow(data)
            # By index: names can occur twice, which is reported when a batch is checked.
            wanted = [index for index, name in enumerate(names) if columns is None or name in columns]
            # An empty list would mean all columns, and a batch without columns loses its number of rows.
            options = pa.ipc.IpcReadOptions(included_fields=wanted or [0])
            data.seek(0)
            for batch in _read_batches(open_reader(data, options=options)):
                yield batch.select(list(range(len(wanted))))
            if self.files[0].stat().st_size < self.size:  # a stream that is cut off just ends
                raise ValueError("it was cut off while it was read")


def _open_arrow(data: pa.NativeFile) -> tuple[Callable[..., Any], list[str]]:
    """Return how to open an Arrow file, as a file or as a stream, and the names of its columns."""
    try:
        return pa.ipc.open_file, pa.ipc.open_file(data).schema.names
    except pa.ArrowInvalid:
        data.seek(0)
        return pa.ipc.open_stream, pa.ipc.open_stream(data).schema.names


def _read_batches(reader: Any) -> Iterator[pa.RecordBatch]:
    if isinstance(reader, pa.ipc.RecordBatchFileReader):
        yield from (reader.get_batch(index) for index in range(reader.num_record_batches))
    else:
        yield from reader
