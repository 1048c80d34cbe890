"""Label vectors for the key ``mig_label_embeddings``: nearly orthogonal, except for some pairs of near twins."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bench.pool.words import name_labels


DIMENSIONS = 384
_TWIN_SHARE = 0.13
"""Share of labels that are near twins of another label; over half of the pairs have a cosine above 0.9."""
_LEAST_COSINE, _GREATEST_COSINE = 0.82, 0.99
_STREAM_VECTORS = 41


def draw_vectors(seed: int, num_labels: int) -> NDArray[np.float16]:
    """Draw unit vectors; the cosines of twins are spread evenly, so that each edge threshold joins different pairs.

    Returns:
        Shape (num_labels, DIMENSIONS).
    """
    generator = np.random.default_rng([seed, _STREAM_VECTORS])
    vectors = _units(generator.normal(size=(num_labels, DIMENSIONS)))
    count = int(_TWIN_SHARE * num_labels)
    twins, originals = generator.permutation(num_labels)[: 2 * count].reshape(2, count)
    cosines = generator.uniform(_LEAST_COSINE, _GREATEST_COSINE, count)[:, None]
    beside = vectors[twins] - (vectors[twins] * vectors[originals]).sum(axis=1, keepdims=True) * vectors[originals]
    vectors[twins] = cosines * vectors[originals] + np.sqrt(1 - cosines**2) * _units(beside)
    return vectors.astype(np.float16)


def label_vectors(seed: int, num_labels: int) -> tuple[NDArray[np.str_], NDArray[np.float16]]:
    """Return the two arrays of a ``mig_label_embeddings`` file: the label names and their vectors."""
    return np.array(name_labels(seed, num_labels)), draw_vectors(seed, num_labels)


def _units(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
