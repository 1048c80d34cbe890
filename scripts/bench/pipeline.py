"""Time the whole command ``mig-selector select`` on JSON Lines of 3 KB rows, against reading the file line by line.

    python scripts/bench/pipeline.py
    python scripts/bench/pipeline.py --rows 200000 --repeats 5 --folder pools --json result.json

Four things are timed on each size, each in a process of its own, interpreter and imports included, with the pool in
the page cache:

- reading: ``for line in open(path, 'rb'): pass`` in Python; the best of those before and after the cold selections
- cold: a selection with an empty cache and no subset yet; label vectors are given, so no encoder is loaded
- cached: other settings (``mig_edge_threshold``, ``mig_phi_exponent``) with the cache that the cold one left
- same: the settings of the cold selection again, whose subset is there

Each figure is the best of several runs. Memory is sampled from /proc: the peak resident set of the process that was
started, and the peak of the sum over its process tree, in which shared pages count once for each process (an upper
bound; the sum of proportional sets stands beside it). The targets on memory are held against the sum. Kernels are
compiled before, by a tiny selection into an empty compilation cache; its seconds are given apart. The seconds of the
stages come from manifest.json. Pools are those of ``bench/make_pool.py``; in ``--folder`` they stay for later runs.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # scripts/

from bench.command import Measured
from bench.pool.folder import MadePool, PoolSettings, make_pool
from bench.workspace import (
    Run,
    Workplace,
    benchmark_folder,
    describe_machine,
    fastest,
    parse_sizes,
    pool_bytes,
    pool_folder,
    read_plainly,
    report_measured,
    report_run,
    require_disk,
    scratch_folder,
    settle,
    warm_kernel,
    write_result,
)


COLD_FACTOR, COLD_MB = 4.0, 1_500.0
CACHED_SECONDS, CACHED_MB = 6.0, 500.0
SAME_SECONDS = 1.5

_OTHER_THRESHOLD, _OTHER_EXPONENT, _EXPONENT_STEP = 0.85, 0.7, 0.01
_WORK_BYTES_PER_ROW = 4_000
"""Disk for subsets and caches, per row of the budget and run."""


@dataclass(frozen=True)
class Target:
    """A figure and its limit."""

    name: str
    limit: float
    found: float

    @property
    def is_met(self) -> bool:
        """Whether the figure is within the limit."""
        return self.found <= self.limit


@dataclass(frozen=True)
class Timings:
    """All runs on one pool."""

    reading: list[Measured]
    cold: list[Run]
    cached: list[Run]
    same: list[Run]

    @property
    def reading_seconds(self) -> float:
        """Seconds of the fastest plain reading."""
        return min(measured.seconds for measured in self.reading)

    def targets(self) -> list[Target]:
        """Hold the figures against their limits."""
        cold, cached, same = (fastest(runs).measured for runs in (self.cold, self.cached, self.same))
        return [
            Target("cold, times reading", COLD_FACTOR, round(cold.seconds / self.reading_seconds, 2)),
            Target("cold, MB of the process tree", COLD_MB, _most_memory(self.cold)),
            Target("cached, seconds", CACHED_SECONDS, cached.seconds),
            Target("cached, MB of the process tree", CACHED_MB, _most_memory(self.cached)),
            Target("same, seconds", SAME_SECONDS, same.seconds),
        ]


def time_pool(place: Workplace, budget: int, cold_repeats: int, repeats: int) -> Timings:
    """Run everything on one pool."""
    path = place.pool.files[0]
    read_plainly(path)  # into the page cache
    reading, cold = [read_plainly(path)], []
    for _ in range(cold_repeats):
        place.clear()
        cold.append(place.select(budget))
        reading.append(read_plainly(path))
    same = [place.select(budget) for _ in range(repeats)]
    if {run.folder for run in same} != {cold[-1].folder}:
        raise RuntimeError("the same settings led to another subset")
    return Timings(reading, cold, [_select_otherwise(place, budget, number) for number in range(repeats)], same)


def _select_otherwise(place: Workplace, budget: int, number: int) -> Run:
    """Select with settings that no run before had."""
    exponent = round(_OTHER_EXPONENT + number * _EXPONENT_STEP, 4)
    return place.select(budget, mig_edge_threshold=_OTHER_THRESHOLD, mig_phi_exponent=exponent)


def _most_memory(runs: list[Run]) -> float:
    return max(run.measured.tree_peak_mb for run in runs)


def report_pool(pool: MadePool, budget: int, timings: Timings) -> dict[str, Any]:
    """Describe all runs on one pool."""
    targets = timings.targets()
    return {
        "rows": pool.facts["settings"]["rows"],
        "bytes": pool.num_bytes,
        "budget": budget,
        "reading": report_measured(timings.reading),
        "cold": report_run(timings.cold),
        "cached": report_run(timings.cached),
        "same": report_run(timings.same),
        "cold_to_reading": targets[0].found,
        "targets": [{**asdict(target), "is_met": target.is_met} for target in targets],
    }


def print_report(report: dict[str, Any]) -> None:
    """Print the runs on one pool as a table, then the targets."""
    print(f"\n{report['rows']:,} rows, {report['bytes'] / 1e6:,.0f} MB, budget {report['budget']:,}")
    print(f"{'':8} {'seconds':>9} {'main MB':>9} {'tree MB':>9} {'PSS MB':>9} {'processes':>9}  stages")
    for name in ("reading", "cold", "cached", "same"):
        run = report[name]
        stages = ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in run.get("stages", {}).items())
        print(
            f"{name:8} {run['seconds']:9.3f} {run['main_peak_mb']:9,.0f} {run['tree_peak_mb']:9,.0f} "
            f"{run['tree_peak_pss_mb']:9,.0f} {run['most_processes']:9}  {stages}"
        )
    print(f"\n{'target':32} {'limit':>9} {'found':>9}")
    for target in report["targets"]:
        verdict = "met" if target["is_met"] else "missed"
        print(f"{target['name']:32} {target['limit']:9,.1f} {target['found']:9,.2f}  {verdict}", flush=True)


def bench_pool_of(pool: MadePool, folder: Path, kernel_cache: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Run everything on one pool."""
    settle(pool)
    budget = min(options.budget, pool.facts["settings"]["rows"])
    with scratch_folder(folder) as scratch:
        place = Workplace(pool, scratch / "selecting", kernel_cache)
        return report_pool(pool, budget, time_pool(place, budget, options.cold_repeats, options.repeats))


def _settings(rows: int, seed: int) -> PoolSettings:
    return PoolSettings(rows=rows, kind="jsonl", seed=seed)


def _needed_bytes(folder: Path, sizes: list[int], options: argparse.Namespace) -> int:
    pools = sum(pool_bytes(folder, _settings(size, options.seed)) for size in sizes)
    return pools + (options.repeats + 1) * min(options.budget, max(sizes)) * _WORK_BYTES_PER_ROW


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=parse_sizes, default="200000,939000", help="sizes, separated by commas")
    parser.add_argument("--budget", type=int, default=50_000, help="rows to choose, at most all")
    parser.add_argument("--repeats", type=int, default=3, help="runs with other and with the same settings")
    parser.add_argument("--cold-repeats", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where pools lie and stay; default a temporary folder")
    parser.add_argument("--json", type=Path, help="write the result here, too")
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
        reports = []
        for pool in pools:
            reports.append(bench_pool_of(pool, folder, kernel_cache, options))
            print_report(reports[-1])
    write_result(options.json, {"machine": describe_machine(), "warm_up": warm_up, "sizes": reports})


if __name__ == "__main__":
    main()
