"""The arrays that travel between the rooms: labels of rows, the label matrices, and what a selection yields.

Pool, graph and selection do not import each other; what one makes and another takes is defined here, once.

Dimension letters: N rows, L labels, E stored entries of a label matrix, B chosen rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


_BLOCK_ROWS = 1 << 18
"""Rows counted at a time, so that temporary arrays stay small beside the pool."""


@dataclass(frozen=True)
class RowLabels:
    """The labels of each row, as numbers that refer to a list of names."""

    names: Sequence[str]
    """Length L."""
    offsets: NDArray[np.int64]
    """Where each row's labels begin in `ids`. Shape (N + 1,)."""
    ids: NDArray[np.int32]
    """Indices into `names`, row after row. Selection methods get each row's ascending and distinct; a pool has them
    as its rows name them, in their order and with repetitions."""

    def __len__(self) -> int:
        """Return N."""
        return len(self.offsets) - 1

    @property
    def counts(self) -> NDArray[np.int64]:
        """How many labels each row has. Shape (N,)."""
        return np.diff(self.offsets)

    def of_row(self, row: int) -> list[str]:
        """Return the names of one row's labels."""
        return [self.names[label] for label in self.ids[self.offsets[row] : self.offsets[row + 1]]]

    def count_rows(self, rows: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
        """Return how many rows have each label, each of which a row must have once. Shape (L,).

        Args:
            rows: Only these rows count, each of them once; all if None.
        """
        is_counted = np.full(len(self), rows is None)
        is_counted[rows if rows is not None else []] = True
        found = np.zeros(len(self.names), np.int64)
        for start in range(0, len(self), _BLOCK_ROWS):
            offsets = self.offsets[start : start + _BLOCK_ROWS + 1]
            ids = self.ids[offsets[0] : offsets[-1]]
            found += np.bincount(
                ids[np.repeat(is_counted[start : start + _BLOCK_ROWS], np.diff(offsets))], minlength=len(self.names)
            )
        return found

    def take(self, keep: NDArray[np.bool_]) -> RowLabels:
        """Return the labels of the rows where `keep`, shape (N,), is true; the names stay as they are."""
        counts = self.counts
        offsets = np.concatenate((np.zeros(1, np.int64), np.cumsum(counts[keep])))
        return RowLabels(self.names, offsets, self.ids[np.repeat(keep, counts)])


@dataclass(frozen=True)
class LabelledPool:
    """The rows to choose from: each has a set of labels and a score."""

    labels: RowLabels
    """Each row's labels ascending and distinct."""
    scores: NDArray[np.float64]
    """Quality of each row, 0 or more, after any normalisation. Shape (N,)."""

    def __len__(self) -> int:
        """Return N."""
        return len(self.scores)

    @property
    def total_score(self) -> float:
        """Sum of all scores: no label can ever hold more information than this. Infinite where it overflows."""
        with np.errstate(over="ignore"):
            return float(np.sum(self.scores))


@dataclass(frozen=True)
class LabelMatrix:
    """A square matrix over labels in compressed rows; only entries above 0 are stored."""

    offsets: NDArray[np.int64]
    """Where each row's entries begin. Shape (L + 1,)."""
    columns: NDArray[np.int32]
    """Column of each entry, ascending within a row. Shape (E,)."""
    weights: NDArray[np.float64]
    """Value of each entry. Shape (E,)."""

    @property
    def num_labels(self) -> int:
        """L."""
        return len(self.offsets) - 1


class Adjacency(LabelMatrix):
    """W of Eq. 3: how alike two labels are, if they share an edge; symmetric, with the whole diagonal."""

    @property
    def num_edges(self) -> int:
        """Pairs of different labels that share an edge."""
        return (len(self.columns) - self.num_labels) // 2


class Propagation(LabelMatrix):
    """P of Eq. 7: information at label l reaches label j with weight P[l, j]; its pattern is symmetric."""


@dataclass(frozen=True)
class Selection:
    """Chosen rows in the order of choice; of a nested method the first k rows are the selection with budget k."""

    rows: NDArray[np.int64]
    """Index of each chosen row among the rows that were offered. Shape (B,)."""
    gains: NDArray[np.float64]
    """What each row was worth to the method when it was chosen; NaN where the method weighs nothing. Shape (B,)."""

    @classmethod
    def none(cls) -> Selection:
        """Return the selection of no row."""
        return cls(np.empty(0, np.int64), np.empty(0))

    def joined(self, other: Selection) -> Selection:
        """Return these rows and then those of another selection."""
        return Selection(np.concatenate((self.rows, other.rows)), np.concatenate((self.gains, other.gains)))


def typed_like(original: NDArray[Any], values: NDArray[Any]) -> NDArray[Any]:
    """Return `values` as an array of the type that numba sees in `original`, so that nothing is compiled for it."""
    made = values.astype(original.dtype)
    made.flags.writeable = original.flags.writeable
    return made
