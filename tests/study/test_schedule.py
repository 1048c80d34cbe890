"""Equal steps, and passes as equal as batches of whole rows allow."""

import math

import pytest

from mig_selector.integration.config import Schedule
from mig_selector.study.schedule import equal_rows, equal_tokens


def simulated_passes(rows, lesson, processes):
    """Take steps one by one, as the trainer does."""
    seen, left = 0, rows
    for _ in range(lesson.steps):
        taken = min(left, lesson.batch.rows_per_batch * lesson.batch.batches_per_step * processes)
        seen, left = seen + taken, left - taken or rows
    return seen / rows


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("rows", [[500, 490, 505, 170, 620], [100, 33, 120], [16, 9, 20], [7, 7]])
@pytest.mark.parametrize("schedule", [Schedule(4, 2, 3.0, -1), Schedule(1, 8, 1.0, -1), Schedule(4, 2, 3.0, 25)])
def test_steps_are_equal_and_passes_are_those_of_the_trainer(rows, schedule, processes):
    lessons = equal_tokens(rows, schedule, processes)
    wanted = schedule.steps(rows[0], processes)
    assert len({lesson.steps for lesson in lessons}) == 1
    assert math.floor(0.8 * wanted) <= lessons[0].steps <= math.ceil(1.25 * wanted)
    if schedule.max_steps > 0:
        assert lessons[0].steps == schedule.max_steps
    for count, lesson in zip(rows, lessons, strict=True):
        assert lesson.passes == pytest.approx(simulated_passes(count, lesson, processes))
        assert 1 <= lesson.batch.rows_per_batch <= schedule.rows_per_batch


def test_passes_are_about_equal_where_batches_are_not_tiny():
    lessons = equal_tokens([500, 490, 505, 170, 620], Schedule(8, 4, 3.0, -1), 1)
    passes = [lesson.passes for lesson in lessons]
    assert max(passes) / min(passes) < 1.05
    per_step = [lesson.batch.rows_per_batch * lesson.batch.batches_per_step for lesson in lessons]
    assert per_step[3] < per_step[0] < per_step[4]


def test_equal_rows_keep_the_batches_of_the_configuration():
    lessons = equal_rows([500, 500], Schedule(8, 4, 3.0, -1), 2)
    assert lessons[0] == lessons[1]
    assert (lessons[0].steps, lessons[0].batch.rows_per_batch, lessons[0].passes) == (24, 8, 3.0)
