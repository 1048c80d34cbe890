"""From a selection to the training run: what the host reads, and checks that it does not read other rows instead.

An origin marker records which selection something was made from: ``_mig_selection.json`` in each checkpoint and beside
the final model, ``<tokenized_path>.mig_selection.json`` beside the tokenized data. LLaMA-Factory would resume or reuse
these whatever rows they came from. A marker is written once there is something to mark, and is bound to its content:
what another run writes later under the same name is not taken for what was marked. A run that is killed before it has
marked what it wrote leaves it without a marker, and it is refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mig_selector.errors import HandoverError
from mig_selector.integration.config import HostArguments
from mig_selector.integration.dataset_info import FILE_NAME, DatasetInfo, absolute_entry
from mig_selector.store.files import read_json, write_json
from mig_selector.store.hashing import fingerprint_of, hash_file
from mig_selector.store.subsets import check_own_folder


OUTPUT_MARKER = "_mig_selection.json"
"""Name of the origin marker in a checkpoint; files whose names begin with ``_`` are not pushed to a hub."""
_STATE_FILE = "trainer_state.json"
"""The host writes it into each checkpoint, and after training into output_dir."""
_STATE_KEY = "trainer_state"
"""Key of a marker: the hash of that file, or null. Without this key, an earlier version wrote the marker into
output_dir before training; it speaks of all checkpoints there."""
_CONTENT_KEY = "content"
"""Key of a marker: a hash of the tokenized data. Markers of earlier versions lack it."""
_SAMPLED_BYTES, _SAMPLES = 64 << 10, 16
"""Large tokenized files are not hashed whole, but this many bytes in so many parts."""

_UNKNOWN = "another"
"""Stands for the fingerprint of a selection that is not known any more."""

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
    if path is not None and has_tokenized_data(path) and not _is_tokenized_from(path, fingerprint):
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
    found = _fingerprint_of_checkpoint(checkpoint)
    if found is None:
        return "a run without this selection"
    return None if found == fingerprint else "another selection"


def _fingerprint_of_checkpoint(checkpoint: Path) -> str | None:
    """Return the fingerprint of the selection that a checkpoint was trained on; None if no marker tells."""
    own = _read_marker(checkpoint / OUTPUT_MARKER)
    if own:
        return own["fingerprint"] if own.get(_STATE_KEY) == _hash_state(checkpoint) else None
    old = _read_marker(checkpoint.parent / OUTPUT_MARKER)
    if not old or _STATE_KEY in old:
        return None
    stale = old.get("stale_checkpoints")
    is_stale = (
        isinstance(stale, dict) and checkpoint.is_dir() and stale.get(checkpoint.name) == checkpoint.stat().st_mtime_ns
    )
    return _UNKNOWN if is_stale else old["fingerprint"]


def _hash_state(folder: Path) -> str | None:
    """Return the hash of the host's record of a training run; None if the folder has none."""
    try:
        return hash_file(folder / _STATE_FILE)
    except OSError:
        return None


def has_tokenized_data(tokenized_path: Path) -> bool:
    """Whether the host would read tokenized data there, by its own rule."""
    return tokenized_path.is_dir() and any(tokenized_path.iterdir())


def _is_tokenized_from(path: Path, fingerprint: str) -> bool:
    marker = _read_marker(_tokenized_marker(path))
    if not marker or marker["fingerprint"] != fingerprint:
        return False
    return _CONTENT_KEY not in marker or marker[_CONTENT_KEY] == _hash_tokenized(path)


