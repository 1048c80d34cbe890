"""Why greedy search chose a row, and why it did not choose another: its picks made again, looked at on the way.

The gains are those of the search, bit for bit: the same compiled code computes them from the same state.

Dimension letters: N rows, L labels, B chosen rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mig_selector.arrays import LabelledPool, Propagation, RowLabels, Selection, typed_like
from mig_selector.selection.kernel import (
    LabelledPoolTuple,
    PoolState,
    PropagationTuple,
    replay,
)
from mig_selector.selection.kernel import (
    rank as rank_candidates,
)
from mig_selector.selection.objective import Objective
from mig_selector.selection.rounds import Search, as_objective_tuple, rounding_bound, without_information


_SHORTLIST = 4_096
"""Rows with the largest gains, among which the runner-up of later picks is looked for first."""
_PICKS = 1 << 16
"""Picks beyond the budget between two looks whether a row has been chosen."""


@dataclass(frozen=True)
class LabelShare:
    """What one of a row's labels contributes to its gain."""

    label: int
    """Index into the names of the labels."""
    gain: float
    share: float
    """Of the row's gain; all shares of a row add up to 1, or are 0 if it gains nothing."""


@dataclass(frozen=True)
class Receipt:
    """Why a row was chosen."""

    rank: int
    """0-based."""
    row: int
    gain: float
    """What the row was chosen for."""
    shares: list[LabelShare]
    """One for each label of the row, the largest first."""
    runner_up: int | None
    """The row that would have been chosen in its place; None if no other was left, or if it was not looked for."""
    runner_up_gain: float | None


@dataclass(frozen=True)
class Taker:
    """A chosen row that has taken from the gain of another."""

    rank: int
    """0-based."""
    row: int
    taken: float
    """By how much the gain of the other row fell when this one was chosen."""
    shares: list[LabelShare]
    """What of it fell away at each label of the other row, the largest first."""


@dataclass(frozen=True)
class Loss:
    """What became of the gain that a row would have had as the first of all."""

    first_gain: float
    taken: float
    """By how much it fell until the row was chosen, or until the end."""
    num_takers: int
    takers: list[Taker]
    """Those that took most, in that order."""


@dataclass(frozen=True)
class Absence:
    """Why a row was not chosen."""

    row: int
    gain: float
    """What the row would have gained after all chosen rows."""
    shares: list[LabelShare]
    """One for each label of the row, the largest first: of that gain."""
    entry_rank: int
    """0-based rank at which a larger budget would have had it."""
    needed_score: float | None
    """The score from which on it would have been chosen; None for the marginal rule, or if no score is enough."""


def receipts(
    pool: LabelledPool,
    propagation: Propagation,
    objective: Objective,
    selection: Selection,
    ranks: Sequence[int],
    *,
    runner_ups: bool = True,
) -> list[Receipt]:
    """Say why rows were chosen.

    Args:
        pool: N rows.
        propagation: How information spreads among the L labels.
        objective: What was maximised.
        selection: The B rows that `select_rows` chose by it.
        ranks: 0-based ranks of the rows to explain.
        runner_ups: Whether to look for the row that lost to each: it takes most of the time, and of `select_within`,
            which ranks rows by something else than gains, there is none.

    Returns:
        One receipt for each of `ranks`, in their order.
    """
    state, found = _Replay(pool, propagation, objective, selection.rows), {}
    for rank in sorted(set(ranks)):
        state.advance(rank)
        row = int(selection.rows[rank])
        runner_up = state.runner_up(row) if runner_ups else (None, None)
        found[rank] = Receipt(rank, row, float(selection.gains[rank]), state.shares(row), *runner_up)
    return [found[rank] for rank in ranks]


def find_takers(
    pool: LabelledPool,
    propagation: Propagation,
    objective: Objective,
    selection: Selection,
    row: int,
    most: int,
) -> Loss:
    """Find the rows that were chosen before a row and have taken from its gain, and describe the `most` foremost."""
    own_rank = np.flatnonzero(selection.rows == row)
    before = selection.rows[: own_rank[0]] if len(own_rank) else selection.rows
    gains = _trace(pool, propagation, objective, before, row)
    taken = gains[:-1] - gains[1:]
    foremost = [rank for rank in np.argsort(-taken, kind="stable")[:most].tolist() if taken[rank] > 0]
    state, found = _Replay(pool, propagation, objective, before), {}
    for rank in sorted(foremost):
        state.advance(rank)
        held = {each.label: each.gain for each in state.shares(row)}
        state.advance(rank + 1)
        lost = {each.label: held[each.label] - each.gain for each in state.shares(row)}
        found[rank] = Taker(rank, int(before[rank]), float(taken[rank]), _as_shares(lost))
    return Loss(
        first_gain=float(gains[0]),
        taken=float(gains[0] - gains[-1]),
        num_takers=int(np.count_nonzero(taken > 0)),
        takers=[found[rank] for rank in foremost],
    )


