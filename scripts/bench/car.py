"""Time CaR at the size of Tulu3, and compare mini-batch clusters with exact ones on a smaller pool.

    python scripts/bench/car.py --folder /large/disk

Vectors are drawn around topics of unequal frequency and quality; about 320 of their 768 directions hold 95 % of the
variance. They are written to the folder (3 KB a row) and memory-mapped, as a user's are. The comparison uses fewer
rows. It reports the inertia (the sum of squared distances of rows to the centers of their clusters) of mini-batch
clusters relative to exact ones, and how many of the rows chosen for their clusters are the same; as a reference, also
how many are the same with exact clusters from another seed. Memory is the peak of what numpy and Python allocate
(tracemalloc), without the mapped file. Results go to stdout as a table, and to a JSON file with ``--json``.
"""

from __future__ import annotations

import math
import os
import sys
import tracemalloc
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # scripts/

import numpy as np
from numpy.typing import NDArray

from bench.folders import benchmark_folder, require_disk, scratch_folder
from bench.options import make_parser
from bench.results import describe_machine, print_figures, write_result
from bench.timing import timed
from mig_selector.selection.clusters import cluster_by_batches, cluster_exactly
from mig_selector.selection.method import Candidates, best_first
from mig_selector.selection.methods.car import car, choose_by_clusters, share_among_clusters


RATIO = "1000:161"
_TOPICS, _TOPIC_SHIFT = 2_000, 2.0
_FALL = 0.6
"""The standard deviation along direction d is (d + 1) ** -_FALL."""
_BLOCK_ROWS = 65_536


@dataclass(frozen=True)
class Full:
    """Results of a selection from all rows."""

    rows: int
    dimensions: int
    budget: int
    seconds: float
    load: float
    """Load average over the last minute, at the end."""
    allocated_gb: float
    vectors_gb: float


@dataclass(frozen=True)
class Comparison:
    """Mini-batch clusters compared with exact ones."""

    rows: int
    clusters: int
    budget: int
    exact_seconds: float
    batch_seconds: float
    inertia_ratio: float
    other_seed_inertia_ratio: float
    for_clusters: int
    """Number of rows chosen with exact clusters that are not among the `budget` best rows of the pool."""
    same_picks: float
    """Share of these rows that mini-batch clusters choose as well."""
    other_seed_same_picks: float
    """Share of these rows that exact clusters from another seed choose as well."""


def draw_pool(path: Path, num_rows: int, dimensions: int, seed: int) -> Candidates:
    """Draw unit vectors around topics of Zipf-like frequency, mapped from `path`, and unbounded scores like IQS."""
    generator = np.random.default_rng(seed)
    scale = ((np.arange(dimensions) + 1.0) ** -_FALL).astype(np.float32)
    topics = generator.standard_normal((_TOPICS, dimensions), np.float32)
    frequency = 1 / (np.arange(_TOPICS) + _TOPIC_SHIFT)
    quality = generator.normal(0.5, 0.3, _TOPICS)
    scores = generator.normal(0.0, 0.3, num_rows)
    written = np.lib.format.open_memmap(path, "w+", np.float32, (num_rows, dimensions))
    for start in range(0, num_rows, _BLOCK_ROWS):
        size = min(_BLOCK_ROWS, num_rows - start)
        vectors = generator.standard_normal((size, dimensions), np.float32)
        drawn = generator.choice(_TOPICS, size, p=frequency / frequency.sum())
        scores[start : start + size] += quality[drawn]
        vectors += topics[drawn]
        vectors *= scale
        written[start : start + size] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    written.flush()
    return Candidates(num_rows, scores=scores, embeddings=np.load(path, mmap_mode="r"))


