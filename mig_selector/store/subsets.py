"""Finished subsets: found by fingerprint, verified before use, written under a lock, copied to another folder.

An output folder may have come with somebody's data: no link in it is followed, and a manifest is checked before any
of it is used.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec

from mig_selector.errors import RegistrationError
from mig_selector.store.files import locked, read_believed_json, read_json, whole_file, write_json
from mig_selector.store.folders import is_believed
from mig_selector.store.hashing import ContentHashes


MANIFEST = "manifest.json"
"""Written last: a folder without it is not a finished subset."""
SELECTION_TABLE = "selection.parquet"
"""Which rows were chosen, and what each gained."""
CANDIDATES = "candidates.parquet"
"""The rows that a comparison chose from; other subsets have no such file."""
FOLDER_DIGITS = 16
"""Digits of the fingerprint at the end of a folder's name."""
OLD_FOLDER_DIGITS = 8
"""The same in folders of earlier versions, which are still found."""

_MAX_MANIFEST_BYTES = 64 << 20
"""A larger manifest was not written by this package, and is not read."""

_Count = Annotated[int, msgspec.Meta(ge=0)]


class _Rows(msgspec.Struct):
    """Row counts in a manifest."""

    read: _Count
    kept: _Count
    dropped: dict[str, _Count]
    unreadable: dict[str, _Count]


class _SubsetFile(msgspec.Struct):
    """The rows of one name of the pool in a manifest."""

    dataset: str
    entry_index: _Count
    rows: _Count
    json_lines: str
    file: str
    columns: dict[str, str]


class _Manifest(msgspec.Struct):
    """All that is read in a manifest; what it has besides is for people."""

    fingerprint: str
    method: str
    budget: Annotated[int, msgspec.Meta(ge=1)]
    rows_filled_by_score: _Count
    information: float | None
    peak_memory_bytes: _Count | None
    rows: _Rows
    subsets: list[_SubsetFile]
    files: dict[str, str]
    settings: dict[str, Any]
    versions: dict[str, str]
    seconds: dict[str, float]
    config: dict[str, Any] = {}
    identity: dict[str, Any] = {}
    """Both are missing in manifests of earlier versions."""
    validation: list[_SubsetFile] = []
    """Rows that were not chosen, for validation. Manifests of earlier versions lack it."""
    validation_rows_chosen: _Count = 0

    @property
    def is_sound(self) -> bool:
        """Whether it names files in its own folder only, and all that its parts speak of."""
        parts = [*self.subsets, *self.validation]
        named = {name for part in parts for name in (part.json_lines, part.file)}
        return bool(self.subsets) and named <= set(self.files) and all(_is_plain(name) for name in self.files)


def _is_plain(name: str) -> bool:
    """Whether a file name stays in its folder."""
    return name == Path(name).name and name not in {"", ".", "..", MANIFEST} and "\0" not in name


def read_manifest(folder: Path, fingerprint: str, hashes: ContentHashes) -> dict[str, Any] | None:
    """Return the manifest of a subset if the folder holds it completely and unchanged.

    Args:
        folder: The folder of a subset, or of something else.
        fingerprint: The fingerprint that the subset must have.
        hashes: Hashes the files, to compare them with the manifest.

    Returns:
        The manifest; None if the folder lacks it, has another selection, has missing or changed files, or is a link
        or has one among its files, or if the manifest is malformed.
    """
    manifest = read_description(folder)
    if manifest is None or manifest["fingerprint"] != fingerprint or folder.is_symlink():
        return None
    try:
        is_intact = all(
            _is_plain_file(folder / name) and hashes.file(folder / name) == digest
            for name, digest in manifest["files"].items()
        )
    except OSError:
        return None
    return manifest if is_intact else None


def read_description(folder: Path) -> dict[str, Any] | None:
    """Return the manifest of a folder if it has the expected form; whether the files are those is not checked."""
    manifest = _read_plain_json(folder / MANIFEST)
    try:
        is_sound = msgspec.convert(manifest, _Manifest).is_sound
    except (msgspec.ValidationError, RecursionError):
        return None
    return manifest if is_sound else None


