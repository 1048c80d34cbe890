"""Facility location for lazy greedy search: how well the chosen rows cover a pool, and what one more row would add.

The coverage of a target is its highest cosine with a chosen row. A further row adds, summed over the targets, what its
own cosines exceed these by (its rise). Highest cosines only grow, so a rise only falls, and targets only leave a
reach.

Dimension letters: N rows to choose from, T targets (the rows to be covered), R targets of a reach, D dimensions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mig_selector.selection.unit_rows import cosines, product_error, unit_blocks, unit_rows


_SURVEYED_AT_ONCE = 256
"""Most rows in one survey. Rows come in the order of their bounds, so later ones are less likely to be needed."""
_PRODUCT_ELEMENTS = 2**22
"""Most elements of the matrix product of a survey: 16 MB of float32."""
_HELD_ELEMENTS = 2**25
"""About this many cosines are kept, at 8 to 12 bytes each; then all are dropped, and computed again where needed."""


@dataclass(frozen=True)
class Reach:
    """The targets that are nearer to a row than to any chosen row, and their cosines with the row."""

    targets: NDArray[np.int32]
    """Indices of targets, ascending. If the reach is not exact, possibly some that are no nearer. Shape (R,)."""
    cosines: NDArray[np.floating[Any]]
    """In float64 if exact; else upper bounds in float32, too high by up to twice `product_error`. Shape (R,)."""
    is_exact: bool

    def keep(self, is_kept: NDArray[np.bool_]) -> Reach:
        """Return the reach with only the targets for which `is_kept`, shape (R,), is true."""
        return Reach(self.targets[is_kept], self.cosines[is_kept], self.is_exact)


class Coverage:
    """The highest cosine of each target with the chosen rows, and the reach of rows that may be chosen next.

    A reach is first bounded by a float32 product, for many rows at once, and computed exactly for the few rows where
    the bound does not decide. A target outside a row's reach never enters it, so looking at a row again costs little.
    """

    def __init__(self, embeddings: NDArray[np.floating[Any]], targets: NDArray[np.int64]) -> None:
        """Start with no row chosen.

        Args:
            embeddings: One vector a row, of any length above 0; may be mapped from a file. Shape (N, D).
            targets: The rows to be covered. Shape (T,).

        Raises:
            EmbeddingError: A vector has no direction.
        """
        self._embeddings, self._targets = embeddings, targets
        dimensions = embeddings.shape[1]
        self._error = np.float32(product_error(dimensions))
        self._units = np.empty((len(targets), dimensions), np.float32)
        total = np.zeros(dimensions)
        for start, units in unit_blocks(embeddings, targets):
            self._units[start : start + len(units)] = units
            total += units.sum(axis=0)
        every_row = unit_blocks(embeddings, np.arange(len(embeddings)))
        self.first_rises = np.concatenate([np.sum(units * total, axis=1) for _, units in every_row])
        """What each row adds as the first: the sum of its cosines. Shape (N,)."""
        self.survey_size = max(16, min(_SURVEYED_AT_ONCE, _PRODUCT_ELEMENTS // len(targets)))
        """About how many rows to survey at once."""
        self._highest = np.empty(0)
        """Highest cosine of each target with a chosen row. Shape (T,)."""
        self._reaches: dict[int, Reach] = {}
        self._held = 0
        """Cosines held in `_reaches`."""
        self._exact_rows: dict[float, int] = {}
        """The last row whose reach was computed exactly, by its first rise. Rows of equal vectors have equal first
        rises, so this finds a duplicate, whose reach can be shared, without comparing all pairs."""

    def begin(self, row: int) -> None:
        """Choose the first row."""
        self._highest = self._measure(row, self._targets)

    def room(self) -> float:
        """Return an upper bound on the rise of any row: no cosine is above 1."""
        return _add_rises(np.ones_like(self._highest), self._highest)

    def knows(self, row: int) -> bool:
        """Return whether the reach of a row is held, exactly or as a bound."""
        return row in self._reaches

    def is_exact(self, row: int) -> bool:
        """Return whether the reach of a row is held exactly."""
        return self.knows(row) and self._reaches[row].is_exact

    def survey(self, rows: list[int]) -> None:
        """Bound the reach of each of some rows, unless it is held already."""
        if self._held > _HELD_ELEMENTS:
            self._reaches.clear()
            self._held = 0
        unknown = [row for row in rows if not self.knows(row)]
        product = unit_rows(self._embeddings, np.array(unknown)).astype(np.float32) @ self._units.T
        # A true cosine is at most the product plus the error. So no target that the row reaches is missed here, and
        # the cosines held are upper bounds.
        lowest = (self._highest - self._error).astype(np.float32)
        for row, products in zip(unknown, product, strict=True):
            reached = np.flatnonzero(products > lowest)
            self._hold(row, Reach(reached.astype(np.int32), products[reached] + self._error, is_exact=False))

    def rise(self, row: int) -> float:
        """Return what a row would add if its reach is exact, else an upper bound; shrink its reach as needed."""
        reach = self._reaches[row]
        highest = self._highest[reach.targets]
        is_reached = reach.cosines > highest
        if not is_reached.all():
            reach, highest = reach.keep(is_reached), highest[is_reached]
            self._hold(row, reach)
        return _add_rises(reach.cosines, highest) if reach.is_exact else float(np.sum(reach.cosines - highest))

    def make_exact(self, row: int) -> None:
        """Compute the exact cosines of a reach that is only bounded so far."""
        targets = self._reaches[row].targets
        twin = self._exact_rows.get(self.first_rises[row], row)
        if self.is_exact(twin) and np.array_equal(self._unit(twin), self._unit(row)):
            self._hold(row, self._reaches[twin])
        else:
            self._hold(row, Reach(targets, self._measure(row, self._targets[targets]), is_exact=True))
            self._exact_rows[self.first_rises[row]] = row

    def add(self, row: int) -> None:
        """Choose a row whose reach is exact and has been brought up to date by `rise`."""
        reach = self._reaches[row]
        self._highest[reach.targets] = reach.cosines

    def _hold(self, row: int, reach: Reach) -> None:
        before = self._reaches.get(row)
        self._held += len(reach.targets) - (len(before.targets) if before else 0)
        self._reaches[row] = reach

    def _measure(self, row: int, others: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the exact cosine of a row with each of the rows `others`. Shape (len(others),)."""
        unit = self._unit(row)
        measured = np.empty(len(others))
        for start, units in unit_blocks(self._embeddings, others):
            measured[start : start + len(units)] = cosines(units, unit)
        return measured

    def _unit(self, row: int) -> NDArray[np.float64]:
        unit: NDArray[np.float64] = unit_rows(self._embeddings, np.array([row]))[0]
        return unit


def _add_rises(cosines: NDArray[np.floating[Any]], highest: NDArray[np.float64]) -> float:
    """Add up by how much cosines exceed the highest so far: an exact sum, rounded once.

    So the sum never rises when `highest` does (lazy search stays exact), and rounding never decides between rows that
    add the same.
    """
    return math.fsum(np.concatenate([cosines, -highest]).tolist())
