"""From a selection to the training run: what the host reads, and checks that it does not read other rows instead.

An origin marker records which selection something was made from: ``_mig_selection.json`` in output_dir for its
checkpoints, ``<tokenized_path>.mig_selection.json`` for the tokenized data. LLaMA-Factory would resume or reuse these
whatever rows they came from.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mig_selector.errors import HandoverError
from mig_selector.integration.config import HostArguments
from mig_selector.integration.dataset_info import FILE_NAME, DatasetInfo, absolute_entry
from mig_selector.store.files import read_json, write_json
from mig_selector.store.hashing import fingerprint_of
from mig_selector.store.subsets import check_own_folder


OUTPUT_MARKER = "_mig_selection.json"
"""Name of the origin marker in output_dir; files whose names begin with ``_`` are not pushed to a hub."""

_FINAL_WEIGHTS = (
    *("adapter_model.safetensors", "adapter_model.bin", "model.safetensors", "model.safetensors.index.json"),
    *("pytorch_model.bin", "pytorch_model.bin.index.json"),
)


def check_output_is_free(host: HostArguments) -> None:
    """Check before the selection what the host checks after it: that output_dir holds no finished model.

    Raises:
        HandoverError: output_dir holds a model, and neither overwriting nor resuming is set.
    """
    folder = host.output_dir
    if folder is None or not host.do_train or host.overwrite_output_dir or host.resume_from_checkpoint:
        return
    if not _checkpoints(folder) and any((folder / name).is_file() for name in _FINAL_WEIGHTS):
        raise HandoverError(
            f"output_dir: {folder} already holds a model. Set overwrite_output_dir: true, or another output_dir."
        )


def check_origin_markers(host: HostArguments, fingerprint: str) -> None:
    """Refuse a run that would resume from, or train on, what was made from other rows.

    Args:
        host: The host's keys.
        fingerprint: The fingerprint of the run's selection.

    Raises:
        HandoverError: The checkpoint to resume from, or the tokenized data, came from another selection or from none.
    """
    checkpoint = _resumed_checkpoint(host) if host.do_train else None
    if checkpoint is not None and (found := _foreign_origin(checkpoint, fingerprint)):
        raise HandoverError(
            f"the checkpoints in {checkpoint.parent} came from {found}; resuming would silently continue with "
            "other rows. Set overwrite_output_dir: true, or another output_dir (or resume_from_checkpoint)."
        )
    path = host.tokenized_path
    if (
        path is not None
        and path.is_dir()
        and any(path.iterdir())
        and _read_marker(_tokenized_marker(path)).get("fingerprint") != fingerprint
    ):
        raise HandoverError(
            f"tokenized_path: {path} exists and was not made from this selection; LLaMA-Factory would train on it "
            "and ignore the selected rows. Set another tokenized_path, or remove that folder."
        )


def _resumed_checkpoint(host: HostArguments) -> Path | None:
    """Return the checkpoint that the host would resume from, if any."""
    asked = host.resume_from_checkpoint
    if asked is not None and asked.lower() == "false":
        return None
    if asked is not None and asked.lower() != "true":
        return Path(asked).absolute()
    if host.output_dir is None or (host.overwrite_output_dir and asked is None):
        return None
    return max(_checkpoints(host.output_dir), key=_step, default=None)


def _foreign_origin(checkpoint: Path, fingerprint: str) -> str | None:
    """Describe what a checkpoint was trained on; None if that is the selection with `fingerprint`."""
    marker = _read_marker(checkpoint.parent / OUTPUT_MARKER)
    if marker.get("fingerprint") is None:
        return "a run without this selection"
    stale = marker.get("stale_checkpoints", {})
    is_stale = checkpoint.is_dir() and stale.get(checkpoint.name) == _modification_time(checkpoint)
    return "another selection" if marker["fingerprint"] != fingerprint or is_stale else None


def _checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints in an output_dir, by the host's own rule, in no particular order."""
    if not folder.is_dir():
        return []
    return [path for path in folder.iterdir() if re.fullmatch(r"checkpoint-\d+", path.name) and path.is_dir()]


def _step(checkpoint: Path) -> int:
    """Return the training step in a checkpoint's name."""
    return int(checkpoint.name.rpartition("-")[2])


def _modification_time(checkpoint: Path) -> int:
    """Return a checkpoint's time stamp in nanoseconds; one that is written again under its name gets another."""
    return checkpoint.stat().st_mtime_ns


def _read_marker(path: Path) -> dict[str, Any]:
    """Read an origin marker; a missing or broken one is empty."""
    marker = read_json(path)
    return marker if isinstance(marker, dict) else {}


def _tokenized_marker(path: Path) -> Path:
    """Return the origin marker of a tokenized_path: beside it, as the folder belongs to the host."""
    return path.with_name(f"{path.name}.mig_selection.json")


def write_origin_markers(host: HostArguments, origin: Mapping[str, Any]) -> None:
    """Record in output_dir, and beside tokenized_path, which selection the run trains on.

    Args:
        host: The host's keys.
        origin: Holds the `fingerprint` of the selection; its other keys are for people.
    """
    if host.output_dir is not None and host.do_train:
        stale = _stale_checkpoints(host.output_dir, origin["fingerprint"])
        write_json(host.output_dir / OUTPUT_MARKER, {**origin, **({"stale_checkpoints": stale} if stale else {})})
    if host.tokenized_path is not None:
        write_json(_tokenized_marker(host.tokenized_path), dict(origin))


def _stale_checkpoints(folder: Path, fingerprint: str) -> dict[str, int]:
    """Return the checkpoints in an output_dir that were trained on other rows, with their modification times.

    A run with overwrite_output_dir replaces the marker but leaves old checkpoints there until it writes its own under
    the same names. Without this record they would seem to come from the new selection.
    """
    before = _read_marker(folder / OUTPUT_MARKER)
    known = before.get("stale_checkpoints", {})
    is_other = before.get("fingerprint") != fingerprint
    return {
        path.name: _modification_time(path)
        for path in _checkpoints(folder)
        if is_other or known.get(path.name) == _modification_time(path)
    }


def write_private_dataset_dir(
    folder: Path, info: DatasetInfo, names: list[str], entries: Mapping[str, Mapping[str, Any]]
) -> Path:
    """Write a dataset_dir for this run, which reads its own subset even if the shared entry is repointed later.

    Args:
        folder: Where to write it; its name contains a hash of its content, so equal runs share it.
        info: The configured dataset_dir.
        names: Every dataset that the run names.
        entries: The entries of subsets, with absolute file names.

    Returns:
        The dataset_dir: a folder with a dataset_info.json that holds these names, with absolute paths.
    """
    content = {
        name: dict(entries[name]) if name in entries else absolute_entry(info.entries[name], info.folder)
        for name in names
    }
    target = folder / f"dataset_dir-{fingerprint_of(content)[:16]}"
    check_own_folder(target)
    if (target / FILE_NAME).is_symlink() or read_json(target / FILE_NAME) != content:
        write_json(target / FILE_NAME, content)
    return target
