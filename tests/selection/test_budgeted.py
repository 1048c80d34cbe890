"""Greedy search under a budget of costs chooses what a naive evaluation of every row at every step chooses."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import dense, naive_selection_within
from selection.pools import IDENTITY, OBJECTIVES, as_pool, name_of, pools

from mig_selector.selection import rounds
from mig_selector.selection.greedy import select_rows, select_within
from mig_selector.selection.objective import Objective


def choose_within(label_sets, scores, matrix, objective, costs, budget):
    return select_within(as_pool(label_sets, scores), matrix, objective, np.array(costs), budget)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=name_of)
@settings(max_examples=120, deadline=None)
@given(case=pools(), data=st.data())
def test_it_chooses_what_naive_greedy_chooses(objective, case, data):
    label_sets, scores, matrix, _ = case
    costs = data.draw(st.lists(st.integers(1, 9), min_size=len(scores), max_size=len(scores)))
    budget = data.draw(st.integers(1, sum(costs)))
    expected, gains = naive_selection_within(label_sets, scores, dense(matrix).tolist(), objective, costs, budget)
    selection = choose_within(label_sets, scores, matrix, objective, costs, budget)
    assert selection.rows.tolist() == expected
    assert selection.gains == pytest.approx(gains, rel=1e-12, abs=0)
    assert sum(costs[row] for row in expected) <= budget


@pytest.mark.parametrize("objective", OBJECTIVES, ids=name_of)
def test_many_small_rounds_choose_the_same(objective, monkeypatch):
    rng = np.random.default_rng(3)
    label_sets = [set(rng.choice(3, rng.integers(1, 4), replace=False).tolist()) for _ in range(90)]
    scores, costs = rng.integers(1, 5, 90).astype(float), rng.integers(1, 30, 90)
    expected, _ = naive_selection_within(
        label_sets, scores.tolist(), dense(IDENTITY).tolist(), objective, costs.tolist(), 400
    )
    monkeypatch.setattr(rounds, "_MIN_ENTRIES", 4)
    monkeypatch.setattr(rounds, "_ROWS_PER_ENTRY", {"gradient": 20, "marginal": 20})
    monkeypatch.setattr(rounds, "_SAMPLE_ROWS", 30)
    assert choose_within(label_sets, scores, IDENTITY, objective, costs, 400).rows.tolist() == expected


def test_short_rows_that_gain_most_a_token_go_first_worked_by_hand():
    # Gains while nothing is chosen: 4, 3, 1 times phi'(0); per token 0.4, 0.6, 0.5. Then 4 tokens are left for none.
    selection = choose_within([{0}, {1}, {2}], [4.0, 3.0, 1.0], IDENTITY, Objective(), [10, 5, 2], 11)
    steep = 0.8 * 1e-6**-0.2
    assert selection.rows.tolist() == [1, 2]
    assert selection.gains == pytest.approx([3.0 * steep / 5, steep / 2], rel=1e-12)


def test_a_long_row_that_is_worth_more_than_all_short_ones_is_taken():
    # Per token the short rows gain 2/3 and 1 where the long one gains 1/2; after them it does not fit any more.
    objective = Objective(phi="exp", rate=0.1)
    costs, scores = [3, 100, 2], [2.0, 50.0, 2.0]
    # 1 - exp(-5) is more than twice 1 - exp(-0.2); of what is left only the last row fits.
    assert choose_within([{0}, {1}, {2}], scores, IDENTITY, objective, costs, 102).rows.tolist() == [1, 2]
    assert choose_within([{0}, {1}, {2}], scores, IDENTITY, objective, costs, 105).rows.tolist() == [2, 0, 1]


def test_rows_without_gain_are_left_out():
    selection = choose_within([{0}, set(), {1}], [1.0, 5.0, 0.0], IDENTITY, Objective(), [1, 1, 1], 3)
    assert selection.rows.tolist() == [0]


def test_a_budget_below_every_row_chooses_none():
    assert len(choose_within([{0}, {1}], [1.0, 1.0], IDENTITY, Objective(), [5, 6], 4).rows) == 0


def test_equal_costs_choose_as_if_rows_were_counted():
    rng = np.random.default_rng(5)
    label_sets = [set(rng.choice(3, rng.integers(1, 4), replace=False).tolist()) for _ in range(60)]
    scores = rng.uniform(1, 5, 60)
    counted = select_rows(as_pool(label_sets, scores), IDENTITY, Objective(), 20)
    within = choose_within(label_sets, scores, IDENTITY, Objective(), [1] * 60, 20)
    assert within.rows.tolist() == counted.rows.tolist()
    assert within.gains.tolist() == counted.gains.tolist()


def test_progress_adds_up_to_what_the_rows_cost():
    spent = []
    pool = as_pool([{0}, {1}, {2}], [1.0, 2.0, 3.0])
    selection = select_within(pool, IDENTITY, Objective(), np.array([3, 4, 5]), 9, spent.append)
    assert sum(spent) == sum([3, 4, 5][row] for row in selection.rows) == 9


@pytest.mark.parametrize(
    ("costs", "budget", "message"),
    [([1, 0], 3, "costs must hold 2 numbers of 1 or more"), ([1], 3, "2 numbers"), ([1, 1], 0, "budget must be 1")],
)
def test_costs_that_cannot_be_are_refused(costs, budget, message):
    with pytest.raises(ValueError, match=message):
        choose_within([{0}, {1}], [1.0, 1.0], IDENTITY, Objective(), costs, budget)