def _is_plain_file(path: Path) -> bool:
    """Whether a path is a file and not a link to one; a pipe would never end."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except (OSError, ValueError):
        return False


def _read_plain_json(path: Path) -> Any:
    """Read a manifest; None if it cannot be read, or is a link, a pipe or far too large."""
    if not _is_plain_file(path) or path.stat().st_size > _MAX_MANIFEST_BYTES:
        return None
    return read_json(path)


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
        names = {path: path.name.rpartition("-")[2] for path in output_dir.glob("*-*")}
        found = [path for path, end in names.items() if len(end) >= OLD_FOLDER_DIGITS and fingerprint.startswith(end)]
        yield from sorted(found, key=lambda path: (-len(names[path]), path.name))
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


@contextlib.contextmanager
def locked_subset(folder: Path, fingerprint: str) -> Iterator[None]:
    """Hold the lock of a subset's folder, a file beside it, while the block decides what belongs there and writes it.

    Runs with different caches share no other lock.

    Raises:
        RegistrationError: Something else than a folder is there, or the folder holds another selection.
    """
    _check_folder(folder, fingerprint)  # a lock follows links
    with locked(folder):
        _check_folder(folder, fingerprint)
        yield


def check_own_folder(folder: Path) -> None:
    """Refuse a folder to write to that is a link, which may lead anywhere, or a file.

    Raises:
        RegistrationError: It is.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise RegistrationError(
            f"{folder} must be a folder of its own, but is a link or a file. Remove it, or set mig_output_dir."
        )


def _check_folder(folder: Path, fingerprint: str) -> None:
    check_own_folder(folder)
    manifest = _read_plain_json(folder / MANIFEST)
    found = manifest.get("fingerprint") if isinstance(manifest, dict) else None
    if isinstance(found, str) and found != fingerprint:
        raise RegistrationError(
            f"{folder} holds another selection (fingerprint {found[:FOLDER_DIGITS]!r}), which is not overwritten. "
            "Remove it, or set mig_output_dir or mig_dataset_name to another name."
        )


@contextlib.contextmanager
def staging_folder(folder: Path) -> Iterator[Path]:
    """Give a new, empty folder beside `folder` to write a subset to; see `publish`. It is removed with the block.

    Nobody else knows its name: what is hashed in it is what was written, and no link waits there.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(folder)
    staging = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
    staging.mkdir()
    handle = os.open(staging, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):  # not every file system has locks
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # so that no other process takes it for abandoned
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        os.close(handle)


def _remove_abandoned(folder: Path) -> None:
    """Remove the staging folders that killed processes left for `folder`."""
    for staging in folder.parent.glob(f".{glob.escape(folder.name)}.*.tmp"):
        with contextlib.suppress(OSError):
            handle = os.open(staging, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(staging, ignore_errors=True)
            finally:
                os.close(handle)


def publish(staging: Path, folder: Path) -> None:
    """Give a finished subset its name, its manifest last; the caller must hold the lock of `folder`."""
    if not folder.exists():
        staging.rename(folder)
        return
    # Of the same selection, but damaged or unfinished, or to be overwritten. A file takes the place of a link.
    for file in sorted(staging.iterdir(), key=lambda file: file.name == MANIFEST):
        file.replace(folder / file.name)


def copy_subset(source: Path, target: Path) -> None:
    """Copy a finished subset to another folder, its manifest last; OSError if a file cannot be read or written."""
    names = [*read_json(source / MANIFEST)["files"], MANIFEST]
    for name in names:
        handle = os.open(source / name, os.O_RDONLY | os.O_NOFOLLOW)
        with os.fdopen(handle, "rb") as original, whole_file(target / name, is_private=True) as copy:
            shutil.copyfileobj(original, copy)
