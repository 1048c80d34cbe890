"""Where the labels and the score of a row are, what they must be, and whether the host trains on the row.

A value that is missing, null or an empty list is *absent*, also where its path ends early: the row is dropped and
counted. A value of the wrong type or out of range makes the row *unreadable*. What becomes of a row that has all it
needs is up to `judge_row`: it is dropped where the host drops it, and unreadable where the host would break.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mig_selector.pool.entry import Layout
from mig_selector.pool.index.numbers import StoredNumbers
from mig_selector.pool.leaves.batch import Leaves, Ragged
from mig_selector.pool.leaves.decoder import LeafDecoder, describe_kind
from mig_selector.pool.leaves.labels import StoredLabels
from mig_selector.pool.leaves.shapes import Shape, Shapes
from mig_selector.pool.leaves.verdicts import Dropped, Unreadable
from mig_selector.pool.training import Stage, judge_row


@dataclass(frozen=True)
class Judgement:
    """What becomes of n rows that were judged together."""

    is_kept: NDArray[np.bool_]
    scores: NDArray[np.float64]
    """Scores of the kept rows; undefined for the others. Shape (n,)."""
    dropped: Counter[str]
    """Counts of rows without something that selection needs, by reason."""
    unclear: NDArray[np.int64]
    """Rows that must be judged one by one; they are neither kept nor counted yet."""


class RowJudge:
    """Turns the values of a row into labels and a score, or says why the row has none."""

    def __init__(
        self,
        labels: StoredLabels | None = None,
        numbers: StoredNumbers | None = None,
        *,
        needs_labels: bool = True,
        required: StoredNumbers | None = None,
        layout: Layout | None = None,
        stage: Stage = "sft",
    ) -> None:
        """Set what a selection needs of a row.

        Args:
            labels: Where labels are; None if none are needed.
            numbers: The numbers that make the score; None if no score is stored.
            needs_labels: Whether a row without labels is dropped.
            required: Numbers that a row must also have, of either sign; they are not used here.
            layout: How the host reads the rows; None if they need not be such that it trains on them.
            stage: The stage of training.
        """
        self._labels, self._numbers = labels or StoredLabels(), numbers or StoredNumbers()
        self._required = required or StoredNumbers()
        self._num_scores = len(self._numbers.paths)
        others = [names for names in self._required.names if names[0] not in self._numbers.paths]
        self._number_names = [*self._numbers.names, *others]
        self._number_paths = [names[0] for names in self._number_names]
        self._lowest = [-math.inf if self._numbers.is_signed else 0.0] * self._num_scores + [-math.inf] * len(others)
        self._layout, self._stage = layout, stage
        self._verdicts: dict[Shape, Dropped | Unreadable | None] = {}
        self._needs_labels = needs_labels
        self._no_labels = f"no labels at {' or '.join(self._labels.paths)}"
        self._no_numbers = [f"no score at {path}" for path in self._number_paths]

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the verdicts, for fingerprints: the arguments of an equal judge."""
        trained = None if self._layout is None else {"layout": self._layout.identity, "stage": self._stage}
        return {
            "labels": self._labels.identity,
            "needs_labels": self._needs_labels,
            "numbers": self._numbers.identity,
            "required": self._required.identity,
            "trained": trained,
        }

    @classmethod
    def of(cls, identity: Mapping[str, Any]) -> RowJudge:
        """Make the judge that has this identity; for worker processes, which get it as JSON."""
        trained = identity["trained"]
        return cls(
            StoredLabels.of(identity["labels"]),
            StoredNumbers.of(identity["numbers"]),
            needs_labels=identity["needs_labels"],
            required=StoredNumbers.of(identity["required"]),
            layout=None if trained is None else Layout(**trained["layout"]),
            stage="sft" if trained is None else trained["stage"],
        )

    def without_layout(self) -> RowJudge:
        """Return a judge of labels and scores alone, which keeps rows whether or not the host trains on them."""
        return RowJudge.of({**self.identity, "trained": None})

    @property
    def stage(self) -> Stage | None:
        """The stage of training; None if rows need not be such that the host trains on them."""
        return None if self._layout is None else self._stage

    def decoder(self) -> LeafDecoder:
        """Return a decoder of what the judge looks at."""
        return LeafDecoder(self._labels, self._number_names, None if self._layout is None else Shapes(self._layout))

    def judge(self, values: tuple[Any, ...]) -> tuple[list[str], float] | Dropped | Unreadable:
        """Judge the values that a decoder returns; the score is NaN where none is stored."""
        num_labels, num_values = len(self._labels.paths), len(self._labels.paths) + len(self._number_names)
        labels, numbers = values[:num_labels], values[num_labels:num_values]
        faults = (
            *map(_label_fault, self._labels.paths, labels),
            *map(self._number_fault, self._number_paths, numbers, self._lowest),
        )
        if fault := next(filter(None, faults), None):
            return Unreadable(fault)
        names = self._labels.join(labels)
        if self._needs_labels and self._labels.paths and not names:
            return Dropped(self._no_labels)
        for lack, value in zip(self._no_numbers, numbers, strict=True):
            if value is None or value == []:
                return Dropped(lack)
        found = self._with_score(names, [_floats(value) for value in numbers[: self._num_scores]])
        if self._layout is None or isinstance(found, Unreadable):
            return found
        return judge_row(values[-1], self._layout, self._stage) or found

    def judge_all(self, leaves: Leaves, shapes: Shapes | None = None) -> Judgement:
        """Judge all rows that the arrays fully describe at once, each as `judge` would.

        Rows with a fault are left to `judge`, which describes it: they are rare, and the arrays stay simple.

        Args:
            leaves: The rows.
            shapes: What the numbers of their shapes mean; None if the judge has no layout.
        """
        is_clear = leaves.is_plain & ~_has_bad_number(leaves, self._lowest)
        is_kept, dropped = is_clear.copy(), Counter[str]()
        needed = [(self._no_labels, leaves.labels)] if self._needs_labels and self._labels.paths else []
        # In this order: a row without several values is counted once, for the first of them.
        for lack, column in (*needed, *zip(self._no_numbers, leaves.scores, strict=True)):
            is_absent = is_kept & (column.lengths == 0)
            if is_absent.any():
                dropped[lack] = int(is_absent.sum())
            is_kept &= ~is_absent
        stored = leaves.scores[: self._num_scores]
        is_faulty = np.zeros(len(leaves), np.bool_)
        for numbers in stored[1:]:
            is_faulty |= is_kept & (numbers.lengths != stored[0].lengths)
        is_kept &= ~is_faulty
        totals = np.full(len(leaves), math.nan)
        if stored:
            totals[is_kept] = self._total_scores([numbers.take(is_kept) for numbers in stored])
            is_faulty |= is_kept & ~np.isfinite(totals)
        if shapes is not None and leaves.shapes is not None:
            self._judge_shapes(leaves.shapes, shapes, is_kept, is_faulty, dropped)
        return Judgement(is_kept & ~is_faulty, totals, dropped, np.flatnonzero(~is_clear | is_faulty))

    def _judge_shapes(
        self,
        numbers: NDArray[np.int32],
        shapes: Shapes,
        is_kept: NDArray[np.bool_],
        is_faulty: NDArray[np.bool_],
        dropped: Counter[str],
    ) -> None:
        """Drop rows with shapes that the host drops, and mark as faulty those at which it would break."""
        verdicts = [self._verdict_on(shape, shapes) for shape in shapes.seen]
        is_dropped = np.array([isinstance(verdict, Dropped) for verdict in verdicts] or [False])
        is_unreadable = np.array([isinstance(verdict, Unreadable) for verdict in verdicts] or [False])
        is_faulty |= is_kept & is_unreadable[numbers]
        counts = np.bincount(numbers[is_kept & ~is_faulty & is_dropped[numbers]], minlength=len(verdicts))
        for verdict, count in zip(verdicts, counts.tolist(), strict=True):
            if isinstance(verdict, Dropped) and count:
                dropped[verdict.reason] += count
        is_kept &= ~is_dropped[numbers]

    def _verdict_on(self, shape: Shape, shapes: Shapes) -> Dropped | Unreadable | None:
        if shape not in self._verdicts and self._layout is not None:
            self._verdicts[shape] = judge_row(shapes.example(shapes[shape]), self._layout, self._stage)
        return self._verdicts[shape]

    def _total_scores(self, scores: list[Ragged]) -> NDArray[np.float64]:
        """Return the scores of rows that have all they need."""
        lengths = scores[0].lengths
        with np.errstate(over="ignore", invalid="ignore"):
            products = reduce(np.multiply, [numbers.flat for numbers in scores])
            totals = _sums(Ragged(np.cumsum(lengths) - lengths, lengths, products))
            return totals if self._numbers.join == "sum of products" else totals / lengths

    def _number_fault(self, path: str, value: Any, lowest: float) -> str | None:
        for number in value if isinstance(value, list) else [value]:
            if number is None and not isinstance(value, list):
                return None
            if isinstance(number, bool) or not isinstance(number, int | float):
                return f"{path} must be a number or a list of numbers, got {describe_kind(number)}"
            if not -sys.float_info.max <= number <= sys.float_info.max or number < lowest:
                least = " of 0 or more" if lowest == 0 else ""
                can_scale = -sys.float_info.max <= number < 0 and self._num_scores == 1
                hint = " (for negative scores set mig_score_scale: rank, sigmoid or minmax)" if can_scale else ""
                return f"{path} must be a finite number{least}, got {number!s:.40}{hint}"
        return None

    def _with_score(self, labels: list[str], scores: list[list[float]]) -> tuple[list[str], float] | Unreadable:
        if not scores:
            return labels, math.nan
        counts = [len(numbers) for numbers in scores]
        if len(set(counts)) > 1:
            paths, found = " and ".join(self._numbers.paths), " and ".join(map(str, counts))
            return Unreadable(f"must have one number per turn at each of {paths}, got {found}")
        score = _sum(map(math.prod, zip(*scores, strict=True)))
        score /= 1 if self._numbers.join == "sum of products" else counts[0]
        return (labels, score) if math.isfinite(score) else Unreadable("has a score that overflows to infinity")


