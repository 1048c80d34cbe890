"""Content hashes that are remembered, and the fingerprint that names a selection."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mig_selector.store.files import read_json, write_json


logger = logging.getLogger(__name__)

_BLOCK_BYTES = 64 << 20
_READ_BYTES = 1 << 20
_LARGE_BYTES = 10**10
"""From here on hashing takes seconds, and the log says so."""
_SETTLED_SECONDS = 2.0
"""A file younger than this could still change without its time stamps showing it; its hash is not remembered."""


class ContentHashes:
    """SHA-256 of files, remembered per (real path, size, mtime, ctime, inode).

    ``ctime`` cannot be set by a program, so a file that was changed and given its old size and ``mtime`` back is seen.
    """

    def __init__(self, cache_dir: Path) -> None:
        """Remember under `cache_dir`; a cache that cannot be written costs a second reading, nothing else."""
        self._memory = cache_dir / "content_hashes"

    def file(self, path: Path) -> str:
        """Return the SHA-256 of a file's bytes, in hexadecimal; of a large file see `hash_file`."""
        real = Path(os.path.realpath(path))
        stat = real.stat()
        stamp = [str(real), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
        note = self._memory / f"{hashlib.sha256(str(real).encode('utf-8', 'surrogateescape')).hexdigest()[:32]}.json"
        known = read_json(note)
        if isinstance(known, dict) and known.get("stamp") == stamp:
            return str(known["sha256"])
        digest = hash_file(real)
        if time.time() - max(stat.st_ctime, stat.st_mtime) > _SETTLED_SECONDS:
            _remember(note, {"stamp": stamp, "sha256": digest})
        return digest

    def folder(self, path: Path, without: tuple[str, ...] = ()) -> str:
        """Return one hash for all files below a folder, but for those of some endings: relative names and contents."""
        files = sorted(file for file in path.rglob("*") if file.is_file() and not file.name.endswith(without))
        return fingerprint_of({str(file.relative_to(path)): self.file(file) for file in files})


def hash_file(path: Path) -> str:
    """Hash a file on all cores.

    Returns:
        The SHA-256 of the bytes, in hexadecimal, where there are at most 64 MiB; else ``blocks-64MiB:`` and the
        SHA-256 of the blocks' SHA-256 digests: one digest after the other would be slower than reading the rows.
    """
    size = path.stat().st_size
    if size <= _BLOCK_BYTES:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    if size > _LARGE_BYTES:
        logger.info("hashing %s (%.1f GB) once; its hash is remembered", path, size / 1e9)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        digests = threads.map(lambda start: _hash_block(path, start), range(0, size, _BLOCK_BYTES))
        return "blocks-64MiB:" + hashlib.sha256(b"".join(digests)).hexdigest()


def _hash_block(path: Path, start: int) -> bytes:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as stream:
        stream.seek(start)
        left = _BLOCK_BYTES
        while left and (data := stream.read(min(_READ_BYTES, left))):
            digest.update(data)
            left -= len(data)
    return digest.digest()


def _remember(note: Path, value: Any) -> None:
    try:
        write_json(note, value)
    except OSError:
        return


def fingerprint_of(facts: Mapping[str, Any]) -> str:
    """Hash plain facts (text, numbers, lists, mappings), whatever the order of their keys; SHA-256, hexadecimal."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, ensure_ascii=True).encode("ascii")).hexdigest()
