"""The stages between a request and its chosen rows, in the order in which the recipe and the comparison call them.

Each takes what earlier stages returned and returns a value that nobody changes afterwards. They run on rank 0; where a
model has to run, the crew does it.

Dimension letters: N kept rows, L labels, D dimensions of a row's vector.
"""

from __future__ import annotations

import contextlib
import logging
import math
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mig_selector.annotation.scales import describe_scale, rescale
from mig_selector.annotation.vocabulary import shipped_vocabulary
from mig_selector.arguments import MigArguments
from mig_selector.arrays import LabelledPool, Propagation, RowLabels, Selection, typed_like
from mig_selector.console import plural, progress
from mig_selector.embedding.given import read_given_vectors
from mig_selector.embedding.rows import check_given_rows, read_given_rows
from mig_selector.errors import ArgumentError, PoolError
from mig_selector.graph.density import describe_density
from mig_selector.graph.label_graph import build_adjacency, build_propagation
from mig_selector.graph.vocabulary import count_labels, find_separator, read_vocabulary
from mig_selector.pipeline.crew import Crew
from mig_selector.pipeline.lengths import RowTokens
from mig_selector.pipeline.request import Request
from mig_selector.pipeline.rows import KeptRows
from mig_selector.pipeline.tools import RunTools, embed_texts
from mig_selector.pipeline.validation import num_validation_rows
from mig_selector.pool.index.cache import IndexCache
from mig_selector.pool.reading import Pool, read_pool
from mig_selector.ranks.group import all_threads
from mig_selector.ranks.memory import Peak, measured_peak
from mig_selector.ranks.world import Ranks
from mig_selector.selection.budgets import choose_for_budgets
from mig_selector.selection.greedy import information_added, measure_information
from mig_selector.selection.method import Candidates
from mig_selector.selection.objective import Objective


logger = logging.getLogger(__name__)

LabelVectors: TypeAlias = Mapping[str, NDArray[np.float32]]
"""Vectors of labels, shape (D,) each, by name."""

_COPIED_ROWS = 4_096
_MAPPED_LABELS = 400
_TRIAL_ROWS = 256
"""Equal rows of which a compiled method first chooses one: enough to compile what only many equal rows need."""


class Clock:
    """Seconds that each stage took, by its name, in the order of the stages."""

    def __init__(self) -> None:
        """Start with no stage."""
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add up the time that the block takes, also if it fails."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - start


@dataclass(frozen=True)
class Measured:
    """A pool after models have measured its rows: those that no model could score are gone."""

    pool: Pool
    values: NDArray[np.float64] | None
    """What the kind of score measured; None for kinds that measure nothing. Shape (N,)."""


@dataclass(frozen=True)
class Scores:
    """The scores of the kept rows."""

    scaled: NDArray[np.float64]
    """On the scale of ``mig_score_scale``, as selection.parquet has them. Shape (N,)."""
    final: NDArray[np.float64]
    """As methods get them: after normalisation. Shape (N,)."""
    scale: dict[str, Any] | None
    """The scale, and figures of the scores before it; None where they are as they were."""


@dataclass(frozen=True)
class LabelGraph:
    """The label graph, as the method uses it."""

    propagation: Propagation
    num_edges: int
    frequent: NDArray[np.int64]
    """The most frequent labels, at most 400, ascending: those that the report shows on a map. Shape (M,)."""
    frequent_vectors: NDArray[np.floating[Any]]
    """Their vectors. Shape (M, D)."""


@dataclass(frozen=True)
class Offered:
    """What a method chooses from, and what is known of it. What it does not need is None."""

    pool: Pool
    labels: RowLabels | None
    scores: Scores | None
    graph: LabelGraph | None
    tokens: RowTokens | None
    """None where rows are counted."""
    health: dict[str, Any] | None
    """The figures of the annotations that the run made; None where the pool has all of them."""


