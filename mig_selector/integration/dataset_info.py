"""dataset_info.json: reading entries as LLaMA-Factory does, and registering the entries of subsets."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
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
"""Key in entries that this plugin wrote; its value is the fingerprint of the selection. LLaMA-Factory ignores it."""

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
"""A larger dataset_info.json is a mistake, such as a link to a pool, and is not read."""
_LISTED_NAMES = 50
"""How many of the known names an error lists."""
_MAX_ATTEMPTS = 20
"""How often an edit starts again because a program without the lock saved the file meanwhile."""
_STRING_KEYS, _OPTIONAL_STRING_KEYS = ("formatting", "split", "hf_hub_url", "ms_hub_url"), ("subset", "folder")
_SOURCE_KEYS = ("file_name", "hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name")
_REDIRECTIONS = (*_SOURCE_KEYS, "num_samples", "split", "subset", "folder")
"""Keys that would resample the subset or read something else; the entry of a subset has none of the pool's."""


@dataclass(frozen=True)
class DatasetInfo:
    """The entries of a `dataset_dir`."""

    dataset_dir: str
    """As configured: a folder, ``ONLINE`` or ``REMOTE:<repository>``."""
    path: Path | None
    """dataset_info.json, if new entries can be written to it; None for a remote or read-only one."""
    entries: dict[str, dict[str, Any]]
    """As written in the file, by name."""

    @property
    def folder(self) -> Path | None:
        """Absolute path of the folder that a relative `file_name` refers to; None if dataset_dir is not a folder."""
        return None if _is_remote(self.dataset_dir) else Path(self.dataset_dir).absolute()


def _is_remote(dataset_dir: str) -> bool:
    return dataset_dir == "ONLINE" or dataset_dir.startswith("REMOTE:")


def read_dataset_info(dataset_dir: str, names: Sequence[str], eval_names: Sequence[str] = ()) -> DatasetInfo:
    """Read the entries that a configuration can name.

    Args:
        dataset_dir: As configured.
        names: Names of entries that must exist.
        eval_names: Others that must, named in `eval_dataset`.

    Returns:
        All entries of the file; for ``ONLINE``, where every name is a hub id, one made for each of `names`.

    Raises:
        PoolError: The file cannot be read, is not a valid dataset_info.json, or lacks a name.
    """
    if dataset_dir == "ONLINE":
        entries = {
            name: {"hf_hub_url": name, "ms_hub_url": name, "om_hub_url": name} for name in (*names, *eval_names)
        }
        return DatasetInfo(dataset_dir, None, entries)
    path = _download(dataset_dir) if dataset_dir.startswith("REMOTE:") else Path(dataset_dir).absolute() / FILE_NAME
    entries = _read_file(path)
    if not _are_entries(entries):
        raise PoolError(f"{path} must hold one JSON object per dataset name.")
    for key, name in (*(("dataset", name) for name in names), *(("eval_dataset", name) for name in eval_names)):
        if name not in entries:
            known = ", ".join([*sorted(entries)[:_LISTED_NAMES], *["..."][: max(len(entries) - _LISTED_NAMES, 0)]])
            raise PoolError(f"{key}: {name!r} is not in {path}; it has {known or 'no entries'}.")
    real = path.resolve()
    is_writable = not _is_remote(dataset_dir) and os.access(real, os.W_OK) and os.access(real.parent, os.W_OK)
    return DatasetInfo(dataset_dir, path if is_writable else None, entries)


def read_local_paths(path: Path) -> dict[str, Path]:
    """Return the real path of what each entry of a dataset_info.json with a `file_name` reads.

    Raises:
        PoolError: The file cannot be read, or is not a valid dataset_info.json.
    """
    names = {name: entry.get("file_name") for name, entry in read_dataset_info(str(path.parent), ()).entries.items()}
    return {
        name: Path(os.path.realpath(path.parent / file))
        for name, file in names.items()
        if isinstance(file, str) and "\0" not in file
    }


