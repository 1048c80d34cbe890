"""Where one node reads and writes: its own dataset_dir and folders, which it may share with other nodes or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mig_selector.arguments import MigArguments
from mig_selector.errors import ArgumentError
from mig_selector.integration.config import HostArguments
from mig_selector.integration.dataset_info import DatasetInfo, read_dataset_info
from mig_selector.store.folders import absolute_path
from mig_selector.store.hashing import fingerprint_of


@dataclass(frozen=True)
class Site:
    """A node's view of the configuration and of its files."""

    arguments: MigArguments
    host: HostArguments
    info: DatasetInfo
    output_dir: Path
    """Where subsets are kept; absolute."""


def find_site(arguments: MigArguments, host: HostArguments, names: Sequence[str]) -> Site:
    """Read this node's dataset_info.json and find its output folder.

    Args:
        arguments: The ``mig_*`` keys.
        host: The host's keys.
        names: Datasets that dataset_info.json must have, beside those of `eval_dataset`.

    Raises:
        PoolError: dataset_info.json cannot be read, or lacks a name.
        ArgumentError: `mig_output_dir` is not a folder.
    """
    info = read_dataset_info(host.dataset_dir, names, host.eval_dataset)
    return Site(arguments, host, info, _output_dir(arguments, info))


def pool_names(arguments: MigArguments, host: HostArguments) -> tuple[str, ...]:
    """Return the datasets that form the pool, in the order of `dataset`.

    Raises:
        ArgumentError: `mig_pool` names something else, or `dataset` has a name of the pool twice.
    """
    names = arguments.pool_names or host.dataset
    for name in names:
        if name not in host.dataset:
            raise ArgumentError(f"mig_pool: {name!r} is not in dataset ({', '.join(host.dataset)}).")
    pool = tuple(name for name in host.dataset if name in names)
    if len(set(pool)) != len(pool):
        raise ArgumentError(f"dataset: a name of the pool is there twice ({', '.join(pool)}).")
    return pool


def _output_dir(arguments: MigArguments, info: DatasetInfo) -> Path:
    if arguments.mig_output_dir:
        folder = absolute_path(arguments.mig_output_dir, "mig_output_dir")
    elif info.path is not None:
        folder = info.path.parent / "mig_selections"
    else:
        folder = _private_output_dir(arguments, info)
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    if not nearest.is_dir():  # known before the pool is read
        raise ArgumentError(f"mig_output_dir: {nearest} is not a folder.")
    return folder


def _private_output_dir(arguments: MigArguments, info: DatasetInfo) -> Path:
    home = info.dataset_dir if info.folder is None else str(info.folder)
    return arguments.cache_dir / "selections" / fingerprint_of({"dataset_dir": home})[:16]
