"""Chosen rows to the files of a subset's folder: the rows, the table of what was chosen and why, the manifest."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mig_selector.arguments import KEPT_COLUMNS
from mig_selector.console import plural, progress
from mig_selector.pipeline.evaluation import count_shared_rows
from mig_selector.pipeline.names import pool_part
from mig_selector.pipeline.request import ALGORITHM_VERSION, Request
from mig_selector.pipeline.stages import Chosen, Offered
from mig_selector.pipeline.tokens import describe_tokens, describe_training_tokens
from mig_selector.pipeline.validation import draw_validation_rows
from mig_selector.pool.reading import Pool
from mig_selector.pool.subset.writing import write_candidates, write_selection_table, write_subset
from mig_selector.store.files import write_json
from mig_selector.store.hashing import hash_file
from mig_selector.store.subsets import CANDIDATES, MANIFEST, SELECTION_TABLE


_PACKAGES = (
    *("mig_selector", "llamafactory", "torch", "transformers", "sentence-transformers"),
    *("numpy", "numba", "scikit-learn", "pyarrow"),
)


def write_files(request: Request, offered: Offered, chosen: Chosen, folder: Path) -> dict[str, Any]:
    """Write the subset files and selection.parquet.

    Returns:
        What the manifest says of them: ``subsets``, ``validation`` and how many rows of it are chosen ones again, and
        ``files`` with the hash of each by name.

    Raises:
        PoolError: A pool file was changed meanwhile.
    """
    pool, labels, scores, rows = offered.pool, offered.labels, offered.scores, chosen.selection.rows
    chosen_labels = None if labels is None else [labels.of_row(row) for row in rows]
    chosen_scores = None if scores is None else scores.scaled[rows]
    known = {"labels": chosen_labels, "score": None if chosen_scores is None else chosen_scores.tolist()}
    kept = {name: known.get(name) for name in request.arguments.kept}
    validation_rows = draw_validation_rows(request.arguments, request.site.host, pool.report.kept, rows)
    with progress("writing the subset", len(rows) + len(validation_rows), "rows", is_main=True) as bar:
        subsets, row_ids = _write_subsets(request, pool, rows, "selected", kept, folder, bar)
        validation, _ = _write_subsets(request, pool, validation_rows, "validation", {}, folder, bar)
        write_selection_table(
            folder / SELECTION_TABLE,
            pool,
            [entry.name for entry in request.entries],
            rows,
            chosen.selection.gains,
            chosen_labels,
            chosen_scores,
            row_ids,
            chosen.information_added,
            None if chosen.tokens is None else chosen.tokens.fed,
        )
    parts = [*subsets, *validation]
    names = [SELECTION_TABLE, *(part[kind] for part in parts for kind in ("json_lines", "file"))]
    if request.among is not None:
        write_candidates(folder / CANDIDATES, request.among)
        names.append(CANDIDATES)
    request.check_unchanged()  # chosen rows were read again: they must be those that were judged
    return {
        "subsets": subsets,
        "validation": validation,
        "validation_rows_chosen": count_shared_rows(request.entries, subsets, validation, folder),
        "files": {name: hash_file(folder / name) for name in dict.fromkeys(names)},
    }


def _write_subsets(
    request: Request,
    pool: Pool,
    chosen: NDArray[np.int64],
    stem: str,
    kept: Mapping[str, Sequence[Any] | None],
    folder: Path,
    on_rows: Callable[[int], object],
) -> tuple[list[dict[str, Any]], list[str | None]]:
    """Write one file for each name of the pool; return what the manifest says of each, and all row ids in order.

    `kept` is what ``mig_keep`` names, with the values of each row; ids are known once the rows are read.
    """
    id_column = KEPT_COLUMNS["id"] if "id" in kept else None
    entry_of_row = np.array(pool.source_entry_indices)[pool.locate(chosen)[0]]
    row_ids: list[str | None] = [None] * len(chosen)
    subsets: list[dict[str, Any]] = []
    for entry_index, entry in enumerate(request.entries):
        ranks = np.flatnonzero(entry_of_row == entry_index)
        if len(ranks) == 0:
            continue
        name = stem if len(request.entries) == 1 else pool_part(stem, entry.name)
        columns = {
            KEPT_COLUMNS[each]: [values[rank] for rank in ranks.tolist()]
            for each, values in kept.items()
            if values is not None
        }
        subset = write_subset(pool, entry, chosen[ranks], folder, name, on_rows, columns, id_column)
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
    offered: Offered,
    chosen: Chosen,
    written: dict[str, Any],
    tokens: dict[str, Any] | None,
    fed: dict[str, Any] | None,
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
        "peak_memory_bytes": chosen.memory.num_bytes,
        "added_memory_bytes": chosen.memory.added_bytes,
        "score_scale": None if offered.scores is None else offered.scores.scale,
        **describe_choice(offered, chosen),
        "rows": vars(offered.pool.report),
        "annotation": offered.health,
        "tokens": tokens,
        "training_tokens": fed,
        "token_budget": _describe_token_budget(request, fingerprint, chosen),
        **written,
        "pool": request.describe_pool(),
        "settings": request.settings,
        "config": request.config(fingerprint),
        "identity": request.identities[request.fingerprints.index(fingerprint)],
        "encoder": _describe(models.get("mig_embedding_model")),
        "tagger_model": _describe(models.get("mig_tagger_model")),
        "row_encoder": _describe(models.get("mig_row_embedding_model")),
        "ifd_model": _describe(models.get("mig_ifd_model")),
        "tokenizer": _describe(request.tokenizer),
        "versions": package_versions(),
        "seconds": {stage: round(spent, 3) for stage, spent in seconds.items()},
    }
    write_json(folder / MANIFEST, manifest, is_private=True)
    return manifest


def describe_choice(offered: Offered, chosen: Chosen) -> dict[str, float | None]:
    """Return the figures of the chosen rows that the manifest has, and `mig-selector verify` compares."""
    labels, scores, graph, rows = offered.labels, offered.scores, offered.graph, chosen.selection.rows
    return {
        "information": chosen.information,
        "labels": None if labels is None else len(labels.names),
        "labels_covered": None if labels is None else int(np.count_nonzero(labels.count_rows(rows))),
        "mean_score": None if scores is None else float(np.mean(scores.scaled[rows])),
        "pool_mean_score": None if scores is None else float(np.mean(scores.scaled)),
        "edges": None if graph is None else graph.num_edges,
    }


def _describe_token_budget(request: Request, fingerprint: str, chosen: Chosen) -> dict[str, int] | None:
    """Return the budget, what training is fed for the chosen rows, and how much of that has a loss."""
    if chosen.tokens is None:
        return None
    fed, supervised = int(chosen.tokens.fed.sum()), int(chosen.tokens.supervised.sum())
    return {"budget": request.token_budget(fingerprint), "fed": fed, "supervised": supervised}


def _describe(model: Any) -> dict[str, Any] | None:
    return asdict(model) if model is not None else None


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that decide or describe a result."""
    found = {}
    for package in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def summarise(
    request: Request, pool: Pool, chosen: Chosen, manifest: Mapping[str, Any], seconds: Mapping[str, float]
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
        f"pool: {plural(report.read, 'row')} read, {lost}",
        f"chosen: {chosen.budget:,} of {report.kept:,} rows{by}{value}{without}{filled}",
        *summarise_tokens(manifest),
        f"seconds: {', '.join(f'{stage} {spent:.1f}' for stage, spent in seconds.items())}",
    ]


def summarise_tokens(manifest: Mapping[str, Any]) -> list[str]:
    """Say what training is fed; where that is not known, how many tokens the texts have, if they were counted."""
    if fed := manifest.get("training_tokens"):
        return [describe_training_tokens(fed, manifest["budget"])]
    if tokens := manifest.get("tokens"):
        return [f"tokens of text, before the chat template: {describe_tokens(tokens, manifest['budget'])}"]
    return []
