"""QDIT's lazy search chooses what computing every row's gain at every step chooses, in the same order."""

import random
from fractions import Fraction
from math import isqrt
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mig_selector.errors import EmbeddingError
from mig_selector.selection.method import Candidates
from mig_selector.selection.methods.qdit import qdit


SIZES_OF = "mig_selector.selection.coverage"
ROOMY = {"_HELD_ELEMENTS": 2**25}
CRAMPED = {"_HELD_ELEMENTS": 0, "_PRODUCT_ELEMENTS": 1}  # forget at once what is known, look at 16 rows at a time
SCALES = ["none", "mean", "minmax"]
SIZES = st.sampled_from([-4, -1, 1, 2])


def choose(vectors, scores, budget, *, alpha, scale="none", sample=0, seed=0, on_progress=lambda count: None):
    pool = Candidates(len(scores), scores=np.array(scores, np.float64), embeddings=np.asarray(vectors))
    return qdit(
        pool,
        budget,
        qdit_alpha=alpha,
        qdit_scale=scale,
        qdit_sample=sample,
        seed=seed,
        on_progress=on_progress,
    )


def diversity(similarity, chosen, targets):
    """d(A): methods.md 7; 0 for no rows."""
    return sum(max(similarity[row][target] for row in chosen) for target in targets) if chosen else 0


def naive_gains(similarity, scores, chosen, *, alpha, scale, targets):
    """The gain of every row, d(A + row) - d(A) in whatever numbers the similarities are."""
    lowest, highest = min(scores), max(scores)
    if scale == "minmax":
        scores = [(score - lowest) / (highest - lowest) if highest > lowest else 0 for score in scores]
    share = (len(scores) if scale == "none" else 1) / len(targets)
    before = diversity(similarity, chosen, targets)
    rises = [diversity(similarity, [*chosen, row], targets) - before for row in range(len(scores))]
    return [(1 - alpha) * share * float(rise) + alpha * score for rise, score in zip(rises, scores, strict=True)]


def best_of(gains, chosen):
    return min((-gain, row) for row, gain in enumerate(gains) if row not in chosen)[1]


def exact_cosine(left, right):
    """Of whole numbers, whose lengths are whole, too."""
    lengths = [isqrt(sum(number * number for number in vector)) for vector in (left, right)]
    return Fraction(sum(a * b for a, b in zip(left, right, strict=True)), lengths[0] * lengths[1])


@st.composite
def tied_pools(draw):
    """Vectors along an axis, or with four components of one size: all cosines are multiples of 1/4, and many equal."""
    axis = st.builds(lambda place, size: [size * (place == other) for other in range(5)], st.integers(0, 4), SIZES)
    signs = st.lists(st.sampled_from([-1, 1]), min_size=4, max_size=4)
    four = st.builds(lambda numbers, gap: [*numbers[:gap], 0, *numbers[gap:]], signs, st.integers(0, 4))
    vectors = draw(st.lists(axis | four, min_size=1, max_size=10))
    scores = draw(st.lists(st.integers(-4, 8), min_size=len(vectors), max_size=len(vectors)))
    return vectors, scores, draw(st.integers(0, 4)) / 4, draw(st.integers(1, len(vectors)))


@settings(max_examples=200, deadline=None)
@given(tied_pools(), st.sampled_from([ROOMY, CRAMPED]))
def test_lazy_greedy_chooses_what_naive_greedy_chooses_and_of_equals_the_first(case, sizes):
    vectors, scores, alpha, budget = case
    similarity = [[exact_cosine(left, right) for right in vectors] for left in vectors]
    rows, gains = [], []
    for _ in range(budget):
        every = naive_gains(similarity, scores, rows, alpha=alpha, scale="none", targets=range(len(scores)))
        rows.append(best_of(every, rows))
        gains.append(every[rows[-1]])
    with patch.multiple(SIZES_OF, **sizes):
        selection = choose(vectors, scores, budget, alpha=alpha)
    assert selection.rows.tolist() == rows
    assert selection.gains.tolist() == gains


