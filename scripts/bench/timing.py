"""Seconds of calls within this process."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar


Outcome = TypeVar("Outcome")


def timed(work: Callable[[], Outcome]) -> tuple[Outcome, float]:
    """Return what `work` returns, and the seconds it took."""
    start = time.perf_counter()
    outcome = work()
    return outcome, time.perf_counter() - start


def fastest_of(repeats: int, work: Callable[[], Outcome]) -> tuple[Outcome, float]:
    """Call `work` several times; return the outcome and the seconds of the fastest call."""
    return min((timed(work) for _ in range(repeats)), key=lambda run: run[1])
