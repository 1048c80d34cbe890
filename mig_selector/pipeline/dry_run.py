"""What a selection or an annotation would take, estimated from a few rows of the pool; nothing is kept of it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mig_selector.annotation.scores import Score
from mig_selector.arguments import parse_arguments, split_keys
from mig_selector.integration.config import HostArguments
from mig_selector.pipeline.crew import Crew, in_plain_words
from mig_selector.pipeline.request import Request, resolve
from mig_selector.pipeline.rows import KeptRows
from mig_selector.pipeline.stages import embed_questions, embed_rows, read, resolve_budgets
from mig_selector.pipeline.tokens import draw_sample
from mig_selector.pool.reading import Pool, PoolRow
from mig_selector.ranks.world import Ranks


_SAMPLED_ROWS = 64

Compute = Callable[["_TimedRows"], NDArray[np.floating[Any]]]


@dataclass(frozen=True)
class _TimedRows(KeptRows):
    """Rows that know when the first of them was read: by then the model has been loaded."""

    starts: list[float] = field(default_factory=list)

    def _rows(self, columns: set[str] | None = None) -> Iterator[PoolRow]:
        self.starts.append(time.monotonic())
        return super()._rows(columns)


def estimate(settings: Mapping[str, Any], *, selects: bool) -> list[str]:
    """Describe what a run would do and take if no earlier run had left anything in the cache.

    Args:
        settings: LLaMA-Factory's keys and the ``mig_*`` keys, as in a YAML.
        selects: Whether the run selects rows; else it annotates them only.

    Returns:
        Lines for people: row counts and, for each model that reads rows, the time on this process alone and the disk.

    Raises:
        MigSelectorError: The run would fail before it selects.
    """
    host_settings, own_settings = split_keys(settings)
    arguments, host = parse_arguments(own_settings, training=False), HostArguments.read(host_settings)
    with tempfile.TemporaryDirectory() as folder:
        request = resolve(replace(arguments, mig_cache_dir=folder), host, is_registered=False)
        return in_plain_words(lambda: _describe(request, selects=selects))


def _describe(request: Request, *, selects: bool) -> list[str]:
    pool, needs = read(request), request.needs
    report = pool.report
    lines = [f"pool: {report.read:,} rows read, {report.kept:,} kept"]
    lines += [f"  dropped {count:,}: {reason}" for reason, count in report.dropped.items()]
    if selects:
        lines.append(f"to choose: {', '.join(f'{budget:,}' for budget in resolve_budgets(request, pool))} rows")
    if needs.labels is not None:
        without = np.count_nonzero(pool.labels.counts == 0)
        lines.append(f"labels: {len(pool.labels.names):,} different ones; {without:,} rows have none")
    return lines + [_measure(request, pool, *work) for work in _works(request, pool)]


def _works(request: Request, pool: Pool) -> Iterator[tuple[str, NDArray[np.bool_], Compute]]:
    """Yield for each model that reads rows the key that names it, which rows, and what it does with them."""
    crew, needs, annotation = Crew(Ranks(), request.arguments), request.needs, request.needs.annotation
    everything = np.ones(len(pool.scores), np.bool_)
    if annotation is not None and annotation.tagger is not None:
        has_none = pool.labels.counts == 0
        tagger = annotation.tagger
        yield tagger.model.key, has_none, lambda rows: embed_questions(rows, tagger, crew)
    for score in (needs.score, annotation.scorer if annotation else None):
        if score is not None and score.model is not None:
            yield score.model.key, everything, partial(_score, score, crew)
    if needs.embedding is not None:
        yield "mig_row_embedding_model", everything, lambda rows: embed_rows(rows, crew)


def _score(score: Score, crew: Crew, rows: KeptRows) -> NDArray[np.float64]:
    if score.model is None:
        raise ValueError(f"{score.name} is not measured by a model")
    return score.measure(rows, crew, rows.request.models[score.model.key])


def _measure(request: Request, pool: Pool, key: str, is_read: NDArray[np.bool_], compute: Compute) -> str:
    """Have a model compute some of the rows that it has to read, and say what all of them take."""
    to_read = np.flatnonzero(is_read)
    if not len(to_read):
        return f"{key}: reads no rows"
    is_sampled = np.zeros(len(is_read), np.bool_)
    is_sampled[to_read[draw_sample(len(to_read), most=_SAMPLED_ROWS)]] = True
    rows = _TimedRows(request, pool.without(~is_sampled, ""))
    values = compute(rows)
    seconds = (time.monotonic() - rows.starts[0]) * len(to_read) / len(rows)
    megabytes = values.nbytes / len(rows) * len(to_read) / 2**20
    return (
        f"{key}: {request.models[key].model} reads {len(to_read):,} rows: about {describe_duration(seconds)} on this "
        f"process alone ({len(rows)} rows were tried), {megabytes:,.1f} MB of disk"
    )


def describe_duration(seconds: float) -> str:
    """Say how long something takes, in a unit that fits."""
    for unit, size in (("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} seconds"
