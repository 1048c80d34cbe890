"""What becomes of a row that is not kept."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Dropped:
    """A readable row that lacks what selection needs."""

    reason: str


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A row that cannot be used, and why, in words that follow ``file:line``."""

    reason: str
