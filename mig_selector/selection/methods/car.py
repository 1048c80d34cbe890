"""CaR (Clustering and Ranking): the best rows of all, and the best of each cluster.

Dimension letters: N rows to choose from, K clusters, B rows to choose.
"""

from __future__ import annotations

import logging
import math
import re
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from mig_selector.arrays import Selection
from mig_selector.errors import ArgumentError
from mig_selector.selection.clusters import cluster_rows
from mig_selector.selection.method import Candidates, OnProgress, OwnScore, RowEmbedding, Seed, best_first, method
from mig_selector.settings import DOTTED_PATH, Range, Setting


logger = logging.getLogger(__name__)

_RATIO = Range(
    "two numbers of rows with a colon between them, not both 0 (quoted: a YAML reads 1:1 as the number 61)",
    lambda value: bool(re.fullmatch(r"\d+:\d+", value)) and any(map(int, value.split(":"))),
)


@method(
    needs={"scores", "embeddings"},
    score=OwnScore(
        "iqs",
        "annotation.CaR",
        Setting("Where a row's instruction quality score is: a dotted path.", DOTTED_PATH, decides=True),
    ),
    embedding=RowEmbedding(
        model="sentence-transformers/all-mpnet-base-v2",
        template="Instruction: {instruction} Input: {input} Response: {response}",
    ),
    version=2,  # 1 clustered the rows in the order of the pool
)
def car(
    pool: Candidates,
    budget: int,
    *,
    car_ratio: Annotated[
        str, Setting("Rows chosen by score to rows chosen as the best of their cluster.", _RATIO, decides=True)
    ] = "1000:161",
    seed: Seed = 42,
    on_progress: OnProgress,
) -> Selection:
    """Choose the best rows by score, and the best of each of sqrt(N / 2) clusters of similar rows.

    As published, rows are clustered in the order of their scores, best first, and every cluster gives the same number
    of rows, n2, whatever its size. One thing differs. The published program takes n1 = 1000 rows by score and n2 = 1
    from each cluster; the two overlap, so the total is known only afterwards. Here the total is B: n2 is the share of
    B that `car_ratio` gives to clusters, divided by K, rounded and at least 1, and the rest are the best rows of all.
    So n2 grows with B: for B = 1,000 of 15,890 rows, 89 clusters share 139 rows, and n2 is 2 where the published
    program has 1.

    Args:
        pool: N rows; equal scores go in the order of the pool. Equal rows are different rows here, while the published
            code drops a row from a cluster that equals a chosen one.
        budget: B, at least the number of clusters.
        car_ratio: As ``1000:161``: n1 rows of the best to K n2 rows of clusters.
        seed: Where k-means begins.
        on_progress: Called once, with B.

    Returns:
        B rows: first the best by score, then those of clusters that are not among them, clusters in the order of their
        numbers as texts from the last to the first (``99``, ``98``, ``9``, ``89``), as published. Gains are scores.

    Raises:
        ArgumentError: There are more clusters than rows to choose.
        EmbeddingError: A vector holds NaN or infinity.

    Source: CaR (arXiv 2402.18191) and its published code; the ratio as in MIG (arXiv 2504.13835), App. A.1.
    """
    num_clusters = max(1, math.isqrt(len(pool) // 2))
    rows_per_cluster = share_among_clusters(budget, num_clusters, car_ratio)
    clusters = cluster_rows(pool.embeddings, best_first(pool.scores), num_clusters, seed)
    rows = choose_by_clusters(pool.scores, clusters, budget, rows_per_cluster)
    on_progress(len(rows))
    return Selection(rows, pool.scores[rows])


def share_among_clusters(budget: int, num_clusters: int, car_ratio: str) -> int:
    """Return n2: how many rows each cluster gives, at least 1.

    Raises:
        ArgumentError: There are more clusters than rows to choose.
    """
    if budget < num_clusters:
        raise ArgumentError(
            f"mig_num_samples: {budget} rows are asked for, but car takes the best of each of {num_clusters} clusters "
            "(the square root of half the pool). Ask for that many or more, or choose another mig_method."
        )
    of_all, of_clusters = map(int, car_ratio.split(":"))
    wanted = round(budget * of_clusters / (of_all + of_clusters) / num_clusters)
    return min(max(1, wanted), budget // num_clusters)


def choose_by_clusters(
    scores: NDArray[np.float64], clusters: NDArray[np.int32], budget: int, rows_per_cluster: int
) -> NDArray[np.int64]:
    """Choose the best rows of each cluster, and as many of the best of all as make `budget` rows together.

    Args:
        scores: Shape (N,).
        clusters: The cluster of each row, in [0, K). Shape (N,).
        budget: B, at most N, at least K times `rows_per_cluster`.
        rows_per_cluster: n2.

    Returns:
        The best of all, then the others. Shape (B,).
    """
    order = best_first(scores)
    of_clusters = _best_of_clusters(order, clusters, rows_per_cluster)
    is_from_cluster = np.zeros(len(order), np.bool_)
    is_from_cluster[of_clusters] = True
    num_more = budget - len(of_clusters)
    num_best = np.flatnonzero(~is_from_cluster[order])[num_more - 1] + 1 if num_more else 0
    best = order[:num_best]
    logger.info(
        "%s rows are the best of all, %s more are among the best %d of a cluster",
        f"{num_best:,}",
        f"{budget - num_best:,}",
        rows_per_cluster,
    )
    is_from_cluster[best] = False
    return np.concatenate((best, of_clusters[is_from_cluster[of_clusters]]))


def _best_of_clusters(
    order: NDArray[np.int64], clusters: NDArray[np.int32], rows_per_cluster: int
) -> NDArray[np.int64]:
    """Return the first rows of each cluster in `order`, cluster by cluster."""
    num_clusters = int(clusters.max()) + 1
    turns = np.empty(num_clusters, np.int64)
    turns[sorted(range(num_clusters), key=str, reverse=True)] = np.arange(num_clusters)
    turn_of_row = turns[clusters[order]]
    by_turn = np.argsort(turn_of_row, kind="stable")
    sizes = np.bincount(turn_of_row, minlength=num_clusters)
    rank_in_cluster = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    first: NDArray[np.int64] = order[by_turn[rank_in_cluster < rows_per_cluster]]
    return first
