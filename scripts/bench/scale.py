"""Measure how seconds and memory of ``mig-selector select`` grow with the pool: 1M, 10M and 100M rows of Parquet.

    python scripts/bench/scale.py --folder /large/disk
    python scripts/bench/scale.py --rows 1000000,10000000 --json result.json

On each size one selection is made in a process of its own, interpreter and imports included, with an empty cache and
with kernels that were compiled before. The pool is compact Parquet (labels, scores and very short messages, about 22
bytes a row; ``bench/make_pool.py``), read once before, so that it is in the page cache where that is large enough.

Given are wall seconds; the peak of the memory summed over the process tree, sampled from /proc (shared pages count
once for each process: an upper bound); memory per row, in all and as the slope from one size to the next; the seconds
of the stages; and the exponent of growth, the slope of log seconds over log rows: of a least-squares line, from the
first size to the last, and between the last two, where the fixed cost of a start counts least. Memory at 100M rows is
extrapolated by the last slope where that size is not measured. The free disk is checked before anything is made.
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

from bench.pool.folder import MadePool, PoolSettings, make_pool
from bench.workspace import (
    Workplace,
    benchmark_folder,
    describe_machine,
    parse_sizes,
    pool_bytes,
    pool_folder,
    report_run,
    require_disk,
    scratch_folder,
    warm_kernel,
    write_result,
)


LARGEST_ROWS, LARGEST_GB = 100_000_000, 16.0
EXPONENT = 1.1

_WORK_BYTES_PER_ROW = 80
"""Disk for what a selection may keep of each row of the pool in its cache."""
_WORK_BYTES = 500_000_000
"""Disk for subsets, kernels and label vectors."""


def bench_size(folder: Path, kernel_cache: Path, rows: int, options: argparse.Namespace) -> dict[str, Any]:
    """Make or find the pool of one size, select from it, and remove the pool where nobody asked to keep it."""
    settings = _settings(rows, options.seed, options.files)
    pool = make_pool(pool_folder(folder, settings), settings)
    _read_bytes(pool)
    budget = min(options.budget, rows)
    with scratch_folder(folder) as scratch:
        place, runs = Workplace(pool, scratch / "selecting", kernel_cache), []
        for _ in range(options.repeats):
            place.clear()
            runs.append(place.select(budget))
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
    """Say how seconds and memory grow from size to size; nothing where there is only one."""
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
    """Return GB at 100M rows: the last size's, moved along the slope."""
    return float(last["tree_peak_mb"] / 1e3 + slope * (LARGEST_ROWS - last["rows"]) / 1e9)


def targets(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Hold the growth against its limits."""
    limits = {
        "gb_at_100m_rows": LARGEST_GB,
        "exponent_least_squares": EXPONENT,
        "exponent_first_to_last": EXPONENT,
        "exponent_last_two": EXPONENT,
    }
    return [
        {"name": name, "limit": limit, "found": found[name], "is_met": found[name] <= limit}
        for name, limit in limits.items()
        if name in found
    ]


def print_size(size: dict[str, Any]) -> None:
    """Print one line of the table."""
    stages = ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in size["stages"].items())
    print(
        f"{size['rows']:>13,} {size['bytes'] / 1e6:9,.0f} {size['seconds']:9.2f} {size['main_peak_mb']:9,.0f} "
        f"{size['tree_peak_mb']:9,.0f} {size['bytes_of_memory_per_row']:9,.1f}  {stages}",
        flush=True,
    )


def print_growth(found: dict[str, Any]) -> None:
    """Print the growth, and the targets."""
    if not found:
        return
    print(f"\nbytes of memory per row from size to size: {', '.join(map(str, found['bytes_per_row_between_sizes']))}")
    print(f"{'target':32} {'limit':>9} {'found':>9}")
    for target in targets(found):
        verdict = "met" if target["is_met"] else "missed"
        guess = " (extrapolated)" if target["name"] == "gb_at_100m_rows" and found["is_extrapolated"] else ""
        print(f"{target['name']:32} {target['limit']:9.1f} {target['found']:9.2f}  {verdict}{guess}")


def _settings(rows: int, seed: int, files: int = 1) -> PoolSettings:
    return PoolSettings(rows=rows, kind="parquet", seed=seed, files=files)


def _needed_bytes(folder: Path, options: argparse.Namespace) -> int:
    """Estimate the disk that is taken at once: all pools that stay, or the largest of those that do not."""
    pools = [pool_bytes(folder, _settings(rows, options.seed, options.files)) for rows in options.rows]
    kept = max(pools) if options.folder is None else sum(pools)
    return kept + max(options.rows) * _WORK_BYTES_PER_ROW + _WORK_BYTES


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rows", type=parse_sizes, default="1000000,10000000,100000000", help="sizes, separated by commas"
    )
    parser.add_argument("--budget", type=int, default=100_000, help="rows to choose, at most all")
    parser.add_argument("--repeats", type=int, default=1, help="selections on each size, of which the fastest counts")
    parser.add_argument("--files", type=int, default=1, help="Parquet files of each pool")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where pools lie and stay; default a temporary folder")
    parser.add_argument("--json", type=Path, help="write the result here, too")
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
        "targets": targets(found),
    }
    write_result(options.json, result)


if __name__ == "__main__":
    main()
