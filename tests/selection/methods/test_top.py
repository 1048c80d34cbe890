"""The best rows by score: stable, and for IFD only those that the filter lets pass."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mig_selector.selection.method import Candidates
from mig_selector.selection.methods.top import ifd, longest, top_score


SCORES = st.lists(st.one_of(st.sampled_from([0.0, 0.5, 1.0, 1.5, -0.25]), st.floats(-2, 3)), min_size=1, max_size=30)


def candidates(scores):
    return Candidates(len(scores), scores=np.array(scores))


def naive_top(scores, passes, budget):
    """Plain Python's sort is stable."""
    rows = sorted(range(len(scores)), key=lambda row: scores[row], reverse=True)
    return [row for row in rows if passes(scores[row])][:budget]


@pytest.mark.parametrize("choose", [top_score, longest])
@given(SCORES, st.integers(1, 30))
def test_the_best_rows_come_first_and_equal_ones_in_the_order_of_the_pool(choose, scores, budget):
    selection = choose(candidates(scores), budget)
    assert selection.rows.tolist() == naive_top(scores, lambda score: True, budget)
    assert selection.gains.tolist() == [scores[row] for row in selection.rows]


@pytest.mark.parametrize(
    ("ifd_filter", "passes"),
    [("mig", lambda score: 0 <= score <= 1), ("superfiltering", lambda score: score < 1)],
    ids=["mig", "superfiltering"],
)
@given(SCORES, st.integers(1, 30))
def test_ifd_takes_the_best_that_pass(ifd_filter, passes, scores, budget):
    selection = ifd(candidates(scores), budget, ifd_filter=ifd_filter)
    assert selection.rows.tolist() == naive_top(scores, passes, budget)
    assert selection.gains.tolist() == [scores[row] for row in selection.rows]


def test_ifd_worked_by_hand():
    pool = candidates([0.9, 1.0, 1.2, 0.0, 0.9, 0.99])
    assert ifd(pool, 6, ifd_filter="mig").rows.tolist() == [1, 5, 0, 4, 3]
    assert ifd(pool, 6, ifd_filter="superfiltering").rows.tolist() == [5, 0, 4, 3]
    assert ifd(pool, 2, ifd_filter="superfiltering").rows.tolist() == [5, 0]


def test_fewer_rows_come_back_where_fewer_pass():
    assert ifd(candidates([2.0, 3.0]), 1, ifd_filter="mig").rows.tolist() == []


@pytest.mark.parametrize(("choose", "score"), [(top_score, "deita"), (longest, "response_tokens"), (ifd, "ifd")])
def test_only_scores_are_needed(choose, score):
    declaration = choose.declaration
    assert declaration.needs == {"scores"}
    assert declaration.score == score
    assert declaration.is_nested
    assert declaration.may_fall_short == (choose is ifd)
