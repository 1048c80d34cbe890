"""What the plugin does while the host trains: the summary in its log, and the origin markers."""

from __future__ import annotations

import importlib
import os
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from llamafactory.extras.logging import get_logger
from transformers import TrainerCallback

from mig_selector.console import printable
from mig_selector.integration.handover import TrainingOrigin


# A child of the host's logger, so that these lines reach the same console and log file as the host's own.
logger = get_logger("llamafactory.mig_selector")


class SelectionSummary(TrainerCallback):  # type: ignore[misc]  # transformers is not typed here
    """Logs the summary of the selection again when training begins: the host's log opens only after the selection."""

    def __init__(self, lines: list[str]) -> None:
        """Keep the lines of the summary until training begins."""
        self._lines = lines

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Log the lines, on rank 0 of the world only."""
        if state.is_world_process_zero:
            for line in self._lines:
                logger.info_rank0(f"mig_selector: {printable(line)}")


class KeyFigures(TrainerCallback):  # type: ignore[misc]  # transformers is not typed here
    """Reports the key figures of the selection to what ``report_to`` names, once it has been set up.

    Each is told through its own module, as LLaMA-Factory's ReporterCallback tells it the settings, and not through the
    trainer's log: trainer_log.jsonl is made of that.
    """

    def __init__(self, figures: Mapping[str, float]) -> None:
        """Keep the figures, by name, until training begins."""
        self._figures = {f"selection/{name}": value for name, value in figures.items()}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Report them, on rank 0 of the world only; training goes on if that fails."""
        if not state.is_world_process_zero:
            return
        for name in args.report_to:
            try:
                if name == "tensorboard":
                    _report_to_tensorboard(self._figures, args)
                elif name in _REPORTERS:
                    _REPORTERS[name](importlib.import_module(name), self._figures)
            except Exception as error:  # noqa: BLE001  whatever a tracker raises must not end a training
                reason = printable(f"{type(error).__name__}: {error}")
                logger.warning("mig_selector: the figures of the selection were not reported to %s (%s)", name, reason)


_REPORTERS: Mapping[str, Callable[[Any, dict[str, float]], object]] = {
    "mlflow": lambda mlflow, figures: mlflow.log_metrics(figures),
    "swanlab": lambda swanlab, figures: swanlab.config.update(figures),
    "trackio": lambda trackio, figures: trackio.config.update(figures),
    "wandb": lambda wandb, figures: wandb.run.summary.update(figures),
}
"""How each tracker takes figures of a whole run, from its module: the run is the one that transformers has begun."""


def _report_to_tensorboard(figures: Mapping[str, float], args: Any) -> None:
    """Write the figures beside the event file that transformers has just begun, so that they belong to its run."""
    try:
        tensorboard = importlib.import_module("torch.utils.tensorboard")
    except ImportError:  # as in transformers
        tensorboard = importlib.import_module("tensorboardX")
    # transformers 5 has no logging_dir: the folder is in the environment, or below output_dir.
    root = os.environ.get("TENSORBOARD_LOGGING_DIR") or getattr(args, "logging_dir", None) or args.output_dir
    newest = max(Path(root).expanduser().rglob("events.out.tfevents.*"), key=lambda file: file.stat().st_mtime)
    with tensorboard.SummaryWriter(str(newest.parent), filename_suffix=".mig_selector") as writer:
        for name, value in figures.items():
            writer.add_scalar(name, value, 0)


class OriginMarkers(TrainerCallback):  # type: ignore[misc]  # transformers is not typed here
    """Marks tokenized data and checkpoints with the selection that they come from, once the host has written them."""

    def __init__(self, training: TrainingOrigin) -> None:
        """Mark what `training` says."""
        self._training = training
        self._run = uuid.uuid4().hex

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Mark the tokenized data, which the host writes before."""
        if args.should_save:
            warn_on_error(self._training.mark_tokenized)
        if args.should_save or args.local_process_index == 0:  # nodes may have an output_dir each
            warn_on_error(self._training.retire_old_marker)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Make the trainer_state.json of a checkpoint unlike that of every other run: its hash is in the marker."""
        states = getattr(state, "stateful_callbacks", None)
        if isinstance(states, dict):
            # In the host's form for the state of a callback. A run that resumes keeps it, but at an older step.
            states["mig_selector"] = {"args": {}, "attributes": {"run": self._run, "step": state.global_step}}

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Mark the checkpoint that was just written."""
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if args.should_save or args.local_process_index == 0:
            warn_on_error(lambda: self._training.mark_checkpoint(folder, is_writer=args.should_save))


def warn_on_error(mark: Callable[[], object]) -> None:
    """Write a marker; a training run does not end because that fails."""
    try:
        mark()
    except OSError as error:
        logger.warning(
            "mig_selector: an origin marker cannot be written (%s); a later run with mig_ keys will refuse what it "
            "would have marked.",
            printable(str(error)),
        )
