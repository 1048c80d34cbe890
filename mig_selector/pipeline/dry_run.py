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

from mig_selector.annotation.asking import Asking, estimate_tokens
from mig_selector.annotation.distilled import DistilledTagger
from mig_selector.annotation.tagger import Tagger
from mig_selector.annotation.tools import ModelName
from mig_selector.arguments import MigArguments, parse_arguments, split_keys
from mig_selector.console import plural
from mig_selector.integration.config import HostArguments
from mig_selector.pipeline.annotate_pool import copy_path
from mig_selector.pipeline.crew import Crew, in_plain_words
from mig_selector.pipeline.request import Request, resolve
from mig_selector.pipeline.rows import KeptRows
from mig_selector.pipeline.stages import embed_rows, read, resolve_budgets
from mig_selector.pipeline.tokens import draw_sample
from mig_selector.pipeline.tools import RunTools
from mig_selector.pool.reading import Pool, PoolRow
from mig_selector.ranks.world import Ranks


_SAMPLED_ROWS = 64

Compute = Callable[["_TimedRows"], object]


@dataclass(frozen=True)
class _TimedRows(KeptRows):
    """Rows that know when the first of them was read."""

    starts: list[float] = field(default_factory=list)

    def _rows(self, columns: set[str] | None = None) -> Iterator[PoolRow]:
        self.starts.append(time.monotonic())
        return super()._rows(columns)


class _TimedCrew(Crew):
    """A crew that knows how long it took to load models, each from being asked to reading the first row for it."""

    def __init__(self, ranks: Ranks, arguments: MigArguments) -> None:
        super().__init__(ranks, arguments)
        self._loads: list[tuple[float, float]] = []

    def loading_since(self, start: float) -> float:
        """Return the seconds that models took that were loaded after a time."""
        return sum(end - begin for begin, end in self._loads if begin > start)

    def _do(self, task: Any, given: Callable[..., Any]) -> None:
        asked = time.monotonic()
        ready: list[float] = []

        def timed(*arguments: Any) -> Any:
            ready.append(time.monotonic())
            return given(*arguments)

        super()._do(task, timed)
        self._loads += [(asked, end) for end in ready[:1]]


def estimate(settings: Mapping[str, Any], *, selects: bool, to: str | None = None) -> list[str]:
    """Describe what a run would do and take if no earlier run had left anything in the cache.

    Args:
        settings: LLaMA-Factory's keys and the ``mig_*`` keys, as in a YAML.
        selects: Whether the run selects rows; else it annotates them only.
        to: Where the run would write an annotated copy.

    Returns:
        Lines for people: row counts and, for each model that reads rows, the time on this process alone and the disk.

    Raises:
        MigSelectorError: The run would fail before it selects.
    """
    host_settings, own_settings = split_keys(settings)
    arguments, host = parse_arguments(own_settings, training=False), HostArguments.read(host_settings)
    with tempfile.TemporaryDirectory() as folder:
        request = resolve(replace(arguments, mig_cache_dir=folder), host, is_registered=False)
        if to is not None:
            copy_path(to, request)
        return in_plain_words(lambda: _describe(request, selects=selects))


def _describe(request: Request, *, selects: bool) -> list[str]:
    pool, needs = read(request), request.needs
    report = pool.report
    lines = [f"pool: {plural(report.read, 'row')} read, {report.kept:,} kept"]
    lines += [f"  dropped {count:,}: {reason}" for reason, count in report.dropped.items()]
    if selects:
        *first, last = resolve_budgets(request, pool)
        unit = "token" if request.arguments.counts_tokens else "row"
        lines.append(f"to choose: {', '.join([*(f'{budget:,}' for budget in first), plural(last, unit)])}")
    if needs.labels is not None:
        without = int(np.count_nonzero(pool.labels.counts == 0))
        lines.append(f"labels: {len(pool.labels.names):,} distinct; {plural(without, 'row')} without any")
    lines += [_count_requests(request, pool, *inquiry) for inquiry in _inquiries(request, pool)]
    crew = _TimedCrew(Ranks(), request.arguments)
    lines += [_measure(request, pool, crew, *work) for work in _works(request, pool, crew)]
    tagger = needs.annotation.tagger if needs.annotation else None
    if tagger is not None and tagger.label_texts and not pool.labels.counts.all():
        lines.append(_measure_labels(request, crew, tagger))
    return lines


def _inquiries(request: Request, pool: Pool) -> Iterator[tuple[Asking, NDArray[np.bool_], str]]:
    """Yield what asks a chat model, about which rows, and for what."""
    if (annotation := request.needs.annotation) is None:
        return
    tagger, is_tagged = annotation.tagger, pool.labels.counts == 0
    if isinstance(tagger, DistilledTagger) and isinstance(tagger.teacher, Asking):
        yield tagger.teacher, _taught(tagger, is_tagged), "tags"
    if isinstance(tagger, Asking):
        yield tagger, is_tagged, "tags"
    if isinstance(annotation.scorer, Asking):
        yield annotation.scorer, np.ones(len(pool.scores), np.bool_), "scores"


