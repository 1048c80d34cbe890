"""The compiled search: looks gains up label by label and recomputes only what a pick has touched.

The result must equal, bit for bit, that of a naive float64 evaluation of every row at every step. Two rules ensure it:

- Sums run over ascending labels, as in the naive evaluation: float addition is not associative.
- A value that a pick changes is recomputed from the information, never adjusted by a difference. A running update
  would accumulate rounding errors and depend on which picks came before.

The search is lazy (Minoux 1978): phi' is decreasing, so a gain only falls as information grows, and a gain computed
earlier (a stale one) is an upper bound on the present gain. See `search`.

All of it is in one file because numba invalidates the machine code it keeps on disk when the file of the compiled
function changes, but not when the file of a function inlined into it does.

Dimension letters: N rows, L labels, E stored entries of P, W entries of the working set.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mig_selector.selection.compiling import compiled, inlined


STALE = -1.0
"""Marks a worth that must be recomputed; a real one is 0 or more."""
_CHILDREN = 4
"""Children of each node of the heap. A 4-ary heap is half as deep as a binary one, and the gains of four siblings are
adjacent in memory (32 bytes): comparing all four costs about one cache miss, as a comparison of two would."""


# Numba takes arrays, numbers and (named) tuples of them as arguments, but no dataclasses. So `XTuple` holds the arrays
# of the dataclass `X`, uncopied; the other tuples have no counterpart outside the search.


class PropagationTuple(NamedTuple):
    """P in compressed rows; the arrays of `mig_selector.arrays.Propagation`."""

    offsets: NDArray[np.int64]
    """Where each row's entries begin. Shape (L + 1,)."""
    columns: NDArray[np.int32]
    """Column of each entry, ascending within a row. Shape (E,)."""
    weights: NDArray[np.float64]
    """Value of each entry, above 0. Shape (E,)."""


class ObjectiveTuple(NamedTuple):
    """The values of `mig_selector.selection.objective.Objective`, its strings as booleans."""

    is_pow: bool
    is_gradient: bool
    exponent: float
    offset: float
    rate: float


class LabelledPoolTuple(NamedTuple):
    """Labels and score of each row; the arrays of `mig_selector.arrays.LabelledPool`, or copies of some rows."""

    offsets: NDArray[np.int64]
    """Where each row's labels begin in `ids`. Shape (N + 1,)."""
    ids: NDArray[np.int32]
    """Labels, row after row, ascending and distinct within a row."""
    scores: NDArray[np.float64]
    """Shape (N,)."""


class Costs(NamedTuple):
    """A budget of costs. If rows are counted there is None instead, and numba compiles nothing that concerns costs."""

    costs: NDArray[np.float64]
    """What choosing a row takes from the budget, at least 1. Shape (N,), or (W,) for the entries of a working set."""
    left: NDArray[np.float64]
    """What is left of the budget. Shape (1,)."""


class LabelState(NamedTuple):
    """What the chosen rows make of each label, and two scratch arrays. Each of shape (L,)."""

    information: NDArray[np.float64]
    """x of Eq. 8: the information that the chosen rows hold at the label."""
    local: NDArray[np.float64]
    """The value of phi or phi' at the label that gains need; see `local_value`."""
    worth: NDArray[np.float64]
    """q = P phi': what a row gains from the label per unit of its score (gradient rule); or `STALE`."""
    spread: NDArray[np.float64]
    """Scratch: the sum of some rows of P; all 0 between uses."""
    reached: NDArray[np.int32]
    """Scratch: the labels at which `spread` is above 0."""


class PoolState(NamedTuple):
    """All N rows, and which of them may be chosen next."""

    rows: LabelledPoolTuple
    is_candidate: NDArray[np.bool_]
    """Whether a row may be chosen next: it is not chosen yet and does not wait for an equal row. Shape (N,)."""
    following: NDArray[np.int64]
    """The equal row that becomes a candidate when this one is chosen, or -1. Shape (N,); (0,) if no row waits."""


class Ranking(NamedTuple):
    """Entries of the working set and the gain of each. Shape (W,) each; a heap may use less than all of it."""

    gains: NDArray[np.float64]
    entries: NDArray[np.int64]


