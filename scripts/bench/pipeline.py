"""Time the whole command ``mig-selector select`` on JSON Lines of 3 KB rows, compared with reading the file by line.

    python scripts/bench/pipeline.py
    python scripts/bench/pipeline.py --rows 200000 --repeats 5 --folder pools --json result.json

Four things are timed for each pool size, each in its own process, including the interpreter and imports, with the pool
in the page cache:

- reading: ``for line in open(path, 'rb'): pass`` in Python; the fastest of the runs before and after cold selections
- cold: a selection with an empty cache and no subset; label vectors are given, so no encoder is loaded
- cached: other settings (``mig_edge_threshold``, ``mig_phi_exponent``) with the cache that the cold selection left
- same: the settings of the cold selection again; its subset is reused

Each figure is the best of several runs. Memory is sampled from /proc: the peak resident set of the started process,
and the peak of the sum over its process tree, which counts shared pages once for each process (an upper bound; the sum
of proportional set sizes is printed beside it). Memory targets apply to the sum. Kernels are compiled beforehand, by a
tiny selection with an empty compilation cache, whose seconds are reported separately. Seconds of stages come from
manifest.json. Pools are those of ``bench/make_pool.py``; a given ``--folder`` keeps them for later runs.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # scripts/

from bench.command import Measured
from bench.folders import benchmark_folder, require_disk, scratch_folder
from bench.options import make_parser, parse_sizes
from bench.pool.folder import MadePool, PoolSettings, make_pool
from bench.results import Target, describe_machine, print_targets, write_result
from bench.workspace import (
    Run,
    Workspace,
    fastest,
    pool_bytes,
    pool_folder,
    read_plainly,
    report_measured,
    report_run,
    warm_kernel,
)


COLD_FACTOR, COLD_MB = 4.0, 1_500.0
CACHED_SECONDS, CACHED_MB = 6.0, 500.0
SAME_SECONDS = 1.5

_OTHER_THRESHOLD, _OTHER_EXPONENT, _EXPONENT_STEP = 0.85, 0.7, 0.01
_WORK_BYTES_PER_ROW = 4_000
"""Disk space of subsets and caches, for each row of the budget and each run."""


@dataclass(frozen=True)
class Timings:
    """All runs on one pool."""

    reading: list[Measured]
    cold: list[Run]
    cached: list[Run]
    same: list[Run]

    @property
    def reading_seconds(self) -> float:
        """Seconds of the fastest reading."""
        return min(measured.seconds for measured in self.reading)

    def targets(self) -> list[Target]:
        """Compare the figures with their limits."""
        cold, cached, same = (fastest(runs).measured for runs in (self.cold, self.cached, self.same))
        return [
            Target("cold, times reading", COLD_FACTOR, round(cold.seconds / self.reading_seconds, 2)),
            Target("cold, MB of the process tree", COLD_MB, _most_memory(self.cold)),
            Target("cached, seconds", CACHED_SECONDS, cached.seconds),
            Target("cached, MB of the process tree", CACHED_MB, _most_memory(self.cached)),
            Target("same, seconds", SAME_SECONDS, same.seconds),
        ]


def time_pool(workspace: Workspace, budget: int, cold_repeats: int, repeats: int) -> Timings:
    """Time all four kinds of runs on one pool."""
    path = workspace.pool.files[0]
    read_plainly(path)  # brings the file into the page cache
    reading, cold = [read_plainly(path)], []
    for _ in range(cold_repeats):
        workspace.clear()
        cold.append(workspace.select(budget))
        reading.append(read_plainly(path))
    same = [workspace.select(budget) for _ in range(repeats)]
    if {run.folder for run in same} != {cold[-1].folder}:
        raise RuntimeError("the same settings returned different subsets")
    return Timings(reading, cold, [_select_otherwise(workspace, budget, number) for number in range(repeats)], same)


def _select_otherwise(workspace: Workspace, budget: int, number: int) -> Run:
    """Select with settings that no earlier run used."""
    exponent = round(_OTHER_EXPONENT + number * _EXPONENT_STEP, 4)
    return workspace.select(budget, mig_edge_threshold=_OTHER_THRESHOLD, mig_phi_exponent=exponent)


def _most_memory(runs: list[Run]) -> float:
    return max(run.measured.tree_peak_mb for run in runs)


def report_pool(pool: MadePool, budget: int, timings: Timings) -> dict[str, Any]:
    """Describe all runs on one pool."""
    targets = timings.targets()
    return {
        "rows": pool.report["settings"]["rows"],
        "bytes": pool.num_bytes,
        "budget": budget,
        "reading": report_measured(timings.reading),
        "cold": report_run(timings.cold),
        "cached": report_run(timings.cached),
        "same": report_run(timings.same),
        "cold_to_reading": targets[0].found,
        "targets": [target.report() for target in targets],
    }


def print_runs(report: dict[str, Any]) -> None:
    """Print a table of the runs on one pool."""
    print(f"\n{report['rows']:,} rows, {report['bytes'] / 1e6:,.0f} MB, budget {report['budget']:,}")
    print(f"{'':8} {'seconds':>9} {'main MB':>9} {'tree MB':>9} {'PSS MB':>9} {'processes':>9}  stages")
    for name in ("reading", "cold", "cached", "same"):
        run = report[name]
        stages = ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in run.get("stages", {}).items())
        print(
            f"{name:8} {run['seconds']:9.3f} {run['main_peak_mb']:9,.0f} {run['tree_peak_mb']:9,.0f} "
            f"{run['tree_peak_pss_mb']:9,.0f} {run['most_processes']:9}  {stages}"
        )


def bench_pool(pool: MadePool, folder: Path, kernel_cache: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Time one pool, and print and return the report."""
    pool.settle()
    budget = min(options.budget, pool.report["settings"]["rows"])
    with scratch_folder(folder) as scratch:
        workspace = Workspace(pool, scratch / "selecting", kernel_cache)
        timings = time_pool(workspace, budget, options.cold_repeats, options.repeats)
    report = report_pool(pool, budget, timings)
    print_runs(report)
    print_targets(timings.targets())
    return report


