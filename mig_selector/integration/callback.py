"""What the plugin does while the host trains: the summary in its log, and the origin markers."""

from __future__ import annotations

import uuid
from collections.abc import Callable
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
