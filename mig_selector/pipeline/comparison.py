"""Several methods on one pool and one budget: the same rows to choose from, and the same measures for all."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mig_selector.annotation.tokens import count_tokens
from mig_selector.arguments import MigArguments, parse_arguments, split_keys
from mig_selector.arrays import RowLabels
from mig_selector.errors import ArgumentError
from mig_selector.integration.config import HostArguments
from mig_selector.pipeline.crew import Crew
from mig_selector.pipeline.deliver import Outcome, write_own_dataset_info
from mig_selector.pipeline.names import comparison_name
from mig_selector.pipeline.needs import DEFAULT_LABELS, Needs, resolve_needs
from mig_selector.pipeline.recipe import run_selection
from mig_selector.pipeline.request import Request, resolve
from mig_selector.pipeline.rows import KeptRows
from mig_selector.pipeline.site import pool_names
from mig_selector.pipeline.stages import Clock, finish_scores, information_of, label, link, log_reading, measure, read
from mig_selector.pool.reading import Pool
from mig_selector.ranks.world import Ranks
from mig_selector.report.comparison import Comparison, MethodFigures, format_table
from mig_selector.report.writing import write_comparison
from mig_selector.store.files import read_json
from mig_selector.store.hashing import fingerprint_of
from mig_selector.store.subsets import MANIFEST, check_own_folder


logger = logging.getLogger(__name__)


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

    All choose from the rows that every one of them can use. E(D) is measured where ``mig`` is among the methods.

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
        MigSelectorError: Something that the user can put right; on every rank, with the same message.
    """
    ranks = ranks or Ranks()
    host_settings, own_settings = split_keys(settings)
    host = HostArguments.read(host_settings)
    needs = _resolve_all(own_settings, host, methods)
    common = {**settings, **_common_keys(own_settings, needs)}
    stem = common.pop("mig_dataset_name", None)
    measure = "mig" if "mig" in methods else "top_score" if any(each.score for each in needs) else "random"
    arguments = parse_arguments({**split_keys(common)[1], "mig_method": measure}, training=False)
    outcomes: list[Outcome] = []
    required = sorted({path for each in needs for path in each.number_paths})
    for each in needs:
        logger.info("comparing: %s", each.method.name)
        # Of a name of their own: entries of plain selections keep pointing to theirs.
        name = comparison_name(stem, pool_names(arguments, host), each.method.short_name)
        keys = {"mig_method": each.method.name, "mig_dataset_name": name}
        outcomes += run_selection({**common, **keys}, ranks, required=required, register=register)
    crew = Crew(ranks, arguments)
    return Compared(**crew.run(lambda: _compare(arguments, host, crew, methods, outcomes, required)))


def _resolve_all(own_settings: Mapping[str, Any], host: HostArguments, methods: Sequence[str]) -> list[Needs]:
    """Check all settings and methods before anything is read."""
    if len(set(methods)) != len(methods) or not all(methods):
        raise ArgumentError(
            f"--methods: expected different names with commas between them, got {','.join(methods)!r}."
        )
    found = []
    for method in methods:
        arguments = parse_arguments({**own_settings, "mig_method": method}, training=False)
        if len(arguments.budgets) > 1:
            raise ArgumentError(
                f"mig_num_samples: {arguments.mig_num_samples!r} is a list; a comparison takes one budget."
            )
        found.append(resolve_needs(arguments, host))
    return found


def _common_keys(own_settings: Mapping[str, Any], needs: Sequence[Needs]) -> dict[str, Any]:
    """Have labels read for all methods if one needs them: then all keep the same rows."""
    if any(each.labels for each in needs):
        return {"mig_labels": own_settings.get("mig_labels") or DEFAULT_LABELS}
    return {}


