"""From a selection to the training run: what the host is told to read, and when it would read other rows instead."""

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


OUTPUT_MARKER = "_mig_selection.json"
"""Kept in output_dir; names that begin with ``_`` are not pushed to a hub."""

_FINAL_WEIGHTS = (
    *("adapter_model.safetensors", "adapter_model.bin", "model.safetensors", "model.safetensors.index.json"),
    *("pytorch_model.bin", "pytorch_model.bin.index.json"),
)


def check_output_is_free(host: HostArguments) -> None:
    """Raise what the host would raise after the selection: output_dir holds a finished model.

    Raises:
        HandoverError: output_dir would be overwritten and overwrite_output_dir is not set.
    """
    folder = host.output_dir
    if folder is None or not host.do_train or host.overwrite_output_dir or host.resume_from_checkpoint:
        return
    if not _checkpoints(folder) and any((folder / name).is_file() for name in _FINAL_WEIGHTS):
        raise HandoverError(
            f"output_dir: {folder} already holds a model. Set overwrite_output_dir: true, or another output_dir."
        )


def check_origin_markers(host: HostArguments, mark: str) -> None:
    """Refuse a run that would go on with, or read, what was made from other rows.

    Args:
        host: The host's keys.
        mark: Fingerprint of the selection that the run asks for.

    Raises:
        HandoverError: A checkpoint to resume from, or the tokenized data, came from another selection or from none.
    """
    checkpoint = _resumed_checkpoint(host) if host.do_train else None
    if checkpoint is not None and (found := _foreign_origin(checkpoint, mark)):
        raise HandoverError(
            f"the checkpoints in {checkpoint.parent} came from {found}; resuming would go on with other rows in "
            "silence. Set overwrite_output_dir: true, or another output_dir (or resume_from_checkpoint)."
        )
    path = host.tokenized_path
    if (
        path is not None
        and path.is_dir()
        and any(path.iterdir())
        and _note(_tokenized_mark(path)).get("fingerprint") != mark
    ):
        raise HandoverError(
            f"tokenized_path: {path} exists and was not made from this selection; LLaMA-Factory would train on it "
            "and ignore the selected rows. Give another tokenized_path, or remove that folder."
        )


def _resumed_checkpoint(host: HostArguments) -> Path | None:
    """Return the checkpoint that the host would resume, if any."""
    asked = host.resume_from_checkpoint
    if asked is not None and asked.lower() == "false":
        return None
    if asked is not None and asked.lower() != "true":
        return Path(asked).absolute()
    if host.output_dir is None or (host.overwrite_output_dir and asked is None):
        return None
    return max(_checkpoints(host.output_dir), key=_step, default=None)


def _foreign_origin(checkpoint: Path, mark: str) -> str | None:
    """Say where a checkpoint came from, if it was not trained on the selection `mark`."""
    note = _note(checkpoint.parent / OUTPUT_MARKER)
    if note.get("fingerprint") is None:
        return "a run without this selection"
    is_stale = checkpoint.is_dir() and note.get("stale_checkpoints", {}).get(checkpoint.name) == _age(checkpoint)
    return "another selection" if note["fingerprint"] != mark or is_stale else None


def _checkpoints(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [path for path in folder.iterdir() if re.fullmatch(r"checkpoint-\d+", path.name) and path.is_dir()]


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _age(checkpoint: Path) -> int:
    return checkpoint.stat().st_mtime_ns


def _note(path: Path) -> dict[str, Any]:
    note = read_json(path)
    return note if isinstance(note, dict) else {}


def _tokenized_mark(path: Path) -> Path:
    return path.with_name(f"{path.name}.mig_selection.json")


def write_origin_markers(host: HostArguments, note: Mapping[str, Any]) -> None:
    """Note in output_dir, and beside tokenized_path, which selection the run trains on.

    Args:
        host: The host's keys.
        note: Holds `fingerprint`, and what people want to know.
    """
    if host.output_dir is not None and host.do_train:
        stale = _stale_checkpoints(host.output_dir, note["fingerprint"])
        write_json(host.output_dir / OUTPUT_MARKER, {**note, **({"stale_checkpoints": stale} if stale else {})})
    if host.tokenized_path is not None:
        write_json(_tokenized_mark(host.tokenized_path), dict(note))


def _stale_checkpoints(folder: Path, mark: str) -> dict[str, int]:
    """Name the checkpoints that an overwriting run leaves behind, with their age: they hold other rows' training."""
    before = _note(folder / OUTPUT_MARKER)
    known = before.get("stale_checkpoints", {})
    is_other = before.get("fingerprint") != mark
    return {path.name: _age(path) for path in _checkpoints(folder) if is_other or known.get(path.name) == _age(path)}


def write_private_dataset_dir(
    folder: Path, info: DatasetInfo, names: list[str], entries: Mapping[str, Mapping[str, Any]]
) -> Path:
    """Make a dataset_dir for this run alone, so that it reads its own subset whatever becomes of the shared entry.

    Args:
        folder: Where to make it; the name is made from the content, so equal runs share it.
        info: The dataset_dir that was configured.
        names: Every dataset that the run names.
        entries: Entries of subsets, with absolute file names.

    Returns:
        The dataset_dir: a folder with a dataset_info.json that holds the names, with absolute paths.
    """
    content = {
        name: dict(entries[name]) if name in entries else absolute_entry(info.entries[name], info.folder)
        for name in names
    }
    target = folder / f"dataset_dir-{fingerprint_of(content)[:8]}"
    if read_json(target / FILE_NAME) != content:
        write_json(target / FILE_NAME, content)
    return target
