"""The recipe, top to bottom: pool, label vectors, graph, selection, subset, registration.

`run_selection` is called on every rank. Rank 0 reads, selects and writes; the others only embed and wait.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from decimal import ROUND_FLOOR, Decimal
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mig_selector.arguments import MigArguments, parse_arguments, split_keys
from mig_selector.console import progress
from mig_selector.embedding.encoder import Encoder, embed_labels
from mig_selector.embedding.given import read_given_vectors
from mig_selector.errors import ArgumentError, PoolError, RegistrationError
from mig_selector.graph.label_graph import LabelMatrix, build_adjacency, build_propagation
from mig_selector.graph.vocabulary import RowLabels, build_row_labels, read_vocabulary
from mig_selector.integration.config import HostArguments
from mig_selector.integration.handover import check_output_is_free, check_same_rows, leave_marks
from mig_selector.pipeline.delivery import Outcome, deliver, host_settings, new_entries, register
from mig_selector.pipeline.plan import ALGORITHM_VERSION, Plan, make_plan
from mig_selector.pool.fields import RowJudge
from mig_selector.pool.reading import Extracts, Pool, read_pool
from mig_selector.pool.subset import write_selection_table, write_subset
from mig_selector.ranks import Ranks, all_threads
from mig_selector.selection.greedy import measure_information, select_rows
from mig_selector.selection.problem import LabelledPool, Objective, Propagation, Selection
from mig_selector.store.files import locked, write_json
from mig_selector.store.hashing import fingerprint
from mig_selector.store.subsets import MANIFEST, copy_subset, remember_subset
from mig_selector.store.vectors import VectorCache


logger = logging.getLogger(__name__)


def run_selection(settings: Mapping[str, Any], ranks: Ranks | None = None, *, training: bool = False) -> list[Outcome]:
    """Select as a configuration says, register the subset, and say what training has to read.

    Args:
        settings: LLaMA-Factory's keys and the ``mig_*`` keys, as in a YAML.
        ranks: This process among those of the run; alone if None.
        training: Whether training follows: then there is one budget, and runs that would read other rows are refused.

    Returns:
        One outcome per budget, in the order given; the same on every rank.

    Raises:
        MigSelectorError: Something that the user can put right; on every rank, with the same message.
    """
    ranks = ranks or Ranks()
    host_settings, own_settings = split_keys(settings)
    arguments = parse_arguments(own_settings, training=training)
    host = HostArguments.read(host_settings)
    with contextlib.ExitStack() as held:
        job = _Job(arguments, host, training, held)
        answer = ranks.decide(lambda: _in_plain_words(job.prepare))
        if answer["labels"]:
            start = time.monotonic()
            vectors = _embed(answer["labels"], Encoder(**answer["encoder"]), arguments, ranks)
            if ranks.is_main:
                job.take_vectors(answer["labels"], vectors, time.monotonic() - start)
        if not answer["outcomes"]:
            answer = ranks.decide(lambda: _in_plain_words(job.finish))
    outcomes = [Outcome(**facts) for facts in answer["outcomes"]]
    deliver(outcomes, arguments.cache_dir, ranks)
    for outcome in outcomes:
        for line in outcome.summary:
            logger.info("%s", line)
    return outcomes


def _in_plain_words(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Do `work`; a file or folder that cannot be read or written is something that the user can put right."""
    try:
        return work()
    except OSError as error:
        raise RegistrationError(f"{error.filename or 'a file'} cannot be used: {error.strerror or error}.") from error


def _embed(labels: Sequence[str], encoder: Encoder, arguments: MigArguments, ranks: Ranks) -> NDArray[np.float32]:
    with progress("embedding labels", len(labels), "labels", is_main=ranks.is_main) as bar:
        return embed_labels(labels, encoder, arguments.mig_embedding_batch_size, ranks, bar)


