"""Chosen rows to the files of a subset's folder: the rows, the table of what was chosen and why, the manifest."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mig_selector.arrays import RowLabels
from mig_selector.console import progress
from mig_selector.pipeline.names import pool_part
from mig_selector.pipeline.request import ALGORITHM_VERSION, Request
from mig_selector.pipeline.stages import Chosen, LabelGraph, Scores
from mig_selector.pipeline.tokens import describe_tokens
from mig_selector.pool.reading import Pool
from mig_selector.pool.subset.writing import write_selection_table, write_subset
from mig_selector.store.files import write_json
from mig_selector.store.hashing import hash_file
from mig_selector.store.subsets import MANIFEST


_PACKAGES = (
    *("mig_selector", "llamafactory", "torch", "transformers", "sentence-transformers"),
    *("numpy", "numba", "scikit-learn"),
)


def write_files(
    request: Request, pool: Pool, labels: RowLabels | None, scores: Scores | None, chosen: Chosen, folder: Path
) -> dict[str, Any]:
    """Write the subset files and selection.parquet.

    Returns:
        What the manifest says of them: ``subsets``, and ``files`` with the hash of each by name.

    Raises:
        PoolError: A pool file was changed meanwhile.
    """
    rows = chosen.selection.rows
    with progress("writing the subset", len(rows), "rows", is_main=True) as bar:
        subsets, row_ids = _write_subsets(request, pool, rows, folder, bar)
        write_selection_table(
            folder / "selection.parquet",
            pool,
            [entry.name for entry in request.entries],
            rows,
            chosen.selection.gains,
            None if labels is None else [labels.of_row(row) for row in rows],
            None if scores is None else scores.raw[rows],
            row_ids,
            chosen.information_added,
        )
    request.check_unchanged()  # chosen rows were read again: they must be those that were judged
    names = ["selection.parquet", *(subset[kind] for subset in subsets for kind in ("json_lines", "file"))]
    return {
        "subsets": subsets,
        "files": {name: hash_file(folder / name) for name in dict.fromkeys(names)},
    }


def _write_subsets(
    request: Request, pool: Pool, chosen: NDArray[np.int64], folder: Path, on_rows: Callable[[int], object]
) -> tuple[list[dict[str, Any]], list[str | None]]:
    """Write one file for each name of the pool; return what the manifest says of each, and all row ids in order."""
    entry_of_row = np.array(pool.source_entry_indices)[pool.locate(chosen)[0]]
    row_ids: list[str | None] = [None] * len(chosen)
    subsets: list[dict[str, Any]] = []
    for entry_index, entry in enumerate(request.entries):
        ranks = np.flatnonzero(entry_of_row == entry_index)
        if len(ranks) == 0:
            continue
        stem = "selected" if len(request.entries) == 1 else pool_part("selected", entry.name)
        subset = write_subset(pool, entry, chosen[ranks], folder, stem, on_rows)
        subsets.append(
            {
                "dataset": entry.name,
                "entry_index": entry_index,
                "rows": len(ranks),
                "json_lines": subset.json_lines.name,
                "file": subset.trainer_file.name,
                "columns": subset.columns,
                "null_in_json_lines": subset.lacking,
            }
        )
        for rank, row_id in zip(ranks.tolist(), subset.row_ids, strict=True):
            row_ids[rank] = row_id
    return subsets, row_ids


def write_manifest(
    request: Request,
    fingerprint: str,
    pool: Pool,
    health: dict[str, Any] | None,
    labels: RowLabels | None,
    graph: LabelGraph | None,
    chosen: Chosen,
    written: dict[str, Any],
    tokens: dict[str, Any] | None,
    seconds: dict[str, float],
    folder: Path,
) -> dict[str, Any]:
    """Write all that is needed to repeat the selection and to tell whether it is the same.

    It is written last: a folder without it is not a subset.
    """
    models = request.models
    manifest = {
        "fingerprint": fingerprint,
        "dataset_name": request.entry_name(fingerprint, chosen.budget),
        "algorithm_version": ALGORITHM_VERSION,
        "method": request.needs.method.name,
        "budget": chosen.budget,
        "rows_without_gain": chosen.rows_without_gain,
        "rows_filled_by_score": chosen.num_filled,
        "information": chosen.information,
        "peak_memory_bytes": chosen.memory.num_bytes,
        "added_memory_bytes": chosen.memory.added_bytes,
        "labels": None if labels is None else len(labels.names),
        "edges": None if graph is None else graph.num_edges,
        "rows": vars(pool.report),
        "annotation": health,
        "tokens": tokens,
        **written,
        "pool": request.describe_pool(),
        "settings": request.settings,
        "encoder": _describe(models.get("mig_embedding_model")),
        "tagger_model": _describe(models.get("mig_tagger_model")),
        "row_encoder": _describe(models.get("mig_row_embedding_model")),
        "ifd_model": _describe(models.get("mig_ifd_model")),
        "tokenizer": _describe(request.tokenizer),
        "versions": _versions(),
        "seconds": {stage: round(spent, 3) for stage, spent in seconds.items()},
    }
    write_json(folder / MANIFEST, manifest, is_private=True)
    return manifest


def _describe(model: Any) -> dict[str, Any] | None:
    return asdict(model) if model is not None else None


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def summarise(
    request: Request, pool: Pool, chosen: Chosen, tokens: dict[str, Any] | None, seconds: dict[str, float]
) -> list[str]:
    """Say what happened, for people."""
    report, method = pool.report, request.needs.method.name
    lost = f"{report.dropped.total():,} dropped, {report.unreadable.total():,} skipped"
    idle = chosen.rows_without_gain
    without = f", {idle:,} of them without any gain (nothing better was left)" if idle else ""
    filled = f", the last {chosen.num_filled:,} by score" if chosen.num_filled else ""
    by = "" if method == "mig" else f" by {method}"
    value = "" if chosen.information is None else f", E(D) {chosen.information:.6g}"
    return [
        f"pool: {report.read:,} rows read, {lost}",
        f"chosen: {chosen.budget:,} of {report.kept:,} rows{by}{value}{without}{filled}",
        *([f"tokens: {describe_tokens(tokens, chosen.budget)}"] if tokens else []),
        f"seconds: {', '.join(f'{stage} {spent:.1f}' for stage, spent in seconds.items())}",
    ]
