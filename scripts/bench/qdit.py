"""Time QDIT's lazy search, compared with naive greedy, and with its own approximation by a sample of the pool.

    python scripts/bench/qdit.py
    python scripts/bench/qdit.py --alpha 0
    python scripts/bench/qdit.py --large-rows 500000

Vectors are float32, drawn around subtopics of topics of unequal size; quality is distributed like DEITA's scores. d(A)
is the diversity of the chosen rows A: the sum over all rows of the highest similarity to a row of A.

Naive greedy recomputes, at every step and for every remaining row, d of the chosen rows and this row from a matrix of
all similarities (numpy). On a part of the pool it runs to the end, in float64, and its rows are compared with ours. On
the whole pool, in float32, it would take a day, so it runs at some steps on some rows, and its seconds are
extrapolated to all steps by the number of similarities compared. A second greedy search ("keeping") stores the highest
similarity of each row to the chosen rows, and is naive only in that it evaluates all rows. It is timed on some whole
steps and extrapolated by their number; the rows that it chooses there are compared with ours. The time to compute the
matrix of similarities is not counted for either.

The script also shows what decides: the standard deviation, over all rows, of (1 - alpha) times what a row adds to d,
after some numbers of picks, beside that of alpha times quality; and the share of the chosen rows that `top_score`
would choose, too, for each ``mig_qdit_scale``.

For each sample size the script reports seconds, the objective and d of its rows (both over the whole pool, divided by
those of the exact search), and the share of rows that both chose. Results go to stdout as a table, and to a JSON file
with ``--json``.
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
from bench.timing import timed
from mig_selector.selection.method import Candidates, best_first
from mig_selector.selection.methods.qdit import qdit


_STEPS = 5
"""Number of steps at which the naive searches are timed; they are spread evenly."""
_ROWS_AT_ONCE = 10_000


@dataclass(frozen=True)
class Vectors:
    """A pool: embeddings and scores."""

    embeddings: NDArray[np.float32]
    """Unit vectors, shape (rows, dimensions)."""
    scores: NDArray[np.float64]


@dataclass(frozen=True)
class Found:
    """The chosen rows, and the seconds it took to choose them."""

    rows: NDArray[np.int64]
    seconds: float


@dataclass(frozen=True)
class SampleResult:
    """Results with a sample of one size; ratios are relative to the exact search."""

    sample: int
    seconds: float
    diversity_ratio: float
    objective_ratio: float
    same_rows: float


@dataclass(frozen=True)
class Result:
    """Results of one run of this script; `part_ratio` is measured, the other ratios are extrapolated."""

    machine: dict[str, Any]
    alpha: float
    dimensions: int
    rows: int
    picks: int
    seconds: float
    naive_rows_timed: int
    naive_seconds_extrapolated: float
    ratio: float
    keeping_seconds_extrapolated: float
    keeping_ratio: float
    keeping_same_picks: bool
    part_rows: int
    part_picks: int
    part_seconds: float
    part_naive_seconds: float
    part_ratio: float
    part_same_rows: bool
    quality_spread: float
    """Standard deviation over all rows of alpha times quality."""
    diversity_spreads: dict[int, float]
    """By the number of picks made, that of (1 - alpha) times what a row adds to d."""
    in_top_score: dict[str, float]
    """By ``mig_qdit_scale``, the share of the chosen rows that `top_score` would choose, too."""
    samples: list[SampleResult]
    large_rows: int | None
    large_sample: int | None
    large_seconds: float | None


def draw_pool(rows: int, dimensions: int, seed: int) -> Vectors:
    """Draw vectors around subtopics: cosines are 0.3 on average, and 0.75 with the nearest row."""
    rng = np.random.default_rng(seed)
    spread = np.exp(-np.arange(dimensions) / (dimensions / 5)).astype(np.float32)
    topics = rng.standard_normal((300, 1, dimensions), np.float32)
    subtopics = (topics + 0.7 * rng.standard_normal((300, 20, dimensions), np.float32)).reshape(6_000, dimensions)
    common = 0.3 * rng.standard_normal(dimensions, np.float32)
    embeddings = np.empty((rows, dimensions), np.float32)
    for start in range(0, rows, _ROWS_AT_ONCE):
        block = embeddings[start : start + _ROWS_AT_ONCE]
        topic = np.minimum((5 * rng.pareto(1.0, len(block))).astype(np.int64), 299)
        block[:] = subtopics[20 * topic + rng.integers(0, 20, len(block))]
        block += rng.standard_normal(block.shape, np.float32)
        block *= spread
        block += common
        block /= np.linalg.norm(block, axis=1, keepdims=True)
    return Vectors(embeddings, rng.gamma(4.0, 3.0, rows))


def choose(pool: Vectors, picks: int, alpha: float, sample: int = 0, scale: str = "none") -> Found:
    """Choose rows with the package."""
    candidates = Candidates(len(pool.scores), scores=pool.scores, embeddings=pool.embeddings)
    selection, seconds = timed(
        lambda: qdit(
            candidates,
            picks,
            qdit_alpha=alpha,
            qdit_scale=scale,
            qdit_sample=sample,
            seed=42,
            on_progress=lambda count: None,
        )
    )
    return Found(selection.rows, seconds)


class Naive:
    """Greedy search that evaluates every row at every step."""

    def __init__(self, pool: Vectors, alpha: float, dtype: type[np.floating]) -> None:
        """Compute the matrix of all similarities."""
        units = pool.embeddings.astype(dtype)
        units /= np.linalg.norm(units, axis=1, keepdims=True)
        self._similarity = units @ units.T
        self._quality = alpha * pool.scores
        self._weight = 1 - alpha

    def gain(self, row: int, chosen: list[int], diversity: float) -> float:
        """Compute the gain of a row from the similarities of it and of all chosen rows, whose d is `diversity`."""
        return self._weight * (self.diversity([row, *chosen]) - diversity) + float(self._quality[row])

    def diversity(self, chosen: list[int]) -> float:
        """Compute d of the chosen rows; 0 if there are none."""
        return float(self._highest(chosen).sum(dtype=np.float64)) if chosen else 0.0

    def _highest(self, chosen: list[int]) -> NDArray[np.floating]:
        highest: NDArray[np.floating] = self._similarity[chosen[0]].copy()
        for row in chosen[1:]:
            np.maximum(highest, self._similarity[row], out=highest)
        return highest

    def choose(self, picks: int) -> list[int]:
        """Choose rows by naive greedy. Gains are rounded, so that sums in another order are still ties."""
        chosen: list[int] = []
        for _ in range(picks):
            diversity = self.diversity(chosen)
            rows_left = [row for row in range(len(self._quality)) if row not in chosen]
            gains = [round(self.gain(row, chosen, diversity), 9) for row in rows_left]
            chosen.append(rows_left[gains.index(max(gains))])
        return chosen

    def extrapolate(self, rows: list[int], seconds: float) -> tuple[int, float]:
        """Time naive greedy on some rows at some steps of a search that chose `rows`.

        Returns:
            The number of rows evaluated, and the seconds of all steps: the seconds for each similarity compared, times
            the number of similarities in all steps.
        """
        spent, compared, looked_at = 0.0, 0, 0
        rng = np.random.default_rng(0)
        for number, step in enumerate(_spread_steps(len(rows)), start=1):
            diversity = self.diversity(rows[:step])
            while spent < seconds * number / _STEPS:
                start = time.perf_counter()
                self.gain(int(rng.integers(len(self._quality))), rows[:step], diversity)
                spent += time.perf_counter() - start
                compared += step + 1
                looked_at += 1
        in_all = sum((len(self._quality) - step) * (step + 1) for step in range(len(rows)))
        return looked_at, spent / compared * in_all

    def extrapolate_keeping(self, rows: list[int]) -> tuple[float, bool]:
        """Time whole steps of a greedy search that stores the highest similarity of each row to the chosen rows.

        Returns:
            The extrapolated seconds of all steps, and whether the timed steps choose the same rows as in `rows`.
        """
        seconds, same = [], True
        for step in _spread_steps(len(rows)):
            highest = self._highest(rows[:step])
            start = time.perf_counter()
            gains = self._weight * self._rises(highest) + self._quality
            seconds.append(time.perf_counter() - start)
            gains[rows[:step]] = -np.inf
            same &= int(np.argmax(gains)) == rows[step]
        return float(np.mean(seconds)) * len(rows), same

    def _rises(self, highest: NDArray[np.floating]) -> NDArray[np.float64]:
        """Compute what every row adds to d, given the highest similarity of each row to the chosen ones."""
        sums = np.array([np.maximum(line, highest).sum(dtype=np.float64) for line in self._similarity])
        return sums - highest.sum(dtype=np.float64)  # type: ignore[no-any-return]

    def measure_spreads(self, rows: list[int]) -> dict[int, float]:
        """Compute how far the rows differ in (1 - alpha) times what they add to d, after 1, 10, 100, ... picks."""
        steps = [step for step in (1, 10, 100, 1_000) if step < len(rows)] + [len(rows)]
        return {step: self._weight * float(self._rises(self._highest(rows[:step])).std()) for step in steps}


def _spread_steps(picks: int) -> list[int]:
    return [int(step) for step in np.unique(np.linspace(1, picks - 1, _STEPS).astype(np.int64))]


def measure_diversity(pool: Vectors, rows: NDArray[np.int64]) -> float:
    """Compute d of some rows over the whole pool."""
    chosen = pool.embeddings[rows].T
    blocks = (pool.embeddings[start : start + _ROWS_AT_ONCE] for start in range(0, len(pool.scores), _ROWS_AT_ONCE))
    return float(sum((block @ chosen).max(axis=1).sum(dtype=np.float64) for block in blocks))


def compare_sample(pool: Vectors, exact: Found, alpha: float, sample: int) -> SampleResult:
    """Choose by a sample, and measure over the whole pool what is lost."""
    found = choose(pool, len(exact.rows), alpha, sample)
    diversities = [measure_diversity(pool, rows) for rows in (found.rows, exact.rows)]
    qualities = [float(pool.scores[rows].sum()) for rows in (found.rows, exact.rows)]
    objectives = [(1 - alpha) * d + alpha * q for d, q in zip(diversities, qualities, strict=True)]
    return SampleResult(
        sample=sample,
        seconds=found.seconds,
        diversity_ratio=diversities[0] / diversities[1],
        objective_ratio=objectives[0] / objectives[1],
        same_rows=len(np.intersect1d(found.rows, exact.rows)) / len(exact.rows),
    )


def share_in_top_score(pool: Vectors, rows: NDArray[np.int64]) -> float:
    """Return the share of some rows that is among as many of the highest score."""
    return len(np.intersect1d(rows, best_first(pool.scores)[: len(rows)])) / len(rows)


def compare(options: argparse.Namespace) -> Result:
    """Time the exact search, the samples and the naive searches."""
    pool = draw_pool(options.rows, options.dimensions, options.seed)
    exact = choose(pool, options.picks, options.alpha)
    samples = [compare_sample(pool, exact, options.alpha, sample) for sample in options.samples]
    by_scale = {"none": exact.rows}
    for scale in ("mean", "minmax"):
        by_scale[scale] = choose(pool, options.picks, options.alpha, scale=scale).rows
    naive = Naive(pool, options.alpha, np.float32)
    looked_at, naive_seconds = naive.extrapolate(exact.rows.tolist(), options.naive_seconds)
    keeping_seconds, keeping_same = naive.extrapolate_keeping(exact.rows.tolist())
    part = Vectors(pool.embeddings[: options.part_rows], pool.scores[: options.part_rows])
    part_found = choose(part, options.part_picks, options.alpha)
    part_naive = Naive(part, options.alpha, np.float64)
    part_expected, part_seconds = timed(lambda: part_naive.choose(options.part_picks))
    return Result(
        machine=describe_machine(),
        alpha=options.alpha,
        dimensions=options.dimensions,
        rows=options.rows,
        picks=options.picks,
        seconds=exact.seconds,
        naive_rows_timed=looked_at,
        naive_seconds_extrapolated=naive_seconds,
        ratio=naive_seconds / exact.seconds,
        keeping_seconds_extrapolated=keeping_seconds,
        keeping_ratio=keeping_seconds / exact.seconds,
        keeping_same_picks=keeping_same,
        part_rows=options.part_rows,
        part_picks=options.part_picks,
        part_seconds=part_found.seconds,
        part_naive_seconds=part_seconds,
        part_ratio=part_seconds / part_found.seconds,
        part_same_rows=part_found.rows.tolist() == part_expected,
        quality_spread=options.alpha * float(pool.scores.std()),
        diversity_spreads=naive.measure_spreads(exact.rows.tolist()),
        in_top_score={scale: share_in_top_score(pool, rows) for scale, rows in by_scale.items()},
        samples=samples,
        large_rows=options.large_rows,
        large_sample=options.large_sample if options.large_rows else None,
        large_seconds=time_large(options) if options.large_rows else None,
    )


def time_large(options: argparse.Namespace) -> float:
    """Time the choice by a sample from a pool that is too large for all pairs of rows."""
    pool = draw_pool(options.large_rows, options.dimensions, options.seed)
    return choose(pool, options.picks, options.alpha, options.large_sample).seconds


def main() -> None:
    """Run the benchmark."""
    parser = make_parser(__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--dimensions", type=int, default=768)
    parser.add_argument("--picks", type=int, default=1_000)
    parser.add_argument(
        "--part-rows", type=int, default=1_500, help="rows in the part of the pool that naive greedy chooses from, too"
    )
    parser.add_argument("--part-picks", type=int, default=150)
    parser.add_argument("--alpha", type=float, default=0.7)
    parser.add_argument("--samples", type=int, nargs="*", default=[1_000, 2_000, 5_000])
    parser.add_argument("--naive-seconds", type=float, default=10.0, help="time for naive greedy on the whole pool")
    parser.add_argument("--large-rows", type=int, help="also time the choice by a sample from this many rows")
    parser.add_argument("--large-sample", type=int, default=2_000)
    options = parser.parse_args()
    result = asdict(compare(options))
    shown = {name: value for name, value in result.items() if not isinstance(value, (dict, list))}
    shown |= {f"diversity spread, {picks} picks": value for picks, value in result["diversity_spreads"].items()}
    shown |= {f"in top_score, scale {scale}": share for scale, share in result["in_top_score"].items()}
    for sample in result["samples"]:
        shown |= {f"sample {sample['sample']} {name}": value for name, value in sample.items() if name != "sample"}
    print_figures(shown)
    write_result(options.json, result)


if __name__ == "__main__":
    main()
