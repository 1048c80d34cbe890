"""Equal rows (same labels, same score): they gain the same at every step, so all but the first can wait.

A search that looked at each of them would evaluate a thousand rows where the scores are constant and a thousand rows
share their labels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mig_selector.arrays import LabelledPool
from mig_selector.selection.compiling import compiled, inlined


_SAMPLED = 8
"""A sample of this many times the square root of N rows holds 32 pairs of equal rows for each further row that the
average row is equal to, however large N is."""
_PAIRS_WORTH_LINKING = 64
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_HALF_WORD = np.uint64(32)


def link_equal_rows(pool: LabelledPool, is_candidate: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Let every row wait for the equal one before it, if equal rows are frequent.

    Args:
        pool: N rows.
        is_candidate: Whether a row may be chosen next; cleared here for the rows that wait. Shape (N,).

    Returns:
        The next equal row of each row, -1 where there is none; shape (N,). Shape (0,) where equal rows are rare:
        then it costs more to find them than to look at each.
    """
    if not _equal_rows_are_frequent(pool):
        return np.empty(0, np.int64)
    following = np.full(len(pool), -1, np.int64)
    slots = 1024
    while not _link(*_arrays(pool), np.full(slots, -1, np.int64), following):
        slots *= 4
    is_candidate[following[following >= 0]] = False
    return following


def _equal_rows_are_frequent(pool: LabelledPool) -> bool:
    num_sampled = _SAMPLED * int(np.sqrt(len(pool)))
    sample = np.unique(np.random.default_rng(0).integers(0, len(pool), num_sampled))
    codes = np.empty(len(sample), np.uint64)
    _hash_rows(*_arrays(pool), sample, codes)
    return len(sample) - len(np.unique(codes)) >= _PAIRS_WORTH_LINKING


def _arrays(pool: LabelledPool) -> tuple[Any, ...]:
    return pool.labels.offsets, pool.labels.ids, pool.scores.view(np.uint64)


@inlined
def _hash_row(offsets: Any, labels: Any, scores: Any, row: Any) -> Any:
    """Hash labels and score (its bits); every step spreads high bits over low ones, as whole scores end in zeros."""
    code = scores[row]
    for place in range(offsets[row], offsets[row + 1]):
        code = (code ^ np.uint64(labels[place])) * _MULTIPLIER
        code ^= code >> _HALF_WORD
    code *= _MULTIPLIER
    return code ^ (code >> _HALF_WORD)


@compiled
def _hash_rows(offsets: Any, labels: Any, scores: Any, rows: Any, codes: Any) -> Any:
    for place in range(len(rows)):
        codes[place] = _hash_row(offsets, labels, scores, rows[place])


@inlined
def _are_equal(offsets: Any, labels: Any, scores: Any, left: Any, right: Any) -> Any:
    length = offsets[left + 1] - offsets[left]
    if scores[left] != scores[right] or offsets[right + 1] - offsets[right] != length:
        return False
    place = 0
    while place < length and labels[offsets[left] + place] == labels[offsets[right] + place]:
        place += 1
    return place == length


@compiled
def _link(offsets: Any, labels: Any, scores: Any, table: Any, following: Any) -> Any:
    """Write the next equal row of each row; return False when the hash table is too small.

    `table` holds the last row seen of each kind; its length is a power of two.
    """
    mask = np.uint64(len(table) - 1)
    kinds = 0
    for row in range(len(scores)):
        slot = _hash_row(offsets, labels, scores, row) & mask
        while table[slot] >= 0 and not _are_equal(offsets, labels, scores, table[slot], row):
            slot = (slot + np.uint64(1)) & mask
        if table[slot] >= 0:
            following[table[slot]] = row
        else:
            kinds += 1
            if 2 * kinds > len(table):
                return False
        table[slot] = row
    return True
