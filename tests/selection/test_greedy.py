"""The compiled lazy search chooses what a naive evaluation of every row at every step chooses, in the same order."""

import math
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from naive import dense, naive_selection
from selection.pools import IDENTITY, OBJECTIVES, as_pool, choose, name_of, pools

from mig_selector.arrays import LabelledPool, Propagation, RowLabels
from mig_selector.errors import ArgumentError
from mig_selector.selection import greedy
from mig_selector.selection.greedy import information_added, measure_information, select_rows
from mig_selector.selection.objective import Objective


@pytest.mark.parametrize("objective", OBJECTIVES, ids=name_of)
@settings(max_examples=200, deadline=None)
@given(pools())
def test_lazy_greedy_chooses_what_naive_greedy_chooses(objective, case):
    label_sets, scores, matrix, budget = case
    expected, gains = naive_selection(label_sets, scores, dense(matrix).tolist(), objective, budget)
    selection = choose(label_sets, scores, matrix, objective, budget)
    assert selection.rows.tolist() == expected
    assert selection.gains == pytest.approx(gains, rel=1e-12, abs=0)


def test_first_picks_worked_by_hand():
    # phi'(0) = 0.8 * 1e-6 ** -0.2 = 12.679...; two labels beat one, then untouched label 2 beats all of 0 and 1.
    selection = choose([{0}, {0, 1}, {2}, {1}], [3.0, 2.0, 1.0, 3.0], IDENTITY, Objective(), 4)
    steep = 0.8 * 1e-6**-0.2
    assert selection.rows.tolist() == [1, 2, 0, 3]
    assert selection.gains[0] == pytest.approx(2.0 * 2 * steep, rel=1e-12)
    assert selection.gains[1] == pytest.approx(steep, rel=1e-12)
    assert selection.gains[2] == pytest.approx(3.0 * 0.8 * (2.0 + 1e-6) ** -0.2, rel=1e-12)


def test_of_equal_rows_the_smallest_index_wins():
    selection = choose([{0}, {1}, {0}, {1}], [1.0, 1.0, 1.0, 1.0], IDENTITY, Objective(), 4)
    assert selection.rows.tolist() == [0, 1, 2, 3]


def test_gains_that_round_to_the_same_number_go_by_index_whatever_the_score():
    # exp with a huge rate: after one pick every slope underflows to 0, so all remaining rows tie at 0.
    objective = Objective(phi="exp", rate=1e5)
    selection = choose([{0}, {0}, {0}, {0}], [1.0, 1.5, 3.0, 2.0], IDENTITY, objective, 4)
    assert selection.rows.tolist() == [2, 0, 1, 3]
    assert selection.gains[1:].tolist() == [0.0, 0.0, 0.0]


def test_scores_that_tie_by_rounding_within_a_set_go_by_index():
    # The slope is so small that gains are denormal: neighbouring scores round to one gain.
    objective = Objective(phi="exp", rate=1.0)
    scores = [740.0, 1.0, 1.0 + 2**-52]
    expected, _ = naive_selection([{0}, {0}, {0}], scores, dense(IDENTITY).tolist(), objective, 3)
    assert expected == [0, 1, 2]
    assert choose([{0}, {0}, {0}], scores, IDENTITY, objective, 3).rows.tolist() == expected


def test_rows_without_gain_come_last_in_the_order_of_the_pool():
    selection = choose([set(), {0}, {1}, set()], [9.0, 0.0, 1.0, 9.0], IDENTITY, Objective(), 4)
    assert selection.rows.tolist() == [2, 0, 1, 3]
    assert selection.gains[1:].tolist() == [0.0, 0.0, 0.0]


def test_a_selection_begins_with_every_smaller_selection():
    rng = np.random.default_rng(3)
    label_sets = [set(rng.choice(3, rng.integers(1, 3), replace=False).tolist()) for _ in range(40)]
    scores = rng.uniform(1, 5, 40).tolist()
    whole = choose(label_sets, scores, IDENTITY, Objective(), 40).rows
    assert choose(label_sets, scores, IDENTITY, Objective(), 17).rows.tolist() == whole[:17].tolist()


