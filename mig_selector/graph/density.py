"""Whether a label graph says anything: with hardly any edge, or with nearly all, its threshold does not fit.

Dimension letters: L labels, D dimensions of a label's vector.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


_THRESHOLDS = (0.95, 0.9, 0.8, 0.7, 0.6, 0.5)
_FEWEST_LABELS = 20
"""Fewer labels make no pattern."""
_COMPARED_LABELS = 2048
"""Labels that are compared with all others; of more, every n-th is taken."""
_BLOCK_LABELS = 256


def describe_density(vectors: NDArray[np.floating], num_edges: int, threshold: float) -> str | None:
    """Describe a graph that is nearly empty or nearly complete, with its edges at other thresholds.

    Args:
        vectors: One vector per label, of any length above 0. Shape (L, D).
        num_edges: Edges at `threshold`.
        threshold: Smallest cosine of an edge.

    Returns:
        A sentence for people; None for any other graph.
    """
    num_labels = len(vectors)
    if num_labels < _FEWEST_LABELS:
        return None
    if num_edges < num_labels / 20:
        finding = "nearly empty: at most one label in ten has a neighbour, so labels hardly share information"
        advice = "lower it to join labels of similar meaning"
    elif num_edges > num_labels * (num_labels - 1) / 4:
        finding = "nearly complete: more than half of all pairs are joined, so labels are hardly told apart"
        advice = "raise it to tell labels apart"
    else:
        return None
    counts = count_edges(vectors, _THRESHOLDS)
    about = "about " if num_labels > _COMPARED_LABELS else ""
    listed = ", ".join(f"{count:,} at {each:g}" for each, count in zip(_THRESHOLDS, counts, strict=True))
    return f"the graph is {finding} at mig_edge_threshold {threshold:g}; {about}edges: {listed}; {advice}"


def count_edges(vectors: NDArray[np.floating], thresholds: Sequence[float]) -> list[int]:
    """Count the pairs of labels whose cosine reaches each threshold; an estimate for more than 2,048 labels.

    Args:
        vectors: One vector per label, of any length above 0. Shape (L, D).
        thresholds: Cosines above 0.
    """
    # Single precision is enough to choose a threshold, and takes half the time of the graph's own product.
    wide = np.asarray(vectors, np.float32)
    unit = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    step = -(-len(unit) // _COMPARED_LABELS)
    compared = unit[::step]
    pairs = np.zeros(len(thresholds), np.int64)
    for start in range(0, len(compared), _BLOCK_LABELS):
        block = compared[start : start + _BLOCK_LABELS]
        cosines = block @ unit.T
        own = np.arange(len(block))
        cosines[own, (start + own) * step] = -1.0  # no label is its own neighbour
        pairs += [int(np.count_nonzero(cosines >= each)) for each in thresholds]
    # Each pair was seen from both sides, or from as many as were compared.
    return [round(float(count) * len(unit) / len(compared) / 2) for count in pairs]
