"""The stage between reading and scoring: rows that lack labels or a score get them, from a sidecar or by models.

What is made is kept in sidecars below the cache folder, one a pool file, and found again by the content of the rows:
a pool with more, fewer or reordered rows has only its new rows annotated.

Dimension letters: N kept rows, L labels.
"""

from __future__ import annotations

import hashlib
import logging
import os
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mig_selector.annotation.normalization import normalize_tags
from mig_selector.annotation.sidecar import (
    OK,
    SCHEMA,
    look_up,
    merge,
    read_own_sidecar,
    read_sidecars,
    write_sidecar,
)
from mig_selector.annotation.tagger import Tagger, Tags
from mig_selector.arrays import RowLabels
from mig_selector.console import plural, progress
from mig_selector.errors import PoolError
from mig_selector.pipeline.crew import Crew
from mig_selector.pipeline.health import describe_health, log_health
from mig_selector.pipeline.needs import AnnotationNeeds
from mig_selector.pipeline.request import Request
from mig_selector.pipeline.rows import KeptRows
from mig_selector.pipeline.stages import LabelVectors
from mig_selector.pipeline.tokens import draw_sample
from mig_selector.pipeline.tools import RunTools, embed_texts
from mig_selector.pool.formats.row_source import RowSource
from mig_selector.pool.leaves.batch import Numbering
from mig_selector.pool.reading import Pool
from mig_selector.store.files import locked, read_believed_json, whole_file, write_json
from mig_selector.store.folders import is_believed
from mig_selector.store.hashing import fingerprint_of


logger = logging.getLogger(__name__)

_VERSION = 1
"""Raised when the same rows and settings would get other annotations than before."""
_NO_QUESTION = "the question is empty"
_LISTED_ROWS = 5
"""Rows that an error names."""
_SAMPLED_CHARACTERS = 500
"""Beginning of a sampled question by which its language is found."""
_TRIED_ROWS = 20
"""Rows on which a tagger is tried; if it labels fewer than half of them, nothing more is spent on the others."""


@dataclass(frozen=True)
class Annotated:
    """A pool whose rows have what the pool stores of them, and what they lacked."""

    pool: Pool
    label_vectors: LabelVectors = field(default_factory=dict)
    """Of labels that a tagger gave."""
    health: dict[str, Any] | None = None
    """What became of the rows, for the manifest; None where none had to be annotated."""
    sidecar: Path | None = None
    """File or folder with the annotations; None where none had to be."""


def annotate(pool: Pool, request: Request, crew: Crew) -> Annotated:
    """Give labels and scores to rows that lack them, if the configuration says how; drop and count those that fail.

    Raises:
        PoolError: Rows are not in the sidecar and there is no tagger, or more rows failed than ``mig_max_failed``.
    """
    needs = request.needs.annotation
    if needs is None:
        return Annotated(pool)
    lacks_labels = np.full(len(pool.scores), needs.gives_labels) & (pool.labels.counts == 0)
    is_wanted = lacks_labels | needs.gives_scores
    if not is_wanted.any():
        return Annotated(pool)
    rows = _Rows(request, needs, pool, lacks_labels, *_read_rows(pool, request))
    is_signed = request.arguments["mig_score_scale"] != "none"
    table, path = read_sidecars(needs.sidecar, is_signed=is_signed), _folder_of(needs.sidecar)
    vectors: LabelVectors = {}
    figures: dict[str, Any] = {}
    _check_can_annotate(needs, is_wanted & (look_up(table, rows.hashes) < 0), is_wanted)
    lacks_labels, lacks_score = _find_gaps(rows, table)
    is_missing = is_wanted & (lacks_labels | lacks_score)
    if is_missing.any():
        sidecars = Sidecars(rows, is_missing, lacks_labels, crew)
        made, vectors = sidecars.complete()
        figures = {"distilled": sidecars.figures, "scorer": sidecars.score_figures}
        table, path = _fill_gaps(table, made), _folder_of(sidecars.paths)
    pool, failed = _apply(rows, is_wanted, table)
    pool, tags = _normalize(pool, request, crew)
    health = describe_health(pool, request, int(is_wanted.sum()), int(is_missing.sum()), failed, rows.sample)
    health |= {key: value for key, value in {**figures, "tags": tags}.items() if value is not None}
    log_health(health, request.arguments["mig_tagger"])
    return Annotated(pool, vectors, health, path)


