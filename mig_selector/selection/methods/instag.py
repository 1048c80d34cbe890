"""#InsTag: complexity first, diversity in passes."""

from __future__ import annotations

import numpy as np

from mig_selector.arrays import Selection
from mig_selector.selection.method import Candidates, OnProgress, best_first, method


@method(needs={"labels"}, nested=True, may_fall_short=True, compiled=True)
def instag(pool: Candidates, budget: int, *, on_progress: OnProgress) -> Selection:
    """Pass over the rows, those of most labels first, and take each that brings a label new to the pass.

    Rows of equally many labels come in the order of the pool. When a pass has ended and rows are still to be chosen,
    the next one begins with no label seen. A row without labels is never taken.

    Args:
        pool: N rows and their labels.
        budget: Most rows to choose.
        on_progress: Called after each pass with the number of rows that it took.

    Returns:
        Fewer rows than `budget` where fewer have labels. Gains are the numbers of labels that were new to the pass.

    Source: #InsTag (arXiv 2308.07074), Algorithm 1, which does not say how ties go, nor how it ends when no row with
    labels is left.
    """
    from mig_selector.selection.passes import Passes

    labels = pool.labels
    passes = Passes(labels, best_first(np.diff(labels.offsets).astype(np.float64)))
    rows, gains, done = np.empty(budget, np.int64), np.empty(budget), 0
    while done < budget and (taken := passes.take(rows[done:], gains[done:])):
        on_progress(taken)
        done += taken
    return Selection(rows[:done], gains[:done])
