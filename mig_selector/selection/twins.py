"""Equal rows (same labels, same score): they gain the same at every step, so all but the first can wait.

Without this, where scores are constant and a thousand rows share their labels, the search would evaluate all of these
rows before each pick. Rows that share their labels alone must not wait: gains of different scores may round to the
same number, and then the smallest row wins whatever its score.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mig_selector.arrays import LabelledPool
from mig_selector.selection.compiling import compiled, inlined


_SAMPLED = 8
"""The sample has this many times the square root of N rows. If the average row equals d others, about 32 d pairs of
the sample are equal, whatever N is: the number of pairs in the sample grows with N as fast as their probability
falls."""
_PAIRS_WORTH_LINKING = 64
_FIRST_SLOTS = 1024
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
"""2^64 divided by the golden ratio (Fibonacci hashing)."""
_HALF_WORD = np.uint64(32)


def link_equal_rows(pool: LabelledPool, is_candidate: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Let every row wait for the equal row before it, if equal rows are frequent.

    Args:
        pool: N rows.
        is_candidate: Whether a row may be chosen next; cleared here for the rows that wait. Shape (N,).

    Returns:
        The next equal row of each row, -1 if there is none; shape (N,). Shape (0,) if equal rows are rare: then
        finding them costs more than evaluating each.
    """
    if not _equal_rows_are_frequent(pool):
        return np.empty(0, np.int64)
    following = np.full(len(pool), -1, np.int64)
    slots = _FIRST_SLOTS
    # How many kinds of rows there are is not known, and a small table stays in the processor's cache: begin small, and
    # start over when the table fills up. The links that a failed attempt wrote are correct, and are written again.
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
    """Return offsets, label ids and the bits of the scores: equal scores must be equal to the last bit."""
    return pool.labels.offsets, pool.labels.ids, pool.scores.view(np.uint64)


@inlined
def _hash_row(offsets: Any, ids: Any, scores: Any, row: Any) -> Any:
    """Hash a row's labels and score.

    A product carries low bits upwards only. Whole numbers as float64 end in zeros, so without the shifts the low bits,
    which are those that a hash table uses, would hardly depend on the score.
    """
    code = scores[row]
    for index in range(offsets[row], offsets[row + 1]):
        code = (code ^ np.uint64(ids[index])) * _MULTIPLIER
        code ^= code >> _HALF_WORD
    code *= _MULTIPLIER
    return code ^ (code >> _HALF_WORD)


@compiled
def _hash_rows(offsets: Any, ids: Any, scores: Any, rows: Any, codes: Any) -> Any:
    for index in range(len(rows)):
        codes[index] = _hash_row(offsets, ids, scores, rows[index])


@inlined
def _are_equal(offsets: Any, ids: Any, scores: Any, left: Any, right: Any) -> Any:
    length = offsets[left + 1] - offsets[left]
    if scores[left] != scores[right] or offsets[right + 1] - offsets[right] != length:
        return False
    index = 0
    while index < length and ids[offsets[left] + index] == ids[offsets[right] + index]:
        index += 1
    return index == length


@compiled
def _link(offsets: Any, ids: Any, scores: Any, table: Any, following: Any) -> Any:
    """Write the next equal row of each row to `following`; return False if the hash table is too small.

    Args:
        offsets: Where each row's labels begin in `ids`. Shape (N + 1,).
        ids: Labels, row after row.
        scores: Bits of the scores. Shape (N,).
        table: All -1; gets the last row seen of each kind of equal rows. Its length is a power of two.
        following: Shape (N,).
    """
    mask = np.uint64(len(table) - 1)
    kinds = 0
    for row in range(len(scores)):
        slot = _hash_row(offsets, ids, scores, row) & mask
        while table[slot] >= 0 and not _are_equal(offsets, ids, scores, table[slot], row):
            slot = (slot + np.uint64(1)) & mask
        if table[slot] >= 0:
            following[table[slot]] = row
        else:
            kinds += 1
            # Linear probing degenerates in a table that is nearly full.
            if 2 * kinds > len(table):
                return False
        table[slot] = row
    return True
