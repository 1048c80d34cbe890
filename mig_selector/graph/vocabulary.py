"""Which labels count, and the rows' labels rewritten in them."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mig_selector.errors import PoolError


@dataclass(frozen=True)
class RowLabels:
    """Each row's labels, ascending and distinct, as positions in a sorted list of names. N rows, L labels."""

    names: list[str]
    """Labels that some row uses, sorted by code point. Length L."""
    offsets: NDArray[np.int64]
    """Where each row's labels begin in `ids`. Shape (N + 1,)."""
    ids: NDArray[np.int32]

    def of_row(self, row: int) -> list[str]:
        """Return the names of one row's labels, sorted."""
        return [self.names[label] for label in self.ids[self.offsets[row] : self.offsets[row + 1]]]


def read_vocabulary(path: Path) -> list[str]:
    """Read the labels that count from a JSON list of strings, or from a text file with one label a line.

    Args:
        path: A ``.json`` file is read as JSON, any other as UTF-8 text; blank lines are ignored.

    Returns:
        The labels in the order of the file.

    Raises:
        PoolError: The file cannot be read, or is no list of strings, or is empty.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        labels = json.loads(text) if path.suffix == ".json" else [line for line in text.splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise PoolError(f"mig_label_vocabulary: {path} cannot be read: {error}") from error
    if not isinstance(labels, list) or not labels or not all(isinstance(label, str) for label in labels):
        raise PoolError(f"mig_label_vocabulary: {path} must hold a list of labels (strings), and at least one.")
    return labels


def build_row_labels(
    names: Sequence[str],
    offsets: NDArray[np.int64],
    ids: NDArray[np.int32],
    *,
    vocabulary: Collection[str] | None,
    min_count: int,
) -> RowLabels:
    """Keep the labels that count, each once a row, and number them in sorted order.

    Args:
        names: Every label that a row names, in any order.
        offsets: Where each row's labels begin in `ids`. Shape (N + 1,).
        ids: Positions in `names`, as the rows name them, doubles included.
        vocabulary: The labels that count, or None for those that at least `min_count` rows name.
        min_count: Only used without a vocabulary; a row counts once.

    Returns:
        The rows' labels; a row may be left with none.
    """
    rows = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    keys = np.unique(rows * np.int64(max(len(names), 1)) + ids)
    rows, labels = np.divmod(keys, max(len(names), 1))
    counts = np.bincount(labels, minlength=len(names))
    if vocabulary is None:
        counts_in = counts >= min_count
    else:
        allowed = frozenset(vocabulary)
        counts_in = np.fromiter((name in allowed for name in names), np.bool_, len(names)) & (counts > 0)
    kept_names = sorted(name for name, keep in zip(names, counts_in, strict=True) if keep)
    position = {name: place for place, name in enumerate(kept_names)}
    renumber = np.fromiter((position.get(name, -1) for name in names), np.int32, len(names))
    labels = renumber[labels] if len(names) else labels.astype(np.int32)
    rows, labels = rows[labels >= 0], labels[labels >= 0]
    order = np.lexsort((labels, rows))
    new_offsets = np.concatenate((np.zeros(1, np.int64), np.cumsum(np.bincount(rows, minlength=len(offsets) - 1))))
    return RowLabels(kept_names, new_offsets.astype(np.int64), labels[order].astype(np.int32))
