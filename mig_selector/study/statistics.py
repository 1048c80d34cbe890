"""How far a method's held-out loss is from random's, and how sure that is.

Dimension letters: N held-out answers, K runs of an arm, B replicates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray


Verdict: TypeAlias = Literal["better", "worse", "no difference seen"]
Losses: TypeAlias = NDArray[np.float64]
"""Loss per token of each answer under each run of an arm. Shape (K, N)."""

ERROR_RATE = 0.05
"""Chance that a study of methods that all equal random calls any of them better or worse."""
POWER = 0.8
"""Chance of seeing a difference of the size that is given as the smallest one."""
REPLICATES = 5_000
_FEWEST_RUNS = 3
"""Fewer runs do not tell how much an arm varies between runs."""
_DRAWS_AT_ONCE = 1 << 23
"""Counts of drawn answers that are held at once."""
_SEED = 0


@dataclass(frozen=True)
class Effect:
    """Mean loss of a method minus that of random: negative is better."""

    difference: float
    low: float
    high: float
    """Ends of the interval."""
    smallest: float
    """The difference that a study of this size sees with a chance of `POWER`."""

    @property
    def verdict(self) -> Verdict:
        """What the interval says: nothing else decides it."""
        if self.high < 0:
            return "better"
        return "worse" if self.low > 0 else "no difference seen"


def macro_average(losses: Losses, sources: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the mean over sources of the mean over the answers of each. Shape (K,)."""
    return losses @ _weights(sources)


def _weights(sources: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the weight of each answer in the macro average."""
    _, members, counts = np.unique(sources, return_inverse=True, return_counts=True)
    weights: NDArray[np.float64] = 1 / (len(counts) * counts[members])
    return weights


def compare(
    method: Losses, random: Losses, sources: NDArray[np.int64], *, error_rate: float, is_trained: bool = True
) -> Effect:
    """Compare the macro averages of two arms by a paired hierarchical bootstrap.

    A replicate draws answers within each source, the same ones for both arms, and runs of each arm. It draws one fewer
    than there are: the spread of the replicates is then an unbiased estimate, also of three runs. The interval is the
    difference plus or minus that spread times a quantile of Student's t, whose degrees of freedom are Welch's:
    percentiles of replicates of three runs are far too narrow.

    Args:
        method: Losses of the runs of a method. Of one or two runs the spread is taken to be random's.
        random: Losses of at least two runs on random rows.
        sources: Source of each answer. Shape (N,).
        error_rate: Chance that the interval of equal arms excludes 0.
        is_trained: Whether the runs of the method were trained: an untrained model has no spread.

    Raises:
        ValueError: There are fewer than two runs on random rows, or fewer than two answers of a source.
    """
    if len(random) < 2:
        raise ValueError(f"expected at least two runs on random rows, got {len(random)}")
    from scipy.stats import t

    rng = np.random.default_rng(_SEED)
    replicates = []
    of_method, of_random = _resample_answers((method, random), sources, rng)
    for averages, varies in ((of_method, is_trained), (of_random, True)):
        mean = averages.mean(axis=0)
        if len(averages) >= _FEWEST_RUNS:
            mean = mean + _draw_runs(averages - mean, rng)
        elif varies:
            spread = (of_random - of_random.mean(axis=0)) * math.sqrt(len(random) / (len(random) - 1))
            drawn = rng.integers(len(random), size=(len(averages), REPLICATES))
            mean = mean + np.take_along_axis(spread, drawn, axis=0).mean(axis=0)
        replicates.append(mean)
    error = float(np.std(replicates[0] - replicates[1], ddof=1))
    freedom = _degrees_of_freedom(
        macro_average(method, sources), macro_average(random, sources), error, is_trained=is_trained
    )
    difference = float(macro_average(method, sources).mean() - macro_average(random, sources).mean())
    quantile = float(t.ppf(1 - error_rate / 2, freedom))
    margin = quantile * error
    smallest = (quantile + float(t.ppf(POWER, freedom))) * error
    return Effect(difference, difference - margin, difference + margin, smallest)


def _resample_answers(
    arms: Sequence[Losses], sources: NDArray[np.int64], rng: np.random.Generator
) -> list[NDArray[np.float64]]:
    """Return the macro average of each run in each replicate, all runs with the same answers. Shape (K, B) an arm."""
    averages = [np.zeros((len(losses), REPLICATES)) for losses in arms]
    names = np.unique(sources)
    for name in names:
        mine = np.flatnonzero(sources == name)
        if len(mine) < 2:
            raise ValueError("expected at least two answers of each source")
        # Replicates in blocks: how often each draws each answer may not fit into memory.
        size = max(_DRAWS_AT_ONCE // len(mine), 1)
        for start in range(0, REPLICATES, size):
            some = slice(start, min(start + size, REPLICATES))
            equal = np.full(len(mine), 1 / len(mine))
            drawn = rng.multinomial(len(mine) - 1, equal, size=some.stop - start)
            for each, losses in zip(averages, arms, strict=True):
                each[:, some] += losses[:, mine] @ drawn.T / ((len(mine) - 1) * len(names))
    return averages


def _draw_runs(deviations: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Return the mean deviation of the runs that each replicate draws. Shape (K, B) to (B,)."""
    count = len(deviations)
    drawn = rng.multinomial(count - 1, np.full(count, 1 / count), size=REPLICATES)
    mean: NDArray[np.float64] = (drawn.T * deviations).sum(axis=0) / (count - 1)
    return mean


def _degrees_of_freedom(
    method: NDArray[np.float64], random: NDArray[np.float64], error: float, *, is_trained: bool
) -> float:
    """Return Welch's degrees of freedom: runs are few, answers are not counted as few.

    Where the spread of a method is taken to be random's, one estimate stands for both arms.
    """
    has_own = len(method) >= _FEWEST_RUNS
    shares = 1 / len(random) + (1 / len(method) if is_trained and not has_own else 0.0)
    parts = [(float(random.var(ddof=1)) * shares, len(random) - 1)]
    if has_own:
        parts.append((float(method.var(ddof=1)) / len(method), len(method) - 1))
    of_runs = sum(variance**2 / freedom for variance, freedom in parts)
    return error**4 / of_runs if of_runs > 0 else math.inf
