"""A finished selection to its report: figures from what the run has in memory, and from a sample of the texts.

Dimension letters: N kept rows, B chosen rows, L labels.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mig_selector.arguments import all_keys
from mig_selector.arrays import LabelledPool, Propagation, Selection
from mig_selector.graph.layout import lay_out
from mig_selector.pipeline.request import Request
from mig_selector.pipeline.stages import LabelGraph, Offered, information_inputs, measure_rows
from mig_selector.pipeline.texts import Texts
from mig_selector.pipeline.tokens import line_bounds, read_lines
from mig_selector.pool.conversation import read_turns
from mig_selector.pool.entry import PoolEntry
from mig_selector.report.comparison import MethodFigures
from mig_selector.report.figures import build_curve, describe_categories, describe_labels, describe_numbers
from mig_selector.report.selection import (
    AnnotatedRow,
    ChosenRow,
    Curve,
    Distribution,
    Labels,
    SelectionReport,
    Training,
)
from mig_selector.selection.greedy import information_added, select_rows
from mig_selector.selection.objective import Objective
from mig_selector.store.subsets import SELECTION_TABLE


_FIRST_ROWS = 100
_SAMPLED_ROWS = 100
_FEWEST_ROWS = 64
_QUOTED_CHARACTERS = 500
_SEED = 0


@dataclass(frozen=True)
class Effort:
    """What a report may take time for."""

    rows: int
    """Most rows of the pool, and most chosen rows, whose texts are measured."""
    row_bytes: int
    """About the size of so many rows of the pool at most; but 64 are measured in any case."""
    unordered_bytes: int
    """Largest pool whose texts are measured although its files do not give single rows."""
    runner_up_rows: int
    """Largest pool in which the rows that lost to chosen ones are looked for."""
    continued_rows: int
    """Largest pool of which the choice is continued beyond the budget, for the rest of the curve."""


IN_RUN = Effort(rows=3_000, row_bytes=5 << 18, unordered_bytes=16 << 20, runner_up_rows=200_000, continued_rows=20_000)
"""Well under a second for a pool of any size: a run must not take longer because of its report."""
ON_REQUEST = Effort(
    rows=200_000, row_bytes=256 << 20, unordered_bytes=1 << 60, runner_up_rows=1 << 60, continued_rows=2_000_000
)


@dataclass(frozen=True)
class Selected:
    """A finished selection, and all that the run knows of its pool."""

    request: Request
    offered: Offered
    selection: Selection
    """The chosen rows, as kept indices."""
    folder: Path
    manifest: Mapping[str, Any]
    training: Training | None
    """What training on it takes, if that is known."""

    @property
    def rows(self) -> NDArray[np.int64]:
        """Kept indices of the chosen rows in the order of choice. Shape (B,)."""
        return self.selection.rows

    @property
    def information_inputs(self) -> tuple[LabelledPool, Propagation, Objective] | None:
        """What E is computed from; None where there is no label graph, or no scores."""
        return information_inputs(self.request, self.offered.labels, self.offered.scores, self.offered.graph)

    @property
    def num_kept(self) -> int:
        """N."""
        return len(self.offered.pool.pool_indices)

    @property
    def is_nested(self) -> bool:
        """Whether MIG with a larger budget would choose these rows first; with a budget of tokens it need not."""
        return bool(self.manifest["method"] == "mig") and not self.request.arguments.counts_tokens

    def figures(self, name: str, rows: NDArray[np.int64], **known: Any) -> MethodFigures:
        """Measure some rows as a comparison does; `known` are the other figures."""
        counted: dict[str, Any] = {"tokens": None}
        if tokens := self.offered.tokens:  # those of every row are known
            sums = {"tokens": tokens.fed, "supervised_tokens": tokens.supervised}
            counted = {name: int(each[rows].sum()) for name, each in sums.items()}
        return MethodFigures(
            method=name,
            rows=len(rows),
            seconds=None,
            memory_bytes=None,
            **measure_rows(rows, self.request, self.offered.labels, self.offered.scores, self.offered.graph),
            sources=self.rows_by_dataset(rows),
            folder="",
            **{**counted, **known},
        )

    def rows_by_dataset(self, rows: NDArray[np.int64]) -> dict[str, int]:
        """Count the rows of each dataset of the pool that has any."""
        names = [entry.name for entry in self.request.entries]
        if len(names) == 1:
            return {names[0]: len(rows)}
        entries = np.array(self.offered.pool.source_entry_indices)[self.offered.pool.locate(rows)[0]]
        counts = np.bincount(entries, minlength=len(names)).tolist()
        return {name: count for name, count in zip(names, counts, strict=True) if count}


def build_report(selected: Selected, effort: Effort) -> SelectionReport:
    """Gather all figures of a selection.

    Args:
        selected: The selection.
        effort: What may take time.

    Raises:
        MigSelectorError: A file of the pool has changed.
    """
    request, manifest, rows = selected.request, selected.manifest, selected.rows
    this = selected.figures(manifest["method"], rows, **_tokens(manifest))
    all_rows = selected.figures("all rows", np.arange(selected.num_kept))
    curve = _curve(selected, effort, all_rows.information)
    texts = _texts(selected, effort)
    shown = _chosen_rows(selected, _shown_ranks(len(rows)), effort)
    return SelectionReport(
        name=manifest["dataset_name"],
        method=manifest["method"],
        rows=len(rows),
        kept_rows=selected.num_kept,
        read_rows=manifest["rows"]["read"],
        dropped={**manifest["rows"]["dropped"], **manifest["rows"]["unreadable"]},
        score=request.needs.score.name if request.needs.score else None,
        this=this,
        others=list(_other_choices(selected, texts)),
        all_rows=all_rows,
        tokenizer=_tokenizer(manifest),
        training=selected.training,
        curve=curve,
        labels=_labels(selected),
        distributions=[*_known_distributions(selected), *(texts.distributions() if texts else ())],
        annotation=manifest.get("annotation"),
        annotated_rows=list(_annotated_rows(selected, texts)),
        first_rows=shown[:_FIRST_ROWS],
        sampled_rows=shown[_FIRST_ROWS:],
        notes=list(_notes(selected, texts, effort)),
        command=None if request.among is not None else _command(manifest),
        settings=_settings(manifest),
        files=manifest["pool"],
        versions=manifest["versions"],
        fingerprint=manifest["fingerprint"],
    )


def _tokens(manifest: Mapping[str, Any]) -> dict[str, int | None]:
    """Return the tokens of a selection, if the run counted them: those that training is fed, or those of its texts."""
    if fed := manifest.get("training_tokens"):
        return {
            "tokens": fed["fed"],
            "tokens_error": fed["fed_error"] or None,
            "supervised_tokens": fed["supervised"],
            "supervised_tokens_error": fed["supervised_error"] or None,
        }
    if tokens := manifest.get("tokens"):
        return {"tokens": tokens["estimate"], "tokens_error": tokens["error"] or None}
    return {}


def _tokenizer(manifest: Mapping[str, Any]) -> str | None:
    if fed := manifest.get("training_tokens"):
        return str(fed["settings"]["model_name_or_path"])
    return (manifest.get("tokens") or {}).get("tokenizer")


def _shown_ranks(count: int) -> NDArray[np.int64]:
    """Return the first ranks, and a sample of the others that is always the same; ascending."""
    others = np.random.default_rng(_SEED).permutation(np.arange(_FIRST_ROWS, count))[:_SAMPLED_ROWS]
    return np.concatenate((np.arange(min(_FIRST_ROWS, count)), np.sort(others)))


def _curve(selected: Selected, effort: Effort, pool_information: float | None) -> Curve | None:
    """Build the information curve; None where there is no label graph.

    What MIG would choose beyond the budget is found by choosing from the beginning: the choice is nested.
    """
    known = selected.information_inputs
    if known is None or pool_information is None:
        return None
    pool, propagation, objective = known
    rows = selected.rows
    if selected.is_nested and selected.num_kept <= effort.continued_rows:
        rows = select_rows(pool, propagation, objective, selected.num_kept).rows
    nothing = objective.value(np.zeros(propagation.num_labels))
    information = nothing + np.cumsum(information_added(pool, propagation, objective, rows))
    # A running sum is rounded at each step. Where E(D) is measured, the curve must not show a second figure for it.
    if len(rows) == selected.num_kept:
        information[-1] = pool_information
    information[len(selected.rows) - 1] = selected.manifest["information"]
    return build_curve(information, len(selected.rows), pool_information)


def _texts(selected: Selected, effort: Effort) -> Texts | None:
    """Measure texts; None where reading single rows would take too long."""
    sources = selected.offered.pool.sources
    if sum(source.size for source in sources if not source.can_seek) > effort.unordered_bytes:
        return None
    size = max(sum(source.size for source in sources), 1)
    most = min(effort.rows, max(_FEWEST_ROWS, effort.row_bytes * selected.num_kept // size))
    return Texts.read(selected.request, selected.offered.pool, selected.rows, most)


def _other_choices(selected: Selected, texts: Texts | None) -> Iterator[MethodFigures]:
    """Yield the figures of simple choices of as many rows from the same pool."""
    budget, num_kept = len(selected.rows), selected.num_kept
    drawn = np.random.default_rng(_SEED).choice(num_kept, budget, replace=False)
    yield selected.figures("random", drawn)
    if selected.offered.scores is not None:
        yield selected.figures("top score", _best(selected.offered.scores.final, budget))
    if texts is not None and len(texts.in_pool) == num_kept:
        yield selected.figures("longest replies", _best(texts.lengths, budget), note="by characters")


def _annotated_rows(selected: Selected, texts: Texts | None) -> Iterator[AnnotatedRow]:
    """Yield some rows with their annotations, if the run annotated any and texts were read."""
    if selected.manifest.get("annotation") is None or texts is None:
        return
    pool, scores = selected.offered.pool, selected.offered.scores
    for row, text in texts.examples:
        yield AnnotatedRow(
            pool_index=int(pool.pool_indices[row]),
            text=_cut(text),
            labels=pool.labels.of_row(row),
            score=None if scores is None else float(scores.scaled[row]),
        )


def _best(values: NDArray[Any], count: int) -> NDArray[np.int64]:
    """Return the rows with the largest values, of equal ones the first; in no particular order."""
    least = np.partition(values, len(values) - count)[len(values) - count]
    above = np.flatnonzero(values > least)
    return np.concatenate((above, np.flatnonzero(values == least)[: count - len(above)]))


def plan_training(request: Request, rows: int, processes: int | None) -> Training | None:
    """Say what training on so many rows takes; None where other rows are trained on too, or nothing is."""
    host = request.site.host
    if processes is None or host.schedule is None or len(host.dataset) != len(request.entries):
        return None
    schedule = host.schedule
    return Training(
        steps=schedule.steps(rows, processes),
        rows_per_step=schedule.rows_per_batch * schedule.batches_per_step * processes,
        processes=processes,
        epochs=None if schedule.max_steps > 0 else schedule.epochs,
        planned_on=time.strftime("%Y-%m-%d"),
    )


def _labels(selected: Selected) -> Labels | None:
    """Describe the labels, and lay out the frequent ones if their vectors are known."""
    labels, graph = selected.offered.labels, selected.offered.graph
    if labels is None:
        return None
    mapped = graph.frequent if graph else np.zeros(0, np.int64)
    in_pool = labels.count_rows()
    return describe_labels(
        labels.names,
        in_pool,
        labels.count_rows(selected.rows),
        len(selected.rows) / selected.num_kept,
        mapped,
        lay_out(graph.frequent_vectors) if graph else np.zeros((0, 2)),
        _edges(graph, mapped) if graph else [],
        int(np.count_nonzero(selected.offered.pool.labels.count_rows()) - np.count_nonzero(in_pool)),
    )


def _edges(graph: LabelGraph, mapped: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Return the edges between the labels on the map, as indices into `mapped`, the smaller one first."""
    propagation = graph.propagation
    rows = np.repeat(np.arange(propagation.num_labels), np.diff(propagation.offsets))
    is_edge = (rows < propagation.columns) & np.isin(rows, mapped) & np.isin(propagation.columns, mapped)
    ends = np.searchsorted(mapped, np.stack((rows[is_edge], propagation.columns[is_edge])))
    return list(zip(*ends.tolist(), strict=True))


