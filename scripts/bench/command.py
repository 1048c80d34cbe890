"""Run a command in its own process; measure its wall time and the memory of its whole process tree (Linux)."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


ROOT = Path(__file__).resolve().parents[2]
"""The checkout whose package is run."""
MEGABYTE = 10**6

_POLL_SECONDS = 0.02
_SEARCH_SHARE = 0.05
"""Largest share of one core that is spent on looking for child processes."""
_LAUNCHER_VARIABLES = {"WORLD_SIZE", "RANK", "LOCAL_RANK"}
"""Set by torchrun; a command that inherits them would wait for other ranks."""


@dataclass(frozen=True)
class Measured:
    """Time and memory of a command; memory in MB of 10**6 bytes."""

    seconds: float
    """Wall time from start to end, including the interpreter and imports."""
    main_peak_mb: float
    """Largest resident set of the started process (VmHWM, which the kernel tracks; read every 20 ms)."""
    tree_peak_mb: float
    """Largest sum of the resident sets of the process and all its descendants, sampled every 20 ms.

    An upper bound: pages that processes share (libraries, memory before a fork) are counted once for each process.
    """
    tree_peak_pss_mb: float
    """As `tree_peak_mb`, but shared pages are divided among the processes that share them; sampled less often."""
    most_processes: int
    """Largest number of processes alive at the same time."""
    last_line: str
    """Last line of stdout."""


def option_words(settings: Mapping[str, object]) -> list[str]:
    """Write settings as the words ``--key value`` of a command line."""
    return [word for key, value in settings.items() for word in (f"--{key}", str(value))]


def child_environment(**variables: str) -> dict[str, str]:
    """Return the environment of a child process that imports the package of this checkout, with more `variables`."""
    inherited = {key: value for key, value in os.environ.items() if key not in _LAUNCHER_VARIABLES}
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**inherited, "PYTHONPATH": os.pathsep.join(paths), **variables}


def measure(words: Sequence[str], **variables: str) -> Measured:
    """Run a Python command to its end.

    Args:
        words: What follows the interpreter, such as ``-m mig_selector select ...``.
        variables: Environment variables to set in addition to those of this process.

    Returns:
        The time and memory it took.

    Raises:
        RuntimeError: The command failed; the message holds the end of its stderr.
    """
    environment = child_environment(**variables)
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True
    )
    watch = _Watch(process.pid)
    watch.start()
    stdout, stderr = process.communicate()
    seconds = time.perf_counter() - start
    watch.stop()
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(words)} exited with {process.returncode}:\n{stderr[-4_000:]}")
    lines = stdout.splitlines() or [""]
    return Measured(round(seconds, 4), *watch.peaks(), watch.most_processes, lines[-1])


class _Watch(threading.Thread):
    """A thread that samples the memory of a process tree until it is stopped."""

    def __init__(self, process_id: int) -> None:
        super().__init__(daemon=True)
        self._main, self._tree = process_id, [process_id]
        self._is_over = threading.Event()
        self._main_peak = self._tree_peak = self._pss_peak = 0
        self.most_processes = 1
        self._next_search = 0.0

    def run(self) -> None:
        is_over = False
        while not is_over:
            if time.monotonic() >= self._next_search:
                self._search()
            self._main_peak = max(self._main_peak, _status_bytes(self._main, "VmHWM"))
            self._tree_peak = max(self._tree_peak, sum(_status_bytes(each, "VmRSS") for each in self._tree))
            is_over = self._is_over.wait(_POLL_SECONDS)

    def stop(self) -> None:
        self._is_over.set()
        self.join()

    def peaks(self) -> tuple[float, float, float]:
        """Return the peaks of the main process, of the tree, and of the tree's proportional set sizes, in MB."""
        tree = max(self._tree_peak, self._main_peak)
        pss = self._pss_peak if self.most_processes > 1 else tree
        return tuple(round(size / MEGABYTE, 1) for size in (self._main_peak, tree, pss))  # type: ignore[return-value]

    def _search(self) -> None:
        """Find the descendants of the main process and sum their proportional set sizes.

        This reads all of /proc, so the next search waits until this one has taken only a small share of the time.
        """
        start = time.monotonic()
        self._tree = _descendants(self._main)
        self.most_processes = max(self.most_processes, len(self._tree))
        if len(self._tree) > 1:
            self._pss_peak = max(self._pss_peak, sum(map(_proportional_bytes, self._tree)))
        now = time.monotonic()
        self._next_search = now + (now - start) / _SEARCH_SHARE


def _descendants(process_id: int) -> list[int]:
    """Return a process and all its descendants."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            stat = _read(folder / "stat").rpartition(")")[2].split()
            if stat:
                children.setdefault(int(stat[1]), []).append(int(folder.name))
    found = [process_id]
    for parent in found:  # grows during the loop, so grandchildren are found as well
        found += children.get(parent, [])
    return found


def _status_bytes(process_id: int, name: str) -> int:
    return _field_bytes(_read(Path(f"/proc/{process_id}/status")), name)


def _proportional_bytes(process_id: int) -> int:
    return _field_bytes(_read(Path(f"/proc/{process_id}/smaps_rollup")), "Pss")


def _field_bytes(text: str, name: str) -> int:
    """Return the bytes of a field such as ``VmRSS:   123 kB``; 0 if the process has ended."""
    for line in text.splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return 0


def _read(path: Path) -> str:
    """Read a file of /proc; empty if the process has ended."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