def test_progress_adds_up_to_the_budget():
    made = []
    pool = as_pool([{0}, {1}, set()], [1.0, 2.0, 3.0])
    select_rows(pool, IDENTITY, Objective(), 3, made.append)
    assert sum(made) == 3


def test_information_of_rows_worked_by_hand():
    pool = as_pool([{0}, {0, 1}, {2}], [3.0, 2.0, 1.0])
    value = measure_information(pool, IDENTITY, Objective(), np.array([0, 1]))
    assert value == pytest.approx((5 + 1e-6) ** 0.8 + (2 + 1e-6) ** 0.8 + (1e-6) ** 0.8, rel=1e-12)


@pytest.mark.parametrize("budget", [0, 4])
def test_a_budget_beyond_the_pool_is_refused(budget):
    with pytest.raises(ValueError, match=f"between 1 and the 3 rows of the pool, got {budget}"):
        choose([{0}, {1}, {2}], [1.0, 1.0, 1.0], IDENTITY, Objective(), budget)


@pytest.mark.parametrize(
    ("label_sets", "scores", "message"),
    [
        ([{0}, {7}], [1.0, 1.0], r"labels\.ids must be in \[0, 3\)"),
        ([{0}, {1}], [1.0, -1.0], "scores must be 0 or more"),
        ([{0}, {1}], [1.0, math.nan], "scores must be 0 or more"),
        ([{0}, {1}], [1.7e308, 1.7e308], "and their sum must be finite"),
    ],
)
def test_arrays_that_do_not_match_are_refused(label_sets, scores, message):
    with pytest.raises(ValueError, match=message):
        choose(label_sets, scores, IDENTITY, Objective(), 1)


def test_offsets_that_do_not_match_are_refused():
    pool = LabelledPool(RowLabels(["a", "b"], np.array([0, 1, 3]), np.array([0, 1], np.int32)), np.array([1.0, 1.0]))
    with pytest.raises(ValueError, match="3 offsets ending at 2, got 3 ending at 3"):
        select_rows(pool, IDENTITY, Objective(), 1)


@pytest.mark.parametrize(
    ("offsets", "ids", "message"),
    [
        ([1, 1, 3], [0, 1, 2], "begin with 0 and never fall"),
        ([0, 4, 3], [0, 1, 2], "begin with 0 and never fall"),
        ([0, 2, 3], [1, 0, 2], "ascending and distinct"),
        ([0, 2, 3], [1, 1, 2], "ascending and distinct"),
    ],
)
def test_label_arrays_that_would_overrun_the_compiled_loops_are_refused(offsets, ids, message):
    labels = RowLabels(list("abc"), np.array(offsets), np.array(ids, np.int32))
    with pytest.raises(ValueError, match=message):
        select_rows(LabelledPool(labels, np.ones(2)), IDENTITY, Objective(), 1)


@pytest.mark.parametrize(
    ("offsets", "columns", "weights", "message"),
    [
        ([0, 2, 5], [0, 1, 0, 1], [1.0, 1.0, 1.0, 1.0], "end at the number of columns"),
        ([0, 3, 2], [0, 1], [1.0, 1.0], "never fall"),
        ([0, 2, 4], [0, 2, 0, 1], [1.0, 1.0, 1.0, 1.0], r"columns must be in \[0, 2\)"),
        ([0, 2, 4], [1, 0, 0, 1], [1.0, 1.0, 1.0, 1.0], "ascending and distinct"),
        ([0, 2, 4], [0, 1, 0, 1], [1.0, 0.0, 1.0, 1.0], "finite and above 0"),
        ([0, 2, 4], [0, 1, 0, 1], [1.0, math.inf, 1.0, 1.0], "finite and above 0"),
        ([0, 2, 4], [0, 1, 0, 1], [1.0, math.nan, 1.0, 1.0], "finite and above 0"),
        ([0, 2, 3], [0, 1, 1], [1.0, 1.0, 1.0], "symmetric"),
        ([0, 1, 3], [0, 0, 1], [1.0, 1.0, 1.0], "symmetric"),
        ([0, 1, 2], [0, 0], [1.0, 1.0], "symmetric"),
    ],
)
def test_a_propagation_that_would_overrun_the_compiled_loops_is_refused(offsets, columns, weights, message):
    matrix = Propagation(np.array(offsets), np.array(columns, np.int32), np.array(weights))
    with pytest.raises(ValueError, match=message):
        choose([{0}, {1}], [1.0, 1.0], matrix, Objective(), 2)


