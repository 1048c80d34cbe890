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

from mig_selector.annotation.sidecar import OK, SCHEMA, look_up, merge, read_own_sidecar, write_sidecar
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
            kept, count = plural(int(is_made.sum()), "row"), f"{to_make.sum():,}"
            logger.info("annotations: %s in %s, %s to be made", kept, self.folder, count)
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
            tried = plural(int(is_tried.sum()), "row")
            logger.info("mig_tagger: a trial with the first %s", tried)
            failures = tagger.tag(self._rows.take(is_tried), self._tools).failures
            if 2 * len(failures) > np.count_nonzero(is_tried):
                reasons = "; ".join(f"{reason}: {count}" for reason, count in Counter(failures.values()).most_common())
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
