"""What a selection is made from and what it yields, as plain arrays.

Dimension letters: N rows of the pool, L labels, E entries of the propagation matrix, B chosen rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class LabelSets:
    """The labels of each row, ascending and distinct. N rows, L labels."""

    names: Sequence[str]
    """Length L, sorted."""
    offsets: NDArray[np.int64]
    """Where each row's labels begin in `ids`. Shape (N + 1,)."""
    ids: NDArray[np.int32]
    """Positions in `names`, one row after the other."""


@dataclass(frozen=True)
class LabelledPool:
    """The rows to choose from: each a set of labels and a score."""

    label_offsets: NDArray[np.int64]
    """Where each row's labels begin in `label_ids`. Shape (N + 1,)."""
    label_ids: NDArray[np.int32]
    """Labels of all rows, one after the other, each row's ascending and distinct, in [0, L)."""
    scores: NDArray[np.float64]
    """Quality of each row, 0 or more, already normalised if so wished. Shape (N,)."""

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.scores)

    @property
    def total_score(self) -> float:
        """Sum of all scores: no label can ever hold more information than this. Infinite where it overflows."""
        with np.errstate(over="ignore"):
            return float(np.sum(self.scores))


@dataclass(frozen=True)
class Propagation:
    """The matrix P of Eq. 7 by rows: information at label l reaches label j with weight P[l, j]."""

    offsets: NDArray[np.int64]
    """Where each label's entries begin. Shape (L + 1,)."""
    labels: NDArray[np.int32]
    """Column of each entry, ascending within a row. Shape (E,). The pattern is symmetric."""
    weights: NDArray[np.float64]
    """Value of each entry, above 0. Shape (E,)."""

    @property
    def num_labels(self) -> int:
        """L."""
        return len(self.offsets) - 1


@dataclass(frozen=True)
class Objective:
    """E(D) = sum over labels of phi(information), and the rule by which greedy ranks rows."""

    phi: Literal["pow", "exp"] = "pow"
    """pow is (x + offset)^exponent (Eq. 12), exp is 1 - exp(-rate x) (Eq. 13)."""
    exponent: float = 0.8
    offset: float = 1e-6
    rate: float = 1.0
    gain: Literal["gradient", "marginal"] = "gradient"
    """gradient is e . phi'(x) (Eq. 11), marginal is E(D + i) - E(D) (Eq. 9)."""

    def value(self, information: NDArray[np.float64]) -> float:
        """Return E(D) for the information that D holds at each label, shape (L,)."""
        if self.phi == "pow":
            return float(np.sum((information + self.offset) ** self.exponent))
        return float(np.sum(-np.expm1(-self.rate * information)))


@dataclass(frozen=True)
class Selection:
    """Chosen rows in the order of choice; its first k rows are the selection with budget k."""

    rows: NDArray[np.int64]
    """Index of each chosen row in the pool that was given. Shape (B,)."""
    gains: NDArray[np.float64]
    """What each row was worth to the method at the moment of its choice; NaN where it weighs nothing. Shape (B,)."""
