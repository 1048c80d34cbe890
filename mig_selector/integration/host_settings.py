"""What is wrong with the host's own keys, found before a selection: a misspelt one would cost the whole of it.

The host's parser is not called: it makes `TrainingArguments`, which joins the process group under torchrun and leaves
a DeepSpeed configuration behind. Its dataclasses are asked instead; all but that one are made, too, with their checks.
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
import json
import os
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mig_selector.errors import MigSelectorError
from mig_selector.integration.config import HostArguments
from mig_selector.integration.dataset_info import read_dataset_info


_RANKING_STAGES = ("rm", "dpo")
_ENTRY_KEYS = (
    *("file_name", "hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name"),
    *("formatting", "ranking", "subset", "split", "folder", "num_samples", "columns", "tags"),
)


def find_host_faults(settings: Mapping[str, Any], *, is_launched: bool = True) -> list[str]:
    """Find what the host would refuse after the selection, as far as that is cheap.

    Args:
        settings: The host's keys, typed (from YAML) or as strings (from the command line).
        is_launched: Whether this process trains; if not, `llamafactory-cli train` may still start torchrun.

    Returns:
        One message for each fault, which names the key, its value and what is expected.
    """
    given = {key: typed(value) for key, value in settings.items()}
    kinds = _kinds_of_keys()
    faults = [] if _is_enabled("ALLOW_EXTRA_ARGS") else [_unknown(key, kinds) for key in given if key not in kinds]
    wrong = {key: fault for key, value in given.items() if key in kinds and (fault := _wrong(key, value, kinds[key]))}
    faults += wrong.values()
    known = {key: value for key, value in given.items() if key not in wrong}
    return [
        *faults,
        *_faults_of_dataclasses(known),
        *_template_faults(known.get("template")),
        *_model_faults(known),
        *_deepspeed_faults(known.get("deepspeed"), is_launched=is_launched),
        *_dataset_faults(settings, str(known.get("stage", "sft"))),
    ]


def typed(value: Any) -> Any:
    """Read a string of the command line as YAML does, if it is a number or a truth value."""
    if not isinstance(value, str):
        return value
    if value.lower() in {"true", "false"}:
        return value.lower() == "true"
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value


def _dataclasses() -> Sequence[type]:
    from llamafactory.hparams import parser

    return list(getattr(parser, "_TRAIN_MCA_ARGS", None) or []) if _is_enabled("USE_MCA") else parser._TRAIN_ARGS


def _kinds_of_keys() -> dict[str, Any]:
    """Return the type of each key that the host has."""
    kinds: dict[str, Any] = {}
    for each in _dataclasses():
        hints = typing.get_type_hints(each)
        kinds |= {field.name: hints[field.name] for field in dataclasses.fields(each) if field.init}
    return kinds


def _unknown(key: str, known: Iterable[str]) -> str:
    return f"{key} is not a key of LLaMA-Factory{_nearest(key, known, 0.6) or '.'}"


def _nearest(name: str, known: Iterable[str], cutoff: float) -> str:
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=cutoff)
    return f"; did you mean {nearest[0]}?" if nearest else ""


def _wrong(key: str, value: Any, kind: Any) -> str | None:
    """Say what a value should be, where its type leaves no doubt that the host refuses it."""
    if value is None:
        return None
    members = typing.get_args(kind) if typing.get_origin(kind) is not typing.Literal else (kind,)
    allowed = _allowed(members or (kind,))
    if allowed and isinstance(value, str) and value not in allowed:
        return f"{key}: {value!r} is not allowed; expected {' or '.join(allowed)}."
    if kind in (int, float) and (isinstance(value, bool) or not isinstance(value, int | float)):
        return f"{key}: {value!r} is not allowed; expected a number."
    if kind is int and isinstance(value, float) and not value.is_integer():
        return f"{key}: {value!r} is not allowed; expected an integer."
    if kind is bool and not isinstance(value, bool | int):
        return f"{key}: {value!r} is not allowed; expected true or false."
    return None


def _allowed(members: Sequence[Any]) -> list[str]:
    """Return the strings that a key may have; none where any string is allowed."""
    found: list[str] = []
    for member in members:
        if typing.get_origin(member) is typing.Literal:
            found += [each for each in typing.get_args(member) if isinstance(each, str)]
        elif isinstance(member, type) and issubclass(member, enum.Enum):
            found += [str(each.value) for each in member]
    return found


def _faults_of_dataclasses(given: Mapping[str, Any]) -> list[str]:
    """Make the host's dataclasses, which check their keys together; not those with side effects."""
    faults = []
    for each in _dataclasses():
        if "TrainingArguments" in each.__name__:
            continue
        names = {field.name for field in dataclasses.fields(each) if field.init}
        try:
            each(**{key: value for key, value in given.items() if key in names})
        except Exception as error:  # noqa: BLE001  the host raises anything
            faults.append(f"LLaMA-Factory: {str(error) or type(error).__name__}")
    return faults


