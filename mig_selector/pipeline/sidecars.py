"""The sidecars that the product makes: annotations of the rows of a pool, kept below the cache folder.

There is one for each pool file, in a folder that belongs to tagger, scorer and models.

Dimension letters: N kept rows.
"""

from __future__ import annotations

import hashlib
import logging
import os
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mig_selector.annotation.sidecar import OK, SCHEMA, TEXT, look_up, merge, read_own_sidecar, write_sidecar
from mig_selector.annotation.tagger import Tagger, Tags
from mig_selector.arrays import RowLabels
from mig_selector.console import plural
from mig_selector.errors import PoolError
from mig_selector.pipeline.crew import Crew
from mig_selector.pipeline.needs import AnnotationNeeds
from mig_selector.pipeline.request import Request
from mig_selector.pipeline.rows import KeptRows
from mig_selector.pipeline.stages import LabelVectors
from mig_selector.pipeline.tools import RunTools
from mig_selector.pool.formats.row_source import RowSource
from mig_selector.pool.reading import Pool
from mig_selector.store.files import locked, read_believed_json, whole_file, write_json
from mig_selector.store.folders import is_believed
from mig_selector.store.hashing import fingerprint_of


logger = logging.getLogger(__name__)

_VERSION = 1
"""Raised when the same rows and settings would get other annotations than before."""
_NO_QUESTION = "the question is empty"
_TRIED_ROWS = 20
"""Rows on which a tagger is tried; if it labels fewer than half of them, nothing more is spent on the others."""


@dataclass(frozen=True)
class RowsToAnnotate:
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


