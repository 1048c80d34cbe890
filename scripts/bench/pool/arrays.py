"""A pool as arrays, for benchmarks that read no file: the labels and scores that a selection would read from one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bench.pool.rows import MOST_TURNS, SCORE_UNIT, RowModel, Rows


def draw_arrays(model: RowModel, num_rows: int) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float64]]:
    """Draw the labels and scores of the first `num_rows` rows.

    Returns:
        The offset of each row's first label, shape (num_rows + 1,); the labels, ascending within a row; and the
        scores, shape (num_rows,), each the mean over the turns of quality times complexity.
    """
    blocks = list(model.blocks(num_rows))
    counts = np.concatenate([block.label_counts for block in blocks])
    offsets = np.concatenate((np.zeros(1, np.int64), np.cumsum(counts)))
    labels = np.concatenate([_ascending(block, model.num_labels) for block in blocks])
    return offsets, labels, np.concatenate([_scores(block) for block in blocks])


def _ascending(rows: Rows, num_labels: int) -> NDArray[np.int32]:
    keys = np.repeat(np.arange(len(rows)) * num_labels, rows.label_counts) + rows.label_ids
    return (np.sort(keys) % num_labels).astype(np.int32)


def _scores(rows: Rows) -> NDArray[np.float64]:
    products = (rows.quality / SCORE_UNIT) * (rows.complexity / SCORE_UNIT)
    by_turn = np.zeros((len(rows), MOST_TURNS))
    by_turn[np.arange(MOST_TURNS) < rows.turns[:, None]] = products
    sums = np.zeros(len(rows))
    for turn in by_turn.T:  # turn by turn, in the order in which the package adds, so that sums round alike
        sums += turn
    return sums / rows.turns
