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
from mig_selector.evaluation.judge import MOST_FAILED, too_many_failures
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
    num_failed: int = 0
    """Verdicts of a judge that could not be used; their items are left out of the score."""

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
        items: ``subset``, ``id``, the answer and ``score`` of each question, those of a subset together; with
            ``verdicts``, those of a judge. A score is None if a verdict is missing.

    Raises:
        EvaluationError: Too many verdicts are missing; the file has the others, and no score.
    """
    verdicts = [verdict for item in items for verdict in item.get("verdicts", ())]
    failures = [verdict["reason"] for verdict in verdicts if verdict["score"] is None]
    record = {"column": column, "fingerprint": fingerprint_of(identity), "identity": identity, "items": items}
    if len(failures) > MOST_FAILED * len(verdicts):
        fault = too_many_failures(column, failures, len(verdicts))
        write_json(path, {**record, "score": None, "reason": str(fault)}, is_private=True)
        raise fault
    result = _summarize(column, items, len(failures))
    summary = {"score": result.score, "low": result.low, "high": result.high, "num_items": result.num_items}
    counts = {"num_failed": result.num_failed, "is_whole": result.is_whole}
    parts = {"parts": _score_parts(column, verdicts)} if verdicts else {}
    write_json(path, {"column": column, **summary, **counts, **parts, **record}, is_private=True)
    return result


def _score_parts(column: str, verdicts: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the mean for each turn, or against each model that answers are compared with."""
    scores: dict[str, list[float]] = {}
    for verdict in verdicts:
        if verdict["score"] is not None:
            scores.setdefault(verdict["about"], []).append(verdict["score"])
    return {about: BY_NAME[column].unit * float(np.mean(values)) for about, values in scores.items()}


def read_result(path: Path, column: str, identity: Mapping[str, Any]) -> Result | None:
    """Read a result; None if there is none, or if something that decides it has changed.

    Args:
        path: The file.
        column: The benchmark.
        identity: What must have decided the result; without ``model``, it may be that of any model.
    """
    record = read_believed_json(path)
    if not isinstance(record, dict) or record.get("score") is None or not isinstance(record.get("identity"), dict):
        return None
    decided_by = {key: record["identity"].get(key) for key in identity}
    if fingerprint_of(decided_by) != fingerprint_of(identity):
        return None
    return _summarize(column, record["items"], record.get("num_failed", 0))


def _summarize(column: str, items: Sequence[Mapping[str, Any]], num_failed: int) -> Result:
    """Return the mean over subsets, with its interval: Wilson's for one share, else the bootstrap's."""
    subsets = [
        np.array([item["score"] for item in members if item["score"] is not None], dtype=np.float64)
        for _, members in groupby(items, lambda item: item["subset"])
    ]
    # Columns must vary independently of each other, or averages would seem to vary more than they do.
    draws = bootstrap(subsets, seed=list(BY_NAME).index(column))
    is_one_share = BY_NAME[column].is_share and len(subsets) == 1
    low, high = wilson(int(subsets[0].sum()), subsets[0].size) if is_one_share else percentile_interval(draws)
    score = float(np.mean([subset.mean() for subset in subsets]))
    unit = BY_NAME[column].unit
    return Result(column, unit * score, unit * low, unit * high, len(items), unit * draws, num_failed)
