"""The compiled search: a heap of label sets, gains looked up label by label, only what a pick touched made anew.

Gains never rise as information grows, so the gain that a set had when last looked at is an upper bound on its gain
now: the set at the top of the heap is taken if its gain, made anew, is the one it stands there with.

Arithmetic follows one fixed order (ascending labels, values recomputed from the information, never updated by
differences), so that a naive evaluation of all rows in float64 gives the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mig_selector.selection.greedy import LabelSets
from mig_selector.selection.problem import Objective, Propagation


_EPSILON = float(np.finfo(np.float64).eps)


class Search:
    """The state of one greedy search; `pick` goes on where the last call stopped."""

    def __init__(self, sets: LabelSets, propagation: Propagation, objective: Objective) -> None:
        """Rank every label set at zero information."""
        num_labels, num_sets = propagation.num_labels, len(sets.label_offsets) - 1
        self._sets = (
            sets.label_offsets,
            sets.label_ids,
            sets.group_offsets,
            sets.scores,
            sets.row_offsets,
            sets.rows,
        )
        self._graph = (propagation.offsets, propagation.labels, propagation.weights)
        self._objective = (
            objective.phi == "pow",
            objective.gain == "gradient",
            objective.exponent,
            objective.offset,
            objective.rate,
        )
        self._labels = (
            np.zeros(num_labels),  # information: what the chosen rows hold at the label
            np.zeros(num_labels),  # slope: phi' at the label
            np.zeros(num_labels),  # worth: what one unit of score at the label gains (gradient rule)
            np.ones(num_labels, np.bool_),  # whether its worth must be made anew
            np.zeros(num_labels),  # spread: scratch row, zero between uses
            np.zeros(num_labels, np.int32),  # reached: scratch list of labels with spread
            np.zeros(1),  # noise: how far two gains may be off by rounding
        )
        self._heads = (
            sets.row_offsets[:-1].copy(),  # next row of each group
            sets.group_offsets[:-1].copy(),  # first group of each set that has rows left
        )
        self._heap = (
            np.zeros(num_sets),  # gain
            np.zeros(num_sets, np.int64),  # row
            np.arange(num_sets, dtype=np.int64),  # set
            np.zeros(num_sets, np.int64),  # group, by set
            np.full(1, num_sets, np.int64),  # size
        )
        is_noisy = objective.gain == "marginal" and objective.phi == "pow"
        self._noise = _rounding_bound(sets, propagation) if is_noisy else 0.0
        _start(self._sets, self._graph, self._objective, self._labels, self._heads, self._heap)

    def pick(self, rows: NDArray[np.int64], gains: NDArray[np.float64]) -> int:
        """Fill `rows` and `gains`; return how many, fewer when no row that is left gains anything."""
        return int(
            _pick(
                self._sets,
                self._graph,
                self._objective,
                self._labels,
                self._heads,
                self._heap,
                self._noise,
                rows,
                gains,
            )
        )


def _rounding_bound(sets: LabelSets, propagation: Propagation) -> float:
    """Factor on phi(largest information) that bounds the rounding error of a gain made of differences of phi's.

    phi(x + e) - phi(x) is off by an absolute amount, so a gain can rise a little although x grew.
    """
    degrees = np.diff(propagation.offsets)
    reach = np.add.reduceat(degrees[sets.label_ids], sets.label_offsets[:-1]) if len(sets.label_ids) else np.zeros(1)
    return 8.0 * _EPSILON * float(reach.max())


def _compile(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile, and keep the machine code on disk; where no folder can be written, compile in every run."""
    compiled: Callable[..., Any]
    try:
        compiled = njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:  # "cannot cache function: no locator available"
        compiled = njit(nogil=True, error_model="numpy")(function)
    return compiled


@_compile
def _phi(objective: Any, x: Any) -> Any:
    is_pow, _, exponent, offset, rate = objective
    if is_pow:
        return (x + offset) ** exponent
    return -math.expm1(-rate * x)


@_compile
def _slope(objective: Any, x: Any) -> Any:
    """phi'(x)."""
    is_pow, _, exponent, offset, rate = objective
    if is_pow:
        return exponent * (x + offset) ** (exponent - 1.0)
    return rate * math.exp(-rate * x)