def _folder_of(files: Sequence[Path]) -> Path | None:
    """Return what ``mig_sidecar`` takes to read all of some files: the one, or their folder."""
    return None if not files else files[0] if len(files) == 1 else files[0].parent


@dataclass(frozen=True)
class _Rows:
    """The kept rows, and what decides how they are annotated."""

    request: Request
    needs: AnnotationNeeds
    pool: Pool
    lacks_labels: NDArray[np.bool_]
    """Whether a row wants labels. Shape (N,)."""
    hashes: pa.Array
    """What sidecars know the rows by. Length N."""
    has_question: NDArray[np.bool_]
    """Shape (N,)."""
    sample: Sequence[str]
    """Questions of a random sample of the rows."""

    @property
    def most_failures(self) -> float:
        """How many rows may fail."""
        num_wanted = np.count_nonzero(self.lacks_labels | self.needs.gives_scores)
        return float(self.request.arguments["mig_max_failed"]) * num_wanted

    def take(self, keep: NDArray[np.bool_]) -> KeptRows:
        """Return some of the rows, to be read."""
        return KeptRows(self.request, self.pool).take(keep)


def _read_rows(pool: Pool, request: Request) -> tuple[pa.Array, NDArray[np.bool_], list[str]]:
    """Read every row for its hash, and whether it has a question; return the questions of a sample, too."""
    hashes, has_question = [], np.zeros(len(pool.scores), np.bool_)
    sampled, sample = set(draw_sample(len(pool.scores)).tolist()), []
    with progress("hashing rows", len(pool.scores), "rows", is_main=True) as bar:
        for index, (digest, question) in enumerate(KeptRows(request, pool).hashed_questions()):
            hashes.append(digest)
            has_question[index] = bool(question.strip())
            if index in sampled:
                sample.append(question[:_SAMPLED_CHARACTERS])
            bar(1)
    return pa.array(hashes, pa.string()), has_question, sample


def _check_can_annotate(needs: AnnotationNeeds, is_missing: NDArray[np.bool_], is_wanted: NDArray[np.bool_]) -> None:
    """Refuse rows that are not in the user's sidecar where nothing else gives them labels or scores."""
    lacks_tagger = needs.gives_labels and needs.tagger is None
    lacks_scorer = needs.gives_scores and needs.scorer is None
    if is_missing.any() and (lacks_tagger or lacks_scorer):
        keys = " and ".join(
            key for key, is_lacking in (("mig_tagger", lacks_tagger), ("mig_scorer", lacks_scorer)) if is_lacking
        )
        raise PoolError(
            f"mig_sidecar: {is_missing.sum():,} of the {is_wanted.sum():,} rows that need annotations are not in it. "
            f"Rows are found by row_hash (see the manual); annotate the missing ones too, or set {keys} for them."
        )


