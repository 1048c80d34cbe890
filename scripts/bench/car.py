"""Time CaR at the size of Tulu3, and compare mini-batches with exact clusters on a pool where both can be had.

    python scripts/bench/car.py --folder /large/disk

Vectors lie around topics of unequal frequency and quality, and 95 % of their variance in about 320 of 768 directions.
They are written to the folder (3 KB a row) and mapped from there, as those of a user are; without a folder, to a
temporary one. The comparison is on fewer rows: the squared distances of rows to the centres of their clusters
(inertia) by batches against exact ones, and how many of the rows chosen for their clusters are the same; to judge that
by, how many are the same as those of exact clusters from another seed. Memory is the peak of what numpy and Python
allocate (tracemalloc), without the mapped file. Results go to stdout as a table, and to a JSON file with ``--json``.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # scripts/

import numpy as np
from numpy.typing import NDArray

from bench.workspace import benchmark_folder, describe_machine, require_disk, scratch_folder, write_result
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
    """Choosing from all rows."""

    rows: int
    dimensions: int
    budget: int
    seconds: float
    load: float
    """Processes that ran or waited to run at the end, on average over a minute."""
    allocated_gb: float
    vectors_gb: float


@dataclass(frozen=True)
class Comparison:
    """Batches against exact clusters."""

    rows: int
    clusters: int
    budget: int
    exact_seconds: float
    batch_seconds: float
    inertia_ratio: float
    other_seed_inertia_ratio: float
    for_clusters: int
    """Rows chosen by exact clusters that are not among the best `budget` rows of all."""
    same_picks: float
    """Share of them that batches choose, too."""
    other_seed_same_picks: float
    """Share of them that exact clusters from another seed choose, too."""


def draw_pool(path: Path, num_rows: int, dimensions: int, seed: int) -> Candidates:
    """Draw unit vectors around topics of Zipf-like frequency, mapped from `path`, and scores as unbounded as IQS."""
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
    start = time.perf_counter()
    car(pool, budget, car_ratio=RATIO, seed=seed, on_progress=lambda chosen: None)
    seconds = time.perf_counter() - start
    allocated = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    vectors = pool.embeddings
    return Full(*vectors.shape, budget, seconds, os.getloadavg()[0], allocated / 1e9, vectors.nbytes / 1e9)


def compare(pool: Candidates, budget: int, seed: int) -> Comparison:
    """Choose by exact clusters, by those of another seed, and by batches."""
    num_clusters = math.isqrt(len(pool) // 2)
    exact, exact_seconds = timed(lambda: cluster_exactly(pool.embeddings, num_clusters, seed))
    batches, batch_seconds = timed(lambda: cluster_by_batches(pool.embeddings, num_clusters, seed))
    other = cluster_exactly(pool.embeddings, num_clusters, seed + 1)
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
    """Return the rows chosen that are not among the best `budget` rows of all."""
    rows_per_cluster = share_among_clusters(budget, math.isqrt(len(pool) // 2), RATIO)
    chosen = choose_by_clusters(pool.scores, clusters, budget, rows_per_cluster)
    return set(chosen.tolist()).difference(best_first(pool.scores)[:budget].tolist())


def timed(cluster: Callable[[], NDArray[np.int32]]) -> tuple[NDArray[np.int32], float]:
    """Return clusters and seconds."""
    start = time.perf_counter()
    return cluster(), time.perf_counter() - start


def measure_inertia(vectors: NDArray[np.floating[Any]], clusters: NDArray[np.int32]) -> float:
    """Add up the squared distances of rows to the mean of their cluster, in all dimensions."""
    total = 0.0
    for cluster in np.unique(clusters):
        members = vectors[clusters == cluster].astype(np.float64)
        total += float(np.sum((members - members.mean(axis=0)) ** 2))
    return total


def print_part(name: str, part: dict[str, Any]) -> None:
    """Print one part of the result."""
    print(f"{name}:")
    for key, value in part.items():
        print(f"  {key:26} {value:,.4g}" if isinstance(value, float) else f"  {key:26} {value}", flush=True)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=939_000)
    parser.add_argument("--budget", type=int, default=50_000)
    parser.add_argument("--compared-rows", type=int, default=20_000)
    parser.add_argument("--compared-budget", type=int, default=2_000)
    parser.add_argument("--dimensions", type=int, default=768)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where vectors are written; removed afterwards")
    parser.add_argument("--json", type=Path, help="write the result here, too")
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
