"""The compiled search: gains looked up label by label, and only what a pick touched made anew.

Arithmetic follows one fixed order (ascending labels, values recomputed from the information, never updated by
differences), so that a naive evaluation of all rows in float64 gives the same bits.

All of it stands in one file, as the machine code kept on disk is made anew when the file of its function changes, not
when that of an inlined one does.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mig_selector.selection.compiling import compiled, inlined


_STALE = -1.0
"""Stands for a worth that must be made anew; a true one is 0 or more."""
_CHILDREN = 4
"""Of each place in the heap: flatter than a binary one, and the gains of four siblings lie side by side."""


class Graph(NamedTuple):
    """The matrix P by rows, as in `Propagation`."""

    offsets: NDArray[np.int64]
    columns: NDArray[np.int32]
    weights: NDArray[np.float64]


class Rule(NamedTuple):
    """How gains are reckoned, as in `Objective`."""

    is_pow: bool
    is_gradient: bool
    exponent: float
    offset: float
    rate: float


class Labels(NamedTuple):
    """What is known of each label at the present selection, and two scratch arrays. All of shape (L,)."""

    information: NDArray[np.float64]
    """What the chosen rows hold at the label."""
    local: NDArray[np.float64]
    """What the rule needs of phi at the label, see `local_value`."""
    worth: NDArray[np.float64]
    """q = P phi', what a row gains by the label per unit of its score (gradient rule), or stale."""
    spread: NDArray[np.float64]
    """Scratch: rows of P added up; 0 between uses."""
    reached: NDArray[np.int32]
    """Scratch: the labels that have spread."""


class Rows(NamedTuple):
    """Labels and score of each row, as in `LabelledPool`."""

    offsets: NDArray[np.int64]
    labels: NDArray[np.int32]
    scores: NDArray[np.float64]


class Pool(NamedTuple):
    """All N rows, and which of them may be chosen next."""

    rows: Rows
    is_candidate: NDArray[np.bool_]
    """Whether a row may be the next: not chosen, and no equal row waits before it. Shape (N,)."""
    following: NDArray[np.int64]
    """Row that becomes a candidate when this one is chosen, or -1. Shape (N,), or (0,) where no row waits."""


class Ranking(NamedTuple):
    """Entries of the working set by gain, the largest first. Shape (W,) each."""

    gains: NDArray[np.float64]
    entries: NDArray[np.int64]


class WorkingSet(NamedTuple):
    """The W candidates that are better than all others, copied close together."""

    rows: Rows
    indices: NDArray[np.int64]
    """Row of the pool that each entry stands for. Shape (W,)."""
    queue: Ranking
    """Entries sorted by the gain that they were drawn with."""
    heap: Ranking
    """Entries taken from the queue; ties go by row index."""
    state: NDArray[np.int64]
    """Size of the heap, place in the queue, whether the information changed since the draw. Shape (3,)."""
    cut_gain: float
    """Every candidate outside stood at or below this gain when the set was drawn ..."""
    cut_row: int
    """... and those that stood at it come after this row."""


@compiled
def local_value(rule: Any, x: Any) -> Any:
    """phi'(x) for the gradient rule; for the marginal rule what a gain needs again and again at the same x."""
    if rule.is_gradient:
        if rule.is_pow:
            return rule.exponent * (x + rule.offset) ** (rule.exponent - 1.0)
        return rule.rate * math.exp(-rule.rate * x)
    if rule.is_pow:
        return (x + rule.offset) ** rule.exponent
    return math.exp(-rule.rate * x)


@inlined
def _collect(graph: Any, labels: Any, rows: Any, row: Any) -> Any:
    """Write the rows of P of a row's labels added up into `spread`; return how many labels are `reached`."""
    count = 0
    for place in range(rows.offsets[row], rows.offsets[row + 1]):
        label = rows.labels[place]
        for entry in range(graph.offsets[label], graph.offsets[label + 1]):
            column = graph.columns[entry]
            if labels.spread[column] == 0.0:
                labels.reached[count] = column
                count += 1
            labels.spread[column] += graph.weights[entry]
    return count


@inlined
def _gradient_gain(graph: Any, labels: Any, rows: Any, row: Any) -> Any:
    """Eq. 11: the score times the worth of the labels."""
    unit = 0.0
    for place in range(rows.offsets[row], rows.offsets[row + 1]):
        label = rows.labels[place]
        worth = labels.worth[label]
        if worth == _STALE:
            worth = 0.0
            for entry in range(graph.offsets[label], graph.offsets[label + 1]):
                worth += graph.weights[entry] * labels.local[graph.columns[entry]]
            labels.worth[label] = worth
        unit += worth
    return rows.scores[row] * unit


@compiled
def _marginal_gain(graph: Any, rule: Any, labels: Any, rows: Any, row: Any) -> Any:
    """Eq. 9: what E(D) rises by; for exp in the form that falls as information grows, to the last bit."""
    score = rows.scores[row]
    count = _collect(graph, labels, rows, row)
    for place in range(1, count):
        if labels.reached[place] < labels.reached[place - 1]:
            labels.reached[:count].sort()
            break
    gain = 0.0
    for place in range(count):
        label = labels.reached[place]
        added = score * labels.spread[label]
        if rule.is_pow:
            gain += (labels.information[label] + added + rule.offset) ** rule.exponent - labels.local[label]
        else:
            gain += labels.local[label] * -math.expm1(-rule.rate * added)
        labels.spread[label] = 0.0
    return gain


