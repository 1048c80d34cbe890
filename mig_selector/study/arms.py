"""The rows of each arm: equal supervised tokens, or equal rows, chosen from the same candidates."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mig_selector.errors import ArgumentError
from mig_selector.pipeline.deliver import Outcome
from mig_selector.pipeline.lengths import RowTokens, read_row_tokens
from mig_selector.pipeline.names import comparison_name
from mig_selector.pipeline.recipe import run_selection
from mig_selector.pipeline.request import resolve
from mig_selector.pipeline.site import pool_names
from mig_selector.pipeline.stages import Measured, read, restrict
from mig_selector.store.subsets import SELECTION_TABLE
from mig_selector.study.heldout import Split
from mig_selector.study.setup import RANDOM, STRATIFIED, Setup


@dataclass(frozen=True)
class Budget:
    """What every arm may choose."""

    size: int
    counts_tokens: bool
    """Whether `size` is supervised tokens, and not rows."""

    @property
    def keys(self) -> dict[str, Any]:
        """The keys of a selection."""
        if self.counts_tokens:
            return {"mig_num_tokens": str(self.size), "mig_count_tokens": "supervised"}
        return {"mig_num_samples": self.size}

    @property
    def described(self) -> str:
        """The budget in words."""
        return f"{self.size:,} {'supervised tokens' if self.counts_tokens else 'rows'}"


@dataclass(frozen=True)
class Subset:
    """Rows that an arm trains on."""

    outcome: Outcome
    rows: int
    fed: int
    """Tokens that training is fed in a pass."""
    supervised: int
    """Those of them that have a loss."""
    sources: Mapping[str, int]
    """Number of rows from each source."""


def count_candidate_tokens(setup: Setup, split: Split) -> RowTokens:
    """Count what training is fed for each candidate."""
    arguments = setup.arguments(mig_method=RANDOM, mig_num_tokens="1", mig_count_tokens="supervised")
    request = resolve(arguments, setup.host, split.candidates, is_registered=False)
    return read_row_tokens(request, restrict(Measured(read(request), None), request).pool)


def find_budget(setup: Setup, tokens: RowTokens, count: int) -> Budget:
    """Return the budget: the configuration's rows, or the supervised tokens that a random choice has on average.

    Args:
        setup: The study.
        tokens: Those of the candidates, or of a random sample of them.
        count: Number of candidates.

    Raises:
        ArgumentError: There are not so many candidates, or not even the shortest of them fits.
    """
    [asked] = setup.budget.budgets
    each, counts_tokens = count / len(tokens.fed), setup.budget.counts_tokens
    whole = round(each * int(tokens.counted(setup.budget.mig_count_tokens).sum())) if counts_tokens else count
    size = max(int(asked * count), 1) if isinstance(asked, float) else asked
    if size > whole:
        key = "mig_num_tokens" if counts_tokens else "mig_num_samples"
        raise ArgumentError(f"{key}: {size:,} are asked for, but the rows that all arms choose from have {whole:,}.")
    if setup.options.match == "rows":
        return Budget(size, counts_tokens=False)
    budget = max(round(size / whole * each * int(tokens.supervised.sum())), 1)
    if budget < (shortest := int(tokens.counted("supervised").min())):
        raise ArgumentError(
            f"mig_num_tokens: {size:,} are {budget:,} supervised tokens, and the shortest row to choose from has "
            f"{shortest:,}; set more."
        )
    return Budget(budget, counts_tokens=True)


def select_arms(setup: Setup, split: Split, tokens: RowTokens, budget: Budget) -> dict[str, list[Subset]]:
    """Select the rows of every arm: one subset, or one for each draw of an arm that draws."""
    first_seed = int(setup.arguments(mig_num_samples=1)["mig_seed"])

    def select(name: str, method: str, among: NDArray[np.int64], **keys: Any) -> Subset:
        name = comparison_name(None, pool_names(setup.budget, setup.host), name)
        named = {"mig_method": method, "mig_dataset_name": name, **keys}
        [outcome] = run_selection(
            {**setup.selecting_settings, **setup.own_settings, **named}, among=among, register=False
        )
        return _describe(outcome, split, tokens)

    randomly = [
        select(f"{RANDOM}{draw}", RANDOM, split.candidates, mig_seed=first_seed + draw, **budget.keys)
        for draw in range(setup.planned[RANDOM])
    ]
    by_source = []
    for draw in range(setup.planned[STRATIFIED]):
        rows = draw_by_source(split.sources, tokens.counted("supervised"), budget, first_seed + draw)
        by_source.append(select(f"{STRATIFIED}{draw}", RANDOM, split.candidates[rows], mig_num_samples=len(rows)))
    # With a score of the user's, longest would rank by that, as top_score does.
    own = {"longest": {"mig_score": None, "mig_scorer": None}}
    chosen = {
        arm: [select(arm, method, split.candidates, **own.get(method, {}), **budget.keys)]
        for arm, method in setup.methods.items()
    }
    return {RANDOM: randomly, STRATIFIED: by_source, **chosen}


def _describe(outcome: Outcome, split: Split, tokens: RowTokens) -> Subset:
    table = pq.read_table(Path(outcome.folder) / SELECTION_TABLE, columns=["row_index"])
    rows = np.searchsorted(split.candidates, table["row_index"].to_numpy())
    mine = tokens.take(rows)
    sources = dict(Counter(split.sources[rows].tolist()))
    return Subset(outcome, len(rows), int(mine.fed.sum()), int(mine.supervised.sum()), sources)


def draw_by_source(
    sources: NDArray[np.object_], supervised: NDArray[np.int64], budget: Budget, seed: int
) -> NDArray[np.int64]:
    """Draw rows at random, from each source its share of the budget. Ascending.

    What the sources leave of the budget, as no row or no token can be split, goes to rows of any source.
    """
    costs = supervised if budget.counts_tokens else np.ones(len(sources), np.int64)
    whole = int(costs.sum())
    order = list(range(len(sources)))
    random.Random(seed).shuffle(order)
    members: defaultdict[str, list[int]] = defaultdict(list)
    for row in order:
        members[sources[row]].append(row)
    chosen: list[int] = []
    for source in sorted(members):
        share = budget.size * int(costs[members[source]].sum()) // whole
        chosen += take_fitting(members[source], costs, share)
    taken = set(chosen)
    left = budget.size - int(costs[chosen].sum())
    chosen += take_fitting([row for row in order if row not in taken], costs, left)
    return np.array(sorted(chosen), np.int64)


def take_fitting(rows: Sequence[int], costs: NDArray[np.int64], budget: int) -> list[int]:
    """Take rows in their order, but for those that do not fit in what is left of the budget."""
    taken = []
    for row in rows:
        if costs[row] <= budget:
            budget -= int(costs[row])
            taken.append(row)
    return taken
