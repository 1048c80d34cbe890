"""A selection to the files of its folder: the subset, the table of what was chosen and why, the manifest."""

from __future__ import annotations

import contextlib
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mig_selector.arrays import Selection
from mig_selector.console import progress
from mig_selector.pipeline.material import Material
from mig_selector.pipeline.plan import ALGORITHM_VERSION, Plan
from mig_selector.pool.reading import Pool
from mig_selector.pool.subset.writing import write_selection_table, write_subset
from mig_selector.store.files import write_json
from mig_selector.store.subsets import MANIFEST


_PACKAGES = (
    *("mig_selector", "llamafactory", "torch", "transformers", "sentence-transformers"),
    *("numpy", "numba", "scikit-learn"),
)


@dataclass(frozen=True)
class Chosen:
    """Rows chosen for one budget, and what is known of them."""

    selection: Selection
    num_filled: int
    """Rows at the end that were taken by score because the method fell short."""
    information: float | None
    """E(D) of Eq. 8; None where there is no label graph."""
    num_edges: int | None
    peak_memory_bytes: int | None
    """Most memory that the process held while the rows of all budgets were chosen."""

    @property
    def budget(self) -> int:
        """Rows chosen."""
        return len(self.selection.rows)

    @property
    def rows_without_gain(self) -> int | None:
        """Rows that MIG took because nothing better was left; None for other methods."""
        return None if self.information is None else int(np.count_nonzero(self.selection.gains <= 0))


def write_files(
    plan: Plan, material: Material, chosen: Chosen, folder: Path
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Write subset files and selection.parquet.

    Args:
        plan: What was asked for.
        material: What is known of the rows chosen from.
        chosen: What was chosen.
        folder: Where to.

    Returns:
        What the manifest says of each subset, and the hash of each file by name.
    """
    rows, pool, labels, scores = chosen.selection.rows, material.pool, material.labels, material.scores
    with progress("writing the subset", len(rows), "rows", is_main=True) as bar:
        subsets, ids = _write_subsets(plan, pool, rows, folder, bar)
        write_selection_table(
            folder / "selection.parquet",
            pool,
            [entry.name for entry in plan.entries],
            rows,
            chosen.selection.gains,
            None if labels is None else [labels.of_row(row) for row in rows],
            None if scores is None else scores[rows],
            ids,
        )
    plan.check_unchanged()  # chosen rows were read again: they must be those that were judged
    names = ["selection.parquet", *(part[kind] for part in subsets for kind in ("json_lines", "file"))]
    return subsets, {file: plan.hashes.file(folder / file) for file in dict.fromkeys(names)}


def _write_subsets(
    plan: Plan, pool: Pool, chosen: NDArray[np.int64], folder: Path, on_rows: Any
) -> tuple[list[dict[str, Any]], list[str | None]]:
    """Write one file per name of the pool; return what the manifest says of each, and all row ids in order."""
    owners = np.array(pool.source_entry_indices)[pool.locate(chosen)[0]]
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


def write_manifest(
    plan: Plan,
    mark: str,
    material: Material,
    chosen: Chosen,
    folder: Path,
    written: tuple[list[dict[str, Any]], dict[str, str]],
) -> dict[str, Any]:
    """Write all that is needed to do it again and to tell whether it is the same; last: it makes the folder whole."""
    subsets, files = written
    manifest = {
        "fingerprint": mark,
        "dataset_name": plan.entry_name(chosen.budget),
        "algorithm_version": ALGORITHM_VERSION,
        "method": plan.needs.method.name,
        "budget": chosen.budget,
        "rows_without_gain": chosen.rows_without_gain,
        "rows_filled_by_score": chosen.num_filled,
        "information": chosen.information,
        "peak_memory_bytes": chosen.peak_memory_bytes,
        "labels": None if material.labels is None else len(material.labels.names),
        "edges": chosen.num_edges,
        "rows": vars(material.pool.report),
        "subsets": subsets,
        "files": files,
        "pool": plan.describe_pool(),
        "settings": plan.settings,
        "encoder": _describe(plan.models.labels),
        "row_encoder": _describe(plan.models.rows),
        "ifd_model": _describe(plan.models.ifd),
        "tokenizer": _describe(plan.models.tokenizer),
        "versions": _versions(),
        "seconds": {stage: round(spent, 3) for stage, spent in material.seconds.items()},
    }
    write_json(folder / MANIFEST, manifest)
    return manifest


def _describe(model: Any) -> dict[str, Any] | None:
    return asdict(model) if model is not None else None


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def summarise(material: Material, chosen: Chosen) -> list[str]:
    """Say what happened, for people."""
    report, method = material.pool.report, material.plan.needs.method.name
    lost = f"{report.dropped.total():,} dropped, {report.unreadable.total():,} skipped"
    idle = chosen.rows_without_gain
    without = f", {idle:,} of them without any gain (nothing better was left)" if idle else ""
    filled = f", the last {chosen.num_filled:,} by score" if chosen.num_filled else ""
    by = "" if method == "mig" else f" by {method}"
    value = "" if chosen.information is None else f", E(D) {chosen.information:.6g}"
    return [
        f"pool: {report.read:,} rows read, {lost}",
        f"chosen: {chosen.budget:,} of {report.kept:,} rows{by}{value}{without}{filled}",
        f"seconds: {', '.join(f'{stage} {spent:.1f}' for stage, spent in material.seconds.items())}",
    ]