@dataclass(frozen=True)
class Chosen:
    """Rows chosen for one budget, and what is known of the choice."""

    selection: Selection
    num_filled: int
    """Rows at the end that were taken by score because the method fell short."""
    information: float | None
    """E(D) of Eq. 8; None where there is no label graph."""
    information_added: NDArray[np.float64] | None
    """E of the rows up to each row minus E of those before it; None where there is no label graph. Shape (B,)."""
    memory: Peak
    """Memory of the process while the rows of all budgets were chosen."""
    tokens: RowTokens | None
    """Of the chosen rows; None where rows are counted."""

    @property
    def budget(self) -> int:
        """Rows chosen."""
        return len(self.selection.rows)

    @property
    def rows_without_gain(self) -> int | None:
        """Rows that MIG took because nothing better was left; None for other methods."""
        return None if self.information is None else int(np.count_nonzero(self.selection.gains <= 0))


def read(request: Request) -> Pool:
    """Read labels, scores and offsets of the pool's rows, or take them from the cache.

    Raises:
        PoolError: See `read_pool`.
    """
    size = sum(source.size for sources in request.sources for source in sources)
    on_bad_row = request.arguments.mig_on_bad_row
    with progress("reading the pool", size, "B", is_main=True) as bar:
        cache = IndexCache(request.arguments.cache_dir, request.hashes)
        return read_pool(request.entries, request.sources, request.contents, request.judges, on_bad_row, bar, cache)


def resolve_budgets(request: Request, pool: Pool) -> list[int]:
    """Turn shares of the kept rows into numbers, rounded down; tokens stay as they are.

    Raises:
        ArgumentError: A budget of rows is larger than the pool, or leaves too few rows for validation.
    """
    if request.arguments.counts_tokens:
        return [int(budget) for budget in request.arguments.budgets]
    kept, budgets = pool.report.kept, []
    for budget in request.arguments.budgets:
        if isinstance(budget, float):
            share = (Decimal(str(budget)) * kept).to_integral_value(ROUND_FLOOR)
            budgets.append(max(int(share), 1))
        elif budget > kept:
            raise ArgumentError(
                f"mig_num_samples: {budget} rows are asked for, but the pool has {plural(kept, 'row')} to choose from."
            )
        else:
            budgets.append(budget)
        held_out = num_validation_rows(request.arguments, request.site.host, budgets[-1])
        if budgets[-1] + held_out > kept:
            raise ArgumentError(
                f"mig_val_from: rest: {budgets[-1]} rows are to be chosen and {held_out} more are for validation "
                f"(val_size), but the pool has {plural(kept, 'row')} to choose from. Lower one of the two."
            )
    return budgets


def measure(pool: Pool, request: Request, crew: Crew) -> Measured:
    """Have a model measure the rows, if the kind of score needs one; drop and count the rows that it cannot score."""
    score = request.needs.score
    tools = RunTools(request, crew)
    measured = score.measure(KeptRows(request, pool), tools) if score is not None else None
    if measured is None:
        return Measured(pool, None)
    reasons = np.full(len(measured.values), "", object)
    reasons[list(measured.failures)] = list(measured.failures.values())
    values = measured.values[reasons == ""]
    for reason in dict.fromkeys(measured.failures.values()):
        pool, reasons = pool.without(reasons == reason, reason), reasons[reasons != reason]
    return Measured(pool, values)


def restrict(measured: Measured, request: Request) -> Measured:
    """Drop and count the rows that a comparison or a study leaves out, so that all methods choose from the same rows.

    Raises:
        ValueError: A row that the comparison allows is not among the kept rows.
    """
    pool, values = measured.pool, measured.values
    if request.among is None:
        return measured
    is_allowed = np.isin(pool.pool_indices, request.among, assume_unique=True)
    if np.count_nonzero(is_allowed) != len(request.among):
        raise ValueError(f"only {np.count_nonzero(is_allowed)} of {len(request.among)} rows to choose from are kept")
    if is_allowed.all():
        return measured
    pool = pool.without(~is_allowed, "not usable by every method compared, or held out by a study")
    return Measured(pool, None if values is None else values[is_allowed])


