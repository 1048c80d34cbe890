"""Several methods on one pool and one budget: the same rows to choose from, and the same measures for all."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from mig_selector.annotation.tokens import LocalTokenizer, count_tokens, estimate_total, find_tokenizer_file
from mig_selector.arguments import MigArguments, parse_arguments, split_keys
from mig_selector.arrays import RowLabels
from mig_selector.console import progress
from mig_selector.errors import ArgumentError, PoolError
from mig_selector.integration.config import HostArguments
from mig_selector.integration.training import num_processes
from mig_selector.pipeline.annotate import annotate
from mig_selector.pipeline.common_rows import CommonRows, measuring_keys, resolve_methods, settle_common_rows
from mig_selector.pipeline.crew import Crew
from mig_selector.pipeline.deliver import Outcome, write_own_dataset_info
from mig_selector.pipeline.lengths import RowTokens, count_row_tokens, count_tokens_if_known
from mig_selector.pipeline.names import comparison_name
from mig_selector.pipeline.recipe import run_selection
from mig_selector.pipeline.report import plan_training
from mig_selector.pipeline.request import Request, resolve
from mig_selector.pipeline.rows import KeptRows
from mig_selector.pipeline.site import pool_names
from mig_selector.pipeline.stages import (
    Clock,
    LabelGraph,
    Scores,
    finish_scores,
    label,
    link,
    measure,
    measure_rows,
    read,
    restrict,
)
from mig_selector.pipeline.texts import source_of
from mig_selector.pipeline.tokens import draw_sample, text_of, tokenizer_name
from mig_selector.pool.conversation import as_exchange, read_turns, text_columns
from mig_selector.pool.reading import Pool, PoolRow
from mig_selector.ranks.world import Ranks
from mig_selector.report.comparison import Comparison, Example, MethodFigures, format_table
from mig_selector.report.writing import PAGE, write_comparison
from mig_selector.store.files import read_json
from mig_selector.store.hashing import fingerprint_of
from mig_selector.store.subsets import MANIFEST, check_own_folder


logger = logging.getLogger(__name__)

_EXAMPLES = 3
"""Rows of each method that the page shows."""
_SAMPLED_ROWS = 4_096
"""Rows from which the tokens of all rows are estimated: a comparison has more time than a selection."""


@dataclass(frozen=True)
class Compared:
    """A comparison on disk."""

    folder: str
    """Where its files are; absolute."""
    table: str
    """The figures, for a terminal."""


def compare_methods(
    settings: Mapping[str, Any], methods: Sequence[str], ranks: Ranks | None = None, *, register: bool = False
) -> Compared:
    """Select with each method as `run_selection` does, and write what they chose side by side.

    All choose from the rows that every one of them can use, which is found out before the first one chooses. E(D) is
    measured where ``mig`` is among the methods, label coverage where one needs labels, the mean score where
    ``mig_score`` is set or a method ranks by ``deita``.

    Args:
        settings: LLaMA-Factory's keys and the ``mig_*`` keys, as in a YAML, with one budget. ``mig_dataset_name`` is
            the stem of the subsets' names.
        methods: Names as ``mig_method`` takes them; at least one, each once.
        ranks: This process among those of the run; alone if None. Every rank must call this.
        register: Whether the user's dataset_info.json gets the subsets too; the comparison's folder always has a
            dataset_info.json that names them.

    Returns:
        Where the comparison is; the same on every rank.

    Raises:
        MigSelectorError: Something that the user can fix; on every rank, with the same message.
    """
    ranks = ranks or Ranks()
    host_settings, own_settings = split_keys(settings)
    host = HostArguments.read(host_settings)
    needs = resolve_methods(own_settings, host, methods)
    stem = own_settings.pop("mig_dataset_name", None)
    arguments = [parse_arguments({**own_settings, "mig_method": method}, training=False) for method in methods]
    measures = parse_arguments({**own_settings, **measuring_keys(own_settings, needs)}, training=False)
    crew = Crew(ranks, measures)
    settled: list[CommonRows] = []  # stays empty on the other ranks, which need not know the rows
    crew.run(lambda: settled.append(settle_common_rows(arguments, measures, host, crew)))
    among = settled[0].pool_indices if settled else None
    outcomes: list[Outcome] = []
    for each in needs:
        logger.info("comparing: %s", each.method.name)
        # Of a name of their own: entries of plain selections keep pointing to theirs.
        name = comparison_name(stem, pool_names(measures, host), each.method.short_name)
        keys = {"mig_method": each.method.name, "mig_dataset_name": name}
        outcomes += run_selection({**settings, **keys}, ranks, among=among, register=register)
    return Compared(**crew.run(lambda: _compare(measures, host, crew, methods, outcomes, settled[0])))


@dataclass(frozen=True)
class _Measures:
    """The common rows, N of them, and what is measured of any of them."""

    request: Request
    pool: Pool
    labels: RowLabels | None
    scores: Scores | None
    graph: LabelGraph | None
    sources: list[str]
    """Where each row is from. Length N."""

    @classmethod
    def take(cls, request: Request, crew: Crew) -> _Measures:
        """Read the common rows."""
        annotated = annotate(read(request), request, crew)
        measured = restrict(measure(annotated.pool, request, crew), request)
        pool = measured.pool
        labels = label(pool, request)
        scores = finish_scores(measured, labels, request)
        graph = link(labels, annotated.label_vectors, request, crew, Clock())
        return cls(request, pool, labels, scores, graph, list(_sources(request, pool)))

    def figures(self, rows: NDArray[np.int64], **known: Any) -> MethodFigures:
        """Measure some rows, indices into the common ones; `known` are the other figures."""
        return MethodFigures(
            rows=len(rows),
            **measure_rows(rows, self.request, self.labels, self.scores, self.graph),
            sources=dict(Counter(self.sources[row] for row in rows)),
            **known,
        )

    def rows(self, indices: NDArray[np.int64]) -> Iterator[PoolRow]:
        """Read some rows, ascending indices into the common ones, with the columns of their conversations."""
        columns = {column for entry in self.request.entries for column in text_columns(entry)}
        return self.pool.rows(sorted(columns), indices)

    def kept_indices(self, pool_indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return pool indices as indices into the common rows.

        Raises:
            PoolError: One is not among them.
        """
        return look_up(pool_indices, self.pool.pool_indices)


