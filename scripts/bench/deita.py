"""Time DEITA's filter, compared with the published code, which converts and multiplies all kept vectors for each row.

    python scripts/bench/deita.py

Vectors are float64, as in the published code: random directions, and rows near one of them, as in a pool with
recurring prompts. The published code gathers the kept vectors, casts them to float32 and multiplies them with one
candidate (numpy, all cores). On a part of the pool it runs to the end, and its rows are compared with ours. On the
whole pool that would take too long, so it runs for some seconds on candidates spread evenly over those that the filter
visits, each with the rows that were kept before it. Its verdicts are compared with ours, and its seconds are
extrapolated to all candidates by the number of kept vectors that each is multiplied with. Our seconds are the best of
two calls. Results go to stdout as a table, and to a JSON file with ``--json``.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # scripts/

import numpy as np
from numpy.typing import NDArray

from bench.options import make_parser
from bench.results import describe_machine, print_figures, write_result
from bench.timing import fastest_of, timed
from mig_selector.selection.method import Candidates, best_first
from mig_selector.selection.methods.deita import deita


@dataclass(frozen=True)
class Vectors:
    """A pool: unit vectors, scores, and the order in which the filter visits the rows."""

    units: NDArray[np.float64]
    scores: NDArray[np.float64]
    order: NDArray[np.int64]


@dataclass(frozen=True)
class Result:
    """Results of one run of this script; `ratio` is extrapolated, `part_ratio` is measured."""

    machine: dict[str, Any]
    threshold: float
    dimensions: int
    rows: int
    kept: int
    looked_at: int
    seconds: float
    published_candidates: int
    published_candidate_seconds: float
    published_same_verdicts: bool
    published_seconds_extrapolated: float
    ratio: float
    part_rows: int
    part_kept: int
    part_seconds: float
    part_published_seconds: float
    part_ratio: float
    part_same_rows: bool


def draw_pool(rows: int, dimensions: int, near_rows: float, seed: int) -> Vectors:
    """Draw random directions; a share of the rows are near one of the others, at a cosine of 0.9 to 1."""
    rng = np.random.default_rng(seed)
    units = np.empty((rows, dimensions))
    is_near = rng.random(rows) < near_rows
    is_near[0] = False
    originals = np.flatnonzero(~is_near)
    for row in np.concatenate([originals, np.flatnonzero(is_near)]):
        units[row] = _unit(rng.standard_normal(dimensions))
        if is_near[row]:
            cosine = rng.uniform(0.9, 1.0)
            units[row] = _unit(cosine * units[rng.choice(originals)] + np.sqrt(1 - cosine**2) * units[row])
    scores = rng.gamma(4.0, 3.0, rows)
    return Vectors(units, scores, best_first(scores))


def _unit(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    return vector / np.sqrt(vector @ vector)


def is_kept(pool: Vectors, row: int, kept: NDArray[np.int64], threshold: float) -> bool:
    """Decide on one candidate as published."""
    existing = pool.units[kept].astype(np.float32)
    return not np.any(existing @ pool.units[row].astype(np.float32) > np.float32(threshold))


def published_filter(pool: Vectors, budget: int, threshold: float) -> list[int]:
    """Filter as published; return the rows kept."""
    kept: list[int] = []
    for row in pool.order.tolist():
        if len(kept) == budget:
            break
        if is_kept(pool, row, np.array(kept, np.int64), threshold):
            kept.append(row)
    return kept


def our_filter(pool: Vectors, budget: int, threshold: float) -> tuple[NDArray[np.int64], float]:
    """Filter with the package, twice; return the rows kept and the seconds of the faster call."""
    candidates = Candidates(len(pool.scores), scores=pool.scores, embeddings=pool.units)
    selection, seconds = fastest_of(
        2, lambda: deita(candidates, budget, deita_threshold=threshold, on_progress=lambda count: None)
    )
    return selection.rows, seconds


@dataclass(frozen=True)
class Probe:
    """Results of the published code on some of the candidates."""

    candidates: int
    seconds: float
    same_verdicts: bool
    total_seconds: float
    """Extrapolated to all candidates: the seconds for each multiplied vector, times the number for all candidates."""


def probe_published(pool: Vectors, rows: NDArray[np.int64], threshold: float, seconds: float) -> Probe:
    """Run the published code for about `seconds` on candidates spread over those visited for `rows`."""
    looked_at = pool.order[: int(np.flatnonzero(pool.order == rows[-1])[0]) + 1]
    was_kept = np.isin(looked_at, rows)
    kept_before: NDArray[np.int64] = np.cumsum(was_kept) - was_kept
    spent, multiplied, count, same = 0.0, 0, 0, True
    for index in _spread(len(looked_at)):
        start = time.perf_counter()
        verdict = is_kept(pool, int(looked_at[index]), rows[: kept_before[index]], threshold)
        spent += time.perf_counter() - start
        multiplied += int(kept_before[index])
        same &= verdict == was_kept[index]
        count += 1
        if spent > seconds:
            break
    return Probe(count, spent, bool(same), spent / multiplied * float(kept_before.sum()))


def _spread(count: int) -> NDArray[np.int64]:
    """Order the indices below `count` so that the first n are spread evenly, for every n (golden ratio sequence)."""
    return np.argsort(np.argsort((np.arange(count) * 0.6180339887498949) % 1))


def compare(options: argparse.Namespace) -> Result:
    """Time the package and the published code, on the whole pool and on a part of it."""
    pool = draw_pool(options.rows, options.dimensions, options.near_rows, options.seed)
    rows, seconds = our_filter(pool, options.kept, options.threshold)
    probe = probe_published(pool, rows, options.threshold, options.published_seconds)
    part_scores = pool.scores[: options.part_rows]
    part = Vectors(pool.units[: options.part_rows], part_scores, best_first(part_scores))
    part_rows, part_seconds = our_filter(part, options.part_kept, options.threshold)
    part_expected, part_published_seconds = timed(lambda: published_filter(part, options.part_kept, options.threshold))
    return Result(
        machine=describe_machine(),
        threshold=options.threshold,
        dimensions=options.dimensions,
        rows=options.rows,
        kept=len(rows),
        looked_at=int(np.flatnonzero(pool.order == rows[-1])[0]) + 1,
        seconds=seconds,
        published_candidates=probe.candidates,
        published_candidate_seconds=probe.seconds,
        published_same_verdicts=probe.same_verdicts,
        published_seconds_extrapolated=probe.total_seconds,
        ratio=probe.total_seconds / seconds,
        part_rows=options.part_rows,
        part_kept=len(part_rows),
        part_seconds=part_seconds,
        part_published_seconds=part_published_seconds,
        part_ratio=part_published_seconds / part_seconds,
        part_same_rows=part_rows.tolist() == part_expected,
    )


def main() -> None:
    """Run the benchmark."""
    parser = make_parser(__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dimensions", type=int, default=1_024)
    parser.add_argument("--kept", type=int, default=10_000, help="rows to keep")
    parser.add_argument(
        "--part-rows", type=int, default=10_000, help="rows in the part of the pool that both ways filter to the end"
    )
    parser.add_argument("--part-kept", type=int, default=2_000)
    parser.add_argument("--near-rows", type=float, default=0.9, help="share of rows that are near another row")
    parser.add_argument("--threshold", type=float, default=0.9)
    parser.add_argument(
        "--published-seconds", type=float, default=20.0, help="time for the published code on the whole pool"
    )
    options = parser.parse_args()
    result = asdict(compare(options))
    print_figures(result)
    write_result(options.json, result)


if __name__ == "__main__":
    main()
