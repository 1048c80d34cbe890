"""Passes over rows in which a row is taken if it brings a label that the pass has not seen: compiled, for #InsTag.

A pass need not look at all rows. It takes a row exactly if that is the first row left of some label it has not seen:
no earlier row of the label is left, and a later one comes too late. So a pass walks over the first rows left of all
labels, in order, and costs no more than the labels of the rows that it takes, however many rows it passes over.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mig_selector.arrays import RowLabels
from mig_selector.selection.compiling import compiled


class _Rows(NamedTuple):
    """The rows in the order in which a pass visits them: a row's place is where it stands in it."""

    order: NDArray[np.int64]
    """The row at each place. Shape (N,)."""
    offsets: NDArray[np.int64]
    """Where each row's labels begin in `labels`. Shape (N + 1,)."""
    labels: NDArray[np.int32]
    is_left: NDArray[np.bool_]
    """By place. Shape (N,)."""


class _Index(NamedTuple):
    """The places of the rows of each label, ascending."""

    places: NDArray[np.int64]
    """One label after the other."""
    heads: NDArray[np.int64]
    """Where the first place that may be left stands in `places`. Shape (L,)."""
    ends: NDArray[np.int64]
    """Where each label's places end. Shape (L,)."""


class _Labels(NamedTuple):
    """What a pass knows of the labels."""

    live: NDArray[np.int64]
    """First those that may have rows left. Shape (L,)."""
    first_places: NDArray[np.int64]
    """Room for the first place left of each. Shape (L,)."""
    is_missing: NDArray[np.bool_]
    """Whether rows of the label are left, and the pass has taken none. Shape (L,)."""


class Passes:
    """Passes over the same rows, each beginning with no label seen; a row that was taken does not come again."""

    def __init__(self, labels: RowLabels, order: NDArray[np.int64]) -> None:
        """Index N rows, to be visited in `order`, by their L labels."""
        num_labels = len(labels.names)
        ends = np.cumsum(np.bincount(labels.ids, minlength=num_labels))
        heads = np.concatenate((np.zeros(1, np.int64), ends[:-1]))[:num_labels]
        self._rows = _Rows(order, labels.offsets, labels.ids, np.ones(len(order), np.bool_))
        self._index = _Index(np.empty(len(labels.ids), np.int64), heads, ends)
        self._labels = _Labels(np.arange(num_labels), np.empty(num_labels, np.int64), np.zeros(num_labels, np.bool_))
        self._num_live = num_labels
        _fill(self._rows, self._index.places, heads.copy())

    def take(self, rows: NDArray[np.int64], gains: NDArray[np.float64]) -> int:
        """Make one pass; write the rows taken and how many labels each brought, until `rows` is full.

        Returns:
            The number of rows taken; 0 where no row with a label is left.
        """
        self._num_live, taken = _make_pass(self._rows, self._index, self._labels, self._num_live, rows, gains)
        return int(taken)


@compiled
def _fill(rows: Any, places: Any, heads: Any) -> Any:
    """Sort the places by label (counting sort); `heads` ends as `ends`."""
    for place in range(len(rows.order)):
        row = rows.order[place]
        for label in rows.labels[rows.offsets[row] : rows.offsets[row + 1]]:
            places[heads[label]] = place
            heads[label] += 1


@compiled
def _make_pass(rows: Any, index: Any, labels: Any, num_live: Any, chosen: Any, gains: Any) -> Any:
    """Return how many labels had rows left when the pass began, and how many rows it took."""
    still_live = 0
    for label in labels.live[:num_live]:
        head = index.heads[label]
        while head < index.ends[label] and not rows.is_left[index.places[head]]:
            head += 1
        index.heads[label] = head
        if head < index.ends[label]:
            labels.live[still_live] = label
            labels.first_places[still_live] = index.places[head]
            labels.is_missing[label] = True
            still_live += 1
    taken = 0
    for place in np.sort(labels.first_places[:still_live]):
        if taken == len(chosen):
            break
        row = rows.order[place]
        num_new = 0
        for label in rows.labels[rows.offsets[row] : rows.offsets[row + 1]]:
            num_new += labels.is_missing[label]
            labels.is_missing[label] = False
        if num_new:
            rows.is_left[place] = False
            chosen[taken], gains[taken] = row, num_new
            taken += 1
    return still_live, taken