def look_up(wanted: NDArray[np.int64], known: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return where in `known`, which is ascending, each of `wanted` is.

    Raises:
        PoolError: One is not there.
    """
    indices: NDArray[np.int64] = np.searchsorted(known, wanted)
    is_missing = known[np.minimum(indices, len(known) - 1)] != wanted
    if is_missing.any():
        raise PoolError(
            f"row {wanted[is_missing][0]} of the pool (0-based) was chosen, but is not among the {len(known)} rows "
            "that all methods choose from; a file was changed meanwhile. Run the comparison again."
        )
    return indices


def _compare(
    arguments: MigArguments,
    host: HostArguments,
    crew: Crew,
    methods: Sequence[str],
    outcomes: Sequence[Outcome],
    common: CommonRows,
) -> dict[str, Any]:
    """Measure what the methods chose, and write the comparison: what rank 0 does after they have chosen."""
    request = resolve(arguments, host, common.pool_indices)
    identity = {"methods": list(methods), "selections": [outcome.fingerprint for outcome in outcomes]}
    folder = request.site.output_dir / f"comparison-{fingerprint_of(identity)[:16]}"
    check_own_folder(folder)
    measures = _Measures.take(request, crew)
    choices = [measures.kept_indices(_read_choice(Path(outcome.folder))) for outcome in outcomes]
    chosen = np.unique(np.concatenate(choices))
    everything = np.arange(len(measures.pool.pool_indices))
    # A budget of tokens has counted those of all rows.
    sample = everything if arguments.counts_tokens else draw_sample(len(everything), most=_SAMPLED_ROWS)
    tokens = _Tokens(measures, np.union1d(chosen, sample))
    examples = _examples(measures, choices)
    manifests = [read_json(Path(outcome.folder) / MANIFEST) for outcome in outcomes]
    costs = _costs(outcomes, manifests, methods, folder)
    processes = num_processes() if host.schedule is not None else None
    comparison = Comparison(
        pool="+".join(entry.name for entry in request.entries),
        budget=request.token_budget(request.fingerprints[0]) if arguments.counts_tokens else outcomes[0].budget,
        kept_rows=len(everything),
        read_rows=measures.pool.report.read,
        score=request.needs.score.name if request.needs.score else "none",
        tokenizer=tokens.tokenizer,
        figures=[
            measures.figures(
                rows,
                method=method,
                seconds=seconds,
                memory_bytes=memory,
                **tokens.of(rows),
                steps=_planned_steps(request, len(rows), processes),
                folder=outcome.folder,
                note=_describe_filling(manifest["rows_filled_by_score"]),
                usable_rows=usable,
                examples=shown,
                report=_report_url(Path(outcome.folder), folder),
            )
            for method, rows, manifest, outcome, (seconds, memory), usable, shown in zip(
                methods, choices, manifests, outcomes, costs, common.usable, examples, strict=True
            )
        ],
        all_rows=measures.figures(
            everything,
            method="all rows",
            seconds=None,
            memory_bytes=None,
            folder="",
            steps=_planned_steps(request, len(everything), processes),
            **tokens.of_all(sample, len(everything)),
        ),
        overlaps=[[len(np.intersect1d(one, other)) / len(one) for other in choices] for one in choices],
        settings=_shared_settings(request),
        versions=manifests[0]["versions"],
        unit=_unit(arguments),
    )
    write_comparison(folder, comparison)
    logger.info("dataset_dir with the subsets: %s", write_own_dataset_info(folder, outcomes).parent)
    return asdict(Compared(str(folder), format_table(comparison)))


def _planned_steps(request: Request, rows: int, processes: int | None) -> int | None:
    training = plan_training(request, rows, processes)
    return None if training is None else training.steps


def _unit(arguments: MigArguments) -> Literal["rows", "tokens", "supervised tokens"]:
    """Return what the budget counts."""
    if not arguments.counts_tokens:
        return "rows"
    return "tokens" if arguments.mig_count_tokens == "all" else "supervised tokens"


def _shared_settings(request: Request) -> dict[str, Any]:
    """Return the settings that all methods share."""
    return {key: value for key, value in request.settings.items() if key not in ("mig_method", "mig_dataset_name")}


def _costs(
    outcomes: Sequence[Outcome], manifests: Sequence[Mapping[str, Any]], methods: Sequence[str], folder: Path
) -> list[tuple[float | None, int | None]]:
    """Return seconds and memory of each choice; None where it was not made by this comparison.

    Costs of other runs, on other machines perhaps, cannot be compared. A selection that was made when this comparison
    was first written has the cost that it had then.
    """
    before = read_json(folder / "comparison.json")
    earlier = before.get("methods") if isinstance(before, dict) else None
    known = {each.get("method"): each for each in earlier or []}
    costs: list[tuple[float | None, int | None]] = []
    for method, outcome, manifest in zip(methods, outcomes, manifests, strict=True):
        if outcome.is_reused:
            was = known.get(method, {})
            costs.append((was.get("seconds"), was.get("memory_bytes")))
        else:
            costs.append((manifest["seconds"]["selecting"], manifest["added_memory_bytes"]))
    return costs


def _report_url(subset: Path, folder: Path) -> str | None:
    """Return where the report of a subset is, seen from the folder of the comparison; None if there is none."""
    page = subset / PAGE
    return quote(os.path.relpath(page, folder)) if page.is_file() else None


def _read_choice(folder: Path) -> NDArray[np.int64]:
    """Return the pool indices of the chosen rows in the order of choice."""
    import pyarrow.parquet as pq

    chosen: NDArray[np.int64] = pq.read_table(folder / "selection.parquet", columns=["row_index"])[
        "row_index"
    ].to_numpy()
    return chosen


class _Tokens:
    """Tokens of some of the common rows: those that training is fed where they are known, else those of the texts."""

    def __init__(self, measures: _Measures, rows: NDArray[np.int64]) -> None:
        """Count those of `rows`, ascending, if a model or a tokenizer is configured that can be loaded."""
        self._rows = rows
        self._tokens: NDArray[np.int64] | None = None
        self._supervised: NDArray[np.int64] | None = None
        self.tokenizer: str | None = None
        if (fed := _count_fed(measures, rows)) is not None:
            self._tokens, self._supervised = fed.fed, fed.supervised
            self.tokenizer = measures.request.site.host.model_name_or_path
        elif (named := tokenizer_name(measures.request)) is not None:
            self._count_texts(measures, *named)

    def _count_texts(self, measures: _Measures, key: str, name: str) -> None:
        entries = measures.request.entries

        def texts() -> Iterator[str]:
            with progress("counting tokens", len(self._rows), "rows", is_main=True) as bar:
                for row in measures.rows(self._rows):
                    yield text_of(row.record, entries[row.entry_index])
                    bar(1)

        try:
            self._tokens = _count(texts(), key, name)
            self.tokenizer = name
        except ArgumentError as error:
            if key == "mig_tokenizer":  # asked for; the other key names what is trained
                raise
            logger.info("tokens are not counted: %s", error)

    def of(self, rows: NDArray[np.int64]) -> dict[str, int | None]:
        """Return the tokens of some rows together, and those of them that have a loss."""
        indices = look_up(rows, self._rows)
        kinds = {"tokens": self._tokens, "supervised_tokens": self._supervised}
        return {kind: None if counts is None else int(counts[indices].sum()) for kind, counts in kinds.items()}

    def of_all(self, sample: NDArray[np.int64], num_rows: int) -> dict[str, int | None]:
        """Return the tokens of `num_rows` rows, from a sample of them, with their errors; None if all were counted."""
        indices = look_up(sample, self._rows)
        figures: dict[str, int | None] = {}
        for kind, counts in (("tokens", self._tokens), ("supervised_tokens", self._supervised)):
            if counts is not None:
                total, error = estimate_total(counts[indices], np.ones_like(indices), num_rows, num_rows)
                figures |= {kind: total, f"{kind}_error": error if len(sample) < num_rows else None}
        return {"tokens": None, **figures}


def _count_fed(measures: _Measures, rows: NDArray[np.int64]) -> RowTokens | None:
    """Count what training is fed for some rows; None where that is not known."""
    known = count_row_tokens(measures.request, measures.pool)  # a budget of tokens has counted all rows
    if known is not None:
        return known.take(rows)
    is_counted = np.zeros(len(measures.pool.pool_indices), np.bool_)
    is_counted[rows] = True
    trained = KeptRows(measures.request, measures.pool).take(is_counted).trained()
    return count_tokens_if_known(measures.request, trained, len(rows))


def _count(texts: Iterable[str], key: str, name: str) -> NDArray[np.int64]:
    file = find_tokenizer_file(name)
    return count_tokens(texts, name, key) if file is None else LocalTokenizer(file).count(texts, in_threads=True)


def _examples(measures: _Measures, choices: Sequence[NDArray[np.int64]]) -> list[list[Example]]:
    """Return the first rows that each method chose."""
    shown = np.unique(np.concatenate([rows[:_EXAMPLES] for rows in choices]))
    examples = {}
    for index, row in zip(shown.tolist(), measures.rows(shown), strict=True):
        examples[index] = Example(int(measures.pool.pool_indices[index]), _question(measures.request, row))
    return [[examples[index] for index in rows[:_EXAMPLES].tolist()] for rows in choices]


def _question(request: Request, row: PoolRow) -> str:
    """Return what the user asks first; empty if the row is not a conversation."""
    entry = request.entries[row.entry_index]
    try:
        exchange = as_exchange(row.record, read_turns(row.record, entry), entry, "first")
    except ValueError:
        return ""
    return f"{exchange.instruction}\n{exchange.input}" if exchange.input else exchange.instruction


def _sources(request: Request, pool: Pool) -> Iterator[str]:
    """Yield where each row is from."""
    with progress("reading sources", len(pool.pool_indices), "rows", is_main=True) as bar:
        for row in pool.rows(["source"]):
            yield source_of(row.record, request.entries[row.entry_index])
            bar(1)


def _describe_filling(filled: int) -> str | None:
    return f"{filled:,} rows filled up by score" if filled else None
