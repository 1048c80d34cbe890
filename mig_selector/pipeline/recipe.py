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
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mig_selector.arguments import MigArguments, parse_arguments, split_keys
from mig_selector.console import progress
from mig_selector.embedding.encoder import Encoder, embed_labels, find_same_encoder
from mig_selector.embedding.given import read_given_vectors
from mig_selector.errors import ArgumentError, PoolError, RegistrationError
from mig_selector.graph.label_graph import LabelMatrix, build_adjacency, build_propagation
from mig_selector.graph.vocabulary import RowLabels, build_row_labels, read_vocabulary
from mig_selector.integration.config import HostArguments
from mig_selector.integration.handover import check_output_is_free, check_same_rows
from mig_selector.pipeline.delivery import Finished, Outcome, deliver, settle, tell_of
from mig_selector.pipeline.plan import ALGORITHM_VERSION, Plan, make_plan
from mig_selector.pool.fields import RowJudge
from mig_selector.pool.reading import Extracts, Pool, read_pool
from mig_selector.pool.subset import write_selection_table, write_subset
from mig_selector.ranks.group import all_threads
from mig_selector.ranks.world import Ranks
from mig_selector.selection.greedy import measure_information, select_rows
from mig_selector.selection.problem import LabelledPool, Objective, Propagation, Selection
from mig_selector.store.files import locked, write_json
from mig_selector.store.hashing import ContentHashes, fingerprint
from mig_selector.store.subsets import MANIFEST, copy_subset
from mig_selector.store.vectors import VectorCache


Result = TypeVar("Result")

logger = logging.getLogger(__name__)

_PLACES = (
    *("mig_output_dir", "mig_cache_dir", "mig_label_embeddings", "mig_label_vocabulary", "mig_embedding_model"),
    *("mig_embedding_batch_size", "mig_report"),
)
"""Keys that may differ between nodes: where things stand, and what rank 0 tells the others anyway."""


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
        if not ranks.are_on_one_node:
            _check_same_settings(arguments, host, answer["settings"])
        if answer["labels"]:
            start = time.monotonic()
            encoder = _encoder_here(Encoder(**answer["encoder"]), arguments, ranks)
            with progress("embedding labels", len(answer["labels"]), "labels", is_main=ranks.is_main) as bar:
                embedded = embed_labels(answer["labels"], encoder, answer["batch_size"], ranks, bar)
                for labels, vectors in embedded:
                    if ranks.is_main:
                        _in_plain_words(lambda: job.take_vectors(labels, vectors))  # noqa: B023
            job.seconds["embedding"] = time.monotonic() - start
        if not answer["outcomes"]:
            answer = ranks.decide(lambda: _in_plain_words(job.finish))
    finished = [Finished(**facts) for facts in answer["finished"]]
    outcomes = [Outcome(**facts) for facts in answer["outcomes"]]
    outcomes = _in_plain_words(lambda: deliver(finished, outcomes, arguments, host, ranks, training=training))
    for outcome in outcomes:
        for line in outcome.summary:
            logger.info("%s", line)
    return outcomes


def _in_plain_words(work: Callable[[], Result]) -> Result:
    """Do `work`; a file or folder that cannot be read or written is something that the user can put right."""
    try:
        return work()
    except OSError as error:
        raise RegistrationError(
            f"{error.filename or 'a file'} cannot be used: {error.strerror or error}. "
            "Make room or grant access there, or set mig_output_dir or mig_cache_dir to another folder."
        ) from error


def _shared_settings(arguments: MigArguments, host: HostArguments) -> dict[str, Any]:
    """Return the settings that must be the same on every node; folders and files may stand elsewhere on each."""
    keys = {key: value for key, value in asdict(arguments).items() if key not in _PLACES}
    return {"dataset": list(host.dataset), **keys}


def _check_same_settings(arguments: MigArguments, host: HostArguments, settings: Mapping[str, Any]) -> None:
    """Refuse a node that was started with other settings than rank 0's: one brain decides for all."""
    for key, value in _shared_settings(arguments, host).items():
        if value != settings[key]:
            raise ArgumentError(
                f"{key}: {value!r} on this node, but {settings[key]!r} on that of rank 0; "
                "start every node with the same configuration."
            )


