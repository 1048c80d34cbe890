"""Finished subsets: found by fingerprint, verified before use, copied to another folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mig_selector.store.files import read_believed_json, read_json, whole_file, write_json
from mig_selector.store.folders import is_believed
from mig_selector.store.hashing import ContentHashes


MANIFEST = "manifest.json"
"""Written last: a folder without it is not a finished subset."""


def read_manifest(folder: Path, fingerprint: str, hashes: ContentHashes) -> dict[str, Any] | None:
    """Return the manifest of a subset if the folder holds it completely and unchanged.

    Args:
        folder: The folder of a subset, or of something else.
        fingerprint: The fingerprint that the subset must have.
        hashes: Hashes the files, to compare them with the manifest.

    Returns:
        The manifest; None if the folder lacks it, has another selection, or has missing or changed files.
    """
    manifest = read_json(folder / MANIFEST)
    if not isinstance(manifest, dict) or manifest.get("fingerprint") != fingerprint:
        return None
    files = manifest.get("files")
    # The folder may come from somebody else: its manifest must not name files outside it.
    if not isinstance(files, dict) or not files or any(name != Path(name).name for name in files):
        return None
    try:
        is_intact = all(hashes.file(folder / name) == digest for name, digest in files.items())
    except OSError:
        return None
    return manifest if is_intact else None


def find_subset(fingerprint: str, output_dir: Path, cache_dir: Path, hashes: ContentHashes) -> Path | None:
    """Find a finished subset, whatever its name, in `output_dir` or in any folder it was written to before.

    Args:
        fingerprint: The fingerprint that the subset must have.
        output_dir: The current output folder.
        cache_dir: Holds the record of earlier folders; see `remember_subset`.
        hashes: Hashes the files, to compare them with the manifest.

    Returns:
        The folder of an intact subset, or None.
    """
    for folder in dict.fromkeys(_candidates(fingerprint, output_dir, cache_dir)):
        manifest = read_manifest(folder, fingerprint, hashes)
        if manifest is not None and all(is_believed(folder / name) for name in (MANIFEST, *manifest["files"])):
            return folder
    return None


def _candidates(fingerprint: str, output_dir: Path, cache_dir: Path) -> Iterator[Path]:
    if output_dir.is_dir():
        yield from sorted(output_dir.glob(f"*-{fingerprint[:8]}"))
    known = read_believed_json(_record_path(fingerprint, cache_dir))
    if isinstance(known, list):
        yield from (Path(folder) for folder in known if isinstance(folder, str))


def _record_path(fingerprint: str, cache_dir: Path) -> Path:
    """Return the file that lists the folders a selection was written to."""
    return cache_dir / "selections" / f"{fingerprint}.json"


def remember_subset(fingerprint: str, folder: Path, cache_dir: Path) -> None:
    """Record the folder of a subset, so that runs with another output folder find it.

    If the cache cannot be written, nothing is recorded and the subset is merely computed again there.
    """
    known = read_believed_json(_record_path(fingerprint, cache_dir))
    folders = [*known, str(folder)] if isinstance(known, list) else [str(folder)]
    try:
        write_json(_record_path(fingerprint, cache_dir), list(dict.fromkeys(folders)), is_private=True)
    except OSError:
        return


def copy_subset(source: Path, target: Path) -> None:
    """Copy a finished subset to another folder, its manifest last; OSError if a file cannot be read or written."""
    names = [*read_json(source / MANIFEST)["files"], MANIFEST]
    for name in names:
        with (source / name).open("rb") as original, whole_file(target / name, is_private=True) as copy:
            shutil.copyfileobj(original, copy)
