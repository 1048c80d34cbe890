"""Time DEITA's filter against the published way, which converts and multiplies all kept vectors anew for each row.

    python scripts/bench/deita.py

Vectors are float64, as the published way holds them: random directions, and rows near one of them, as in a pool whose
prompts recur. The published way gathers the kept vectors, casts them to float32 and multiplies them with one candidate
(numpy, all cores). On a part of the pool it runs to the end, and its rows are compared with ours. On the whole pool it
would take too long: it runs for some seconds on candidates spread evenly over those looked at, each with the rows that
were kept before it. Its verdicts are compared with ours, and the seconds of all candidates are extrapolated by the
number of kept vectors that each is multiplied with. Our seconds are the best of two calls. Results go to stdout as a
table, and to a JSON file with ``--json``.
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

from bench.workspace import describe_machine, write_result
from mig_selector.selection.method import Candidates, best_first
from mig_selector.selection.methods.deita import deita


@dataclass(frozen=True)
class Vectors:
    """A pool: unit vectors, and the order in which the filter looks at them."""

    units: NDArray[np.float64]
    scores: NDArray[np.float64]
    order: NDArray[np.int64]


@dataclass(frozen=True)
class Result:
    """What one run of this script found; `ratio` is extrapolated, `part_ratio` is not."""

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
    """Draw directions at random; a share of the rows are near one of the others, at a cosine of 0.9 to 1."""
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
    """Decide on one candidate the published way."""
    existing = pool.units[kept].astype(np.float32)
    return not np.any(existing @ pool.units[row].astype(np.float32) > np.float32(threshold))


def published_filter(pool: Vectors, budget: int, threshold: float) -> tuple[list[int], float]:
    """Filter the published way; return the rows kept and the seconds."""
    start = time.perf_counter()
    kept: list[int] = []
    for row in pool.order.tolist():
        if len(kept) == budget:
            break
        if is_kept(pool, row, np.array(kept, np.int64), threshold):
            kept.append(row)
    return kept, time.perf_counter() - start


def our_filter(pool: Vectors, budget: int, threshold: float) -> tuple[NDArray[np.int64], float]:
    """Filter our way, twice; return the rows kept and the seconds of the faster call."""
    candidates = Candidates(len(pool.scores), scores=pool.scores, embeddings=pool.units)
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        selection = deita(candidates, budget, deita_threshold=threshold, on_progress=lambda count: None)
        seconds.append(time.perf_counter() - start)
    return selection.rows, min(seconds)


@dataclass(frozen=True)
class Probe:
    """The published way on some of the candidates."""

    candidates: int
    seconds: float
    same_verdicts: bool
    total_seconds: float
    """Of all candidates: `seconds` for each kept vector that was multiplied, times those of all candidates."""


def probe_published(pool: Vectors, rows: NDArray[np.int64], threshold: float, seconds: float) -> Probe:
    """Run the published way for about `seconds` on candidates spread over those that lead to `rows`."""
    looked_at = pool.order[: int(np.flatnonzero(pool.order == rows[-1])[0]) + 1]
    was_kept = np.isin(looked_at, rows)
    kept_before = np.cumsum(was_kept) - was_kept
    spent, multiplied, count, same = 0.0, 0, 0, True
    for place in _spread(len(looked_at)):
        start = time.perf_counter()
        verdict = is_kept(pool, int(looked_at[place]), rows[: kept_before[place]], threshold)
        spent += time.perf_counter() - start
        multiplied += int(kept_before[place])
        same &= verdict == was_kept[place]
        count += 1
        if spent > seconds:
            break
    return Probe(count, spent, bool(same), spent / multiplied * float(kept_before.sum()))


def _spread(count: int) -> NDArray[np.int64]:
    """Order the places below `count` so that any number of the first are spread evenly (golden ratio)."""
    return np.argsort(np.argsort((np.arange(count) * 0.6180339887498949) % 1))


def compare(options: argparse.Namespace) -> Result:
    """Time both ways."""
    pool = draw_pool(options.rows, options.dimensions, options.near_rows, options.seed)
    rows, seconds = our_filter(pool, options.kept, options.threshold)
    probe = probe_published(pool, rows, options.threshold, options.published_seconds)
    part_scores = pool.scores[: options.part_rows]
    part = Vectors(pool.units[: options.part_rows], part_scores, best_first(part_scores))
    part_rows, part_seconds = our_filter(part, options.part_kept, options.threshold)
    part_expected, part_published_seconds = published_filter(part, options.part_kept, options.threshold)
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dimensions", type=int, default=1_024)
    parser.add_argument("--kept", type=int, default=10_000, help="rows to keep")
    parser.add_argument("--part-rows", type=int, default=10_000, help="rows of the part that both ways filter whole")
    parser.add_argument("--part-kept", type=int, default=2_000)
    parser.add_argument("--near-rows", type=float, default=0.9, help="share of rows that are near another one")
    parser.add_argument("--threshold", type=float, default=0.9)
    parser.add_argument("--published-seconds", type=float, default=20.0, help="time for the published way on the pool")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the result here, too")
    options = parser.parse_args()
    result = asdict(compare(options))
    for name, value in result.items():
        print(f"{name:31} {value:,.4g}" if isinstance(value, float) else f"{name:31} {value}")
    write_result(options.json, result)


if __name__ == "__main__":
    main()
