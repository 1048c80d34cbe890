"""dataset_info.json: which rows a name stands for, and the one place where a new name is written."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from json.decoder import scanstring  # type: ignore[attr-defined]  # there since Python 2.6
from pathlib import Path
from typing import Any

from mig_selector.errors import PoolError, RegistrationError
from mig_selector.pool.entry import HubSource, LocalSource, PoolEntry
from mig_selector.pool.leaves.decoder import describe_kind
from mig_selector.store.files import locked, write_text


FILE_NAME = "dataset_info.json"
OWN_KEY = "mig_selector"
"""Extra key of entries that this plugin wrote: the fingerprint of the selection. LLaMA-Factory ignores it."""

_COLUMN_DEFAULTS = {"prompt": "instruction", "query": "input", "response": "output", "messages": "conversations"}
_COLUMNS = (
    *("prompt", "query", "response", "history", "messages", "system", "tools"),
    *("images", "videos", "audios", "chosen", "rejected", "kto_tag"),
)
_TAG_DEFAULTS = {
    "role_tag": "from",
    "content_tag": "value",
    "user_tag": "human",
    "assistant_tag": "gpt",
    "observation_tag": "observation",
    "function_tag": "function_call",
    "system_tag": "system",
}
_ROLES = frozenset((*_COLUMNS, *_TAG_DEFAULTS))
_MAX_BYTES = 64 << 20
_LISTED_NAMES = 50
_TEXTS, _OPTIONAL_TEXTS = ("formatting", "split", "hf_hub_url", "ms_hub_url"), ("subset", "folder")
_PLACES = ("file_name", "hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name")
_REDIRECTIONS = (*_PLACES, "num_samples", "split", "subset", "folder")
"""Keys that would resample the subset or read something else; the new entry has none of them."""


@dataclass(frozen=True)
class DatasetInfo:
    """The entries behind a `dataset_dir`."""

    dataset_dir: str
    """As configured: a folder, ONLINE or REMOTE:<repository>."""
    path: Path | None
    """The file on this machine that new entries may be written to; None where there is none."""
    entries: dict[str, dict[str, Any]]

    @property
    def folder(self) -> Path | None:
        """Absolute path of the folder that local `file_name`s start from."""
        return None if _is_remote(self.dataset_dir) else Path(self.dataset_dir).absolute()


def _is_remote(dataset_dir: str) -> bool:
    return dataset_dir == "ONLINE" or dataset_dir.startswith("REMOTE:")


def read_dataset_info(dataset_dir: str, names: Sequence[str]) -> DatasetInfo:
    """Read the entries that a configuration can name.

    Args:
        dataset_dir: As configured.
        names: Names that must be there.

    Returns:
        All entries; with ONLINE one per name.

    Raises:
        PoolError: The file cannot be read, or lacks a name.
    """
    if dataset_dir == "ONLINE":
        entries = {name: {"hf_hub_url": name, "ms_hub_url": name, "om_hub_url": name} for name in names}
        return DatasetInfo(dataset_dir, None, entries)
    path = _download(dataset_dir) if dataset_dir.startswith("REMOTE:") else Path(dataset_dir).absolute() / FILE_NAME
    entries = _read_json(path)
    if not _are_entries(entries):
        raise PoolError(f"{path} must hold one object per dataset name.")
    for name in names:
        if name not in entries:
            known = ", ".join([*sorted(entries)[:_LISTED_NAMES], *["..."][: max(len(entries) - _LISTED_NAMES, 0)]])
            raise PoolError(f"dataset: {name!r} is not in {path}; it names {known or 'nothing'}.")
    real = path.resolve()
    is_ours_to_write = not _is_remote(dataset_dir) and os.access(real, os.W_OK) and os.access(real.parent, os.W_OK)
    return DatasetInfo(dataset_dir, path if is_ours_to_write else None, entries)


def _read_json(path: Path) -> Any:
    if not path.exists():
        raise PoolError(f"dataset_dir: {path} does not exist.")
    if not path.is_file() or path.stat().st_size > _MAX_BYTES:
        raise PoolError(f"{path} must be a file of at most {_MAX_BYTES >> 20} MiB.")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PoolError(f"{path} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise PoolError(f"{path} is not JSON: {error}") from error
    except RecursionError as error:
        raise PoolError(f"{path} is nested too deeply.") from error


def _are_entries(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(entry, dict) for entry in value.values())


def _download(dataset_dir: str) -> Path:
    from huggingface_hub import hf_hub_download

    repository = dataset_dir.removeprefix("REMOTE:")
    try:
        return Path(hf_hub_download(repo_id=repository, filename=FILE_NAME, repo_type="dataset"))
    except Exception as error:
        raise PoolError(f"dataset_dir: {FILE_NAME} of {repository!r} cannot be fetched ({error}).") from error


def resolve_entry(
    name: str,
    raw: Mapping[str, Any],
    folder: Path | None,
    *,
    cache_dir: str | None = None,
    hf_hub_token: str | None = None,
    ms_hub_token: str | None = None,
) -> PoolEntry:
    """Fill in what LLaMA-Factory assumes where an entry is silent.

    Args:
        name: The entry's name.
        raw: The entry.
        folder: Where local files start from; None if there is none.
        cache_dir: The host's key, for hubs.
        hf_hub_token: The host's key.
        ms_hub_token: The host's key.

    Returns:
        The entry as the host understands it.

    Raises:
        PoolError: The entry names a place that cannot be selected from.
    """
    _check_kinds(name, raw)
    columns: Mapping[str, Any] = raw.get("columns", _COLUMN_DEFAULTS)
    tags: Mapping[str, Any] = raw.get("tags", _TAG_DEFAULTS)
    return PoolEntry(
        name=name,
        formatting=raw.get("formatting", "alpaca"),
        columns={role: columns[role] for role in _COLUMNS if columns.get(role)},
        tags={tag: tags.get(tag) for tag in _TAG_DEFAULTS},
        ranking=bool(raw.get("ranking", False)),
        source=_source(name, raw, folder, cache_dir, hf_hub_token, ms_hub_token),
        split=raw.get("split", "train"),
    )


def _check_kinds(name: str, raw: Mapping[str, Any]) -> None:
    """Refuse an entry with values of kinds that the host would stumble over."""
    texts = {key: raw[key] for key in _TEXTS if key in raw}
    for key in ("columns", "tags"):
        group = raw.get(key, {})
        if not isinstance(group, Mapping):
            raise PoolError(f"dataset {name!r}: {key} must be an object, got {describe_kind(group)}.")
        texts |= {f"{key}.{role}": value for role, value in group.items() if value and role in _ROLES}
    for key in _OPTIONAL_TEXTS:
        if raw.get(key) is not None:
            texts[key] = raw[key]
    for key, value in texts.items():
        if not isinstance(value, str):
            raise PoolError(f"dataset {name!r}: {key} must be a text, got {describe_kind(value)}.")


def _source(
    name: str,
    raw: Mapping[str, Any],
    folder: Path | None,
    cache_dir: str | None,
    hf_hub_token: str | None,
    ms_hub_token: str | None,
) -> LocalSource | HubSource:
    subset, data_dir = raw.get("subset"), raw.get("folder")
    if "ms_hub_url" in raw and (_is_enabled("USE_MODELSCOPE_HUB") or "hf_hub_url" not in raw):
        return HubSource("ms", raw["ms_hub_url"], subset, data_dir, cache_dir, ms_hub_token)
    if "om_hub_url" in raw and (_is_enabled("USE_OPENMIND_HUB") or "hf_hub_url" not in raw):
        raise PoolError(f"dataset {name!r}: om_hub_url cannot be selected from; give file_name or hf_hub_url.")
    if "hf_hub_url" in raw:
        return HubSource("hf", raw["hf_hub_url"], subset, data_dir, cache_dir, hf_hub_token)
    for key in ("script_url", "cloud_file_name"):
        if key in raw:
            raise PoolError(f"dataset {name!r}: {key} cannot be selected from; give file_name or hf_hub_url.")
    if folder is None or not isinstance(raw.get("file_name"), str):
        raise PoolError(f"dataset {name!r}: the entry names no file; expected file_name or hf_hub_url.")
    return LocalSource(raw["file_name"], Path(os.path.normpath(folder / raw["file_name"])))


def _is_enabled(variable: str) -> bool:
    return os.environ.get(variable, "0").lower() in {"true", "y", "1"}


def build_entry(
    raw: Mapping[str, Any], resolved: PoolEntry, columns: Mapping[str, str], file_name: str, mark: str
) -> dict[str, Any]:
    """Make the entry of a subset from that of its pool.

    Args:
        raw: The pool's entry as written.
        resolved: The same with the host's defaults.
        columns: Roles to the columns that are in the subset.
        file_name: How the entry names the subset's file.
        mark: Fingerprint of the selection.

    Returns:
        The pool's own formatting, columns and tags; without what would resample or redirect it.
    """
    entry = {"file_name": file_name, **{key: value for key, value in raw.items() if key not in _REDIRECTIONS}}
    if dict(columns) != dict(resolved.columns):
        entry["columns"] = dict(columns)
    return {**entry, OWN_KEY: mark}


def check_name_is_free(info: DatasetInfo, name: str) -> None:
    """Raise a RegistrationError if `name` belongs to an entry that this plugin did not write."""
    if name in info.entries and OWN_KEY not in info.entries[name]:
        raise RegistrationError(
            f"{FILE_NAME} of {info.dataset_dir} already has an entry {name!r} that mig_selector did not write; "
            "set mig_dataset_name to another name."
        )


def register_entries(
    path: Path, entries: Mapping[str, Mapping[str, Any]], on_repoint: Callable[[str], object]
) -> None:
    """Write entries into dataset_info.json; every other byte of the file stays as it is.

    Args:
        path: The file.
        entries: New entries by name.
        on_repoint: Called with the name of an entry of ours that pointed elsewhere.

    Raises:
        RegistrationError: A name belongs to an entry that this plugin did not write, or the file cannot be written.
    """
    try:
        with locked(path):
            text = path.read_bytes().decode("utf-8")
            known = json.loads(text)
            if not _are_entries(known):
                raise RegistrationError(f"{path} must hold one object per dataset name.")
            for name, entry in entries.items():
                check_name_is_free(DatasetInfo(str(path.parent), path, known), name)
                if known.get(name) == entry:
                    continue
                if name in known and known[name].get(OWN_KEY) != entry[OWN_KEY]:
                    on_repoint(name)
                text = set_member(text, name, entry)
                known[name] = entry
            if text.encode("utf-8") != path.read_bytes():
                write_text(path, text)
    except (OSError, ValueError, RecursionError) as error:
        raise RegistrationError(f"{path} cannot be written: {error}") from error


def set_member(text: str, name: str, value: Mapping[str, Any]) -> str:
    """Set one member of a JSON object in its text, in the text's own indentation and line ends.

    Args:
        text: A JSON object.
        name: The member; it is added at the end if it is not there.
        value: Its new value.

    Returns:
        The text with that member changed and nothing else.
    """
    spans = _member_spans(text)
    line_end = "\r\n" if "\r\n" in text else "\n"
    first_key = min((key for key, _, _ in spans.values()), default=None)
    opening = text.index("{") + 1
    gap = text[opening:first_key] if first_key is not None else f"{line_end}  "
    indent = gap.rpartition("\n")[2] if "\n" in gap else None
    lines = json.dumps(value, indent=indent).replace("\n", f"\n{indent}") if indent else json.dumps(value)
    written = lines.replace("\n", line_end)
    if name in spans:
        _, start, end = spans[name]
        return text[:start] + written + text[end:]
    member = f"{json.dumps(name)}: {written}"
    if not spans:
        return f"{text[:opening]}{gap}{member}{line_end}{text[text.rindex('}') :]}"
    end = max(end for _, _, end in spans.values())
    return f"{text[:end]},{gap if indent is not None else ' '}{member}{text[end:]}"


def _member_spans(text: str) -> dict[str, tuple[int, int, int]]:
    """Return where each member's key begins, its value begins and its value ends."""
    decoder = json.JSONDecoder()
    place = text.index("{") + 1
    spans: dict[str, tuple[int, int, int]] = {}
    while True:
        place = _skip(text, place, " \t\r\n,")
        if text[place] == "}":
            return spans
        key_start = place
        key, place = scanstring(text, place + 1)
        value_start = _skip(text, place, " \t\r\n:")
        _, place = decoder.raw_decode(text, value_start)
        spans[key] = (key_start, value_start, place)


def _skip(text: str, place: int, characters: str) -> int:
    while text[place] in characters:
        place += 1
    return place


def absolute_entry(raw: Mapping[str, Any], folder: Path | None) -> dict[str, Any]:
    """Return an entry that means the same from any other `dataset_dir`."""
    entry = dict(raw)
    for key in ("file_name", "script_url"):
        if folder is not None and isinstance(entry.get(key), str):
            entry[key] = str(folder / entry[key])
    return entry
