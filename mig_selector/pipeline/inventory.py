"""What selections have left on disk, which entries still name it, and what of it may be removed."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mig_selector.console import plural
from mig_selector.errors import ArgumentError, PoolError, RegistrationError
from mig_selector.integration.dataset_info import FILE_NAME, read_local_paths
from mig_selector.store.inventory import (
    CachedFile,
    CachedKind,
    StoredFolder,
    describe_size,
    find_cached,
    find_folders,
    is_selecting,
    is_used,
    recorded_output_dirs,
    remove_cached,
    remove_folder,
)


_CACHE = "cache"
"""Names all of the cache; ``cache/pools`` one kind of files. No dataset can be called that: names have no slash."""


@dataclass(frozen=True)
class Entry:
    """An entry of a dataset_info.json that reads a subset."""

    name: str
    dataset_info: Path


@dataclass(frozen=True)
class Inventory:
    """All that is found."""

    cache_dir: Path
    folders: list[StoredFolder]
    """Subsets, comparisons and studies, the newest first."""
    cached: list[CachedKind]
    entries: dict[Path, list[Entry]]
    """Entries by the path of the subset that they read."""
    unreadable: list[str]
    """What is wrong with each dataset_info.json that cannot be read: its entries are not known."""


@dataclass(frozen=True)
class Pruned:
    """What became of a thing that was to be removed."""

    line: str
    """For people."""
    num_bytes: int = 0
    """Freed, or to be freed."""
    is_kept: bool = False
    """Whether it, or a part of it, stays."""


def take_inventory(dataset_dir: Path, output_dirs: Iterable[Path], cache_dir: Path) -> Inventory:
    """Find subsets, comparisons, studies and cached files, and the entries that name them.

    Looks into ``mig_selections`` in `dataset_dir`, `output_dirs`, and every folder to which a run with this cache has
    written. Entries are those of the dataset_info.json in `dataset_dir`, above each of these folders, where each
    subset was registered when it was made, and of each comparison or study. Those that selections from Python write
    into the cache do not count: no user reads them.
    """
    homes = [dataset_dir / "mig_selections", *output_dirs, *recorded_output_dirs(cache_dir)]
    homes = list(dict.fromkeys(home.absolute() for home in homes))
    folders = find_folders(homes)
    several = [folder.path for folder in folders if folder.kind != "subset"]
    registered = [folder.dataset_dir for folder in folders if folder.dataset_dir is not None]
    readers = (dataset_dir.absolute(), *(home.parent for home in homes), *registered, *several)
    infos = [folder / FILE_NAME for folder in readers]
    by_path = {_real(folder.path): folder.path for folder in folders}
    entries: dict[Path, list[Entry]] = {folder.path: [] for folder in folders}
    unreadable = []
    for info in dict.fromkeys(infos):
        try:
            if not info.exists() or info.is_relative_to(cache_dir / "notebook"):
                continue
            for name, path in read_local_paths(info).items():
                for home in (path, *path.parents):
                    if home in by_path:
                        entries[by_path[home]].append(Entry(name, info))
        except (PoolError, OSError) as error:
            unreadable.append(str(error))
    return Inventory(cache_dir, folders, find_cached(cache_dir), entries, unreadable)


def prune(
    inventory: Inventory,
    names: Sequence[str],
    *,
    written_before: float | None,
    registered: bool = False,
    dry_run: bool = False,
) -> Iterator[Pruned]:
    """Remove subsets, comparisons and cached files, one after the other.

    Args:
        inventory: What there is.
        names: What to remove: names or paths of subsets and comparisons, ``cache``, or ``cache/<kind>``; if empty,
            everything that is old enough.
        written_before: Only what was written before that time, in seconds since the epoch; whenever if None.
        registered: Whether also what an entry names is removed.
        dry_run: Remove nothing, only say what would be.

    Raises:
        ArgumentError: A name fits nothing, or several folders.
        PoolError: A dataset_info.json cannot be read, so what it names is not known.
        RegistrationError: A selection is running with the same cache, or something cannot be removed.
    """
    if inventory.unreadable and not registered:
        raise PoolError("\n".join([*inventory.unreadable, "Fix it, so that it is known what its entries name."]))
    folders, kinds = _find_named(inventory, names) if names else (inventory.folders, inventory.cached)
    limit = math.inf if written_before is None else written_before
    # The entries of a comparison or a study name its subsets. Where it goes, they protect nothing; while it runs, they
    # protect the subsets whatever is asked.
    doomed = sorted((each for each in folders if each.written < limit), key=lambda each: each.kind == "subset")
    running = {each.path / FILE_NAME for each in inventory.folders if each.kind == "study" and is_used(each)}
    ignored = {folder.path / FILE_NAME for folder in doomed if folder.kind != "subset"} - running
    try:
        if is_selecting(inventory.cache_dir):
            raise RegistrationError(
                f"a selection is running with the cache {inventory.cache_dir}; prune when it has ended."
            )
        for folder in doomed:
            entries = inventory.entries[folder.path]
            if needed := [entry for entry in entries if entry.dataset_info in running]:
                yield Pruned(f"kept {folder.path}: the study in {needed[0].dataset_info.parent} runs", is_kept=True)
                continue
            named_by = [entry for entry in entries if entry.dataset_info not in ignored]
            yield _prune_folder(folder, [] if registered else named_by, dry_run=dry_run)
        for kind in kinds:
            files = [file for file in kind.files if file.written < limit]
            if files:
                yield _prune_cached(kind.name, files, dry_run=dry_run)
    except OSError as error:
        raise RegistrationError(f"{error.filename} cannot be removed: {error.strerror or error}.") from error


def _prune_folder(folder: StoredFolder, named_by: Sequence[Entry], *, dry_run: bool) -> Pruned:
    if named_by:
        where = ", ".join(f"{entry.name} in {entry.dataset_info}" for entry in named_by)
        return Pruned(f"kept {folder.path}: named by {where}; --registered removes it all the same", is_kept=True)
    if is_used(folder) if dry_run else not remove_folder(folder):
        return Pruned(f"kept {folder.path}: another process holds its lock", is_kept=True)
    return Pruned(f"{_done(dry_run)} {folder.path} ({describe_size(folder.num_bytes)})", folder.num_bytes)


def _prune_cached(name: str, files: Sequence[CachedFile], *, dry_run: bool) -> Pruned:
    gone = [file for file in files if dry_run or remove_cached(file)]
    num_bytes, num_held = sum(file.num_bytes for file in gone), len(files) - len(gone)
    kept = f"; kept {plural(num_held, 'file')} that another process has locked" if num_held else ""
    files_of = f"{plural(len(gone), 'file')} of {_CACHE}/{name}"
    line = f"{_done(dry_run)} {files_of} ({describe_size(num_bytes)}){kept}"
    return Pruned(line, num_bytes, is_kept=num_held > 0)


def _done(dry_run: bool) -> str:
    return "would remove" if dry_run else "removed"


def _find_named(inventory: Inventory, names: Sequence[str]) -> tuple[list[StoredFolder], list[CachedKind]]:
    """Return the folders and the kinds of cached files that some names mean."""
    folders: dict[Path, StoredFolder] = {}
    kinds: dict[str, CachedKind] = {}
    for name in names:
        path = _real(Path(os.path.expanduser(name)))  # noqa: PTH111  Path's raises where there is no such home
        is_cache = name == _CACHE or path == _real(inventory.cache_dir)
        found = [] if is_cache else [each for each in inventory.folders if _is_called(each, name, path, inventory)]
        cached = [
            kind
            for kind in inventory.cached
            if is_cache or name == f"{_CACHE}/{kind.name}" or path == _real(kind.path)
        ]
        if len(found) > 1:
            listed = ", ".join(str(folder.path) for folder in found)
            raise ArgumentError(f"{name!r} means {len(found)} folders; give one of them: {listed}.")
        if not found and not cached and not is_cache:
            raise ArgumentError(f"{name!r} is not the name or the folder of anything that `mig-selector list` shows.")
        folders |= {folder.path: folder for folder in found}
        kinds |= {kind.name: kind for kind in cached}
    return list(folders.values()), list(kinds.values())


def _is_called(folder: StoredFolder, name: str, path: Path, inventory: Inventory) -> bool:
    """Whether a name or path on the command line means a folder."""
    entries = {entry.name for entry in inventory.entries[folder.path]}
    return name in {folder.name, folder.path.name, *entries} or path == _real(folder.path)


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))
