"""The nine columns of the paper's table, and its averages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray


Score = TypeVar("Score", float, NDArray[np.float64])


@dataclass(frozen=True)
class Column:
    """A benchmark."""

    name: str
    title: str
    group: Literal["objective", "judged"]
    num_items: int
    """Questions of the whole benchmark."""
    is_share: bool = True
    """Whether an item is right or wrong, so that the score is the share of right ones."""
    unit: float = 100.0
    """The score of a benchmark all of whose items have score 1: shares are in percent."""
    scale: float = 1.0
    offset: float = 0.0

    def normalized(self, score: Score) -> Score:
        """Return a score on the scale of 0 to 100 on which columns are averaged."""
        return self.scale * score + self.offset


COLUMNS = (
    Column("arc", "ARC", "objective", 295),
    Column("bbh", "BBH", "objective", 6511),
    Column("gsm8k", "GSM", "objective", 1319),
    Column("humaneval", "HE", "objective", 164),
    Column("mmlu", "MMLU", "objective", 14042),
    Column("ifeval", "IFEval", "objective", 541),
    Column("alpacaeval", "AE", "judged", 805),
    Column("mtbench", "MT", "judged", 80, is_share=False, unit=1.0, scale=10.0),  # ratings of 1 to 10
    Column("wildbench", "Wild", "judged", 1024, is_share=False, scale=0.5, offset=50.0),  # -100 to 100
)
BY_NAME = {column.name: column for column in COLUMNS}
AVERAGES = {"avg_obj": "Avg_obj", "avg_sub": "Avg_sub", "avg": "Avg"}


def averages(scores: Mapping[str, Score]) -> dict[str, Score]:
    """Return Avg_obj, Avg_sub and Avg, each only if no score that it averages is missing.

    Args:
        scores: By column; numbers, or arrays of draws.
    """
    means: dict[str, Score] = {}
    for name, group in (("avg_obj", "objective"), ("avg_sub", "judged")):
        members = [column for column in COLUMNS if column.group == group]
        if all(column.name in scores for column in members):
            means[name] = _mean([column.normalized(scores[column.name]) for column in members])
    if len(means) == 2:
        means["avg"] = _mean(list(means.values()))
    return means


def _mean(scores: Sequence[Score]) -> Score:
    total = scores[0]
    for score in scores[1:]:
        total = total + score
    return total / len(scores)
