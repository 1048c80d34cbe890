"""LLaMA-Factory's configuration, read the way it does, and the few of its keys that a selection needs."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mig_selector.errors import ArgumentError


TOKENIZING_KEYS = (
    *("template", "cutoff_len", "train_on_prompt", "mask_history", "tool_format", "default_system"),
    *("enable_thinking", "preserve_thinking", "use_fast_tokenizer", "split_special_tokens"),
    *("add_tokens", "add_special_tokens", "new_special_tokens_config"),
    *("image_max_pixels", "image_min_pixels", "image_do_pan_and_scan", "crop_to_patches"),
    *("video_max_pixels", "video_min_pixels", "video_fps", "video_maxlen"),
    *("use_audio_in_video", "audio_sampling_rate"),
)
"""LLaMA-Factory's keys that decide the tokens of a row, beside model and stage."""
_STAGES = ("pt", "sft", "rm", "ppo", "dpo", "kto")


def read_config(path: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """Read a YAML or JSON configuration with ``key=value`` overrides, as LLaMA-Factory does.

    Args:
        path: The file.
        overrides: The words after the file on the command line.

    Returns:
        The values by key; ``${...}`` references are not resolved.

    Raises:
        ArgumentError: The file cannot be read, holds no keys and values, or an override is malformed.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    if path.suffix not in {".yaml", ".yml", ".json"}:
        raise ArgumentError(f"{str(path)!r} is not a YAML or JSON file; give one first, then key=value overrides.")
    for override in overrides:
        if "=" not in override or override.startswith("--"):
            raise ArgumentError(f"{override!r} is not an override; after a file, write key=value without dashes.")
    try:
        if path.suffix == ".json":
            config = OmegaConf.create(json.loads(path.read_text(encoding="utf-8")))
        else:
            config = OmegaConf.load(path)
        if not OmegaConf.is_dict(config):
            raise ArgumentError(f"{path} must hold keys and values at its top level.")
        # The host does not resolve ${...} either: both must read the same values.
        merged = OmegaConf.to_container(OmegaConf.merge(config, OmegaConf.from_cli(list(overrides))))
    except FileNotFoundError as error:
        raise ArgumentError(f"{path} does not exist.") from error
    except UnicodeDecodeError as error:
        raise ArgumentError(f"{path} is not UTF-8 ({error.reason}, byte {error.start}); save it as UTF-8.") from error
    except (OSError, TypeError, ValueError, YAMLError, OmegaConfBaseException) as error:
        raise ArgumentError(f"{path} cannot be read: {error}") from error
    return {str(key): value for key, value in merged.items()}  # type: ignore[union-attr]


def check_overrides(settings: Mapping[str, Any]) -> None:
    """Reject ``--key=value`` options after a configuration file.

    The host reads ``--mig_x=1`` there as a key named ``--mig_x``, so the setting would be ignored.

    Raises:
        ArgumentError: A key begins with dashes.
    """
    for key in settings:
        if key.startswith("--"):
            raise ArgumentError(f"{key!r} is not an override; after a file, write key=value without dashes.")


def read_options(options: Sequence[str]) -> dict[str, Any]:
    """Read ``--key value``, ``--key=value`` and bare ``--flag`` options.

    Args:
        options: The words of the command line.

    Returns:
        Values as strings by key, with ``_`` for ``-`` in keys, as the host accepts both; a list of strings where
        several words follow, True for a bare flag. Of repeated options the last wins. Words that are neither options
        nor their values are left out.
    """
    settings: dict[str, Any] = {}
    index = 0
    while index < len(options):
        key, equals, value = options[index].partition("=")
        index += 1
        if not key.startswith("--"):
            continue
        values = [value] if equals else []
        while not equals and index < len(options) and not options[index].startswith("--"):
            values.append(options[index])
            index += 1
        settings[_option_key(key)] = values if len(values) > 1 else values[0] if values else True
    return settings


def _option_key(option: str) -> str:
    """Return the key of an option: ``mig_phi`` for both ``--mig-phi`` and ``--mig_phi=pow``."""
    return option.partition("=")[0].removeprefix("--").replace("-", "_")


def drop_options(options: Sequence[str], keys: Mapping[str, Any]) -> list[str]:
    """Return the options without those named in `keys` and without their values."""
    kept: list[str] = []
    skipping = False
    for option in options:
        if option.startswith("--"):
            skipping = _option_key(option) in keys
        if not skipping:
            kept.append(option)
        elif "=" in option:  # it had its value: what follows does not belong to it
            skipping = False
    return kept


def typed_as_in_yaml(value: Any) -> Any:
    """Return a value of an option as a YAML has it: a truth value or a number, if it is written like one.

    A setting must decide the same whether it comes from a YAML or from the command line.
    """
    if not isinstance(value, str):
        return value
    if value.lower() in {"true", "false"}:
        return value.lower() == "true"
    if re.fullmatch(r"-?(0|[1-9]\d*)", value):
        return int(value)
    return (
        float(value) if re.fullmatch(r"-?((\d+\.\d*|\.\d+)(e[+-]?\d+)?|\d+e[+-]?\d+)", value, re.IGNORECASE) else value
    )


def to_options(settings: Mapping[str, Any]) -> list[str]:
    """Return settings as ``--key value`` options; the reverse of `read_options`."""
    return [part for key, value in settings.items() for part in (f"--{key}", str(value))]


@dataclass(frozen=True)
class Schedule:
    """How many rows a step of training takes, and how often training sees each row."""

    rows_per_batch: int
    """On each process."""
    batches_per_step: int
    epochs: float
    max_steps: int
    """Instead of `epochs` if above 0."""

    def steps(self, rows: int, processes: int) -> int:
        """Return the steps of a training on some rows, as transformers' trainer counts them."""
        if self.max_steps > 0:
            return self.max_steps
        batches = math.ceil(math.ceil(rows / self.rows_per_batch) / processes)
        return math.ceil(self.epochs * max(math.ceil(batches / self.batches_per_step), 1))


@dataclass(frozen=True)
class HostArguments:
    """The keys of the host that decide which rows are read, and what training would do with them."""

    dataset: tuple[str, ...]
    dataset_dir: str
    """A folder, ``ONLINE`` or ``REMOTE:<repository>``."""
    media_dir: str | None
    eval_dataset: tuple[str, ...]
    output_dir: Path | None
    overwrite_output_dir: bool
    resume_from_checkpoint: str | None
    """None: resume from the last checkpoint in output_dir, if any. Otherwise ``true``, ``false`` or a folder."""
    tokenized_path: Path | None
    interleave_probs: bool
    """Whether the key is set; its value does not matter to a selection."""
    max_samples: int | None
    """Rows of each dataset that training sees at most."""
    mix_strategy: str
    interleave_shares: tuple[float, ...]
    """The values of `interleave_probs`; empty if it is not set or cannot be read."""
    seed: int
    val_size: float
    """Rows that the host takes out of training for validation: a number of 1 or more, or a share; 0 for none."""
    model_name_or_path: str | None
    stage: Literal["pt", "sft", "rm", "ppo", "dpo", "kto"]
    do_train: bool
    only_evaluates: bool
    """Whether the run trains nothing: do_train is false, or is absent beside do_eval or do_predict."""
    cache_dir: str | None
    trust_remote_code: bool
    hf_hub_token: str | None
    ms_hub_token: str | None
    tokenizing: Mapping[str, Any]
    """The keys with which rows are tokenized, with the types that a YAML gives them."""
    schedule: Schedule | None
    """None if nothing is trained, or if the number of rows that training sees is not that of its datasets."""

    @classmethod
    def read(cls, settings: Mapping[str, Any]) -> HostArguments:
        """Read the keys from a configuration; the values of all other keys are left for the host to check.

        Args:
            settings: The host's keys, typed (from YAML) or as strings (from the command line).

        Returns:
            The keys, with the host's defaults for missing ones.

        Raises:
            ArgumentError: `dataset` is missing, `dataset_dir` is not a string or is empty, or `stage` is unknown.
        """
        dataset = _split_names(settings.get("dataset"))
        if not dataset:
            raise ArgumentError("dataset is missing; set it to the name of the pool in dataset_info.json.")
        dataset_dir = settings.get("dataset_dir", "data")
        if not isinstance(dataset_dir, str) or not dataset_dir:
            raise ArgumentError(f"dataset_dir: {dataset_dir!r} must be a folder, ONLINE or REMOTE:<repository>.")
        return cls(
            dataset=dataset,
            dataset_dir=dataset_dir,
            media_dir=_optional_string(settings.get("media_dir")),
            eval_dataset=_split_names(settings.get("eval_dataset")),
            output_dir=_optional_path(settings.get("output_dir")),
            overwrite_output_dir=_is_true(settings.get("overwrite_output_dir")),
            resume_from_checkpoint=_resume_setting(settings.get("resume_from_checkpoint")),
            tokenized_path=_optional_path(settings.get("tokenized_path")),
            interleave_probs=settings.get("interleave_probs") is not None,
            max_samples=_optional_count(settings.get("max_samples")),
            mix_strategy=_optional_string(settings.get("mix_strategy")) or "concat",
            interleave_shares=_split_numbers(settings.get("interleave_probs")),
            seed=_optional_count(settings.get("seed", 42)) or 0,
            val_size=next(iter(_split_numbers(settings.get("val_size"))), 0.0),
            model_name_or_path=_optional_string(settings.get("model_name_or_path")),
            stage=_stage(settings.get("stage")),
            do_train=_is_true(settings.get("do_train")),
            only_evaluates=_only_evaluates(settings),
            cache_dir=_optional_string(settings.get("cache_dir")),
            trust_remote_code=_is_true(settings.get("trust_remote_code")),
            hf_hub_token=_optional_string(settings.get("hf_hub_token")),
            ms_hub_token=_optional_string(settings.get("ms_hub_token")),
            tokenizing={
                key: typed_as_in_yaml(settings[key]) for key in TOKENIZING_KEYS if settings.get(key) is not None
            },
            schedule=_read_schedule(settings),
        )


_CHANGE_ROWS = ("packing", "neat_packing", "val_size", "max_samples", "interleave_probs", "streaming")


def keys_that_change_rows(settings: Mapping[str, Any]) -> list[str]:
    """Return the keys that are set with which training does not see the rows of its datasets one by one."""
    return [key for key in _CHANGE_ROWS if typed_as_in_yaml(settings.get(key))]


def _read_schedule(settings: Mapping[str, Any]) -> Schedule | None:
    """Return how training goes through its rows; None if that cannot be told from the configuration."""
    if not _is_true(settings.get("do_train")) or keys_that_change_rows(settings):
        return None
    try:
        schedule = Schedule(
            rows_per_batch=int(settings.get("per_device_train_batch_size", 8)),
            batches_per_step=int(settings.get("gradient_accumulation_steps", 1)),
            epochs=float(settings.get("num_train_epochs", 3)),
            max_steps=int(settings.get("max_steps", -1)),
        )
    except (TypeError, ValueError):  # the host will reject it itself
        return None
    return schedule if min(schedule.rows_per_batch, schedule.batches_per_step) > 0 else None


def _only_evaluates(settings: Mapping[str, Any]) -> bool:
    if _is_true(settings.get("do_train")):
        return False
    return settings.get("do_train") is not None or any(
        _is_true(settings.get(key)) for key in ("do_eval", "do_predict")
    )


def _split_names(value: Any) -> tuple[str, ...]:
    """Return the names in a list, or in a string separated by commas."""
    if value is None:
        return ()
    parts = value if isinstance(value, Sequence) and not isinstance(value, str) else str(value).split(",")
    return tuple(name for part in parts if (name := str(part).strip()))


def _split_numbers(value: Any) -> tuple[float, ...]:
    """Return the numbers in a list or a string separated by commas; none where one is not a number."""
    try:
        return tuple(float(part) for part in _split_names(value))
    except ValueError:  # the host will reject it itself
        return ()


def _optional_string(value: Any) -> str | None:
    """Return a value as a string; None where the host would treat it as unset."""
    return None if value is None or value is False or value == "" else str(value)


def _optional_path(value: Any) -> Path | None:
    """Return a value as a path; None where the host would treat it as unset."""
    text = _optional_string(value)
    return None if text is None else Path(text)


def _resume_setting(value: Any) -> str | None:
    """Return `resume_from_checkpoint` as a string; an empty one means no resuming, unlike an absent one."""
    if value is None:
        return None
    return str(value).lower() if isinstance(value, bool) else str(value) or "false"


def _optional_count(value: Any) -> int | None:
    """Return a count of 0 or more; None for anything else, which the host will reject itself."""
    return int(value) if re.fullmatch(r"\d+", str(value)) else None


def _stage(value: Any) -> Any:
    stage = "sft" if value is None else value
    if stage not in _STAGES:
        raise ArgumentError(f"stage: {stage!r} must be one of {', '.join(_STAGES)}.")
    return stage


def _is_true(value: Any) -> bool:
    """Return whether a value is true in YAML or, as a string, on the host's command line."""
    return value is True or str(value).lower() in {"true", "1", "yes", "y", "t"}
