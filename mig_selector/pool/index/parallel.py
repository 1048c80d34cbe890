"""Several processes pass over the parts of large files.

Each is a fresh interpreter that takes tasks from its standard input (a line of JSON each) and answers with extracts on
its standard output. It never runs the main script, shares nothing with the threads or the CUDA context of the process
that asked, does not hear Ctrl-C, and ends when its input does: also when the process that asked is killed.
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
from mig_selector.pool.index.file_index import Extract, extract_rows
from mig_selector.pool.index.judge import RowJudge
from mig_selector.pool.index.serialization import pack_extract, unpack_extract


_SPAN_BYTES = 32 << 20
"""Largest part; a process needs a few times as much memory."""
_LEAST_SPAN_BYTES = 1 << 20
_PARALLEL_BYTES = 96 << 20
"""Pools below this are read before other processes have started."""
_MAX_PROCESSES = 16
_DIVISIBLE: dict[str, Callable[[Path, str], RowSource]] = {
    JsonLinesSource.kind: JsonLinesSource,
    ParquetSource.kind: ParquetSource,
}
"""Sources that have parts, by kind."""
_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from mig_selector.pool.index import parallel; parallel.serve()"
)
_HEADER = struct.Struct("<?q")
"""Before each answer: whether it is an extract (else a message), and its size."""


class Readers:
    """Pass over the files of a pool: in this process, or in as many as there are cores for where the pool is large.

    The other processes start when the first file is read that has parts, and end with the `with` block.
    """

    def __init__(self, pool_bytes: int, judge: RowJudge, on_bytes: OnBytes, *, stop_at_unreadable: bool) -> None:
        """Prepare to read a pool.

        Args:
            pool_bytes: About how large all its files are together.
            judge: What a row must have.
            on_bytes: Called with the number of bytes read since the last call.
            stop_at_unreadable: Whether a part ends at its first unreadable row.
        """
        self.judge, self.on_bytes, self.stop_at_unreadable = judge, on_bytes, stop_at_unreadable
        cores = min(len(os.sched_getaffinity(0)), _MAX_PROCESSES)
        self._processes = 1 if pool_bytes < _PARALLEL_BYTES else cores
        self._idle: SimpleQueue[_Worker] = SimpleQueue()
        self._threads: ThreadPoolExecutor | None = None
        self._started = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Start nothing yet."""
        return self

    def __exit__(self, *details: object) -> None:
        """End the other processes, whatever they are at."""
        self._started.close()

    def extract_parts(self, source: RowSource) -> Iterator[Extract]:
        """Yield the extracts of a file's parts, in their order.

        Raises:
            PoolError: The file cannot be read, or one of the processes ended before its time.
        """
        spans = source.spans(min(_SPAN_BYTES, max(source.size // (2 * self._processes), _LEAST_SPAN_BYTES)))
        if self._processes == 1 or len(spans) == 1 or source.kind not in _DIVISIBLE:
            for span in spans:
                yield extract_rows(source, span, self.judge, self.on_bytes, stop_at_unreadable=self.stop_at_unreadable)
            return
        for span, part in zip(spans, self._in_processes(source, spans), strict=True):
            yield part
            self.on_bytes(span.size)

    def _in_processes(self, source: RowSource, spans: Sequence[Span]) -> Iterator[Extract]:
        """Have the parts read elsewhere; at most a few of them wait to be taken."""

        def work(span: Span) -> Extract:
            worker = self._idle.get()
            try:
                return worker.extract(source, span, self.judge, stop_at_unreadable=self.stop_at_unreadable)
            finally:
                self._idle.put(worker)

        threads = self._start()
        waiting: deque[Future[Extract]] = deque()
        for span in spans:
            waiting.append(threads.submit(work, span))
            if len(waiting) > 2 * self._processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def _start(self) -> ThreadPoolExecutor:
        """Start the other processes, and a thread that waits for each of them."""
        if self._threads is None:
            self._threads = self._started.enter_context(ThreadPoolExecutor(self._processes))
            self._started.callback(self._threads.shutdown, wait=False, cancel_futures=True)
            for _ in range(self._processes):
                self._idle.put(self._started.enter_context(_Worker()))
        return self._threads


class _Worker:
    """Another process, as the one that asks sees it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            process_group=0,  # Ctrl-C in a terminal goes to the group of the process that asks
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self._process.kill()
        self._process.communicate()

    def extract(self, source: RowSource, span: Span, judge: RowJudge, *, stop_at_unreadable: bool) -> Extract:
        """Have a part read.

        Raises:
            PoolError: It cannot be read, or the process has ended.
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
            is_extract, answer = self._ask(json.dumps(task).encode() + b"\n")
        except (OSError, ValueError, struct.error) as error:
            raise PoolError(
                f"a process that read {source.name} ended before its time; "
                "the system may have ended it for want of memory (see its log), or a message stands above."
            ) from error
        if not is_extract:
            raise PoolError(answer.decode())
        return unpack_extract(answer)

    def _ask(self, task: bytes) -> tuple[bool, bytes]:
        if self._process.stdin is None or self._process.stdout is None:
            raise ValueError("no pipes")
        self._process.stdin.write(task)
        self._process.stdin.flush()
        is_extract, size = _HEADER.unpack(self._process.stdout.read(_HEADER.size))
        answer = self._process.stdout.read(size)
        if len(answer) < size:
            raise ValueError("the answer was cut off")
        return is_extract, answer


def serve() -> None:
    """Be one of the other processes: answer tasks until there are no more, or nobody listens."""
    answers = sys.stdout.buffer
    sys.stdout = sys.stderr  # nothing else may come between the answers
    with contextlib.suppress(BrokenPipeError):
        for line in sys.stdin.buffer:
            is_extract, content = _work(json.loads(line))
            answers.write(_HEADER.pack(is_extract, len(content)))
            answers.write(content)
            answers.flush()


def _work(task: dict[str, Any]) -> tuple[bool, bytes]:
    """Return an extract, or what is wrong in words."""
    try:
        return True, pack_extract(_extract(task))
    except MigSelectorError as error:
        message = str(error)
    except OSError as error:
        message = f"{error.filename or 'a file'} cannot be used: {error.strerror or error}."
    return False, message.encode("utf-8", "backslashreplace")


def _extract(task: dict[str, Any]) -> Extract:
    source = _DIVISIBLE[task["kind"]](Path(task["path"]), task["name"])
    return extract_rows(
        source,
        Span(*task["span"]),
        RowJudge(**task["judge"]),
        lambda num_bytes: None,
        stop_at_unreadable=task["stop_at_unreadable"],
    )
