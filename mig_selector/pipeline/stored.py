"""A finished selection, found again by the name or folder that a user gives, and the request that made it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mig_selector.arguments import MigArguments, parse_arguments, split_keys
from mig_selector.errors import ArgumentError, MigSelectorError, PoolError
from mig_selector.integration.config import HostArguments
from mig_selector.integration.dataset_info import FILE_NAME, OWN_KEY, read_dataset_info, read_local_paths
from mig_selector.pipeline.request import Request, resolve
from mig_selector.store.folders import is_private
from mig_selector.store.hashing import hash_file
from mig_selector.store.inventory import COMPARISON, STUDY
from mig_selector.store.subsets import CANDIDATES, MANIFEST, SELECTION_TABLE, read_description


@dataclass(frozen=True)
class StoredSelection:
    """A finished selection on disk."""

    folder: Path
    manifest: Mapping[str, Any]

    @property
    def table(self) -> pa.Table:
        """What selection.parquet says of the chosen rows, in the order of choice.

        Raises:
            PoolError: It cannot be read.
        """
        return _read_table(self.folder / SELECTION_TABLE, ["row_index", "row_id", "gain", "information"])

    def arguments(self, cache_dir: Path | None = None) -> tuple[MigArguments, HostArguments]:
        """Return the configuration that selects the same again.

        Args:
            cache_dir: The cache to use in place of the one that the selection was made with.

        Raises:
            ArgumentError: The manifest does not hold it, or this version does not accept it.
        """
        config = self.manifest.get("config")
        if not config or not self.manifest.get("identity"):
            raise ArgumentError(
                f"{self.folder / MANIFEST} was written by an earlier version and does not say how to select again; "
                "select once more with mig_overwrite: true."
            )
        host, own = split_keys(config)
        if cache_dir is not None:
            own["mig_cache_dir"] = str(cache_dir)
        return parse_arguments(own, training=False), HostArguments.read(host)

    def request(self, arguments: MigArguments, host: HostArguments) -> Request:
        """Return what the configuration asks for today.

        Raises:
            MigSelectorError: A file, a name or a model is not there any more.
        """
        among = None
        if "among" in self.manifest["identity"]:
            among = _read_table(self.folder / CANDIDATES, ["row_index"])["row_index"].to_numpy()
        return resolve(arguments, host, among, is_registered=False)

    def unchanged_request(
        self, arguments: MigArguments, host: HostArguments, files: Iterable[str] = (SELECTION_TABLE,)
    ) -> Request:
        """Return what the configuration asks for, if that would select the same today.

        Args:
            arguments: The ``mig_*`` keys.
            host: The host's keys.
            files: The files of the selection that will be read.

        Raises:
            PoolError: The pool, a model or a setting is not what it was, or one of `files` was changed.
        """
        request = self.request(arguments, host)
        if request.fingerprints[0] != self.manifest["fingerprint"]:
            changes = describe_differences(self.manifest["identity"], request.identities[0])
            lines = [f"{self.folder} was selected from other files or settings than there are now.", *changes]
            raise PoolError("\n".join([*lines, "See `mig-selector verify`; select again to see today's choice."]))
        for name in files:
            path = self.folder / name
            if not path.is_file() or hash_file(path) != self.manifest["files"].get(name):
                what = "was changed since it was written" if path.is_file() else "is not there any more"
                raise PoolError(f"{path} {what}; select again.")
        return request


def _read_table(path: Path, columns: Sequence[str]) -> pa.Table:
    """Read a table that has at least some columns; PoolError if it cannot be read or lacks one."""
    try:
        table = pq.read_table(path, memory_map=False)
    except (OSError, pa.ArrowException) as error:
        raise PoolError(f"{path} cannot be read: {error}") from error
    if missing := set(columns) - set(table.column_names):
        raise PoolError(f"{path} has no column {', '.join(sorted(missing))}.")
    return table


def find_selection(named: str, dataset_dir: str) -> StoredSelection:
    """Find a finished selection.

    Args:
        named: Its folder, or the name of its entry in the dataset_info.json of `dataset_dir`.
        dataset_dir: As the host's key.

    Raises:
        ArgumentError: It is neither, or somebody else could have written it.
    """
    path = Path(os.path.expanduser(named))  # noqa: PTH111  Path's raises where there is no such home
    folder = path if path.is_dir() else _folder_of_entry(named, dataset_dir)
    manifest = read_description(folder)
    if manifest is None:
        raise ArgumentError(f"{folder} is not a finished selection: {_describe_other(folder)}")
    if not is_private((folder / MANIFEST).stat()):
        # It names code and models that would run.
        raise ArgumentError(
            f"{folder / MANIFEST} belongs to another user, or others can write to it, so it is not believed; copy the "
            "folder, so that it is yours."
        )
    return StoredSelection(folder.absolute(), manifest)


def _describe_other(folder: Path) -> str:
    """Say what a folder without a manifest is."""
    if (folder / STUDY).is_file():
        return (
            f"it is a study. Its page is {folder / 'study.html'}, which `mig-selector study` with its configuration "
            f"and --report writes again; its selections are those that {folder / FILE_NAME} names."
        )
    if (folder / COMPARISON).is_file():
        return (
            f"it is a comparison. Its page is {folder / 'comparison.html'}; its selections are those that "
            f"{folder / FILE_NAME} names."
        )
    return f"{MANIFEST} is missing or malformed."


def _folder_of_entry(name: str, dataset_dir: str) -> Path:
    info = Path(dataset_dir) / FILE_NAME
    try:
        entry = read_dataset_info(dataset_dir, [name]).entries[name]
    except MigSelectorError as error:
        raise ArgumentError(
            f"{name!r} is neither the folder of a selection nor the name of one. {error} Give the folder, or "
            "--dataset-dir."
        ) from error
    file = read_local_paths(info).get(name) if OWN_KEY in entry else None
    if file is None:
        raise ArgumentError(f"{name!r} in {info} is not a selection: mig_selector did not write that entry.")
    return file.parent


def describe_differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Say what differs between the identities of two selections; of pool files only how many there are.

    Args:
        then: As the manifest has it.
        now: Of the request that the same configuration makes today.
    """
    before, after = dict(_leaves(then)), dict(_leaves(now))
    found = []
    for key in sorted(before.keys() | after.keys()):
        one, other = before.get(key), after.get(key)
        if key.endswith(".files") and isinstance(one, list) and isinstance(other, list):
            one, other = f"{len(one)} pool files", f"{len(other)} pool files"
        if one != other:
            found.append(f"{key}: {_shown(one)} then, {_shown(other)} now")
    return found


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the path and the value of everything in a nested value that is neither a dictionary nor a list of such."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from _leaves(each, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and any(isinstance(each, Mapping) for each in value):
        for index, each in enumerate(value):
            yield from _leaves(each, f"{path}[{index}]")
    else:
        yield path, list(value) if isinstance(value, tuple) else value


def _shown(value: Any) -> str:
    text = str(value)
    return f"{text[:40]}..." if len(text) > 44 else text
