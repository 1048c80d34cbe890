"""How far a score may be from that of a benchmark with endlessly many questions of the same kind."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


NUM_DRAWS = 2000
_Z = 1.959963984540054
"""Of a 95 % interval."""


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """Return the 95 % interval of a share, after Wilson (1927): it is not empty at 0 and at 1."""
    share, z2 = successes / trials, _Z**2
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = _Z / (1 + z2 / trials) * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2))
    return max(centre - half, 0.0), min(centre + half, 1.0)


def bootstrap(subsets: Sequence[NDArray[np.float64]], seed: int) -> NDArray[np.float64]:
    """Return draws of the mean of the subsets' means, the items of each subset drawn with replacement.

    Args:
        subsets: Scores of the items of each subset.
        seed: Of the generator.

    Returns:
        One mean for each draw. Shape (NUM_DRAWS,).
    """
    generator = np.random.default_rng(seed)
    total = np.zeros(NUM_DRAWS)
    for items in subsets:
        # Counts of the distinct values decide a mean, and there are few of them: no array of draws by items is made.
        values, counts = np.unique(items, return_counts=True)
        drawn = generator.multinomial(items.size, counts / items.size, size=NUM_DRAWS)
        total += drawn @ values / items.size
    return total / len(subsets)


def percentile_interval(draws: NDArray[np.float64]) -> tuple[float, float]:
    """Return the middle 95 % of draws."""
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(low), float(high)
