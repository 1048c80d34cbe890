"""Numbers that a row holds, and how they become one: what a pool must have for a score to be read from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self


@dataclass(frozen=True)
class StoredNumbers:
    """Where a row's numbers are, and how they are joined."""

    paths: tuple[str, ...] = ()
    """Dotted paths, each to a number or a list of numbers; none where no number is read."""
    join: Literal["mean", "mean of products", "sum of products"] = "mean"
    """mean: of the numbers at the one path. The others: of the products, turn by turn, of the numbers at all paths."""
    is_signed: bool = False
    """Whether a number may be negative."""

    elsewhere: tuple[str, ...] = ()
    """Where the numbers are if they are not at `paths`, one for each of them; empty if they are nowhere else."""

    @property
    def names(self) -> list[tuple[str, ...]]:
        """The paths where each number may be, in the order of preference."""
        return list(zip(self.paths, self.elsewhere, strict=True) if self.elsewhere else zip(self.paths, strict=True))

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the joined numbers, as a plain dictionary."""
        return asdict(self)

    @classmethod
    def of(cls, identity: Mapping[str, Any]) -> Self:
        """Make the numbers that have this identity."""
        return cls(**{**identity, "paths": tuple(identity["paths"]), "elsewhere": tuple(identity["elsewhere"])})