def label(pool: Pool, request: Request) -> RowLabels | None:
    """Find out which labels count; None where the method needs no labels.

    Raises:
        PoolError: The vocabulary cannot be read, or none of the labels counts.
    """
    if request.needs.labels is None:
        return None
    vocabulary, min_count = request.arguments.mig_label_vocabulary, request.arguments.mig_min_label_count
    known = read_vocabulary(Path(vocabulary)) if vocabulary else None
    labels = count_labels(pool.labels, vocabulary=known, min_count=min_count)
    if request.needs.labels.separator is None and (separator := find_separator(pool.labels)):
        logger.warning(
            "mig_labels: most labels contain %r, such as %r; if each text holds several labels, set "
            "mig_label_separator: '%s'",
            separator,
            next(name for name in pool.labels.names if separator in name)[:60],
            separator,
        )
    if not pool.labels.names:
        raise PoolError(
            "no label is left: mig_tag_min_count leaves out the tags of fewer rows than "
            f"{request.arguments['mig_tag_min_count']}; lower it."
        )
    if not labels.names:
        names = [repr(name[:60]) for name in pool.labels.names[:3]]
        raise PoolError(
            f"none of the {plural(len(pool.labels.names), 'label')} in the pool counts, such as "
            f"{', '.join(names)}; check mig_label_vocabulary and mig_min_label_count."
        )
    return labels


def finish_scores(measured: Measured, labels: RowLabels | None, request: Request) -> Scores | None:
    """Make the scores out of what the pool stores, what was measured, or the labels; None where none are needed.

    They are rescaled here, where it is known which rows there are to choose from.

    Raises:
        PoolError: Their sum overflows, or the scale does not fit them.
    """
    pool, score = measured.pool, request.needs.score
    if score is None:
        return None
    raw = score.finish(pool.scores, measured.values, labels)
    scaled = rescale(raw, score.scale)
    # A row is divided by the labels that it names, before the vocabulary, repetitions included: as published. One that
    # has lost all its tags to mig_tag_min_count stays as it is.
    final = scaled / np.maximum(pool.labels.counts, 1) if request.arguments.mig_normalize else scaled
    with np.errstate(over="ignore"):
        if not math.isfinite(float(np.sum(np.abs(final)))):
            raise PoolError("mig_score: the scores are so large that their sum is not finite; scale them down.")
    if score.scale == "none":
        return Scores(scaled, final, None)
    figures = describe_scale(raw, score.scale)
    logger.info("scores: %s of %s scores", score.scale, f"{len(raw):,}")
    return Scores(scaled, final, figures)


def link(
    labels: RowLabels | None, known: LabelVectors, request: Request, crew: Crew, clock: Clock
) -> LabelGraph | None:
    """Embed the labels and build their graph; None where the method needs none.

    Args:
        labels: The labels that count.
        known: Vectors that the tagger has; used unless the user names vectors or an encoder of labels.
        request: Says how labels are embedded.
        crew: Embeds them.
        clock: Takes the time.

    Raises:
        EmbeddingError: A label has no vector, or a vector cannot be used.
    """
    if labels is None or not request.needs.has("propagation"):
        return None
    with clock.stage("embedding"):
        vectors = _label_vectors(labels.names, known, request, crew)
    with clock.stage("graph"), all_threads(Ranks()):
        adjacency = build_adjacency(vectors, request.arguments.mig_edge_threshold)
        logger.info("graph: %s, %s", plural(len(vectors), "label"), plural(adjacency.num_edges, "edge"))
        _log_density(labels.names, vectors, adjacency.num_edges, request.arguments.mig_edge_threshold)
        propagation = build_propagation(adjacency, request.arguments.mig_propagation_weight)
    frequent = np.sort(np.argsort(-labels.count_rows(), kind="stable")[:_MAPPED_LABELS])
    return LabelGraph(propagation, adjacency.num_edges, frequent, vectors[frequent])


def _log_density(names: Sequence[str], vectors: NDArray[np.floating[Any]], num_edges: int, threshold: float) -> None:
    """Warn of a label graph that is nearly empty or nearly complete, unless it is meant to be."""
    odd = describe_density(vectors, num_edges, threshold)
    if odd is not None and num_edges < len(names) and shipped_vocabulary().keys() >= set(names):
        logger.info(
            "graph: the labels that come with mig_tagger: vocabulary are meant to differ, so few share an edge; "
            "mig_edge_threshold: 0.6 joins related ones"
        )
    elif odd is not None:
        logger.warning("%s", odd)


