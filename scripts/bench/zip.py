"""Time ZIP against the published way, which compresses the whole list of chosen rows anew for each candidate.

    python scripts/bench/zip.py

Both ways measure the same candidates, drawn at random, each added to the same 5,000 chosen rows, one after the other
on one core; every size must be the same. A small selection then runs on one core and on all, and must be the same,
too. What a selection at full size takes is extrapolated from these seconds: it is not measured. Rows are those of
``bench/make_pool.py``. Results go to stdout as a table, and to a JSON file with ``--json``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # scripts/

import numpy as np

from bench.pool.json_lines import JsonLines
from bench.pool.rows import RowModel
from bench.workspace import describe_machine, write_result
from mig_selector.arrays import Selection
from mig_selector.selection.method import Candidates
from mig_selector.selection.methods.zip import CompressedList, least_redundant


REPEATS = 20
"""One pass over the sample takes too little time to be told, but for the published way."""
FULL_ROWS, FULL_BUDGET = 939_000, 50_000

Row = dict[str, Any]
Outcome = TypeVar("Outcome")


@dataclass
class Settings:
    """``mig_zip_k1``, ``mig_zip_k2``, ``mig_zip_k3``."""

    k1: int
    k2: int
    k3: int

    @property
    def candidates_of_a_round(self) -> int:
        """What a round measures: k1 rows, then k2 of them, k2 - 1, and so on, once for each of k3 choices."""
        return self.k1 + sum(range(self.k2 - self.k3 + 1, self.k2 + 1))


@dataclass
class Result:
    """What one run of this script found; seconds are those of one candidate on one core, unless said."""

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
    """Run the block, and the threads that it starts, on one of the cores that may be used."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def make_rows(count: int, seed: int) -> list[Row]:
    """Draw rows of about 3 KB."""
    return [json.loads(line) for _, lines in JsonLines(RowModel(seed)).chunks(count) for line in lines.splitlines()]


def timed(work: Callable[[], Outcome]) -> tuple[Outcome, float]:
    """Return what `work` returns, and its seconds."""
    start = time.perf_counter()
    outcome = work()
    return outcome, time.perf_counter() - start


def published_ratio(rows: list[Row]) -> float:
    """Compress the whole list."""
    text = str(rows).encode()
    return len(text) / len(zlib.compress(text, 9))


def ratios_with(compressed: CompressedList, rows: list[Row]) -> list[float]:
    """Measure each of some rows together with a list."""
    return [compressed.ratio_with(str(row).encode()) for row in rows]


def repeat(compressed: CompressedList, rows: list[Row]) -> float:
    """Return the seconds of one row, over many passes."""
    return timed(lambda: [ratios_with(compressed, rows) for _ in range(REPEATS)])[1] / (REPEATS * len(rows))


def compare(chosen: list[Row], sample: list[Row]) -> dict[str, Any]:
    """Measure the sample both ways."""
    compressed = CompressedList()
    for row in chosen:
        compressed.append(str(row).encode())
    published, seconds = timed(lambda: [published_ratio([*chosen, row]) for row in sample])
    found = repeat(compressed, sample)
    return {
        "published_seconds": seconds / len(sample),
        "seconds": found,
        "ratio": seconds / len(sample) / found,
        "sizes_are_equal": ratios_with(compressed, sample) == published,
        "seconds_alone": repeat(CompressedList(), sample),
    }


def select(rows: list[Row], budget: int, settings: Settings) -> Selection:
    """Run a whole selection."""
    pool = Candidates(len(rows), records=lambda: iter(rows))
    keys = {"zip_k1": settings.k1, "zip_k2": settings.k2, "zip_k3": settings.k3}
    return least_redundant(pool, budget, **keys, on_progress=lambda count: None)


def compare_cores(rows: list[Row], budget: int, settings: Settings) -> dict[str, Any]:
    """Select on one core and on all, in turn; the fastest of three runs counts."""
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
    """Tell from the seconds of single candidates what a selection at full size takes on all cores.

    Candidates are taken to be as long as the average row. Reading the pool is left out.
    """
    rounds = -(-FULL_BUDGET // settings.k3)
    seconds = FULL_ROWS * found["seconds_alone"] + rounds * settings.candidates_of_a_round * found["seconds"]
    return float(seconds / found["speedup_of_all_cores"] / 3600)


def print_result(result: Result) -> None:
    """Print the figures."""
    for name, value in asdict(result).items():
        print(f"{name:32} {f'{value:,.6g}' if isinstance(value, float) else value}")
    size = f"{FULL_BUDGET:,} of {FULL_ROWS:,} rows, {result.machine['cores']} cores"
    print(f"extrapolated, not measured: {size}: {result.extrapolated_hours:.2f} hours")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--chosen", type=int, default=5_000, help="rows that candidates are measured together with")
    parser.add_argument("--sample", type=int, default=16, help="candidates that are measured both ways")
    parser.add_argument("--budget", type=int, default=100, help="of the selection that runs whole")
    parser.add_argument("--k1", type=int, default=10_000)
    parser.add_argument("--k2", type=int, default=200)
    parser.add_argument("--k3", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the result here, too")
    options = parser.parse_args()
    if options.chosen + options.sample > options.rows:
        parser.error("--rows must be at least --chosen and --sample together")

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
