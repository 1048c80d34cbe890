"""Content hashes that are remembered, and the fingerprint that names a selection."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mig_selector.store.files import read_json, write_json


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
        """Return the SHA-256 of a file's bytes, in hexadecimal."""
        real = Path(os.path.realpath(path))
        stat = real.stat()
        stamp = [str(real), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
        note = self._memory / f"{hashlib.sha256(str(real).encode('utf-8', 'surrogateescape')).hexdigest()[:32]}.json"
        known = read_json(note)
        if isinstance(known, dict) and known.get("stamp") == stamp:
            return str(known["sha256"])
        with real.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        if time.time() - max(stat.st_ctime, stat.st_mtime) > _SETTLED_SECONDS:
            _remember(note, {"stamp": stamp, "sha256": digest})
        return digest

    def folder(self, path: Path) -> str:
        """Return one hash for all files below a folder: their relative names and contents."""
        files = sorted(file for file in path.rglob("*") if file.is_file())
        return fingerprint({str(file.relative_to(path)): self.file(file) for file in files})


def _remember(note: Path, value: Any) -> None:
    try:
        write_json(note, value)
    except OSError:
        return


def fingerprint(facts: Mapping[str, Any]) -> str:
    """Hash plain facts (text, numbers, lists, mappings), whatever the order of their keys; SHA-256, hexadecimal."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, ensure_ascii=True).encode("ascii")).hexdigest()
