"""Time #InsTag's passes at the size of Tulu3, and compare them with the published code on a part of the pool.

    python scripts/bench/instag.py

The published code loops over a Python list of the remaining rows and removes each row it takes. Its picks and ours are
compared. Labels are those of ``bench/make_pool.py``. The first call compiles into an empty cache and is reported
separately; seconds are the best of three later calls, including the sorting of the rows. Results go to stdout as a
table, and to a JSON file with ``--json``.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # scripts/

from bench.options import make_parser
from bench.pool.arrays import draw_arrays
from bench.pool.rows import RowModel
from bench.results import describe_machine, print_figures, write_result
from bench.timing import fastest_of, timed
from mig_selector.arrays import RowLabels, Selection
from mig_selector.selection.method import Candidates
from mig_selector.selection.methods.instag import instag


@dataclass(frozen=True)
class Result:
    """Results of one run of this script."""

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
    """Choose rows with Python lists and sets, as published; return them and the seconds."""
    bounds = zip(labels.offsets[:-1], labels.offsets[1:], strict=True)
    label_sets = [set(labels.ids[start:end].tolist()) for start, end in bounds]
    return timed(lambda: _pass_by_pass(label_sets, budget))


def _pass_by_pass(label_sets: list[set[int]], budget: int) -> list[int]:
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
    return chosen


def our_picks(labels: RowLabels, budget: int) -> tuple[Selection, int]:
    """Choose rows with the package; return them and the number of passes."""
    passes: list[int] = []
    selection = instag(Candidates(len(labels.offsets) - 1, labels=labels), budget, on_progress=passes.append)
    return selection, len(passes)


def compare(options: argparse.Namespace) -> Result:
    """Time the package on the whole pool, and both ways on a part of it."""
    labels = make_labels(options.seed, options.labels, options.rows)
    _, first_seconds = timed(lambda: our_picks(labels, options.picks))
    (_, num_passes), seconds = fastest_of(3, lambda: our_picks(labels, options.picks))
    part = make_labels(options.seed, options.labels, options.compared_rows)
    expected, published_seconds = published_picks(part, options.compared_picks)
    (found, _), part_seconds = fastest_of(3, lambda: our_picks(part, options.compared_picks))
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
    parser = make_parser(__doc__)
    parser.add_argument("--rows", type=int, default=939_000)
    parser.add_argument("--picks", type=int, default=50_000)
    parser.add_argument(
        "--compared-rows", type=int, default=100_000, help="rows in the part of the pool that both ways choose from"
    )
    parser.add_argument("--compared-picks", type=int, default=10_000)
    parser.add_argument("--labels", type=int, default=4_531)
    options = parser.parse_args()
    if options.compared_picks > options.compared_rows:
        parser.error("--compared-picks must be at most --compared-rows: the published code would loop forever")
    with tempfile.TemporaryDirectory() as kernel_cache:
        os.environ["NUMBA_CACHE_DIR"] = kernel_cache
        result = asdict(compare(options))
    print_figures(result)
    write_result(options.json, result)


if __name__ == "__main__":
    main()