def _find_gaps(rows: _Rows, table: pa.Table) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Say which rows get labels, and which a score, because the sidecar of the user has none. Shape (N,) each.

    Rows that failed, by their status, stay as they are.
    """
    found, needs = look_up(table, rows.hashes), rows.needs

    def lacks(column: str) -> NDArray[np.bool_]:
        is_open = pc.and_(pc.is_null(table[column]), pc.equal(table["status"], OK)).to_numpy()
        return np.append(is_open, True)[found]  # found is -1 where nothing is

    nothing = np.zeros(len(found), np.bool_)
    return (
        rows.lacks_labels & lacks("labels") if needs.tagger else nothing,
        lacks("score") if needs.scorer else nothing,
    )


def _fill_gaps(table: pa.Table, made: pa.Table) -> pa.Table:
    """Return the rows of both; where one of `table` has no labels or no score, it has those of `made`."""
    hashes = table["row_hash"].combine_chunks()
    other = made.take(pc.index_in(hashes, value_set=made["row_hash"].combine_chunks()))  # null where there is none
    filled = {name: pc.coalesce(table[name], other[name]) for name in ("labels", "score")}
    is_whole = pc.and_(pc.is_valid(filled["labels"]), pc.is_valid(filled["score"]))
    is_settled = pc.or_(is_whole, pc.not_equal(table["status"], OK))
    status = pc.if_else(is_settled, table["status"], pc.coalesce(other["status"], table["status"]))
    table = pa.table({"row_hash": hashes, **filled, "status": status}, schema=SCHEMA)
    return pa.concat_tables([table, made.filter(pc.invert(pc.is_in(made["row_hash"], value_set=hashes)))])


class Sidecars:
    """The sidecars of a pool below the cache folder: one for each pool file, for one tagger and scorer."""

    def __init__(self, rows: _Rows, is_wanted: NDArray[np.bool_], lacks_labels: NDArray[np.bool_], crew: Crew) -> None:
        """Find the folder that belongs to tagger, scorer, models, and which turns are texts.

        Args:
            rows: The kept rows.
            is_wanted: Which of them are to be annotated. Shape (N,).
            lacks_labels: Which of these get labels. Shape (N,).
            crew: Runs models.
        """
        self._rows, self._is_wanted, self._lacks_labels, self._crew = rows, is_wanted, lacks_labels, crew
        self._needs, request = rows.needs, rows.request
        self.score_figures: Mapping[str, Any] | None = None
        """How good the scores are that this run made; None where that was not measured."""
        parts = [part for part in (self._needs.tagger, self._needs.scorer) if part is not None]
        models = {name.key: request.models[name.key] for part in parts for name in part.models}
        identity: dict[str, Any] = {
            "version": _VERSION,
            "tagger": self._needs.tagger.identity if self._needs.tagger else None,
            "scorer": self._needs.scorer.identity if self._needs.scorer else None,
            "models": {key: {**model.identity, "dtype": model.resolve_dtype()} for key, model in models.items()},
            "turns": request.arguments.mig_turns,
        }
        if self._needs.tagger is not None and self._needs.tagger.depends_on_all_rows:
            wanted = rows.hashes.filter(pa.array(is_wanted & self._lacks_labels)).to_pylist()
            identity["rows"] = hashlib.sha256("".join(wanted).encode("ascii")).hexdigest()
        self.folder = request.arguments.cache_dir / "annotations" / fingerprint_of(identity)[:32]
        self._made_by = {
            **identity,
            "models": {key: asdict(model) for key, model in models.items()},
            "mig_selector": version("mig_selector"),
        }

    @property
    def paths(self) -> list[Path]:
        """The sidecar of each pool file; a file that is in the pool twice has one."""
        return list(dict.fromkeys(map(self._path_of, self._rows.pool.sources)))

    def _path_of(self, source: RowSource) -> Path:
        name = os.path.realpath(source.files[0])
        digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:8]
        return self.folder / f"{source.files[0].stem}-{digest}.parquet"

    def complete(self) -> tuple[pa.Table, LabelVectors]:
        """Annotate the wanted rows that no sidecar has yet, and keep them.

        Returns:
            The annotations of all wanted rows, each hash once, and the vectors of the tagger's labels.
        """
        rows = self._rows
        with locked(self.folder):
            vectors = self._read_vectors()
            tables = [read_own_sidecar(path) if vectors is not None else SCHEMA.empty_table() for path in self.paths]
            table = _unique(pa.concat_tables(tables))
            found = look_up(table, rows.hashes)
            has_labels = np.append(_has_labels(table), False)[found]  # found is -1 where nothing is
            is_made = (found >= 0) & (has_labels | ~self._lacks_labels)
            if any(part is not None and part.may_succeed_later for part in (self._needs.tagger, self._needs.scorer)):
                is_made &= ~np.append(_has_failed(table), False)[found]
            to_make = self._first_of_equal_rows(self._is_wanted & ~is_made)
            logger.info(
                "annotations: %s rows are in %s, %s are made", f"{is_made.sum():,}", self.folder, f"{to_make.sum():,}"
            )
            if to_make.any():
                made, vectors = self._make(to_make)
                table = merge(table, made)
                self._write(table, tables, vectors)
        return table, vectors or {}

    def _first_of_equal_rows(self, is_wanted: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Of rows with equal hashes leave one, one that lacks labels if there is any."""
        rows = np.flatnonzero(is_wanted)
        codes = self._rows.hashes.dictionary_encode().indices.to_numpy()[rows]
        order = np.lexsort((~self._lacks_labels[rows], codes))
        _, first = np.unique(codes[order], return_index=True)
        is_first = np.zeros(len(is_wanted), np.bool_)
        is_first[rows[order[first]]] = True
        return is_first

    def _make(self, to_make: NDArray[np.bool_]) -> tuple[pa.Table, LabelVectors]:
        """Annotate rows with different hashes."""
        rows, needs = self._rows, self._needs
        status = np.full(len(to_make), OK, object)
        labels, vectors = pa.nulls(int(to_make.sum()), SCHEMA.field("labels").type), {}
        is_tagged = to_make & self._lacks_labels & rows.has_question
        if needs.tagger is not None:
            status[to_make & self._lacks_labels & ~rows.has_question] = _NO_QUESTION
        if needs.tagger is not None and is_tagged.any():
            tags = self._tag(needs.tagger, is_tagged)
            status[np.flatnonzero(is_tagged)[list(tags.failures)]] = list(tags.failures.values())
            labels = _as_lists(tags.labels, is_tagged[to_make])
            if tags.figures is not None:
                write_json(self._figures_path, tags.figures, is_private=True)
            vectors = dict(zip(tags.labels.names, tags.vectors, strict=True)) if tags.vectors is not None else {}
        scores = np.full(int(to_make.sum()), np.nan)
        if needs.scorer is not None:
            measured = needs.scorer.measure(rows.take(to_make), self._tools)
            scores = needs.scorer.finish(scores, measured.values if measured else None, None)
            if measured is not None:
                self.score_figures = measured.figures
                status[np.flatnonzero(to_make)[list(measured.failures)]] = list(measured.failures.values())
        columns = [rows.hashes.filter(pa.array(to_make)), labels, pa.array(scores, from_pandas=True)]
        return pa.Table.from_arrays([*columns, pa.array(status[to_make], pa.string())], schema=SCHEMA), vectors

    def _tag(self, tagger: Tagger, is_tagged: NDArray[np.bool_]) -> Tags:
        if tagger.advice is not None:
            is_tried = is_tagged & (np.cumsum(is_tagged) <= _TRIED_ROWS)
            failures = tagger.tag(self._rows.take(is_tried), self._tools).failures
            if 2 * len(failures) > np.count_nonzero(is_tried):
                reasons = "; ".join(f"{reason}: {count}" for reason, count in Counter(failures.values()).most_common())
                tried = plural(int(is_tried.sum()), "row")
                raise PoolError(
                    f"mig_tagger: {len(failures)} of the first {tried} got no labels ({reasons}). {tagger.advice}"
                )
        return tagger.tag(self._rows.take(is_tagged), self._tools)

    @property
    def _tools(self) -> RunTools:
        return RunTools(self._rows.request, self._crew, self.folder / "work", self._rows.most_failures)

    def _write(self, table: pa.Table, before: list[pa.Table], vectors: LabelVectors) -> None:
        """Write the sidecar of each pool file: the wanted rows of the file, and what it had before."""
        if vectors:
            with whole_file(self._vectors_path, is_private=True) as stream:
                np.savez(stream, labels=np.array(list(vectors)), embeddings=np.stack(list(vectors.values())))
        pool = self._rows.pool
        source_of_row, _ = pool.locate(np.arange(len(self._is_wanted)))
        for path, old in zip(self.paths, before, strict=True):
            is_here = np.array([self._path_of(source) == path for source in pool.sources])[source_of_row]
            hashes = self._rows.hashes.filter(pa.array(self._is_wanted & is_here)).unique()
            write_sidecar(path, merge(old, table.take(pa.array(look_up(table, hashes)))), self._made_by)

    @property
    def figures(self) -> Any:
        """How good the tagger's labels are; None where that was not measured."""
        return read_believed_json(self._figures_path)

    @property
    def _figures_path(self) -> Path:
        return self.folder / "figures.json"

    @property
    def _vectors_path(self) -> Path:
        """An .npz file as ``mig_label_embeddings`` takes it."""
        return self.folder / "label_vectors.npz"

    def _read_vectors(self) -> LabelVectors | None:
        """Return the vectors of the tagger's labels; None where they are damaged or not there, though there is one."""
        if self._needs.tagger is None or not self._needs.tagger.brings_vectors:
            return {}
        if not self._vectors_path.exists() or not is_believed(self._vectors_path):
            return None
        try:
            with np.load(self._vectors_path, allow_pickle=False) as file:
                return dict(zip(file["labels"].tolist(), file["embeddings"], strict=True))
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            return None


