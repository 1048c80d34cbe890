"""The summary of the selection, written to the host's training log, which opens only after the selection."""

from __future__ import annotations

from typing import Any

from llamafactory.extras.logging import get_logger
from transformers import TrainerCallback

from mig_selector.console import printable


# A child of the host's logger, so that these lines reach the same console and log file as the host's own.
logger = get_logger("llamafactory.mig_selector")


class SelectionSummary(TrainerCallback):  # type: ignore[misc]  # transformers is not typed here
    """Logs the summary of the selection again when training begins."""

    def __init__(self, lines: list[str]) -> None:
        """Keep the lines of the summary until training begins."""
        self._lines = lines

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Log the lines, on rank 0 of the world only."""
        if state.is_world_process_zero:
            for line in self._lines:
                logger.info_rank0(f"mig_selector: {printable(line)}")