def _known_distributions(selected: Selected) -> Iterator[Distribution]:
    """Yield the distributions of what is known of all rows."""
    rows, scores, labels = selected.rows, selected.offered.scores, selected.offered.labels
    if scores is not None:
        yield describe_numbers("score", "score", scores.scaled, scores.scaled[rows])
    if labels is not None:
        yield describe_numbers("labels", "labels of a row", labels.counts, labels.counts[rows])
    if len(selected.request.entries) > 1:
        everything = np.arange(selected.num_kept)
        datasets = selected.rows_by_dataset(everything), selected.rows_by_dataset(rows)
        yield describe_categories("dataset", "dataset", *datasets)


def _chosen_rows(selected: Selected, ranks: NDArray[np.int64], effort: Effort) -> list[ChosenRow]:
    """Read some chosen rows, as the subset has them."""
    table = pq.read_table(selected.folder / SELECTION_TABLE)
    texts = dict(_quotes(selected, table["dataset"].to_numpy(), ranks))
    return [
        ChosenRow(
            rank=row["rank"],
            pool_index=row["row_index"],
            file=row["source_file"],
            source_row=row["source_row"],
            row_id=row["row_id"],
            question=texts[row["rank"]][0],
            answer=texts[row["rank"]][1],
            labels=row["labels"] or (),
            score=row["score"],
            gain=row["gain"],
            information=row["information"],
            **receipt,
        )
        for row, receipt in zip(table.take(ranks).to_pylist(), _receipts(selected, ranks, effort), strict=True)
    ]


