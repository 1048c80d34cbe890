"""Exact lazy greedy in rounds: one look at all rows, then many picks from the best of them.

Gains never rise as information grows, so the gain that a row had when last looked at is an upper bound on its gain now
(Minoux 1978), and a row that looked worse than all of a working set stays worse until the set's best falls below it.
Looking at all rows in the order in which they lie in memory costs a few nanoseconds a row; a search that jumps among
them costs a hundred at each evaluation, a search in a small set costs few again.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mig_selector.arrays import LabelledPool, Propagation
from mig_selector.selection.kernel import (
    Graph,
    Labels,
    Pool,
    Ranking,
    Rows,
    Rule,
    WorkingSet,
    copy_rows,
    local_value,
    rank,
    search,
)
from mig_selector.selection.objective import Objective
from mig_selector.selection.twins import link_equal_rows


_ROWS_PER_DRAWN = {"gradient": 32, "marginal": 8}
"""One row in so many is drawn for a round: then drawing and searching cost about as much as looking at all rows.
Gains of the gradient rule are looked up, so that a pass is cheap against a search; marginal gains are computed."""
_DRAWN_AT_LEAST = 2_048
_SAMPLE = 16_384
"""Rows whose gains tell where the cut lies."""
_EPSILON = float(np.finfo(np.float64).eps)


class Search:
    """The state of one greedy search; `pick` goes on where the last call stopped."""

    def __init__(self, pool: LabelledPool, propagation: Propagation, objective: Objective) -> None:
        """Draw the first working set at zero information."""
        num_rows, num_labels = len(pool), propagation.num_labels
        self._rule = Rule(
            objective.phi == "pow",
            objective.gain == "gradient",
            objective.exponent,
            objective.offset,
            objective.rate,
        )
        self._graph = Graph(propagation.offsets, propagation.columns, propagation.weights)
        self._labels = Labels(
            information=np.zeros(num_labels),
            local=np.full(num_labels, local_value(self._rule, 0.0)),
            worth=np.full(num_labels, -1.0),
            spread=np.zeros(num_labels),
            reached=np.zeros(num_labels, np.int32),
        )
        is_candidate = np.ones(num_rows, np.bool_)
        following = link_equal_rows(pool, is_candidate)
        self._pool = Pool(Rows(pool.labels.offsets, pool.labels.ids, pool.scores), is_candidate, following)
        self._noise = _rounding_bound(pool, propagation, objective)
        self._gains = np.empty(num_rows)
        self._width = max(num_rows // _ROWS_PER_DRAWN[objective.gain], _DRAWN_AT_LEAST)
        self._sample = np.random.default_rng(0).integers(0, num_rows, min(num_rows, _SAMPLE))
        self._drawn = self._draw()

    def pick(self, rows: NDArray[np.int64], gains: NDArray[np.float64]) -> None:
        """Fill `rows` and `gains`; the pool must have as many rows left."""
        made = self._search(rows, gains, 0)
        while made < len(rows):
            self._drawn = self._draw()
            before, made = made, self._search(rows, gains, made)
            if made == before:
                raise RuntimeError("the best of a fresh draw was not chosen; this is a fault of mig_selector")

    def _search(self, rows: NDArray[np.int64], gains: NDArray[np.float64], made: int) -> int:
        arguments: tuple[Any, ...] = (self._graph, self._rule, self._labels, self._pool, self._drawn, self._noise)
        return int(search(*arguments, rows, gains, made))

    def _draw(self) -> WorkingSet:
        """Look at all candidates anew, and copy the best into a working set."""
        rank(self._graph, self._rule, self._labels, self._pool, self._gains)
        cut_gain, cut_row = self._guess_cut(), -1
        is_drawn = self._gains > cut_gain
        if cut_gain > -np.inf:
            tied = np.flatnonzero(self._gains == cut_gain)[: self._width]
            is_drawn[tied] = True
            cut_row = int(tied[-1])
        indices = np.flatnonzero(is_drawn)
        gains = self._gains[indices]
        order = np.argsort(-gains)
        return WorkingSet(
            rows=self._copy(indices),
            indices=indices,
            queue=Ranking(gains[order], order),
            heap=Ranking(np.empty(len(indices)), np.empty(len(indices), np.int64)),
            state=np.zeros(3, np.int64),
            cut_gain=cut_gain,
            cut_row=cut_row,
        )

    def _guess_cut(self) -> float:
        """Return a gain that about `width` rows surpass; the search is exact wherever the cut lies."""
        sample = self._gains[self._sample]
        surpassed_by = len(sample) * self._width // len(self._gains)
        if surpassed_by >= len(sample):
            return -np.inf
        place = len(sample) - 1 - surpassed_by
        return float(np.partition(sample, place)[place])

    def _copy(self, indices: NDArray[np.int64]) -> Rows:
        offsets = self._pool.rows.offsets
        num_labels = int(np.sum(offsets[indices + 1] - offsets[indices]))
        rows = Rows(np.empty(len(indices) + 1, np.int64), np.empty(num_labels, np.int32), np.empty(len(indices)))
        copy_rows(self._pool.rows, indices, rows)
        return rows


def _rounding_bound(pool: LabelledPool, propagation: Propagation, objective: Objective) -> float:
    """Bound what a gain can rise by although information grew, by rounding alone.

    Only phi(x + e) - phi(x), with phi a power, is off by an absolute amount: a few units in the last place of phi at
    each label that a row reaches. No label ever holds more than the sum of all scores.
    """
    if objective.phi != "pow" or objective.gain != "marginal":
        return 0.0
    most_labels, most_neighbours = (int(np.diff(o).max()) for o in (pool.labels.offsets, propagation.offsets))
    reached = min(most_labels * most_neighbours, propagation.num_labels)
    return 8.0 * _EPSILON * reached * float((pool.total_score + objective.offset) ** objective.exponent)
