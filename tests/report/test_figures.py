"""Figures against counts that are written straight down."""

import math
from collections import Counter

import numpy as np
import pytest

from mig_selector.report.charts import chart_curve, chart_numbers, round_step, ticks
from mig_selector.report.figures import build_curve, describe_categories, describe_labels, describe_numbers


ADDED = np.array([8.0, 4.0, 2.0, 1.0, 0.5, 0.25, 0.25])


def test_the_curve_is_the_running_sum_of_what_rows_add():
    curve = build_curve(np.cumsum(ADDED), budget=4, pool_information=16.0)
    assert [(point.rows, point.information) for point in curve.points] == list(enumerate(np.cumsum(ADDED), start=1))
    assert {name: (point.rows, point.information, point.share) for name, point in curve.at_shares.items()} == {
        "10%": (1, 8.0, 8 / 15), "25%": (1, 8.0, 8 / 15), "50%": (2, 12.0, 12 / 15), "100%": (4, 15.0, 1.0),
    }  # fmt: skip
    # 8, 12, 14, 15 are 4.25, 4.5, 2.75, 0 above the line to (4, 15)
    assert curve.knee.rows == 2
    assert curve.rows_needed == {"80%": 3, "90%": 4, "95%": 5, "99%": 7}


def test_what_lies_beyond_the_last_row_is_not_known():
    curve = build_curve(np.cumsum(ADDED[:4]), budget=4, pool_information=16.0)
    assert curve.rows_needed == {"80%": 3, "90%": 4, "95%": None, "99%": None}
    assert len(chart_curve(curve)) == 1


def test_rows_that_add_nothing_make_a_curve_too():
    curve = build_curve(np.zeros(3), budget=2, pool_information=0.0)
    assert curve.at_shares["100%"].share == 0.0
    assert [chart.line for chart in chart_curve(curve)]


def test_a_long_curve_has_points_up_to_the_budget_and_beyond():
    curve = build_curve(np.arange(1.0, 100_001), budget=500, pool_information=100_000.0)
    rows = [point.rows for point in curve.points]
    assert len(rows) <= 200
    assert sum(each <= 500 for each in rows) >= 100
    assert rows[-1] == 100_000
    before, after = chart_curve(curve)
    assert before.beyond == ""
    assert [marker.name for marker in after.markers] == [
        "the selection: 500", "80%: 80,000", "90%: 90,000", "95%: 95,000", "99%: 99,000",
    ]  # fmt: skip


def test_names_that_would_touch_on_a_small_screen_are_crowded():
    information = np.cumsum(np.r_[np.full(80, 1.0), np.full(60, 20 / 60)])
    curve = build_curve(information, budget=20, pool_information=100.0)
    *_, after = chart_curve(curve)
    named = {marker.name.split(":")[0]: marker.is_crowded for marker in after.markers}
    assert named == {"the selection": False, "80%": False, "90%": False, "95%": True, "99%": False}


def test_whole_numbers_of_a_small_range_are_counted_one_by_one():
    pool, chosen = np.array([1, 1, 2, 3, 3, 3, 5, 60]), np.array([3, 60])
    found = describe_numbers("turns", "turns", np.concatenate([np.repeat(pool[:-1], 100), [60]]), chosen)
    assert [(each.name, each.chosen) for each in found.bins] == [
        ("1", 0.0), ("2", 0.0), ("3", 0.5), ("4", 0.0), ("5", 0.5),
    ]  # fmt: skip
    assert sum(each.pool for each in found.bins) == pytest.approx(1.0)
    assert (found.pool_rows, found.chosen_rows, found.chosen_mean) == (701, 2, 31.5)


@pytest.mark.parametrize("seed", range(5))
def test_other_numbers_are_in_a_histogram_and_large_ones_in_its_last_bin(seed):
    rng = np.random.default_rng(seed)
    pool = rng.lognormal(size=1_000)
    chosen = pool[:100]
    found = describe_numbers("score", "score", pool, chosen)
    starts = [float(each.name.replace(",", "")) for each in found.bins]
    assert len(starts) <= 22
    for side, values in (("pool", pool), ("chosen", chosen)):
        index = [max(n for n, start in enumerate(starts) if start <= value + 1e-12) for value in values]
        counts = Counter(index)
        assert [getattr(each, side) for each in found.bins] == [counts[n] / len(values) for n in range(len(starts))]
    assert found.pool_mean == pytest.approx(sum(pool) / 1_000)


def test_equal_numbers_have_one_bin_that_counts():
    found = describe_numbers("score", "score", np.full(7, 2.5), np.full(2, 2.5))
    assert [each.pool for each in found.bins if each.pool] == [1.0]
    assert chart_numbers(found).bars


def test_categories_are_named_up_to_twelve_and_the_others_added_up():
    pool = {f"source {n}": 100 - n for n in range(20)}
    chosen = {"source 19": 10, "source 0": 30}
    found = describe_categories("source", "source", pool, chosen)
    assert [each.name for each in found.bins[:2]] == ["source 0", "source 19"]
    assert found.bins[-1].name == "8 others"
    assert sum(each.pool for each in found.bins) == pytest.approx(1.0)
    assert found.bins[1].chosen == 0.25


def test_labels_are_compared_with_a_random_choice():
    names = ["common", "rare", "missing", "seldom missing", "unused"]
    pool, chosen = np.array([100, 2, 50, 1, 0]), np.array([30, 2, 0, 0, 0])
    found = describe_labels(names, pool, chosen, 0.2, np.array([0, 2]), np.array([[0, 0], [1, 1]]), [(0, 1)], 6)
    assert (found.in_use, found.covered, found.not_counted) == (4, 2, 6)
    # 31 / 21 = 1.48, 3 / 1.4 = 2.14; 1 / 11 = 0.09, 1 / 1.2 = 0.83
    assert [(each.name, each.ratio) for each in found.over] == [("rare", 5.0), ("common", 1.5)]
    assert [(each.name, each.ratio) for each in found.under] == [("missing", 0.0), ("seldom missing", 0.0)]
    assert [each.name for each in found.missing] == ["missing", "seldom missing"]
    assert [(each.count.name, each.x) for each in found.map] == [("common", 0), ("missing", 1)]


def test_every_label_without_a_chosen_row_is_listed():
    names, nothing = [f"label {n}" for n in range(30)], np.zeros(30, np.int64)
    found = describe_labels(names, nothing + 1, nothing, 0.2, nothing[:0], np.zeros((0, 2)), [], 0)
    assert [each.name for each in found.missing] == names


@pytest.mark.parametrize("top", [3e-7, 0.4, 1.0, 7.0, 99.5, 123_456.0])
def test_an_axis_has_a_few_round_numbers(top):
    found = ticks(top, 100.0)
    assert 3 <= len(found) <= 6
    assert all(0 <= tick.at <= 100.0 + 1e-9 for tick in found)
    assert math.log10(round_step(top)) >= math.log10(top) - 1e-12
