"""A finished subset to those who use it: dataset_info.json, the training run, and nodes with their own files."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mig_selector.arguments import MigArguments
from mig_selector.errors import ArgumentError
from mig_selector.integration.config import HostArguments
from mig_selector.integration.dataset_info import FILE_NAME, build_entry, register_entries
from mig_selector.integration.handover import (
    check_origin_markers,
    check_output_is_free,
    write_private_dataset_dir,
)
from mig_selector.integration.mixing import describe_changed_budget
from mig_selector.pipeline.request import Request
from mig_selector.pipeline.site import Site, find_site, pool_names
from mig_selector.ranks.world import Ranks
from mig_selector.store.files import read_json, whole_file, write_json
from mig_selector.store.hashing import ContentHashes
from mig_selector.store.subsets import (
    MANIFEST,
    locked_subset,
    publish,
    read_manifest,
    remember_subset,
    staging_folder,
)


logger = logging.getLogger(__name__)

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Finished:
    """A finished subset as rank 0 describes it: all that another node needs to get a copy."""

    fingerprint: str
    folder: str
    """Name of its folder in the output folder."""
    files: list[str]
    """Names of the files in it, the manifest last."""
    budget: int
    names: dict[str, str]
    """New entry of dataset_info.json by name in the pool; those without a chosen row included."""
    entries: dict[str, dict[str, Any]]
    """New entries; `file_name` is the name of a file in the folder."""
    validation: dict[str, dict[str, Any]]
    """Entries with rows that were not chosen, for the training run alone; as in `entries`."""
    rows: dict[str, int]
    """Chosen rows by new entry."""
    figures: dict[str, float]
    """The key figures, by name: as training reports them."""
    summary: list[str]
    """What happened, for people."""
    is_reused: bool = False
    """Whether it was finished by an earlier run."""


@dataclass(frozen=True)
class Outcome:
    """One finished selection, and what the host is to be told."""

    fingerprint: str
    folder: str
    """Where the subset is; absolute."""
    budget: int
    entries: dict[str, str]
    """New entry of dataset_info.json by name in the pool."""
    settings: dict[str, Any]
    """Keys of the host that change: dataset, dataset_dir, media_dir; eval_dataset and val_size for `mig_val_from`."""
    figures: dict[str, float]
    """The key figures, by name: as training reports them."""
    summary: list[str]
    """What happened, for people."""
    is_reused: bool = False
    """Whether it was finished by an earlier run."""


def describe_finished(
    request: Request,
    fingerprint: str,
    folder: Path,
    manifest: Mapping[str, Any],
    summary: list[str],
    *,
    is_reused: bool = False,
) -> Finished:
    """Gather what every node needs to know of a subset that is finished on this one."""
    names = request.subset_names(fingerprint, manifest["budget"])

    def entry_of(part: Mapping[str, Any]) -> dict[str, Any]:
        entry = request.entries[part["entry_index"]]
        raw = request.site.info.entries[entry.name]
        return build_entry(raw, entry, part["columns"], part["file"], fingerprint)

    entries = {names[part["entry_index"]]: entry_of(part) for part in manifest["subsets"]}
    validation = {
        f"{names[part['entry_index']]}_validation": entry_of(part) for part in manifest.get("validation", [])
    }
    return Finished(
        fingerprint=fingerprint,
        folder=folder.name,
        files=[*manifest["files"], MANIFEST],
        budget=manifest["budget"],
        names={entry.name: name for entry, name in zip(request.entries, names, strict=True)},
        entries=entries,
        validation=validation,
        rows={names[subset["entry_index"]]: subset["rows"] for subset in manifest["subsets"]},
        figures=_key_figures(manifest),
        summary=summary,
        is_reused=is_reused,
    )


def _key_figures(manifest: Mapping[str, Any]) -> dict[str, float]:
    """Return what a training run reports of its selection; manifests of earlier versions lack some."""
    labels, covered = manifest.get("labels"), manifest.get("labels_covered")
    fed = manifest.get("training_tokens") or {}
    figures = {
        "rows": manifest["budget"],
        "pool_rows": manifest["rows"]["kept"],
        "information": manifest["information"],
        "label_coverage": covered / labels if labels and covered is not None else None,
        "mean_score": manifest.get("mean_score"),
        "pool_mean_score": manifest.get("pool_mean_score"),
        "tokens": fed.get("fed", (manifest.get("tokens") or {}).get("estimate")),
        "supervised_tokens": fed.get("supervised"),
    }
    return {name: value for name, value in figures.items() if value is not None}


def settle(finished: Finished, site: Site, *, register: bool = True) -> Outcome:
    """Register a subset that is in the site's output folder, and say what training there has to read.

    Args:
        finished: The subset.
        site: The node's view of configuration and files.
        register: Whether the user's dataset_info.json gets its entries; see `write_own_dataset_info` otherwise.

    Raises:
        ArgumentError: `interleave_probs` is set and a name of the pool has no chosen row.
        RegistrationError: dataset_info.json cannot be written.
    """
    folder = site.output_dir / finished.folder
    left_out = [name for name, new in finished.names.items() if new not in finished.entries]
    if left_out and site.host.interleave_probs:
        raise ArgumentError(
            f"interleave_probs names a share for each dataset, but no row of {', '.join(left_out)} was chosen; "
            "raise mig_num_samples, or leave the dataset out."
        )
    if left_out:
        logger.info("no row of %s was chosen; training leaves it out", ", ".join(left_out))
    entries, validation = (
        {name: {**entry, "file_name": str(folder / entry["file_name"])} for name, entry in part.items()}
        for part in (finished.entries, finished.validation)
    )
    known = "named"
    if register:
        is_registered = _register(site, entries)
        known = "registered as" if is_registered else "not registered, as dataset_dir cannot be written to:"
    remember_subset(finished.fingerprint, folder, site.arguments.cache_dir)
    summary = [*finished.summary, f"subset: {folder}, {known} {', '.join(entries)}"]
    others = any(name not in finished.names for name in site.host.dataset)
    summary += describe_changed_budget(site.host, finished.rows, others=others)
    return Outcome(
        fingerprint=finished.fingerprint,
        folder=str(folder),
        budget=finished.budget,
        entries={pool: name for pool, name in finished.names.items() if name in entries},
        settings=_host_settings(site, finished.names, entries, validation, folder),
        figures=finished.figures,
        summary=summary,
        is_reused=finished.is_reused,
    )


def _register(site: Site, entries: Mapping[str, Mapping[str, Any]]) -> bool:
    """Write the entries into the user's dataset_info.json; return whether that is possible."""
    path = site.info.path
    if path is None:
        return False
    written = {
        name: {**entry, "file_name": _relative(Path(entry["file_name"]), path.parent)}
        for name, entry in entries.items()
    }
    register_entries(path, written, lambda name: logger.info("entry %s pointed to another subset until now", name))
    return True