def _label_vectors(
    names: Sequence[str], known: LabelVectors, request: Request, crew: Crew
) -> NDArray[np.floating[Any]]:
    """Return the vectors of labels in their order: those the user gave, else of the encoder, else of the tagger."""
    if (given := request.arguments.mig_label_embeddings) is not None:
        return read_given_vectors(Path(given), names)
    if "mig_embedding_model" in request.models:
        return embed_texts(names, "mig_embedding_model", request, crew)
    others = [name for name in names if name not in known]
    made = dict(zip(others, embed_texts(others, "mig_tagger_model", request, crew), strict=True)) if others else {}
    return np.stack([known[name] if name in known else made[name] for name in names])


def embed(pool: Pool, request: Request, crew: Crew) -> NDArray[np.floating[Any]] | None:
    """Have the rows embedded, or take the vectors that the user gave; None where the method needs none.

    Returns:
        The vectors of the kept rows, mapped from a file. Shape (N, D).

    Raises:
        EmbeddingError: A vector is missing or cannot be used.
    """
    if not request.needs.has("embeddings"):
        return None
    if request.needs.embedding is None:
        return _given_row_vectors(Path(str(request.arguments.mig_row_embeddings)), pool, request.arguments)
    return embed_rows(KeptRows(request, pool), crew)


def embed_rows(rows: KeptRows, crew: Crew) -> NDArray[np.float32]:
    """Have the texts of rows embedded as the method wants it.

    Returns:
        Mapped from a file. Shape (number of rows, D).
    """
    how, encoder = rows.request.needs.embedding, rows.request.models["mig_row_embedding_model"]
    if how is None:
        raise ValueError("the method embeds no rows")
    identity = {"template": how.template, "pooling": how.pooling, "max_tokens": how.max_tokens}
    return crew.embed_rows(
        rows.embedded_texts,
        len(rows),
        encoder,
        rows.cache_path("row_embeddings", identity, encoder),
        key="mig_row_embedding_model",
        pooling=how.pooling,
        max_tokens=how.max_tokens,
    )


def _given_row_vectors(path: Path, pool: Pool, arguments: MigArguments) -> NDArray[np.floating[Any]]:
    vectors = read_given_rows(path, pool.report.read)
    check_given_rows(path, vectors, pool.pool_indices)
    if len(pool.pool_indices) == len(vectors):
        return vectors
    return _copy_to_mapped_file(vectors, pool.pool_indices, arguments.cache_dir)


