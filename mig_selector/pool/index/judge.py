"""Where a row's labels and score stand, and what they must be.

A field on the way to which something is missing, null or empty is *absent*: its row is dropped and counted. A field
that is there but is not what it must be makes its row *unreadable*.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mig_selector.pool.index.numbers import StoredNumbers
from mig_selector.pool.leaves.batch import Leaves, Ragged
from mig_selector.pool.leaves.decoder import describe_kind
from mig_selector.pool.leaves.verdicts import Dropped, Unreadable


@dataclass(frozen=True)
class Judgement:
    """What becomes of n rows that are judged together."""

    is_kept: NDArray[np.bool_]
    scores: NDArray[np.float64]
    """Of the kept rows; others hold anything. Shape (n,)."""
    dropped: Counter[str]
    """Rows that lack something, by reason."""
    unclear: NDArray[np.int64]
    """Rows that must be judged one by one: neither kept nor counted so far."""


class RowJudge:
    """Turns the values of a row into its labels and score, or says why there are none."""

    def __init__(
        self, labels: str | None, numbers: StoredNumbers | None = None, *, required: Sequence[str] = ()
    ) -> None:
        """Judge by what a selection needs.

        Args:
            labels: Path of the labels; None where none are needed.
            numbers: The numbers that make the score; None where no score is stored.
            required: Paths at which a row must have further numbers, of either sign, whose values do not matter.
        """
        numbers = numbers or StoredNumbers()
        self._labels, self._numbers = labels, numbers
        self._num_scores = len(numbers.paths)
        self._required = [path for path in dict.fromkeys(required) if path not in numbers.paths]
        self._number_paths = (*numbers.paths, *self._required)
        self._lowest = [-math.inf if numbers.is_signed else 0.0] * self._num_scores + [-math.inf] * len(self._required)
        self.paths: tuple[str | None, ...] = (labels, *self._number_paths)
        self._lacks = (f"no labels at {labels}", *(f"no score at {path}" for path in self._number_paths))

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the verdicts: the arguments that make an equal judge."""
        return {"labels": self._labels, "numbers": self._numbers.identity, "required": self._required}

    @classmethod
    def of(cls, identity: Mapping[str, Any]) -> RowJudge:
        """Make the judge that has this identity; for worker processes, which get it as JSON."""
        numbers = {**identity["numbers"], "paths": tuple(identity["numbers"]["paths"])}
        return cls(identity["labels"], StoredNumbers(**numbers), required=identity["required"])

    @property
    def _joins_products(self) -> bool:
        return self._numbers.join != "mean"

    def judge(self, values: tuple[Any, ...]) -> tuple[list[str], float] | Dropped | Unreadable:
        """Judge the values that stand at `paths`; the score is NaN where none is stored."""
        labels, *scores = values
        fault = self._label_fault(labels)
        for path, value, lowest in zip(self._number_paths, scores, self._lowest, strict=True):
            fault = fault or _score_fault(path, value, lowest)
        if fault:
            return Unreadable(fault)
        for wanted, lack, value in zip(self.paths, self._lacks, values, strict=True):
            if wanted is not None and (value is None or value == []):
                return Dropped(lack)
        return self._with_score(labels or [], [_floats(value) for value in scores[: self._num_scores]])

    def judge_all(self, leaves: Leaves) -> Judgement:
        """Judge the rows of which the arrays tell all, together; each as `judge` would."""
        is_clear = leaves.is_plain & ~_has_bad_number(leaves, self._lowest)
        is_kept, dropped = is_clear.copy(), Counter[str]()
        for path, lack, column in zip(self.paths, self._lacks, (leaves.labels, *leaves.scores), strict=True):
            is_absent = is_kept & (column.lengths == 0) & (path is not None)
            if is_absent.any():
                dropped[lack] = int(is_absent.sum())
            is_kept &= ~is_absent
        is_faulty = np.zeros(len(leaves), np.bool_)
        if self._joins_products:
            quality, complexity, *_ = leaves.scores
            is_faulty |= is_kept & (quality.lengths != complexity.lengths)
        is_kept &= ~is_faulty
        totals = np.full(len(leaves), math.nan)
        scores = [numbers.take(is_kept) for numbers in leaves.scores[: self._num_scores]]
        totals[is_kept] = self._total_scores(scores, int(is_kept.sum()))
        is_faulty |= np.isinf(totals)
        return Judgement(is_kept & ~is_faulty, totals, dropped, np.flatnonzero(~is_clear | is_faulty))

    def _total_scores(self, scores: list[Ragged], count: int) -> NDArray[np.float64]:
        """Return the scores of `count` rows that lack nothing."""
        if self._joins_products:
            quality, complexity = scores
            lengths = quality.lengths
            with np.errstate(over="ignore"):
                products = quality.flat * complexity.flat
                totals = _sums(Ragged(np.cumsum(lengths) - lengths, lengths, products))
                return totals if self._numbers.join == "sum of products" else totals / lengths
        if scores:
            with np.errstate(over="ignore"):
                return _sums(scores[0]) / scores[0].lengths
        return np.full(count, math.nan)

    def _label_fault(self, labels: Any) -> str | None:
        if labels is None:
            return None
        if not isinstance(labels, list):
            return f"{self._labels} must be a list of strings, got {describe_kind(labels)}"
        for label in labels:
            if type(label) is not str:
                return f"{self._labels} must be a list of strings, got {describe_kind(label)} in it"
        return None

    def _with_score(self, labels: list[str], scores: list[list[float]]) -> tuple[list[str], float] | Unreadable:
        if self._joins_products:
            quality, complexity = scores
            if len(quality) != len(complexity):
                return Unreadable(
                    "must have as many quality as complexity scores, one of each a turn, "
                    f"got {len(quality)} and {len(complexity)}"
                )
            score = _sum([q * c for q, c in zip(quality, complexity, strict=True)])
            score /= 1 if self._numbers.join == "sum of products" else len(quality)
        elif scores:
            score = _sum(scores[0]) / len(scores[0])
        else:
            score = math.nan
        return (labels, score) if not math.isinf(score) else Unreadable("the score is infinite")


