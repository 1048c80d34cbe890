"""What must hold of a place at any moment, whatever happened to the selections in it; nothing of the package is used.

Every function yields findings in words; none is what is wanted.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from faults.sandbox import Place, Reference


OWN_KEY = "mig_selector"

_JSON_ERRORS = (OSError, ValueError)
_BLOCK_BYTES = 64 << 20
_BLOCKS_MARK = "blocks-64MiB:"
"""Before hashes of larger files: they are that of the hashes of their blocks."""


class Checks:
    """The checks of one place; a file is looked at again only when the system says that it changed."""

    def __init__(self, place: Place, references: Mapping[object, Reference]) -> None:
        """Check `place`, whose subsets must be those of `references`."""
        self._place = place
        self._references = {reference.mark: reference for reference in references.values()}
        roots = {reference.folder.parents[2] for reference in references.values()}
        self._extracts = {file.name: file for root in roots for file in root.glob("cache/pools/*.parquet")}
        self._hashes: dict[Path, tuple[tuple[int, ...], str]] = {}
        self._seen: dict[Path, tuple[int, ...]] = {}

    def all(self) -> Iterator[str]:
        """Check everything."""
        yield from self.dataset_info()
        yield from self.subsets()
        yield from self.cache()

    def dataset_info(self) -> Iterator[str]:
        """Entries of others are there byte by byte, and each of ours leads to a whole subset."""
        try:
            text = self._place.info.read_bytes().decode("utf-8")
            entries = json.loads(text)
        except _JSON_ERRORS as error:
            yield f"{self._place.info} is no JSON: {error}"
            return
        yield from _foreign_text(text, self._place.foreign_text)
        for name, entry in entries.items():
            if OWN_KEY in entry:
                yield from self._entry(name, entry)

    def _entry(self, name: str, entry: Mapping[str, Any]) -> Iterator[str]:
        file = self._place.data / entry["file_name"]
        manifest = _read_json(file.parent / "manifest.json")
        if manifest is None:
            yield f"entry {name} leads to {file.parent}, which has no manifest"
        elif manifest["fingerprint"] != entry[OWN_KEY]:
            yield f"entry {name} is of {entry[OWN_KEY]}, its subset of {manifest['fingerprint']}"
        elif file.name not in manifest["files"]:
            yield f"entry {name} names {file.name}, which the manifest does not"
        else:
            for other, digest in manifest["files"].items():
                if self._hash(file.parent / other) != digest:
                    yield f"entry {name}: {file.parent / other} is not what the manifest says, or is not there"

    def subsets(self) -> Iterator[str]:
        """No file of a subset has its final name before it is what an undisturbed run writes."""
        for folder in sorted(self._place.subsets.glob("*")):
            mark = folder.name.rpartition("-")[2]
            found = [each for each in self._references.values() if each.mark[:8] == mark]
            if len(found) != 1:
                yield f"{folder} belongs to no selection that was asked for"
                continue
            for file in _final_files(folder):
                if self._is_new(file):
                    yield from self._subset_file(file, file.relative_to(folder), found[0])

    def _subset_file(self, file: Path, name: Path, reference: Reference) -> Iterator[str]:
        if name.name == "manifest.json":
            manifest, wanted = _read_json(file), _read_json(reference.folder / name)
            if manifest is None or any(manifest[key] != wanted[key] for key in ("fingerprint", "files", "rows")):
                yield f"{file} is not the manifest of an undisturbed run"
        elif name.name == "dataset_info.json":
            entries = _read_json(file)
            if entries is None or not all(Path(entry["file_name"]).is_file() for entry in entries.values()):
                yield f"{file} is no JSON, or names a file that is not there"
        elif not (reference.folder / name).exists():
            yield f"{file} is not among the files of an undisturbed run"
        elif file.read_bytes() != (reference.folder / name).read_bytes():
            yield f"{file} is not what an undisturbed run wrote"

    def cache(self) -> Iterator[str]:
        """Whatever has its final name in the cache is whole."""
        readers: dict[str, Callable[[Path], Iterator[str]]] = {
            "pools": self._pool_extract,
            "embeddings": _label_vectors,
            "content_hashes": self._content_hash,
            "selections": _pointer,
        }
        for file in _final_files(self._place.cache):
            reader = readers.get(file.relative_to(self._place.cache).parts[0])
            if reader is None:
                yield f"{file} is not among the files that the cache is known to hold"
            elif self._is_new(file):
                yield from reader(file)

    def _pool_extract(self, file: Path) -> Iterator[str]:
        if file.name not in self._extracts:
            yield f"{file} is of no pool that was read"
        elif file.read_bytes() != self._extracts[file.name].read_bytes():
            yield f"{file} is not what an undisturbed run wrote"

    def _content_hash(self, file: Path) -> Iterator[str]:
        note = _read_json(file)
        if not isinstance(note, dict) or not re.fullmatch(f"({_BLOCKS_MARK})?[0-9a-f]{{64}}", str(note.get("sha256"))):
            yield f"{file} is no note of a content hash"
            return
        path = Path(note["stamp"][0])
        stat = path.stat() if path.exists() else None
        is_of_now = stat and note["stamp"][1:] == [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
        if is_of_now and self._hash(path) != note["sha256"]:
            yield f"{file} notes a wrong hash of {path}"

    def _hash(self, file: Path) -> str | None:
        if not file.is_file():
            return None
        stamp = _stamp(file)
        if self._hashes.get(file, ((), ""))[0] != stamp:
            self._hashes[file] = (stamp, _hash(file.read_bytes()))
        return self._hashes[file][1]

    def _is_new(self, file: Path) -> bool:
        stamp = _stamp(file)
        is_new = self._seen.get(file) != stamp
        self._seen[file] = stamp
        return is_new


def _hash(content: bytes) -> str:
    if len(content) <= _BLOCK_BYTES:
        return hashlib.sha256(content).hexdigest()
    starts = range(0, len(content), _BLOCK_BYTES)
    digests = [hashlib.sha256(content[start : start + _BLOCK_BYTES]).digest() for start in starts]
    return _BLOCKS_MARK + hashlib.sha256(b"".join(digests)).hexdigest()


def leftovers(folder: Path) -> list[Path]:
    """Return the temporary files below a folder; while nothing runs there, killed processes left them."""
    return sorted(file for file in folder.rglob("*") if _is_temporary(file))


def _is_temporary(file: Path) -> bool:
    return file.name.endswith(".tmp") or ".nbi.tmp." in file.name or ".nbc.tmp." in file.name


def _final_files(folder: Path) -> Iterator[Path]:
    for file in sorted(folder.rglob("*")):
        if file.is_file() and not _is_temporary(file) and not file.name.endswith(".lock"):
            yield file


def _stamp(file: Path) -> tuple[int, ...]:
    stat = file.stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except _JSON_ERRORS:
        return None


def _foreign_text(text: str, pieces: tuple[str, ...]) -> Iterator[str]:
    """Between the pieces of others stand entries of ours, and nothing else does."""
    place, between = 0, []
    for piece in pieces:
        start = text.find(piece, place)
        if start < 0:
            yield f"dataset_info.json no longer holds this text of others: {piece!r}"
            return
        between.append(text[place:start])
        place = start + len(piece)
    if between[0] or text[place:]:
        yield f"dataset_info.json begins or ends with something new: {between[0]!r}, {text[place:]!r}"
    for hole in between[1:]:
        try:
            entries = json.loads("{" + hole.strip(", \t\r\n") + "}")
        except ValueError:
            yield f"dataset_info.json holds text that is neither ours nor was there: {hole[:200]!r}"
            continue
        yield from (f"entry {name} is not ours" for name, entry in entries.items() if OWN_KEY not in entry)


def _label_vectors(file: Path) -> Iterator[str]:
    yield from _parquet(file)
    table = pq.read_table(file)
    vectors = table["embedding"].combine_chunks().flatten().to_numpy()
    if not np.isfinite(vectors).all() or not vectors.any() or len(set(table["label"].to_pylist())) != len(table):
        yield f"{file} holds no vectors of labels"


def _parquet(file: Path) -> Iterator[str]:
    try:
        pq.read_table(file)
    except (OSError, pa.ArrowException) as error:
        yield f"{file} cannot be read: {error}"


def _pointer(file: Path) -> Iterator[str]:
    folders = _read_json(file)
    if not isinstance(folders, list) or not folders:
        yield f"{file} is no list of folders"
        return
    yield from (f"{file} names {folder}, which is no subset" for folder in folders if not _is_subset(Path(folder)))


def _is_subset(folder: Path) -> bool:
    return (folder / "manifest.json").is_file()
