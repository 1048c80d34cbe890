import math

import numpy as np
import pytest

from mig_selector.annotation.scales import describe_scale, rescale
from mig_selector.errors import PoolError


SCORES = np.array([7.0, -5.0, 9.0, 7.0])


def test_none_leaves_scores_as_they_are():
    assert rescale(SCORES, "none") is SCORES


@pytest.mark.parametrize(
    ("scores", "ranks"),
    [
        (SCORES, [2.5 / 4, 1 / 4, 4 / 4, 2.5 / 4]),
        (np.array([3.0]), [1.0]),
        (np.array([2.0, 2.0, 2.0]), [2 / 3] * 3),
        (np.array([0.0, -0.0, -1e300, 1e300, 1e300]), [2.5 / 5, 2.5 / 5, 1 / 5, 4.5 / 5, 4.5 / 5]),
    ],
)
def test_rank_is_the_mean_position_of_equal_scores_divided_by_their_number(scores, ranks):
    assert rescale(scores, "rank").tolist() == ranks


def test_sigmoid_is_the_logistic_function_wherever_the_score_is():
    found = rescale(np.array([0.0, 1.0, -1.0, 30.0, -30.0, 800.0, -800.0]), "sigmoid")
    plain = [0.5, 1 / (1 + math.exp(-1)), 1 / (1 + math.e), 1 / (1 + math.exp(-30)), 1 / (1 + math.exp(30)), 1.0, 0.0]
    assert found == pytest.approx(plain, rel=1e-15)
    assert found[5:].tolist() == [1.0, 0.0]


def test_minmax_maps_the_lowest_score_to_0_and_the_highest_to_1():
    assert rescale(SCORES, "minmax").tolist() == [12 / 14, 0.0, 1.0, 12 / 14]


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([3.5, 3.5], r"minmax needs different scores, but all 2 are 3\.5; use rank, or mig_score: constant"),
        ([-1e308, 1e308], r"minmax cannot map scores from -1e\+308 to 1e\+308, .* not finite; use rank"),
    ],
)
def test_minmax_of_scores_that_it_cannot_map_is_an_error(scores, message):
    with pytest.raises(PoolError, match=f"^mig_score_scale: {message}"):
        rescale(np.array(scores), "minmax")


@pytest.mark.parametrize("scale", ["rank", "sigmoid", "minmax"])
def test_a_scale_keeps_the_order_and_is_never_negative(scale):
    scores = np.random.default_rng(0).normal(size=200)
    scaled = rescale(scores, scale)
    assert np.argsort(scaled, kind="stable").tolist() == np.argsort(scores, kind="stable").tolist()
    assert scaled.min() >= 0
    assert scaled.max() <= 1


def test_the_figures_are_those_of_the_scores_before_the_scale():
    figures = {"scale": "rank", "rows": 4, "lowest": -5.0, "mean": 4.5, "highest": 9.0}
    assert describe_scale(SCORES, "rank") == figures