def nearly(vector, difference):
    """A vector about as far as that from another, if seen from the origin."""
    return [*vector[:-1], vector[-1] + difference * max(map(abs, vector))]


@st.composite
def any_pools(draw):
    dimensions = draw(st.integers(1, 6))
    component = st.floats(-2, 2, width=32).map(lambda number: number if abs(number) > 1e-3 else 0.0)
    vector = st.lists(component, min_size=dimensions, max_size=dimensions).filter(any)
    vectors = draw(st.lists(vector, min_size=1, max_size=9))
    copies = draw(st.lists(st.builds(nearly, st.sampled_from(vectors), st.sampled_from([0, 2**-10])), max_size=4))
    vectors = draw(st.permutations(vectors + copies))
    scores = draw(st.lists(st.floats(0, 36), min_size=len(vectors), max_size=len(vectors)))
    return vectors, scores, draw(st.integers(1, len(vectors)))


def cosines_of(vectors):
    units = np.array(vectors, np.float64)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    return units @ units.T


@settings(max_examples=150, deadline=None)
@given(any_pools(), st.floats(0, 1), st.sampled_from(SCALES), st.integers(0, 5), st.integers(0, 3))
def test_every_row_chosen_gains_most_up_to_rounding(case, alpha, scale, sample, seed):
    vectors, scores, budget = case
    everything = range(len(scores))
    targets = random.Random(seed).sample(everything, sample) if 0 < sample < len(scores) else everything
    selection = choose(vectors, scores, budget, alpha=alpha, scale=scale, sample=sample, seed=seed)
    chosen, similarity = [], cosines_of(vectors)
    for row, gain in zip(selection.rows.tolist(), selection.gains.tolist(), strict=True):
        every = naive_gains(similarity, scores, chosen, alpha=alpha, scale=scale, targets=targets)
        assert row not in chosen
        assert gain == pytest.approx(every[row], rel=1e-12, abs=1e-12)
        assert gain >= every[best_of(every, chosen)] - 1e-12 * max(1, abs(gain))
        chosen.append(row)


@settings(max_examples=100, deadline=None)
@given(any_pools(), st.sampled_from([0.0, 0.3, 0.99]), st.sampled_from([ROOMY, CRAMPED]))
def test_after_the_first_row_gains_are_those_of_exact_sums(case, alpha, sizes):
    vectors, scores, budget = case
    similarity = [[Fraction(float(cosine)) for cosine in line] for line in defined_cosines(vectors)]
    with patch.multiple(SIZES_OF, **sizes):
        selection = choose(vectors, scores, budget, alpha=alpha)
    rows = selection.rows[:1].tolist()
    for gain in selection.gains[1:].tolist():
        every = naive_gains(similarity, scores, rows, alpha=alpha, scale="none", targets=range(len(scores)))
        rows.append(best_of(every, rows))
        assert gain == every[rows[-1]]
    assert selection.rows.tolist() == rows


def defined_cosines(vectors):
    """The definition: a float64 sum over the components of each pair; 1 for vectors of one direction."""
    units = [np.array(vector) / np.sqrt(np.sum(np.array(vector) ** 2)) for vector in vectors]
    products = np.array([[np.sum(left * right) for right in units] for left in units])
    return np.where(products > 1 - 2.0**-48, 1.0, products)


def draw_topics(dtype=np.float32):
    """400 rows of 96 dimensions around 25 topics of unequal size, each tenth row a copy of an earlier one."""
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(25, 96))[np.minimum(rng.geometric(0.1, 400) - 1, 24)] + rng.normal(size=(400, 96))
    vectors[10::10] = vectors[[rng.integers(0, row) for row in range(10, 400, 10)]]
    return (vectors + 0.3).astype(dtype), rng.gamma(4.0, 3.0, 400)


