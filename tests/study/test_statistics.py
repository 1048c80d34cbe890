"""Intervals and verdicts: against scipy, by hand, and on arms that are equal or not."""

import numpy as np
import pytest
from scipy import stats

from mig_selector.study import statistics
from mig_selector.study.statistics import ERROR_RATE, compare, macro_average


SOURCES = np.repeat([0, 1, 2], [12, 18, 30])


def arm(seed, runs, shift=0.0, noise=0.004):
    """Losses of some runs on 60 answers that are common to all arms."""
    answers = np.random.default_rng(0).normal(2, 0.6, 60)
    rng = np.random.default_rng(seed)
    return answers + shift + rng.normal(0, noise, (runs, 1)) + rng.normal(0, 0.03, (runs, 60))


def test_a_macro_average_weighs_sources_and_not_answers():
    losses = np.array([[1.0, 3.0, 5.0, 5.0, 5.0, 5.0]])
    assert macro_average(losses, np.array([4, 4, 9, 9, 9, 9])).tolist() == [(2 + 5) / 2]


def test_the_difference_is_that_of_the_macro_averages():
    method, random = arm(1, 3), arm(2, 5)
    effect = compare(method, random, SOURCES, error_rate=ERROR_RATE)
    starts, ends = [0, 12, 30], [12, 30, 60]
    expected = np.mean(
        [method[:, start:end].mean() - random[:, start:end].mean() for start, end in zip(starts, ends, strict=True)]
    )
    assert effect.difference == pytest.approx(expected)
    assert effect.low < effect.difference < effect.high
    assert effect.high - effect.difference == pytest.approx(effect.difference - effect.low)


def test_without_noise_between_runs_the_spread_is_that_of_scipy_s_bootstrap():
    one = np.ones(60, np.int64)
    method, random = arm(1, 1), np.repeat(arm(2, 1), 5, axis=0)
    effect = compare(method, random, one, error_rate=ERROR_RATE)
    differences = method[0] - random[0]
    found = stats.bootstrap((differences,), np.mean, n_resamples=5_000, method="basic", rng=np.random.default_rng(3))
    # scipy draws as many as there are, which is too little by this factor.
    expected = found.standard_error * np.sqrt(60 / 59)
    assert (effect.high - effect.low) / 2 == pytest.approx(1.96 * expected, rel=0.04)
    assert effect.smallest == pytest.approx((1.96 + 0.8416) * expected, rel=0.04)


def test_without_noise_between_answers_the_interval_is_that_of_welch():
    method, random = np.full((3, 60), 2.0), np.full((5, 60), 2.0)
    method += np.array([[0.01], [0.0], [-0.01]])
    random += np.array([[0.02], [0.0], [0.01], [-0.02], [-0.01]])
    effect = compare(method, random, SOURCES, error_rate=ERROR_RATE)
    welch = stats.ttest_ind(method[:, 0], random[:, 0], equal_var=False).confidence_interval(1 - ERROR_RATE)
    assert (effect.low, effect.high) == (pytest.approx(welch.low, rel=0.05), pytest.approx(welch.high, rel=0.05))


@pytest.mark.parametrize("runs", [1, 2])
def test_a_spread_that_is_taken_from_random_is_one_estimate_for_both_arms(runs):
    random = np.full((5, 60), 2.0) + np.array([[0.02], [0.0], [0.01], [-0.02], [-0.01]])
    effect = compare(np.full((runs, 60), 2.0), random, SOURCES, error_rate=ERROR_RATE)
    spread = np.sqrt(random[:, 0].var(ddof=1) * (1 / runs + 1 / 5))
    assert effect.high - effect.difference == pytest.approx(stats.t.ppf(1 - ERROR_RATE / 2, 4) * spread, rel=0.03)


def test_a_method_trained_once_or_twice_is_taken_to_vary_as_random_does():
    random = arm(2, 5, noise=0.02)
    once, untrained = (compare(arm(1, 1), random, SOURCES, error_rate=0.05, is_trained=kind) for kind in (True, False))
    twice = compare(arm(1, 2), random, SOURCES, error_rate=0.05)
    thrice = compare(arm(1, 3, noise=0.02), random, SOURCES, error_rate=0.05)
    assert once.high - once.low > twice.high - twice.low > untrained.high - untrained.low
    assert once.high - once.low > thrice.high - thrice.low > untrained.high - untrained.low > 0


@pytest.mark.parametrize("runs", [1, 2, 3])
def test_equal_arms_are_called_equal(runs):
    verdicts = [
        compare(arm(100 + seed, runs), arm(200 + seed, 5), SOURCES, error_rate=ERROR_RATE).verdict
        for seed in range(20)
    ]
    assert verdicts.count("no difference seen") >= 18


@pytest.mark.parametrize(("shift", "verdict"), [(-0.05, "better"), (0.05, "worse")])
def test_a_planted_effect_is_found(shift, verdict):
    for seed in range(5):
        effect = compare(arm(100 + seed, 3, shift), arm(200 + seed, 5), SOURCES, error_rate=0.01)
        assert effect.verdict == verdict
        assert effect.smallest < 0.05


def test_an_effect_on_one_source_counts_as_one_of_three():
    method, random = arm(1, 3), arm(2, 5)
    before = compare(method, random, SOURCES, error_rate=0.05).difference
    method[:, SOURCES == 0] -= 0.3
    assert compare(method, random, SOURCES, error_rate=0.05).difference == pytest.approx(before - 0.1)


def test_the_same_losses_give_the_same_interval():
    first, again = (compare(arm(1, 3), arm(2, 5), SOURCES, error_rate=0.05) for _ in range(2))
    assert first == again


def test_answers_are_drawn_in_blocks_that_change_nothing(monkeypatch):
    whole = compare(arm(1, 3), arm(2, 5), SOURCES, error_rate=0.05)
    monkeypatch.setattr(statistics, "_DRAWS_AT_ONCE", 10_000)
    assert vars(compare(arm(1, 3), arm(2, 5), SOURCES, error_rate=0.05)) == pytest.approx(vars(whole))


def test_too_few_runs_or_answers_are_refused():
    with pytest.raises(ValueError, match="at least two runs on random rows, got 1"):
        compare(arm(1, 3), arm(2, 1), SOURCES, error_rate=0.05)
    with pytest.raises(ValueError, match="at least two answers of each source"):
        compare(arm(1, 3)[:, :3], arm(2, 5)[:, :3], np.array([0, 0, 1]), error_rate=0.05)
