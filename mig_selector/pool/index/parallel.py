"""Several processes scan the spans of large files.

Each is a fresh interpreter that reads tasks from its standard input (one line of JSON each) and writes indexes to its
standard output. `multiprocessing` would either fork the threads and the CUDA context of this process, or import the
user's main script. A reader does neither; it ignores Ctrl-C, and it ends when its input ends, which includes the case
that this process is killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import astuple
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Self

from mig_selector.errors import MigSelectorError, PoolError
from mig_selector.pool.formats.json_lines import JsonLinesSource
from mig_selector.pool.formats.parquet import ParquetSource
from mig_selector.pool.formats.row_source import OnBytes, RowSource, Span
from mig_selector.pool.index.file_index import FileIndex, index_span
from mig_selector.pool.index.judge import RowJudge
from mig_selector.pool.index.serialization import pack_index, unpack_index


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
_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from mig_selector.pool.index import parallel; parallel.serve()"
)
_HEADER = struct.Struct("<?q")
"""Before each answer: whether it is an index (else an error message), and its size."""


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
        self._idle: SimpleQueue[_Worker] = SimpleQueue()
        self._threads: ThreadPoolExecutor | None = None
        self._running = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Return the readers; processes start on demand."""
        return self

    def __exit__(self, *details: object) -> None:
        """Kill the processes, whatever they are doing."""
        self._running.close()

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

        def work(span: Span) -> FileIndex:
            worker = self._idle.get()
            try:
                return worker.index(source, span, judge, stop_at_unreadable=self.stop_at_unreadable)
            finally:
                self._idle.put(worker)

        threads = self._start()
        waiting: deque[Future[FileIndex]] = deque()
        for span in spans:
            waiting.append(threads.submit(work, span))
            # Only a few indexes wait to be written: those of a large pool would fill the memory.
            if len(waiting) > 2 * self._processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def _start(self) -> ThreadPoolExecutor:
        """Start the processes, and for each a thread that waits for its answers."""
        if self._threads is None:
            self._threads = self._running.enter_context(ThreadPoolExecutor(self._processes))
            self._running.callback(self._threads.shutdown, wait=False, cancel_futures=True)
            for _ in range(self._processes):
                self._idle.put(self._running.enter_context(_Worker()))
        return self._threads


def _search_path() -> list[str]:
    """Return where reader processes look for modules: as this process does, but in the current folder last."""
    here = {"", str(Path.cwd())}
    return sorted(sys.path, key=lambda folder: folder in here)


class _Worker:
    """A reader process, seen from this process."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            # -P: or Python would look for modules in the current folder first, where a pool's may be.
            [sys.executable, "-P", "-c", _START, json.dumps(_search_path())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            process_group=0,  # a terminal sends Ctrl-C to the process group of this process
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self._process.kill()
        self._process.communicate()

    def index(self, source: RowSource, span: Span, judge: RowJudge, *, stop_at_unreadable: bool) -> FileIndex:
        """Have a span scanned.

        Raises:
            PoolError: The file cannot be read, or the process exited.
        """
        task = {
            "kind": source.kind,
            "path": str(source.files[0]),
            "name": source.name,
            "span": astuple(span),
            "judge": judge.identity,
            "stop_at_unreadable": stop_at_unreadable,
        }
        try:
            is_index, answer = self._ask(json.dumps(task).encode() + b"\n")
        except (OSError, ValueError, struct.error) as error:
            raise PoolError(
                f"a process that read {source.name} exited unexpectedly; it may have been killed for lack of memory "
                "(see the system log), or have printed an error message above."
            ) from error
        if not is_index:
            raise PoolError(answer.decode())
        return unpack_index(answer)

    def _ask(self, task: bytes) -> tuple[bool, bytes]:
        if self._process.stdin is None or self._process.stdout is None:
            raise ValueError("no pipes")
        self._process.stdin.write(task)
        self._process.stdin.flush()
        is_index, size = _HEADER.unpack(self._process.stdout.read(_HEADER.size))
        answer = self._process.stdout.read(size)
        if len(answer) < size:
            raise ValueError("the answer was cut off")
        return is_index, answer


def serve() -> None:
    """Run a reader process: answer tasks until the input ends or the output is closed."""
    answers = sys.stdout.buffer
    sys.stdout = sys.stderr  # a stray print must not get between the answers
    with contextlib.suppress(BrokenPipeError):
        for line in sys.stdin.buffer:
            is_index, content = _work(json.loads(line))
            answers.write(_HEADER.pack(is_index, len(content)))
            answers.write(content)
            answers.flush()


def _work(task: dict[str, Any]) -> tuple[bool, bytes]:
    """Return whether the task succeeded, and the packed index or the error message."""
    try:
        index = index_span(
            _DIVISIBLE[task["kind"]](Path(task["path"]), task["name"]),
            Span(*task["span"]),
            RowJudge.of(task["judge"]),
            lambda num_bytes: None,
            stop_at_unreadable=task["stop_at_unreadable"],
        )
        return True, pack_index(index)
    except MigSelectorError as error:
        message = str(error)
    except OSError as error:
        message = f"{error.filename or 'a file'} cannot be read: {error.strerror or error}."
    return False, message.encode("utf-8", "backslashreplace")