class _Job:
    """The work of rank 0, cut at the one place where the other ranks take part: the embedding of labels."""

    def __init__(
        self, arguments: MigArguments, host: HostArguments, training: bool, held: contextlib.ExitStack
    ) -> None:
        self.arguments, self.host, self.training, self.held = arguments, host, training, held
        self.seconds: dict[str, float] = {}
        self.vectors: dict[str, NDArray[np.floating]] = {}

    def prepare(self) -> dict[str, Any]:
        """Find the finished selections; else read the pool and say which labels must be embedded."""
        with self._timed("finding"):
            self.plan = plan = make_plan(self.arguments, self.host)
            marks = [plan.mark(budget) for budget in self.arguments.budgets]
            if self.training:
                check_output_is_free(self.host)
                check_same_rows(self.host, marks[0])
            self.held.enter_context(_lock(self.arguments.cache_dir, fingerprint({"marks": marks})))
            found = [plan.find(mark) for mark in marks]
        if all(found):
            return {
                "labels": [],
                "outcomes": [self._reuse(mark, *hit) for mark, hit in zip(marks, found, strict=True) if hit],
            }
        self._read()
        missing = self._unknown_labels()
        return {"labels": missing, "outcomes": [], "encoder": asdict(plan.encoder) if plan.encoder else {}}

    def take_vectors(self, labels: Sequence[str], vectors: NDArray[np.float32], seconds: float) -> None:
        """Keep what the ranks embedded."""
        self.seconds["embedding"] = seconds
        self.vectors |= dict(zip(labels, vectors, strict=True))
        self._cache().write(labels, vectors)

    def finish(self) -> dict[str, Any]:
        """Select, write, register."""
        budgets = [_resolve_budget(budget, self.pool.report.kept) for budget in self.arguments.budgets]
        rows, graph = self._labelled_pool(), self._graph()
        propagation = Propagation(graph.offsets, graph.columns, graph.weights)
        objective = _objective(self.arguments)
        with (
            self._timed("selecting"),
            progress("selecting", max(budgets), "rows", is_main=True) as bar,
        ):
            selection = select_rows(rows, propagation, objective, max(budgets), bar)
        outcomes = []
        for asked, budget in zip(self.arguments.budgets, budgets, strict=True):
            value = measure_information(rows, propagation, objective, selection.rows[:budget])
            outcomes.append(self._write(self.plan.mark(asked), budget, selection, value))
        return {"labels": [], "outcomes": outcomes}

    def _read(self) -> None:
        plan, arguments = self.plan, self.arguments
        judge = RowJudge(arguments.mig_labels, arguments.mig_score)
        size = sum(source.size for sources in plan.sources for source in sources)
        with self._timed("reading"), progress("reading the pool", size, "B", is_main=True) as bar:
            extracts = Extracts(arguments.cache_dir, plan.hashes)
            self.pool = read_pool(
                plan.entries, plan.sources, plan.contents, judge, arguments.mig_on_bad_row, bar, extracts
            )
            vocabulary = None
            if arguments.mig_label_vocabulary:
                vocabulary = read_vocabulary(Path(arguments.mig_label_vocabulary))
            self.labels = build_row_labels(
                self.pool.label_names,
                self.pool.label_offsets,
                self.pool.label_ids,
                vocabulary=vocabulary,
                min_count=arguments.mig_min_label_count,
            )
        if not self.labels.names:
            raise PoolError(
                f"none of the {len(self.pool.label_names)} labels in the pool counts; "
                "check mig_label_vocabulary and mig_min_label_count."
            )
        _log_reading(self.pool, self.labels)
        for budget in arguments.budgets:
            _resolve_budget(budget, self.pool.report.kept)

    def _cache(self) -> VectorCache:
        encoder = self.plan.encoder
        if encoder is None:
            raise ValueError("vectors that the user gave are not cached")
        return VectorCache(self.arguments.cache_dir, fingerprint({**encoder.facts, "dtype": encoder.resolve_dtype()}))

    def _unknown_labels(self) -> list[str]:
        """Return the labels without a vector, taking what the user gave or the cache holds."""
        if self.arguments.mig_label_embeddings:
            given = read_given_vectors(Path(self.arguments.mig_label_embeddings), self.labels.names)
            self.vectors = dict(zip(self.labels.names, given, strict=True))
            return []
        self.vectors = self._cache().read(self.labels.names)
        return [label for label in self.labels.names if label not in self.vectors]

    def _graph(self) -> LabelMatrix:
        with self._timed("graph"), all_threads(Ranks()):
            vectors = np.stack([self.vectors[label] for label in self.labels.names])
            adjacency = build_adjacency(vectors, self.arguments.mig_edge_threshold)
            logger.info("graph: %s labels, %s edges", f"{len(vectors):,}", f"{adjacency.num_edges:,}")
            self.num_edges = adjacency.num_edges
            return build_propagation(adjacency, self.arguments.mig_propagation_weight)

    def _scores(self) -> NDArray[np.float64]:
        """Scores before normalisation."""
        if self.arguments.mig_score == "num_labels":
            return np.diff(self.labels.offsets).astype(np.float64)
        return self.pool.scores

    def _labelled_pool(self) -> LabelledPool:
        scores = self._scores()
        if self.arguments.mig_normalize:
            scores = scores / np.diff(self.pool.label_offsets)
        pool = LabelledPool(self.labels.offsets, self.labels.ids, scores)
        if not math.isfinite(pool.total_score):
            raise PoolError("mig_score: the scores are so large that their sum is no finite number; scale them down.")
        return pool

    def _write(self, mark: str, budget: int, selection: Selection, value: float) -> dict[str, Any]:
        """Write one subset, its table and its manifest."""
        plan, pool = self.plan, self.pool
        name = plan.entry_name(budget)
        folder = plan.output_dir / f"{name}-{mark[:8]}"
        chosen, gains = selection.rows[:budget], selection.gains[:budget]
        idle = int(np.count_nonzero(gains <= 0))
        with self._timed("writing"), progress("writing the subset", budget, "rows", is_main=True) as bar:
            subsets, ids = _write_subsets(plan, pool, chosen, folder, bar)
            write_selection_table(
                folder / "selection.parquet",
                pool,
                [entry.name for entry in plan.entries],
                chosen,
                gains,
                [self.labels.of_row(row) for row in chosen],
                self._scores()[chosen],
                ids,
            )
        plan.check_unchanged()  # chosen rows were read again: they must be those that were judged
        names = ["selection.parquet", *(part[kind] for part in subsets for kind in ("json_lines", "file"))]
        files = {file: plan.hashes.file(folder / file) for file in dict.fromkeys(names)}
        manifest = {
            "fingerprint": mark,
            "dataset_name": name,
            "algorithm_version": ALGORITHM_VERSION,
            "budget": budget,
            "rows_without_gain": idle,
            "information": value,
            "labels": len(self.labels.names),
            "edges": self.num_edges,
            "rows": vars(pool.report),
            "subsets": subsets,
            "files": files,
            "pool": plan.describe_pool(),
            "settings": asdict(self.arguments),
            "encoder": asdict(plan.encoder) if plan.encoder else None,
            "versions": _versions(),
            "seconds": {stage: round(seconds, 3) for stage, seconds in self.seconds.items()},
        }
        write_json(folder / MANIFEST, manifest)
        summary = _summarise(pool, budget, idle, value, self.seconds)
        return self._hand_over(mark, folder, manifest, summary)

    def _reuse(self, mark: str, found: Path, manifest: dict[str, Any]) -> dict[str, Any]:
        """Take a finished selection; copy it where another name or folder is wanted."""
        folder = self.plan.output_dir / f"{self.plan.entry_name(manifest['budget'])}-{mark[:8]}"
        if folder != found:
            copy_subset(found, folder)
        summary = [
            f"already selected: {manifest['budget']:,} of {manifest['rows']['kept']:,} rows; nothing is computed"
        ]
        return self._hand_over(mark, folder, manifest, summary)

    def _hand_over(self, mark: str, folder: Path, manifest: dict[str, Any], summary: list[str]) -> dict[str, Any]:
        plan = self.plan
        entries = new_entries(plan, manifest, folder, mark)
        by_pool_name = {
            entry.name: name for entry, name in zip(plan.entries, plan.subset_names(manifest["budget"]), strict=True)
        }
        left_out = [name for name in by_pool_name if by_pool_name[name] not in entries]
        if left_out and self.host.interleave_probs:
            raise ArgumentError(
                f"interleave_probs names a share for each dataset, but no row of {', '.join(left_out)} was chosen; "
                "raise mig_num_samples, or leave the dataset out."
            )
        if left_out:
            logger.info("no row of %s was chosen; training leaves it out", ", ".join(left_out))
        is_registered = register(plan, entries)
        remember_subset(mark, folder, self.arguments.cache_dir)
        settings = host_settings(plan, by_pool_name, entries, folder)
        known = "registered as" if is_registered else "not registered, as dataset_dir cannot be written to:"
        summary.append(f"subset: {folder}, {known} {', '.join(entries)}")
        if self.host.max_samples is not None and self.host.max_samples < manifest["budget"]:
            summary.append(f"max_samples: training sees the first {self.host.max_samples} of the chosen rows only")
        if self.training:
            leave_marks(self.host, {"fingerprint": mark, "subset": str(folder), "dataset": list(entries)})
        kept = {pool: name for pool, name in by_pool_name.items() if name in entries}
        return asdict(Outcome(mark, str(folder), manifest["budget"], kept, settings, summary))

    @contextlib.contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.monotonic() - start


