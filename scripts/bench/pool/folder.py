"""A folder with a pool, its ``dataset_info.json`` and its label vectors, made once and used again."""

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
"""Raised when the same settings would make another pool than before."""
POOL_NAME = "bench_pool"
BYTES_PER_ROW = {"jsonl": 3_300, "parquet": 30}
"""Disk that a row takes, rounded up."""

MARK = "pool.json"
"""Written last: a pool with this file is whole."""


@dataclass(frozen=True, kw_only=True)
class PoolSettings:
    """What decides every byte of a pool."""

    rows: int
    kind: Literal["jsonl", "parquet"]
    seed: int = 0
    files: int = 1
    """Above 1: a folder of files. Only for Parquet, and no more than blocks of rows."""
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
    """Holds ``dataset_info.json``, too: it may be the `dataset_dir` of a selection."""
    data: Path
    """The file, or the folder of files."""
    files: list[Path]
    vectors: Path
    facts: dict[str, Any]
    """Settings, bytes, seconds that it took and statistics."""

    @property
    def num_bytes(self) -> int:
        """Bytes of the files."""
        return sum(file.stat().st_size for file in self.files)


def make_pool(folder: Path, settings: PoolSettings) -> MadePool:
    """Make a pool, or find it where the same settings made it before.

    Args:
        folder: Where it lies, or shall lie; made if need be.
        settings: The pool.

    Returns:
        The pool; `facts` of an earlier making are those of then.
    """
    wanted = {"version": GENERATOR_VERSION, **asdict(settings)}
    vectors, mark = folder / "label_vectors.npz", folder / MARK
    facts = json.loads(mark.read_text(encoding="utf-8")) if mark.exists() else {}
    files = _paths(folder, settings)
    if facts.get("settings") != wanted or not all(file.exists() for file in (*files, vectors)):
        mark.unlink(missing_ok=True)
        files[0].parent.mkdir(parents=True, exist_ok=True)
        facts = {"settings": wanted, **_write(files, settings)}
        np.savez(vectors, **label_vectors(settings.seed, settings.num_labels))
        write_dataset_info(folder, settings.file_name)
        _write_json(mark, facts)
    return MadePool(folder, folder / settings.file_name, files, vectors, facts)


def write_dataset_info(folder: Path, file_name: str) -> None:
    """Write a ``dataset_info.json`` whose one entry is the pool; `file_name` is relative to `folder`, or absolute."""
    _write_json(folder / "dataset_info.json", {POOL_NAME: {"file_name": file_name, **LAYOUT}})


def _paths(folder: Path, settings: PoolSettings) -> list[Path]:
    if settings.files == 1:
        return [folder / settings.file_name]
    return [folder / settings.file_name / f"part-{place:05d}.{settings.kind}" for place in range(settings.files)]


def _write(files: list[Path], settings: PoolSettings) -> dict[str, Any]:
    """Write the rows; return what was found on the way."""
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
