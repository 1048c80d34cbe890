"""Labels in the plane: near by meaning, the same every time, whatever the vectors."""

import numpy as np
import pytest

from mig_selector.graph.layout import lay_out


def groups(seed=0, size=12):
    """Vectors around three directions, and the direction of each."""
    rng = np.random.default_rng(seed)
    centres = np.eye(3, 16)
    return np.concatenate([centre + 0.1 * rng.normal(size=(size, 16)) for centre in centres]), np.repeat(
        range(3), size
    )


@pytest.mark.parametrize("seed", range(5))
def test_labels_of_one_meaning_are_nearer_to_each_other_than_to_others(seed):
    vectors, group = groups(seed)
    positions = lay_out(vectors)
    distances = np.linalg.norm(positions[:, None] - positions, axis=2)
    same = group[:, None] == group
    assert distances[same].mean() < 0.7 * distances[~same].mean()


def test_the_same_vectors_have_the_same_positions_whatever_their_lengths():
    vectors, _ = groups()
    assert np.array_equal(lay_out(vectors), lay_out(vectors))
    assert np.allclose(lay_out(vectors), lay_out(7.0 * vectors.astype(np.float32)), atol=0.03)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 20])
@pytest.mark.parametrize("kind", ["random", "equal", "opposite"])
def test_any_number_of_any_vectors_has_finite_positions_in_the_unit_square(count, kind):
    vectors = np.random.default_rng(0).normal(size=(count, 5))
    vectors = {"random": vectors, "equal": np.ones((count, 5)), "opposite": np.ones((count, 5))}[kind]
    if kind == "opposite":
        vectors[::2] *= -1
    positions = lay_out(vectors)
    assert positions.shape == (count, 2)
    assert np.all((positions >= 0) & (positions <= 1))