def _receipts(selected: Selected, ranks: NDArray[np.int64], effort: Effort) -> Iterator[dict[str, Any]]:
    """Yield what earned each of some chosen rows its place, and which row lost to it; nothing for other methods."""
    known = selected.information_inputs
    if known is None or selected.manifest["method"] != "mig":
        yield from ({} for _ in ranks)
        return
    from mig_selector.selection.receipts import receipts  # here, as it loads numba

    names = known[0].labels.names
    # Budgets of tokens rank rows by gain per token, so the row with the next largest gain did not lose to them.
    runner_ups = selected.num_kept <= effort.runner_up_rows and selected.is_nested
    for each in receipts(*known, selected.selection, ranks.tolist(), runner_ups=runner_ups):
        yield {
            "earned": [(names[part.label], part.share) for part in each.shares],
            "runner_up": None if each.runner_up is None else int(selected.offered.pool.pool_indices[each.runner_up]),
            "runner_up_gain": each.runner_up_gain,
        }


def _quotes(
    selected: Selected, datasets: NDArray[Any], ranks: NDArray[np.int64]
) -> Iterator[tuple[int, tuple[str, str]]]:
    """Yield rank, question and answer of some chosen rows."""
    for subset in selected.manifest["subsets"]:
        entry = selected.request.entries[subset["entry_index"]]
        of_entry = np.flatnonzero(datasets == subset["dataset"])
        lines = np.flatnonzero(np.isin(of_entry, ranks))
        file = selected.folder / subset["json_lines"]
        for rank, record in zip(of_entry[lines].tolist(), read_lines(file, line_bounds(file), lines), strict=True):
            yield rank, _quote(record, entry)


