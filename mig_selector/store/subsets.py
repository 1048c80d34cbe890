"""Finished subsets: found again by fingerprint, checked before they are used, copied where they are wanted."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mig_selector.store.files import read_json, whole_file, write_json
from mig_selector.store.hashing import ContentHashes


MANIFEST = "manifest.json"
"""Written last: a folder without it is no subset."""


def read_manifest(folder: Path, mark: str, hashes: ContentHashes) -> dict[str, Any] | None:
    """Return a subset's manifest if the folder holds that selection, whole and unchanged.

    Args:
        folder: A subset's folder.
        mark: Fingerprint that is wanted.
        hashes: To check the files.
    """
    manifest = read_json(folder / MANIFEST)
    if not isinstance(manifest, dict) or manifest.get("fingerprint") != mark:
        return None
    files = manifest.get("files")
    # A folder may have been made by somebody else: no name may lead out of it.
    if not isinstance(files, dict) or not files or any(name != Path(name).name for name in files):
        return None
    try:
        is_whole = all(hashes.file(folder / name) == digest for name, digest in files.items())
    except OSError:
        return None
    return manifest if is_whole else None


def find_subset(mark: str, output_dir: Path, cache_dir: Path, hashes: ContentHashes) -> Path | None:
    """Look for a finished selection, under whatever name, in `output_dir` and wherever it was made before.

    Args:
        mark: Fingerprint that is wanted.
        output_dir: Where subsets are kept now.
        cache_dir: Remembers where they were kept before.
        hashes: To check the files.

    Returns:
        The folder of a valid subset, or None.
    """
    for folder in dict.fromkeys(_candidates(mark, output_dir, cache_dir)):
        if read_manifest(folder, mark, hashes) is not None:
            return folder
    return None


def _candidates(mark: str, output_dir: Path, cache_dir: Path) -> Iterator[Path]:
    if output_dir.is_dir():
        yield from sorted(output_dir.glob(f"*-{mark[:8]}"))
    known = read_json(_pointer(mark, cache_dir))
    if isinstance(known, list):
        yield from (Path(folder) for folder in known if isinstance(folder, str))


def _pointer(mark: str, cache_dir: Path) -> Path:
    return cache_dir / "selections" / f"{mark}.json"


def remember_subset(mark: str, folder: Path, cache_dir: Path) -> None:
    """Note where a subset is, so that another output folder finds it; a read-only cache remembers nothing."""
    known = read_json(_pointer(mark, cache_dir))
    folders = [*known, str(folder)] if isinstance(known, list) else [str(folder)]
    try:
        write_json(_pointer(mark, cache_dir), list(dict.fromkeys(folders)))
    except OSError:
        return


def copy_subset(source: Path, target: Path) -> None:
    """Copy a finished subset to another folder, its manifest last."""
    names = [*read_json(source / MANIFEST)["files"], MANIFEST]
    for name in names:
        with (source / name).open("rb") as original, whole_file(target / name) as copy:
            shutil.copyfileobj(original, copy)