def write_own_dataset_info(folder: Path, outcomes: Sequence[Outcome], others: Mapping[str, Any] | None = None) -> Path:
    """Write a dataset_info.json with the entries of subsets that are not in the user's.

    Args:
        folder: Where to write it: a `dataset_dir` to train from.
        outcomes: The finished selections, each with different names.
        others: More entries, of other names.

    Returns:
        The file.
    """
    entries = dict(others or {})
    for outcome in outcomes:
        known = read_json(Path(outcome.settings["dataset_dir"]) / FILE_NAME)
        entries |= {name: known[name] for name in outcome.entries.values()}
    write_json(folder / FILE_NAME, entries)
    return folder / FILE_NAME


def _relative(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)


def _host_settings(
    site: Site,
    names: Mapping[str, str],
    entries: Mapping[str, Mapping[str, Any]],
    validation: Mapping[str, Mapping[str, Any]],
    folder: Path,
) -> dict[str, Any]:
    """Say what training reads: the subsets in place of the pool's names, from a dataset_dir of its own.

    The host takes `val_size` out of what it trains on; rows from elsewhere are an `eval_dataset` to it, and the two
    exclude each other.
    """
    host, info = site.host, site.info
    dataset = [names.get(name, name) for name in host.dataset if names.get(name, name) in entries or name not in names]
    read = [*dataset, *host.eval_dataset, *validation]
    private = write_private_dataset_dir(folder, info, read, {**entries, **validation})
    settings: dict[str, Any] = {"dataset": ",".join(dataset), "dataset_dir": str(private)}
    if validation:
        settings |= {"eval_dataset": ",".join(validation), "val_size": 0.0}
    media_dir = host.media_dir or (str(info.folder) if info.folder else None)
    return {**settings, "media_dir": media_dir} if media_dir else settings


