"""A search in rounds chooses what a naive evaluation chooses, however few rows a round holds."""

import math
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from naive import dense, naive_selection
from selection.pools import IDENTITY, OBJECTIVES, as_pool, choose, name_of, pools

from mig_selector.graph.label_graph import build_adjacency, build_propagation
from mig_selector.selection import greedy, rounds, twins
from mig_selector.selection.objective import Objective


@pytest.fixture
def small_rounds(monkeypatch):
    """A round holds one row in four."""
    monkeypatch.setattr(rounds, "_MIN_ENTRIES", 1)
    monkeypatch.setattr(rounds, "_ROWS_PER_ENTRY", {"gradient": 4, "marginal": 4})


@pytest.fixture
def linked(monkeypatch):
    """Equal rows wait for each other although the pool is small."""
    monkeypatch.setattr(twins, "_PAIRS_WORTH_LINKING", 0)


def count_rounds(monkeypatch):
    calls = []
    rank = rounds.rank
    monkeypatch.setattr(rounds, "rank", lambda *arguments: calls.append(1) or rank(*arguments))
    return calls


def assert_as_naive(label_sets, scores, matrix, objective, budget):
    expected, gains = naive_selection(label_sets, scores, dense(matrix).tolist(), objective, budget)
    selection = choose(label_sets, scores, matrix, objective, budget)
    assert selection.rows.tolist() == expected
    assert selection.gains.tolist() == gains


@pytest.mark.parametrize("pairs_worth_linking", [0, 64], ids=["linked", "not linked"])
@pytest.mark.parametrize("objective", OBJECTIVES, ids=name_of)
@settings(max_examples=150, deadline=None)
@given(pools())
def test_small_rounds_choose_what_naive_greedy_chooses(objective, pairs_worth_linking, case):
    with (
        patch.object(rounds, "_MIN_ENTRIES", 1),
        patch.object(rounds, "_ROWS_PER_ENTRY", {"gradient": 4, "marginal": 4}),
        patch.object(twins, "_PAIRS_WORTH_LINKING", pairs_worth_linking),
        patch.object(greedy, "_FIRST_PICKS", 3),
    ):
        assert_as_naive(*case[:3], objective, case[3])


@pytest.mark.usefixtures("small_rounds")
def test_a_pool_takes_several_rounds(monkeypatch):
    calls = count_rounds(monkeypatch)
    rng = np.random.default_rng(5)
    label_sets = [set(rng.choice(3, rng.integers(1, 3), replace=False).tolist()) for _ in range(60)]
    assert_as_naive(label_sets, rng.uniform(1, 5, 60).tolist(), IDENTITY, Objective(), 60)
    assert 4 <= len(calls) <= 30


@pytest.mark.usefixtures("small_rounds")
@pytest.mark.parametrize("objective", OBJECTIVES, ids=name_of)
def test_ties_on_both_sides_of_the_cut_go_by_index(objective, monkeypatch):
    calls = count_rounds(monkeypatch)
    matrix = build_propagation(build_adjacency(np.eye(12), 0.9), 1.0)
    selection = choose([{row} for row in range(12)], [2.0] * 12, matrix, objective, 12)
    assert selection.rows.tolist() == list(range(12))
    assert len(calls) > 2


@pytest.mark.usefixtures("small_rounds")
def test_a_later_tie_outside_the_cut_waits_for_an_earlier_one_inside():
    # All gain the same at first; when label 0 falls, the ties of label 1 that no round has held yet go by index.
    label_sets = [{0}, {1}, {0}, {1}, {0}, {1}, {2}, {2}]
    assert_as_naive(label_sets, [1.0] * 8, IDENTITY, Objective(), 8)


@pytest.mark.usefixtures("linked")
def test_scores_one_unit_apart_that_gain_the_same_go_by_index():
    # phi'(0) = 0.8 at offset 1; times 0.8, neighbouring floats in (1.25, 2) share a product one time in five.
    low = next(s for s in np.linspace(1.3, 1.4, 1000) if s * 0.8 == np.nextafter(s, 2.0) * 0.8)
    scores = [1.2, float(low), float(np.nextafter(low, 2.0))]
    assert scores[1] < scores[2]
    assert choose([{0}] * 3, scores, IDENTITY, Objective(offset=1.0), 1).rows.tolist() == [1]
    assert choose([{0}] * 3, scores[::-1], IDENTITY, Objective(offset=1.0), 1).rows.tolist() == [0]


