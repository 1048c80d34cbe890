"""Unit vectors and cosines do not depend on what else is computed; float32 products stay within their error bound."""

import numpy as np
import pytest

from mig_selector.errors import EmbeddingError
from mig_selector.selection.unit_rows import cosines, product_error, unit_blocks, unit_rows


DIMENSIONS = [1, 2, 7, 64, 768, 1_000]


def draw(rows, dimensions, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, dimensions)).astype(dtype)


def test_vectors_are_scaled_to_length_1():
    embeddings = np.array([[3, -4], [0, 1e-30], [1e30, 0]], np.float32)
    assert unit_rows(embeddings, np.array([2, 0, 1])).tolist() == [[1, 0], [0.6, -0.8], [0, 1]]


@pytest.mark.parametrize("dimensions", DIMENSIONS)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
def test_a_vector_and_a_cosine_are_the_same_alone_and_among_others(dimensions, dtype):
    embeddings = np.asfortranarray(draw(37, dimensions, dtype))
    units = unit_rows(embeddings, np.arange(37))
    measured = cosines(units, units[5])
    for row in range(37):
        alone = unit_rows(embeddings, np.array([row]))
        assert alone[0].tolist() == units[row].tolist()
        assert cosines(alone, units[5])[0] == measured[row] == cosines(units[[5, 5, 5]], alone[0])[1]


def test_cosines_are_those_of_the_definition():
    embeddings = draw(20, 50, np.float64)
    units = unit_rows(embeddings, np.arange(20))
    lengths = np.linalg.norm(embeddings, axis=1)
    assert cosines(units, units[3]) == pytest.approx(embeddings @ embeddings[3] / lengths / lengths[3], abs=1e-15)


@pytest.mark.parametrize("dimensions", DIMENSIONS)
def test_vectors_of_one_direction_have_the_cosine_1(dimensions):
    embeddings = draw(500, dimensions, np.float64)
    units, scaled = unit_rows(embeddings, np.arange(500)), unit_rows(3.0 * embeddings, np.arange(500))
    assert {float(cosines(scaled[[row]], units[row])[0]) for row in range(500)} == {1.0}


def test_vectors_of_nearly_one_direction_have_a_smaller_cosine():
    units = unit_rows(np.array([[1.0, 0.0], [1.0, 2e-7]]), np.arange(2))
    assert cosines(units, units[0]).tolist() == [1.0, pytest.approx(1 - 2e-14, abs=1e-15)]


@pytest.mark.parametrize("dimensions", DIMENSIONS)
def test_float32_sums_in_any_order_stay_within_the_bound(dimensions):
    same_sign = np.abs(draw(40, dimensions)) ** 8 + np.float32(1e-3)  # rounding errors that do not cancel
    units = unit_rows(np.concatenate([same_sign, draw(40, dimensions)]), np.arange(80))
    rounded = units.astype(np.float32)
    exact = np.array([cosines(units, unit) for unit in units])
    one_by_one = np.zeros((80, 80), np.float32)
    for dimension in range(dimensions):
        one_by_one += rounded[:, [dimension]] * rounded[:, dimension]
    for product in (rounded @ rounded.T, one_by_one):
        assert np.abs(product.astype(np.float64) - exact).max() <= product_error(dimensions) / 2


def test_blocks_cover_all_rows_in_order(monkeypatch):
    monkeypatch.setattr("mig_selector.selection.unit_rows._BLOCK_ROWS", 3)
    rows = np.array([4, 0, 6, 1, 5, 2, 3])
    blocks = list(unit_blocks(draw(7, 4), rows))
    assert [start for start, _ in blocks] == [0, 3, 6]
    assert np.concatenate([units for _, units in blocks]).tolist() == unit_rows(draw(7, 4), rows).tolist()


@pytest.mark.parametrize(
    ("value", "length"), [(0.0, "0.0"), (np.nan, "nan"), (np.inf, "inf"), (-np.inf, "inf"), (1e200, "inf")]
)
def test_a_vector_without_direction_is_an_error_that_names_the_row(value, length):
    embeddings = draw(6, 3, np.float64)
    embeddings[4] = value
    expected = rf"vector of kept row 4 .0-based. has length {length}; .* mig_row_embeddings .* mig_row_embedding_model"
    with pytest.raises(EmbeddingError, match=expected):
        unit_rows(embeddings, np.array([5, 4, 0]))