def _encoder_here(encoder: Encoder, arguments: MigArguments, ranks: Ranks) -> Encoder:
    """Find the encoder of rank 0 on this node; a folder may stand elsewhere, but must hold the same files."""
    if ranks.are_on_one_node or encoder.revision is not None:
        return encoder

    def find() -> dict[str, Any]:
        return asdict(find_same_encoder(encoder, arguments.mig_embedding_model, ContentHashes(arguments.cache_dir)))

    # All or none go on: a rank that waits for others to join its process group hears of nothing else.
    return ranks.agree(lambda: Encoder(**ranks.decide_on_node(lambda: _in_plain_words(find))))


class _Job:
    """The work of rank 0, cut at the one place where the other ranks take part: the embedding of labels."""

    def __init__(
        self, arguments: MigArguments, host: HostArguments, training: bool, held: contextlib.ExitStack
    ) -> None:
        self.arguments, self.host, self.training, self.held = arguments, host, training, held
        self.seconds: dict[str, float] = {}
        self.vectors: dict[str, NDArray[np.floating]] = {}
        self.embedding = held.enter_context(contextlib.ExitStack())
        """Open while labels are being embedded."""

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
        settings = _shared_settings(self.arguments, self.host)
        if all(found):
            hits = [self._reuse(mark, *hit) for mark, hit in zip(marks, found, strict=True) if hit]
            return {"labels": [], "settings": settings, **self._hand_over(hits)}
        self._read()
        return {
            "labels": self._unknown_labels(),
            "settings": settings,
            "encoder": asdict(plan.encoder) if plan.encoder else {},
            "batch_size": self.arguments.mig_embedding_batch_size,
            "outcomes": [],
        }

    def take_vectors(self, labels: Sequence[str], vectors: NDArray[np.float32]) -> None:
        """Keep what the ranks embedded so far."""
        self.vectors |= dict(zip(labels, vectors, strict=True))
        self._cache().write(labels, vectors)

    def finish(self) -> dict[str, Any]:
        """Select, write, register."""
        self.embedding.close()
        budgets = [_resolve_budget(budget, self.pool.report.kept) for budget in self.arguments.budgets]
        rows, graph = self._labelled_pool(), self._graph()
        propagation = Propagation(graph.offsets, graph.columns, graph.weights)
        objective = _objective(self.arguments)
        with (
            self._timed("selecting"),
            progress("selecting", max(budgets), "rows", is_main=True) as bar,
        ):
            selection = select_rows(rows, propagation, objective, max(budgets), bar)
        finished = []
        for asked, budget in zip(self.arguments.budgets, budgets, strict=True):
            value = measure_information(rows, propagation, objective, selection.rows[:budget])
            finished.append(self._write(self.plan.mark(asked), budget, selection, value))
        return self._hand_over(finished)

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
        cache = self._cache()
        self.embedding.enter_context(cache.locked())  # another run may be embedding the same labels just now
        self.vectors = cache.read(self.labels.names)
        missing = [label for label in self.labels.names if label not in self.vectors]
        if not missing:
            self.embedding.close()
        return missing

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

    def _write(self, mark: str, budget: int, selection: Selection, value: float) -> Finished:
        """Write one subset, its table and its manifest."""
        plan, pool = self.plan, self.pool
        name = plan.entry_name(budget)
        folder = plan.site.output_dir / f"{name}-{mark[:8]}"
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
        return tell_of(plan, mark, folder, manifest, _summarise(pool, budget, idle, value, self.seconds))

    def _reuse(self, mark: str, found: Path, manifest: dict[str, Any]) -> Finished:
        """Take a finished selection; copy it where another name or folder is wanted."""
        folder = self.plan.site.output_dir / f"{self.plan.entry_name(manifest['budget'])}-{mark[:8]}"
        if folder != found:
            copy_subset(found, folder)
        summary = [
            f"already selected: {manifest['budget']:,} of {manifest['rows']['kept']:,} rows; nothing is computed"
        ]
        return tell_of(self.plan, mark, folder, manifest, summary)

    def _hand_over(self, finished: Sequence[Finished]) -> dict[str, Any]:
        """Register what is finished; return what every rank is to know."""
        outcomes = [settle(subset, self.plan.site, training=self.training) for subset in finished]
        return {
            "finished": [asdict(subset) for subset in finished],
            "outcomes": [asdict(outcome) for outcome in outcomes],
        }

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
