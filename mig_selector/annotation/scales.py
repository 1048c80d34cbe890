"""Scales: scores of any sign and size, such as those of reward models, as numbers of 0 or more.

N rows.
"""

from __future__ import annotations

import math
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mig_selector.errors import PoolError


Scale: TypeAlias = Literal["none", "rank", "sigmoid", "minmax"]


def rescale(scores: NDArray[np.float64], scale: Scale) -> NDArray[np.float64]:
    """Return the scores of the rows to choose from on a scale; a higher score is never below a lower one.

    Args:
        scores: Finite. Shape (N,).
        scale: ``none``: as they are.
            ``rank``: r / N, where r is the 1-based position among all N scores in ascending order. Equal scores share
            the mean of their positions: 5, 7, 7, 9 become 1/4, 2.5/4, 2.5/4, 4/4.
            ``sigmoid``: 1 / (1 + exp(-score)), the probability with which a Bradley-Terry reward model prefers the row
            to one of score 0. It does not depend on the other rows.
            ``minmax``: (score - lowest) / (highest - lowest); the lowest score becomes 0, the highest 1.

    Raises:
        PoolError: ``minmax`` of equal scores, or of scores so far apart that their difference is not finite.
    """
    match scale:
        case "none":
            return scores
        case "rank":
            _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
            last = np.cumsum(counts)
            return ((last - (counts - 1) / 2) / len(scores))[inverse]
        case "sigmoid":
            sigmoid: NDArray[np.float64] = np.exp(-np.logaddexp(0, -scores))  # exp(-score) may overflow
            return sigmoid
        case "minmax":
            lowest, highest = float(scores.min()), float(scores.max())
            if lowest == highest:
                raise PoolError(
                    f"mig_score_scale: minmax needs different scores, but all {len(scores):,} are {lowest:g}; use "
                    "rank, or mig_score: constant."
                )
            if not math.isfinite(highest - lowest):
                raise PoolError(
                    f"mig_score_scale: minmax cannot map scores from {lowest:g} to {highest:g}, whose difference is "
                    "not finite; use rank."
                )
            return (scores - lowest) / (highest - lowest)


def describe_scale(scores: NDArray[np.float64], scale: Scale) -> dict[str, Any]:
    """Return a scale and the figures of the scores before it, for the manifest."""
    return {
        "scale": scale,
        "rows": len(scores),
        "lowest": float(scores.min()),
        "mean": float(scores.mean()),
        "highest": float(scores.max()),
    }
