"""Budgets of tokens for methods that count rows."""

import numpy as np
import pytest

from mig_selector.arrays import Selection
from mig_selector.errors import ArgumentError
from mig_selector.selection.budgets import choose_for_budgets
from mig_selector.selection.method import Candidates, method
from mig_selector.selection.registry import load_method


RNG = np.random.default_rng(6)
TOKENS = RNG.integers(1, 40, 60)
SCORES = RNG.permutation(60).astype(float)


def choose(name, budget, fill="error", tokens=TOKENS, **options):
    candidates = Candidates(len(tokens), scores=SCORES[: len(tokens)], tokens=tokens)
    spent = []
    [selection], [filled] = choose_for_budgets(load_method(name), candidates, [budget], options, fill, spent.append)
    assert sum(spent) == tokens[selection.rows].sum() - (tokens[selection.rows[-filled:]].sum() if filled else 0)
    return selection.rows.tolist(), filled


def naive(order, budget, tokens=TOKENS):
    taken = []
    for row in order:
        if tokens[[*taken, row]].sum() <= budget:
            taken.append(row)
    return taken


@pytest.mark.parametrize("budget", [40, 300, 1_000])
def test_rows_that_no_longer_fit_are_passed_over(budget):
    assert choose("top_score", budget) == (naive(np.argsort(-SCORES).tolist(), budget), 0)


def test_random_takes_the_rows_of_a_draw_of_all_in_their_order():
    import random

    order = random.Random(7).sample(range(60), 60)
    assert choose("random", 400, seed=7) == (naive(order, 400), 0)


@method(needs={"scores"}, nested=True, may_fall_short=True)
def best_ten(pool, budget):
    rows = np.argsort(-pool.scores)[: min(budget, 10)]
    return Selection(rows, pool.scores[rows])


def test_a_method_without_enough_rows_is_an_error_or_filled_by_score():
    order = np.argsort(-SCORES).tolist()
    all_ten = int(TOKENS[order[:10]].sum())
    with pytest.raises(ArgumentError, match=rf"mig_num_tokens: {all_ten + 200} tokens .* chooses only 10 of 60 rows"):
        choose(best_ten, all_ten + 200)
    rows, filled = choose(best_ten, all_ten + 200, "top_score")
    assert rows == naive(order, all_ten + 200)
    assert filled == len(rows) - 10
    # One of its rows no longer fits: the budget is used up as far as the method can.
    rows, filled = choose(best_ten, all_ten - 1)
    assert (rows, filled) == (naive(order[:10], all_ten - 1), 0)


@method(needs={"scores"})
def every_other(pool, budget):
    """Another set of rows for each number of rows."""
    if budget > 25:
        raise ArgumentError("at most 25")
    return np.arange(budget) * 2 + budget % 2


@pytest.mark.parametrize("budget", [50, 200, 450, 5_000])
def test_a_method_that_depends_on_the_number_of_rows_is_asked_for_as_many_as_fit(budget):
    tokens = np.full(60, 10)
    rows, _ = choose(every_other, min(budget, 600), tokens=tokens)
    count = min(budget // 10, 25)
    assert rows == (np.arange(count) * 2 + count % 2).tolist()


@method(needs={"scores"})
def one_of_each_cluster(pool, budget):
    """As CaR, which takes no fewer rows than there are clusters."""
    if budget < 20:
        raise ArgumentError("at least 20")
    return np.arange(budget)


@pytest.mark.parametrize("count", [20, 23, 39, 45])
def test_a_method_that_takes_no_few_rows_is_asked_for_more(count):
    rows, _ = choose(one_of_each_cluster, 10 * count + 9, tokens=np.full(60, 10))
    assert rows == list(range(count))


def test_where_no_row_is_chosen_is_an_error():
    with pytest.raises(ArgumentError, match=r"mig_num_tokens: .* chooses none of the 60 rows within 199 tokens: none"):
        choose(one_of_each_cluster, 199, tokens=np.full(60, 10))


@method(needs={"scores"}, keeps_to_tokens=True)
def the_first_ten(pool, budget):
    return np.arange(10)


def test_a_method_that_spends_more_than_it_is_given_is_an_error():
    with pytest.raises(ArgumentError, match=r"mig_method: .*ten chose rows of 100 tokens, expected at most 99"):
        choose(the_first_ten, 99, tokens=np.full(60, 10))
