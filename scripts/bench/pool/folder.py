"""A folder with a pool, its ``dataset_info.json`` and its label vectors, made once and reused."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bench.pool.json_lines import JsonLines
from bench.pool.parquet import ParquetPool
from bench.pool.rows import NUM_LABELS, RowModel
from bench.pool.statistics import Statistics
from bench.pool.vectors import label_vectors
from demo.pool.layout import LAYOUT


GENERATOR_VERSION = 1
"""Increased when the same settings would make a different pool than before."""
POOL_NAME = "bench_pool"
BYTES_PER_ROW = {"jsonl": 3_300, "parquet": 30}
"""Disk space of a row, rounded up."""
MARKER = "pool.json"
"""Written last: a pool with this file is complete."""

_SETTLED_SECONDS = 2.5
"""The package remembers the content hash of a file only if the file is older than about this."""


@dataclass(frozen=True, kw_only=True)
class PoolSettings:
    """Everything that decides the bytes of a pool."""

    rows: int
    kind: Literal["jsonl", "parquet"]
    seed: int = 0
    files: int = 1
    """Above 1: a folder of files. Only for Parquet, and at most one file per block of rows."""
    num_labels: int = NUM_LABELS

    def __post_init__(self) -> None:
        """Check what can be checked before anything is drawn."""
        if self.rows < 1 or self.files < 1:
            raise ValueError(f"rows and files must be 1 or more, got {self.rows} and {self.files}")
        if self.kind == "jsonl" and self.files > 1:
            raise ValueError(f"a JSON Lines pool is one file, got files={self.files}")

    @property
    def file_name(self) -> str:
        """The file, or the folder of files, beside ``dataset_info.json``."""
        return f"{POOL_NAME}.{self.kind}" if self.files == 1 else POOL_NAME


@dataclass(frozen=True)
class MadePool:
    """A pool on disk."""

    folder: Path
    """Also holds ``dataset_info.json``, so it can be the `dataset_dir` of a selection."""
    data: Path
    """The file, or the folder of files."""
    files: list[Path]
    vectors: Path
    report: dict[str, Any]
    """The content of ``pool.json``: settings, size, how fast it was written, statistics of the rows."""

    @property
    def num_bytes(self) -> int:
        """Total size of the files."""
        return sum(file.stat().st_size for file in self.files)

    def settle(self) -> None:
        """Wait until the files are old enough for the package to remember their content hashes."""
        newest = max(file.stat().st_mtime for file in (*self.files, self.vectors))
        time.sleep(max(0.0, newest + _SETTLED_SECONDS - time.time()))


def make_pool(folder: Path, settings: PoolSettings) -> MadePool:
    """Make a pool, or reuse the one that the same settings made earlier.

    Args:
        folder: The pool's folder; created if necessary.
        settings: What to make.

    Returns:
        The pool; the `report` of a reused pool is the one written when it was made.
    """
    wanted = {"version": GENERATOR_VERSION, **asdict(settings)}
    vectors, marker = folder / "label_vectors.npz", folder / MARKER
    report = json.loads(marker.read_text(encoding="utf-8")) if marker.exists() else {}
    files = _paths(folder, settings)
    if report.get("settings") != wanted or not all(file.exists() for file in (*files, vectors)):
        marker.unlink(missing_ok=True)
        files[0].parent.mkdir(parents=True, exist_ok=True)
        report = {"settings": wanted, **_write(files, settings)}
        labels, embeddings = label_vectors(settings.seed, settings.num_labels)
        np.savez(vectors, labels=labels, embeddings=embeddings)
        write_dataset_info(folder, settings.file_name)
        _write_json(marker, report)
    return MadePool(folder, folder / settings.file_name, files, vectors, report)


def write_dataset_info(folder: Path, file_name: str) -> None:
    """Write a ``dataset_info.json`` whose only entry is the pool; `file_name` is relative to `folder`, or absolute."""
    _write_json(folder / "dataset_info.json", {POOL_NAME: {"file_name": file_name, **LAYOUT}})


def _paths(folder: Path, settings: PoolSettings) -> list[Path]:
    if settings.files == 1:
        return [folder / settings.file_name]
    return [folder / settings.file_name / f"part-{number:05d}.{settings.kind}" for number in range(settings.files)]


def _write(files: list[Path], settings: PoolSettings) -> dict[str, Any]:
    """Write the rows; return size, speed and statistics."""
    start = time.perf_counter()
    model = RowModel(settings.seed, settings.num_labels)
    statistics = Statistics(settings.num_labels)
    if settings.kind == "jsonl":
        with files[0].open("wb") as stream:
            for rows, text in JsonLines(model).chunks(settings.rows):
                stream.write(text)
                statistics.add(rows)
    else:
        for rows in ParquetPool(model).write(files, settings.rows):
            statistics.add(rows)
    seconds = time.perf_counter() - start
    size = sum(file.stat().st_size for file in files)
    return {
        "bytes": size,
        "bytes_per_row": round(size / settings.rows, 2),
        "seconds": round(seconds, 3),
        "rows_per_second": round(settings.rows / seconds),
        "megabytes_per_second": round(size / seconds / 1e6, 1),
        "statistics": statistics.summary(),
    }


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
