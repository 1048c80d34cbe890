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
from mig_selector.errors import ArgumentError
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
        ValueError: If `budget` is not in [1, N], or the arrays do not match or break what `LabelledPool` and
            `Propagation` promise.
        ArgumentError: If gains overflow.

    Source: MIG (arXiv 2504.13835), Eq. 8-13 and Algorithm 1.
    """
    if not 1 <= budget <= len(pool):
        raise ValueError(f"budget must be between 1 and the {len(pool)} rows of the pool, got {budget}")
    _check_pool(pool, propagation.num_labels)
    _check_propagation(propagation)
    _check_gains(pool, objective)
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


# Compiled code does not check indices: arrays that broke a promise would be read, and written, beyond their ends.


def _check_pool(pool: LabelledPool, num_labels: int) -> None:
    offsets, ids = pool.labels.offsets, pool.labels.ids
    if len(offsets) != len(pool) + 1 or offsets[-1] != len(ids):
        raise ValueError(
            f"labels.offsets must hold {len(pool) + 1} offsets ending at {len(ids)}, "
            f"got {len(offsets)} ending at {offsets[-1]}"
        )
    if offsets[0] != 0 or np.any(offsets[1:] < offsets[:-1]):
        raise ValueError("labels.offsets must begin with 0 and never fall")
    if len(ids) and not 0 <= ids.min() <= ids.max() < num_labels:
        raise ValueError(f"labels.ids must be in [0, {num_labels})")
    if not _ascends_within_rows(offsets, ids):
        raise ValueError("labels.ids must be ascending and distinct within each row")
    if not np.all(pool.scores >= 0) or not np.isfinite(pool.total_score):
        raise ValueError("scores must be 0 or more, and their sum must be finite")


def _check_propagation(propagation: Propagation) -> None:
    offsets, columns, weights = propagation.offsets, propagation.columns, propagation.weights
    if offsets[0] != 0 or np.any(offsets[1:] < offsets[:-1]) or not offsets[-1] == len(columns) == len(weights):
        raise ValueError(
            f"propagation.offsets must begin with 0, never fall, and end at the number of columns and weights, got "
            f"{offsets[0]} to {offsets[-1]} for {len(columns)} columns and {len(weights)} weights"
        )
    if len(columns) and not 0 <= columns.min() <= columns.max() < propagation.num_labels:
        raise ValueError(f"propagation.columns must be in [0, {propagation.num_labels})")
    if not _ascends_within_rows(offsets, columns):
        raise ValueError("propagation.columns must be ascending and distinct within each row")
    if not np.all(weights > 0) or not np.all(np.isfinite(weights)):
        raise ValueError("propagation.weights must be finite and above 0")
    from mig_selector.selection.kernel import is_symmetric  # here, as it loads numba

    if not is_symmetric(offsets, columns):
        raise ValueError("the pattern of propagation must be symmetric")


def _ascends_within_rows(offsets: NDArray[np.int64], ids: NDArray[np.int32]) -> bool:
    """Whether each row's ids rise; from the end of one row to the beginning of the next they may fall."""
    rises = ids[1:] > ids[:-1]
    first = offsets[1:-1]
    rises[first[(first > 0) & (first < len(ids))] - 1] = True
    return bool(rises.all())


def _check_gains(pool: LabelledPool, objective: Objective) -> None:
    """Refuse gains that may overflow: infinity times 0 is not a number, and the search would never end.

    A gain is largest while nothing is chosen, and no row adds more to a label than the sum of all scores.
    """
    if objective.phi == "exp":
        steepest, largest = objective.rate, 1.0
    else:
        with np.errstate(over="ignore"):
            steepest = float(objective.exponent * np.float64(objective.offset) ** (objective.exponent - 1.0))
            largest = float((pool.total_score + np.float64(objective.offset)) ** objective.exponent)
    most_labels = max(int(pool.labels.counts.max()), 1)
    bound = most_labels * (pool.total_score * steepest if objective.gain == "gradient" else largest)
    if not np.isfinite(bound):
        raise ArgumentError(
            "mig_score, mig_phi_offset, mig_phi_rate: the scores are so large, or phi is so steep at 0, that the gain "
            "of a row is not finite; scale the scores down, set a larger mig_phi_offset, or a smaller mig_phi_rate."
        )


def _take_labels(pool: LabelledPool, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Return offsets and ids of the labels of some rows, in the order of `rows`."""
    lengths = pool.labels.counts[rows]
    offsets = np.concatenate((np.zeros(1, np.int64), np.cumsum(lengths)))
    shift = np.repeat(pool.labels.offsets[rows] - offsets[:-1], lengths)
    return offsets, pool.labels.ids[np.arange(offsets[-1]) + shift]
