"""Invariants of a sandbox that hold at any moment, whatever happened to the selections in it.

They are checked without the package's own code. Every function yields findings, each a sentence; a sound sandbox has
none.
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

from faults.sandbox import FOLDER_DIGITS, Reference, Sandbox, Selection


OWN_KEY = "mig_selector"
"""Key of our entries in dataset_info.json; its value is the fingerprint."""

_JSON_ERRORS = (OSError, ValueError)
_BLOCK_BYTES = 64 << 20
_BLOCKS_PREFIX = "blocks-64MiB:"
"""Prefix of the hash of a larger file, which is the hash of the hashes of its blocks."""

_REPORT_ENDS = {"report.html": b"</html>", "report.json": b"}"}


class Checks:
    """The checks of one sandbox; a file is read again only if its size, times or inode changed."""

    def __init__(self, sandbox: Sandbox, references: Mapping[Selection, Reference]) -> None:
        """Prepare to check `sandbox`, whose subsets must equal those of `references`."""
        self._sandbox = sandbox
        self._references = {reference.fingerprint: reference for reference in references.values()}
        roots = {reference.folder.parents[2] for reference in references.values()}
        self._indexes = {file.name: file for root in roots for file in root.glob("cache/pools/*.parquet")}
        self._hashes: dict[Path, tuple[tuple[int, ...], str]] = {}
        self._seen: dict[Path, tuple[int, ...]] = {}

    def all(self) -> Iterator[str]:
        """Check dataset_info.json, subsets and cache."""
        yield from self.dataset_info()
        yield from self.subsets()
        yield from self.cache()

    def dataset_info(self) -> Iterator[str]:
        """Check that entries of others are there byte for byte, and that each of ours leads to a complete subset."""
        try:
            text = self._sandbox.info.read_bytes().decode("utf-8")
            entries = json.loads(text)
        except _JSON_ERRORS as error:
            yield f"{self._sandbox.info} is not valid JSON: {error}"
            return
        yield from _foreign_text(text, self._sandbox.foreign_text)
        for name, entry in entries.items():
            if OWN_KEY in entry:
                yield from self._entry(name, entry)

    def _entry(self, name: str, entry: Mapping[str, Any]) -> Iterator[str]:
        file = self._sandbox.data / entry["file_name"]
        manifest = _read_json(file.parent / "manifest.json")
        if manifest is None:
            yield f"entry {name} leads to {file.parent}, which has no manifest"
        elif manifest["fingerprint"] != entry[OWN_KEY]:
            yield f"entry {name} has the fingerprint {entry[OWN_KEY]}, its subset {manifest['fingerprint']}"
        elif file.name not in manifest["files"]:
            yield f"entry {name} names {file.name}, which the manifest does not list"
        else:
            for other, digest in manifest["files"].items():
                if self._hash(file.parent / other) != digest:
                    yield f"entry {name}: {file.parent / other} is missing or does not match the manifest"

    def subsets(self) -> Iterator[str]:
        """Check that no file of a subset has its final name before it is what an undisturbed run writes."""
        for folder in sorted(self._sandbox.subsets.glob("*")):
            if _is_temporary(folder) or folder.name.endswith(".lock"):
                continue
            start = folder.name.rpartition("-")[2]
            found = [each for each in self._references.values() if each.fingerprint[:FOLDER_DIGITS] == start]
            if len(found) != 1:
                yield f"{folder} belongs to no selection that was made here"
                continue
            for file in _final_files(folder):
                if self._is_new(file):
                    yield from self._subset_file(file, file.relative_to(folder), found[0])

    def _subset_file(self, file: Path, name: Path, reference: Reference) -> Iterator[str]:
        if name.name == "manifest.json":
            manifest, wanted = _read_json(file), _read_json(reference.folder / name)
            if manifest is None or any(manifest[key] != wanted[key] for key in ("fingerprint", "files", "rows")):
                yield f"{file} differs from the manifest of an undisturbed run"
        elif name.name == "dataset_info.json":
            entries = _read_json(file)
            if entries is None or not all(Path(entry["file_name"]).is_file() for entry in entries.values()):
                yield f"{file} is not valid JSON, or names a file that does not exist"
        elif name.name in _REPORT_ENDS:  # a report says when and where the run was made, so it is never the same
            if not file.read_bytes().rstrip().endswith(_REPORT_ENDS[name.name]):
                yield f"{file} is cut off"
        elif not (reference.folder / name).exists():
            yield f"{file} is not among the files of an undisturbed run"
        elif file.read_bytes() != (reference.folder / name).read_bytes():
            yield f"{file} differs from that of an undisturbed run"

    def cache(self) -> Iterator[str]:
        """Check that every file in the cache that has its final name is complete."""
        readers: dict[str, Callable[[Path], Iterator[str]]] = {
            "pools": self._pool_index,
            "embeddings": _label_vectors,
            "content_hashes": self._content_hash,
            "selections": _subset_folders,
        }
        for file in _final_files(self._sandbox.cache):
            reader = readers.get(file.relative_to(self._sandbox.cache).parts[0])
            if reader is None:
                yield f"{file} is not a known kind of cache file"
            elif self._is_new(file):
                yield from reader(file)

    def _pool_index(self, file: Path) -> Iterator[str]:
        if file.name not in self._indexes:
            yield f"{file} is not the index of a pool that was read here"
        elif file.read_bytes() != self._indexes[file.name].read_bytes():
            yield f"{file} differs from that of an undisturbed run"

    def _content_hash(self, file: Path) -> Iterator[str]:
        record = _read_json(file)
        pattern = f"({_BLOCKS_PREFIX})?[0-9a-f]{{64}}"
        if not isinstance(record, dict) or not re.fullmatch(pattern, str(record.get("sha256"))):
            yield f"{file} is not a record of a content hash"
            return
        path = Path(record["stamp"][0])
        stat = path.stat() if path.exists() else None
        is_current = stat and record["stamp"][1:] == [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
        if is_current and self._hash(path) != record["sha256"]:
            yield f"{file} records a wrong hash of {path}"

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


def check_finished(
    sandbox: Sandbox, selection: Selection, name: str | None, reference: Reference, stdout: str
) -> Iterator[str]:
    """Check a selection that exited with 0: what it printed, its subset, and its entry in dataset_info.json."""
    subset = sandbox.subset_folder(selection, reference.fingerprint, name)
    if stdout.splitlines()[-1:] != [str(subset)]:
        yield f"printed {stdout!r}, expected {subset} as the last line"
    for file in ("selected.jsonl", "selection.parquet"):
        if not (subset / file).exists() or (subset / file).read_bytes() != (reference.folder / file).read_bytes():
            yield f"{subset / file} differs from that of an undisturbed run"
    entry_name, entry = sandbox.find_entry(selection, reference.fingerprint, name)
    if entry.get(OWN_KEY) != reference.fingerprint:
        yield f"entry {entry_name} is not registered"
    elif sandbox.data / entry["file_name"] != subset / "selected.jsonl":
        yield f"entry {entry_name} names {entry['file_name']}"


def leftovers(folder: Path) -> list[Path]:
    """Return the temporary files below a folder; if no process works there, killed processes left them."""
    return sorted(file for file in folder.rglob("*") if _is_temporary(file))


def _hash(content: bytes) -> str:
    if len(content) <= _BLOCK_BYTES:
        return hashlib.sha256(content).hexdigest()
    starts = range(0, len(content), _BLOCK_BYTES)
    digests = [hashlib.sha256(content[start : start + _BLOCK_BYTES]).digest() for start in starts]
    return _BLOCKS_PREFIX + hashlib.sha256(b"".join(digests)).hexdigest()


def _is_temporary(file: Path) -> bool:
    """Whether a file is temporary, or is in the folder of a subset that is being written."""
    is_kernel = ".nbi.tmp." in file.name or ".nbc.tmp." in file.name
    return is_kernel or file.name.endswith(".tmp") or file.parent.name.endswith(".tmp")


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
    """Check that the pieces of others are there in order, and that only our entries are between them."""
    position, between = 0, []
    for piece in pieces:
        start = text.find(piece, position)
        if start < 0:
            yield f"dataset_info.json no longer holds this text of others: {piece!r}"
            return
        between.append(text[position:start])
        position = start + len(piece)
    if between[0] or text[position:]:
        yield f"dataset_info.json begins or ends with added text: {between[0]!r}, {text[position:]!r}"
    for gap in between[1:]:
        try:
            entries = json.loads("{" + gap.strip(", \t\r\n") + "}")
        except ValueError:
            yield f"dataset_info.json holds added text that is not an entry: {gap[:200]!r}"
            continue
        yield from (f"entry {name} is not ours" for name, entry in entries.items() if OWN_KEY not in entry)


def _label_vectors(file: Path) -> Iterator[str]:
    try:
        table = pq.read_table(file)
    except (OSError, pa.ArrowException) as error:
        yield f"{file} cannot be read: {error}"
        return
    vectors = table["embedding"].combine_chunks().flatten().to_numpy()
    if not np.isfinite(vectors).all() or not vectors.any() or len(set(table["label"].to_pylist())) != len(table):
        yield f"{file} does not hold one valid vector for each label"


def _subset_folders(file: Path) -> Iterator[str]:
    folders = _read_json(file)
    if not isinstance(folders, list) or not folders:
        yield f"{file} is not a list of folders"
        return
    yield from (f"{file} names {folder}, which is not a subset" for folder in folders if not _is_subset(Path(folder)))


def _is_subset(folder: Path) -> bool:
    return (folder / "manifest.json").is_file()
