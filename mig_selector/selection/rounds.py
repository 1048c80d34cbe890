"""Exact lazy greedy in rounds: evaluate all rows once, then make many picks from the best of them.

Gains never rise as information grows, so the last gain computed for a row is an upper bound on its present gain
(Minoux 1978). A round evaluates all rows and puts the best into a working set. A row outside the set stays worse than
the set's best entry until that falls below the cut; then the next round begins.

Why rounds, and not one heap over all rows: evaluating all rows in memory order takes a few nanoseconds a row; jumping
among them, as a heap over all rows would, takes a hundred for each evaluation; within a small set it takes a few
again.

The search is exact for any working set. Which rows it gets, and how many, decides only how fast it is.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mig_selector.arrays import LabelledPool, Propagation
from mig_selector.selection.kernel import (
    STALE,
    Costs,
    LabelledPoolTuple,
    LabelState,
    ObjectiveTuple,
    PoolState,
    PropagationTuple,
    Ranking,
    WorkingSet,
    copy_rows,
    local_value,
    rank,
    replay,
    search,
)
from mig_selector.selection.objective import Objective
from mig_selector.selection.twins import link_equal_rows


_ROWS_PER_ENTRY = {"gradient": 32, "marginal": 8}
"""The working set gets one row in this many: then searching it takes about as long as evaluating all rows. Gradient
gains are looked up, so a round is cheap and the set may be small; marginal gains are computed, so rounds must be
few."""
_MIN_ENTRIES = 2_048
_SAMPLE_ROWS = 16_384
"""The cut is estimated from the gains of this many rows."""
_EPSILON = float(np.finfo(np.float64).eps)


class Search:
    """The state of one greedy search; `pick` continues where the last call stopped."""

    def __init__(
        self,
        pool: LabelledPool,
        propagation: Propagation,
        objective: Objective,
        costs: NDArray[np.float64] | None = None,
        budget: float = 0.0,
    ) -> None:
        """Start the first round, with no row chosen.

        Args:
            pool: N rows.
            propagation: How information spreads among the labels.
            objective: Which phi, and which rule for gains.
            costs: What each row takes from `budget`, at least 1: then rows are ranked by their gain per unit of cost,
                and only those that fit are picked. Shape (N,). Rows are counted if None.
            budget: What the costs of all picks may add up to.
        """
        num_rows = len(pool)
        self._objective = as_objective_tuple(objective)
        self._propagation = PropagationTuple(propagation.offsets, propagation.columns, propagation.weights)
        self._labels = without_information(self._objective, propagation.num_labels)
        is_candidate = np.ones(num_rows, np.bool_)
        # Rows that are equal in labels, score and cost are rare.
        following = link_equal_rows(pool, is_candidate) if costs is None else np.empty(0, np.int64)
        rows = LabelledPoolTuple(pool.labels.offsets, pool.labels.ids, pool.scores)
        self._pool = PoolState(rows, is_candidate, following)
        self._budget = None if costs is None else Costs(costs, np.array([budget], np.float64))
        self._noise = rounding_bound(pool, propagation, objective)
        self._gains = np.empty(num_rows)
        self._num_wanted = max(num_rows // _ROWS_PER_ENTRY[objective.gain], _MIN_ENTRIES)
        self._sample = np.random.default_rng(0).integers(0, num_rows, min(num_rows, _SAMPLE_ROWS))
        self._working_set = self._start_round()

    def take(self, row: int) -> float:
        """Choose a row whatever its rank, before any pick; it must fit. Return its gain per unit of cost."""
        gain = float(self._gains[row])
        replay(self._propagation, self._objective, self._labels, self._pool.rows, np.array([row]))
        self._pool.is_candidate[row] = False
        if self._budget is not None:
            self._budget.left[0] -= self._budget.costs[row]
        self._working_set = self._start_round()
        return gain

    def pick(self, rows: NDArray[np.int64], gains: NDArray[np.float64]) -> int:
        """Fill `rows` and `gains` with the next picks.

        Returns:
            How many picks were made: fewer than `rows` holds if no row is left, or none that fits.
        """
        made = self._search(rows, gains, 0)
        while made < len(rows):
            self._working_set = self._start_round()
            if len(self._working_set.indices) == 0:
                break
            before, made = made, self._search(rows, gains, made)
            if made == before:
                raise RuntimeError("a new round made no pick; this is a bug in mig_selector, please report it")
        return made

    def _search(self, rows: NDArray[np.int64], gains: NDArray[np.float64], made: int) -> int:
        budget = self._budget and Costs(self._budget.costs[self._working_set.indices], self._budget.left)
        arguments: tuple[Any, ...] = (self._propagation, self._objective, self._labels, self._pool, self._working_set)
        return int(search(*arguments, budget, self._noise, rows, gains, made))

    def _start_round(self) -> WorkingSet:
        """Evaluate all candidates, and copy the best into a working set."""
        rank(self._propagation, self._objective, self._labels, self._pool, self._budget, self._gains)
        cut_gain, cut_row = self._estimate_cut(), -1
        is_entry = self._gains > cut_gain
        if cut_gain > -np.inf:
            # Very many rows may tie at the cut, so only the first of them are taken: ties go by row, and those left
            # outside come after `cut_row`. Some must be taken, or a round in which all rows tie would be empty.
            tied = np.flatnonzero(self._gains == cut_gain)[: self._num_wanted]
            is_entry[tied] = True
            cut_row = int(tied[-1])
        indices = np.flatnonzero(is_entry)
        gains = self._gains[indices]
        order = np.argsort(-gains)  # not stable: the search breaks ties itself
        return WorkingSet(
            rows=self._copy(indices),
            indices=indices,
            queue=Ranking(gains[order], order),
            heap=Ranking(np.empty(len(indices)), np.empty(len(indices), np.int64)),
            state=np.zeros(3, np.int64),
            cut_gain=cut_gain,
            cut_row=cut_row,
        )

    def _estimate_cut(self) -> float:
        """Return a gain that about `_num_wanted` rows exceed; -inf if fewer candidates than that are left.

        A sample is enough, as any cut gives the same picks; it saves a partition of all N gains in every round. The
        result is the gain of a row of the sample, so at least one row ties with it.
        """
        sample = self._gains[self._sample]
        num_above = len(sample) * self._num_wanted // len(self._gains)
        if num_above >= len(sample):
            return -np.inf
        index = len(sample) - 1 - num_above
        return float(np.partition(sample, index)[index])

    def _copy(self, indices: NDArray[np.int64]) -> LabelledPoolTuple:
        offsets = self._pool.rows.offsets
        num_ids = int(np.sum(offsets[indices + 1] - offsets[indices]))
        rows = LabelledPoolTuple(
            np.empty(len(indices) + 1, np.int64),
            np.empty(num_ids, np.int32),
            np.empty(len(indices)),
        )
        copy_rows(self._pool.rows, indices, rows)
        return rows


def information_alone(pool: LabelledPool, propagation: Propagation, objective: Objective) -> NDArray[np.float64]:
    """Return by how much E(D) rises with each row if it is the only one. Shape (N,)."""
    rule = as_objective_tuple(replace(objective, gain="marginal"))
    rows = LabelledPoolTuple(pool.labels.offsets, pool.labels.ids, pool.scores)
    state = PoolState(rows, np.ones(len(pool), np.bool_), np.empty(0, np.int64))
    gains = np.empty(len(pool))
    spread = PropagationTuple(propagation.offsets, propagation.columns, propagation.weights)
    rank(spread, rule, without_information(rule, propagation.num_labels), state, None, gains)
    return gains


def as_objective_tuple(objective: Objective) -> ObjectiveTuple:
    """Return the values of an objective as the compiled search takes them."""
    is_pow, is_gradient = objective.phi == "pow", objective.gain == "gradient"
    return ObjectiveTuple(is_pow, is_gradient, objective.exponent, objective.offset, objective.rate)


def without_information(objective: ObjectiveTuple, num_labels: int) -> LabelState:
    """Return the state of the labels before any row is chosen."""
    return LabelState(
        information=np.zeros(num_labels),
        local=np.full(num_labels, local_value(objective, 0.0)),
        worth=np.full(num_labels, STALE),
        spread=np.zeros(num_labels),
        reached=np.zeros(num_labels, np.int32),
    )


def rounding_bound(pool: LabelledPool, propagation: Propagation, objective: Objective) -> float:
    """Return by how much a gain can rise, through rounding alone, although information grew.

    The other gains are sums and products of values that fall to the last bit, and rounding keeps the order of what it
    rounds. The difference phi(x + e) - phi(x) of two powers is not such a product: its error is a few units in the
    last place of phi(x), at each label that the row reaches. No label ever holds more than the sum of all scores.
    """
    if objective.phi != "pow" or objective.gain != "marginal":
        return 0.0
    most_labels, most_neighbours = (int(np.diff(o).max()) for o in (pool.labels.offsets, propagation.offsets))
    reached = min(most_labels * most_neighbours, propagation.num_labels)
    return 8.0 * _EPSILON * reached * float((pool.total_score + objective.offset) ** objective.exponent)
