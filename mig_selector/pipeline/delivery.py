"""A finished subset to those who use it: dataset_info.json, the training run, other nodes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mig_selector.integration.dataset_info import build_entry, register_entries
from mig_selector.integration.handover import write_own_dataset_dir
from mig_selector.pipeline.plan import Plan
from mig_selector.ranks import Ranks
from mig_selector.store.hashing import ContentHashes
from mig_selector.store.subsets import pack_subset, read_manifest, unpack_subset


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """One finished selection, and what the host is to be told."""

    fingerprint: str
    folder: str
    """Where the subset is; absolute."""
    budget: int
    entries: dict[str, str]
    """New entry of dataset_info.json by name in the pool."""
    settings: dict[str, str]
    """Keys of the host that change: dataset, dataset_dir, media_dir."""
    summary: list[str]
    """What happened, for people."""


def new_entries(plan: Plan, manifest: Mapping[str, Any], folder: Path, mark: str) -> dict[str, dict[str, Any]]:
    """Build the new entries, with absolute file names."""
    names = plan.subset_names(manifest["budget"])
    return {
        names[part["place"]]: build_entry(
            plan.info.entries[plan.entries[part["place"]].name],
            plan.entries[part["place"]],
            part["columns"],
            str(folder / part["file"]),
            mark,
        )
        for part in manifest["subsets"]
    }


def register(plan: Plan, entries: Mapping[str, Mapping[str, Any]]) -> bool:
    """Write the entries into the user's dataset_info.json; return whether it can be written."""
    path = plan.info.path
    if path is None:
        return False
    written = {
        name: {**entry, "file_name": _relative(Path(entry["file_name"]), path.parent)}
        for name, entry in entries.items()
    }
    register_entries(path, written, lambda name: logger.info("entry %s pointed to another subset until now", name))
    return True


def _relative(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)


def host_settings(
    plan: Plan, names: Mapping[str, str], entries: Mapping[str, Mapping[str, Any]], folder: Path
) -> dict[str, str]:
    """Say what training reads: the subsets in place of the pool's names, from a dataset_dir of its own."""
    host = plan.host
    dataset = [names.get(name, name) for name in host.dataset if names.get(name, name) in entries or name not in names]
    own = write_own_dataset_dir(folder, plan.info, [*dataset, *host.eval_dataset], entries)
    settings = {"dataset": ",".join(dataset), "dataset_dir": str(own)}
    media_dir = host.media_dir or (str(plan.info.folder) if plan.info.folder else None)
    return {**settings, "media_dir": media_dir} if media_dir else settings


def deliver(outcomes: Sequence[Outcome], cache_dir: Path, ranks: Ranks) -> None:
    """Bring the subsets to nodes that do not see rank 0's files, at the same path.

    Their own dataset_info.json stays as it is, and the run's own dataset_dir is not brought along yet: nodes that
    share no file system cannot train so far.
    """
    if ranks.local_world_size == ranks.world_size:
        return
    hashes = ContentHashes(cache_dir)
    for outcome in outcomes:
        folder = Path(outcome.folder)
        sees = ranks.exchange(
            lambda: not ranks.is_local_main or read_manifest(folder, outcome.fingerprint, hashes) is not None  # noqa: B023
        )
        if all(sees):
            continue
        files = ranks.decide(lambda: pack_subset(folder))  # noqa: B023
        if not sees[ranks.rank]:
            ranks.agree(lambda: unpack_subset(files, folder))  # noqa: B023
        else:
            ranks.agree(lambda: None)
