"""Random choice is Python's own sample: the same rows as anyone draws who knows the seed and the number of rows."""

import random

import pytest

from mig_selector.selection.method import Candidates
from mig_selector.selection.methods.random import random_rows


@pytest.mark.parametrize(("num_rows", "budget", "seed"), [(10, 3, 42), (1000, 37, 7), (5, 5, 0), (4, 0, 42)])
def test_rows_are_those_of_pythons_sample_in_the_order_of_the_draw(num_rows, budget, seed):
    expected = random.Random(seed).sample(range(num_rows), budget)
    assert random_rows(Candidates(num_rows), budget, seed=seed) == expected


def test_rows_drawn_with_the_papers_seed_are_known():
    assert random_rows(Candidates(1000), 5, seed=42) == [654, 114, 25, 759, 281]  # CPython's Mersenne twister


def test_every_row_may_be_drawn_and_none_twice():
    drawn = {row for seed in range(50) for row in random_rows(Candidates(6), 2, seed=seed)}
    assert drawn == set(range(6))
    assert sorted(random_rows(Candidates(6), 6, seed=1)) == list(range(6))


def test_a_budget_beyond_the_pool_is_refused():
    with pytest.raises(ValueError, match="larger than population"):
        random_rows(Candidates(3), 4, seed=42)


def test_nothing_need_be_known_of_the_rows():
    declaration = random_rows.declaration
    assert declaration.needs == frozenset()
    assert not declaration.is_nested
