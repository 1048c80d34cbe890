"""Time #InsTag's passes at the size of Tulu3, and against the published way on a part of the pool.

    python scripts/bench/instag.py

The published way goes over a Python list of all rows left and removes each row taken from it. Its picks and ours are
compared. Labels are those of ``bench/make_pool.py``. The first call compiles into an empty cache and is given apart;
seconds are the best of three later calls, the sorting of the rows included. Results go to stdout as a table, and to a
JSON file with ``--json``.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # scripts/

from bench.pool.arrays import draw_arrays
from bench.pool.rows import RowModel
from bench.workspace import describe_machine, write_result
from mig_selector.arrays import RowLabels, Selection
from mig_selector.selection.method import Candidates
from mig_selector.selection.methods.instag import instag


@dataclass(frozen=True)
class Result:
    """What one run of this script found."""

    machine: dict[str, Any]
    labels: int
    rows: int
    picks: int
    passes: int
    first_call_seconds: float
    seconds: float
    compared_rows: int
    compared_picks: int
    compared_seconds: float
    published_seconds: float
    ratio: float
    same_picks: bool


def make_labels(seed: int, num_labels: int, num_rows: int) -> RowLabels:
    """Draw the labels of the first `num_rows` rows."""
    offsets, ids, _ = draw_arrays(RowModel(seed, num_labels), num_rows)
    return RowLabels([f"{label:06}" for label in range(num_labels)], offsets, ids)


def published_picks(labels: RowLabels, budget: int) -> tuple[list[int], float]:
    """Choose rows by lists and sets of Python, as published; return them and the seconds."""
    bounds = zip(labels.offsets[:-1], labels.offsets[1:], strict=True)
    label_sets = [set(labels.ids[start:end].tolist()) for start, end in bounds]
    start = time.perf_counter()
    rows_left = sorted(range(len(label_sets)), key=lambda row: len(label_sets[row]), reverse=True)
    chosen: list[int] = []
    while len(chosen) < budget:
        seen: set[int] = set()
        for row in rows_left.copy():
            if len(seen | label_sets[row]) > len(seen):
                seen |= label_sets[row]
                rows_left.remove(row)
                chosen.append(row)
            if len(chosen) == budget:
                break
    return chosen, time.perf_counter() - start


def timed(labels: RowLabels, budget: int) -> tuple[Selection, int, float]:
    """Choose rows by passes; return them, the number of passes and the seconds."""
    passes: list[int] = []
    start = time.perf_counter()
    selection = instag(Candidates(len(labels.offsets) - 1, labels=labels), budget, on_progress=passes.append)
    return selection, len(passes), time.perf_counter() - start


def best_of_three(labels: RowLabels, budget: int) -> tuple[Selection, int, float]:
    """Return the fastest of three equal runs."""
    return min((timed(labels, budget) for _ in range(3)), key=lambda run: run[2])


def compare(options: argparse.Namespace) -> Result:
    """Time both ways."""
    labels = make_labels(options.seed, options.labels, options.rows)
    *_, first_seconds = timed(labels, options.picks)
    _, num_passes, seconds = best_of_three(labels, options.picks)
    part = make_labels(options.seed, options.labels, options.compared_rows)
    expected, published_seconds = published_picks(part, options.compared_picks)
    found, _, part_seconds = best_of_three(part, options.compared_picks)
    return Result(
        machine=describe_machine(),
        labels=options.labels,
        rows=options.rows,
        picks=options.picks,
        passes=num_passes,
        first_call_seconds=first_seconds,
        seconds=seconds,
        compared_rows=options.compared_rows,
        compared_picks=options.compared_picks,
        compared_seconds=part_seconds,
        published_seconds=published_seconds,
        ratio=published_seconds / part_seconds,
        same_picks=found.rows.tolist() == expected,
    )


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=939_000)
    parser.add_argument("--picks", type=int, default=50_000)
    parser.add_argument("--compared-rows", type=int, default=100_000, help="rows of the part chosen from both ways")
    parser.add_argument("--compared-picks", type=int, default=10_000)
    parser.add_argument("--labels", type=int, default=4_531)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the result here, too")
    options = parser.parse_args()
    if options.compared_picks > options.compared_rows:
        parser.error("the published way never ends where more rows are to be chosen than there are")
    with tempfile.TemporaryDirectory() as kernel_cache:
        os.environ["NUMBA_CACHE_DIR"] = kernel_cache
        result = asdict(compare(options))
    for name, value in result.items():
        print(f"{name:20} {value:,.4g}" if isinstance(value, float) else f"{name:20} {value}")
    write_result(options.json, result)


if __name__ == "__main__":
    main()
