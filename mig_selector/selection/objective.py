"""E(D): the information that a set of rows holds over the label graph (Eq. 8)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Objective:
    """E(D) = sum over labels of phi(information), and the gain by which greedy search ranks rows."""

    phi: Literal["pow", "exp"] = "pow"
    """pow is (x + offset)^exponent (Eq. 12), exp is 1 - exp(-rate x) (Eq. 13). Both are concave."""
    exponent: float = 0.8
    """For pow; above 0, at most 1."""
    offset: float = 1e-6
    """For pow; above 0, so that phi'(0) is finite."""
    rate: float = 1.0
    """For exp; above 0."""
    gain: Literal["gradient", "marginal"] = "gradient"
    """gradient is e . phi'(x) (Eq. 11), marginal is E(D + i) - E(D) (Eq. 9)."""

    def value(self, information: NDArray[np.float64]) -> float:
        """Return E(D) for the information that D holds at each label, shape (L,)."""
        if self.phi == "pow":
            return float(np.sum((information + self.offset) ** self.exponent))
        return float(np.sum(-np.expm1(-self.rate * information)))

    def slope(self, information: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return phi' of each element."""
        if self.phi == "pow":
            power: NDArray[np.float64] = (information + self.offset) ** (self.exponent - 1.0)
            return self.exponent * power
        return self.rate * np.exp(-self.rate * information)

    def increase(self, before: NDArray[np.float64], after: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return phi(after) - phi(before) for each element."""
        if self.phi == "pow":
            difference: NDArray[np.float64] = (after + self.offset) ** self.exponent - (
                before + self.offset
            ) ** self.exponent
            return difference
        # Near saturation both values of phi are 1 to the last bit; this form keeps the digits of their difference.
        return np.exp(-self.rate * before) * -np.expm1(-self.rate * (after - before))
