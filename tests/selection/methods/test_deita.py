"""DEITA's filter keeps what going through the rows one by one keeps, however the rows are cut into blocks."""

from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mig_selector.errors import EmbeddingError
from mig_selector.selection.method import Candidates
from mig_selector.selection.methods.deita import deita


MODULE = "mig_selector.selection.methods.deita"
BLOCKS = [(1, 1), (2, 1), (3, 2), (7, 3), (512, 8192)]
COMPONENTS = st.sampled_from([-2.0, -1.0, -0.5, 0.0, 0.1, 0.3, 1.0, 1.0001, 3.0])


def choose(vectors, scores, threshold, budget, on_progress=lambda kept: None):
    pool = Candidates(len(scores), scores=np.array(scores, np.float64), embeddings=np.asarray(vectors))
    return deita(pool, budget, deita_threshold=threshold, on_progress=on_progress)


def cosine(left, right):
    """The definition, in float64; 1 for vectors of one direction."""
    left, right = (np.array(vector, np.float64) for vector in (left, right))
    left, right = (vector / np.sqrt(np.sum(vector * vector)) for vector in (left, right))
    product = float(np.sum(left * right))
    return 1.0 if product > 1 - 2.0**-48 else product


def naive_filter(vectors, scores, threshold, budget):
    """Methods.md 5.4 one row after the other."""
    kept = []
    for row in sorted(range(len(scores)), key=lambda row: (-scores[row], row)):
        if len(kept) < budget and not any(cosine(vectors[row], vectors[other]) > threshold for other in kept):
            kept.append(row)
    return kept


@st.composite
def pools(draw):
    """Few directions, so that many cosines are equal or nearly so, and a threshold on or next to one of them."""
    dimensions = draw(st.integers(1, 9))
    vector = st.lists(COMPONENTS, min_size=dimensions, max_size=dimensions).filter(any)
    vectors = draw(st.lists(vector, min_size=1, max_size=25))
    scores = draw(st.lists(st.sampled_from([0.0, 1.0, 2.5]), min_size=len(vectors), max_size=len(vectors)))
    threshold = cosine(draw(st.sampled_from(vectors)), draw(st.sampled_from(vectors)))
    threshold = np.nextafter(threshold, draw(st.sampled_from([-2.0, threshold, 2.0])))
    return vectors, scores, float(threshold), draw(st.integers(1, len(vectors)))


@settings(max_examples=400, deadline=None)
@given(pools(), st.sampled_from(BLOCKS))
def test_the_filter_keeps_what_the_sequential_one_keeps(case, blocks):
    vectors, scores, threshold, budget = case
    with patch.multiple(MODULE, _CANDIDATES=blocks[0], _KEPT_AT_ONCE=blocks[1]):
        selection = choose(vectors, scores, threshold, budget)
    assert selection.rows.tolist() == naive_filter(vectors, scores, threshold, budget)
    assert selection.gains.tolist() == [scores[row] for row in selection.rows]


def draw_clusters(dtype=np.float32):
    """300 rows of 200 dimensions around 60 centres, with cosines of 0.8 to 0.97 within a cluster."""
    rng = np.random.default_rng(5)
    centres = rng.normal(size=(60, 200))
    noise = rng.uniform(0.2, 0.5, (300, 1)) * rng.normal(size=(300, 200))
    return (centres[rng.integers(0, 60, 300)] + noise).astype(dtype), rng.gamma(4.0, 3.0, 300)


@pytest.mark.parametrize("threshold", [-0.1, 0.0, 0.5, 0.85, 0.9, 0.95])
def test_the_filter_keeps_what_the_sequential_one_keeps_of_clusters(threshold):
    vectors, scores = draw_clusters()
    expected = naive_filter(vectors, scores, threshold, 100)
    for candidates, kept in BLOCKS:
        with patch.multiple(MODULE, _CANDIDATES=candidates, _KEPT_AT_ONCE=kept):
            assert choose(vectors, scores, threshold, 100).rows.tolist() == expected


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_vectors_may_be_mapped_from_a_file_of_any_precision(tmp_path, dtype):
    vectors, scores = draw_clusters(dtype)
    np.save(tmp_path / "vectors.npy", vectors)
    mapped = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    assert choose(mapped, scores, 0.9, 100).rows.tolist() == naive_filter(vectors, scores, 0.9, 100)


