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
        budgets: Rows to choose, each in [1, N].
        settings: What the method is called with.
        fill: What is done where the method chooses fewer rows.
        on_progress: Called with the number of rows chosen since the last call.

    Returns:
        The selections, and how many rows at the end of each were taken by score because the method fell short.

    Raises:
        ArgumentError: The method falls short and `fill` is ``error``.
    """
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


def _fill(selection: Selection, scores: NDArray[np.float64], missing: int) -> Selection:
    """Append the best rows that were not chosen; the method did not weigh them."""
    is_left = np.ones(len(scores), np.bool_)
    is_left[selection.rows] = False
    order = best_first(scores)
    rest = order[is_left[order]][:missing]
    return Selection(
        np.concatenate((selection.rows, rest)), np.concatenate((selection.gains, np.full(missing, np.nan)))
    )