class WorkingSet(NamedTuple):
    """The W best candidates of a round, copied so that they are adjacent in memory.

    An entry is an index into this set, in [0, W). A round's entries start in the queue, and move to the heap when
    their gain is first computed again. The queue is sorted once, and most entries never leave it, so the heap stays
    small enough for the processor's cache.
    """

    rows: LabelledPoolTuple
    indices: NDArray[np.int64]
    """Pool row of each entry. Shape (W,)."""
    queue: Ranking
    """All entries, by descending gain as of the start of the round."""
    heap: Ranking
    """Entries taken from the queue, by the last gain computed; equal gains by ascending pool row."""
    state: NDArray[np.int64]
    """Size of the heap, position in the queue, whether the information has changed since the start of the round.
    An array, as it must survive from one call of `search` to the next. Shape (3,)."""
    cut_gain: float
    """At the start of the round no candidate outside the set had a larger gain than this ..."""
    cut_row: int
    """... and those with exactly this gain have a larger pool row than this."""


@compiled
def is_symmetric(offsets: Any, columns: Any) -> Any:
    """Whether a matrix in compressed rows, columns ascending, has an entry at (j, i) wherever it has one at (i, j).

    `_add_information` relies on it. One look per entry: row by row, the entries of column j meet those of row j in the
    same order if the pattern is symmetric.
    """
    ahead = offsets[:-1].copy()
    for row in range(len(offsets) - 1):
        for entry in range(offsets[row], offsets[row + 1]):
            column = columns[entry]
            if ahead[column] >= offsets[column + 1] or columns[ahead[column]] != row:
                return False
            ahead[column] += 1
    return True


@compiled
def local_value(objective: Any, x: Any) -> Any:
    """Return the power or exponential that every gain needs at a label that holds information x.

    It is phi'(x) for the gradient rule. For the marginal rule it is phi(x) (pow) or exp(-rate x) (exp). Kept per
    label, as powers and exponentials cost far more than the rest of a gain.
    """
    if objective.is_gradient:
        if objective.is_pow:
            return objective.exponent * (x + objective.offset) ** (objective.exponent - 1.0)
        return objective.rate * math.exp(-objective.rate * x)
    if objective.is_pow:
        return (x + objective.offset) ** objective.exponent
    return math.exp(-objective.rate * x)


@inlined
def _collect(propagation: Any, labels: Any, rows: Any, row: Any) -> Any:
    """Add up the rows of P of a row's labels in `spread`; return how many labels are `reached`.

    Times the score, `spread` is e of the row. The caller must reset `spread` at the reached labels.
    """
    count = 0
    for index in range(rows.offsets[row], rows.offsets[row + 1]):
        label = rows.ids[index]
        for entry in range(propagation.offsets[label], propagation.offsets[label + 1]):
            column = propagation.columns[entry]
            # Stored weights are above 0, so 0 means "not reached yet": no second array of flags to keep and to clear.
            if labels.spread[column] == 0.0:
                labels.reached[count] = column
                count += 1
            labels.spread[column] += propagation.weights[entry]
    return count


@inlined
def _gradient_gain(propagation: Any, labels: Any, rows: Any, row: Any) -> Any:
    """Return the gain of Eq. 11: the score times the worth of the row's labels."""
    unit = 0.0
    for index in range(rows.offsets[row], rows.offsets[row + 1]):
        label = rows.ids[index]
        worth = labels.worth[label]
        # On demand: a pick makes many worths stale, and the gains evaluated before the next pick need few of them.
        if worth == STALE:
            worth = 0.0
            for entry in range(propagation.offsets[label], propagation.offsets[label + 1]):
                worth += propagation.weights[entry] * labels.local[propagation.columns[entry]]
            labels.worth[label] = worth
        unit += worth
    # The score comes last, so that rows with the same labels share `unit` to the last bit and differ by score only.
    return rows.scores[row] * unit


@compiled
def _marginal_gain(propagation: Any, objective: Any, labels: Any, rows: Any, row: Any) -> Any:
    """Return the gain of Eq. 9: how much E(D) rises with the row."""
    score = rows.scores[row]
    count = _collect(propagation, labels, rows, row)
    # The sum must run over ascending labels. They are collected in that order unless two labels of the row have
    # interleaved neighbours, so it is cheaper to check than to sort always.
    for index in range(1, count):
        if labels.reached[index] < labels.reached[index - 1]:
            labels.reached[:count].sort()
            break
    gain = 0.0
    for index in range(count):
        label = labels.reached[index]
        added = score * labels.spread[label]
        if objective.is_pow:
            gain += (labels.information[label] + added + objective.offset) ** objective.exponent - labels.local[label]
        else:
            # The difference exp(-c x) - exp(-c (x + e)) would cancel near saturation and could rise by rounding. The
            # product falls with its first factor, to the last bit, so a stale gain stays an exact upper bound.
            gain += labels.local[label] * -math.expm1(-objective.rate * added)
        labels.spread[label] = 0.0
    return gain