def _has_bad_number(leaves: Leaves, lowest: Sequence[float]) -> NDArray[np.bool_]:
    """Say of each row whether one of its numbers is below what is allowed there, or not finite."""
    has_bad = np.zeros(len(leaves), np.bool_)
    for scores, least in zip(leaves.scores, lowest, strict=True):
        is_bad = ~((scores.flat >= least) & np.isfinite(scores.flat))
        if is_bad.any():
            has_bad[scores.owners[is_bad]] = True
    return has_bad


def _floats(value: Any) -> list[float]:
    return [float(number) for number in (value if isinstance(value, list) else [value])]


def _sum(numbers: list[float]) -> float:
    """Add up from left to right, as every version of Python and numpy does for short lists."""
    total = 0.0
    for number in numbers:
        total += number
    return total


def _score_fault(path: str, value: Any, lowest: float) -> str | None:
    for number in value if isinstance(value, list) else [value]:
        if number is None and not isinstance(value, list):
            return None
        if isinstance(number, bool) or not isinstance(number, int | float):
            return f"{path} must be a number or a list of numbers, got {describe_kind(number)}"
        if not lowest <= number <= sys.float_info.max or number < -sys.float_info.max:
            least = " of 0 or more" if lowest == 0 else ""
            return f"{path} must be a finite number{least}, got {number!s:.40}"
    return None


def _sums(numbers: Ragged) -> NDArray[np.float64]:
    """Return the sum of each row's numbers, added up in the order of `_sum`."""
    totals = np.zeros(len(numbers.lengths))
    rows, place = np.arange(len(totals)), 0
    while len(rows):
        totals[rows] += numbers.values[numbers.starts[rows] + place]
        place += 1
        rows = rows[numbers.lengths[rows] > place]
    return totals
