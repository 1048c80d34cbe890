"""Rows for validation that are not taken out of the chosen ones: ``mig_val_from: rest``."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mig_selector.arguments import MigArguments
from mig_selector.errors import ArgumentError
from mig_selector.integration.config import HostArguments


def check_validation(arguments: MigArguments, host: HostArguments) -> None:
    """Check that the host can be given rows that were not chosen, if they are asked for.

    Raises:
        ArgumentError: Other keys of the host contradict it.
    """
    if arguments.mig_val_from != "rest":
        return
    for is_wrong, reason in (
        (host.val_size <= 0, "needs val_size: a number of rows, or a share of the chosen ones. Set it"),
        (host.eval_dataset, "takes the place of eval_dataset. Remove eval_dataset"),
        (host.interleave_probs, "adds datasets for evaluation, and interleave_probs has no share for them. Remove it"),
    ):
        if is_wrong:
            raise ArgumentError(f"mig_val_from: rest {reason}, or leave mig_val_from out.")


def num_validation_rows(arguments: MigArguments, host: HostArguments, budget: int) -> int:
    """Return how many rows that are not chosen are for validation, counted as the host counts `val_size`."""
    if arguments.mig_val_from != "rest":
        return 0
    return int(host.val_size) if host.val_size >= 1 else math.ceil(host.val_size * budget)


def validation_identity(arguments: MigArguments, host: HostArguments) -> dict[str, Any] | None:
    """Return what decides the validation rows of a selection; None if there are none."""
    return {"val_size": host.val_size, "seed": host.seed} if arguments.mig_val_from == "rest" else None


def draw_validation_rows(
    arguments: MigArguments, host: HostArguments, num_kept: int, chosen: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Draw some of the kept rows that were not chosen, the same ones for the same seed.

    Returns:
        Kept indices, ascending.
    """
    count = num_validation_rows(arguments, host, len(chosen))
    if count == 0:
        return np.zeros(0, np.int64)
    is_left = np.ones(num_kept, np.bool_)
    is_left[chosen] = False
    rest = np.flatnonzero(is_left)
    return rest[sorted(random.Random(host.seed).sample(range(len(rest)), count))]