@pytest.mark.parametrize(
    ("objective", "score"),
    [(Objective(offset=1e-30, exponent=0.01), 1e300), (Objective(phi="exp", rate=1e9), 1e300)],
    ids=["pow", "exp"],
)
def test_gains_that_overflow_are_refused_with_the_keys_that_matter(objective, score):
    with pytest.raises(ArgumentError, match="mig_score, mig_phi_offset, mig_phi_rate"):
        choose([{0}, {0}], [score, score], IDENTITY, objective, 2)


@pytest.mark.parametrize("seconds", [0.0, 1e-9, 1.0, 1e9], ids=["no time", "a moment", "long", "forever"])
def test_every_pick_is_reported_however_long_they_take(monkeypatch, seconds):
    pool = LabelledPool(RowLabels(["a"], np.arange(2_001), np.zeros(2_000, np.int32)), np.arange(1.0, 2_001.0))
    matrix = Propagation(np.array([0, 1]), np.zeros(1, np.int32), np.ones(1))
    ticks = iter(np.arange(100_000) * seconds)
    monkeypatch.setattr("mig_selector.selection.greedy.time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    seen = []
    selection = select_rows(pool, matrix, Objective(), 500, seen.append)
    assert sum(seen) == 500
    assert min(seen) >= 1
    assert selection.rows.tolist() == list(range(1_999, 1_499, -1))


def naive_information(label_sets, scores, matrix, objective, rows):
    """E(D) in extended precision, so that a difference of two keeps its digits."""
    held = np.zeros(len(matrix), np.longdouble)
    for row in rows:
        held += np.longdouble(scores[row]) * matrix[sorted(label_sets[row])].astype(np.longdouble).sum(axis=0)
    if objective.phi == "pow":
        return np.sum((held + np.longdouble(objective.offset)) ** np.longdouble(objective.exponent))
    return np.sum(-np.expm1(-np.longdouble(objective.rate) * held))


@pytest.mark.parametrize("at_once", [1, 7, 1 << 22], ids=["row by row", "in blocks", "at once"])
@pytest.mark.parametrize("objective", OBJECTIVES, ids=name_of)
@settings(max_examples=60, deadline=None)
@given(pools())
def test_information_added_is_the_difference_of_e_before_and_after_the_row(at_once, objective, case):
    label_sets, scores, matrix, budget = case
    pool = as_pool(label_sets, scores)
    rows = np.random.default_rng(budget).permutation(len(scores))[:budget]
    with patch.object(greedy, "_EVENTS_AT_ONCE", at_once):
        added = information_added(pool, matrix, objective, rows)
    values = [
        naive_information(label_sets, scores, dense(matrix), objective, rows[:count]) for count in range(budget + 1)
    ]
    assert added == pytest.approx(np.diff(values).astype(float), rel=1e-9, abs=1e-14 * float(values[-1]))
    total = float(values[-1] - values[0])
    assert added.sum() == pytest.approx(total, rel=1e-9, abs=1e-14 * float(values[-1]))
    of_chosen = measure_information(pool, matrix, objective, rows)
    of_none = measure_information(pool, matrix, objective, rows[:0])
    assert added.sum() == pytest.approx(of_chosen - of_none, rel=1e-9, abs=1e-14 * of_chosen)


def test_information_added_worked_by_hand():
    pool = as_pool([{0}, {0, 1}, set(), {2}], [3.0, 2.0, 9.0, 1.0])
    added = information_added(pool, IDENTITY, Objective(), np.array([3, 1, 2, 0]))
    zero = 1e-6**0.8
    first, second = (1 + 1e-6) ** 0.8 - zero, 2 * ((2 + 1e-6) ** 0.8 - zero)
    assert added.tolist() == pytest.approx([first, second, 0.0, (5 + 1e-6) ** 0.8 - (2 + 1e-6) ** 0.8], rel=1e-12)
    assert information_added(pool, IDENTITY, Objective(), np.zeros(0, np.int64)).tolist() == []
