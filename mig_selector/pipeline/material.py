"""What is known of a pool's kept rows, on rank 0: what the method needs, read, computed or taken from the cache.

Where a model has to run, a step yields a task that every rank does, and then goes on.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mig_selector.annotation.ifd import read_ifd
from mig_selector.annotation.tokens import count_tokens
from mig_selector.arrays import Propagation, RowLabels
from mig_selector.console import progress
from mig_selector.embedding.encoder import Encoder
from mig_selector.embedding.given import read_given_vectors
from mig_selector.embedding.rows import check_given_rows, read_given_rows
from mig_selector.errors import PoolError
from mig_selector.graph.label_graph import build_adjacency, build_propagation
from mig_selector.graph.vocabulary import count_labels, read_vocabulary
from mig_selector.pipeline.plan import Plan, tokenizer_key
from mig_selector.pipeline.tasks import EmbedLabels, EmbedRows, MeasureIfd, Task
from mig_selector.pipeline.texts import read_embedded_texts, read_exchanges, read_records, skip_unreadable
from mig_selector.pool.conversation import Exchange
from mig_selector.pool.index.cache import IndexCache
from mig_selector.pool.reading import Pool, read_pool
from mig_selector.ranks.group import all_threads
from mig_selector.ranks.world import Ranks
from mig_selector.selection.method import Candidates
from mig_selector.store.hashing import fingerprint_of
from mig_selector.store.vectors import VectorCache


logger = logging.getLogger(__name__)

_COPIED_ROWS = 4_096
_NO_IFD = "no IFD: no answer, one of a single token, or none of it within mig_ifd_max_tokens"


class Seconds(dict[str, float]):
    """How long each stage took."""

    @contextlib.contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add up the time that a stage takes."""
        start = time.monotonic()
        yield
        self[stage] = self.get(stage, 0.0) + time.monotonic() - start


