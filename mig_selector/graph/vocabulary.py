"""The labels that a selection uses, and the rows' labels renumbered accordingly."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mig_selector.arrays import RowLabels
from mig_selector.errors import PoolError


_SEPARATORS = (";", "|", ",")
_BLOCK_ROWS = 1 << 18
"""Rows rewritten at a time, so that temporary arrays stay small beside the pool."""


def read_vocabulary(path: Path) -> list[str]:
    """Read a label vocabulary: a JSON list of strings, or a text file with one label per line.

    Args:
        path: A ``.json`` file is read as JSON, any other file as UTF-8 text; blank lines are ignored.

    Returns:
        The labels in the order of the file.

    Raises:
        PoolError: The file cannot be read, or is not a list of strings, or is empty.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        labels = json.loads(text) if path.suffix == ".json" else [line for line in text.splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise PoolError(f"mig_label_vocabulary: {path} cannot be read: {error}") from error
    if not isinstance(labels, list) or not labels or not all(isinstance(label, str) for label in labels):
        raise PoolError(
            f"mig_label_vocabulary: {path}: expected at least one label, as a JSON list of strings (.json) or one per "
            f"line (any other file), found {text.strip()[:60]!r}."
        )
    return labels


def find_separator(named: RowLabels) -> str | None:
    """Return what seems to separate labels: no row has more than one text, and most texts contain it."""
    if not len(named) or named.counts.max() > 1:
        return None
    counts = {mark: sum(mark in name for name in named.names) for mark in _SEPARATORS}
    return next((mark for mark, count in counts.items() if 2 * count > len(named.names)), None)


def count_labels(named: RowLabels, *, vocabulary: Collection[str] | None, min_count: int) -> RowLabels:
    """Keep the labels of a vocabulary, or else the frequent ones; each once per row, numbered in sorted order.

    Args:
        named: The labels of N rows, in the order and with the repetitions of the rows.
        vocabulary: The labels to keep, or None to keep those that at least `min_count` rows have.
        min_count: Only used without a vocabulary; a row counts once.

    Returns:
        The labels kept that some row has: names sorted by code point, each row's ids ascending and distinct. A row may
        have none left.
    """
    names = named.names
    order = sorted(range(len(names)), key=names.__getitem__)
    rank = np.empty(len(names), np.int32)
    rank[order] = np.arange(len(names), dtype=np.int32)
    offsets, ids, counts = _distinct(named, rank)
    sorted_names = [names[label] for label in order]
    if vocabulary is None:
        is_kept = counts >= max(min_count, 1)
    else:
        allowed = frozenset(vocabulary)
        is_kept = np.fromiter((name in allowed for name in sorted_names), np.bool_, len(names)) & (counts > 0)
    kept_names = [name for name, keep in zip(sorted_names, is_kept.tolist(), strict=True) if keep]
    if len(kept_names) < len(names):
        offsets, ids = _keep(offsets, ids, is_kept)
    return RowLabels(kept_names, offsets, ids)


def _distinct(
    named: RowLabels, rank: NDArray[np.int32]
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int64]]:
    """Renumber labels by `rank`, sort them within each row, drop repetitions, and count the rows of each label.

    Returns:
        New offsets, shape (N + 1,); new ids; rows that have each label, by rank, shape (L,).
    """
    offsets, ids = named.offsets, named.ids
    num_rows, num_labels = len(named), len(rank)
    new_offsets = np.zeros(num_rows + 1, np.int64)
    new_ids = np.empty(len(ids), np.int32)
    counts = np.zeros(num_labels, np.int64)
    end = 0
    for start, stop in _blocks(num_rows):
        # One number per label of a row, row first: a single sort orders the labels within every row of the block.
        rows = np.repeat(np.arange(stop - start), np.diff(offsets[start : stop + 1]))
        keys = rows * np.int64(max(num_labels, 1)) + rank[ids[offsets[start] : offsets[stop]]]
        keys.sort()
        keys = keys[np.concatenate((keys[:1] >= 0, keys[1:] != keys[:-1]))]
        rows, labels = np.divmod(keys, max(num_labels, 1))
        new_ids[end : end + len(labels)] = labels
        new_offsets[start + 1 : stop + 1] = end + np.cumsum(np.bincount(rows, minlength=stop - start))
        counts += np.bincount(labels, minlength=num_labels)
        end += len(labels)
    return new_offsets, new_ids[:end], counts


def _keep(
    offsets: NDArray[np.int64], ids: NDArray[np.int32], is_kept: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Drop some labels and renumber the others without gaps; their order stays, so nothing needs sorting again."""
    new_id = np.cumsum(is_kept, dtype=np.int32) - np.int32(1)
    new_offsets = np.zeros(len(offsets), np.int64)
    new_ids = np.empty(len(ids), np.int32)
    end = 0
    for start, stop in _blocks(len(offsets) - 1):
        block = ids[offsets[start] : offsets[stop]]
        keep = is_kept[block]
        before = np.concatenate((np.zeros(1, np.int64), np.cumsum(keep)))
        new_ids[end : end + before[-1]] = new_id[block[keep]]
        new_offsets[start + 1 : stop + 1] = end + before[offsets[start + 1 : stop + 1] - offsets[start]]
        end += int(before[-1])
    return new_offsets, new_ids[:end]


def _blocks(num_rows: int) -> Iterator[tuple[int, int]]:
    """Yield where each block of rows starts and stops."""
    for start in range(0, num_rows, _BLOCK_ROWS):
        yield start, min(start + _BLOCK_ROWS, num_rows)