@compiled
def rank(propagation: Any, objective: Any, labels: Any, pool: Any, budget: Any, gains: Any) -> Any:
    """Write what ranks each candidate that fits to `gains`, shape (N,), and -inf for all other rows.

    That is the present gain, or the gain per unit of cost. Costs are constant, and rounding a quotient keeps the order
    of what is divided, so this too only falls as information grows.
    """
    for row in range(len(gains)):
        if not pool.is_candidate[row]:
            gains[row] = -np.inf
        elif objective.is_gradient:
            gains[row] = _gradient_gain(propagation, labels, pool.rows, row)
        else:
            gains[row] = _marginal_gain(propagation, objective, labels, pool.rows, row)
        if budget is not None:
            gains[row] = gains[row] / budget.costs[row] if budget.costs[row] <= budget.left[0] else -np.inf


@compiled
def copy_rows(source: Any, indices: Any, target: Any) -> Any:
    """Copy the rows of `source` that `indices` names to `target`, one after the other."""
    end = 0
    for entry in range(len(indices)):
        row = indices[entry]
        target.offsets[entry] = end
        target.scores[entry] = source.scores[row]
        for index in range(source.offsets[row], source.offsets[row + 1]):
            target.ids[end] = source.ids[index]
            end += 1
    target.offsets[len(indices)] = end


# The heap is ordered by (gain descending, pool row ascending), so that its top is the row that wins a tie. Both
# functions move a hole through the heap and write the entry once: half the writes of swapping it step by step.


@inlined
def _sink(heap: Any, indices: Any, size: Any, gain: Any, entry: Any) -> Any:
    """Put an entry where the top of a heap of `size` was, and let it sink as far as the order demands."""
    hole = 0
    while True:
        first = _CHILDREN * hole + 1
        if first >= size:
            break
        best = first
        for child in range(first + 1, min(first + _CHILDREN, size)):
            if heap.gains[child] > heap.gains[best] or (
                heap.gains[child] == heap.gains[best] and indices[heap.entries[child]] < indices[heap.entries[best]]
            ):
                best = child
        if heap.gains[best] < gain or (heap.gains[best] == gain and indices[heap.entries[best]] > indices[entry]):
            break
        heap.gains[hole], heap.entries[hole] = heap.gains[best], heap.entries[best]
        hole = best
    heap.gains[hole], heap.entries[hole] = gain, entry


@inlined
def _rise(heap: Any, indices: Any, size: Any, gain: Any, entry: Any) -> Any:
    """Append an entry to a heap of `size`, and let it rise as far as the order demands."""
    hole = size
    while hole > 0:
        above = (hole - 1) // _CHILDREN
        if heap.gains[above] > gain or (heap.gains[above] == gain and indices[heap.entries[above]] < indices[entry]):
            break
        heap.gains[hole], heap.entries[hole] = heap.gains[above], heap.entries[above]
        hole = above
    heap.gains[hole], heap.entries[hole] = gain, entry


@compiled
def _settle(
    propagation: Any, objective: Any, labels: Any, working_set: Any, budget: Any, size: Any, noise: Any
) -> Any:
    """Bring the true best of a heap of `size` to the top where a gain may rise by up to `noise` through rounding.

    Then a stale gain plus `noise` is the upper bound: every entry whose stale gain is within `noise` of the best
    present gain may be the true best and is evaluated again.
    """
    heap, left = working_set.heap, size
    bound = heap.gains[0] - noise
    while left > 0 and heap.gains[0] >= bound:
        entry = heap.entries[0]
        gain = _marginal_gain(propagation, objective, labels, working_set.rows, entry)
        if budget is not None:
            gain /= budget.costs[entry]
        bound = max(bound, gain - noise)
        left -= 1
        # Removing an entry frees the last slot of the heap. Evaluated entries wait there, out of the loop's sight:
        # back in the heap, they would come to the top again and again.
        _sink(heap, working_set.indices, left, heap.gains[left], heap.entries[left])
        heap.gains[left], heap.entries[left] = gain, entry
    for index in range(left, size):
        _rise(heap, working_set.indices, index, heap.gains[index], heap.entries[index])


@compiled
def _add_information(propagation: Any, objective: Any, labels: Any, rows: Any, row: Any) -> Any:
    """Add e of a row to the information, mark what depends on it as stale; return whether any bit of it changed."""
    is_changed = False
    for index in range(_collect(propagation, labels, rows, row)):
        label = labels.reached[index]
        before = labels.information[label]
        labels.information[label] = before + rows.scores[row] * labels.spread[label]
        labels.local[label] = local_value(objective, labels.information[label])
        labels.spread[label] = 0.0
        is_changed |= labels.information[label] != before
        # The labels whose worth depends on this one are a column of P, but P is stored by rows. Its pattern is
        # symmetric, so the row names the same labels.
        for entry in range(propagation.offsets[label], propagation.offsets[label + 1]):
            labels.worth[propagation.columns[entry]] = STALE
    return is_changed