def _hash_tokenized(path: Path) -> str:
    """Hash names and sizes of tokenized files, small ones whole and samples of large ones, which may be terabytes."""
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")):
        # `datasets` puts files of its own there when the data are used.
        if file.suffix not in {".arrow", ".json"} or file.name.startswith("cache-") or not file.is_file():
            continue
        size = file.stat().st_size
        digest.update(json.dumps([str(file.relative_to(path)), size]).encode("ascii"))
        step = max(_SAMPLED_BYTES, (size - _SAMPLED_BYTES) // (_SAMPLES - 1))
        with file.open("rb") as stream:
            for start in range(0, size, step):
                stream.seek(start)
                digest.update(stream.read(_SAMPLED_BYTES))
    return digest.hexdigest()


def _checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints in an output_dir, by the host's own rule, in no particular order."""
    if not folder.is_dir():
        return []
    return [path for path in folder.iterdir() if re.fullmatch(r"checkpoint-\d+", path.name) and path.is_dir()]


def _step(checkpoint: Path) -> int:
    """Return the training step in a checkpoint's name."""
    return int(checkpoint.name.rpartition("-")[2])


def _read_marker(path: Path) -> dict[str, Any]:
    """Read an origin marker; a missing or broken one is empty, any other has a fingerprint."""
    marker = read_json(path)
    return marker if isinstance(marker, dict) and isinstance(marker.get("fingerprint"), str) else {}


def _tokenized_marker(path: Path) -> Path:
    """Return the origin marker of a tokenized_path: beside it, as the folder belongs to the host."""
    return path.with_name(f"{path.name}.mig_selection.json")


@dataclass(frozen=True)
class TrainingOrigin:
    """The selection that a training run uses; marks what the host writes, once it is written."""

    origin: Mapping[str, Any]
    """Holds the `fingerprint` of the selection; its other keys are for people."""
    output_dir: Path | None
    """None if the run does not train."""
    tokenized_path: Path | None
    """Where the host will put tokenized data; None if they are there already, or if it is not set."""

    @classmethod
    def prepare(cls, host: HostArguments, origin: Mapping[str, Any], *, is_local_main: bool) -> TrainingOrigin:
        """Look at what is there before the host starts; a marker of tokenized data that are gone is removed."""
        path = host.tokenized_path
        if path is not None and has_tokenized_data(path):
            path = None
        if path is not None and is_local_main:
            with contextlib.suppress(OSError):
                _tokenized_marker(path).unlink(missing_ok=True)
        folder = host.output_dir if host.do_train else None
        return cls(dict(origin), folder and folder.absolute(), path and path.absolute())

    def mark_tokenized(self) -> None:
        """Mark tokenized data that the host has written."""
        if self.tokenized_path is not None and has_tokenized_data(self.tokenized_path):
            content = {_CONTENT_KEY: _hash_tokenized(self.tokenized_path)}
            write_json(_tokenized_marker(self.tokenized_path), {**self.origin, **content})

    def mark_trained(self, folder: Path) -> None:
        """Mark a checkpoint, or the final model, that the host has written."""
        if folder.is_dir():
            write_json(folder / OUTPUT_MARKER, {**self.origin, _STATE_KEY: _hash_state(folder)})

    def mark_checkpoint(self, folder: Path, *, is_writer: bool) -> None:
        """Mark a checkpoint; `is_writer` says whether this process wrote it.

        On other nodes the folder may be another one, to which the host adds this node's part of an optimizer.
        """
        if is_writer or not (folder / _STATE_FILE).exists():
            self.mark_trained(folder)

    def retire_old_marker(self) -> None:
        """Replace the marker of an earlier version in output_dir by one in each checkpoint of which it speaks.

        It would also speak of checkpoints that are written there from now on, by whatever run.
        """
        if self.output_dir is None:
            return
        old = _read_marker(self.output_dir / OUTPUT_MARKER)
        if not old or _STATE_KEY in old:
            return
        for checkpoint in _checkpoints(self.output_dir):
            has_own = (checkpoint / OUTPUT_MARKER).exists()
            if not has_own and _fingerprint_of_checkpoint(checkpoint) == old["fingerprint"]:
                origin = {key: value for key, value in old.items() if key != "stale_checkpoints"}
                write_json(checkpoint / OUTPUT_MARKER, {**origin, _STATE_KEY: _hash_state(checkpoint)})
        (self.output_dir / OUTPUT_MARKER).unlink(missing_ok=True)

    def finish(self) -> None:
        """Mark what the host has written when it has ended well."""
        self.mark_tokenized()
        if self.output_dir is not None:
            self.mark_trained(self.output_dir)


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
