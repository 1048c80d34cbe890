"""Where a row's labels and score stand, and what they must be.

A field on the way to which something is missing, null or empty is *absent*: its row is dropped and counted. A field
that is there but is not what it must be makes its row *unreadable*.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mig_selector.pool.decoder import describe_kind
from mig_selector.pool.leaves import Leaves, Ragged
from mig_selector.pool.verdicts import Dropped, Unreadable


SCORE_PATHS: dict[str, tuple[str, ...]] = {
    "deita": ("annotation.deita.quality_scores", "annotation.deita.complexity_scores"),
    "ifd": ("ifd_score.content",),
    "num_labels": (),
    "constant": (),
}


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

    def __init__(self, labels: str, score: str) -> None:
        """Judge by the keys ``mig_labels`` and ``mig_score``."""
        self._labels = labels
        self._score = score
        self._score_paths = SCORE_PATHS.get(score, (score,))
        self.paths: tuple[str, ...] = (labels, *self._score_paths)
        self._lacks = (f"no labels at {labels}", *(f"no score at {path}" for path in self._score_paths))

    @property
    def facts(self) -> dict[str, str]:
        """What decides the verdicts."""
        return {"labels": self._labels, "score": self._score}

    def judge(self, values: tuple[Any, ...]) -> tuple[list[str], float] | Dropped | Unreadable:
        """Judge the values that stand at `paths`; the score is NaN where it is the number of labels."""
        labels, *scores = values
        fault = self._label_fault(labels)
        for path, value in zip(self._score_paths, scores, strict=True):
            fault = fault or _score_fault(path, value)
        if fault:
            return Unreadable(fault)
        for lack, value in zip(self._lacks, values, strict=True):
            if value is None or value == []:
                return Dropped(lack)
        return self._with_score(labels, [_floats(value) for value in scores])

    def judge_all(self, leaves: Leaves) -> Judgement:
        """Judge the rows of which the arrays tell all, together; each as `judge` would."""
        is_clear = leaves.is_plain & ~_has_bad_number(leaves)
        is_kept, dropped = is_clear.copy(), Counter[str]()
        for lack, column in zip(self._lacks, (leaves.labels, *leaves.scores), strict=True):
            is_absent = is_kept & (column.lengths == 0)
            if is_absent.any():
                dropped[lack] = int(is_absent.sum())
            is_kept &= ~is_absent
        is_faulty = np.zeros(len(leaves), np.bool_)
        if self._score == "deita":
            quality, complexity = leaves.scores
            is_faulty |= is_kept & (quality.lengths != complexity.lengths)
        is_kept &= ~is_faulty
        totals = np.full(len(leaves), math.nan)
        totals[is_kept] = self._total_scores([scores.take(is_kept) for scores in leaves.scores], int(is_kept.sum()))
        is_faulty |= np.isinf(totals)
        return Judgement(is_kept & ~is_faulty, totals, dropped, np.flatnonzero(~is_clear | is_faulty))

    def _total_scores(self, scores: list[Ragged], count: int) -> NDArray[np.float64]:
        """Return the scores of `count` rows that lack nothing."""
        if self._score == "deita":
            quality, complexity = scores
            lengths = quality.lengths
            with np.errstate(over="ignore"):
                products = quality.flat * complexity.flat
                return _means(Ragged(np.cumsum(lengths) - lengths, lengths, products))
        if scores:
            with np.errstate(over="ignore"):
                return _means(scores[0])
        return np.full(count, 1.0 if self._score == "constant" else math.nan)

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
        if self._score == "deita":
            quality, complexity = scores
            if len(quality) != len(complexity):
                return Unreadable(
                    "must have as many quality as complexity scores, one of each a turn, "
                    f"got {len(quality)} and {len(complexity)}"
                )
            score = _mean([q * c for q, c in zip(quality, complexity, strict=True)])
        elif scores:
            score = _mean(scores[0])
        else:
            score = 1.0 if self._score == "constant" else math.nan
        return (labels, score) if score < math.inf or math.isnan(score) else Unreadable("the score is infinite")


def _has_bad_number(leaves: Leaves) -> NDArray[np.bool_]:
    """Say of each row whether one of its numbers is below 0 or not finite."""
    has_bad = np.zeros(len(leaves), np.bool_)
    for scores in leaves.scores:
        is_bad = ~((scores.flat >= 0) & (scores.flat < math.inf))
        if is_bad.any():
            has_bad[scores.owners[is_bad]] = True
    return has_bad


def _floats(value: Any) -> list[float]:
    return [float(number) for number in (value if isinstance(value, list) else [value])]


def _mean(numbers: list[float]) -> float:
    """Add up from left to right, as every version of Python and numpy does for short lists, and divide."""
    total = 0.0
    for number in numbers:
        total += number
    return total / len(numbers)


def _score_fault(path: str, value: Any) -> str | None:
    for number in value if isinstance(value, list) else [value]:
        if number is None and not isinstance(value, list):
            return None
        if isinstance(number, bool) or not isinstance(number, int | float):
            return f"{path} must be a number or a list of numbers, got {describe_kind(number)}"
        if not 0 <= number <= sys.float_info.max:
            return f"{path} must be a finite number of 0 or more, got {number!s:.40}"
    return None


def _means(numbers: Ragged) -> NDArray[np.float64]:
    """Return the mean of each row's numbers, added up in the order of `_mean`."""
    totals = np.zeros(len(numbers.lengths))
    rows, place = np.arange(len(totals)), 0
    while len(rows):
        totals[rows] += numbers.values[numbers.starts[rows] + place]
        place += 1
        rows = rows[numbers.lengths[rows] > place]
    means: NDArray[np.float64] = totals / numbers.lengths
    return means