class Sidecars:
    """The sidecars of a pool below the cache folder: one for each pool file, for one tagger and scorer."""

    def __init__(
        self, rows: RowsToAnnotate, is_wanted: NDArray[np.bool_], lacks_labels: NDArray[np.bool_], crew: Crew
    ) -> None:
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
        self.folder = request.arguments.cache_dir / "annotations" / fingerprint_of(identity)[:32]
        self._of_other_rows: list[Path] = []
        """Sidecars that differ in the rows alone, whose scores are those that this run would compute."""
        if self._needs.tagger is not None and self._needs.tagger.depends_on_all_rows:
            wanted = rows.hashes.filter(pa.array(is_wanted & self._lacks_labels)).to_pylist()
            identity["rows"] = hashlib.sha256("".join(wanted).encode("ascii")).hexdigest()
            self._of_other_rows = sorted(self.folder.glob("*/*.parquet"))
            self.folder /= identity["rows"][:32]
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
        tagger = self._needs.tagger
        with locked(self.folder):
            vectors = self._read_vectors()
            tables = [read_own_sidecar(path) for path in self.paths]
            table = _unique(pa.concat_tables(tables))
            found = self._find_usable(table, has_vectors=vectors is not None)
            has_failed = np.append(_has_failed(table), False)[found]  # found is -1 where nothing is
            lacks_tags = self._lacks_labels & ~np.append(_has_tags(table), False)[found]
            is_made = (found >= 0) & np.where(has_failed, not self._may_succeed_later, ~lacks_tags)
            to_make = self._first_of_equal_rows(self._is_wanted & ~is_made)
            kept, count = plural(int(np.sum(self._is_wanted & is_made)), "row"), f"{to_make.sum():,}"
            logger.info("annotations: %s in %s, %s to be made", kept, self.folder, count)
            if to_make.any():
                rows = found[to_make]
                labels = table["labels"].take(pa.array(rows, mask=rows < 0))
                scores = self._known_scores(to_make, table)
                is_tried = int(np.count_nonzero(_has_tags(table))) >= _TRIED_ROWS
                made, new_vectors = self._make(to_make, lacks_tags, labels, scores, is_tried=is_tried)
                table = merge(table, made)
                self._write(table, tables, new_vectors)
                vectors = new_vectors or vectors
            if tagger is not None and (figures := self.figures):
                tagger.check(figures)
        return table, vectors or {}

    def _find_usable(self, table: pa.Table, *, has_vectors: bool) -> NDArray[np.int64]:
        """Return which annotation is that of each row; -1 where none can be used. Shape (N,)."""
        found, tagger = look_up(table, self._rows.hashes), self._needs.tagger
        # A kill between two sidecars leaves a part of the rows, and the others would get other labels without them.
        is_whole = tagger is None or not tagger.depends_on_all_rows or np.all(found[self._lacks_labels] >= 0)
        if not has_vectors or not is_whole:
            found[self._lacks_labels] = -1
        return found

    def _known_scores(self, to_make: NDArray[np.bool_], table: pa.Table) -> NDArray[np.float64]:
        """Return the scores of rows whose labels alone are to be made; NaN for the others. Shape (rows to make,)."""
        hashes = self._rows.hashes.filter(pa.array(to_make))
        scores = np.full(len(hashes), np.nan)
        for sidecar in (table, *map(read_own_sidecar, self._of_other_rows)):
            found = np.append(sidecar["score"].to_numpy(), np.nan)[look_up(sidecar, hashes)]  # -1 where nothing is
            scores = np.where(np.isnan(scores), found, scores)
        return scores

    @property
    def _may_succeed_later(self) -> bool:
        parts = (self._needs.tagger, self._needs.scorer)
        return any(part is not None and part.may_succeed_later for part in parts)

    def _first_of_equal_rows(self, is_wanted: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Of rows with equal hashes leave one, one that lacks labels if there is any."""
        rows = np.flatnonzero(is_wanted)
        codes = self._rows.hashes.dictionary_encode().indices.to_numpy()[rows]
        order = np.lexsort((~self._lacks_labels[rows], codes))
        _, first = np.unique(codes[order], return_index=True)
        is_first = np.zeros(len(is_wanted), np.bool_)
        is_first[rows[order[first]]] = True
        return is_first

    def _make(
        self,
        to_make: NDArray[np.bool_],
        lacks_tags: NDArray[np.bool_],
        labels: pa.ChunkedArray,
        scores: NDArray[np.float64],
        *,
        is_tried: bool,
    ) -> tuple[pa.Table, LabelVectors]:
        """Annotate rows with different hashes.

        Args:
            to_make: Which rows. Shape (N,).
            lacks_tags: Which rows the tagger labels; others keep their labels. Shape (N,).
            labels: Those that the rows to be annotated have, null where they have none.
            scores: Likewise, NaN where they have none.
            is_tried: Whether the tagger is known to label rows like these.

        Returns:
            The annotations, and the vectors of the labels that were made.
        """
        rows, needs = self._rows, self._needs
        status = np.full(len(to_make), OK, object)
        vectors: LabelVectors = {}
        is_tagged = to_make & lacks_tags & rows.has_question
        if needs.tagger is not None:
            status[to_make & lacks_tags & ~rows.has_question] = _NO_QUESTION
        if needs.tagger is not None and is_tagged.any():
            tags = self._tag(needs.tagger, is_tagged, is_tried=is_tried)
            status[np.flatnonzero(is_tagged)[list(tags.failures)]] = list(tags.failures.values())
            labels = pc.coalesce(_as_lists(tags.labels, is_tagged[to_make]), labels)
            if tags.figures is not None:
                write_json(self._figures_path, tags.figures, is_private=True)
            vectors = dict(zip(tags.labels.names, tags.vectors, strict=True)) if tags.vectors is not None else {}
        to_score = to_make.copy()
        to_score[to_make] = np.isnan(scores)
        if needs.scorer is not None and to_score.any():
            measured = needs.scorer.measure(rows.take(to_score), self._tools)
            nothing = np.full(int(to_score.sum()), np.nan)
            scores[np.isnan(scores)] = needs.scorer.finish(nothing, measured.values if measured else None, None)
            if measured is not None:
                self.score_figures = measured.figures
                status[np.flatnonzero(to_score)[list(measured.failures)]] = list(measured.failures.values())
        columns = [rows.hashes.filter(pa.array(to_make)), labels, pa.array(scores, from_pandas=True)]
        return pa.Table.from_arrays([*columns, pa.array(status[to_make], TEXT)], schema=SCHEMA), vectors

    def _tag(self, tagger: Tagger, is_tagged: NDArray[np.bool_], *, is_tried: bool) -> Tags:
        if tagger.advice is not None and not is_tried:
            is_first = is_tagged & (np.cumsum(is_tagged) <= _TRIED_ROWS)
            tried = plural(int(is_first.sum()), "row")
            logger.info("mig_tagger: a trial with the first %s", tried)
            failures = tagger.tag(self._rows.take(is_first), self._tools).failures
            if 2 * len(failures) > np.count_nonzero(is_first):
                reasons = "; ".join(f"{reason}: {count}" for reason, count in Counter(failures.values()).most_common())
                raise PoolError(
                    f"mig_tagger: {len(failures)} of the first {tried} got no labels ({reasons}). {tagger.advice}"
                )
        return tagger.tag(self._rows.take(is_tagged), self._tools)

    @property
    def _tools(self) -> RunTools:
        return RunTools(self._rows.request, self._crew, self._rows.most_failures)

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


def _has_tags(table: pa.Table) -> NDArray[np.bool_]:
    """Say of each annotation whether it has labels. Shape (number of rows,)."""
    return np.asarray(pc.list_value_length(table["labels"]).fill_null(0).to_numpy() > 0, np.bool_)


def _as_lists(labels: RowLabels, is_labelled: NDArray[np.bool_]) -> pa.Array:
    """Return the labels of some of n rows as lists of texts, null for the others. Length n."""
    counts = np.zeros(len(is_labelled), np.int64)
    counts[is_labelled] = labels.counts
    offsets = pa.array(np.concatenate(([0], np.cumsum(counts))), pa.int32(), mask=np.append(~is_labelled, False))
    names = pa.array(labels.names, TEXT).take(pa.array(labels.ids))
    return pa.ListArray.from_arrays(offsets, names)
