"""From label vectors to the label graph and its propagation matrix (Eq. 3, 6, 7).

Dimension letters: L labels, D dimensions of a label's vector, E stored entries of a matrix.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mig_selector.arrays import Adjacency, Propagation
from mig_selector.errors import ArgumentError


_BLOCK_LABELS = 8192
"""Labels compared with all others at a time, so that memory grows with L and not with its square. Up to this many
labels the similarity matrix is a single product."""
_MAX_PAIRS = 50_000_000
"""More pairs of labels than this are not joined: their entries would take more than 5 GB while they are sorted."""


def build_adjacency(vectors: NDArray[np.floating], threshold: float) -> Adjacency:
    """Join labels by an edge if their vectors have a large cosine.

    Args:
        vectors: One vector per label, of any length above 0. Shape (L, D).
        threshold: Smallest cosine of an edge, in (0, 1]; compared without tolerance.

    Returns:
        W of Eq. 3: the cosine where it is at least `threshold`, and the whole diagonal. Symmetric.

    Raises:
        ValueError: If a vector is zero or holds a value that is not finite.
        ArgumentError: If so many pairs of labels are alike that their edges would not fit into memory.
    """
    unit = _normalise(vectors)
    num_labels = len(unit)
    rows, columns, weights = [], [], []
    num_pairs = 0
    for start in range(0, num_labels, _BLOCK_LABELS):
        # Only pairs above the diagonal are taken, and mirrored later. The two halves of a product can differ in the
        # last bit, and then a pair at the threshold would have an edge in one direction only.
        cosines = unit[start : start + _BLOCK_LABELS] @ unit[start:].T
        is_edge = cosines >= threshold
        num_pairs += _count_pairs(is_edge)  # counted before they are stored
        if num_pairs > _MAX_PAIRS:
            raise ArgumentError(
                f"mig_edge_threshold: at {threshold:g} more than {_MAX_PAIRS:,} pairs of the {num_labels:,} labels "
                "share an edge, too many to be kept in memory; set a higher mig_edge_threshold, or let fewer labels "
                "count (mig_min_label_count, mig_label_vocabulary). Labels with equal vectors share an edge at any "
                "threshold."
            )
        low, high = np.nonzero(is_edge)
        itself = np.arange(len(cosines))
        low, high = np.concatenate((itself, low[low < high])), np.concatenate((itself, high[low < high]))
        rows.append(low + start)
        columns.append(high + start)
        weights.append(cosines[low, high])
    return _symmetric(num_labels, np.concatenate(rows), np.concatenate(columns), np.concatenate(weights))


def _count_pairs(is_edge: NDArray[np.bool_]) -> int:
    """Count the pairs above the diagonal; those of the block's own labels are there twice, and each label itself."""
    own = np.count_nonzero(is_edge[:, : len(is_edge)])
    return int(np.count_nonzero(is_edge) - own + (own - len(is_edge)) // 2)


def _normalise(vectors: NDArray[np.floating]) -> NDArray[np.float64]:
    wide = np.asarray(vectors, np.float64)
    lengths = np.sqrt(np.sum(wide * wide, axis=1, keepdims=True))
    if not np.all(np.isfinite(lengths)) or np.any(lengths == 0):
        raise ValueError(f"vector {int(np.argmax(~np.isfinite(lengths) | (lengths == 0)))} is zero or not finite")
    unit: NDArray[np.float64] = wide / lengths
    return unit


def _symmetric(
    num_labels: int, low: NDArray[np.int64], high: NDArray[np.int64], weights: NDArray[np.float64]
) -> Adjacency:
    """Mirror the entries above the diagonal, and sort all by row and column: the search adds up in that order."""
    above = low != high
    rows = np.concatenate((low, high[above]))
    columns = np.concatenate((high, low[above]))
    values = np.concatenate((weights, weights[above]))
    order = np.lexsort((columns, rows))
    offsets = np.concatenate((np.zeros(1, np.int64), np.cumsum(np.bincount(rows, minlength=num_labels))))
    return Adjacency(offsets.astype(np.int64), columns[order].astype(np.int32), values[order])


def build_propagation(adjacency: Adjacency, propagation_weight: float) -> Propagation:
    """Turn the label graph into the matrix that spreads information along its edges.

    Args:
        adjacency: W of Eq. 3.
        propagation_weight: alpha of Eq. 6, 0 or more: weight of an edge relative to a label's similarity to itself.

    Returns:
        P of Eq. 7: off-diagonal weights times alpha, then every column divided by its sum. The search relies on stored
        entries being above 0 and on a symmetric pattern: an entry that is 0, or becomes 0 when it is divided, is left
        out together with its mirror image.

    Raises:
        ArgumentError: A column's sum overflows.

    Source: MIG (arXiv 2504.13835), Eq. 6 and 7.
    """
    num_labels = adjacency.num_labels
    rows = np.repeat(np.arange(num_labels), np.diff(adjacency.offsets))
    columns, sums = adjacency.columns, np.zeros(num_labels)
    with np.errstate(over="ignore"):
        weights = np.where(rows == columns, adjacency.weights, adjacency.weights * propagation_weight)
        np.add.at(sums, columns, weights)
    if not np.all(np.isfinite(sums)):
        raise ArgumentError(
            f"mig_propagation_weight: {propagation_weight:g} is so large that the weights of a label's edges add up "
            "to infinity; set a smaller mig_propagation_weight, or a higher mig_edge_threshold so that labels have "
            "fewer edges."
        )
    spread = weights / sums[columns]
    kept = (spread > 0) & (weights / sums[rows] > 0)
    offsets = np.concatenate((np.zeros(1, np.int64), np.cumsum(np.bincount(rows[kept], minlength=num_labels))))
    return Propagation(offsets.astype(np.int64), columns[kept], spread[kept])