def _template_faults(name: Any) -> list[str]:
    from llamafactory.data.template import TEMPLATES

    if name is None or str(name) in TEMPLATES:
        return []
    return [f"template: {name!r} is not a template of LLaMA-Factory{_nearest(str(name), TEMPLATES, 0.5) or '.'}"]


def _model_faults(given: Mapping[str, Any]) -> list[str]:
    name = given.get("model_name_or_path")
    if not isinstance(name, str) or _is_enabled("USE_MODELSCOPE_HUB") or _is_enabled("USE_OPENMIND_HUB"):
        return []
    if Path(name).is_dir():
        if (Path(name) / "config.json").is_file() or (Path(name) / "adapter_config.json").is_file():
            return []
        return [f"model_name_or_path: {name} holds no model: it has no config.json."]
    if name.startswith(("/", "./", "../", "~")) or name.count("/") > 1:
        return [f"model_name_or_path: {name} is not a folder on this machine."]
    from huggingface_hub import hf_hub_download

    keys = {"revision": given.get("model_revision"), "cache_dir": given.get("cache_dir")}
    try:
        hf_hub_download(name, "config.json", token=given.get("hf_hub_token"), **keys)
    except Exception as error:  # noqa: BLE001  from an invalid name to a hub that does not answer
        reason = (str(error).strip().splitlines() or [""])[0]
        return [
            f"model_name_or_path: {name!r} is not a folder on this machine and was not found on the hub "
            f"({type(error).__name__}: {reason})."
        ]
    return []


def _deepspeed_faults(value: Any, *, is_launched: bool) -> list[str]:
    if not isinstance(value, str) or value.lstrip().startswith("{"):
        return []
    path = Path(value)
    if not path.is_file():
        return [f"deepspeed: {value} is not a file."]
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return [f"deepspeed: {value} is not valid JSON: {error}"]
    has_torchrun = "LOCAL_RANK" in os.environ if is_launched else starts_torchrun()
    if not has_torchrun and not _is_enabled("USE_RAY"):
        return ["deepspeed: LLaMA-Factory needs torchrun for it; set FORCE_TORCHRUN=1 in the environment."]
    return []


def starts_torchrun() -> bool:
    """Whether `llamafactory-cli train` would start torchrun in this environment."""
    from llamafactory.extras.misc import get_device_count

    return _is_enabled("FORCE_TORCHRUN") or _is_enabled("USE_MCA") or get_device_count() > 1


def _dataset_faults(settings: Mapping[str, Any], stage: str) -> list[str]:
    """Check the entries of all datasets against the stage, and their keys against those that the host reads."""
    try:
        host = HostArguments.read(settings)
        names = list(dict.fromkeys((*host.dataset, *host.eval_dataset)))
        entries = read_dataset_info(host.dataset_dir, names).entries
    except MigSelectorError:  # the selection reports it
        return []
    faults = []
    for name in names:
        entry = entries[name]
        is_ranking = bool(entry.get("ranking", False))
        if is_ranking and stage not in _RANKING_STAGES:
            faults.append(
                f"dataset {name!r} has ranked pairs (ranking: true), but stage is {stage}; set stage: dpo or rm, or "
                "take another dataset."
            )
        if not is_ranking and stage in _RANKING_STAGES:
            faults.append(
                f"dataset {name!r} has no ranked pairs, but stage is {stage}; set ranking: true and the columns "
                "chosen and rejected in its entry, or take another stage."
            )
        if stage == "kto" and "kto_tag" not in (entry.get("columns") or {}):
            faults.append(f"dataset {name!r} has no column kto_tag, which stage: kto needs; name it in its entry.")
        faults += _entry_faults(name, entry)
    return faults


def _entry_faults(name: str, entry: Mapping[str, Any]) -> list[str]:
    """Find misspelt keys of an entry, which the host ignores, and a layout that it does not have."""
    from llamafactory.data.converter import DATASET_CONVERTERS
    from llamafactory.data.parser import DatasetAttr

    roles = [field.name for field in dataclasses.fields(DatasetAttr)]
    faults = []
    for where, keys, known in (
        ("", entry, _ENTRY_KEYS),
        ("columns.", entry.get("columns"), [role for role in roles if not role.endswith("_tag") or role == "kto_tag"]),
        ("tags.", entry.get("tags"), [role for role in roles if role.endswith("_tag") and role != "kto_tag"]),
    ):
        for key in keys if isinstance(keys, Mapping) else ():
            # Other keys may be notes of the user's; only those that look like a slip are reported.
            if key not in known and (hint := _nearest(str(key), known, 0.75)):
                faults.append(f"dataset {name!r}: LLaMA-Factory ignores {where}{key}{hint}")
    formatting = entry.get("formatting", "alpaca")
    if formatting not in DATASET_CONVERTERS:
        faults.append(
            f"dataset {name!r}: formatting {formatting!r} is not known; expected {' or '.join(DATASET_CONVERTERS)}."
        )
    return faults


def _is_enabled(variable: str) -> bool:
    """Whether an environment variable of the host is set, by the host's own rule."""
    return os.environ.get(variable, "0").lower() in {"true", "y", "1"}
