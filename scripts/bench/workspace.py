"""What the benchmarks of the command ``mig-selector select`` share: pools, runs, and a kernel that is compiled."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.command import ROOT, Measured, measure
from bench.pool.folder import BYTES_PER_ROW, MARK, POOL_NAME, MadePool, PoolSettings, make_pool, write_dataset_info


_SETTLED_SECONDS = 2.5
"""The command remembers the content hash of a file only if the file is older than about this."""
_TINY_ROWS, _TINY_BUDGET = 2_000, 100
_PLAIN_READING = "import sys\nfor line in open(sys.argv[1], 'rb'): pass"


@dataclass(frozen=True)
class Run:
    """One selection."""

    measured: Measured
    stages: dict[str, float]
    """Seconds of each stage, from manifest.json; empty where a finished subset was found."""
    folder: Path
    """The subset's."""


@dataclass
class Workplace:
    """A place to select from one pool in, with a dataset_info.json, outputs and a cache of its own.

    The pool's folder stays as it is; `clear` makes this one anew.
    """

    pool: MadePool
    folder: Path
    kernel_cache: Path
    """Where compiled kernels lie; shared among workplaces."""
    finished: set[str] = field(default_factory=set)
    """Subset folders that runs have ended with."""

    def clear(self) -> None:
        """Begin with an empty cache and no subset."""
        shutil.rmtree(self.folder, ignore_errors=True)
        (self.folder / "data").mkdir(parents=True)
        write_dataset_info(self.folder / "data", str(self.pool.data.absolute()))
        self.finished.clear()

    def select(self, budget: int, **keys: float) -> Run:
        """Select by command line; `keys` are ``mig_`` keys beside the budget and the folders."""
        settings = {
            "dataset": POOL_NAME,
            "dataset_dir": self.folder / "data",
            "mig_num_samples": budget,
            "mig_label_embeddings": self.pool.vectors.absolute(),
            "mig_output_dir": self.folder / "subsets",
            "mig_cache_dir": self.folder / "cache",
            **keys,
        }
        words = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
        environment = {"NUMBA_CACHE_DIR": str(self.kernel_cache), "HF_HUB_OFFLINE": "1"}
        measured = measure(["-m", "mig_selector", "select", *words], environment)
        subset = Path(measured.last_line)
        stages = {} if subset.name in self.finished else _stages(subset)
        self.finished.add(subset.name)
        return Run(measured, stages, subset)


def _stages(subset: Path) -> dict[str, float]:
    seconds: dict[str, float] = json.loads((subset / "manifest.json").read_text(encoding="utf-8"))["seconds"]
    return seconds


def read_plainly(path: Path) -> Measured:
    """Read a file line by line in Python, in a process of its own."""
    return measure(["-c", _PLAIN_READING, str(path)], {})


def fastest(runs: list[Run]) -> Run:
    """Return the run of the least wall time."""
    return min(runs, key=lambda run: run.measured.seconds)


def report_run(runs: list[Run]) -> dict[str, Any]:
    """Describe the fastest of some equal runs, and name the seconds of all."""
    return {**report_measured([run.measured for run in runs]), "stages": fastest(runs).stages}


def report_measured(measured: list[Measured]) -> dict[str, Any]:
    """Describe the fastest of some equal commands, and name the seconds of all."""
    best = asdict(min(measured, key=lambda each: each.seconds))
    best.pop("last_line")
    return {**best, "all_seconds": [each.seconds for each in measured]}


def warm_kernel(folder: Path, kernel_cache: Path, settings: Callable[[int], PoolSettings]) -> dict[str, float]:
    """Compile the kernels by a tiny selection into an empty cache; return its seconds, and those of a second one."""
    pool = make_pool(folder / "tiny-pool", settings(_TINY_ROWS))
    place = Workplace(pool, folder / "tiny-work", kernel_cache)
    seconds = []
    for _ in range(2):
        place.clear()
        seconds.append(place.select(_TINY_BUDGET).measured.seconds)
    return {"rows": _TINY_ROWS, "with_compilation": seconds[0], "without_compilation": seconds[1]}


def settle(pool: MadePool) -> None:
    """Wait until the files are old enough for their content hashes to be remembered."""
    newest = max(file.stat().st_mtime for file in (*pool.files, pool.vectors))
    time.sleep(max(0.0, newest + _SETTLED_SECONDS - time.time()))


def pool_folder(folder: Path, settings: PoolSettings) -> Path:
    """Return where a pool lies below the folder of the benchmarks."""
    return folder / f"{settings.kind}-{settings.rows}-rows-{settings.files}-files-seed-{settings.seed}"


def pool_bytes(folder: Path, settings: PoolSettings) -> int:
    """Return about how much disk making a pool takes; 0 where it is there."""
    is_there = (pool_folder(folder, settings) / MARK).exists()
    return 0 if is_there else settings.rows * BYTES_PER_ROW[settings.kind]


def require_disk(folder: Path, needed: int) -> None:
    """Say how much disk is needed and free; stop where it is too little."""
    free = shutil.disk_usage(folder).free
    print(f"disk: about {needed / 1e9:.1f} GB needed in {folder}, {free / 1e9:.1f} GB free", flush=True)
    if free < needed:
        raise SystemExit(f"not enough disk: {needed / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free; give --folder.")


@contextlib.contextmanager
def benchmark_folder(given: Path | None) -> Iterator[Path]:
    """Yield the folder that was given, made if need be, or a temporary one that is removed afterwards."""
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given.absolute()
        return
    with tempfile.TemporaryDirectory(prefix="mig-selector-bench-") as folder:
        yield Path(folder)


@contextlib.contextmanager
def scratch_folder(folder: Path) -> Iterator[Path]:
    """Yield a new folder below `folder` for what no later run needs."""
    with tempfile.TemporaryDirectory(prefix="work-", dir=folder) as scratch:
        yield Path(scratch)


def describe_machine() -> dict[str, Any]:
    """Name the processor, the cores that may be used, the memory and the versions."""
    return {
        "processor": _first_value(Path("/proc/cpuinfo"), "model name") or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "python": platform.python_version(),
        "checkout": _commit(),
    }


def _first_value(path: Path, name: str) -> str | None:
    with contextlib.suppress(OSError):
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith(name):
                return line.partition(":")[2].strip()
    return None


def _commit() -> str | None:
    """Return the commit of the checkout, as far as it can be told without git."""
    with contextlib.suppress(OSError):
        head = (ROOT / ".git" / "HEAD").read_text(encoding="utf-8").strip()
        reference = head.removeprefix("ref: ")
        return head if reference == head else (ROOT / ".git" / reference).read_text(encoding="utf-8").strip()
    return None


def parse_sizes(text: str) -> list[int]:
    """Read ``200000,939_000`` as ascending row numbers."""
    return sorted({int(size) for size in text.split(",")})


def write_result(path: Path | None, result: dict[str, Any]) -> None:
    """Write a result as JSON, where a path is given."""
    if path is not None:
        path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
