"""Rows as vectors of length 1, and their cosines: exact ones, and how far those of a float32 product may be off.

A matrix product adds up in an order that depends on its shape and on the machine. So it only says which pairs need a
closer look; what is compared in the end is `cosines`, which depends on the two vectors alone.

Dimension letters: N rows of the pool, R rows looked at, D dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mig_selector.errors import EmbeddingError


_ROWS_AT_ONCE = 1024


def unit_rows(embeddings: NDArray[np.floating[Any]], rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Read the vectors of some rows and scale each to length 1.

    Args:
        embeddings: One vector a row, of any length above 0; may be mapped from a file. Shape (N, D).
        rows: Shape (R,).

    Returns:
        Shape (R, D). A row's vector does not depend on the others.

    Raises:
        EmbeddingError: A vector is zero, or holds NaN, infinity or numbers too large to square.
    """
    vectors = np.asarray(embeddings[rows], np.float64, order="C")
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = np.sqrt(np.sum(vectors * vectors, axis=1))
    faulty = np.flatnonzero(~((lengths > 0) & np.isfinite(lengths)))
    if len(faulty):
        raise EmbeddingError(
            f"the vector of row {rows[faulty[0]]} of the pool (counted from 0) has the length {lengths[faulty[0]]}; "
            "expected a finite one above 0. Put it right in the file of mig_row_embeddings or, without that key, "
            "choose another mig_row_embedding_model."
        )
    vectors /= lengths[:, None]
    return vectors


def unit_blocks(
    embeddings: NDArray[np.floating[Any]], rows: NDArray[np.int64]
) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Yield the unit vectors of many rows in blocks, and where in `rows` each block begins."""
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        yield start, unit_rows(embeddings, rows[start : start + _ROWS_AT_ONCE])


def cosines(units: NDArray[np.float64], unit: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the cosine of each of some unit vectors, shape (R, D), with one more, shape (D,). Shape (R,).

    Each is a float64 sum in an order that only D decides. From 1 - 2^-48 on it is 1: vectors of one direction have the
    cosine 1, not something that rounding leaves on either side of it.
    """
    values: NDArray[np.float64] = np.sum(units * unit, axis=1)
    values[values > 1 - 2.0**-48] = 1.0
    return values


def product_error(dimensions: int) -> float:
    """Bound the distance from a cosine to the same element of a float32 matrix product, in whatever order it adds.

    With u = 2^-24, rounding both vectors to float32 costs at most 2u, and the product D u (Higham, Accuracy and
    Stability of Numerical Algorithms, 2002, section 3.1; the absolute values of both vectors have a cosine, too, of at
    most 1). Twice (D + 8) u leaves room for the terms of second order and for a few roundings of the results.
    """
    return (dimensions + 8) * 2.0**-23
