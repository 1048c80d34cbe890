"""Processes of this machine that each do part of the work of one rank.

Each is a fresh interpreter that reads tasks from its standard input and writes answers to its standard output.
`multiprocessing` would either fork the threads and the CUDA context of this process, or import the user's main script.
A worker does neither; it ignores Ctrl-C, and it ends when its input ends, which includes the case that this process is
killed.
"""

from __future__ import annotations

import contextlib
import json
import struct
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Self

from mig_selector.errors import MigSelectorError


_START = (
    "import importlib, json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from mig_selector.ranks import workers; workers.serve(importlib.import_module(sys.argv[2]).work)"
)
_SIZE = struct.Struct("<q")
"""Before each task."""
_HEADER = struct.Struct("<?q")
"""Before each answer: whether the task succeeded (else the answer is an error message), and the size."""


class Workers:
    """Workers that answer tasks; they start with the first one, and end with the `with` block."""

    def __init__(self, module: str, count: int, error: type[MigSelectorError]) -> None:
        """Choose the workers; none is started yet.

        Args:
            module: Its function ``work`` makes an answer of a task, both bytes.
            count: Number of processes.
            error: Raised for a task that fails.
        """
        self._module, self._count, self._error = module, count, error
        self._idle: SimpleQueue[_Worker] = SimpleQueue()
        self._threads: ThreadPoolExecutor | None = None
        self._running = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Return the workers."""
        return self

    def __exit__(self, *details: object) -> None:
        """Kill the processes, whatever they are doing."""
        self._running.close()

    def map(self, tasks: Iterable[bytes], doing: str) -> Iterator[bytes]:
        """Yield the answer to each task, in order.

        Args:
            tasks: Taken as workers get free, with a few waiting.
            doing: What a worker does, for the message if it exits: ``read pool.jsonl``.

        Raises:
            MigSelectorError: A task failed, or a worker exited.
        """

        def ask(task: bytes) -> bytes:
            worker = self._idle.get()
            try:
                succeeded, answer = worker.ask(task)
            except (OSError, ValueError, struct.error) as error:
                raise self._error(
                    f"a process that {doing} exited unexpectedly; it may have been killed for lack of memory (see the "
                    "system log), or have printed an error message above."
                ) from error
            finally:
                self._idle.put(worker)
            if not succeeded:
                raise self._error(answer.decode())
            return answer

        threads = self._start()
        waiting: deque[Future[bytes]] = deque()
        for task in tasks:
            waiting.append(threads.submit(ask, task))
            # Only a few answers wait to be taken: those of a large pool would fill the memory.
            if len(waiting) > 2 * self._count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def _start(self) -> ThreadPoolExecutor:
        """Start the processes, and for each a thread that waits for its answers."""
        if self._threads is None:
            self._threads = self._running.enter_context(ThreadPoolExecutor(self._count))
            self._running.callback(self._threads.shutdown, wait=False, cancel_futures=True)
            for _ in range(self._count):
                self._idle.put(self._running.enter_context(_Worker(self._module)))
        return self._threads


def _search_path() -> list[str]:
    """Return where workers look for modules: as this process does, but in the current folder last."""
    here = {"", str(Path.cwd())}
    return sorted(sys.path, key=lambda folder: folder in here)


class _Worker:
    """A worker, seen from this process."""

    def __init__(self, module: str) -> None:
        self._process = subprocess.Popen(
            # -P: or Python would look for modules in the current folder first, where a pool's may be.
            [sys.executable, "-P", "-c", _START, json.dumps(_search_path()), module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            process_group=0,  # a terminal sends Ctrl-C to the process group of this process
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self._process.kill()
        self._process.communicate()

    def ask(self, task: bytes) -> tuple[bool, bytes]:
        """Return whether a task succeeded, and the answer or the error message.

        Raises:
            OSError, ValueError, struct.error: The process exited.
        """
        if self._process.stdin is None or self._process.stdout is None:
            raise ValueError("no pipes")
        self._process.stdin.write(_SIZE.pack(len(task)) + task)
        self._process.stdin.flush()
        succeeded, size = _HEADER.unpack(self._process.stdout.read(_HEADER.size))
        answer = self._process.stdout.read(size)
        if len(answer) < size:
            raise ValueError("the answer was cut off")
        return succeeded, answer


def serve(work: Callable[[bytes], bytes]) -> None:
    """Be a worker: answer tasks until the input ends or the output is closed."""
    tasks, answers = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # a stray print must not get between the answers
    with contextlib.suppress(BrokenPipeError):
        while len(head := tasks.read(_SIZE.size)) == _SIZE.size:
            succeeded, content = _try(work, tasks.read(*_SIZE.unpack(head)))
            answers.write(_HEADER.pack(succeeded, len(content)))
            answers.write(content)
            answers.flush()


def _try(work: Callable[[bytes], bytes], task: bytes) -> tuple[bool, bytes]:
    try:
        return True, work(task)
    except MigSelectorError as error:
        message = str(error)
    except OSError as error:
        message = f"{error.filename or 'a file'} cannot be read: {error.strerror or error}."
    return False, message.encode("utf-8", "backslashreplace")
