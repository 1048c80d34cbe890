"""Clusters of rows with similar vectors: PCA, then k-means; in blocks and mini-batches for large pools.

Everything runs on one thread. The order of a sum over several threads depends on their number, and k-means amplifies a
difference in the last bit into other clusters. On one thread the result does not depend on the number of cores.

Dimension letters: N rows, D dimensions of a row's vector, R dimensions that PCA keeps, K clusters.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mig_selector.errors import EmbeddingError


logger = logging.getLogger(__name__)

EXACT_ROWS = 65_536
"""Up to this many rows k-means visits all rows in every iteration, which takes minutes for the 52,002 rows of Alpaca.
With K growing as the square root of N its cost grows as N^1.5: a million rows would take hours."""
_VARIANCE = 0.95
"""Share of the variance that PCA keeps, as published."""
_STARTS = 10
"""Runs of k-means, of which the best counts: the default of scikit-learn 0.24, with which CaR was published."""
_BATCH_ROWS_PER_CLUSTER = 32
"""Twice or four times as many hardly bring rows nearer to their centres (0.3 % of the squared distances)."""
_BLOCK_ROWS = 8_192
"""Rows converted to float64 at a time."""

Embeddings = NDArray[np.floating[Any]]


def cluster_rows(embeddings: Embeddings, order: NDArray[np.int64], num_clusters: int, seed: int) -> NDArray[np.int32]:
    """Cluster rows: as published up to `EXACT_ROWS` rows, in mini-batches above that.

    Args:
        embeddings: One vector a row; may be mapped from a file. Shape (N, D).
        order: All rows in the order in which k-means takes them: its starts are drawn by their position in it, so
            another order gives other clusters. Shape (N,).
        num_clusters: K, in [1, N].
        seed: Seed of the initial centres of k-means.

    Returns:
        The cluster of each row, in [0, K); a cluster may be empty. Shape (N,). The same in every run and with any
        number of cores; another processor, or another version of numpy or scikit-learn, may give other clusters.

    Raises:
        EmbeddingError: A vector holds NaN or infinity.

    Source: CaR (arXiv 2402.18191) and its published code.
    """
    _check_finite(embeddings)
    if num_clusters == 1:
        return np.zeros(len(embeddings), np.int32)
    is_exact = len(embeddings) <= EXACT_ROWS
    logger.info(
        "clusters: %s of %s rows, by k-means %s",
        f"{num_clusters:,}",
        f"{len(embeddings):,}",
        "on all rows" if is_exact else f"in mini-batches, as there are more than {EXACT_ROWS:,} rows",
    )
    cluster = cluster_exactly if is_exact else cluster_by_batches
    return cluster(embeddings, order, num_clusters, seed)


def cluster_exactly(
    embeddings: Embeddings, order: NDArray[np.int64], num_clusters: int, seed: int
) -> NDArray[np.int32]:
    """Cluster rows by PCA and k-means as published: on all rows, the best of ten starts."""
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        reduced = PCA(_VARIANCE, svd_solver="full").fit_transform(np.asarray(embeddings[order]))
        means = KMeans(num_clusters, n_init=_STARTS, random_state=_as_state(seed))
        clusters = means.fit_predict(reduced)
    return _in_pool_order(clusters, order)


def cluster_by_batches(
    embeddings: Embeddings, order: NDArray[np.int64], num_clusters: int, seed: int
) -> NDArray[np.int32]:
    """Cluster rows by PCA, exact up to rounding, and one run of mini-batch k-means (Sculley 2010)."""
    from sklearn.cluster import MiniBatchKMeans
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        means = MiniBatchKMeans(
            num_clusters, n_init=1, batch_size=_BATCH_ROWS_PER_CLUSTER * num_clusters, random_state=_as_state(seed)
        )
        clusters = means.fit_predict(reduce_by_blocks(embeddings, order))
    return _in_pool_order(clusters, order)


def _in_pool_order(clusters: NDArray[np.int32], order: NDArray[np.int64]) -> NDArray[np.int32]:
    """Return the cluster of each row, given those of the rows in `order`."""
    of_rows = np.empty_like(clusters)
    of_rows[order] = clusters
    return of_rows


def reduce_by_blocks(embeddings: Embeddings, order: NDArray[np.int64]) -> NDArray[np.float32]:
    """Project rows on the directions that hold 95 % of their variance (PCA), reading them block by block.

    Three passes (mean, scatter matrix, projection) need memory for one block and a (D, D) matrix only. The mean has a
    pass of its own because subtracting it from the scatter matrix afterwards would lose digits by cancellation.

    Returns:
        Coordinates along the directions, the direction of the greatest variance first; rows in `order`. Shape (N, R).
    """
    mean = np.zeros(embeddings.shape[1])
    for _, block in _blocks(embeddings):
        mean += block.sum(axis=0) / len(embeddings)
    scatter = np.zeros((len(mean), len(mean)))
    for _, block in _blocks(embeddings):
        centred = block - mean
        scatter += centred.T @ centred
    directions = _main_directions(scatter)
    reduced = np.empty((len(embeddings), directions.shape[1]), np.float32)
    positions = np.argsort(order)  # of each row in `order`: the file itself is read from front to back
    for start, block in _blocks(embeddings):
        reduced[positions[start : start + len(block)]] = (block - mean) @ directions
    return reduced


def _main_directions(scatter: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the fewest eigenvectors whose eigenvalues, largest first, exceed 95 % of the sum. Shape (D, R)."""
    variances, directions = np.linalg.eigh(scatter)
    held = np.cumsum(variances[::-1])
    num_kept = int(np.searchsorted(held, _VARIANCE * held[-1], side="right")) + 1
    return directions[:, ::-1][:, :num_kept]


def _check_finite(embeddings: Embeddings) -> None:
    for start, block in _blocks(embeddings):
        faulty = np.flatnonzero(~np.isfinite(block).all(axis=1))
        if len(faulty):
            raise EmbeddingError(
                f"the vector of kept row {start + faulty[0]} (0-based) has NaN or infinity; expected finite numbers. "
                "Fix it in the file that mig_row_embeddings names or, if that key is not set, choose another "
                "mig_row_embedding_model."
            )


def _blocks(embeddings: Embeddings) -> Iterator[tuple[int, NDArray[np.float64]]]:
    for start in range(0, len(embeddings), _BLOCK_ROWS):
        yield start, embeddings[start : start + _BLOCK_ROWS].astype(np.float64)


def _as_state(seed: int) -> int:
    """Return a seed in the range that scikit-learn accepts, below 2^32."""
    return seed % 2**32
