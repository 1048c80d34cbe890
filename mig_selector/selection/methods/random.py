"""Random choice: what every other method is compared with."""

from __future__ import annotations

import random

from mig_selector.selection.method import Candidates, Seed, method


@method(needs=set(), ordered=True)
def random_rows(pool: Candidates, budget: int, *, seed: Seed = 42) -> list[int]:
    """Draw `budget` rows, each choice equally likely.

    Args:
        pool: N rows.
        budget: Rows to choose, in [0, N].
        seed: The draw depends on it and on N.

    Returns:
        The rows in the order of the draw; a larger budget may draw others.

    Raises:
        ValueError: If `budget` is not in [0, N].

    Source: MIG (arXiv 2504.13835), App. A.1, with seed 42. The same rows on every machine and Python version:
    `random.sample` is part of the language.
    """
    return random.Random(seed).sample(range(len(pool)), budget)