def _quote(record: Mapping[str, Any], entry: PoolEntry) -> tuple[str, str]:
    """Return the first question and the first answer of a row, cut off where they are long."""
    try:
        turns = read_turns(record, entry)
    except ValueError:
        return "", ""
    first = {turn.role: turn.content for turn in reversed(turns)}
    question, answer = (first.get(role, "") for role in ("user", "assistant"))
    return _cut(question), _cut(answer)


def _cut(text: str) -> str:
    return text if len(text) <= _QUOTED_CHARACTERS else f"{text[: _QUOTED_CHARACTERS - 1]}…"


def _notes(selected: Selected, texts: Texts | None, effort: Effort) -> Iterator[str]:
    """Yield what is estimated, or left out, and why."""
    again = "mig-selector report, with the folder of the selection,"
    if selected.request.among is not None:
        yield "The pool is the rows that every method of a comparison can use, or that a study has not held out."
    if filled := selected.manifest["rows_filled_by_score"]:
        yield f"The method chose fewer rows than were asked for; the last {filled:,} were taken by score."
    if texts is None:
        yield (
            "Sources, lengths, turns and languages were not measured: the files of the pool do not give single rows, "
            f"and reading all would have taken too long. {again} measures them."
        )
    elif len(texts.in_pool) < selected.num_kept:
        yield (
            f"Sources, lengths, turns and languages are those of {len(texts.in_pool):,} rows of the pool and "
            f"{len(texts.among_chosen):,} chosen rows, drawn at random, so the longest rows are not known. {again} "
            "measures more."
        )
    if selected.manifest["method"] == "mig" and selected.request.arguments.counts_tokens:
        yield "Gains are per token, and the curve ends at the budget: a larger one may choose other rows first."
    if selected.is_nested and selected.num_kept > effort.runner_up_rows:
        yield f"The rows that lost to chosen ones were not looked for. {again} finds them."
    if selected.is_nested and selected.num_kept > max(effort.continued_rows, len(selected.rows)):
        yield f"The curve ends at the budget. {again} may continue it."


def _settings(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys that select the same again, without those that have their default."""
    keys, config = all_keys(), manifest["config"]
    return {key: value for key, value in config.items() if key not in keys or value != keys[key].default}


def _command(manifest: Mapping[str, Any]) -> str:
    """Return the command that selects the same again, from any folder."""
    words = ["mig-selector", "select"]
    for key, value in _settings(manifest).items():
        words += [f"--{key}", ",".join(value) if isinstance(value, list) else str(value)]
    return shlex.join(words)
