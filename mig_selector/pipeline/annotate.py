"""The stage between reading and scoring: rows that lack labels or a score get them, from a sidecar or by models.

What is made is kept in sidecars below the cache folder, one a pool file, and found again by the content of the rows:
a pool with more, fewer or reordered rows has only its new rows annotated.

Dimension letters: N kept rows, L labels.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mig_selector.annotation.normalization import normalize_tags
from mig_selector.annotation.sidecar import OK, SCHEMA, TEXT, look_up, read_sidecars
from mig_selector.annotation.vocabulary import NO_LABEL
from mig_selector.arrays import RowLabels
from mig_selector.console import plural, progress
from mig_selector.errors import PoolError
from mig_selector.pipeline.crew import Crew
from mig_selector.pipeline.health import (
    describe_health,
    describe_languages,
    log_health,
    log_languages,
    warn_of_languages,
)
from mig_selector.pipeline.needs import AnnotationNeeds
from mig_selector.pipeline.request import Request
from mig_selector.pipeline.rows import KeptRows
from mig_selector.pipeline.sidecars import RowsToAnnotate, Sidecars
from mig_selector.pipeline.stages import LabelVectors
from mig_selector.pipeline.tokens import draw_sample
from mig_selector.pipeline.tools import embed_texts
from mig_selector.pool.leaves.batch import Numbering
from mig_selector.pool.reading import Pool


logger = logging.getLogger(__name__)

_LISTED_ROWS = 5
"""Rows that an error names."""
_LACKS_LABELS, _LACKS_SCORE = "no labels in the sidecar", "no score in the sidecar"
_LACKS_BOTH = "neither labels nor score in the sidecar"
_FILLED_BY = {
    _LACKS_LABELS: ("mig_tagger",),
    _LACKS_SCORE: ("mig_scorer",),
    _LACKS_BOTH: ("mig_tagger", "mig_scorer"),
}
"""The keys that fill in what a sidecar lacks."""
_SAMPLED_CHARACTERS = 500
"""Beginning of a sampled question by which its language is found."""


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
    rows = RowsToAnnotate(request, needs, pool, lacks_labels, *_read_rows(pool, request))
    is_signed = request.arguments["mig_score_scale"] != "none"
    table, path = read_sidecars(needs.sidecar, is_signed=is_signed), _folder_of(needs.sidecar)
    vectors: LabelVectors = {}
    figures: dict[str, Any] = {}
    _check_can_annotate(needs, is_wanted & (look_up(table, rows.hashes) < 0), is_wanted)
    lacks_labels, lacks_score = _find_gaps(rows, table)
    languages = describe_languages(rows.sample)
    log_languages(languages)  # before rows fail, which this may explain
    if lacks_labels.any():
        warn_of_languages(languages, request.arguments)
    is_missing = is_wanted & (lacks_labels | lacks_score)
    if is_missing.any():
        sidecars = Sidecars(rows, is_missing, lacks_labels, crew)
        made, vectors = sidecars.complete()
        figures = {"distilled": sidecars.figures, "scorer": sidecars.score_figures}
        table, path = _fill_gaps(table, made), _folder_of(sidecars.paths)
    pool, failed = _apply(rows, is_wanted, table)
    pool, tags = _normalize(pool, request, crew)
    is_scored = np.isin(pool.pool_indices, rows.pool.pool_indices[is_missing & lacks_score])
    num_wanted, num_made = int(is_wanted.sum()), int(is_missing.sum())
    health = describe_health(pool, request, num_wanted, num_made, failed, languages, is_scored)
    health |= {key: value for key, value in {**figures, "tags": tags}.items() if value is not None}
    log_health(health, request.arguments["mig_tagger"])
    return Annotated(pool, vectors, health, path)


def _folder_of(files: Sequence[Path]) -> Path | None:
    """Return what ``mig_sidecar`` takes to read all of some files: the one, or their folder."""
    return None if not files else files[0] if len(files) == 1 else files[0].parent


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
    return pa.array(hashes, TEXT), has_question, sample


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


def _find_gaps(rows: RowsToAnnotate, table: pa.Table) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
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


def _apply(rows: RowsToAnnotate, is_wanted: NDArray[np.bool_], table: pa.Table) -> tuple[Pool, Counter[str]]:
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
    is_ok = reasons == OK
    scores = pool.scores
    if needs.gives_scores:
        scores = np.full(len(is_wanted), np.nan)
        scores[is_wanted] = mine["score"].to_numpy()
        reasons[is_wanted & np.isnan(scores) & is_ok] = _LACKS_SCORE
    labels = pool.labels
    if needs.gives_labels:
        labels = _with_labels(pool.labels, rows.lacks_labels, mine.filter(pa.array(rows.lacks_labels[is_wanted])))
        is_without = rows.lacks_labels & (labels.counts == 0) & is_ok
        reasons[is_without] = np.where(reasons[is_without] == OK, _LACKS_LABELS, _LACKS_BOTH)
    failed = Counter(reasons[reasons != OK].tolist())
    limit, num_wanted = rows.request.arguments["mig_max_failed"], int(is_wanted.sum())
    if failed.total() > limit * num_wanted:
        listed = ", ".join(map(str, pool.pool_indices[reasons != OK][:_LISTED_ROWS]))
        listed += " and others" if failed.total() > _LISTED_ROWS else ""
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
    keys = dict.fromkeys(key for reason, own in _FILLED_BY.items() if reason in failed for key in own)
    change = f"Set {' and '.join(keys)} to fill in what the sidecar lacks" if keys else "Change what failed"
    if NO_LABEL in failed:
        change = (
            "Where the labels do not fit the rows (the log has the languages), set mig_tagger: clusters, with a "
            "mig_tagger_model that knows these languages, or another mig_label_vocabulary; or lower "
            "mig_label_min_similarity"
        )
    return PoolError(
        f"{failed.total():,} of {plural(num_rows, 'row')} could not be annotated, more than mig_max_failed: {limit:g} "
        f"allows ({reasons}); rows of the pool (0-based): {listed}. {change}, or raise mig_max_failed to go on "
        "without these rows."
    )
