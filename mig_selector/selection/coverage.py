"""How well some rows cover a pool, and how much better with a row more: facility location, for lazy greedy search.

Dimension letters: N rows to choose from, T targets (the rows to be covered), D dimensions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mig_selector.selection.unit_rows import cosines, product_error, unit_blocks, unit_rows


_SURVEYED_AT_ONCE = 256
_PRODUCT_ELEMENTS = 2**22
_HELD_ELEMENTS = 2**25
"""About as many cosines are kept, at 8 to 12 bytes each; then they are forgotten and computed again where needed."""


@dataclass(frozen=True)
class Reach:
    """The targets that are nearer to a row than to any chosen row, and how near."""

    targets: NDArray[np.int32]
    """Ascending; if the reach is not exact, also some that are hardly farther."""
    cosines: NDArray[np.floating[Any]]
    """In float64 if exact; else in float32, and too high by up to twice the error of a product."""
    is_exact: bool

    def keep(self, places: NDArray[np.bool_]) -> Reach:
        """Return the reach with some of its targets only."""
        return Reach(self.targets[places], self.cosines[places], self.is_exact)


class Coverage:
    """How near the targets are to the chosen rows, and how much nearer another row would bring them.

    What a row would add is first bounded by float32 products, for many rows at once, and computed exactly where the
    bound is not enough. A target that a row does not reach now it never will, so that looking again costs little.
    """

    def __init__(self, embeddings: NDArray[np.floating[Any]], targets: NDArray[np.int64]) -> None:
        """Begin with no row chosen.

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
        self._reaches: dict[int, Reach] = {}
        self._held = 0
        self._exact_rows: dict[float, int] = {}
        """The last row whose reach was computed, by what it adds as the first: rows of equal vectors share a reach."""

    def begin(self, row: int) -> None:
        """Choose the first row."""
        self._highest = self._measure(row, self._targets)

    def room(self) -> float:
        """Bound what any row adds: no cosine is above 1."""
        return _add_rises(np.ones_like(self._highest), self._highest)

    def knows(self, row: int) -> bool:
        """Say whether the reach of a row is known, if only as a bound."""
        return row in self._reaches

    def is_exact(self, row: int) -> bool:
        """Say whether the reach of a row is known exactly."""
        return self.knows(row) and self._reaches[row].is_exact

    def survey(self, rows: list[int]) -> None:
        """Bound the reach of each of some rows, if nothing is known of it."""
        if self._held > _HELD_ELEMENTS:
            self._reaches.clear()
            self._held = 0
        unknown = [row for row in rows if not self.knows(row)]
        product = unit_rows(self._embeddings, np.array(unknown)).astype(np.float32) @ self._units.T
        lowest = (self._highest - self._error).astype(np.float32)
        for row, line in zip(unknown, product, strict=True):
            reached = np.flatnonzero(line > lowest)
            self._hold(row, Reach(reached.astype(np.int32), line[reached] + self._error, is_exact=False))

    def rise(self, row: int) -> float:
        """Return what a row would add if its reach is exact, else a bound on it."""
        reach = self._reaches[row]
        highest = self._highest[reach.targets]
        is_reached = reach.cosines > highest
        if not is_reached.all():
            reach, highest = reach.keep(is_reached), highest[is_reached]
            self._hold(row, reach)
        return _add_rises(reach.cosines, highest) if reach.is_exact else float(np.sum(reach.cosines - highest))

    def make_exact(self, row: int) -> None:
        """Compute the cosines of a reach that is bounded only."""
        targets = self._reaches[row].targets
        twin = self._exact_rows.get(self.first_rises[row], row)
        if self.is_exact(twin) and np.array_equal(self._unit(twin), self._unit(row)):
            self._hold(row, self._reaches[twin])
        else:
            self._hold(row, Reach(targets, self._measure(row, self._targets[targets]), is_exact=True))
            self._exact_rows[self.first_rises[row]] = row

    def add(self, row: int) -> None:
        """Choose a row whose reach is exact and, by `rise`, up to date."""
        reach = self._reaches[row]
        self._highest[reach.targets] = reach.cosines

    def _hold(self, row: int, reach: Reach) -> None:
        before = self._reaches.get(row)
        self._held += len(reach.targets) - (len(before.targets) if before else 0)
        self._reaches[row] = reach

    def _measure(self, row: int, others: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the cosine of a row with each of some others."""
        unit = self._unit(row)
        measured = np.empty(len(others))
        for start, units in unit_blocks(self._embeddings, others):
            measured[start : start + len(units)] = cosines(units, unit)
        return measured

    def _unit(self, row: int) -> NDArray[np.float64]:
        unit: NDArray[np.float64] = unit_rows(self._embeddings, np.array([row]))[0]
        return unit


def _add_rises(cosines: NDArray[np.floating[Any]], highest: NDArray[np.float64]) -> float:
    """Add up how far cosines rise above the highest so far, exactly, and round once.

    So the sum never grows when `highest` does, and of rows that add the same none is ahead by rounding.
    """
    return math.fsum(np.concatenate([cosines, -highest]).tolist())
