"""What becomes of a row that is not kept."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Dropped:
    """A valid row without something that selection needs; it is counted by reason."""

    reason: str


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A row that cannot be used; it stops the run, or is skipped and counted by reason."""

    reason: str
    """Follows ``file:line: `` in messages; values come after ``, got`` or in brackets, so that reasons can be counted
    without them."""
