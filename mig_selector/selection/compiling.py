"""How the search is compiled: once per machine where a folder for machine code can be written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile, and keep the machine code on disk; where no folder can be written, compile in every run."""
    dispatcher: Callable[..., Any]
    try:
        dispatcher = njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:  # "cannot cache function: no locator available"
        dispatcher = njit(nogil=True, error_model="numpy")(function)
    return dispatcher


def inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile into the callers: a call that passes tuples of arrays would cost more than a gain."""
    dispatcher: Callable[..., Any] = njit(inline="always", nogil=True, error_model="numpy")(function)
    return dispatcher