def _settings(rows: int, seed: int) -> PoolSettings:
    return PoolSettings(rows=rows, kind="jsonl", seed=seed)


def _needed_bytes(folder: Path, sizes: list[int], options: argparse.Namespace) -> int:
    pools = sum(pool_bytes(folder, _settings(size, options.seed)) for size in sizes)
    written_rows: int = (options.repeats + 1) * min(options.budget, max(sizes))
    return pools + written_rows * _WORK_BYTES_PER_ROW


def main() -> None:
    """Run the benchmark."""
    parser = make_parser(__doc__)
    parser.add_argument("--rows", type=parse_sizes, default="200000,939000", help="pool sizes, separated by commas")
    parser.add_argument("--budget", type=int, default=50_000, help="rows to choose; of a smaller pool, all")
    parser.add_argument("--repeats", type=int, default=3, help="number of cached runs and of runs with same settings")
    parser.add_argument("--cold-repeats", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where pools are kept (default: a temporary folder)")
    options = parser.parse_args()

    settings = partial(_settings, seed=options.seed)
    with benchmark_folder(options.folder) as folder, scratch_folder(folder) as scratch:
        require_disk(folder, _needed_bytes(folder, options.rows, options))
        pools = [make_pool(pool_folder(folder, each), each) for each in map(settings, options.rows)]
        kernel_cache = scratch / "kernels"
        warm_up = warm_kernel(scratch, kernel_cache, settings)
        print(
            f"{warm_up['rows']:,} rows: {warm_up['with_compilation']:.2f} s with compilation of the kernels, "
            f"{warm_up['without_compilation']:.2f} s without",
            flush=True,
        )
        reports = [bench_pool(pool, folder, kernel_cache, options) for pool in pools]
    write_result(options.json, {"machine": describe_machine(), "warm_up": warm_up, "sizes": reports})


if __name__ == "__main__":
    main()
