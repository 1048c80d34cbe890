"""Trainings that this package starts itself: the command, its processes, and the model that it leaves."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from mig_selector.errors import ArgumentError, HostError
from mig_selector.integration.host_settings import starts_torchrun, typed


COMMAND = "llamafactory-cli train"
_LOG_LINES = 12
"""Last lines of the log that an error shows."""
_EVALUATING_KEYS = (
    *("eval_dataset", "val_size", "eval_on_each_dataset", "eval_strategy", "evaluation_strategy", "eval_steps"),
    *("do_eval", "do_predict", "predict_with_generate", "load_best_model_at_end", "metric_for_best_model"),
    *("eval_on_start", "early_stopping_steps"),
)
_RESUMING_KEYS = ("resume_from_checkpoint", "overwrite_output_dir")
_ORDER_KEY = "data_seed"
"""Would give all trainings the same order of rows, whatever their `seed`."""


def training_settings(host_settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the host's keys for a training that only trains: without evaluation, and with some keys changed.

    The order of rows follows `seed` alone, so that trainings of different seeds differ.
    """
    kept = {
        key: typed(value)
        for key, value in host_settings.items()
        if key not in (*_EVALUATING_KEYS, *_RESUMING_KEYS, _ORDER_KEY, "num_train_epochs")
    }
    if kept.get("save_strategy") == "best":  # the best in an evaluation
        del kept["save_strategy"]
    return {**kept, "do_train": True, "push_to_hub": False, **changes}


def run_training(settings: Mapping[str, Any], command: str, folder: Path, name: str, lock: int) -> None:
    """Train in a process of its own, as a user would.

    Args:
        settings: The host's keys.
        command: The command, to which the configuration is appended.
        folder: Gets ``train.yaml`` and ``train.log``.
        name: What is trained, for messages.
        lock: File descriptor of a lock that the process is to hold as well.

    Raises:
        HostError: The command cannot be started, or fails.
    """
    config, log = folder / "train.yaml", folder / "train.log"
    config.write_text(yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True), encoding="utf-8")
    words = [*_resolved(command), str(config)]
    with log.open("wb") as stream:
        try:
            done = subprocess.run(words, stdout=stream, stderr=subprocess.STDOUT, pass_fds=(lock,), check=False)
        except OSError as error:
            raise HostError(f"--train-command: {words[0]!r} cannot be started ({error.strerror}).") from error
    if done.returncode:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_LINES:]
        raise HostError(
            "\n".join([f"the training of {name} failed with exit code {done.returncode}; the end of {log}:", *lines])
        )


def _resolved(command: str) -> list[str]:
    """Return the words of a command; one that is not on PATH is looked for beside this interpreter."""
    words = shlex.split(command)
    if not words:
        raise ArgumentError("--train-command is empty; the default is llamafactory-cli train.")
    beside = Path(sys.executable).parent / words[0]
    return [str(beside), *words[1:]] if shutil.which(words[0]) is None and beside.is_file() else words


def num_processes() -> int:
    """Return how many processes `llamafactory-cli train` would train with in this environment.

    On a machine without a device, as where jobs are submitted, one a node: the host itself would start none, and fail.
    """
    if not starts_torchrun():
        return 1
    from llamafactory.extras.misc import get_device_count

    given = os.environ.get("NPROC_PER_NODE", "")
    a_node = int(given) if given.isdecimal() else get_device_count()  # torchrun takes words such as gpu, too
    return int(os.environ.get("NNODES", "1")) * max(a_node, 1)


def load_for_prediction(host_settings: Mapping[str, Any], trained: Path | None) -> Any:
    """Load a model with the host's own loader.

    Args:
        host_settings: The host's keys of the training.
        trained: The folder that the training wrote; None for the model that it starts from.

    Raises:
        HostError: It cannot be loaded.
    """
    import dataclasses

    from llamafactory.hparams import DataArguments, FinetuningArguments, ModelArguments, get_infer_args
    from llamafactory.model import load_model, load_tokenizer
    from transformers.utils import logging

    names = {
        field.name
        for kind in (DataArguments, FinetuningArguments, ModelArguments)
        for field in dataclasses.fields(kind)
        if field.init
    }
    given = {key: typed(value) for key, value in host_settings.items()}
    keys = {key: value for key, value in given.items() if key in names and key not in _EVALUATING_KEYS}
    # The host would choose bfloat16 where the hardware has it, whatever the training computed with.
    dtype = (
        "bfloat16" if given.get("bf16") or given.get("pure_bf16") else "float16" if given.get("fp16") else "float32"
    )
    keys |= {"infer_dtype": dtype}
    if trained is not None:
        is_adapter = (trained / "adapter_config.json").is_file()
        keys["adapter_name_or_path" if is_adapter else "model_name_or_path"] = str(trained)
    try:
        model_args, _, finetuning_args, _ = get_infer_args(keys)
        logging.set_verbosity_warning()  # the host has set it to print every file and configuration
        tokenizer = load_tokenizer(model_args)["tokenizer"]
        return load_model(tokenizer, model_args, finetuning_args)
    except Exception as error:  # the host raises anything
        raise HostError(f"{trained or keys.get('model_name_or_path')} cannot be loaded: {error}") from error
