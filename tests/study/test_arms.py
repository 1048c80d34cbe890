"""Budgets, and draws by source."""

from types import SimpleNamespace

import numpy as np
import pytest

from mig_selector.arguments import parse_arguments
from mig_selector.errors import ArgumentError
from mig_selector.pipeline.lengths import RowTokens
from mig_selector.study.arms import Budget, draw_by_source, find_budget
from mig_selector.study.setup import Options


RNG = np.random.default_rng(0)
SOURCES = np.array([str(name) for name in RNG.choice(["a", "b", "c"], 300, p=[0.6, 0.3, 0.1])], np.object_)
SUPERVISED = RNG.integers(1, 60, 300)


def test_rows_are_drawn_in_the_proportions_of_the_sources():
    rows = draw_by_source(SOURCES, SUPERVISED, Budget(60, counts_tokens=False), seed=3)
    assert len(set(rows.tolist())) == 60
    assert rows.tolist() == sorted(rows.tolist())
    for source in "abc":
        share = 60 * SOURCES.tolist().count(source) / 300
        assert share - 1 < SOURCES[rows].tolist().count(source) < share + 3
    assert draw_by_source(SOURCES, SUPERVISED, Budget(60, counts_tokens=False), seed=4).tolist() != rows.tolist()


def test_tokens_are_drawn_in_the_proportions_of_the_sources():
    rows = draw_by_source(SOURCES, SUPERVISED, Budget(2_000, counts_tokens=True), seed=3)
    spent = int(SUPERVISED[rows].sum())
    assert spent <= 2_000
    assert np.delete(SUPERVISED, rows).min() > 2_000 - spent
    for source in "abc":
        share = 2_000 * SUPERVISED[np.isin(SOURCES, [source])].sum() / SUPERVISED.sum()
        assert abs(SUPERVISED[rows][np.isin(SOURCES[rows], [source])].sum() - share) < 120


@pytest.mark.parametrize(
    ("keys", "match", "expected"),
    [
        ({"mig_num_samples": 30}, "rows", Budget(30, counts_tokens=False)),
        ({"mig_num_samples": 0.1}, "rows", Budget(10, counts_tokens=False)),
        ({"mig_num_samples": 30}, "tokens", Budget(30 * 4, counts_tokens=True)),
        ({"mig_num_tokens": 500}, "tokens", Budget(500 * 4 // 10, counts_tokens=True)),
        ({"mig_num_tokens": 300, "mig_count_tokens": "supervised"}, "tokens", Budget(300, counts_tokens=True)),
    ],
)
def test_the_budget_is_the_supervised_tokens_of_a_random_choice(keys, match, expected):
    tokens = RowTokens(np.full(100, 10), np.full(100, 4))
    setup = SimpleNamespace(budget=parse_arguments(keys, training=True), options=Options(match=match))
    assert find_budget(setup, tokens, 100) == expected
    sample = RowTokens(np.full(10, 10), np.full(10, 4))
    assert find_budget(setup, sample, 100) == expected


@pytest.mark.parametrize(
    ("keys", "match", "message"),
    [
        ({"mig_num_samples": 101}, "tokens", "mig_num_samples: 101 are asked for, but the rows .* have 100"),
        ({"mig_num_tokens": "2K"}, "tokens", "mig_num_tokens: 2,000 are asked for, but the rows .* have 1,000"),
        ({"mig_num_tokens": 9}, "tokens", "mig_num_tokens: 9 are 4 supervised tokens, and the shortest .* has 5"),
    ],
)
def test_a_budget_that_no_arm_can_have_is_an_error(keys, match, message):
    tokens = RowTokens(np.full(100, 10), np.full(100, 5))
    setup = SimpleNamespace(budget=parse_arguments(keys, training=True), options=Options(match=match))
    with pytest.raises(ArgumentError, match=message):
        find_budget(setup, tokens, 100)
