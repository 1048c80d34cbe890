"""The compiled search: gains looked up label by label, and only what a pick touched made anew.

Gains never rise as information grows, so the gain that a row had when last looked at is an upper bound on its gain
now: the best-looking row is taken if its gain, made anew, is the one it stands there with. Rows that were never looked
at again stand in a queue, sorted by the gain that they had at the start; those that were stand in a heap.

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

from mig_selector.selection.greedy import Twins
from mig_selector.selection.problem import LabelledPool, Objective, Propagation


_EPSILON = float(np.finfo(np.float64).eps)
_QUEUED_PER_PICK = 4
"""Groups that are sorted before the first pick, per row of the budget; more are sorted when those run out."""
_QUEUED_AT_LEAST = 1_000


class Search:
    """The state of one greedy search; `pick` goes on where the last call stopped."""

    def __init__(
        self, pool: LabelledPool, twins: Twins, propagation: Propagation, objective: Objective, budget: int
    ) -> None:
        """Rank every group of equal rows at zero information."""
        num_labels, num_groups = propagation.num_labels, len(twins.offsets) - 1
        firsts = twins.rows[twins.offsets[:-1]]
        starts = pool.label_offsets[firsts]
        scores = pool.scores[firsts]
        self._groups = (starts, pool.label_offsets[firsts + 1], pool.label_ids, scores, twins.offsets, twins.rows)
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
        )
        self._heads = twins.offsets[:-1].copy()  # next row of each group
        self._heap = (
            np.zeros(num_groups),  # gain
            np.zeros(num_groups, np.int64),  # row
            np.zeros(num_groups, np.int64),  # group
            np.zeros(1, np.int64),  # size
        )
        self._initial = np.zeros(num_groups)
        _rank_all(self._groups, self._graph, self._objective, self._labels, self._initial)
        is_noisy = objective.gain == "marginal" and objective.phi == "pow"
        self._noise = _rounding_bound(self._groups, propagation) if is_noisy else 0.0
        self._top_score = float(scores.max(initial=0.0))
        self._queued, self._limit = 0, math.inf
        self._extend_queue(num_groups if is_noisy else _QUEUED_PER_PICK * budget)

    def pick(self, rows: NDArray[np.int64], gains: NDArray[np.float64]) -> int:
        """Fill `rows` and `gains`; return how many, fewer when no row that is left gains anything."""
        made = 0
        while True:
            made = int(
                _pick(
                    self._groups,
                    self._graph,
                    self._objective,
                    self._labels,
                    self._heads,
                    self._heap,
                    self._initial,
                    self._queue,
                    self._cursor,
                    self._limit,
                    self._noise,
                    self._top_score,
                    rows,
                    gains,
                    made,
                )
            )
            if self._cursor[1] == 0:
                return made
            self._extend_queue(4 * self._queued)

    def _extend_queue(self, size: int) -> None:
        """Queue the `size` groups that gained most at the start, less those that were queued before."""
        total = len(self._initial)
        size = min(max(size, _QUEUED_AT_LEAST), total)
        floor = -1.0 if size == total else float(np.partition(self._initial, total - size)[total - size])
        groups = np.flatnonzero((self._initial >= floor) & (self._initial < self._limit))
        self._queue = groups[np.argsort(-self._initial[groups], kind="stable")]
        self._queued, self._limit = size, floor
        self._cursor = np.zeros(2, np.int64)  # place in the queue, whether more must be queued


def _rounding_bound(groups: Any, propagation: Propagation) -> float:
    """Factor on phi(largest information) that bounds the rounding error of a gain made of differences of phi's.

    phi(x + e) - phi(x) is off by an absolute amount, so a gain can rise a little although x grew.
    """
    starts, ends, label_ids = groups[:3]
    degrees = np.diff(propagation.offsets)
    reach = np.concatenate((np.zeros(1), np.cumsum(degrees[label_ids])))
    return 8.0 * _EPSILON * float((reach[ends] - reach[starts]).max(initial=0.0))


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
def _collect(groups: Any, graph: Any, labels: Any, group: Any) -> Any:
    """Write the rows of P of a group's labels added up into `spread`; return how many are `reached`, ascending."""
    starts, ends, label_ids = groups[0], groups[1], groups[2]
    offsets, columns, weights = graph
    spread, reached = labels[4], labels[5]
    count = 0
    for place in range(starts[group], ends[group]):
        member = label_ids[place]
        for entry in range(offsets[member], offsets[member + 1]):
            column = columns[entry]
            if spread[column] == 0.0:
                reached[count] = column
                count += 1
            spread[column] += weights[entry]
    reached[:count].sort()
    return count


@_compile
def _gradient_gain(groups: Any, graph: Any, labels: Any, group: Any) -> Any:
    """Eq. 11: the score times the worth q of the labels, q = P phi'(x); one function, as a call would cost more."""
    starts, ends, label_ids, scores, _, _ = groups
    offsets, columns, weights = graph
    _, slope, worth, is_stale, _, _ = labels
    unit = 0.0
    for place in range(starts[group], ends[group]):
        label = label_ids[place]
        if is_stale[label]:
            total = 0.0
            for entry in range(offsets[label], offsets[label + 1]):
                total += weights[entry] * slope[columns[entry]]
            worth[label] = total
            is_stale[label] = False
        unit += worth[label]
    return scores[group] * unit


@_compile
def _marginal_gain(groups: Any, graph: Any, objective: Any, labels: Any, group: Any) -> Any:
    """Eq. 9: what E(D) rises by."""
    information, spread, reached = labels[0], labels[4], labels[5]
    score = groups[3][group]
    gain = 0.0
    for place in range(_collect(groups, graph, labels, group)):
        label = reached[place]
        gain += _rise(objective, information[label], score * spread[label])
        spread[label] = 0.0
    return gain


