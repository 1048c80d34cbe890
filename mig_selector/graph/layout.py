"""Labels in the plane: those of similar meaning near each other.

Dimension letters: M labels, D dimensions of a label's vector.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


_NEIGHBOURS = 6
_FAINT_LINK = 1e-3
"""Weight between labels that are not neighbours, so that no group of labels is cut off from the others."""


def lay_out(vectors: NDArray[np.floating]) -> NDArray[np.float64]:
    """Place labels by their vectors: a spectral layout (Laplacian eigenmaps), spread evenly along both axes.

    Each label is linked to its nearest neighbours; the two smoothest non-constant functions on that graph are the
    axes. Of what a plane can show of vectors in hundreds of dimensions, this keeps about twice as many neighbours
    together as the principal components do, and takes milliseconds for some hundred labels. The same vectors give the
    same positions.

    Args:
        vectors: One vector a label, of any length above 0. Shape (M, D).

    Returns:
        Positions in [0, 1]. Shape (M, 2).

    Source: Belkin and Niyogi, "Laplacian eigenmaps for dimensionality reduction and data representation", 2003.
    """
    num_labels = len(vectors)
    if num_labels < 3:
        return np.linspace((0.25, 0.5), (0.75, 0.5), num_labels)
    wide = np.asarray(vectors, np.float64)
    unit = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -np.inf)
    nearest = np.argsort(-cosines, axis=1, kind="stable")[:, : min(_NEIGHBOURS, num_labels - 1)]
    links = np.full((num_labels, num_labels), _FAINT_LINK)
    np.put_along_axis(links, nearest, np.maximum(np.take_along_axis(cosines, nearest, 1), _FAINT_LINK), 1)
    links = np.maximum(links, links.T)
    degrees = np.sqrt(links.sum(axis=1))
    _, functions = np.linalg.eigh(links / np.outer(degrees, degrees))  # eigenvalues ascend; the last is constant
    axes = functions[:, [-2, -3]] / degrees[:, None]
    axes *= np.sign(axes[np.argmax(np.abs(axes), axis=0), [0, 1]])  # the sign of an eigenvector is arbitrary
    ranks = np.argsort(np.argsort(axes.round(9), axis=0, kind="stable"), axis=0)
    return ranks / (num_labels - 1)
