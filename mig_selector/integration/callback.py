"""The selection's summary in the host's own training log, which opens only after the selection is done."""

from __future__ import annotations

from typing import Any

from llamafactory.extras.logging import get_logger
from transformers import TrainerCallback

from mig_selector.console import printable


# A child of the host's own logger: its lines go where the host's go.
logger = get_logger("llamafactory.mig_selector")


class SelectionSummary(TrainerCallback):  # type: ignore[misc]  # transformers is not typed here
    """Repeats what was selected when training begins."""

    def __init__(self, lines: list[str]) -> None:
        """Keep `lines` for later."""
        self._lines = lines

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Log the lines on rank 0."""
        if state.is_world_process_zero:
            for line in self._lines:
                logger.info_rank0(f"mig_selector: {printable(line)}")