def deliver(
    finished: Sequence[Finished],
    outcomes: Sequence[Outcome],
    arguments: MigArguments,
    host: HostArguments,
    ranks: Ranks,
    *,
    training: bool,
    register: bool = True,
) -> list[Outcome]:
    """Bring finished subsets to every node, each into its own output folder and dataset_info.json.

    A node that shares the output folder with rank 0 finds them there, and nothing is sent.

    Args:
        finished: What rank 0 finished.
        outcomes: The same as settled on rank 0's node.
        arguments: The ``mig_*`` keys of this node.
        host: The host's keys of this node.
        ranks: All ranks must call this.
        training: Whether training follows.
        register: Whether each node's dataset_info.json gets the entries.

    Returns:
        The outcomes on this node.

    Raises:
        MigSelectorError: A node cannot write, or training there would read other rows; on every rank.
    """
    if ranks.are_on_one_node:
        return list(outcomes)
    receives = ranks.is_local_main and not ranks.is_main
    site = _other_site(arguments, host) if receives else None
    for subset in finished:
        if site is not None and training:
            check_output_is_free(host)
            check_origin_markers(host, subset.fingerprint)
        _send_to_nodes(subset, outcomes, site, ranks)

    def settle_here() -> list[dict[str, Any]]:
        if site is None:
            return [asdict(outcome) for outcome in outcomes]
        return [asdict(settle(subset, site, register=register)) for subset in finished]

    settled = ranks.decide_on_node(settle_here)
    ranks.exchange(None)  # training starts nowhere before it can start everywhere
    return [Outcome(**facts) for facts in settled]


def _other_site(arguments: MigArguments, host: HostArguments) -> Site:
    """Find out where this node writes; it needs no pool, for the chosen rows are brought to it."""
    pool = pool_names(arguments, host)
    others = [name for name in host.dataset if name not in pool]
    return find_site(arguments, host, others)


def _send_to_nodes(subset: Finished, outcomes: Sequence[Outcome], site: Site | None, ranks: Ranks) -> None:
    """Copy a subset's files from rank 0 to the nodes that do not see them."""
    target = None
    if site is not None:
        folder = site.output_dir / subset.folder
        if read_manifest(folder, subset.fingerprint, ContentHashes(site.arguments.cache_dir)) is None:
            target = folder
    receivers = [rank for rank, receives in enumerate(ranks.exchange(target is not None)) if receives]
    if not receivers:
        return
    logger.info("sending %s to %d more node(s)", subset.folder, len(receivers))
    source = next(Path(outcome.folder) for outcome in outcomes if outcome.fingerprint == subset.fingerprint)
    with contextlib.ExitStack() as stack:
        # Not locked while it arrives: nodes that share a folder, but not with rank 0, receive at the same time.
        staging = stack.enter_context(staging_folder(target)) if target else None
        for name in subset.files:
            chunks = ranks.transfer(_reader(source / name), receivers)
            if staging is None:
                for _ in chunks:
                    pass
            else:
                with whole_file(staging / name, is_private=True) as stream:
                    stream.writelines(chunks)
        if staging is not None and target is not None:
            with locked_subset(target, subset.fingerprint):
                publish(staging, target)


def _reader(path: Path) -> Callable[[], Iterator[bytes]]:
    def read() -> Iterator[bytes]:
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                yield chunk

    return read
