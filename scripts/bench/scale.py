"""Measure how time and memory of ``mig-selector select`` grow with the pool: 1M, 10M and 100M rows of Parquet.

    python scripts/bench/scale.py --folder /large/disk
    python scripts/bench/scale.py --rows 1000000,10000000 --json result.json

For each size one selection is run in its own process, including the interpreter and imports, with an empty cache and
kernels that were compiled beforehand. The pool is compact Parquet (labels, scores and very short messages, about 22
bytes a row; ``bench/make_pool.py``). It is read once before, so that it is in the page cache if that is large enough.

Reported are wall seconds; peak memory summed over the process tree, sampled from /proc (shared pages are counted once
for each process: an upper bound); memory per row, in total and as the slope from one size to the next; seconds of the
stages; and the exponent of growth, the slope of log seconds over log rows: of a least-squares line, from the first
size to the last, and between the last two, where the fixed cost of starting matters least. Memory at 100M rows is
extrapolated along the last slope if that size is not measured. Free disk space is checked before anything is made.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
from functools import partial
from pathlib import Path
from typing import Any


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # scripts/

import numpy as np

from bench.folders import benchmark_folder, require_disk, scratch_folder
from bench.options import make_parser, parse_sizes
from bench.pool.folder import MadePool, PoolSettings, make_pool
from bench.results import Target, describe_machine, print_targets, write_result
from bench.workspace import Workspace, pool_bytes, pool_folder, report_run, warm_kernel


LARGEST_ROWS, LARGEST_GB = 100_000_000, 16.0
EXPONENT = 1.1

_WORK_BYTES_PER_ROW = 80
"""Disk space of a selection's cache, for each row of the pool."""
_WORK_BYTES = 500_000_000
"""Disk space of subsets, kernels and label vectors."""


def bench_size(folder: Path, kernel_cache: Path, rows: int, options: argparse.Namespace) -> dict[str, Any]:
    """Make or reuse the pool of one size, and select from it; in a temporary folder, remove the pool at once."""
    settings = _settings(rows, options.seed, options.files)
    pool = make_pool(pool_folder(folder, settings), settings)
    _read_bytes(pool)
    budget = min(options.budget, rows)
    with scratch_folder(folder) as scratch:
        workspace, runs = Workspace(pool, scratch / "selecting", kernel_cache), []
        for _ in range(options.repeats):
            workspace.clear()
            runs.append(workspace.select(budget))
    size = pool.num_bytes
    if options.folder is None:
        for file in pool.files:
            file.unlink()
    run = report_run(runs)
    return {
        "rows": rows,
        "bytes": size,
        "budget": budget,
        **run,
        "bytes_of_memory_per_row": round(run["tree_peak_mb"] * 1e6 / rows, 1),
    }


def _read_bytes(pool: MadePool) -> None:
    """Bring the files into the page cache."""
    for file in pool.files:
        with file.open("rb") as stream:
            while stream.read(1 << 24):
                pass


def growth(sizes: list[dict[str, Any]]) -> dict[str, Any]:
    """Return how time and memory grow from size to size; nothing if there is only one size."""
    if len(sizes) < 2:
        return {}
    rows, seconds = ([math.log(size[name]) for size in sizes] for name in ("rows", "seconds"))
    slopes = [
        round((after["tree_peak_mb"] - before["tree_peak_mb"]) * 1e6 / (after["rows"] - before["rows"]), 1)
        for before, after in itertools.pairwise(sizes)
    ]
    return {
        "exponent_least_squares": round(float(np.polyfit(rows, seconds, 1)[0]), 3),
        "exponent_first_to_last": round((seconds[-1] - seconds[0]) / (rows[-1] - rows[0]), 3),
        "exponent_last_two": round((seconds[-1] - seconds[-2]) / (rows[-1] - rows[-2]), 3),
        "bytes_per_row_between_sizes": slopes,
        "gb_at_100m_rows": round(_memory_at_largest(sizes[-1], slopes[-1]), 2),
        "is_extrapolated": sizes[-1]["rows"] < LARGEST_ROWS,
    }