@_compile
def _rise(objective: Any, x: Any, e: Any) -> Any:
    """phi(x + e) - phi(x); for exp in the form that falls as x grows, to the last bit."""
    is_pow, _, exponent, offset, rate = objective
    if is_pow:
        return (x + e + offset) ** exponent - (x + offset) ** exponent
    return math.exp(-rate * x) * -math.expm1(-rate * e)


@_compile
def _collect(graph: Any, labels: Any, members: Any) -> Any:
    """Write the rows of P of `members` added up into `spread`; return how many labels are `reached`, ascending."""
    offsets, columns, weights = graph
    spread, reached = labels[4], labels[5]
    count = 0
    for member in members:
        for entry in range(offsets[member], offsets[member + 1]):
            column = columns[entry]
            if spread[column] == 0.0:
                reached[count] = column
                count += 1
            spread[column] += weights[entry]
    reached[:count].sort()
    return count


@_compile
def _worth(graph: Any, labels: Any, label: Any) -> Any:
    """Return q of a label (q = P phi'): what one unit of score at `label` gains by the gradient rule."""
    offsets, columns, weights = graph
    slope, worth, is_stale = labels[1], labels[2], labels[3]
    if is_stale[label]:
        total = 0.0
        for entry in range(offsets[label], offsets[label + 1]):
            total += weights[entry] * slope[columns[entry]]
        worth[label] = total
        is_stale[label] = False
    return worth[label]


@_compile
def _best_row(sets: Any, graph: Any, objective: Any, labels: Any, heads: Any, which: Any) -> Any:
    """Return gain, row and group of the best row left in set `which`; gain -1 if none is left.

    Where several scores round to one gain, the smallest row index among them is the set's best row.
    """
    label_offsets, label_ids, group_offsets, scores, row_offsets, rows = sets
    next_row, first_group = heads
    information, spread, reached, noise = labels[0], labels[4], labels[5], labels[6][0]
    members = label_ids[label_offsets[which] : label_offsets[which + 1]]
    is_gradient = objective[1]
    unit = 0.0
    count = 0
    if is_gradient:
        for member in members:
            unit += _worth(graph, labels, member)
    else:
        count = _collect(graph, labels, members)
    best = -1.0
    best_row: Any = np.int64(-1)
    best_group: Any = np.int64(-1)
    for group in range(first_group[which], group_offsets[which + 1]):
        if next_row[group] == row_offsets[group + 1]:
            continue
        gain = scores[group] * unit
        if not is_gradient:
            gain = 0.0
            for position in range(count):
                label = reached[position]
                gain += _rise(objective, information[label], scores[group] * spread[label])
        row = rows[next_row[group]]
        if best_row < 0 or gain > best or (gain == best and row < best_row):
            best, best_row, best_group = gain, row, group
        elif gain < best - noise:
            break
    for position in range(count):
        spread[reached[position]] = 0.0
    return best, best_row, best_group


@_compile
def _stands_before(heap: Any, left: Any, right: Any) -> Any:
    gains, rows = heap[0], heap[1]
    return gains[left] > gains[right] or (gains[left] == gains[right] and rows[left] < rows[right])


@_compile
def _swap(heap: Any, left: Any, right: Any) -> Any:
    gains, rows, members = heap[0], heap[1], heap[2]
    gains[left], gains[right] = gains[right], gains[left]
    rows[left], rows[right] = rows[right], rows[left]
    members[left], members[right] = members[right], members[left]


@_compile
def _sink(heap: Any, place: Any) -> Any:
    size = heap[4][0]
    while True:
        child = 2 * place + 1
        if child >= size:
            return
        if child + 1 < size and _stands_before(heap, child + 1, child):
            child += 1
        if not _stands_before(heap, child, place):
            return
        _swap(heap, child, place)
        place = child


