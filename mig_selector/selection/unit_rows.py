"""Rows as vectors of length 1, their cosines, and the error of a cosine taken from a float32 matrix product.

A matrix product adds in an order that depends on its shape and on the machine. So a product only narrows down which
pairs need an exact cosine; what decides in the end comes from `cosines`, which depends on the two vectors alone.

Dimension letters: N rows of the pool, R of them at a time, D dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mig_selector.errors import EmbeddingError


_BLOCK_ROWS = 1024


def unit_rows(embeddings: NDArray[np.floating[Any]], rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Read the vectors of some rows and scale each to length 1.

    Args:
        embeddings: One vector a row, of any length above 0; may be mapped from a file. Shape (N, D).
        rows: Indices of rows, in any order. Shape (R,).

    Returns:
        Shape (R, D). Every vector is the same, to the last bit, whatever rows are read with it.

    Raises:
        EmbeddingError: A vector is zero, or holds NaN, infinity or numbers too large to square.
    """
    # In C order each sum runs over a contiguous row. In Fortran order numpy would add in another sequence.
    vectors = np.asarray(embeddings[rows], np.float64, order="C")
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = np.sqrt(np.sum(vectors * vectors, axis=1))
    faulty = np.flatnonzero(~((lengths > 0) & np.isfinite(lengths)))
    if len(faulty):
        raise EmbeddingError(
            f"the vector of kept row {rows[faulty[0]]} (0-based) has length {lengths[faulty[0]]}; expected a finite "
            "length above 0. Fix it in the file that mig_row_embeddings names or, if that key is not set, choose "
            "another mig_row_embedding_model."
        )
    vectors /= lengths[:, None]
    return vectors


def unit_blocks(
    embeddings: NDArray[np.floating[Any]], rows: NDArray[np.int64]
) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Yield the unit vectors of many rows in blocks, each with the index in `rows` at which it begins."""
    for start in range(0, len(rows), _BLOCK_ROWS):
        yield start, unit_rows(embeddings, rows[start : start + _BLOCK_ROWS])


def cosines(units: NDArray[np.float64], unit: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the cosine of each of some unit vectors, shape (R, D), with one other, shape (D,).

    Returns:
        Each is a float64 sum in an order that depends on D alone. A sum above 1 - 2^-48 becomes 1, so that vectors of
        the same direction have cosine 1, and not a value that rounding puts slightly above or below. Shape (R,).
    """
    values: NDArray[np.float64] = np.sum(units * unit, axis=1)
    values[values > 1 - 2.0**-48] = 1.0
    return values


def product_error(dimensions: int) -> float:
    """Bound how far an element of a float32 matrix product is from the cosine, in whatever order the product adds.

    With u = 2^-24, rounding both vectors to float32 costs at most 2u, and the product at most D u (Higham, Accuracy
    and Stability of Numerical Algorithms, 2002, section 3.1; that bound is times the product of the absolute values,
    which is a cosine as well and so at most 1). Twice (D + 8) u leaves room for second-order terms and for a few
    roundings of the results.
    """
    return (dimensions + 8) * 2.0**-23
