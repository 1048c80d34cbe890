import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mig_selector.arrays import Adjacency
from mig_selector.errors import ArgumentError
from mig_selector.graph import label_graph
from mig_selector.graph.label_graph import build_adjacency, build_propagation


def dense(matrix):
    size = len(matrix.offsets) - 1
    full = np.zeros((size, size))
    for row in range(size):
        span = slice(matrix.offsets[row], matrix.offsets[row + 1])
        assert np.all(np.diff(matrix.columns[span]) > 0)
        full[row, matrix.columns[span]] = matrix.weights[span]
    return full


def test_labels_are_joined_at_the_threshold_and_above():
    # Cosines: 0-1 is 0.6 exactly, 0-2 is 0, 1-2 is 0.8.
    vectors = np.array([[2.0, 0.0], [3.0, 4.0], [0.0, 5.0]])
    joined = dense(build_adjacency(vectors, 0.6))
    assert joined == pytest.approx(np.array([[1, 0.6, 0], [0.6, 1, 0.8], [0, 0.8, 1]]))
    assert dense(build_adjacency(vectors, 0.7))[0, 1] == 0
    assert build_adjacency(vectors, 0.6).num_edges == 2


def test_the_diagonal_stays_whatever_the_threshold():
    vectors = np.random.default_rng(0).normal(size=(20, 7))  # cosines with themselves are 1 up to rounding
    assert np.all(np.diag(dense(build_adjacency(vectors, 1.0))) > 0.99)


def test_propagation_worked_by_hand():
    vectors = np.array([[2.0, 0.0], [3.0, 4.0], [0.0, 5.0]])
    spread = dense(build_propagation(build_adjacency(vectors, 0.6), 0.5))
    weights = np.array([[1, 0.3, 0], [0.3, 1, 0.4], [0, 0.4, 1]])
    assert spread == pytest.approx(weights / np.array([1.3, 1.7, 1.4]))  # every column by its own sum


def test_without_propagation_weight_information_stays_at_its_label():
    vectors = np.array([[1.0, 0.1], [1.0, 0.0]])
    assert dense(build_propagation(build_adjacency(vectors, 0.5), 0.0)) == pytest.approx(np.eye(2))


@pytest.mark.parametrize("block", [1, 4, 100])
def test_too_many_edges_are_refused_before_they_are_stored(monkeypatch, block):
    monkeypatch.setattr(label_graph, "_BLOCK_LABELS", block)
    monkeypatch.setattr(label_graph, "_MAX_PAIRS", 45)
    assert build_adjacency(np.ones((10, 2)), 0.9).num_edges == 45
    with pytest.raises(ArgumentError, match=r"mig_edge_threshold: at 0\.9 more than 45 pairs of the 11 labels"):
        build_adjacency(np.ones((11, 2)), 0.9)


def test_weights_that_add_up_to_infinity_are_refused():
    vectors = np.ones((3, 2))
    with pytest.raises(ArgumentError, match=r"mig_propagation_weight: 1e\+308 is so large .* mig_edge_threshold"):
        build_propagation(build_adjacency(vectors, 0.5), 1e308)


def test_an_entry_that_vanishes_takes_its_mirror_image_with_it():
    # Labels 0 and 1 are alike, 2 hardly like either: divided by the sum of column 1, its weight there is 0.
    adjacency = Adjacency(
        np.array([0, 2, 5, 7]), np.array([0, 1, 0, 1, 2, 1, 2], np.int32), np.array([1, 1, 1, 1, 5e-324, 5e-324, 1])
    )
    matrix = build_propagation(adjacency, 1.0)
    assert matrix.columns.tolist() == [0, 1, 0, 1, 2]
    assert matrix.offsets.tolist() == [0, 2, 4, 5]
    assert np.all(matrix.weights > 0)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.floats(0.05, 1.0), st.floats(0.0, 3.0), st.integers(0, 9999))
def test_matrices_equal_the_dense_formulas(size, threshold, alpha, seed):
    vectors = np.random.default_rng(seed).normal(size=(size, 4)).astype(np.float32)
    unit = vectors.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    cosines = unit @ unit.T
    expected = np.where((cosines >= threshold) | np.eye(size, dtype=bool), cosines, 0.0)
    adjacency = build_adjacency(vectors, threshold)
    assert dense(adjacency) == pytest.approx(expected, rel=1e-12)
    weighted = np.where(np.eye(size, dtype=bool), expected, expected * alpha)
    spread = dense(build_propagation(adjacency, alpha))
    assert spread == pytest.approx(weighted / weighted.sum(axis=0), rel=1e-12)


def test_blocks_give_what_one_product_gives(monkeypatch):
    vectors = np.random.default_rng(1).normal(size=(50, 3))
    whole = build_adjacency(vectors, 0.4)
    monkeypatch.setattr(label_graph, "_BLOCK_LABELS", 7)
    assert dense(build_adjacency(vectors, 0.4)) == pytest.approx(dense(whole), rel=1e-12)


@pytest.mark.parametrize("bad", [[0.0, 0.0], [np.nan, 1.0], [np.inf, 1.0]])
def test_vectors_without_a_direction_are_refused(bad):
    with pytest.raises(ValueError, match="vector 1 is zero or not finite"):
        build_adjacency(np.array([[1.0, 0.0], bad]), 0.9)
