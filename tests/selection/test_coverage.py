"""Coverage: what a row would add, bounded and exact, and how many reaches are held."""

import numpy as np
import pytest

from mig_selector.selection.coverage import Coverage


VECTORS = np.array([[1, 0], [3, 4], [0, 1], [-1, 0]], np.float32)


def cover(targets=(0, 1, 2, 3)):
    return Coverage(VECTORS, np.array(targets))


def test_rises_worked_by_hand():
    coverage = cover()
    assert coverage.first_rises.tolist() == pytest.approx([0.6, 1.8, 1.8, -0.6], abs=1e-15)
    coverage.begin(2)  # the highest cosines are now 0, 0.8, 1, 0
    assert coverage.room() == pytest.approx(2.2)
    coverage.survey([0, 1, 3])
    bounds = [coverage.rise(row) for row in (0, 1, 3)]
    for row in (0, 1, 3):
        coverage.make_exact(row)
    rises = [coverage.rise(row) for row in (0, 1, 3)]
    assert rises == pytest.approx([1.0, 0.8, 1.0])
    assert all(rise < bound < rise + 1e-5 for rise, bound in zip(rises, bounds, strict=True))
    coverage.add(0)  # 1, 0.8, 1, 0
    assert [coverage.rise(row) for row in (0, 1, 3)] == pytest.approx([0.0, 0.2, 1.0])


def test_only_targets_are_covered():
    coverage = cover(targets=[1, 3])
    coverage.begin(0)  # 0.6, -1
    coverage.survey([2])
    coverage.make_exact(2)
    assert coverage.rise(2) == pytest.approx(0.2 + 1.0)


def test_reaches_are_dropped_when_too_many_cosines_are_held(monkeypatch):
    monkeypatch.setattr("mig_selector.selection.coverage._HELD_ELEMENTS", 3)
    coverage = cover()
    coverage.begin(2)
    coverage.survey([0, 3])
    coverage.survey([1])
    assert [coverage.knows(row) for row in range(4)] == [True, True, False, True]
    coverage.survey([2])  # 4 cosines are held, more than 3
    assert [coverage.knows(row) for row in range(4)] == [False, False, True, False]


@pytest.mark.parametrize(("num_targets", "size"), [(4, 256), (2**16, 64), (2**20, 16)])
def test_fewer_rows_are_surveyed_at_once_if_there_are_more_targets(num_targets, size):
    assert cover(np.zeros(num_targets, np.int64)).survey_size == size
