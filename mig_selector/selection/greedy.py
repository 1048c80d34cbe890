"""Exact lazy greedy selection (Minoux 1978): Algorithm 1 of the paper without its dense matrix.

Reading order: this module checks the arrays and reports progress; `rounds` evaluates all rows and keeps the best in a
working set; `kernel` holds the compiled loops that choose from it; `twins` lets equal rows wait for each other.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from mig_selector.arrays import LabelledPool, Propagation, Selection
from mig_selector.selection.objective import Objective


_FIRST_PICKS = 64
"""Picks of the first call, whose speed is not known yet."""
_SECONDS_PER_CALL = 0.25
"""Compiled code cannot notice Ctrl+C or report progress, so each call makes as many picks as take about this long."""


def select_rows(
    pool: LabelledPool,
    propagation: Propagation,
    objective: Objective,
    budget: int,
    on_progress: Callable[[int], object] | None = None,
) -> Selection:
    """Choose `budget` rows greedily, each time the row with the largest gain; of equal gains the smallest row wins.

    Args:
        pool: N rows.
        propagation: How information spreads among the L labels.
        objective: The function to maximise, and which gain ranks the rows.
        budget: Rows to choose, in [1, N].
        on_progress: Called about four times a second with the number of picks made since the last call.

    Returns:
        The same rows, in the same order and with the same gains, as evaluating every row in float64 at every step.

    Raises:
        ValueError: If `budget` is not in [1, N], or the arrays do not match.

    Source: MIG (arXiv 2504.13835), Eq. 8-13 and Algorithm 1.
    """
    if not 1 <= budget <= len(pool):
        raise ValueError(f"budget must be between 1 and the {len(pool)} rows of the pool, got {budget}")
    _check_arrays(pool, propagation)
    from mig_selector.selection.rounds import Search  # here, as it loads numba

    search = Search(pool, propagation, objective)
    rows = np.empty(budget, np.int64)
    gains = np.empty(budget, np.float64)
    done, picks = 0, _FIRST_PICKS
    while done < budget:
        span = slice(done, min(done + picks, budget))
        start = time.perf_counter()
        search.pick(rows[span], gains[span])
        seconds = time.perf_counter() - start
        if on_progress:
            on_progress(span.stop - done)
        done = span.stop
        # At most eight times as many: a call that needed no new round says little about the next, which may need one.
        picks = max(1, min(8 * picks, int(picks * _SECONDS_PER_CALL / max(seconds, 1e-9))))
    return Selection(rows, gains)


def measure_information(
    pool: LabelledPool, propagation: Propagation, objective: Objective, rows: NDArray[np.int64]
) -> float:
    """Return E(D) of some rows (Eq. 8): the sum over labels of phi of the information at the label.

    Scores are added up per label and then spread once, where the search spreads row by row. The result can differ from
    that of the search in its last digits.
    """
    offsets, ids = _take_labels(pool, rows)
    scores = np.zeros(propagation.num_labels)
    np.add.at(scores, ids, np.repeat(pool.scores[rows], np.diff(offsets)))
    information = np.zeros(propagation.num_labels)
    np.add.at(
        information,
        propagation.columns,
        np.repeat(scores, np.diff(propagation.offsets)) * propagation.weights,
    )
    return objective.value(information)


def _check_arrays(pool: LabelledPool, propagation: Propagation) -> None:
    """Refuse arrays that do not match; compiled code does not check indices and would read arbitrary memory."""
    labels = pool.labels
    if len(labels.offsets) != len(pool) + 1 or labels.offsets[-1] != len(labels.ids):
        raise ValueError(
            f"labels.offsets must hold {len(pool) + 1} offsets ending at {len(labels.ids)}, "
            f"got {len(labels.offsets)} ending at {labels.offsets[-1]}"
        )
    if len(labels.ids) and not 0 <= labels.ids.min() <= labels.ids.max() < propagation.num_labels:
        raise ValueError(f"labels.ids must be in [0, {propagation.num_labels})")
    if not np.all(pool.scores >= 0) or not np.isfinite(pool.total_score):
        raise ValueError("scores must be 0 or more, and their sum must be finite")


def _take_labels(pool: LabelledPool, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Return offsets and ids of the labels of some rows, in the order of `rows`."""
    lengths = pool.labels.counts[rows]
    offsets = np.concatenate((np.zeros(1, np.int64), np.cumsum(lengths)))
    shift = np.repeat(pool.labels.offsets[rows] - offsets[:-1], lengths)
    return offsets, pool.labels.ids[np.arange(offsets[-1]) + shift]
