"""Runs of ``mig-selector select`` on a benchmark pool, each in its own process, and reports of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.command import Measured, measure, option_words
from bench.pool.folder import BYTES_PER_ROW, MARKER, POOL_NAME, MadePool, PoolSettings, make_pool, write_dataset_info


_TINY_ROWS, _TINY_BUDGET = 2_000, 100
_PLAIN_READING = "import sys\nfor line in open(sys.argv[1], 'rb'): pass"


@dataclass(frozen=True)
class Run:
    """One selection."""

    measured: Measured
    stages: dict[str, float]
    """Seconds of each stage, from manifest.json; empty if the run reused a finished subset."""
    folder: Path
    """The subset's."""


@dataclass
class Workspace:
    """A dataset_dir, an output folder and a cache for selections from one pool.

    The pool's own folder is only read; `clear` empties this one.
    """

    pool: MadePool
    folder: Path
    kernel_cache: Path
    """Folder of compiled kernels; shared among workspaces."""
    finished: set[str] = field(default_factory=set)
    """Names of the subset folders that earlier runs returned."""

    def clear(self) -> None:
        """Start over with an empty cache and no subset."""
        shutil.rmtree(self.folder, ignore_errors=True)
        (self.folder / "data").mkdir(parents=True)
        write_dataset_info(self.folder / "data", str(self.pool.data.absolute()))
        self.finished.clear()

    def select(self, budget: int, **keys: float) -> Run:
        """Select by command line; `keys` are ``mig_`` keys besides the budget and the folders."""
        settings = {
            "dataset": POOL_NAME,
            "dataset_dir": self.folder / "data",
            "mig_num_samples": budget,
            "mig_label_embeddings": self.pool.vectors.absolute(),
            "mig_output_dir": self.folder / "subsets",
            "mig_cache_dir": self.folder / "cache",
            **keys,
        }
        words = ["-m", "mig_selector", "select", *option_words(settings)]
        measured = measure(words, NUMBA_CACHE_DIR=str(self.kernel_cache), HF_HUB_OFFLINE="1")
        subset = Path(measured.last_line)
        stages = {} if subset.name in self.finished else _stages(subset)
        self.finished.add(subset.name)
        return Run(measured, stages, subset)


def _stages(subset: Path) -> dict[str, float]:
    seconds: dict[str, float] = json.loads((subset / "manifest.json").read_text(encoding="utf-8"))["seconds"]
    return seconds


def read_plainly(path: Path) -> Measured:
    """Read a file line by line in Python, in its own process."""
    return measure(["-c", _PLAIN_READING, str(path)])


def fastest(runs: list[Run]) -> Run:
    """Return the run with the shortest wall time."""
    return min(runs, key=lambda run: run.measured.seconds)


def report_run(runs: list[Run]) -> dict[str, Any]:
    """Describe the fastest of several equal runs; list the seconds of all."""
    return {**report_measured([run.measured for run in runs]), "stages": fastest(runs).stages}


def report_measured(measured: list[Measured]) -> dict[str, Any]:
    """Describe the fastest of several equal commands; list the seconds of all."""
    best = asdict(min(measured, key=lambda each: each.seconds))
    best.pop("last_line")
    return {**best, "all_seconds": [each.seconds for each in measured]}


def warm_kernel(folder: Path, kernel_cache: Path, settings: Callable[[int], PoolSettings]) -> dict[str, float]:
    """Compile the kernels by a tiny selection into an empty cache; return its seconds, and those of a second one."""
    pool = make_pool(folder / "tiny-pool", settings(_TINY_ROWS))
    workspace = Workspace(pool, folder / "tiny-work", kernel_cache)
    seconds = []
    for _ in range(2):
        workspace.clear()
        seconds.append(workspace.select(_TINY_BUDGET).measured.seconds)
    return {"rows": _TINY_ROWS, "with_compilation": seconds[0], "without_compilation": seconds[1]}


def pool_folder(folder: Path, settings: PoolSettings) -> Path:
    """Return the folder of a pool below the folder of the benchmarks."""
    return folder / f"{settings.kind}-{settings.rows}-rows-{settings.files}-files-seed-{settings.seed}"


def pool_bytes(folder: Path, settings: PoolSettings) -> int:
    """Return about how many bytes of disk a pool will take; 0 if it has been made already."""
    is_made = (pool_folder(folder, settings) / MARKER).exists()
    return 0 if is_made else settings.rows * BYTES_PER_ROW[settings.kind]