@_compile
def _gain(groups: Any, graph: Any, objective: Any, labels: Any, group: Any) -> Any:
    """Return the gain of any row of a group at the present information."""
    if objective[1]:
        return _gradient_gain(groups, graph, labels, group)
    return _marginal_gain(groups, graph, objective, labels, group)


@_compile
def _rank_all(groups: Any, graph: Any, objective: Any, labels: Any, initial: Any) -> Any:
    information, slope = labels[0], labels[1]
    for label in range(len(information)):
        slope[label] = _slope(objective, information[label])
    for group in range(len(initial)):
        initial[group] = _gain(groups, graph, objective, labels, group)


@_compile
def _add_information(groups: Any, graph: Any, objective: Any, labels: Any, group: Any) -> Any:
    information, slope, is_stale, spread, reached = labels[0], labels[1], labels[3], labels[4], labels[5]
    offsets, columns, _ = graph
    score = groups[3][group]
    for place in range(_collect(groups, graph, labels, group)):
        label = reached[place]
        information[label] += score * spread[label]
        slope[label] = _slope(objective, information[label])
        spread[label] = 0.0
        for entry in range(offsets[label], offsets[label + 1]):
            is_stale[columns[entry]] = True


@_compile
def _sink(heap: Any, gain: Any, row: Any, group: Any) -> Any:
    """Put an entry into the hole at the top, and let it sink to its place."""
    gains, rows, groups = heap[0], heap[1], heap[2]
    size = heap[3][0]
    place = 0
    while True:
        child = 2 * place + 1
        if child >= size:
            break
        other = child + 1
        if other < size and (
            gains[other] > gains[child] or (gains[other] == gains[child] and rows[other] < rows[child])
        ):
            child = other
        if gains[child] < gain or (gains[child] == gain and rows[child] > row):
            break
        gains[place], rows[place], groups[place] = gains[child], rows[child], groups[child]
        place = child
    gains[place], rows[place], groups[place] = gain, row, group


@_compile
def _push(heap: Any, gain: Any, row: Any, group: Any) -> Any:
    gains, rows, groups = heap[0], heap[1], heap[2]
    place = heap[3][0]
    heap[3][0] += 1
    while place > 0:
        above = (place - 1) // 2
        if gains[above] > gain or (gains[above] == gain and rows[above] < row):
            break
        gains[place], rows[place], groups[place] = gains[above], rows[above], groups[above]
        place = above
    gains[place], rows[place], groups[place] = gain, row, group


@_compile
def _drop_top(heap: Any) -> Any:
    """Take the top out of the heap; it stands right behind the heap afterwards."""
    gains, rows, groups = heap[0], heap[1], heap[2]
    gain, row, group = gains[0], rows[0], groups[0]
    heap[3][0] -= 1
    last = heap[3][0]
    _sink(heap, gains[last], rows[last], groups[last])
    gains[last], rows[last], groups[last] = gain, row, group


@_compile
def _settle(groups: Any, graph: Any, objective: Any, labels: Any, heap: Any, noise: Any) -> Any:
    """Bring the true best to the top where gains may rise by rounding: look at all that stand within the noise."""
    size = heap[3][0]
    bound = heap[0][0] - noise
    while heap[3][0] > 0 and heap[0][0] >= bound:
        _drop_top(heap)
        last = heap[3][0]
        heap[0][last] = _gain(groups, graph, objective, labels, heap[2][last])
        bound = max(bound, heap[0][last] - noise)
    for last in range(heap[3][0], size):
        _push(heap, heap[0][last], heap[1][last], heap[2][last])


@_compile
def _take_top(groups: Any, graph: Any, objective: Any, labels: Any, heads: Any, heap: Any) -> Any:
    """Choose the row at the top: add its information, put the next row of its group in its place."""
    offsets, rows = groups[4], groups[5]
    gain, group = heap[0][0], heap[2][0]
    heads[group] += 1
    if heads[group] < offsets[group + 1]:
        _sink(heap, gain, rows[heads[group]], group)
    else:
        _drop_top(heap)
    _add_information(groups, graph, objective, labels, group)


@_compile
def _pick(
    groups: Any,
    graph: Any,
    objective: Any,
    labels: Any,
    heads: Any,
    heap: Any,
    initial: Any,
    queue: Any,
    cursor: Any,
    limit: Any,
    noise: Any,
    top_score: Any,
    chosen: Any,
    gains: Any,
    made: Any,
) -> Any:
    """Fill `chosen` and `gains` from `made` on; return how many there are. cursor[1]: more must be queued first.

    No group that is not queued yet gained more than `limit` at the start; it is negative where all are queued.
    """
    rows = groups[5]
    cursor[1] = 0
    while made < len(chosen):
        top = heap[0][0] if heap[3][0] > 0 else -1.0
        if cursor[0] < len(queue):
            group = queue[cursor[0]]
            if noise > 0.0 or initial[group] >= top:
                # The next in the queue may be the best: it moves to the heap with its gain made anew.
                cursor[0] += 1
                _push(heap, _gain(groups, graph, objective, labels, group), rows[heads[group]], group)
                continue
        elif limit >= 0.0 and top <= limit:
            cursor[1] = 1
            break
        if heap[3][0] == 0:
            break
        group = heap[2][0]
        gain = _gain(groups, graph, objective, labels, group)
        if gain != top:
            _sink(heap, gain, heap[1][0], group)
            continue
        if noise > 0.0:
            _settle(groups, graph, objective, labels, heap, noise * _phi(objective, labels[0].max() + top_score))
        if heap[0][0] <= 0.0:
            break
        chosen[made], gains[made] = heap[1][0], heap[0][0]
        made += 1
        _take_top(groups, graph, objective, labels, heads, heap)
    return made