def choose_from_all(pool: Candidates, budget: int, seed: int) -> Full:
    """Time the method on all rows."""
    tracemalloc.start()
    _, seconds = timed(lambda: car(pool, budget, car_ratio=RATIO, seed=seed, on_progress=lambda chosen: None))
    allocated = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    rows, dimensions = pool.embeddings.shape
    vectors_gb = pool.embeddings.nbytes / 1e9
    return Full(rows, dimensions, budget, seconds, os.getloadavg()[0], allocated / 1e9, vectors_gb)


def compare(pool: Candidates, budget: int, seed: int) -> Comparison:
    """Choose with exact clusters, with exact clusters from another seed, and with mini-batch clusters."""
    num_clusters, order = math.isqrt(len(pool) // 2), best_first(pool.scores)
    exact, exact_seconds = timed(lambda: cluster_exactly(pool.embeddings, order, num_clusters, seed))
    batches, batch_seconds = timed(lambda: cluster_by_batches(pool.embeddings, order, num_clusters, seed))
    other = cluster_exactly(pool.embeddings, order, num_clusters, seed + 1)
    inertias = [measure_inertia(pool.embeddings, clusters) for clusters in (exact, batches, other)]
    expected, by_batches, by_other = (choose_for_clusters(pool, found, budget) for found in (exact, batches, other))
    return Comparison(
        rows=len(pool),
        clusters=num_clusters,
        budget=budget,
        exact_seconds=exact_seconds,
        batch_seconds=batch_seconds,
        inertia_ratio=inertias[1] / inertias[0],
        other_seed_inertia_ratio=inertias[2] / inertias[0],
        for_clusters=len(expected),
        same_picks=len(expected & by_batches) / max(len(expected), 1),
        other_seed_same_picks=len(expected & by_other) / max(len(expected), 1),
    )


def choose_for_clusters(pool: Candidates, clusters: NDArray[np.int32], budget: int) -> set[int]:
    """Return the chosen rows that are not among the `budget` best rows of the pool."""
    rows_per_cluster = share_among_clusters(budget, math.isqrt(len(pool) // 2), RATIO)
    chosen = choose_by_clusters(pool.scores, clusters, budget, rows_per_cluster)
    return set(chosen.tolist()).difference(best_first(pool.scores)[:budget].tolist())


def measure_inertia(vectors: NDArray[np.floating[Any]], clusters: NDArray[np.int32]) -> float:
    """Return the sum of squared distances of all rows to the mean of their cluster."""
    total = 0.0
    for cluster in np.unique(clusters):
        members = vectors[clusters == cluster].astype(np.float64)
        total += float(np.sum((members - members.mean(axis=0)) ** 2))
    return total


def print_part(name: str, part: dict[str, Any]) -> None:
    """Print one part of the result."""
    print(f"{name}:")
    print_figures(part, indent="  ")


def main() -> None:
    """Run the benchmark."""
    parser = make_parser(__doc__)
    parser.add_argument("--rows", type=int, default=939_000)
    parser.add_argument("--budget", type=int, default=50_000)
    parser.add_argument("--compared-rows", type=int, default=20_000)
    parser.add_argument("--compared-budget", type=int, default=2_000)
    parser.add_argument("--dimensions", type=int, default=768)
    parser.add_argument(
        "--folder", type=Path, help="where vectors are written, then removed (default: a temporary folder)"
    )
    options = parser.parse_args()
    result: dict[str, Any] = {"machine": describe_machine()}
    print_part("machine", result["machine"])
    with benchmark_folder(options.folder) as folder, scratch_folder(folder) as scratch:
        require_disk(scratch, 4 * options.dimensions * (options.rows + options.compared_rows))
        part = draw_pool(scratch / "part.npy", options.compared_rows, options.dimensions, options.seed)
        result["compared"] = asdict(compare(part, options.compared_budget, options.seed))
        print_part("compared", result["compared"])
        pool = draw_pool(scratch / "all.npy", options.rows, options.dimensions, options.seed)
        result["full"] = asdict(choose_from_all(pool, options.budget, options.seed))
        print_part("full", result["full"])
    write_result(options.json, result)


if __name__ == "__main__":
    main()