def _compare(
    arguments: MigArguments,
    host: HostArguments,
    crew: Crew,
    methods: Sequence[str],
    outcomes: Sequence[Outcome],
    required: Sequence[str],
) -> dict[str, Any]:
    """Measure what the methods chose, and write the comparison: what rank 0 does after they have chosen."""
    request = resolve(arguments, host, required)
    measured = measure(read(request), request, crew)
    pool, labels = measured.pool, label(measured.pool, request)
    log_reading(pool, labels)
    scores = finish_scores(measured, labels, request)
    graph = link(labels, request, crew, Clock())
    manifests = [read_json(Path(outcome.folder) / MANIFEST) for outcome in outcomes]
    choices = [_read_choice(pool, Path(outcome.folder)) for outcome in outcomes]
    lengths = _Lengths(request, pool, np.unique(np.concatenate(choices)))
    comparison = Comparison(
        pool="+".join(entry.name for entry in request.entries),
        budget=outcomes[0].budget,
        kept_rows=pool.report.kept,
        read_rows=pool.report.read,
        score=request.needs.score.name if request.needs.score else "none",
        tokenizer=lengths.tokenizer,
        figures=[
            MethodFigures(
                method=method,
                rows=len(rows),
                seconds=manifest["seconds"]["selecting"],
                peak_memory_bytes=manifest["peak_memory_bytes"],
                information=information_of(rows, request, labels, scores, graph),
                label_coverage=_coverage(labels, rows),
                mean_score=None if scores is None else float(np.mean(scores.raw[rows])),
                tokens=lengths.tokens(rows),
                sources=lengths.sources(rows),
                folder=outcome.folder,
                note=_describe_filling(manifest["rows_filled_by_score"]),
            )
            for method, rows, manifest, outcome in zip(methods, choices, manifests, outcomes, strict=True)
        ],
        overlaps=[[len(np.intersect1d(one, other)) / len(one) for other in choices] for one in choices],
        settings=request.settings,
        versions=manifests[0]["versions"],
    )
    identity = {"methods": list(methods), "selections": [outcome.fingerprint for outcome in outcomes]}
    folder = request.site.output_dir / f"comparison-{fingerprint_of(identity)[:16]}"
    check_own_folder(folder)
    write_comparison(folder, comparison)
    logger.info("dataset_dir with the subsets: %s", write_own_dataset_info(folder, outcomes).parent)
    return asdict(Compared(str(folder), format_table(comparison)))


def _read_choice(pool: Pool, folder: Path) -> NDArray[np.int64]:
    """Return the chosen rows as indices among the kept ones, in the order of choice."""
    import pyarrow.parquet as pq

    rows = pq.read_table(folder / "selection.parquet", columns=["row_index"])["row_index"].to_numpy()
    kept_indices: NDArray[np.int64] = np.searchsorted(pool.pool_indices, rows)
    return kept_indices


class _Lengths:
    """Length and source of the rows that some method chose."""

    def __init__(self, request: Request, pool: Pool, rows: NDArray[np.int64]) -> None:
        """Read `rows`, ascending indices among the kept ones."""
        self._rows = rows
        is_left_out = np.ones(pool.report.kept, np.bool_)
        is_left_out[rows] = False
        chosen = pool.without(is_left_out, "not chosen")
        self._sources = list(_sources(request, chosen))
        self.tokenizer = request.arguments["mig_tokenizer"] or request.site.host.model_name_or_path
        self._tokens: NDArray[np.int64] | None = None
        if self.tokenizer is not None:
            key = "mig_tokenizer" if request.arguments["mig_tokenizer"] else "model_name_or_path"
            exchanges = KeptRows(request, chosen).exchanges("all")
            texts = ("\n".join((each.instruction, each.input, each.response)) for each in exchanges)
            self._tokens = count_tokens(texts, self.tokenizer, key)

    def tokens(self, rows: NDArray[np.int64]) -> int | None:
        """Return the tokens of some rows together."""
        return None if self._tokens is None else int(self._tokens[np.searchsorted(self._rows, rows)].sum())

    def sources(self, rows: NDArray[np.int64]) -> dict[str, int]:
        """Count some rows by source."""
        return dict(Counter(self._sources[index] for index in np.searchsorted(self._rows, rows)))


def _sources(request: Request, pool: Pool) -> Iterator[str]:
    """Yield where each row is from: its own `source`, as the published pools name it, else the dataset."""
    for row in pool.rows(["source"]):
        source = row.record.get("source")
        names = source if isinstance(source, list) else [source]
        known = [name for name in names if isinstance(name, str) and name]
        yield "+".join(known) or request.entries[row.entry_index].name


def _describe_filling(filled: int) -> str | None:
    return f"{filled:,} rows filled up by score" if filled else None


def _coverage(labels: RowLabels | None, rows: NDArray[np.int64]) -> float | None:
    """Return the share of the labels that some rows have between them."""
    if labels is None:
        return None
    has_label = np.zeros(len(labels.names), np.bool_)
    for row in rows:
        has_label[labels.ids[labels.offsets[row] : labels.offsets[row + 1]]] = True
    return float(np.mean(has_label))