def test_a_row_on_the_threshold_is_kept_and_one_above_it_is_not():
    vectors = [[1, 0], [3, 4], [4, -3]]  # cosines with the first: 0.6 and 0.8
    assert choose(vectors, [3, 2, 1], 0.8, 3).rows.tolist() == [0, 1, 2]
    assert choose(vectors, [3, 2, 1], 0.6, 3).rows.tolist() == [0, 1]
    assert choose(vectors, [3, 2, 1], 0.59, 3).rows.tolist() == [0]


def test_a_row_that_resembles_only_a_dropped_row_is_kept():
    # Each is 30 degrees from the one before: cosine 0.87, and 0.5 with the one before that.
    vectors = [[np.cos(angle), np.sin(angle)] for angle in np.deg2rad([0, 30, 60, 90])]
    assert choose(vectors, [4, 3, 2, 1], 0.8, 4).rows.tolist() == [0, 2]


def test_equal_scores_go_in_the_order_of_the_pool():
    assert choose([[1, 0], [1, 0], [0, 1], [0, 1]], [1, 2, 2, 2], 0.9, 4).rows.tolist() == [1, 2]


def test_at_threshold_1_not_even_copies_resemble_each_other():
    vectors = np.repeat(np.random.default_rng(0).normal(size=(50, 3)), 4, axis=0)
    assert choose(vectors, np.ones(200), 1.0, 200).rows.tolist() == list(range(200))


def test_a_selection_begins_with_every_smaller_selection():
    vectors, scores = draw_clusters()
    whole = choose(vectors, scores, 0.9, 300).rows.tolist()
    assert 40 < len(whole) < 300
    assert [choose(vectors, scores, 0.9, budget).rows.tolist() for budget in (1, 17, 40)] == [
        whole[:1],
        whole[:17],
        whole[:40],
    ]


def test_progress_adds_up_to_the_rows_kept():
    vectors, scores = draw_clusters()
    made = []
    with patch(f"{MODULE}._CANDIDATES", 50):
        selection = choose(vectors, scores, 0.9, 300, made.append)
    assert len(made) == 6
    assert sum(made) == len(selection.rows)


class WatchedVectors:
    """Vectors too many for memory, which count how many are read at once."""

    def __init__(self, vectors):
        self.vectors, self.shape, self.most, self.read = vectors, vectors.shape, 0, set()

    def __getitem__(self, rows):
        self.most = max(self.most, len(rows))
        self.read.update(rows.tolist())
        return self.vectors[rows]


def test_no_more_vectors_are_read_than_are_looked_at():
    vectors, scores = draw_clusters()
    watched = WatchedVectors(vectors)
    with patch(f"{MODULE}._CANDIDATES", 16):
        pool = Candidates(300, scores=scores, embeddings=watched)
        kept = deita(pool, 20, deita_threshold=0.9, on_progress=lambda kept: None).rows
    looked_at = naive_filter(vectors, scores, 0.9, 20)[-1]
    place = np.argsort(-scores, kind="stable").tolist().index(looked_at)
    assert kept[-1] == looked_at
    assert watched.most <= 20
    assert len(watched.read) <= place + 16


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_a_vector_without_direction_is_an_error_that_names_the_row(value):
    vectors, scores = draw_clusters()
    vectors[123] = value
    with pytest.raises(EmbeddingError, match=r"kept row 123 \(0-based\) .* mig_row_embeddings"):
        choose(vectors, scores, 0.9, 300)
