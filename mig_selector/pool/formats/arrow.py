"""Arrow files, in the file (random access) or the stream format."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

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
        with pa.memory_map(str(self.files[0])) as data:
            for batch in _open_arrow(data):
                names = batch.schema.names
                # By index: names can occur twice, which is reported when a batch is checked.
                yield batch.select([index for index, name in enumerate(names) if columns is None or name in columns])


def _open_arrow(data: pa.NativeFile) -> Iterator[pa.RecordBatch]:
    try:
        reader = pa.ipc.open_file(data)
    except pa.ArrowInvalid:
        data.seek(0)
        yield from pa.ipc.open_stream(data)
        return
    for index in range(reader.num_record_batches):
        yield reader.get_batch(index)
