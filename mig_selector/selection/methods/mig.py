"""MIG: the row that adds the most information to what the chosen rows hold over a graph of labels."""

from __future__ import annotations

from typing import Literal

from mig_selector.arrays import LabelledPool, Selection
from mig_selector.selection.greedy import select_rows
from mig_selector.selection.method import Candidates, OnProgress, method
from mig_selector.selection.objective import Objective


@method(
    needs={"labels", "propagation", "scores"},
    nested=True,
    unused={("phi", "pow"): {"phi_rate"}, ("phi", "exp"): {"phi_exponent", "phi_offset"}},
)
def mig(
    pool: Candidates,
    budget: int,
    *,
    phi: Literal["pow", "exp"],
    phi_exponent: float,
    phi_offset: float,
    phi_rate: float,
    gain: Literal["gradient", "marginal"],
    on_progress: OnProgress,
) -> Selection:
    """Choose rows greedily by information gained; see `select_rows`.

    Source: MIG (arXiv 2504.13835), Algorithm 1.
    """
    objective = Objective(phi=phi, exponent=phi_exponent, offset=phi_offset, rate=phi_rate, gain=gain)
    return select_rows(LabelledPool(pool.labels, pool.scores), pool.propagation, objective, budget, on_progress)
