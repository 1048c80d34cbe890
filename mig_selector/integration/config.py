"""LLaMA-Factory's configuration, read as it reads it, and the few of its keys that selection needs."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mig_selector.errors import ArgumentError


_STAGES = ("pt", "sft", "rm", "ppo", "dpo", "kto")


def read_config(path: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """Read a YAML or JSON configuration with ``key=value`` overrides, as LLaMA-Factory does.

    Args:
        path: The file.
        overrides: As they stand on the command line.

    Returns:
        Keys and values.

    Raises:
        ArgumentError: The file or an override cannot be read.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    if path.suffix not in {".yaml", ".yml", ".json"}:
        raise ArgumentError(f"{str(path)!r} is no YAML or JSON file; name one first, then key=value overrides.")
    for override in overrides:
        if "=" not in override or override.startswith("--"):
            raise ArgumentError(f"{override!r} is no override; after a file expected key=value, without dashes.")
    try:
        if path.suffix == ".json":
            config = OmegaConf.create(json.loads(path.read_text(encoding="utf-8")))
        else:
            config = OmegaConf.load(path)
        # Like the host, without resolving ${...}: both must read the same values.
        merged = OmegaConf.to_container(OmegaConf.merge(config, OmegaConf.from_cli(list(overrides))))
    except FileNotFoundError as error:
        raise ArgumentError(f"{path} does not exist.") from error
    except (OSError, TypeError, ValueError, YAMLError, OmegaConfBaseException) as error:
        raise ArgumentError(f"{path} cannot be read: {error}") from error
    if not isinstance(merged, dict):
        raise ArgumentError(f"{path} must hold keys and values.")
    return {str(key): value for key, value in merged.items()}


def check_overrides(settings: Mapping[str, Any]) -> None:
    """Refuse options behind a file: the host reads ``--mig_x=1`` there as a key of that name, dashes included.

    Raises:
        ArgumentError: A key begins with dashes.
    """
    for key in settings:
        if key.startswith("--"):
            raise ArgumentError(f"{key!r} is no override; after a file expected key=value, without dashes.")


def read_options(options: Sequence[str]) -> dict[str, Any]:
    """Read ``--key value``, ``--key=value`` and bare ``--flag`` options.

    Args:
        options: As they stand on the command line.

    Returns:
        Keys with ``_`` for ``-``, as the host takes both, and values as text; a bare flag is True. What is no option
        is left out.
    """
    settings: dict[str, Any] = {}
    place = 0
    while place < len(options):
        key, has_value, value = options[place].partition("=")
        place += 1
        if not key.startswith("--"):
            continue
        if not has_value and place < len(options) and not options[place].startswith("--"):
            value, has_value = options[place], "="
            place += 1
        settings[_option_key(key)] = value if has_value else True
    return settings


def _option_key(option: str) -> str:
    return option.partition("=")[0].removeprefix("--").replace("-", "_")


def drop_options(options: Sequence[str], keys: Mapping[str, Any]) -> list[str]:
    """Return the options without those named in `keys`."""
    kept: list[str] = []
    skipping = False
    for option in options:
        if option.startswith("--"):
            skipping = _option_key(option) in keys
        if not skipping:
            kept.append(option)
        elif "=" in option:
            skipping = False
    return kept


def to_options(settings: Mapping[str, Any]) -> list[str]:
    """Write settings as ``--key value`` options."""
    return [part for key, value in settings.items() for part in (f"--{key}", str(value))]


@dataclass(frozen=True)
class HostArguments:
    """The host's own keys that decide what is read and what training would do with it."""

    dataset: tuple[str, ...]
    dataset_dir: str
    media_dir: str | None
    eval_dataset: tuple[str, ...]
    output_dir: Path | None
    overwrite_output_dir: bool
    resume_from_checkpoint: str | None
    """None: from the last checkpoint in output_dir, if there is one. Else ``true``, ``false`` or a checkpoint."""
    tokenized_path: Path | None
    interleave_probs: bool
    max_samples: int | None
    model_name_or_path: str | None
    stage: Literal["pt", "sft", "rm", "ppo", "dpo", "kto"]
    do_train: bool
    cache_dir: str | None
    hf_hub_token: str | None
    ms_hub_token: str | None

    @classmethod
    def read(cls, settings: Mapping[str, Any]) -> HostArguments:
        """Pick the keys out of a configuration.

        Args:
            settings: The host's keys, typed (YAML) or as text (command line).

        Returns:
            The keys, with the host's defaults.

        Raises:
            ArgumentError: `dataset` is missing, `dataset_dir` is not a string, or there is no such `stage`.
        """
        dataset = _names(settings.get("dataset"))
        if not dataset:
            raise ArgumentError("dataset is missing; selection needs the name of the pool in dataset_info.json.")
        dataset_dir = settings.get("dataset_dir", "data")
        if not isinstance(dataset_dir, str) or not dataset_dir:
            raise ArgumentError(f"dataset_dir: {dataset_dir!r} must be a folder, ONLINE or REMOTE:<repository>.")
        return cls(
            dataset=dataset,
            dataset_dir=dataset_dir,
            media_dir=_text(settings.get("media_dir")),
            eval_dataset=_names(settings.get("eval_dataset")),
            output_dir=_path(settings.get("output_dir")),
            overwrite_output_dir=_is_true(settings.get("overwrite_output_dir")),
            resume_from_checkpoint=_resume(settings.get("resume_from_checkpoint")),
            tokenized_path=_path(settings.get("tokenized_path")),
            interleave_probs=settings.get("interleave_probs") is not None,
            max_samples=_count(settings.get("max_samples")),
            model_name_or_path=_text(settings.get("model_name_or_path")),
            stage=_stage(settings.get("stage")),
            do_train=_is_true(settings.get("do_train")),
            cache_dir=_text(settings.get("cache_dir")),
            hf_hub_token=_text(settings.get("hf_hub_token")),
            ms_hub_token=_text(settings.get("ms_hub_token")),
        )


def _names(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    parts = value if isinstance(value, Sequence) and not isinstance(value, str) else str(value).split(",")
    return tuple(name for part in parts if (name := str(part).strip()))


def _text(value: Any) -> str | None:
    return None if value is None or value is False or value == "" else str(value)


def _path(value: Any) -> Path | None:
    text = _text(value)
    return None if text is None else Path(text)


def _resume(value: Any) -> str | None:
    if value is None:
        return None
    return str(value).lower() if isinstance(value, bool) else str(value) or "false"


def _count(value: Any) -> int | None:
    """Read a number of the host's; what is none is left to the host to complain about."""
    return int(value) if re.fullmatch(r"\d+", str(value)) else None


def _stage(value: Any) -> Any:
    stage = "sft" if value is None else value
    if stage not in _STAGES:
        raise ArgumentError(f"stage: {stage!r} must be one of {', '.join(_STAGES)}.")
    return stage


def _is_true(value: Any) -> bool:
    return value is True or str(value).lower() in {"true", "1", "yes", "y", "t"}
