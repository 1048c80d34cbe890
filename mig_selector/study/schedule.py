"""Equal steps for all arms: how many there are, and how many rows each takes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mig_selector.integration.config import Schedule


_SHORTEST, _LONGEST = 0.8, 1.25
"""The number of steps may differ from the configuration's by these factors, so that batches of whole rows fit."""


@dataclass(frozen=True)
class Batch:
    """What one process is given for a step."""

    rows_per_batch: int
    batches_per_step: int


@dataclass(frozen=True)
class Lesson:
    """How one subset is trained on."""

    steps: int
    """The same for all subsets of a study."""
    batch: Batch
    passes: float
    """How often training sees each row, on average."""


def equal_rows(rows: Sequence[int], schedule: Schedule, processes: int, steps: int | None = None) -> list[Lesson]:
    """Return lessons of equal steps and equal batches for subsets of some numbers of rows.

    The number of steps is the configuration's for the first subset, unless it is given.
    """
    steps = steps or schedule.steps(rows[0], processes)
    batch = Batch(schedule.rows_per_batch, schedule.batches_per_step)
    return [Lesson(steps, batch, _passes(count, steps, batch, processes)) for count in rows]


def equal_tokens(rows: Sequence[int], schedule: Schedule, processes: int, steps: int | None = None) -> list[Lesson]:
    """Return lessons of equal steps and, as nearly as whole rows allow, equal passes, for subsets of equal tokens.

    A subset of longer rows has fewer of them, so each step takes fewer: the tokens of a step are about equal. The
    number of steps is the one, not far from the configuration's for the first subset, at which the passes of all
    subsets are nearest to the configuration's; it is left as it is where ``max_steps`` is set. So it depends on all
    subsets, unless it is given.
    """
    own = Batch(schedule.rows_per_batch, schedule.batches_per_step)
    wanted = schedule.steps(rows[0], processes)
    passes = _passes(rows[0], wanted, own, processes) if schedule.max_steps > 0 else schedule.epochs

    def lessons(steps: int) -> list[Lesson]:
        return [_nearest(count, steps, passes, schedule.rows_per_batch, processes) for count in rows]

    def distance(made: list[Lesson]) -> tuple[float, int]:
        return round(max(abs(each.passes - passes) for each in made), 9), abs(made[0].steps - wanted)

    if steps is not None or schedule.max_steps > 0:
        return lessons(steps or wanted)
    return min(map(lessons, range(max(int(_SHORTEST * wanted), 1), math.ceil(_LONGEST * wanted) + 1)), key=distance)


def _nearest(rows: int, steps: int, passes: float, most_per_batch: int, processes: int) -> Lesson:
    """Return the lesson whose passes are nearest to those wanted."""
    ideal = passes * rows / (steps * processes)
    batches = list(_batches(max(int(ideal) - most_per_batch, 1), int(ideal) + most_per_batch + 1, most_per_batch))
    made = [Lesson(steps, batch, _passes(rows, steps, batch, processes)) for batch in batches]
    return min(made, key=lambda lesson: abs(lesson.passes - passes))


def is_held_by_batch_size(rows: int, steps: int, passes: float, most_per_batch: int, processes: int) -> bool:
    """Whether a step should take a number of rows that cannot be cut into equal batches of the size allowed."""
    ideal = int(passes * rows / (steps * processes))
    counts = [count for count in (ideal, ideal + 1) if count]
    best = min(counts, key=lambda count: abs(_passes(rows, steps, Batch(count, 1), processes) - passes))
    return not any(_batches(best, best, most_per_batch))


def _batches(least: int, most: int, most_per_batch: int) -> Iterator[Batch]:
    """Yield batches of so many rows a step, in as few equal parts as fit the configured size."""
    for rows in range(least, most + 1):
        parts = math.ceil(rows / most_per_batch)
        if rows % parts == 0:
            yield Batch(rows // parts, parts)


def _passes(rows: int, steps: int, batch: Batch, processes: int) -> float:
    """Return how often each row is seen; the last step of a pass takes what is left of the rows."""
    per_step = batch.rows_per_batch * batch.batches_per_step * processes
    whole, rest = divmod(steps, math.ceil(rows / per_step))
    return whole + min(rest * per_step / rows, 1.0)