def _copy_to_mapped_file(
    vectors: NDArray[np.floating[Any]], rows: NDArray[np.int64], folder: Path
) -> NDArray[np.floating[Any]]:
    """Copy some rows, block by block, to a mapped file that has no name: all of them may not fit into memory."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as stream:
        kept = np.memmap(stream, vectors.dtype, "w+", shape=(len(rows), vectors.shape[1]))
    for start in range(0, len(rows), _COPIED_ROWS):
        kept[start : start + _COPIED_ROWS] = vectors[rows[start : start + _COPIED_ROWS]]
    return kept


def compile_method(request: Request, offered: Offered) -> None:
    """Let a compiled method choose one of a few rows, so that the time of the choice is that of the choice alone.

    numba compiles for the types of its arguments, or loads what it has kept for them; whether an array may be written
    to is part of its type.
    """
    labels, scores, graph = offered.labels, offered.scores, offered.graph
    method = request.needs.method
    if not method.declaration.is_compiled:
        return
    logger.info("%s: compiling, or loading what an earlier run on this machine compiled", method.name)
    few = None if labels is None else _repeat_first_row(labels)
    values = None if scores is None else typed_like(scores.final, np.repeat(scores.final[:1], _TRIAL_ROWS))
    trial = Candidates(
        _TRIAL_ROWS,
        labels=few,
        propagation=graph.propagation if graph else None,
        scores=values,
        tokens=np.ones(_TRIAL_ROWS, np.int64) if request.arguments.counts_tokens else None,
    )
    chosen = method(trial, 1, request.needs.options, lambda count: None)
    known = information_inputs(request, few, None if values is None else Scores(values, values, None), graph)
    if known is not None and method.name == "mig" and request.arguments.mig_report == "html":
        from mig_selector.selection.receipts import receipts  # here, as it loads numba

        receipts(*known, chosen, [0])  # which the report gives for each row that it shows


def _repeat_first_row(labels: RowLabels) -> RowLabels:
    first = labels.ids[: labels.offsets[1]]
    offsets = np.arange(_TRIAL_ROWS + 1, dtype=np.int64) * len(first)
    return RowLabels(
        labels.names, typed_like(labels.offsets, offsets), typed_like(labels.ids, np.tile(first, _TRIAL_ROWS))
    )


def choose(
    request: Request, offered: Offered, vectors: NDArray[np.floating[Any]] | None, clock: Clock
) -> list[Chosen]:
    """Choose rows for each budget.

    Raises:
        ArgumentError: The method cannot choose that many.
    """
    pool, labels, scores, graph = offered.pool, offered.labels, offered.scores, offered.graph
    tokens = offered.tokens
    needs, rows, budgets = request.needs, KeptRows(request, pool), resolve_budgets(request, pool)
    candidates = Candidates(
        len(rows),
        labels=labels,
        propagation=graph.propagation if graph else None,
        scores=scores.final if scores else None,
        embeddings=vectors,
        records=rows.records,
        texts=rows.questions_and_answers,
        tokens=tokens.counted(request.arguments.mig_count_tokens) if tokens else None,
    )
    with (
        measured_peak() as peak,
        all_threads(Ranks()),
        progress("selecting", max(budgets), "tokens" if tokens else "rows", is_main=True) as bar,
        clock.stage("selecting"),
    ):
        selections, filled = choose_for_budgets(
            needs.method, candidates, budgets, needs.options, request.arguments.mig_fill, bar
        )
    known = information_inputs(request, labels, scores, graph)
    with clock.stage("information") if known else contextlib.nullcontext():
        return [
            Chosen(
                selection,
                number,
                information=measure_information(*known, selection.rows) if known else None,
                information_added=information_added(*known, selection.rows) if known else None,
                memory=peak,
                tokens=tokens.take(selection.rows) if tokens else None,
            )
            for selection, number in zip(selections, filled, strict=True)
        ]


def information_of(
    rows: NDArray[np.int64],
    request: Request,
    labels: RowLabels | None,
    scores: Scores | None,
    graph: LabelGraph | None,
) -> float | None:
    """Return E(D) of some kept rows (Eq. 8); None where there is no label graph, or no scores."""
    known = information_inputs(request, labels, scores, graph)
    return measure_information(*known, rows) if known else None


def measure_rows(
    rows: NDArray[np.int64],
    request: Request,
    labels: RowLabels | None,
    scores: Scores | None,
    graph: LabelGraph | None,
) -> dict[str, Any]:
    """Return the figures by which choices of kept rows are compared; None for those that are not known."""
    return {
        "information": information_of(rows, request, labels, scores, graph),
        "label_coverage": None if labels is None else float(np.mean(labels.count_rows(rows) > 0)),
        "mean_score": None if scores is None else float(np.mean(scores.scaled[rows])),
    }


def information_inputs(
    request: Request, labels: RowLabels | None, scores: Scores | None, graph: LabelGraph | None
) -> tuple[LabelledPool, Propagation, Objective] | None:
    """Return what E is computed from; None where there is no label graph, or no scores."""
    if graph is None or labels is None or scores is None:
        return None
    arguments = request.arguments
    objective = Objective(
        phi=arguments["mig_phi"],
        exponent=arguments["mig_phi_exponent"],
        offset=arguments["mig_phi_offset"],
        rate=arguments["mig_phi_rate"],
        gain=arguments["mig_gain"],
    )
    return LabelledPool(labels, scores.final), graph.propagation, objective


def describe_reading(pool: Pool, labels: RowLabels | None) -> list[str]:
    """Say, for the log, what became of the rows of the pool and of their labels."""
    report = pool.report
    names = ", ".join(source.name for source in pool.sources[:5])
    lines = [f"pool: read {plural(report.read, 'row')} of {names}, kept {report.kept:,}"]
    lines += [f"  dropped {count:,}: {reason}" for reason, count in report.dropped.items()]
    lines += [f"  skipped {count:,}: row {reason}" for reason, count in report.unreadable.items()]
    lines += [f"    {row.encode('unicode_escape').decode('ascii')}" for row in report.unreadable_rows[:20]]
    if report.duplicates:
        lines.append(f"  {plural(report.duplicates, 'repeated row')}; all copies stay in the pool")
    if labels is not None:
        lines.append(f"  labels that count: {len(labels.names):,} of {len(pool.labels.names):,}")
    return lines
