"""What selections have left on disk, and how it is removed: subsets, comparisons, cached files.

Nothing is taken for ours by its folder alone, and no link is followed: a subset has a manifest of the expected form, a
cached file the name that this package gives it.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mig_selector.store.files import locked_if_free, read_believed_json, read_json
from mig_selector.store.subsets import MANIFEST, read_description


COMPARISON, STUDY = "comparison.json", "study.json"
"""The files by which the folders of comparisons and studies are known."""

_HASH = "[0-9a-f]{32}"
_MATRIX = rf"{_HASH}\.npy(\.partial(\.json)?)?"
_CACHED = {
    "pools": ("pool index: labels, scores and row offsets of pool files", rf"{_HASH}\.parquet"),
    "embeddings": ("label vectors, by encoder", rf"{_HASH}/{_HASH}\.parquet"),
    "annotations": ("labels and scores that annotators gave to rows", rf"{_HASH}/.+\.(parquet|json|npz)"),
    "chat_answers": ("answers of chat models", rf"{_HASH}\.jsonl"),
    "row_embeddings": ("row vectors", _MATRIX),
    "written_tokens": ("tokens that language models wrote", _MATRIX),
    "text_scores": ("scores that models gave texts", _MATRIX),
    "ifd": ("IFD of rows", _MATRIX),
    "row_tokens": ("tokens that training is fed for rows", _MATRIX),
    "response_tokens": ("lengths of responses in tokens", _MATRIX),
    "content_hashes": ("content hashes of files", rf"{_HASH}\.json"),
    "rows_in_eval": ("chosen rows that are in eval_dataset", rf"{_HASH}\.json"),
    "notebook": ("pools that Python code had in memory", rf"{_HASH}\.(jsonl|parquet)"),
    "kernels": ("compiled code", r".+\.nb[ci]"),
}
"""Folders of the cache: what is in them, and how the files are called."""


@dataclass(frozen=True)
class StoredFolder:
    """A finished subset, or a comparison or study of several."""

    kind: Literal["subset", "comparison", "study"]
    path: Path
    name: str
    """Of a subset as it was when it was made; entries may have been renamed since."""
    method: str
    pool: str
    """Names of the pools, joined by ``+``."""
    rows: tuple[int, int] | None
    """Rows chosen, and rows to choose from; None for comparisons and studies, of which each subset is listed too."""
    num_bytes: int
    written: float
    """Seconds since the epoch."""
    dataset_dir: Path | None = None
    """Where a subset was registered when it was made; None for comparisons, studies and earlier versions."""


@dataclass(frozen=True)
class CachedFile:
    """A file of the cache."""

    path: Path
    num_bytes: int
    written: float
    """Seconds since the epoch."""


@dataclass(frozen=True)
class CachedKind:
    """All cached files of one kind."""

    name: str
    """Of the folder in the cache."""
    path: Path
    meaning: str
    files: tuple[CachedFile, ...]

    @property
    def num_bytes(self) -> int:
        """Size of all files."""
        return sum(file.num_bytes for file in self.files)


def find_folders(output_dirs: Iterable[Path]) -> list[StoredFolder]:
    """Find the finished subsets, the comparisons and the studies in some output folders, the newest first.

    Args:
        output_dirs: Folders such as ``data/mig_selections``; one that does not exist holds none.
    """
    found = {}
    for output_dir in output_dirs:
        with suppress(OSError):
            for path in sorted(output_dir.iterdir()):
                if path.is_dir() and not path.is_symlink() and (folder := _describe(path)):
                    found[os.path.realpath(path)] = folder
    return sorted(found.values(), key=lambda folder: -folder.written)


def _describe(path: Path) -> StoredFolder | None:
    """Describe a subset, a comparison or a study; None for any other folder."""
    if manifest := read_description(path):
        name = str(manifest.get("dataset_name") or path.name.rpartition("-")[0])
        pool = "+".join(dict.fromkeys(subset["dataset"] for subset in manifest["subsets"]))
        rows = (manifest["budget"], manifest["rows"]["kept"])
        written = (path / MANIFEST).stat().st_mtime
        dataset_dir = manifest.get("config", {}).get("dataset_dir")
        home = Path(dataset_dir) if isinstance(dataset_dir, str) and Path(dataset_dir).is_absolute() else None
        return StoredFolder("subset", path, name, manifest["method"], pool, rows, _size(path), written, home)
    if path.name.startswith("study-"):
        return _describe_study(path)
    file = path / COMPARISON
    comparison: Any = read_json(file) if path.name.startswith("comparison-") and not file.is_symlink() else None
    try:
        methods = ", ".join(each["method"] for each in comparison["methods"])
        pool = str(comparison["pool"])
    except (TypeError, KeyError):
        return None
    return StoredFolder("comparison", path, path.name, methods, pool, None, _size(path), file.stat().st_mtime)


def _describe_study(path: Path) -> StoredFolder | None:
    file = path / STUDY
    study: Any = None if file.is_symlink() else read_json(file)
    try:
        plan = study["plan"]
        methods, pool = ", ".join(plan["arms"]), str(plan["pool"])
    except (TypeError, KeyError):
        return None
    return StoredFolder("study", path, path.name, methods, pool, None, _size(path), file.stat().st_mtime)


def recorded_output_dirs(cache_dir: Path) -> list[Path]:
    """Return the output folders in which runs with this cache have put subsets."""
    folders: dict[Path, None] = {}
    with suppress(OSError):
        for record in sorted((cache_dir / "selections").glob("*.json")):
            known = read_believed_json(record)
            if isinstance(known, list):
                folders |= {Path(folder).parent: None for folder in known if isinstance(folder, str)}
    return list(folders)


def find_cached(cache_dir: Path) -> list[CachedKind]:
    """Find the cached files of each kind; kinds of which there are none are left out."""
    kinds = []
    for name, (meaning, pattern) in _CACHED.items():
        path = cache_dir / name
        files = tuple(_files_below(path, re.compile(pattern))) if not path.is_symlink() else ()
        if files:
            kinds.append(CachedKind(name, path, meaning, files))
    return kinds


def _files_below(folder: Path, pattern: re.Pattern[str]) -> Iterator[CachedFile]:
    for path in _walk(folder):
        if pattern.fullmatch(path.relative_to(folder).as_posix()):
            with suppress(FileNotFoundError):  # removed meanwhile
                status = path.lstat()
                if stat.S_ISREG(status.st_mode):
                    yield CachedFile(path, status.st_size, status.st_mtime)


def _walk(folder: Path) -> Iterator[Path]:
    """Yield all files below a folder; links are not followed."""
    for home, folders, files in os.walk(folder):
        folders.sort()
        yield from (Path(home, name) for name in sorted(files))


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in _walk(folder))


def is_selecting(cache_dir: Path) -> bool:
    """Whether a run selects with this cache right now: it may be about to read what it has just found there."""
    for lock in (cache_dir / "locks").glob(".*.lock"):
        with locked_if_free(lock.with_name(lock.name.removeprefix(".").removesuffix(".lock"))) as is_free:
            if not is_free:
                return True
    return False


def is_used(folder: StoredFolder) -> bool:
    """Whether another process holds the lock of a folder, as a study does while it runs."""
    if not folder.path.with_name(f".{folder.path.name}.lock").exists():
        return False
    with locked_if_free(folder.path) as is_free:
        return not is_free


def remove_folder(folder: StoredFolder) -> bool:
    """Remove a subset, a comparison or a study; return whether it is gone.

    It stays while another process holds its lock. It vanishes with one rename, so what an interrupt leaves behind is
    not taken for a subset.

    Raises:
        OSError: It cannot be removed.
    """
    with locked_if_free(folder.path) as is_free:
        if not is_free:
            return False
        # The name of a staging folder that a killed process has left, which the next run of this selection removes.
        doomed = folder.path.with_name(f".{folder.path.name}.{secrets.token_hex(4)}.tmp")
        folder.path.rename(doomed)
        shutil.rmtree(doomed)  # refuses a link, and follows none
    return True


def remove_cached(file: CachedFile) -> bool:
    """Remove a cached file; return whether it is gone. It stays while another process holds a lock over it.

    Raises:
        OSError: It cannot be removed.
    """
    whole = re.sub(r"\.partial(\.json)?$", "", file.path.name)  # a matrix and its unfinished form share a lock
    with ExitStack() as stack:
        for path in (file.path.with_name(whole), file.path.parent):
            # Without a lock file nobody computes it under a lock, and none is made.
            if path.with_name(f".{path.name}.lock").exists() and not stack.enter_context(locked_if_free(path)):
                return False
        file.path.unlink(missing_ok=True)
    return True


def describe_size(num_bytes: float) -> str:
    """Return a size for people: ``1.5 GB``."""
    for unit in ("B", "KB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} TB"