def _taught(tagger: DistilledTagger, is_tagged: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return as many rows as the teacher labels."""
    return is_tagged & (np.cumsum(is_tagged) <= tagger.num_rows)


def _count_requests(request: Request, pool: Pool, asking: Asking, is_asked: NDArray[np.bool_], title: str) -> str:
    """Say what a chat model would be asked; it is asked nothing."""
    chat, count = asking.prompting.chat, int(is_asked.sum())
    tokens = estimate_tokens(asking, _sample(request, pool, is_asked)) if count else 0.0
    return (
        f"mig_annotator_model: {chat.name}: {plural(count, 'request')} for {title}, about "
        f"{tokens * count / 1e6:,.2f} million tokens to read ({tokens:,.0f} each) and at most {chat.max_tokens} "
        "to write for each"
    )


def _sample(request: Request, pool: Pool, is_read: NDArray[np.bool_]) -> _TimedRows:
    """Return a few of the rows that are read, of which there is one."""
    to_read = np.flatnonzero(is_read)
    is_sampled = np.zeros(len(is_read), np.bool_)
    is_sampled[to_read[draw_sample(len(to_read), most=_SAMPLED_ROWS)]] = True
    return _TimedRows(request, pool.without(~is_sampled, ""))


def _works(
    request: Request, pool: Pool, crew: Crew
) -> Iterator[tuple[tuple[ModelName, ...], NDArray[np.bool_], Compute]]:
    """Yield for what reads rows its models, which rows it reads, and what it does with them."""
    needs, annotation = request.needs, request.needs.annotation
    tools = RunTools(request, crew)
    everything = np.ones(len(pool.scores), np.bool_)
    tagger, is_tagged = annotation.tagger if annotation else None, pool.labels.counts == 0
    if isinstance(tagger, DistilledTagger) and tagger.teacher.models:
        yield tagger.teacher.models, _taught(tagger, is_tagged), partial(_rehearse, tagger.teacher, tools)
        yield (tagger.model,), is_tagged, partial(_rehearse, tagger, tools)
    elif tagger is not None and tagger.models:
        yield tagger.models, is_tagged, partial(_rehearse, tagger, tools)
    for score in (needs.score, annotation.scorer if annotation else None):
        if score is not None and score.models:
            yield score.models, everything, partial(score.measure, tools=tools)
    if (how := needs.embedding) is not None:
        yield (ModelName("mig_row_embedding_model", how.model),), everything, lambda rows: embed_rows(rows, crew)


def _rehearse(tagger: Tagger, tools: RunTools, rows: _TimedRows) -> None:
    """Have a tagger read the rows that it would be given: those with a question."""
    has_question = np.array([bool(question.strip()) for question in rows.questions()], np.bool_)
    if has_question.any():
        tagger.rehearse(rows.take(has_question), tools)


def _measure(
    request: Request,
    pool: Pool,
    crew: _TimedCrew,
    models: tuple[ModelName, ...],
    is_read: NDArray[np.bool_],
    compute: Compute,
) -> str:
    """Have models compute some of the rows that they have to read, and say what all of them take."""
    keys = " and ".join(model.key for model in models)
    found = dict.fromkeys(request.models[model.key].model for model in models)
    reads = "reads" if len(found) == 1 else "read"
    count = int(is_read.sum())
    if not count:
        return f"{keys}: {' and '.join(found)} {reads} no rows"
    rows, size_before = _sample(request, pool, is_read), _size_of_matrices(request)
    compute(rows)
    seconds = time.monotonic() - rows.starts[0] - crew.loading_since(rows.starts[0])
    seconds *= count / len(rows)
    megabytes = (_size_of_matrices(request) - size_before) / len(rows) * count / 2**20
    return (
        f"{keys}: {' and '.join(found)} {reads} {plural(count, 'row')}: "
        f"about {describe_duration(seconds)} on this process alone (tried on {plural(len(rows), 'row')}), "
        f"{megabytes:,.1f} MB of disk"
    )


def _measure_labels(request: Request, crew: Crew, tagger: Tagger) -> str:
    """Have the tagger's model embed some of the texts of its labels, and say what all of them take."""
    [model] = tagger.models
    texts, encoder = tagger.label_texts, request.models[model.key]
    sampled = [texts[index] for index in draw_sample(len(texts), most=_SAMPLED_ROWS).tolist()]
    starts: list[float] = []

    def read() -> Iterator[str]:
        starts.append(time.monotonic())  # the model has been loaded
        yield from sampled

    path = request.arguments.cache_dir / "work" / "labels.npy"
    crew.embed_rows(read, len(sampled), encoder, path, key=model.key, pooling="mean", max_tokens=None)
    seconds = (time.monotonic() - starts[0]) * len(texts) / len(sampled)
    return (
        f"{model.key}: {encoder.model} embeds {plural(len(texts), 'text')} of labels: about "
        f"{describe_duration(seconds)} on this process alone (tried on {plural(len(sampled), 'text')})"
    )


def _size_of_matrices(request: Request) -> int:
    """Return the size of what models have computed, row by row."""
    return sum(file.stat().st_size for file in request.arguments.cache_dir.rglob("*.npy"))


def describe_duration(seconds: float) -> str:
    """Say how long something takes, in a unit that fits."""
    for unit, size in (("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} seconds"