@pytest.mark.usefixtures("small_rounds", "linked")
def test_gains_that_fall_to_the_smallest_floats_and_to_zero():
    # After the first pick of a label phi' is 1.2e-322 (24 units), after the second 0.
    label_sets = [{0}, {0}, {0}, {0}, {1}, {1}, {1}]
    scores = [740.0, 1.0, 1.0 + 2**-52, 1.01, 740.0, 1.01, 1.0]
    assert 0 < math.exp(-740.0) < 1e-321
    assert_as_naive(label_sets, scores, IDENTITY, Objective(phi="exp"), 7)


@pytest.mark.parametrize("scores", [[3.0] * 90, [1.0 + row % 4 for row in range(90)]], ids=["constant", "whole"])
@pytest.mark.parametrize("objective", OBJECTIVES, ids=name_of)
@pytest.mark.usefixtures("small_rounds", "linked")
def test_rows_that_repeat_follow_each_other(objective, scores):
    label_sets = [[{0}, {0, 1}, {2}, {1, 2}, set()][row * row % 5] for row in range(90)]
    assert_as_naive(label_sets, scores, IDENTITY, objective, 90)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=name_of)
@pytest.mark.usefixtures("small_rounds")
def test_a_dense_graph(objective):
    rng = np.random.default_rng(8)
    matrix = build_propagation(build_adjacency(rng.normal(size=(30, 4)) + 1.0, 0.3), 1.0)
    assert np.diff(matrix.offsets).mean() > 15
    label_sets = [set(rng.choice(30, rng.integers(0, 6), replace=False).tolist()) for _ in range(50)]
    scores = rng.integers(0, 5, 50) * 0.75
    assert_as_naive(label_sets, scores.tolist(), matrix, objective, 50)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=name_of)
def test_a_pool_of_one_row(objective):
    assert_as_naive([{1}], [2.5], IDENTITY, objective, 1)
    assert choose([set()], [2.5], IDENTITY, objective, 1).rows.tolist() == [0]


def test_a_round_holds_one_row_in_32():
    pool = as_pool([{row % 3} for row in range(200_000)], np.random.default_rng(1).permutation(200_000) + 1.0)
    search = rounds.Search(pool, IDENTITY, Objective())
    assert len(search._working_set.indices) == pytest.approx(200_000 / 32, rel=0.2)


def test_tied_rows_do_not_flood_a_round():
    # One row in two gains the most: a round takes only the first of them, and records where it stopped.
    pool = as_pool([{0} if row % 2 else {1, 2} for row in range(100_000)], np.ones(100_000))
    with patch.object(twins, "_PAIRS_WORTH_LINKING", math.inf):
        working_set = rounds.Search(pool, IDENTITY, Objective())._working_set
    assert working_set.indices.tolist() == list(range(0, 2 * (100_000 // 32), 2))
    assert working_set.cut_row == working_set.indices[-1]


def test_gains_that_rise_by_rounding_are_evaluated_again():
    # (x + e + 0.5) - (x + 0.5) is e up to rounding, above or below; equal scores differ by nothing else.
    objective = Objective(gain="marginal", exponent=1.0, offset=0.5)
    rng = np.random.default_rng(4)
    for _ in range(30):
        matrix = build_propagation(build_adjacency(rng.normal(size=(4, 3)) + 0.6, 0.6), 1.0)
        label_sets = [set(rng.choice(4, rng.integers(1, 4), replace=False).tolist()) for _ in range(11)]
        assert_as_naive(label_sets, [0.1] * 11, matrix, objective, 11)


def test_gains_that_were_rounded_to_zero_may_rise_again():
    # Beside 1e6, each 1e-9 gains nothing or one unit in the last place; a row of no gain is chosen in between.
    objective = Objective(gain="marginal", exponent=0.3, offset=1e-9)
    rng = np.random.default_rng(4)
    for _ in range(100):
        scores = rng.choice([0.0, 1e-9, 1e6], 30)
        assert_as_naive([set() if row % 7 == 3 else {row % 2} for row in range(30)], scores, IDENTITY, objective, 30)