def _read_file(path: Path) -> Any:
    """Read a dataset_info.json; PoolError if that is impossible for any reason."""
    if path.parent.is_file():
        raise PoolError(f"dataset_dir: {path.parent} is a file; give the folder that holds {FILE_NAME}.")
    if not path.exists():
        raise PoolError(f"dataset_dir: {path} does not exist; give the folder that holds {FILE_NAME}.")
    if not path.is_file() or path.stat().st_size > _MAX_BYTES:
        raise PoolError(f"{path} must be a file of at most {_MAX_BYTES >> 20} MiB.")
    try:
        text = path.read_text(encoding="utf-8")
        if text.startswith("\ufeff"):
            raise PoolError(
                f"{path} begins with a byte-order mark, at which LLaMA-Factory stops; save it as UTF-8 without one."
            )
        entries = json.loads(text)
        doubles = _find_doubles(text) if isinstance(entries, dict) else {}
    except OSError as error:
        raise PoolError(f"{path} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise PoolError(f"{path} is not valid JSON: {error}") from error
    except RecursionError as error:
        raise PoolError(f"{path} is nested too deeply.") from error
    if doubles:
        raise PoolError(_describe_doubles(path, doubles))
    return entries


def _find_doubles(text: str) -> dict[str, list[int]]:
    """Return the names that a JSON object has more than once, each with its lines."""
    starts: dict[str, list[int]] = {}
    for name, key_start, _, _ in _members(text):
        starts.setdefault(name, []).append(key_start)
    doubles = {name: found for name, found in starts.items() if len(found) > 1}
    return {name: [text.count("\n", 0, start) + 1 for start in found] for name, found in doubles.items()}


def _describe_doubles(path: Path, doubles: Mapping[str, Sequence[int]]) -> str:
    """Say which names are there more than once; parsers disagree which of the entries counts."""
    listed = [
        f"{name!r} in lines {', '.join(map(str, lines))}" for name, lines in list(doubles.items())[:_LISTED_NAMES]
    ]
    return f"{path} has names more than once: {'; '.join(listed)}. Keep one entry of each name."


def _are_entries(value: Any) -> bool:
    """Whether a JSON value is an object of objects."""
    return isinstance(value, dict) and all(isinstance(entry, dict) for entry in value.values())


def _download(dataset_dir: str) -> Path:
    """Fetch the dataset_info.json of ``REMOTE:<repository>`` into the hub's cache; PoolError if that fails."""
    from huggingface_hub import hf_hub_download

    repository = dataset_dir.removeprefix("REMOTE:")
    try:
        return Path(hf_hub_download(repo_id=repository, filename=FILE_NAME, repo_type="dataset"))
    except Exception as error:
        raise PoolError(f"dataset_dir: {FILE_NAME} of {repository!r} cannot be downloaded ({error}).") from error


def resolve_entry(
    name: str,
    raw: Mapping[str, Any],
    folder: Path | None,
    *,
    cache_dir: str | None = None,
    hf_hub_token: str | None = None,
    ms_hub_token: str | None = None,
) -> PoolEntry:
    """Interpret an entry as LLaMA-Factory does, with its defaults for missing keys.

    Args:
        name: The entry's name.
        raw: The entry as written.
        folder: The folder that a relative `file_name` refers to; None if there is none.
        cache_dir: The host's key of that name, for pools on a hub.
        hf_hub_token: The host's key of that name.
        ms_hub_token: The host's key of that name.

    Returns:
        The resolved entry.

    Raises:
        PoolError: A value has the wrong type, or the entry's source is missing or not supported.
    """
    _check_value_types(name, raw)
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


def _check_value_types(name: str, raw: Mapping[str, Any]) -> None:
    """Raise a PoolError for values of a type that the host would fail on; keys that it ignores are not checked."""
    strings = {key: raw[key] for key in _STRING_KEYS if key in raw}
    for key in ("columns", "tags"):
        group = raw.get(key, {})
        if not isinstance(group, Mapping):
            raise PoolError(f"dataset {name!r}: {key} must be an object, got {describe_kind(group)}.")
        strings |= {f"{key}.{role}": value for role, value in group.items() if value and role in _ROLES}
    for key in _OPTIONAL_STRING_KEYS:
        if raw.get(key) is not None:
            strings[key] = raw[key]
    for key, value in strings.items():
        if not isinstance(value, str):
            raise PoolError(f"dataset {name!r}: {key} must be a string, got {describe_kind(value)}.")


def _source(
    name: str,
    raw: Mapping[str, Any],
    folder: Path | None,
    cache_dir: str | None,
    hf_hub_token: str | None,
    ms_hub_token: str | None,
) -> LocalSource | HubSource:
    """Return where the host would read the entry from: the order of these tests is the host's."""
    subset, data_dir = raw.get("subset"), raw.get("folder")
    if "ms_hub_url" in raw and (_is_enabled("USE_MODELSCOPE_HUB") or "hf_hub_url" not in raw):
        return HubSource("ms", raw["ms_hub_url"], subset, data_dir, cache_dir, ms_hub_token)
    if "om_hub_url" in raw and (_is_enabled("USE_OPENMIND_HUB") or "hf_hub_url" not in raw):
        raise PoolError(f"dataset {name!r}: om_hub_url is not supported; give file_name or hf_hub_url.")
    if "hf_hub_url" in raw:
        return HubSource("hf", raw["hf_hub_url"], subset, data_dir, cache_dir, hf_hub_token)
    for key in ("script_url", "cloud_file_name"):
        if key in raw:
            raise PoolError(f"dataset {name!r}: {key} is not supported; give file_name or hf_hub_url.")
    if folder is None or not isinstance(raw.get("file_name"), str):
        raise PoolError(f"dataset {name!r}: the entry names no file; give file_name or hf_hub_url.")
    return LocalSource(raw["file_name"], folder / raw["file_name"])  # ".." behind a link leads where it leads the host


def _is_enabled(variable: str) -> bool:
    """Whether an environment variable of the host is set, by the host's own rule."""
    return os.environ.get(variable, "0").lower() in {"true", "y", "1"}


def build_entry(
    raw: Mapping[str, Any], resolved: PoolEntry, columns: Mapping[str, str], file_name: str, fingerprint: str
) -> dict[str, Any]:
    """Return the entry of a subset, made from that of its pool.

    Args:
        raw: The pool's entry as written.
        resolved: The same entry, with the host's defaults.
        columns: The column of each role, for columns that are in the subset.
        file_name: The value of `file_name` in the new entry.
        fingerprint: The fingerprint of the selection.

    Returns:
        The pool's keys, without those that would resample the subset or redirect the entry.
    """
    entry = {"file_name": file_name, **{key: value for key, value in raw.items() if key not in _REDIRECTIONS}}
    if dict(columns) != dict(resolved.columns):
        entry["columns"] = dict(columns)
    return {**entry, OWN_KEY: fingerprint}


def check_name_is_free(info: DatasetInfo, name: str) -> None:
    """Raise a RegistrationError if an entry called `name` exists that this plugin did not write."""
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
        on_repoint: Called with the name of each entry of this plugin that belonged to another selection until now.

    Raises:
        RegistrationError: A name belongs to an entry that this plugin did not write, or the file cannot be written.
    """
    try:
        # Read again under the lock: another run may have registered an entry since the configuration was read.
        with locked(path):
            for _ in range(_MAX_ATTEMPTS):
                repointed = _try_to_register(path, entries)
                if repointed is not None:
                    break
            else:
                raise RegistrationError(
                    f"{path} cannot be written: another program changed it {_MAX_ATTEMPTS} times meanwhile; "
                    "start again once it is done."
                )
    except (OSError, ValueError, RecursionError) as error:
        raise RegistrationError(f"{path} cannot be written: {error}") from error
    for name in repointed:
        on_repoint(name)


def _try_to_register(path: Path, entries: Mapping[str, Mapping[str, Any]]) -> list[str] | None:
    """Write entries once, unless a program that does not use the lock saves the file meanwhile.

    Returns:
        The names of entries that belonged to another selection until now; None if nothing was written because the
        file was changed.
    """
    before = path.read_bytes()
    text, repointed = _edit(path, before.decode("utf-8"), entries)

    def check_unchanged() -> None:
        if path.read_bytes() != before:
            raise _ChangedMeanwhileError

    if text.encode("utf-8") != before:
        try:
            write_text(path, text, before_rename=check_unchanged)
        except _ChangedMeanwhileError:
            return None
    return repointed


def _edit(path: Path, text: str, entries: Mapping[str, Mapping[str, Any]]) -> tuple[str, list[str]]:
    """Return the text of a dataset_info.json with new entries, and the names that belonged to another selection."""
    known = json.loads(text)
    if not _are_entries(known):
        raise RegistrationError(f"{path} must hold one JSON object per dataset name.")
    if doubles := _find_doubles(text):
        raise RegistrationError(_describe_doubles(path, doubles))
    repointed = []
    for name, entry in entries.items():
        check_name_is_free(DatasetInfo(str(path.parent), path, known), name)
        if known.get(name) == entry:
            continue
        if name in known and known[name].get(OWN_KEY) != entry[OWN_KEY]:
            repointed.append(name)
        text = set_member(text, name, entry)
        known[name] = entry
    # Whatever the layout of the text, it must still mean what it meant. Compared as JSON: NaN is not equal to itself.
    if json.dumps(json.loads(text)) != json.dumps(known):
        raise RegistrationError(f"{path} cannot be edited safely; format it as plain JSON, for example with jq.")
    return text, repointed


class _ChangedMeanwhileError(Exception):
    """dataset_info.json was saved by a program that does not use the lock."""


def set_member(text: str, name: str, value: Mapping[str, Any]) -> str:
    """Set one member of a JSON object by editing its text, with the text's indentation and line ends.

    Parsing and dumping the file would be shorter, but would reformat what its owner wrote.

    Args:
        text: A JSON object.
        name: The key of the member; a new one is added at the end.
        value: Its new value.

    Returns:
        The text with that member changed and nothing else.
    """
    spans = {key: span for key, *span in _members(text)}
    line_end = "\r\n" if "\r\n" in text else "\n"
    first_key = min((key for key, _, _ in spans.values()), default=None)
    opening = text.index("{") + 1
    gap = text[opening:first_key] if first_key is not None else f"{line_end}  "
    # The white space before the first key is the indentation of the file; without a line end it has none.
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


def _members(text: str) -> Iterator[tuple[str, int, int, int]]:
    """Yield for each member of a valid JSON object its key, and the offsets of the key, the value and its end."""
    decoder = json.JSONDecoder()
    offset = text.index("{") + 1
    while text[offset := _skip(text, offset, " \t\r\n,")] != "}":
        key_start = offset
        key, offset = scanstring(text, offset + 1)
        value_start = _skip(text, offset, " \t\r\n:")
        _, offset = decoder.raw_decode(text, value_start)
        yield key, key_start, value_start, offset


def _skip(text: str, offset: int, characters: str) -> int:
    """Return the offset of the first character, from `offset`, that is not one of `characters`."""
    while text[offset] in characters:
        offset += 1
    return offset


def absolute_entry(raw: Mapping[str, Any], folder: Path | None) -> dict[str, Any]:
    """Return an entry with absolute paths, so that it can be copied to another `dataset_dir`."""
    entry = dict(raw)
    for key in ("file_name", "script_url"):
        if folder is not None and isinstance(entry.get(key), str):
            entry[key] = str(folder / entry[key])
    return entry
