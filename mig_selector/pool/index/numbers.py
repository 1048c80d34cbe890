"""Numbers that a row holds, and how they become one: what a pool must have for a score to be read from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class StoredNumbers:
    """Where a row's numbers are, and how they are joined."""

    paths: tuple[str, ...] = ()
    """Dotted paths, each to a number or a list of numbers; none where no number is read."""
    join: Literal["mean", "mean of products", "sum of products"] = "mean"
    """mean: of the numbers at the one path. The others: of the products, turn by turn, of the numbers at two paths."""
    is_signed: bool = False
    """Whether a number may be negative."""

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the joined numbers, as a plain dictionary."""
        return {"paths": list(self.paths), "join": self.join, "is_signed": self.is_signed}
