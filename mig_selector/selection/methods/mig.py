"""MIG: the row that adds the most information to what the chosen rows hold over a graph of labels."""

from __future__ import annotations

from typing import Annotated, Literal

from mig_selector.arrays import LabelledPool, Selection
from mig_selector.selection.greedy import select_rows, select_within
from mig_selector.selection.method import Candidates, OnProgress, method
from mig_selector.selection.objective import Objective
from mig_selector.settings import Setting, above_and_at_most, between


@method(
    needs={"labels", "propagation", "scores"},
    nested=True,
    compiled=True,
    keeps_to_tokens=True,
    unused={("phi", "pow"): {"phi_rate"}, ("phi", "exp"): {"phi_exponent", "phi_offset"}},
)
def mig(
    pool: Candidates,
    budget: int,
    *,
    phi: Annotated[
        Literal["pow", "exp"], Setting("Concave function of the information at a label (Eq. 12, 13).", decides=True)
    ] = "pow",
    phi_exponent: Annotated[
        float, Setting("Exponent b of pow: (x + a)^b.", above_and_at_most(0, 1), decides=True)
    ] = 0.8,
    phi_offset: Annotated[float, Setting("Offset a of pow: (x + a)^b.", between(1e-30, 1e9), decides=True)] = 1e-6,
    phi_rate: Annotated[
        float, Setting("Rate c of exp: 1 - exp(-c x).", above_and_at_most(0, 1e9), decides=True)
    ] = 1.0,
    gain: Annotated[
        Literal["gradient", "marginal"],
        Setting(
            "Greedy rule: gradient as published (Eq. 11), or the exact marginal gain (Eq. 9), which has the 1 - 1/e "
            "guarantee.",
            decides=True,
        ),
    ] = "gradient",
    on_progress: OnProgress,
) -> Selection:
    """Choose rows greedily by information gained; see `select_rows`, and `select_within` for budgets of tokens.

    Source: MIG (arXiv 2504.13835), Algorithm 1.
    """
    objective = Objective(phi=phi, exponent=phi_exponent, offset=phi_offset, rate=phi_rate, gain=gain)
    labelled = LabelledPool(pool.labels, pool.scores)
    if pool.tokens is not None:
        return select_within(labelled, pool.propagation, objective, pool.tokens, budget, on_progress)
    return select_rows(labelled, pool.propagation, objective, budget, on_progress)