def _memory_at_largest(last: dict[str, Any], slope: float) -> float:
    """Return the GB at 100M rows: those of the last size, moved along the slope."""
    return float(last["tree_peak_mb"] / 1e3 + slope * (LARGEST_ROWS - last["rows"]) / 1e9)


def targets(found: dict[str, Any]) -> list[Target]:
    """Compare the growth with its limits."""
    limits = {
        "gb_at_100m_rows": LARGEST_GB,
        "exponent_least_squares": EXPONENT,
        "exponent_first_to_last": EXPONENT,
        "exponent_last_two": EXPONENT,
    }
    return [Target(name, limit, found[name]) for name, limit in limits.items() if name in found]


def print_size(size: dict[str, Any]) -> None:
    """Print one line of the table."""
    stages = ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in size["stages"].items())
    print(
        f"{size['rows']:>13,} {size['bytes'] / 1e6:9,.0f} {size['seconds']:9.2f} {size['main_peak_mb']:9,.0f} "
        f"{size['tree_peak_mb']:9,.0f} {size['bytes_of_memory_per_row']:9,.1f}  {stages}",
        flush=True,
    )


def print_growth(found: dict[str, Any]) -> None:
    """Print how memory grows, and the targets."""
    if not found:
        return
    slopes = ", ".join(map(str, found["bytes_per_row_between_sizes"]))
    print(f"\nbytes of memory for each additional row, from size to size: {slopes}")
    print_targets(targets(found), extrapolated=["gb_at_100m_rows"] if found["is_extrapolated"] else [])


def _settings(rows: int, seed: int, files: int = 1) -> PoolSettings:
    return PoolSettings(rows=rows, kind="parquet", seed=seed, files=files)


def _needed_bytes(folder: Path, options: argparse.Namespace) -> int:
    """Estimate the disk space needed at one time: all pools if they are kept, else the largest."""
    pools = [pool_bytes(folder, _settings(rows, options.seed, options.files)) for rows in options.rows]
    kept = max(pools) if options.folder is None else sum(pools)
    largest: int = max(options.rows)
    return kept + largest * _WORK_BYTES_PER_ROW + _WORK_BYTES


def main() -> None:
    """Run the benchmark."""
    parser = make_parser(__doc__)
    parser.add_argument(
        "--rows", type=parse_sizes, default="1000000,10000000,100000000", help="pool sizes, separated by commas"
    )
    parser.add_argument("--budget", type=int, default=100_000, help="rows to choose; of a smaller pool, all")
    parser.add_argument("--repeats", type=int, default=1, help="selections for each size; the fastest counts")
    parser.add_argument("--files", type=int, default=1, help="Parquet files in each pool")
    parser.add_argument("--folder", type=Path, help="where pools are kept (default: a temporary folder)")
    options = parser.parse_args()

    with benchmark_folder(options.folder) as folder, scratch_folder(folder) as scratch:
        require_disk(folder, _needed_bytes(folder, options))
        kernel_cache = scratch / "kernels"
        warm_up = warm_kernel(scratch, kernel_cache, partial(_settings, seed=options.seed))
        print(f"\n{'rows':>13} {'file MB':>9} {'seconds':>9} {'main MB':>9} {'tree MB':>9} {'B per row':>9}  stages")
        sizes = []
        for rows in options.rows:
            sizes.append(bench_size(folder, kernel_cache, rows, options))
            print_size(sizes[-1])
        found = growth(sizes)
        print_growth(found)
    result = {
        "machine": describe_machine(),
        "warm_up": warm_up,
        "sizes": sizes,
        "growth": found,
        "targets": [target.report() for target in targets(found)],
    }
    write_result(options.json, result)


if __name__ == "__main__":
    main()