def _objective(arguments: MigArguments) -> Objective:
    return Objective(
        phi=arguments.mig_phi,
        exponent=arguments.mig_phi_exponent,
        offset=arguments.mig_phi_offset,
        rate=arguments.mig_phi_rate,
        gain=arguments.mig_gain,
    )


def _resolve_budget(budget: float, kept: int) -> int:
    """Turn a share of the kept rows into a number, rounded down; refuse more rows than there are."""
    if isinstance(budget, float):
        return max(int((Decimal(str(budget)) * kept).to_integral_value(ROUND_FLOOR)), 1)
    if budget > kept:
        raise ArgumentError(
            f"mig_num_samples: {budget} rows are asked for, but the pool has {kept} rows to choose from."
        )
    return int(budget)


@contextlib.contextmanager
def _lock(cache_dir: Path, name: str) -> Iterator[None]:
    """Keep equal selections that run at the same time from doing the same work twice."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(cache_dir / "locks" / name[:32]))
        except OSError as error:
            raise RegistrationError(
                f"mig_cache_dir: {cache_dir} cannot be written ({error}); give another folder."
            ) from error
        yield


def _log_reading(pool: Pool, labels: RowLabels) -> None:
    report = pool.report
    logger.info(
        "pool: read %s rows of %s, kept %s",
        f"{report.read:,}",
        ", ".join(s.name for s in pool.sources[:5]),
        f"{report.kept:,}",
    )
    for reason, count in report.dropped.items():
        logger.info("  dropped %s: %s", f"{count:,}", reason)
    for reason, count in report.unreadable.items():
        logger.info("  skipped %s: row %s", f"{count:,}", reason)
    for row in report.unreadable_rows[:20]:
        logger.info("    %s", row.encode("unicode_escape").decode("ascii"))
    if report.duplicates:
        logger.info("  %s rows are there more than once; all copies stay in the pool", f"{report.duplicates:,}")
    logger.info("  %s of %s labels count", f"{len(labels.names):,}", f"{len(pool.label_names):,}")


def _summarise(pool: Pool, budget: int, idle: int, value: float, seconds: Mapping[str, float]) -> list[str]:
    report = pool.report
    lost = f"{report.dropped.total():,} dropped, {report.unreadable.total():,} skipped"
    without = f", {idle:,} of them without any gain (nothing better was left)" if idle else ""
    return [
        f"pool: {report.read:,} rows read, {lost}",
        f"chosen: {budget:,} of {report.kept:,} rows, E(D) {value:.6g}{without}",
        f"seconds: {', '.join(f'{stage} {spent:.1f}' for stage, spent in seconds.items())}",
    ]


def _write_subsets(
    plan: Plan, pool: Pool, chosen: NDArray[np.int64], folder: Path, on_rows: Any
) -> tuple[list[dict[str, Any]], list[str | None]]:
    """Write one file per name of the pool; return what the manifest says of each, and all row ids in order."""
    owners = np.array(pool.source_entries)[pool.locate(chosen)[0]]
    ids: list[str | None] = [None] * len(chosen)
    subsets: list[dict[str, Any]] = []
    for place, entry in enumerate(plan.entries):
        ranks = np.flatnonzero(owners == place)
        if len(ranks) == 0:
            continue
        stem = "selected" if len(plan.entries) == 1 else f"selected__{entry.name}"
        subset = write_subset(pool, entry, chosen[ranks], folder, stem, on_rows)
        subsets.append(
            {
                "dataset": entry.name,
                "place": place,
                "rows": len(ranks),
                "json_lines": subset.json_lines.name,
                "file": subset.trainer_file.name,
                "columns": subset.columns,
            }
        )
        for rank, row_id in zip(ranks.tolist(), subset.row_ids, strict=True):
            ids[rank] = row_id
    return subsets, ids


def _versions() -> dict[str, str]:
    found = {}
    for package in (
        "mig_selector",
        "llamafactory",
        "torch",
        "transformers",
        "sentence-transformers",
        "numpy",
        "numba",
    ):
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