def _unique(table: pa.Table) -> pa.Table:
    """Leave one row of each hash: equal rows of several pool files are in the sidecar of each."""
    codes = table["row_hash"].combine_chunks().dictionary_encode().indices.to_numpy()
    return table.take(pa.array(np.unique(codes, return_index=True)[1]))


def _has_failed(table: pa.Table) -> NDArray[np.bool_]:
    """Say of each annotation whether it failed. Shape (number of rows,)."""
    failed = pc.not_equal(table["status"], OK).to_numpy()
    return np.asarray(failed, np.bool_)


def _has_labels(table: pa.Table) -> NDArray[np.bool_]:
    """Say of each annotation whether it has labels, or failed to get some. Shape (number of rows,)."""
    return np.asarray(pc.is_valid(table["labels"]).to_numpy(), np.bool_) | _has_failed(table)


def _as_lists(labels: RowLabels, is_labelled: NDArray[np.bool_]) -> pa.Array:
    """Return the labels of some of n rows as lists of texts, null for the others. Length n."""
    counts = np.zeros(len(is_labelled), np.int64)
    counts[is_labelled] = labels.counts
    offsets = pa.array(np.concatenate(([0], np.cumsum(counts))), pa.int32(), mask=np.append(~is_labelled, False))
    names = pa.array(labels.names, pa.string()).take(pa.array(labels.ids))
    return pa.ListArray.from_arrays(offsets, names)


