"""The best rows by their scores alone, equal ones in the order of the pool."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray

from mig_selector.arrays import Selection
from mig_selector.selection.method import Candidates, best_first, method
from mig_selector.settings import Setting


@method(needs={"scores"}, nested=True)
def top_score(pool: Candidates, budget: int) -> Selection:
    """Choose the rows with the highest scores; gains are the scores."""
    return _in_order(best_first(pool.scores)[:budget], pool.scores)


@method(needs={"scores"}, score="response_tokens", nested=True)
def longest(pool: Candidates, budget: int) -> Selection:
    """Choose the rows with the longest responses; gains are the lengths.

    Source: "Long Is More for Alignment" (arXiv 2402.04833), which takes the 1,000 longest.
    """
    return _in_order(best_first(pool.scores)[:budget], pool.scores)


@method(needs={"scores"}, score="ifd", nested=True, may_fall_short=True)
def ifd(
    pool: Candidates,
    budget: int,
    *,
    ifd_filter: Annotated[
        Literal["mig", "superfiltering"],
        Setting("Which IFD may be chosen: mig from 0 to 1, both included; superfiltering below 1.", decides=True),
    ] = "mig",
) -> Selection:
    """Choose the rows whose instruction helps least to foretell the response; gains are the scores.

    IFD is the perplexity of the response given the instruction, by that of the response alone. Above 1 the
    instruction only misleads: it does not fit the response, and the row is left out.

    Args:
        pool: N rows and their IFD.
        budget: Most rows to choose.
        ifd_filter: The rows that may be chosen: those in [0, 1] (mig), or below 1 (superfiltering). They differ in
            rows of exactly 1, and of less than 0, which no perplexities yield.

    Returns:
        Fewer rows than `budget` where fewer pass the filter.

    Source: MIG (arXiv 2504.13835), App. A.1 and its published code; Superfiltering (arXiv 2402.00530), data selection.
    """
    scores = pool.scores
    passes = (scores >= 0) & (scores <= 1) if ifd_filter == "mig" else scores < 1
    rows = best_first(scores)
    return _in_order(rows[passes[rows]][:budget], scores)


def _in_order(rows: NDArray[np.int64], scores: NDArray[np.float64]) -> Selection:
    return Selection(rows, scores[rows])
