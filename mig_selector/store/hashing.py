"""Cached hashes of file contents, and fingerprints: hashes of everything that decides a result."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mig_selector.store.files import read_believed_json, write_json


logger = logging.getLogger(__name__)

_BLOCK_BYTES = 64 << 20
"""Unit of parallel hashing. Part of the hash of larger files: changing it changes their fingerprints."""
_READ_BYTES = 1 << 20
_LARGE_BYTES = 10**10
"""Hashing a larger file takes seconds, so the log mentions it."""
_SETTLED_SECONDS = 2.0
"""The hash of a file changed more recently than this is not cached: another change might not alter its time stamps."""


class ContentHashes:
    """SHA-256 of files, cached per (real path, size, mtime, ctime, inode).

    Programs cannot set ``ctime``, so it reveals a change that restores the size and ``mtime`` of a file.
    """

    def __init__(self, cache_dir: Path) -> None:
        """Cache below `cache_dir`. If that cannot be written, files are hashed again by the next run."""
        self._records = cache_dir / "content_hashes"
        self._stamps: dict[Path, list[Any]] = {}

    def file(self, path: Path) -> str:
        """Return the hash of a file's content in the format of `hash_file`; OSError if it cannot be read."""
        real = Path(os.path.realpath(path))
        stat = real.stat()
        stamp = _stamp(real, stat)
        self._stamps.setdefault(path, stamp)
        name = hashlib.sha256(str(real).encode("utf-8", "surrogateescape")).hexdigest()[:32]
        record = self._records / f"{name}.json"
        known = read_believed_json(record)
        if isinstance(known, dict) and known.get("stamp") == stamp and isinstance(known.get("sha256"), str):
            return str(known["sha256"])
        digest = hash_file(real)
        if time.time() - max(stat.st_ctime, stat.st_mtime) > _SETTLED_SECONDS:
            _write_if_possible(record, {"stamp": stamp, "sha256": digest})
        return digest

    def is_untouched(self, path: Path) -> bool:
        """Whether a file is still the one that `file` was first called for, and nobody has written to it since.

        An equal hash does not show that: the file may have been exchanged, read, and put back. Then ctime, at least,
        has changed.
        """
        real = Path(os.path.realpath(path))
        return path not in self._stamps or self._stamps[path] == _stamp(real, real.stat())

    def folder(self, path: Path, without: tuple[str, ...] = ()) -> str:
        """Return one hash for the relative names and contents of all files below a folder.

        Args:
            path: The folder.
            without: Endings of file names to ignore.
        """
        files = sorted(file for file in _files_below(path) if not file.name.endswith(without))
        return fingerprint_of({str(file.relative_to(path)): self.file(file) for file in files})


def _stamp(real: Path, stat: os.stat_result) -> list[Any]:
    return [str(real), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def _files_below(folder: Path, above: frozenset[Path] = frozenset()) -> Iterator[Path]:
    """Yield all files below a folder, those in folders that are links included.

    Args:
        folder: The folder.
        above: The real paths of the folders through which the walk came; links back to them are left out.
    """
    real = Path(os.path.realpath(folder))
    if any(one.is_relative_to(real) for one in above):
        return
    for path in folder.iterdir():
        if path.is_dir():
            yield from _files_below(path, above | {real})
        elif path.is_file():
            yield path


def hash_file(path: Path) -> str:
    """Hash a file's content, a large one on all cores.

    A plain SHA-256 cannot be computed in parallel, and hashing a pool would take longer than reading its rows.

    Returns:
        For at most 64 MiB the SHA-256 of the bytes, in hexadecimal; else ``blocks-64MiB:`` followed by the SHA-256 of
        the concatenated SHA-256 digests of its 64 MiB blocks.
    """
    size = path.stat().st_size
    if size <= _BLOCK_BYTES:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    if size > _LARGE_BYTES:
        logger.info("hashing %s (%.1f GB); this is done once, its hash is cached", path, size / 1e9)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        digests = threads.map(lambda start: _hash_block(path, start), range(0, size, _BLOCK_BYTES))
        return "blocks-64MiB:" + hashlib.sha256(b"".join(digests)).hexdigest()


def _hash_block(path: Path, start: int) -> bytes:
    """Return the digest of the block that begins at byte `start`."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as stream:
        stream.seek(start)
        remaining = _BLOCK_BYTES
        while remaining and (data := stream.read(min(_READ_BYTES, remaining))):
            digest.update(data)
            remaining -= len(data)
    return digest.digest()


def _write_if_possible(record: Path, value: Any) -> None:
    """Write a record that only saves time; a read-only or full cache is not an error."""
    try:
        write_json(record, value, is_private=True)
    except OSError:
        return


def fingerprint_of(identity: Mapping[str, Any]) -> str:
    """Return the fingerprint of an identity: the SHA-256 of its JSON with sorted keys, in hexadecimal.

    Args:
        identity: Strings, numbers, booleans, None, lists and dictionaries of these; the order of keys is irrelevant.
    """
    return hashlib.sha256(json.dumps(identity, sort_keys=True, ensure_ascii=True).encode("ascii")).hexdigest()