def _apply(rows: _Rows, is_wanted: NDArray[np.bool_], table: pa.Table) -> tuple[Pool, Counter[str]]:
    """Put the annotations into the pool; drop the rows that failed.

    Returns:
        The pool, and how many rows failed for each reason.

    Raises:
        PoolError: More rows failed than ``mig_max_failed`` allows.
    """
    pool, needs = rows.pool, rows.needs
    mine = table.take(pa.array(look_up(table, rows.hashes)[is_wanted]))
    reasons = np.full(len(is_wanted), OK, object)
    reasons[is_wanted] = mine["status"].to_pylist()
    scores = pool.scores
    if needs.gives_scores:
        scores = np.full(len(is_wanted), np.nan)
        scores[is_wanted] = mine["score"].to_numpy()
        reasons[is_wanted & np.isnan(scores) & (reasons == OK)] = "no score in the sidecar"
    labels = pool.labels
    if needs.gives_labels:
        labels = _with_labels(pool.labels, rows.lacks_labels, mine.filter(pa.array(rows.lacks_labels[is_wanted])))
        reasons[rows.lacks_labels & (labels.counts == 0) & (reasons == OK)] = "no labels in the sidecar"
    failed = Counter(reasons[reasons != OK].tolist())
    limit, num_wanted = rows.request.arguments["mig_max_failed"], int(is_wanted.sum())
    if failed.total() > limit * num_wanted:
        listed = ", ".join(map(str, pool.pool_indices[reasons != OK][:_LISTED_ROWS]))
        raise _failure(failed, num_wanted, listed, limit)
    pool = replace(pool, labels=labels, scores=scores)
    for reason in failed:
        pool, reasons = pool.without(reasons == reason, f"not annotated: {reason}"), reasons[reasons != reason]
    if not len(pool.scores):
        raise PoolError(f"no row of the pool could be annotated ({'; '.join(failed)}).")
    return pool, failed


def _normalize(pool: Pool, request: Request, crew: Crew) -> tuple[Pool, dict[str, Any] | None]:
    """Bring together tags that mean the same, if the tagger invents them; return what became of them, too."""
    needs, model = request.needs.annotation, request.needs.label_model
    if needs is None or needs.normalization is None or model is None:
        return pool, None
    done = normalize_tags(pool.labels, needs.normalization, lambda names: embed_texts(names, model.key, request, crew))
    return replace(pool, labels=done.labels), done.report


def _with_labels(own: RowLabels, is_tagged: NDArray[np.bool_], annotations: pa.Table) -> RowLabels:
    """Return the labels of all rows: of those that are tagged from their annotations, of the others their own."""
    lists = annotations["labels"].combine_chunks()
    texts = lists.flatten().dictionary_encode()
    numbering = Numbering()
    own_ids, new_ids = numbering.of_all(own.names), numbering.of_all(texts.dictionary.to_pylist())
    counts = own.counts
    counts[is_tagged] = pc.list_value_length(lists).fill_null(0).to_numpy()
    is_new = np.repeat(is_tagged, counts)
    ids = np.empty(len(is_new), np.int32)
    ids[is_new], ids[~is_new] = new_ids[texts.indices.to_numpy()], own_ids[own.ids]
    return RowLabels(list(numbering), np.concatenate((np.zeros(1, np.int64), np.cumsum(counts))), ids)


def _failure(failed: Counter[str], num_rows: int, listed: str, limit: float) -> PoolError:
    reasons = "; ".join(f"{reason}: {count:,}" for reason, count in failed.most_common())
    return PoolError(
        f"{failed.total():,} of {num_rows:,} rows could not be annotated, more than mig_max_failed: {limit:g} allows "
        f"({reasons}); rows of the pool (0-based): {listed}, ... Change what failed, or raise mig_max_failed to go on "
        "without these rows."
    )
