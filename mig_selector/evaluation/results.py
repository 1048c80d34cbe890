"""Scores of models: one file a model and benchmark, with every answer and its grade."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mig_selector.evaluation.columns import BY_NAME
from mig_selector.evaluation.intervals import bootstrap, percentile_interval, wilson
from mig_selector.store.files import read_believed_json, write_json
from mig_selector.store.hashing import fingerprint_of


@dataclass(frozen=True)
class Result:
    """How a model did on a benchmark."""

    column: str
    score: float
    """As the paper prints it; shares are in percent."""
    low: float
    high: float
    """The 95 % interval."""
    num_items: int
    draws: NDArray[np.float64]
    """Scores of bootstrap draws, for the intervals of averages. Shape (NUM_DRAWS,)."""

    @property
    def is_whole(self) -> bool:
        """Whether every question of the benchmark was asked."""
        return self.num_items == BY_NAME[self.column].num_items


def write_result(path: Path, column: str, identity: Mapping[str, Any], items: Sequence[Mapping[str, Any]]) -> Result:
    """Write what a model answered and how that was graded.

    Args:
        path: The file.
        column: The benchmark.
        identity: Everything that decides the result.
        items: ``subset``, ``id``, ``answer`` and ``score`` of each question, those of a subset together.
    """
    result = _summarize(column, items)
    summary = {"score": result.score, "low": result.low, "high": result.high, "num_items": result.num_items}
    record = {"column": column, **summary, "is_whole": result.is_whole, "fingerprint": fingerprint_of(identity)}
    write_json(path, {**record, "identity": identity, "items": items}, is_private=True)
    return result


def read_result(path: Path, column: str, identity: Mapping[str, Any]) -> Result | None:
    """Read a result; None if there is none, or if something that decides it has changed."""
    record = read_believed_json(path)
    if not isinstance(record, dict) or record.get("fingerprint") != fingerprint_of(identity):
        return None
    return _summarize(column, record["items"])


def _summarize(column: str, items: Sequence[Mapping[str, Any]]) -> Result:
    """Return the mean over subsets, with its interval: Wilson's for one share, else the bootstrap's."""
    subsets = [
        np.array([item["score"] for item in members], dtype=np.float64)
        for _, members in groupby(items, lambda item: item["subset"])
    ]
    # Columns must vary independently of each other, or averages would seem to vary more than they do.
    draws = bootstrap(subsets, seed=list(BY_NAME).index(column))
    low, high = wilson(int(subsets[0].sum()), subsets[0].size) if len(subsets) == 1 else percentile_interval(draws)
    score = float(np.mean([subset.mean() for subset in subsets]))
    return Result(column, 100 * score, 100 * low, 100 * high, len(items), 100 * draws)
