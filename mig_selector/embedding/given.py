"""Label vectors that the user computed elsewhere (``mig_label_embeddings``)."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mig_selector.errors import EmbeddingError


def read_given_vectors(path: Path, labels: Sequence[str]) -> NDArray[np.float64]:
    """Read the vectors of `labels` from an .npz file.

    Args:
        path: Holds `labels`, a unicode array of shape (M,), and `embeddings`, floats of shape (M, D).
        labels: The L labels in use; others in the file are ignored.

    Returns:
        One vector per label, in the order of `labels`. Shape (L, D).

    Raises:
        EmbeddingError: The file does not hold these arrays, has a label twice, lacks labels, or has a vector that is
            zero or not finite.
    """
    where = f"mig_label_embeddings: {path}"
    if not zipfile.is_zipfile(path):
        raise EmbeddingError(
            f"{where} is not an .npz file; write one with numpy.savez(path, labels=labels, embeddings=vectors)."
        )
    found: list[str] = []
    try:
        with np.load(path, allow_pickle=False) as file:
            found = file.files
            known, vectors = file["labels"], file["embeddings"]
    except KeyError as error:
        raise EmbeddingError(f"{where} must hold the arrays 'labels' and 'embeddings', got {found}.") from error
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise EmbeddingError(f"{where} cannot be read as an .npz file without pickle ({error}).") from error
    _check_label_vectors(where, known, vectors)
    row_of = {label: row for row, label in enumerate(known.tolist())}
    missing = [label for label in labels if label not in row_of]
    if missing:
        raise EmbeddingError(
            f"{where} lacks {len(missing)} of the {len(labels)} labels in use: "
            f"{', '.join(repr(label[:60]) for label in missing[:5])}{', ...' if len(missing) > 5 else ''}. "
            "Add their vectors, or leave these labels out with mig_label_vocabulary."
        )
    return np.asarray(vectors[[row_of[label] for label in labels]], np.float64)


def _check_label_vectors(where: str, known: NDArray[np.str_], vectors: NDArray[np.floating]) -> None:
    """Raise an EmbeddingError unless the arrays have the right types and shapes and every vector can be normalised."""
    if known.dtype.kind != "U" or known.ndim != 1:
        raise EmbeddingError(
            f"{where}: 'labels' must be a unicode array of shape (L,), got {known.dtype} {known.shape}."
        )
    if vectors.dtype.kind != "f" or vectors.ndim != 2 or len(vectors) != len(known):
        raise EmbeddingError(
            f"{where}: 'embeddings' must be floats of shape ({len(known)}, D), got {vectors.dtype} {vectors.shape}."
        )
    names, counts = np.unique(known, return_counts=True)
    if len(names) != len(known):
        raise EmbeddingError(f"{where}: the label {str(names[counts > 1][0])!r} occurs more than once.")
    # In float64 and on the squared length, which is what normalisation divides by: a finite vector whose square
    # overflows, or vanishes, cannot be normalised either.
    wide = np.asarray(vectors, np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.sum(wide * wide, axis=1)
    is_bad = ~np.isfinite(squares) | (squares == 0)
    if is_bad.any():
        raise EmbeddingError(
            f"{where}: {int(is_bad.sum())} vectors are zero or not finite, the first for the label "
            f"{str(known[is_bad][0])!r}."
        )