def explain_absence(
    pool: LabelledPool, propagation: Propagation, objective: Objective, selection: Selection, row: int
) -> Absence:
    """Say why a row was not chosen, and what it would have needed; arguments as for `receipts`.

    The search is continued until the row is chosen.
    """
    state = _Replay(pool, propagation, objective, selection.rows)
    state.advance(len(selection.rows))
    return Absence(
        row,
        gain=float(state.gains(np.array([row]))[0]),
        shares=state.shares(row),
        entry_rank=_entry_rank(pool, propagation, objective, row, len(selection.rows)),
        needed_score=_needed_score(pool, propagation, objective, selection, row),
    )


def _entry_rank(pool: LabelledPool, propagation: Propagation, objective: Objective, row: int, budget: int) -> int:
    search, done = Search(pool, propagation, objective), 0
    while done < len(pool):
        picks = np.empty(min(_PICKS if done else max(budget, _PICKS), len(pool) - done), np.int64)
        search.pick(picks, np.empty(len(picks)))
        if (places := np.flatnonzero(picks == row)).size:
            return done + int(places[0])
        done += len(picks)
    raise ValueError(f"row {row} is not one of the {len(pool)} rows of the pool")


def _needed_score(
    pool: LabelledPool, propagation: Propagation, objective: Objective, selection: Selection, row: int
) -> float | None:
    """Return the smallest score with which a row would have had the largest gain at some rank.

    Until it is chosen, its score changes nothing else. By the gradient rule a gain is the score times what the labels
    are worth just then; by the marginal rule it is not.
    """
    if objective.gain != "gradient":
        return None
    with_score_1 = replace(
        pool, scores=typed_like(pool.scores, np.where(np.arange(len(pool)) == row, 1.0, pool.scores))
    )
    worth = _trace(with_score_1, propagation, objective, selection.rows, row)[:-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        needed = float(np.nanmin(np.where(worth > 0, selection.gains / worth, np.inf)))
    return needed if np.isfinite(needed) else None


def _trace(
    pool: LabelledPool, propagation: Propagation, objective: Objective, chosen: NDArray[np.int64], row: int
) -> NDArray[np.float64]:
    """Return the gain of a row before each of the chosen rows, and after all of them. Shape (B + 1,)."""
    state = _Replay(pool, propagation, objective, chosen)
    gains = np.empty(len(chosen) + 1)
    here, done = np.array([row]), 0
    for rank in _ranks_that_matter(pool.labels, propagation, chosen, row).tolist():
        # Rows that reach none of its labels leave its gain as it is, to the last bit.
        state.advance(rank)
        gains[done : rank + 1] = state.gains(here)
        done = rank + 1
    state.advance(len(chosen))
    gains[done:] = state.gains(here)
    return gains


def _ranks_that_matter(
    labels: RowLabels, propagation: Propagation, chosen: NDArray[np.int64], row: int
) -> NDArray[np.int64]:
    """Return the ranks of the chosen rows that add information where the row would, ascending."""
    is_reached = np.zeros(propagation.num_labels, np.bool_)
    is_near = is_reached.copy()
    for label in labels.ids[labels.offsets[row] : labels.offsets[row + 1]]:
        is_reached[propagation.columns[propagation.offsets[label] : propagation.offsets[label + 1]]] = True
    for label in np.flatnonzero(is_reached):  # the pattern of P is symmetric
        is_near[propagation.columns[propagation.offsets[label] : propagation.offsets[label + 1]]] = True
    num_near: NDArray[np.int64] = np.concatenate(([0], np.cumsum(is_near[labels.ids])))
    ranks: NDArray[np.int64] = np.flatnonzero(num_near[labels.offsets[chosen + 1]] > num_near[labels.offsets[chosen]])
    return ranks


class _Replay:
    """The state of a search after the first of its picks."""

    def __init__(
        self, pool: LabelledPool, propagation: Propagation, objective: Objective, chosen: NDArray[np.int64]
    ) -> None:
        """Begin before the first pick."""
        self._pool, self._matrix, self._objective, self._chosen = pool, propagation, objective, chosen
        self._rank = 0
        self._objective_tuple = as_objective_tuple(objective)
        self._propagation = PropagationTuple(propagation.offsets, propagation.columns, propagation.weights)
        self._labels = without_information(self._objective_tuple, propagation.num_labels)
        self._rows = LabelledPoolTuple(pool.labels.offsets, pool.labels.ids, pool.scores)
        self._is_left = np.ones(len(pool), np.bool_)
        self._noise = rounding_bound(pool, propagation, objective)
        self._bounds: NDArray[np.float64] | None = None
        """The last gain computed for each row; gains only fall, so none has more now. Shape (N,)."""
        self._shortlist, self._cut = np.empty(0, np.int64), np.inf

    def advance(self, rank: int) -> None:
        """Go on to the moment before the pick of a rank."""
        picks = self._chosen[self._rank : rank]
        replay(self._propagation, self._objective_tuple, self._labels, self._rows, picks)
        self._is_left[picks] = False
        self._rank = max(self._rank, rank)

    def gains(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the present gain of some rows, -inf for those that are chosen. Shape (len(rows),)."""
        labels = self._pool.labels
        counts = labels.offsets[rows + 1] - labels.offsets[rows]
        offsets = np.concatenate((np.zeros(1, np.int64), np.cumsum(counts)))
        ids = labels.ids[np.arange(offsets[-1]) + np.repeat(labels.offsets[rows] - offsets[:-1], counts)]
        some = LabelledPoolTuple(
            typed_like(labels.offsets, offsets),
            typed_like(labels.ids, ids),
            typed_like(self._pool.scores, self._pool.scores[rows]),
        )
        return self._gains(some, self._is_left[rows])

    def _gains(self, rows: LabelledPoolTuple, is_left: NDArray[np.bool_]) -> NDArray[np.float64]:
        gains = np.empty(len(is_left))
        state = PoolState(rows, is_left, np.empty(0, np.int64))
        rank_candidates(self._propagation, self._objective_tuple, self._labels, state, None, gains)
        return gains

    def runner_up(self, winner: int) -> tuple[int, float] | tuple[None, None]:
        """Return the row with the largest gain beside the winner, and its gain; of equal gains the smallest row."""
        if self._bounds is None:
            self._bounds = self._gains(self._rows, self._is_left)
            self._make_shortlist(self._bounds, _SHORTLIST)
        size = _SHORTLIST
        while True:
            gains = self.gains(self._shortlist)
            self._bounds[self._shortlist] = gains
            gains[self._shortlist == winner] = -np.inf
            best = int(np.argmax(gains))  # the first of equal ones; the list ascends
            if gains[best] > self._cut + self._noise or self._cut == -np.inf:
                return (int(self._shortlist[best]), float(gains[best])) if gains[best] > -np.inf else (None, None)
            self._make_shortlist(self._bounds, size)
            size *= 2  # if many rows tie, all of them must be in the list in the end

    def _make_shortlist(self, bounds: NDArray[np.float64], size: int) -> None:
        """List the rows with the largest bounds; no other row has a larger one than `_cut`."""
        if size >= len(bounds):
            self._shortlist, self._cut = np.arange(len(bounds)), -np.inf
            return
        order = np.argpartition(-bounds, size)
        self._shortlist, self._cut = np.sort(order[:size]), float(bounds[order[size]])

    def shares(self, row: int) -> list[LabelShare]:
        """Say what each label of a row contributes to its present gain, the largest part first.

        What a row adds at a label of the graph is divided among its own labels by the information that each of them
        sends there. By the gradient rule that is the score times the worth of each label.
        """
        labels, matrix = self._pool.labels, self._matrix
        own = labels.ids[labels.offsets[row] : labels.offsets[row + 1]]
        spans = [slice(matrix.offsets[label], matrix.offsets[label + 1]) for label in own]
        spread = np.zeros(matrix.num_labels)
        for span in spans:
            spread[matrix.columns[span]] += matrix.weights[span]
        reached = np.flatnonzero(spread)
        before, added = self._labels.information[reached], self._pool.scores[row] * spread[reached]
        rise = np.zeros(matrix.num_labels)
        if self._objective.gain == "gradient":
            rise[reached] = self._objective.slope(before) * added
        else:
            rise[reached] = self._objective.increase(before, before + added)
        parts = [
            float(np.sum(rise[matrix.columns[span]] * matrix.weights[span] / spread[matrix.columns[span]]))
            for span in spans
        ]
        return _as_shares(dict(zip(own.tolist(), parts, strict=True)))


def _as_shares(parts: Mapping[int, float]) -> list[LabelShare]:
    """Return the part of each label and its share in all of them, the largest first."""
    total = sum(parts.values())
    found = [LabelShare(label, part, part / total if total else 0.0) for label, part in parts.items()]
    return sorted(found, key=lambda each: (-each.gain, each.label))