@_compile
def _rise_up(heap: Any, place: Any) -> Any:
    while place > 0 and _stands_before(heap, place, (place - 1) // 2):
        _swap(heap, place, (place - 1) // 2)
        place = (place - 1) // 2


@_compile
def _drop_top(heap: Any) -> Any:
    """Take the top out of the heap; it stands right behind the heap afterwards."""
    heap[4][0] -= 1
    _swap(heap, 0, heap[4][0])
    _sink(heap, 0)


@_compile
def _start(sets: Any, graph: Any, objective: Any, labels: Any, heads: Any, heap: Any) -> Any:
    information, slope = labels[0], labels[1]
    for label in range(len(information)):
        slope[label] = _slope(objective, information[label])
    for which in range(heap[4][0]):
        heap[0][which], heap[1][which], heap[3][which] = _best_row(sets, graph, objective, labels, heads, which)
    for place in range(heap[4][0] // 2 - 1, -1, -1):
        _sink(heap, place)


@_compile
def _refresh_top(sets: Any, graph: Any, objective: Any, labels: Any, heads: Any, heap: Any) -> Any:
    """Make the top's gain anew; return whether it already was."""
    which = heap[2][0]
    gain, row, group = _best_row(sets, graph, objective, labels, heads, which)
    if row < 0:
        _drop_top(heap)
        return False
    was_fresh = gain == heap[0][0] and row == heap[1][0]
    heap[0][0], heap[1][0], heap[3][which] = gain, row, group
    if not was_fresh:
        _sink(heap, 0)
    return was_fresh


@_compile
def _settle_top(sets: Any, graph: Any, objective: Any, labels: Any, heads: Any, heap: Any) -> Any:
    """Bring the true best to the top where gains may rise by rounding: look at all that stand within the noise."""
    noise = labels[6][0]
    size = heap[4][0]
    bound = heap[0][0] - noise
    while heap[4][0] > 0 and heap[0][0] >= bound:
        which = heap[2][0]
        gain, row, group = _best_row(sets, graph, objective, labels, heads, which)
        heap[0][0], heap[1][0], heap[3][which] = gain, row, group
        bound = max(bound, gain - noise)
        _drop_top(heap)
    while heap[4][0] < size:
        heap[4][0] += 1
        _rise_up(heap, heap[4][0] - 1)


@_compile
def _take_top(sets: Any, graph: Any, objective: Any, labels: Any, heads: Any, heap: Any) -> Any:
    """Choose the top's best row: add its information, mark what it touched."""
    label_offsets, label_ids, group_offsets, scores, row_offsets, _ = sets
    next_row, first_group = heads
    which = heap[2][0]
    group = heap[3][which]
    # Rows of a group leave in order; a later group can only have lost its head to a tie.
    next_row[group] += 1
    while (
        first_group[which] < group_offsets[which + 1]
        and next_row[first_group[which]] == row_offsets[first_group[which] + 1]
    ):
        first_group[which] += 1
    members = label_ids[label_offsets[which] : label_offsets[which + 1]]
    _add_information(graph, objective, labels, members, scores[group])


@_compile
def _add_information(graph: Any, objective: Any, labels: Any, members: Any, score: Any) -> Any:
    information, slope, is_stale, spread, reached = labels[0], labels[1], labels[3], labels[4], labels[5]
    offsets, columns, _ = graph
    for position in range(_collect(graph, labels, members)):
        label = reached[position]
        information[label] += score * spread[label]
        slope[label] = _slope(objective, information[label])
        spread[label] = 0.0
        for entry in range(offsets[label], offsets[label + 1]):
            is_stale[columns[entry]] = True


@_compile
def _measure_noise(objective: Any, labels: Any, noise: Any, top_score: Any) -> Any:
    """Bound the rounding error of any gain at the present information; one pick adds at most its score to a label."""
    labels[6][0] = noise * _phi(objective, labels[0].max() + top_score)


@_compile
def _pick(
    sets: Any, graph: Any, objective: Any, labels: Any, heads: Any, heap: Any, noise: Any, rows: Any, gains: Any
) -> Any:
    made = 0
    top_score = sets[3].max() if len(sets[3]) else 0.0
    if noise > 0.0:
        _measure_noise(objective, labels, noise, top_score)
    while made < len(rows) and heap[4][0] > 0:
        if not _refresh_top(sets, graph, objective, labels, heads, heap):
            continue
        if noise > 0.0:
            _settle_top(sets, graph, objective, labels, heads, heap)
        if heap[0][0] <= 0.0:
            break
        rows[made], gains[made] = heap[1][0], heap[0][0]
        made += 1
        _take_top(sets, graph, objective, labels, heads, heap)
        if noise > 0.0:
            _measure_noise(objective, labels, noise, top_score)
    return made