@compiled
def rank(graph: Any, rule: Any, labels: Any, pool: Any, gains: Any) -> Any:
    """Write the present gain of every candidate into `gains`, and -inf for all other rows."""
    for row in range(len(gains)):
        if not pool.is_candidate[row]:
            gains[row] = -np.inf
        elif rule.is_gradient:
            gains[row] = _gradient_gain(graph, labels, pool.rows, row)
        else:
            gains[row] = _marginal_gain(graph, rule, labels, pool.rows, row)


@compiled
def copy_rows(source: Any, indices: Any, target: Any) -> Any:
    """Copy the rows that `indices` names, one behind the other."""
    end = 0
    for entry in range(len(indices)):
        row = indices[entry]
        target.offsets[entry] = end
        target.scores[entry] = source.scores[row]
        for place in range(source.offsets[row], source.offsets[row + 1]):
            target.labels[end] = source.labels[place]
            end += 1
    target.offsets[len(indices)] = end


@inlined
def _sink(heap: Any, indices: Any, size: Any, gain: Any, entry: Any) -> Any:
    """Put an entry into the hole at the top of a heap of `size`, and let it sink to its place."""
    place = 0
    while True:
        first = _CHILDREN * place + 1
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
        heap.gains[place], heap.entries[place] = heap.gains[best], heap.entries[best]
        place = best
    heap.gains[place], heap.entries[place] = gain, entry


@inlined
def _rise(heap: Any, indices: Any, size: Any, gain: Any, entry: Any) -> Any:
    """Put an entry behind a heap of `size`, and let it rise to its place."""
    place = size
    while place > 0:
        above = (place - 1) // _CHILDREN
        if heap.gains[above] > gain or (heap.gains[above] == gain and indices[heap.entries[above]] < indices[entry]):
            break
        heap.gains[place], heap.entries[place] = heap.gains[above], heap.entries[above]
        place = above
    heap.gains[place], heap.entries[place] = gain, entry


@compiled
def _settle(graph: Any, rule: Any, labels: Any, drawn: Any, size: Any, noise: Any) -> Any:
    """Bring the true best to the top where gains may rise by rounding: look at all that stand within the noise."""
    heap, left = drawn.heap, size
    bound = heap.gains[0] - noise
    while left > 0 and heap.gains[0] >= bound:
        entry = heap.entries[0]
        gain = _marginal_gain(graph, rule, labels, drawn.rows, entry)
        bound = max(bound, gain - noise)
        left -= 1
        _sink(heap, drawn.indices, left, heap.gains[left], heap.entries[left])
        heap.gains[left], heap.entries[left] = gain, entry
    for place in range(left, size):
        _rise(heap, drawn.indices, place, heap.gains[place], heap.entries[place])


@compiled
def _add_information(graph: Any, rule: Any, labels: Any, rows: Any, row: Any) -> Any:
    """Add e of a row to the information; return whether that changed it. What rests on it becomes stale."""
    is_changed = False
    for place in range(_collect(graph, labels, rows, row)):
        label = labels.reached[place]
        before = labels.information[label]
        labels.information[label] = before + rows.scores[row] * labels.spread[label]
        labels.local[label] = local_value(rule, labels.information[label])
        labels.spread[label] = 0.0
        is_changed |= labels.information[label] != before
        for entry in range(graph.offsets[label], graph.offsets[label + 1]):
            labels.worth[graph.columns[entry]] = _STALE
    return is_changed


@compiled
def search(
    graph: Any, rule: Any, labels: Any, pool: Any, drawn: Any, noise: Any, chosen: Any, gains: Any, made: Any
) -> Any:
    """Choose from the working set as long as its best is better than every candidate outside.

    Fills `chosen` and `gains` from `made` on; returns how many there are. `noise` bounds what a gain may rise by.
    """
    rows, indices, queue, heap = drawn.rows, drawn.indices, drawn.queue, drawn.heap
    size, place, is_changed = drawn.state
    while made < len(chosen):
        bound = heap.gains[0] if size > 0 else -np.inf
        is_queued = place < len(queue.gains) and queue.gains[place] >= bound - noise
        if not is_queued and size == 0:
            break
        entry = queue.entries[place] if is_queued else heap.entries[0]
        if rule.is_gradient:
            gain = _gradient_gain(graph, labels, rows, entry)
        else:
            gain = _marginal_gain(graph, rule, labels, rows, entry)
        if is_queued:
            _rise(heap, indices, size, gain, entry)
            size += 1
            place += 1
            continue
        if gain != bound:
            _sink(heap, indices, size, gain, entry)
            continue
        doubt = noise if is_changed else 0.0
        if gain - doubt < drawn.cut_gain or (gain - doubt == drawn.cut_gain and indices[entry] > drawn.cut_row):
            break
        if doubt > 0.0:
            _settle(graph, rule, labels, drawn, size, doubt)
            gain, entry = heap.gains[0], heap.entries[0]
        row = indices[entry]
        chosen[made], gains[made] = row, gain
        made += 1
        is_changed |= _add_information(graph, rule, labels, rows, entry)
        pool.is_candidate[row] = False
        if len(pool.following) > 0 and pool.following[row] >= 0:
            indices[entry] = pool.following[row]
            pool.is_candidate[indices[entry]] = True
            _sink(heap, indices, size, gain, entry)
        else:
            size -= 1
            _sink(heap, indices, size, heap.gains[size], heap.entries[size])
    drawn.state[:] = size, place, is_changed
    return made