def naive_rows(vectors, scores, budget, alpha):
    """Naive greedy for many rows: numpy, d(A + row) from the similarities at every step; copies gain the same."""
    similarity = cosines_of(vectors)
    gains, rows = (1 - alpha) * similarity.sum(axis=1) + alpha * scores, []
    while len(rows) < budget:
        rows.append(int(np.flatnonzero(gains > gains.max() - 1e-11)[0]))
        before = similarity[rows].max(axis=0)
        gains = (1 - alpha) * (np.maximum(similarity, before).sum(axis=1) - before.sum()) + alpha * scores
        gains[rows] = -np.inf
    return rows


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.7, 0.95, 1.0])
def test_lazy_greedy_chooses_what_naive_greedy_chooses_of_topics(alpha):
    vectors, scores = draw_topics()
    assert choose(vectors, scores, 120, alpha=alpha).rows.tolist() == naive_rows(vectors, scores, 120, alpha)


@pytest.mark.parametrize("alpha", [0.0, 0.7, 1.0])
def test_what_is_forgotten_and_how_many_rows_are_looked_at_changes_nothing(alpha):
    vectors, scores = draw_topics()
    expected = choose(vectors, scores, 60, alpha=alpha)
    with patch.multiple(SIZES_OF, **CRAMPED):
        selection = choose(vectors, scores, 60, alpha=alpha)
    assert selection.rows.tolist() == expected.rows.tolist()
    assert selection.gains.tolist() == expected.gains.tolist()


@pytest.mark.parametrize("sizes", [ROOMY, CRAMPED])
def test_rows_of_equal_vectors_and_scores_are_chosen_in_the_order_of_the_pool(sizes):
    rng = np.random.default_rng(8)
    kinds = rng.integers(0, 30, 300)
    vectors = rng.normal(size=(30, 50))[kinds]
    with patch.multiple(SIZES_OF, **sizes):
        rows = choose(vectors, 5.0 + kinds, 300, alpha=0.5).rows
    for kind in range(30):
        chosen = rows[kinds[rows] == kind]
        assert chosen.tolist() == sorted(chosen)


def test_a_copy_of_a_chosen_row_adds_nothing_but_its_quality():
    vectors = np.repeat(np.random.default_rng(1).normal(size=(3, 40)), 2, axis=0)
    selection = choose(vectors, np.zeros(6), 6, alpha=0.25)
    assert sorted(selection.rows[:3] % 2) == [0, 0, 0]
    assert selection.rows[3:].tolist() == [1, 3, 5]
    assert selection.gains[3:].tolist() == [0.0, 0.0, 0.0]


def test_choices_worked_by_hand():
    # Sums of cosines: 0.6 + 1 + 0.8 = 2.4 for row 1, 1.6 for 0, 1.8 for 2. Then m = (0.6, 1, 0.8): row 0 adds 0.4,
    # row 2 adds 0.2. Half of each, and half of the quality.
    selection = choose([[1, 0], [3, 4], [0, 1]], [0.0, 0.0, 0.1], 3, alpha=0.5)
    assert selection.rows.tolist() == [1, 0, 2]
    assert selection.gains == pytest.approx([1.2, 0.2, 0.15], rel=1e-12)


@pytest.mark.parametrize(
    ("scale", "rows", "gains"),
    [  # Rows 0 and 2 are copies, and 1 and 3: the first of a pair adds 2 to d, the second 0.
        ("none", [1, 0, 3, 2], [0.5 * 2 + 0.5 * 6, 0.5 * 2 + 0.5 * 2, 0.5 * 3, 0.5 * 2]),
        ("mean", [1, 3, 0, 2], [0.5 * 2 / 4 + 0.5 * 6, 0.5 * 3, 0.5 * 2 / 4 + 0.5 * 2, 0.5 * 2]),
        ("minmax", [1, 0, 3, 2], [0.5 * 2 / 4 + 0.5, 0.5 * 2 / 4, 0.5 * 0.25, 0.0]),
    ],
)
def test_scales_worked_by_hand(scale, rows, gains):
    selection = choose([[1, 0], [0, 1], [1, 0], [0, 1]], [2.0, 6.0, 2.0, 3.0], 4, alpha=0.5, scale=scale)
    assert selection.rows.tolist() == rows
    assert selection.gains.tolist() == gains


def counting(alpha, times):
    """The alpha with which quality counts so many times as much."""
    return times * alpha / (times * alpha + 1 - alpha)


