"""Exact lazy greedy selection (Minoux 1978): Algorithm 1 of the paper without its dense matrix."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mig_selector.selection.problem import LabelledPool, Objective, Propagation, Selection


_PICKS_PER_CALL = 2_000
"""Picks between two looks at the clock: the progress bar moves and an interrupt is heard."""


def select_rows(
    pool: LabelledPool,
    propagation: Propagation,
    objective: Objective,
    budget: int,
    on_progress: Callable[[int], object] | None = None,
) -> Selection:
    """Choose `budget` rows greedily; the smallest row index wins a tie.

    Args:
        pool: N rows.
        propagation: How information spreads among the L labels.
        objective: The function to maximise and the greedy rule.
        budget: Rows to choose, in [1, N].
        on_progress: Called now and then with the number of picks made since the last call.

    Returns:
        The same rows, in the same order, as evaluating every row's gain in float64 at every step.

    Raises:
        ValueError: If `budget` is not in [1, N], or an array does not fit the others.

    Source: MIG (arXiv 2504.13835), Eq. 8-13 and Algorithm 1.
    """
    if not 1 <= budget <= len(pool):
        raise ValueError(f"budget must be between 1 and the {len(pool)} rows of the pool, got {budget}")
    _check(pool, propagation)
    from mig_selector.selection.kernel import Search

    search = Search(pool, group_rows(pool), propagation, objective, budget)
    rows = np.empty(budget, np.int64)
    gains = np.zeros(budget, np.float64)
    done = 0
    while done < budget:
        made = search.pick(rows[done : done + _PICKS_PER_CALL], gains[done : done + _PICKS_PER_CALL])
        if made == 0:
            break
        done += made
        if on_progress:
            on_progress(made)
    if done < budget:
        rows[done:] = _smallest_unchosen(len(pool), rows[:done], budget - done)
        if on_progress:
            on_progress(budget - done)
    return Selection(rows, gains)


def measure_information(
    pool: LabelledPool, propagation: Propagation, objective: Objective, rows: NDArray[np.int64]
) -> float:
    """Return E(D) of some rows (Eq. 8): phi of the information at each label, added up."""
    offsets, ids = _take_labels(pool, rows)
    held = np.zeros(propagation.num_labels)
    np.add.at(held, ids, np.repeat(pool.scores[rows], np.diff(offsets)))
    information = np.zeros(propagation.num_labels)
    np.add.at(
        information,
        propagation.labels,
        np.repeat(held, np.diff(propagation.offsets)) * propagation.weights,
    )
    return objective.value(information)


def _check(pool: LabelledPool, propagation: Propagation) -> None:
    if len(pool.label_offsets) != len(pool) + 1 or pool.label_offsets[-1] != len(pool.label_ids):
        raise ValueError(
            f"label_offsets must hold {len(pool) + 1} positions ending at {len(pool.label_ids)}, "
            f"got {len(pool.label_offsets)} ending at {pool.label_offsets[-1]}"
        )
    if len(pool.label_ids) and not 0 <= pool.label_ids.min() <= pool.label_ids.max() < propagation.num_labels:
        raise ValueError(f"label_ids must be in [0, {propagation.num_labels})")
    if not np.all(pool.scores >= 0) or not np.isfinite(pool.total_score):
        raise ValueError("scores must be 0 or more, and their sum must be finite")


def _smallest_unchosen(num_rows: int, chosen: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Rows that are left when no row gains anything any more: ties at 0, so the smallest indices."""
    free = np.ones(num_rows, np.bool_)
    free[chosen] = False
    return np.flatnonzero(free)[:count]


@dataclass(frozen=True)
class Twins:
    """Rows that can gain anything, equal ones (same labels, same score) together. G groups, R rows."""

    offsets: NDArray[np.int64]
    """Where each group's rows begin in `rows`. Shape (G + 1,)."""
    rows: NDArray[np.int64]
    """Row indices, ascending within a group; groups in the order of their first row. Shape (R,)."""


def group_rows(pool: LabelledPool) -> Twins:
    """Put equal rows together: they gain the same at every step, so the search looks at the first that is left.

    Rows without a label or with score 0 never gain anything and are left out. Where scores hardly repeat, looking for
    equal rows costs more than it saves, and every row is a group of its own.
    """
    useful = np.flatnonzero((np.diff(pool.label_offsets) > 0) & (pool.scores > 0))
    if len(np.unique(pool.scores[useful])) > len(useful) // 2:
        return Twins(np.arange(len(useful) + 1, dtype=np.int64), useful)
    codes = _row_codes(pool)[useful]
    order = np.argsort(codes, kind="stable")
    is_first = np.concatenate((np.ones(min(len(order), 1), np.bool_), codes[order][1:] != codes[order][:-1]))
    is_first |= ~_equals_previous(pool, useful[order])
    firsts = np.flatnonzero(is_first)
    by_first_row = np.argsort(order[firsts])
    sizes = np.diff(np.append(firsts, len(order)))[by_first_row]
    offsets = np.concatenate((np.zeros(1, np.int64), np.cumsum(sizes)))
    places = np.arange(len(order)) + np.repeat(firsts[by_first_row] - offsets[:-1], sizes)
    return Twins(offsets, useful[order[places]])


def _row_codes(pool: LabelledPool) -> NDArray[np.uint64]:
    """Hash labels and score of each row; equal rows have equal codes. Shape (N,)."""
    num_labels = int(pool.label_ids.max(initial=-1)) + 1
    codes = np.random.default_rng(0).integers(0, 2**64, num_labels, np.uint64)
    sums = np.zeros(len(pool.label_ids) + 1, np.uint64)
    np.cumsum(codes[pool.label_ids], out=sums[1:])
    labels = sums[pool.label_offsets[1:]] - sums[pool.label_offsets[:-1]]
    return labels ^ (pool.scores.view(np.uint64) * np.uint64(0x9E3779B97F4A7C15))


def _equals_previous(pool: LabelledPool, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each row has the labels and the score of the one before it: exactness must not rest on a hash."""
    lengths = np.diff(pool.label_offsets)[rows]
    same = np.zeros(len(rows), np.bool_)
    same[1:] = (lengths[1:] == lengths[:-1]) & (pool.scores[rows][1:] == pool.scores[rows][:-1])
    places = np.flatnonzero(same)
    _, mine = _take_labels(pool, rows[places])
    _, before = _take_labels(pool, rows[places - 1])
    differs = np.zeros(len(rows), np.bool_)
    differs[np.repeat(places, lengths[places])[mine != before]] = True
    return same & ~differs


def _take_labels(pool: LabelledPool, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    lengths = np.diff(pool.label_offsets)[rows]
    offsets = np.concatenate((np.zeros(1, np.int64), np.cumsum(lengths)))
    shift = np.repeat(pool.label_offsets[rows] - offsets[:-1], lengths)
    return offsets, pool.label_ids[np.arange(offsets[-1]) + shift]
