"""Several processes scan the spans of large files; see `ranks.workers`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any, Self

from mig_selector.errors import PoolError
from mig_selector.pool.formats.json_lines import JsonLinesSource
from mig_selector.pool.formats.parquet import ParquetSource
from mig_selector.pool.formats.row_source import OnBytes, RowSource, Span
from mig_selector.pool.index.file_index import FileIndex, index_span
from mig_selector.pool.index.judge import RowJudge
from mig_selector.pool.index.serialization import pack_index, unpack_index
from mig_selector.ranks.workers import Workers


_SPAN_BYTES = 32 << 20
"""Largest span; a reader process needs a few times as much memory."""
_MIN_SPAN_BYTES = 1 << 20
_PARALLEL_BYTES = 96 << 20
"""Smaller pools are read before other processes would have started."""
_MAX_PROCESSES = 16
_DIVISIBLE: dict[str, Callable[[Path, str], RowSource]] = {
    JsonLinesSource.kind: JsonLinesSource,
    ParquetSource.kind: ParquetSource,
}
"""Sources that can have several spans, by kind; a reader process opens them again by path and name."""


class Readers:
    """Scan the files of a pool, in this process or, if the pool is large, in one process per core.

    The processes start with the first file that has several spans, and end with the `with` block.
    """

    def __init__(self, pool_bytes: int, on_bytes: OnBytes, *, stop_at_unreadable: bool) -> None:
        """Choose the number of processes; none is started yet.

        Args:
            pool_bytes: Approximate total size of the files.
            on_bytes: Called with the number of bytes read since the last call.
            stop_at_unreadable: Stop the scan of a span at its first unreadable row.
        """
        self.on_bytes, self.stop_at_unreadable = on_bytes, stop_at_unreadable
        cores = min(len(os.sched_getaffinity(0)), _MAX_PROCESSES)
        self._processes = 1 if pool_bytes < _PARALLEL_BYTES else cores
        self._workers = Workers(__name__, self._processes, PoolError)

    def __enter__(self) -> Self:
        """Return the readers; processes start on demand."""
        return self

    def __exit__(self, *details: object) -> None:
        """Kill the processes, whatever they are doing."""
        self._workers.__exit__(*details)

    def index_spans(self, source: RowSource, judge: RowJudge) -> Iterator[FileIndex]:
        """Yield the indexes of the spans of a file, in order.

        Args:
            source: The file.
            judge: Decides what becomes of a row.

        Raises:
            PoolError: The file cannot be read, or a reader process exited.
        """
        # At least two spans for each process, so that none waits long for the last one.
        spans = source.spans(min(_SPAN_BYTES, max(source.size // (2 * self._processes), _MIN_SPAN_BYTES)))
        if self._processes == 1 or len(spans) == 1 or source.kind not in _DIVISIBLE:
            for span in spans:
                yield index_span(source, span, judge, self.on_bytes, stop_at_unreadable=self.stop_at_unreadable)
            return
        for span, part in zip(spans, self._in_processes(source, spans, judge), strict=True):
            yield part
            self.on_bytes(span.size)

    def _in_processes(self, source: RowSource, spans: Sequence[Span], judge: RowJudge) -> Iterator[FileIndex]:
        """Have the spans scanned by other processes."""
        task = {
            "kind": source.kind,
            "path": str(source.files[0]),
            "name": source.name,
            "judge": judge.identity,
            "stop_at_unreadable": self.stop_at_unreadable,
        }
        tasks = (json.dumps({**task, "span": astuple(span)}).encode() for span in spans)
        return map(unpack_index, self._workers.map(tasks, f"read {source.name}"))


def work(task: bytes) -> bytes:
    """Scan a span, as a worker; the answer is its index."""
    asked: dict[str, Any] = json.loads(task)
    index = index_span(
        _DIVISIBLE[asked["kind"]](Path(asked["path"]), asked["name"]),
        Span(*asked["span"]),
        RowJudge.of(asked["judge"]),
        lambda num_bytes: None,
        stop_at_unreadable=asked["stop_at_unreadable"],
    )
    return pack_index(index)