@compiled
def replay(propagation: Any, objective: Any, labels: Any, rows: Any, chosen: Any) -> Any:
    """Add the information of rows that a search has chosen, in its order: `labels` is then as it was in the search."""
    for row in chosen:
        _add_information(propagation, objective, labels, rows, row)


@compiled
def search(
    propagation: Any,
    objective: Any,
    labels: Any,
    pool: Any,
    working_set: Any,
    budget: Any,
    noise: Any,
    chosen: Any,
    gains: Any,
    made: Any,
) -> Any:
    """Choose rows from the working set while its best entry beats every candidate outside.

    A pick is exact, ties included, as it must win twice, each time by (gain descending, pool row ascending):

    - within the set: its gain is up to date and at the top of the heap. Every other gain in the heap or the queue is
      an upper bound on the present gain of its entry, so those entries cannot do better.
    - against the rows outside: by their gains at the start of the round (upper bounds as well) they all come after
      (`cut_gain`, `cut_row`) in that order, so an entry that does not come after it beats them all.

    Where rounding can raise a gain, an old gain plus `noise` is the upper bound.

    Args:
        propagation: P.
        objective: Which phi, and which rule for gains.
        labels: Updated with every pick.
        pool: Updated with every pick.
        working_set: Updated with every pick.
        budget: The costs of its entries; updated with every pick. None if rows are counted.
        noise: By how much a gain may rise through rounding although information grew; 0 where it never does.
        chosen: Rows chosen; filled from index `made` on.
        gains: Their gains; filled from index `made` on.
        made: How many picks there are already.

    Returns:
        How many picks there are now. Less than `chosen` holds if a new round is needed.
    """
    rows, indices, queue, heap = working_set.rows, working_set.indices, working_set.queue, working_set.heap
    size, position, is_changed = working_set.state
    while made < len(chosen):
        bound = heap.gains[0] if size > 0 else -np.inf
        # All entries that may tie with the top must be in the heap before the top is accepted: only the heap breaks
        # ties by row. Hence >= and not >, and hence equal gains may be in any order in the queue.
        is_queued = position < len(queue.gains) and queue.gains[position] >= bound - noise
        if not is_queued and size == 0:
            break
        entry = queue.entries[position] if is_queued else heap.entries[0]
        gain = (
            _gradient_gain(propagation, labels, rows, entry)
            if objective.is_gradient
            else _marginal_gain(propagation, objective, labels, rows, entry)
        )
        gain = gain if budget is None else gain / budget.costs[entry]
        if is_queued:
            _rise(heap, indices, size, gain, entry)
            size += 1
            position += 1
            continue
        # A gain that comes out the same is up to date, whenever it was computed: no need to record when that was. The
        # top is evaluated once more than necessary per pick, which costs less than a time stamp in every entry.
        if gain != bound:
            _sink(heap, indices, size, gain, entry)
            continue
        # As long as the information is that of the start of the round, all gains are exact, and so is the cut. That
        # also guarantees progress: the best entry of a new round always passes.
        doubt = noise if is_changed else 0.0
        if gain - doubt < working_set.cut_gain or (
            gain - doubt == working_set.cut_gain and indices[entry] > working_set.cut_row
        ):
            break
        if doubt > 0.0:
            _settle(propagation, objective, labels, working_set, budget, size, doubt)
            gain, entry = heap.gains[0], heap.entries[0]
        if budget is not None:
            if budget.costs[entry] > budget.left[0]:  # it will never fit again
                size -= 1
                _sink(heap, indices, size, heap.gains[size], heap.entries[size])
                continue
            budget.left[0] -= budget.costs[entry]
        row = indices[entry]
        chosen[made], gains[made] = row, gain
        made += 1
        is_changed |= _add_information(propagation, objective, labels, rows, entry)
        pool.is_candidate[row] = False
        if len(pool.following) > 0 and pool.following[row] >= 0:
            # The next equal row has the same labels and score, so it takes over the entry with its copied row. The
            # gain just accepted is an upper bound for it, too.
            indices[entry] = pool.following[row]
            pool.is_candidate[indices[entry]] = True
            _sink(heap, indices, size, gain, entry)
        else:
            size -= 1
            _sink(heap, indices, size, heap.gains[size], heap.entries[size])
    working_set.state[:] = size, position, is_changed
    return made
