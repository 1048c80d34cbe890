"""Passes over rows that take a row if it has a label new to the pass; compiled, for #InsTag.

A pass need not visit all rows. It takes exactly the rows that are, when it begins, the first row left of some label.
If a row is, no earlier row has that label, so the label is new. If a row is not, each of its labels is on an earlier
row left, which was taken unless the label had been seen by then. So a pass visits the first row left of every label,
in order. It costs a sort of at most L positions and the labels of the rows visited, however many rows it skips.

Dimension letters: N rows, L labels.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mig_selector.arrays import RowLabels
from mig_selector.selection.compiling import compiled


# Named tuples, as numba takes no dataclasses as arguments.


class _Rows(NamedTuple):
    """The rows in the order of visits; a row's position is its index in that order."""

    order: NDArray[np.int64]
    """The row at each position. Shape (N,)."""
    offsets: NDArray[np.int64]
    """Where each row's labels begin in `ids`; by row. Shape (N + 1,)."""
    ids: NDArray[np.int32]
    """Labels, row after row."""
    is_left: NDArray[np.bool_]
    """Whether no pass has taken the row yet; by position. Shape (N,)."""


class _RowsByLabel(NamedTuple):
    """For each label the positions of its rows, ascending."""

    positions: NDArray[np.int64]
    """One label after the other."""
    heads: NDArray[np.int64]
    """Index in `positions` of each label's first position that may be left. It only moves forward, so all passes
    together skip each taken row once per label. Shape (L,)."""
    ends: NDArray[np.int64]
    """Index in `positions` at which each label's positions end. Shape (L,)."""


class _LabelState(NamedTuple):
    """What a pass keeps of each label. Each of shape (L,)."""

    live: NDArray[np.int64]
    """The labels that may have rows left come first; every pass drops those that have none."""
    first_positions: NDArray[np.int64]
    """Scratch: the first position left of each live label."""
    is_missing: NDArray[np.bool_]
    """Whether rows of the label are left and this pass has taken none of them."""


class Passes:
    """Passes over the same rows, each starting with no label seen; a row is taken once at most."""

    def __init__(self, labels: RowLabels, order: NDArray[np.int64]) -> None:
        """Index N rows, to be visited in `order`, by their L labels."""
        num_labels = len(labels.names)
        ends = np.cumsum(np.bincount(labels.ids, minlength=num_labels))
        heads = np.concatenate((np.zeros(1, np.int64), ends[:-1]))[:num_labels]
        self._rows = _Rows(order, labels.offsets, labels.ids, np.ones(len(order), np.bool_))
        self._by_label = _RowsByLabel(np.empty(len(labels.ids), np.int64), heads, ends)
        self._labels = _LabelState(
            np.arange(num_labels), np.empty(num_labels, np.int64), np.zeros(num_labels, np.bool_)
        )
        self._num_live = num_labels
        _sort_by_label(self._rows, self._by_label.positions, heads.copy())

    def take(self, rows: NDArray[np.int64], gains: NDArray[np.float64]) -> int:
        """Make one pass; write the rows taken, and how many new labels each has, until `rows` is full.

        Returns:
            The number of rows taken; 0 if no row with a label is left.
        """
        self._num_live, taken = _make_pass(self._rows, self._by_label, self._labels, self._num_live, rows, gains)
        return int(taken)


@compiled
def _sort_by_label(rows: Any, positions: Any, heads: Any) -> Any:
    """Sort the positions by label (counting sort); `heads` holds each label's end afterwards."""
    for position in range(len(rows.order)):
        row = rows.order[position]
        for label in rows.ids[rows.offsets[row] : rows.offsets[row + 1]]:
            positions[heads[label]] = position
            heads[label] += 1


@compiled
def _make_pass(rows: Any, by_label: Any, labels: Any, num_live: Any, chosen: Any, gains: Any) -> Any:
    """Return how many labels had rows left when the pass began, and how many rows it took."""
    still_live = 0
    for label in labels.live[:num_live]:
        head = by_label.heads[label]
        while head < by_label.ends[label] and not rows.is_left[by_label.positions[head]]:
            head += 1
        by_label.heads[label] = head
        if head < by_label.ends[label]:
            # Compacts `live` in place: `still_live` never overtakes the loop.
            labels.live[still_live] = label
            labels.first_positions[still_live] = by_label.positions[head]
            labels.is_missing[label] = True
            still_live += 1
    taken = 0
    # A position that is first for several labels comes up several times. The first time takes the row and clears all
    # its labels, so the other times find nothing new.
    for position in np.sort(labels.first_positions[:still_live]):
        if taken == len(chosen):
            break
        row = rows.order[position]
        num_new = 0
        for label in rows.ids[rows.offsets[row] : rows.offsets[row + 1]]:
            num_new += labels.is_missing[label]
            labels.is_missing[label] = False
        if num_new:
            rows.is_left[position] = False
            chosen[taken], gains[taken] = row, num_new
            taken += 1
    return still_live, taken
