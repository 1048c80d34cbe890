"""A budget of tokens, for methods that count rows: their rows in their order, those that no longer fit passed over."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mig_selector.arrays import Selection
from mig_selector.errors import ArgumentError
from mig_selector.selection.method import Candidates
from mig_selector.selection.registry import Method


def choose_within_tokens(
    method: Method,
    pool: Candidates,
    tokens: NDArray[np.int64],
    budget: int,
    settings: Mapping[str, Any],
    on_progress: Callable[[int], object],
) -> tuple[Selection, bool]:
    """Choose rows whose tokens add up to at most `budget`.

    Methods that keep to tokens themselves do so. Of nested and ordered methods the rows are taken in their order, and
    rows that no longer fit are passed over. What other methods choose depends on how many rows they are asked for:
    they are asked for as many as fit, found by bisection.

    Args:
        method: Chooses them.
        pool: N rows.
        tokens: Tokens of each row, 1 or more. Shape (N,).
        budget: Tokens, at least those of the shortest row.
        settings: What the method is called with.
        on_progress: Called with the tokens of the rows chosen since the last call.

    Returns:
        The selection, and whether the method fell short: it has no more rows, although all of them fit.

    Raises:
        ArgumentError: A method that keeps to tokens itself did not.
    """
    if method.declaration.keeps_to_tokens:
        selection = method(pool, budget, settings, on_progress)
        if (found := int(tokens[selection.rows].sum())) > budget:
            raise ArgumentError(f"mig_method: {method.name} chose rows of {found} tokens, expected at most {budget}.")
        return selection, False
    most = int(np.searchsorted(np.cumsum(np.sort(tokens)), budget, side="right"))
    if method.declaration.is_nested:
        selection, fell_short = _in_order(method, pool, tokens, budget, settings)
    elif method.declaration.is_ordered:
        whole = method(pool, len(pool), settings, lambda count: None)
        selection, fell_short = pass_over(whole, tokens, budget), False
    else:
        selection, fell_short = _as_many_as_fit(method, pool, tokens, budget, most, settings), False
    on_progress(int(tokens[selection.rows].sum()))
    return selection, fell_short


def _in_order(
    method: Method, pool: Candidates, tokens: NDArray[np.int64], budget: int, settings: Mapping[str, Any]
) -> tuple[Selection, bool]:
    """Ask a nested method for twice as many rows until no other row can fit."""
    asked = min(len(pool), max(2 * int(budget / tokens.mean()), 1))
    while True:
        whole = method(pool, asked, settings, lambda count: None)
        taken = pass_over(whole, tokens, budget)
        is_exhausted = asked == len(pool) or len(whole.rows) < asked
        others = np.delete(tokens, whole.rows)
        if is_exhausted or others.min() > budget - tokens[taken.rows].sum():
            return taken, len(whole.rows) < asked and len(taken.rows) == len(whole.rows)
        asked = min(2 * asked, len(pool))


def pass_over(whole: Selection, tokens: NDArray[np.int64], budget: int) -> Selection:
    """Take rows in their order, but for those that do not fit in what is left of the budget."""
    left, is_taken = budget, np.zeros(len(whole.rows), np.bool_)
    for rank, cost in enumerate(tokens[whole.rows].tolist()):
        if cost <= left:
            left -= cost
            is_taken[rank] = True
    return Selection(whole.rows[is_taken], whole.gains[is_taken])


def _as_many_as_fit(
    method: Method, pool: Candidates, tokens: NDArray[np.int64], budget: int, most: int, settings: Mapping[str, Any]
) -> Selection:
    """Return what the method chooses of the largest number of rows found whose tokens fit."""

    @functools.cache
    def choose(count: int) -> Selection | None:
        try:
            return method(pool, count, settings, lambda made: None)
        except ArgumentError:  # more rows than it can choose, or fewer
            return None

    best, low, high = Selection.none(), 1, most
    while low <= high:
        middle = (low + high) // 2
        found = choose(middle)
        if found is None and not len(best.rows) and choose(most) is not None:
            low = middle + 1  # it takes no fewer rows than some number, such as one of each cluster
        elif found is None or tokens[found.rows].sum() > budget:
            high = middle - 1
        else:
            best, low = found, middle + 1
    return best
