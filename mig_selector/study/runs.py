"""One run: train, measure, and keep both in a folder that has its name only when it is finished."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mig_selector.annotation.answers import measure_answers
from mig_selector.console import progress
from mig_selector.integration.tokenization import WITHOUT_LOSS, TokenizedRow
from mig_selector.integration.training import load_for_prediction, run_training
from mig_selector.ranks.models import free_memory
from mig_selector.store.files import read_json, write_json
from mig_selector.store.subsets import MANIFEST
from mig_selector.study.plan import Plan, Run


logger = logging.getLogger(__name__)

MODEL = "model"
"""Folder of the trained model, in the folder of its run."""
_LOSSES = "losses.npy"
_TRAINING = "training"
"""Folder of a model that is not finished."""


@dataclass(frozen=True)
class Result:
    """A finished run."""

    losses: NDArray[np.float64]
    """Loss per token of each held-out answer. Shape (N,)."""
    manifest: Mapping[str, Any]


def read_result(plan: Plan, folder: Path, run: Run) -> Result | None:
    """Return what a run measured; None if it is not finished, or was made from other rows or in another way."""
    manifest = read_json(folder / run.name / MANIFEST)
    if not isinstance(manifest, dict):
        return None
    of_earlier_version = manifest.get("study") == plan.fingerprint  # it named the whole plan
    if not of_earlier_version and manifest.get("fingerprint") != plan.run_fingerprint(run):
        return None
    try:
        losses = np.load(folder / run.name / _LOSSES, allow_pickle=False)
    except (OSError, ValueError):
        return None
    return Result(losses, manifest) if losses.shape == (len(plan.split.heldout.rows),) else None


def do_run(plan: Plan, folder: Path, run: Run) -> None:
    """Train and measure, unless that is done, or another process is at it.

    A run that was cut off goes on: a training from its last checkpoint, if the configuration saves any, a measurement
    from the trained model.

    Raises:
        HostError: The training fails, or its model cannot be loaded.
    """
    final = folder / run.name
    folder.mkdir(parents=True, exist_ok=True)
    with claimed(folder / f".{run.name}.lock") as lock:
        if lock is None:
            logger.info("%s: another process is at it", run.name)
            return
        if read_result(plan, folder, run) is not None:  # another process has finished it meanwhile
            return
        staging = folder / f".{run.name}.unfinished"
        if (staging / MANIFEST).exists() or final.exists():  # renaming was cut off, or losses are damaged
            shutil.rmtree(staging, ignore_errors=True)
            shutil.rmtree(final, ignore_errors=True)
        staging.mkdir(exist_ok=True)
        trained = _train(plan, staging, run, lock) if run.seed is not None else None
        start = time.monotonic()
        losses = _measure(plan, trained, run)
        with (staging / _LOSSES).open("wb") as stream:
            np.save(stream, losses)
        write_json(
            staging / MANIFEST,
            {
                "fingerprint": plan.run_fingerprint(run),
                **asdict(run),
                "measuring_seconds": time.monotonic() - start,
                **({} if trained is None else _describe_training(plan, trained, run)),
            },
        )
        staging.rename(final)


@contextlib.contextmanager
def claimed(path: Path) -> Iterator[int | None]:
    """Hold a lock, unless another process does; yield its file descriptor, or None.

    A process that is started with the descriptor holds the lock too: a training whose study was killed goes on, and
    nobody else may write to its folder before it ends.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        yield None
        return
    try:
        yield handle
    finally:
        os.close(handle)


def _train(plan: Plan, staging: Path, run: Run, lock: int) -> Path:
    """Train in a folder that is renamed when the training has ended; return where the model is."""
    finished, unfinished = staging / MODEL, staging / _TRAINING
    if finished.exists():
        return finished
    keep_resumable(unfinished)
    settings = plan.training_settings(run, unfinished)
    logger.info("%s: training, %s steps; the log is %s", run.name, f"{settings['max_steps']:,}", staging / "train.log")
    start = time.monotonic()
    run_training(settings, plan.setup.options.train_command, staging, run.name, lock)
    for checkpoint in unfinished.glob("checkpoint-*"):  # the final model is beside them
        shutil.rmtree(checkpoint, ignore_errors=True)
    write_json(unfinished / "mig_training.json", {"seconds": time.monotonic() - start})
    unfinished.rename(finished)
    return finished


def keep_resumable(unfinished: Path) -> None:
    """Remove what a training that was cut off has left, but for whole checkpoints with the optimizer's state.

    Without that state the host would go on all the same, with an optimizer that has forgotten what it knew.
    """
    is_resumable = False
    for checkpoint in unfinished.glob("checkpoint-*"):
        has_optimizer = any(checkpoint.glob("optimizer*")) or any(checkpoint.glob("global_step*"))
        if has_optimizer and (checkpoint / "trainer_state.json").is_file():
            is_resumable = True
        else:
            shutil.rmtree(checkpoint)
    if not is_resumable:
        shutil.rmtree(unfinished, ignore_errors=True)


def _describe_training(plan: Plan, trained: Path, run: Run) -> dict[str, Any]:
    """Return what the host says of a training."""
    subset, lesson = plan.subset(run)
    state = read_json(trained / "trainer_state.json") or {}
    return {
        "subset": subset.outcome.folder,
        "training_seconds": (read_json(trained / "mig_training.json") or {}).get("seconds"),
        "steps": state.get("global_step"),
        "passes": state.get("epoch"),
        "planned_steps": lesson.steps,
        "planned_passes": lesson.passes,
    }


def _measure(plan: Plan, trained: Path | None, run: Run) -> NDArray[np.float64]:
    """Measure the loss of each held-out answer under a model."""
    rows: Sequence[TokenizedRow] = plan.split.heldout.rows
    model = load_for_prediction(plan.setup.host_settings, trained)
    with progress(f"{run.name}: measuring held-out answers", len(rows), "rows", is_main=True) as bar:
        losses = measure_answers(model, ((row.ids, row.labels) for row in rows), WITHOUT_LOSS, bar)
    del model
    free_memory()
    return losses
