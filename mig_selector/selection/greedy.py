"""Exact lazy greedy selection (Minoux 1978) by label sets: Algorithm 1 of the paper without its dense matrix.

Rows with one label set differ in score alone, so the heap holds label sets. The rows of a set stand in groups of equal
score, best score first, and within a group by row index: the head of the first group is the set's best row.
"""

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

    sets = group_rows(pool)
    search = Search(sets, propagation, objective)
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
class LabelSets:
    """Rows that can gain anything, by label set, then score (falling), then row index. S sets, G groups, R rows."""

    label_offsets: NDArray[np.int64]
    """Where each set's labels begin. Shape (S + 1,)."""
    label_ids: NDArray[np.int32]
    group_offsets: NDArray[np.int64]
    """Where each set's groups begin. Shape (S + 1,)."""
    scores: NDArray[np.float64]
    """Score of each group. Shape (G,)."""
    row_offsets: NDArray[np.int64]
    """Where each group's rows begin. Shape (G + 1,)."""
    rows: NDArray[np.int64]
    """Row indices. Shape (R,)."""


def group_rows(pool: LabelledPool) -> LabelSets:
    """Sort rows into label sets; rows without a label or with score 0 never gain anything and are left out."""
    lengths = np.diff(pool.label_offsets)
    useful = np.flatnonzero((lengths > 0) & (pool.scores > 0))
    codes = _set_codes(pool)[:, useful]
    order = np.lexsort((useful, -pool.scores[useful], codes[1], codes[0]))
    rows, codes = useful[order], codes[:, order]
    new_set = _is_first(np.any(codes[:, 1:] != codes[:, :-1], axis=0), len(rows))
    new_group = new_set | _is_first(pool.scores[rows][1:] != pool.scores[rows][:-1], len(rows))
    set_starts, group_starts = np.flatnonzero(new_set), np.flatnonzero(new_group)
    representatives = rows[set_starts]
    _check_sets(pool, rows, representatives, np.cumsum(new_set) - 1)
    offsets, ids = _take_labels(pool, representatives)
    return LabelSets(
        label_offsets=offsets,
        label_ids=ids,
        group_offsets=np.append(np.searchsorted(group_starts, set_starts), len(group_starts)).astype(np.int64),
        scores=pool.scores[rows[group_starts]],
        row_offsets=np.append(group_starts, len(rows)).astype(np.int64),
        rows=rows.astype(np.int64),
    )


def _is_first(differs: NDArray[np.bool_], length: int) -> NDArray[np.bool_]:
    return np.concatenate((np.ones(min(length, 1), np.bool_), differs))


def _set_codes(pool: LabelledPool) -> NDArray[np.uint64]:
    """Two 64-bit sums of random label codes per row: equal label sets have equal sums. Shape (2, N)."""
    num_labels = int(pool.label_ids.max(initial=-1)) + 1
    codes = np.random.default_rng(0).integers(0, 2**64, (2, num_labels), np.uint64)
    sums = np.zeros((2, len(pool.label_ids) + 1), np.uint64)
    np.cumsum(codes[:, pool.label_ids], axis=1, out=sums[:, 1:])
    return sums[:, pool.label_offsets[1:]] - sums[:, pool.label_offsets[:-1]]


def _check_sets(
    pool: LabelledPool, rows: NDArray[np.int64], representatives: NDArray[np.int64], set_of_row: NDArray[np.int64]
) -> None:
    """Make sure that no two label sets share a code: exactness must not rest on a hash."""
    offsets, ids = _take_labels(pool, rows)
    expected_offsets, expected_ids = _take_labels(pool, representatives[set_of_row])
    if not np.array_equal(offsets, expected_offsets) or not np.array_equal(ids, expected_ids):
        raise ValueError("two label sets share a 128-bit code; labels of a row must be ascending and distinct")


def _take_labels(pool: LabelledPool, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    lengths = np.diff(pool.label_offsets)[rows]
    offsets = np.concatenate((np.zeros(1, np.int64), np.cumsum(lengths)))
    shift = np.repeat(pool.label_offsets[rows] - offsets[:-1], lengths)
    return offsets, pool.label_ids[np.arange(offsets[-1]) + shift]
