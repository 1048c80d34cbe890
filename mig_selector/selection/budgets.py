"""One selection for each of several budgets, filled up by score where a method falls short."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mig_selector.arrays import Selection
from mig_selector.errors import ArgumentError
from mig_selector.selection.method import Candidates, best_first
from mig_selector.selection.registry import Method
from mig_selector.selection.token_budgets import choose_within_tokens, pass_over


def choose_for_budgets(
    method: Method,
    pool: Candidates,
    budgets: Sequence[int],
    settings: Mapping[str, Any],
    fill: Literal["error", "top_score"],
    on_progress: Callable[[int], object],
) -> tuple[list[Selection], list[int]]:
    """Choose rows for each budget, each as if it were the only one.

    Args:
        method: Chooses them; once for all budgets if its selections are nested.
        pool: N rows.
        budgets: Rows to choose, each in [1, N]; tokens, at least those of the shortest row, where the candidates have
            `tokens`.
        settings: What the method is called with.
        fill: What is done where the method chooses fewer rows.
        on_progress: Called with the number of rows, or tokens, chosen since the last call.

    Returns:
        The selections, and how many rows at the end of each were taken by score because the method fell short.

    Raises:
        ArgumentError: The method falls short and `fill` is ``error``, or chooses no row within a budget of tokens.
    """
    if pool.tokens is not None:
        return _choose_for_tokens(method, pool, pool.tokens, budgets, settings, fill, on_progress)
    if method.declaration.is_nested:
        whole = method(pool, max(budgets), settings, on_progress)
        chosen = [Selection(whole.rows[:budget], whole.gains[:budget]) for budget in budgets]
    else:
        chosen = [method(pool, budget, settings, on_progress) for budget in budgets]
    missing = [budget - len(selection.rows) for budget, selection in zip(budgets, chosen, strict=True)]
    if not any(missing):
        return chosen, missing
    if fill == "error" or not method.declaration.may_fall_short:
        short = max(range(len(budgets)), key=missing.__getitem__)
        raise ArgumentError(
            f"mig_num_samples: {budgets[short]} rows are asked for, but {method.name} chooses only "
            f"{len(chosen[short].rows)} of {len(pool)}. Ask for fewer, change the settings of the method, or set "
            "mig_fill: top_score to take the remaining ones by score."
        )
    return [_fill(selection, pool.scores, number) for selection, number in zip(chosen, missing, strict=True)], missing


def _choose_for_tokens(
    method: Method,
    pool: Candidates,
    tokens: NDArray[np.int64],
    budgets: Sequence[int],
    settings: Mapping[str, Any],
    fill: Literal["error", "top_score"],
    on_progress: Callable[[int], object],
) -> tuple[list[Selection], list[int]]:
    chosen, filled = [], []
    for budget in budgets:
        selection, fell_short = choose_within_tokens(method, pool, tokens, budget, settings, on_progress)
        found = int(tokens[selection.rows].sum())
        if fell_short and fill == "error":
            raise ArgumentError(
                f"mig_num_tokens: {budget} tokens are asked for, but {method.name} chooses only {len(selection.rows)} "
                f"of {len(pool)} rows, with {found} tokens. Ask for fewer, change the settings of the method, or set "
                "mig_fill: top_score to take more by score."
            )
        rest = pass_over(_the_rest(selection, pool.scores), tokens, budget - found) if fell_short else Selection.none()
        chosen.append(selection.joined(rest))
        if not len(chosen[-1].rows):
            raise ArgumentError(
                f"mig_num_tokens: {method.name} chooses none of the {len(pool)} rows within {budget} tokens: none "
                "that fits gains anything, or the method takes more rows at once than fit. Ask for more tokens, or "
                "check mig_score and the settings of the method."
            )
        filled.append(len(rest.rows))
    return chosen, filled


def _fill(selection: Selection, scores: NDArray[np.float64], missing: int) -> Selection:
    """Append the best rows that were not chosen."""
    rest = _the_rest(selection, scores)
    return selection.joined(Selection(rest.rows[:missing], rest.gains[:missing]))


def _the_rest(selection: Selection, scores: NDArray[np.float64]) -> Selection:
    """Return the rows that were not chosen, the best first; the method did not weigh them."""
    is_left = np.ones(len(scores), np.bool_)
    is_left[selection.rows] = False
    order = best_first(scores)
    rows = order[is_left[order]]
    return Selection(rows, np.full(len(rows), np.nan))