class Material:
    """N kept rows. The steps are to be taken in the order in which they stand here."""

    pool: Pool
    labels: RowLabels | None = None
    scores: NDArray[np.float64] | None = None
    """Before normalisation; None where the method needs none. Shape (N,)."""
    propagation: Propagation | None = None
    num_edges: int | None = None
    embeddings: NDArray[np.floating[Any]] | None = None
    """Mapped from a file. Shape (N, D)."""

    def __init__(self, plan: Plan, seconds: Seconds) -> None:
        """Know nothing yet."""
        self.plan, self.arguments, self.seconds = plan, plan.arguments, seconds
        self._vectors: dict[str, NDArray[np.floating[Any]]] = {}

    def exchanges(self) -> Iterator[Exchange]:
        """Yield question and answer of each kept row."""
        return read_exchanges(self.plan, self.pool)

    def embedded_texts(self) -> Iterator[str]:
        """Yield the text of each kept row that is to be embedded."""
        return read_embedded_texts(self.plan, self.pool)

    def take_vectors(self, labels: Sequence[str], vectors: NDArray[np.float32]) -> None:
        """Keep the vectors of some labels, here and in the cache."""
        self._vectors |= dict(zip(labels, vectors, strict=True))
        self._vector_cache().write(labels, vectors)

    def read(self) -> None:
        """Read what stands in the pool."""
        plan, arguments = self.plan, self.arguments
        size = sum(source.size for sources in plan.sources for source in sources)
        with self.seconds.timed("reading"), progress("reading the pool", size, "B", is_main=True) as bar:
            extracts = IndexCache(arguments.cache_dir, plan.hashes)
            self.pool = read_pool(
                plan.entries, plan.sources, plan.contents, plan.needs.judge(), arguments.mig_on_bad_row, bar, extracts
            )
            if plan.needs.has_texts:
                self.pool = skip_unreadable(plan, self.pool)

    def score(self) -> Iterator[Task]:
        """Have the scores that do not stand in the pool computed; drop the rows that have none."""
        needs = self.plan.needs
        if needs.score is None:
            return
        if self.plan.models.tokenizer is not None:
            with self.seconds.timed("counting tokens"):
                self.scores = self._count_response_tokens()
        elif self.plan.models.ifd is not None:
            yield from self._measure_ifd(self.plan.models.ifd)
        else:
            self.scores = self.pool.scores

    def _measure_ifd(self, model: Encoder) -> Iterator[Task]:
        limit = self.arguments.mig_ifd_max_tokens
        path = self._cache_path("ifd", {"max_tokens": limit}, model)
        with self.seconds.timed("IFD"):
            yield MeasureIfd(model, self.pool.report.kept, str(path), limit)
        scores = read_ifd(path)
        has_none = np.isnan(scores)
        if has_none.any():
            self.pool = self.pool.without(has_none, _NO_IFD)
        self.scores = scores[~has_none]

    def _count_response_tokens(self) -> NDArray[np.float64]:
        tokenizer = self.plan.models.tokenizer
        if tokenizer is None:
            raise ValueError("there is no tokenizer")
        with progress("counting tokens", self.pool.report.kept, "rows", is_main=True) as bar:
            answers = (_counted(exchange.response, bar) for exchange in self.exchanges())
            return count_tokens(answers, tokenizer.model, tokenizer_key(self.arguments), tokenizer.revision).astype(
                np.float64
            )

    def label(self) -> None:
        """Find out which labels count, and what their number has to do with the scores."""
        needs, arguments = self.plan.needs, self.arguments
        if needs.labels is None:
            _log_reading(self.pool, None)
            return
        vocabulary = read_vocabulary(Path(arguments.mig_label_vocabulary)) if arguments.mig_label_vocabulary else None
        self.labels = count_labels(self.pool.labels, vocabulary=vocabulary, min_count=arguments.mig_min_label_count)
        if not self.labels.names:
            raise PoolError(
                f"none of the {len(self.pool.labels.names)} labels in the pool counts; "
                "check mig_label_vocabulary and mig_min_label_count."
            )
        if needs.score == "num_labels":
            self.scores = self.labels.counts.astype(np.float64)
        _log_reading(self.pool, self.labels)

    def link_labels(self) -> Iterator[Task]:
        """Embed the labels and build their graph, if the method needs it."""
        if not self.plan.needs.has("propagation"):
            return
        names = self._names()
        with contextlib.ExitStack() as held:
            missing = self._unknown_labels(names, held)
            if missing and self.plan.models.labels is not None:
                with self.seconds.timed("embedding"):
                    yield EmbedLabels(self.plan.models.labels, missing, self.arguments.mig_embedding_batch_size)
        with self.seconds.timed("graph"), all_threads(Ranks()):
            vectors = np.stack([self._vectors[label] for label in names])
            adjacency = build_adjacency(vectors, self.arguments.mig_edge_threshold)
            logger.info("graph: %s labels, %s edges", f"{len(vectors):,}", f"{adjacency.num_edges:,}")
            self.num_edges = adjacency.num_edges
            self.propagation = build_propagation(adjacency, self.arguments.mig_propagation_weight)

    def _vector_cache(self) -> VectorCache:
        encoder = self.plan.models.labels
        if encoder is None:
            raise ValueError("vectors that the user gave are not cached")
        return VectorCache(
            self.arguments.cache_dir, fingerprint_of({**encoder.identity, "dtype": encoder.resolve_dtype()})
        )

    def _names(self) -> Sequence[str]:
        if self.labels is None:
            raise ValueError("no labels were read")
        return self.labels.names

    def _unknown_labels(self, names: Sequence[str], held: contextlib.ExitStack) -> list[str]:
        """Return the labels without a vector, taking what the user gave or the cache holds."""
        if self.arguments.mig_label_embeddings:
            given = read_given_vectors(Path(self.arguments.mig_label_embeddings), names)
            self._vectors = dict(zip(names, given, strict=True))
            return []
        cache = self._vector_cache()
        held.enter_context(cache.locked())  # another run may be embedding the same labels just now
        self._vectors = cache.read(names)
        return [label for label in names if label not in self._vectors]

    def embed(self) -> Iterator[Task]:
        """Have the rows embedded, or take the vectors that the user gave."""
        if not self.plan.needs.has("embeddings"):
            return
        how, encoder = self.plan.needs.embedding, self.plan.models.rows
        if how is None or encoder is None:
            self.embeddings = self._given_rows(Path(str(self.arguments.mig_row_embeddings)))
            return
        facts = {"template": how.template, "pooling": how.pooling, "max_tokens": how.max_tokens}
        path = self._cache_path("row_embeddings", facts, encoder)
        with self.seconds.timed("embedding rows"):
            yield EmbedRows(encoder, self.pool.report.kept, str(path), how.pooling, how.max_tokens)
        self.embeddings = np.load(path, mmap_mode="r", allow_pickle=False)

    def _given_rows(self, path: Path) -> NDArray[np.floating[Any]]:
        rows = self.pool.pool_indices
        vectors = read_given_rows(path, self.pool.report.read)
        check_given_rows(path, vectors, rows)
        return vectors if len(rows) == len(vectors) else _take_mapped(vectors, rows, self.arguments.cache_dir)

    def _cache_path(self, kind: str, facts: Mapping[str, Any], encoder: Encoder) -> Path:
        """Name what a model makes of the kept rows by all that decides it."""
        entries = [entry.identity for entry in self.plan.entries]
        everything = {
            **facts,
            "model": {**encoder.identity, "dtype": encoder.resolve_dtype()},
            "turns": self.arguments.mig_turns,
            "pool": [self.plan.contents, entries],
            "rows": hashlib.sha256(self.pool.pool_indices.tobytes()).hexdigest(),
        }
        return self.arguments.cache_dir / kind / f"{fingerprint_of(everything)[:32]}.npy"

    def candidates(self) -> Candidates:
        """Offer the rows to the method."""
        return Candidates(
            self.pool.report.kept,
            labels=self.labels,
            propagation=self.propagation,
            scores=self._final_scores(),
            embeddings=self.embeddings,
            records=lambda: read_records(self.pool),
            texts=lambda: ((_question(each), each.response) for each in self.exchanges()),
        )

    def _final_scores(self) -> NDArray[np.float64] | None:
        if self.scores is None:
            return None
        scores = self.scores / self.pool.labels.counts if self.arguments.mig_normalize else self.scores
        with np.errstate(over="ignore"):
            if not math.isfinite(float(np.sum(np.abs(scores)))):
                raise PoolError(
                    "mig_score: the scores are so large that their sum is no finite number; scale them down."
                )
        return scores


def _counted(value: str, on_item: Callable[[int], object]) -> str:
    on_item(1)
    return value


def _question(exchange: Exchange) -> str:
    return f"{exchange.instruction}\n{exchange.input}" if exchange.input else exchange.instruction


def _take_mapped(
    vectors: NDArray[np.floating[Any]], rows: NDArray[np.int64], folder: Path
) -> NDArray[np.floating[Any]]:
    """Copy some rows to a file without a name that is mapped, block by block: all of them may not fit into memory."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as stream:
        kept = np.memmap(stream, vectors.dtype, "w+", shape=(len(rows), vectors.shape[1]))
    for start in range(0, len(rows), _COPIED_ROWS):
        kept[start : start + _COPIED_ROWS] = vectors[rows[start : start + _COPIED_ROWS]]
    return kept


def _log_reading(pool: Pool, labels: RowLabels | None) -> None:
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
    if labels is not None:
        logger.info("  %s of %s labels count", f"{len(labels.names):,}", f"{len(pool.labels.names):,}")