def test_mean_and_minmax_make_quality_count_more():
    vectors, scores = draw_topics()
    spread = float(scores.max() - scores.min())
    assert 1 < spread < 400
    for scale, times in (("mean", 400), ("minmax", 400 / spread)):
        rows = choose(vectors, scores, 80, alpha=0.02, scale=scale).rows.tolist()
        assert rows == choose(vectors, scores, 80, alpha=counting(0.02, times)).rows.tolist()
        assert rows != choose(vectors, scores, 80, alpha=0.02).rows.tolist()


def test_equal_scores_count_nothing_as_minmax():
    selection = choose([[1, 0], [0, 1], [0, 1]], [7.0, 7.0, 7.0], 2, alpha=0.5, scale="minmax")
    assert selection.rows.tolist() == [1, 0]
    assert selection.gains == pytest.approx([0.5 * 2 / 3, 0.5 * 1 / 3])


def test_a_row_that_was_not_looked_at_yet_is_not_passed_over():
    # After row 0, rows 1 to 16 have the highest bounds, and the best of them is worth 0.5 * 3 + 0.5 * 6 = 4.5.
    # Row 17 is worth 0.5 * 10, nearly all that is left to cover.
    vectors = np.eye(3)[[0] + 3 * [2] + 13 * [0] + 10 * [1]]
    with patch.multiple(SIZES_OF, **CRAMPED):
        selection = choose(vectors, [100] + 16 * [6] + 10 * [0], 3, alpha=0.5)
    assert selection.rows.tolist() == [0, 17, 1]
    assert selection.gains.tolist() == [0.5 * 14 + 50, 5.0, 4.5]


def test_the_first_row_counts_its_negative_cosines():
    # Clipped at 0, row 1 would be first: it has two rows beside it, but as many against it.
    vectors = [[0, 1], [1, 0], [1, 0], [-1, 0], [-1, 0]]
    selection = choose(vectors, np.zeros(5), 1, alpha=0.0)
    assert (selection.rows.tolist(), selection.gains.tolist()) == ([0], [1.0])


def test_a_sample_of_all_rows_or_more_is_no_sample():
    vectors, scores = draw_topics()
    expected = choose(vectors, scores, 50, alpha=0.5).rows.tolist()
    assert choose(vectors, scores, 50, alpha=0.5, sample=400).rows.tolist() == expected
    assert choose(vectors, scores, 50, alpha=0.5, sample=10_000).rows.tolist() == expected


def test_a_sample_is_drawn_by_the_seed():
    vectors, scores = draw_topics()
    first, again, other = (choose(vectors, scores, 50, alpha=0.2, sample=40, seed=seed) for seed in (1, 1, 2))
    assert first.rows.tolist() == again.rows.tolist() != other.rows.tolist()


def test_a_selection_begins_with_every_smaller_selection():
    vectors, scores = draw_topics()
    whole = choose(vectors, scores, 400, alpha=0.5).rows
    assert sorted(whole) == list(range(400))
    for budget in (1, 2, 77):
        assert choose(vectors, scores, budget, alpha=0.5).rows.tolist() == whole[:budget].tolist()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_vectors_may_be_mapped_from_a_file_of_any_precision(tmp_path, dtype):
    vectors, scores = draw_topics(dtype)
    np.save(tmp_path / "vectors.npy", vectors)
    mapped = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    assert choose(mapped, scores, 60, alpha=0.5).rows.tolist() == naive_rows(vectors, scores, 60, 0.5)


def test_every_choice_is_reported():
    vectors, scores = draw_topics()
    made = []
    choose(vectors, scores, 30, alpha=0.5, on_progress=made.append)
    assert made == [1] * 30


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_a_vector_without_direction_is_an_error_that_names_the_row(value):
    vectors, scores = draw_topics()
    vectors[321] = value
    with pytest.raises(EmbeddingError, match=r"kept row 321 \(0-based\) .* mig_row_embeddings"):
        choose(vectors, scores, 5, alpha=0.5, sample=20)