def _has_bad_number(leaves: Leaves, lowest: Sequence[float]) -> NDArray[np.bool_]:
    """Say of each row whether one of its numbers is not finite, or below the lowest that is allowed there."""
    has_bad = np.zeros(len(leaves), np.bool_)
    for scores, least in zip(leaves.scores, lowest, strict=True):
        is_bad = ~((scores.flat >= least) & np.isfinite(scores.flat))
        if is_bad.any():
            has_bad[scores.owners[is_bad]] = True
    return has_bad


def _floats(value: Any) -> list[float]:
    return [float(number) for number in (value if isinstance(value, list) else [value])]


def _sum(numbers: Iterable[float]) -> float:
    """Add from left to right, in the same order as `_sums`; the built-in `sum` compensates since Python 3.12."""
    total = 0.0
    for number in numbers:
        total += number
    return total


def _label_fault(path: str, value: Any) -> str | None:
    expected = f"{path} must be a string or a list of strings"
    if isinstance(value, list):
        for label in value:
            if type(label) is not str:
                return f"{expected}, got a list with {describe_kind(label)}{_name_key(path, label)}"
    elif value is not None and type(value) is not str:
        return f"{expected}, got {describe_kind(value)}{_name_key(path, value)}"
    return None


def _name_key(path: str, value: Any) -> str:
    """Say how to name a key of an object."""
    is_object = isinstance(value, Mapping) and value
    return f" (name one of its keys, such as {path}.{next(iter(value))})" if is_object else ""


def _sums(numbers: Ragged) -> NDArray[np.float64]:
    """Return the sum of the numbers of each row, added from left to right.

    Step k adds the k-th number of every row that has one: as many steps as the longest row has numbers. `reduceat` or
    differences of a cumulative sum may round otherwise than `_sum`.
    """
    totals = np.zeros(len(numbers.lengths))
    rows, step = np.arange(len(totals)), 0
    while len(rows):
        totals[rows] += numbers.values[numbers.starts[rows] + step]
        step += 1
        rows = rows[numbers.lengths[rows] > step]
    return totals
