"""Time ZIP, compared with the published code, which compresses the whole list of chosen rows for each candidate.

    python scripts/bench/zip.py

Both measure the same candidates, drawn at random, each added to the same 5,000 chosen rows, one after the other on one
core; all sizes must be equal. Then a small selection runs on one core and on all cores; both must choose the same
rows. The time of a selection at full size is extrapolated from these seconds, not measured. Rows are those of
``bench/make_pool.py``. Results go to stdout as a table, and to a JSON file with ``--json``.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # scripts/

import numpy as np

from bench.options import make_parser
from bench.pool.json_lines import JsonLines
from bench.pool.rows import RowModel
from bench.results import describe_machine, print_figures, write_result
from bench.timing import timed
from mig_selector.arrays import Selection
from mig_selector.selection.method import Candidates
from mig_selector.selection.methods.zip import CompressedList, least_redundant


REPEATS = 20
"""Passes over the sample: a single pass of the package is too short to time."""
FULL_ROWS, FULL_BUDGET = 939_000, 50_000

Row = dict[str, Any]


@dataclass
class Settings:
    """The keys ``mig_zip_k1``, ``mig_zip_k2`` and ``mig_zip_k3``."""

    k1: int
    k2: int
    k3: int

    @property
    def candidates_of_a_round(self) -> int:
        """Measurements in one round: k1 rows, then k2 of them, k2 - 1 and so on, once for each of the k3 choices."""
        return self.k1 + sum(range(self.k2 - self.k3 + 1, self.k2 + 1))


@dataclass
class Result:
    """Results of one run of this script; seconds are for one candidate on one core, unless the name says otherwise."""

    machine: dict[str, Any]
    rows: int
    bytes_per_row: float
    chosen: int
    sample: int
    published_seconds: float
    seconds: float
    ratio: float
    sizes_are_equal: bool
    seconds_alone: float
    budget: int
    selection_seconds_on_one_core: float
    selection_seconds_on_all_cores: float
    speedup_of_all_cores: float
    selections_are_equal: bool
    extrapolated_hours: float


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """Restrict the block, and the threads that it starts, to one of the usable cores."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def make_rows(count: int, seed: int) -> list[Row]:
    """Draw rows of about 3 KB."""
    return [json.loads(line) for _, lines in JsonLines(RowModel(seed)).chunks(count) for line in lines.splitlines()]


def published_ratio(rows: list[Row]) -> float:
    """Return the compression ratio of a list of rows, compressed as a whole."""
    text = str(rows).encode()
    return len(text) / len(zlib.compress(text, 9))


def ratios_with(compressed: CompressedList, rows: list[Row]) -> list[float]:
    """Return the compression ratio of a list together with each of some rows."""
    return [compressed.ratio_with(str(row).encode()) for row in rows]


def seconds_for_a_row(compressed: CompressedList, rows: list[Row]) -> float:
    """Return the seconds for one row, averaged over many passes."""
    return timed(lambda: [ratios_with(compressed, rows) for _ in range(REPEATS)])[1] / (REPEATS * len(rows))


def compare(chosen: list[Row], sample: list[Row]) -> dict[str, Any]:
    """Measure the sample as published and with the package."""
    compressed = CompressedList()
    for row in chosen:
        compressed.append(str(row).encode())
    published, seconds = timed(lambda: [published_ratio([*chosen, row]) for row in sample])
    found = seconds_for_a_row(compressed, sample)
    return {
        "published_seconds": seconds / len(sample),
        "seconds": found,
        "ratio": seconds / len(sample) / found,
        "sizes_are_equal": ratios_with(compressed, sample) == published,
        "seconds_alone": seconds_for_a_row(CompressedList(), sample),
    }


def select(rows: list[Row], budget: int, settings: Settings) -> Selection:
    """Run a selection to the end."""
    pool = Candidates(len(rows), records=lambda: iter(rows))
    keys = {"zip_k1": settings.k1, "zip_k2": settings.k2, "zip_k3": settings.k3}
    return least_redundant(pool, budget, **keys, on_progress=lambda count: None)


def compare_cores(rows: list[Row], budget: int, settings: Settings) -> dict[str, Any]:
    """Select on one core and on all cores, alternately; the fastest of three runs counts."""
    on_one, on_all = [], []
    for _ in range(3):
        with one_core():
            on_one.append(timed(lambda: select(rows, budget, settings)))
        on_all.append(timed(lambda: select(rows, budget, settings)))
    one, all_cores = (min(seconds for _, seconds in runs) for runs in (on_one, on_all))
    (left, _), (right, _) = on_one[0], on_all[0]
    return {
        "selection_seconds_on_one_core": one,
        "selection_seconds_on_all_cores": all_cores,
        "speedup_of_all_cores": one / all_cores,
        "selections_are_equal": np.array_equal(left.rows, right.rows) and np.array_equal(left.gains, right.gains),
    }


def extrapolate_hours(found: dict[str, Any], settings: Settings) -> float:
    """Estimate the hours of a selection at full size on all cores from the seconds of single candidates.

    Candidates are assumed to be as long as the average row. Reading the pool is not included.
    """
    rounds = -(-FULL_BUDGET // settings.k3)
    seconds = FULL_ROWS * found["seconds_alone"] + rounds * settings.candidates_of_a_round * found["seconds"]
    return float(seconds / found["speedup_of_all_cores"] / 3600)


def print_result(result: Result) -> None:
    """Print the figures, and the extrapolated hours in a sentence."""
    print_figures(asdict(result))
    size = f"{FULL_BUDGET:,} of {FULL_ROWS:,} rows, {result.machine['cores']} cores"
    print(f"extrapolated, not measured: {size}: {result.extrapolated_hours:.2f} hours")


def main() -> None:
    """Run the benchmark."""
    parser = make_parser(__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--chosen", type=int, default=5_000, help="chosen rows to which each candidate is added")
    parser.add_argument("--sample", type=int, default=16, help="number of candidates")
    parser.add_argument("--budget", type=int, default=100, help="budget of the selection that runs to the end")
    parser.add_argument("--k1", type=int, default=10_000)
    parser.add_argument("--k2", type=int, default=200)
    parser.add_argument("--k3", type=int, default=100)
    options = parser.parse_args()
    if options.chosen + options.sample > options.rows:
        parser.error("--rows must be at least --chosen plus --sample")

    settings = Settings(options.k1, options.k2, options.k3)
    rows = make_rows(options.rows, options.seed)
    drawn = np.random.default_rng(options.seed).permutation(options.rows)[: options.chosen + options.sample].tolist()
    with one_core():
        found = compare([rows[i] for i in drawn[: options.chosen]], [rows[i] for i in drawn[options.chosen :]])
    found |= compare_cores(rows, options.budget, settings)
    result = Result(
        machine=describe_machine(),
        rows=options.rows,
        bytes_per_row=sum(len(str(row).encode()) for row in rows) / len(rows),
        chosen=options.chosen,
        sample=options.sample,
        budget=options.budget,
        extrapolated_hours=extrapolate_hours(found, settings),
        **found,
    )
    print_result(result)
    write_result(options.json, asdict(result))


if __name__ == "__main__":
    main()
