"""Statistics of a pool, collected while its rows are made, in bounded memory."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.pool.rows import MOST_LABELS, SCORE_UNIT, Rows


MOST_HASHED_ROWS = 10_000_000
"""Distinct label sets are counted among this many first rows; each takes 8 bytes of memory."""

DISTINCT_AT = (100_000, 1_000_000, 10_000_000)


class Statistics:
    """Running counts over rows."""

    def __init__(self, num_labels: int) -> None:
        """Start with all counts at zero; each label gets a random code, and a label set is identified by their sum."""
        self.rows = 0
        self._by_length = np.zeros(MOST_LABELS + 1, np.int64)
        self._by_label = np.zeros(num_labels, np.int64)
        self._turns = 0
        self._score_sum = 0.0
        self._codes = np.random.default_rng(0).integers(0, 2**64, num_labels, np.uint64)
        self._hashes: list[NDArray[np.uint64]] = []

    def add(self, rows: Rows) -> None:
        """Add the counts of more rows."""
        if self.rows < MOST_HASHED_ROWS:
            starts = np.cumsum(rows.label_counts) - rows.label_counts
            self._hashes.append(np.add.reduceat(self._codes[rows.label_ids], starts))
        self.rows += len(rows)
        self._by_length += np.bincount(rows.label_counts, minlength=MOST_LABELS + 1)
        self._by_label += np.bincount(rows.label_ids, minlength=len(self._by_label))
        self._turns += int(rows.turns.sum())
        self._score_sum += float((rows.quality.astype(np.float64) * rows.complexity).sum()) / SCORE_UNIT**2

    def summary(self) -> dict[str, Any]:
        """Return the statistics, rounded to four decimals."""
        occurrences = int(self._by_label.sum())
        return {
            "rows": self.rows,
            "labels_per_row": round(occurrences / self.rows, 4),
            "share_by_number_of_labels": [round(share, 4) for share in (self._by_length[1:] / self.rows).tolist()],
            "labels_used": int(np.count_nonzero(self._by_label)),
            "share_of_top_10_labels": round(float(np.sort(self._by_label)[-10:].sum()) / occurrences, 4),
            "distinct_label_sets": self._distinct(),
            "turns_per_row": round(self._turns / self.rows, 4),
            "mean_score_of_a_turn": round(self._score_sum / self._turns, 4),
        }

    def _distinct(self) -> dict[str, float]:
        """Return the share of distinct label sets among the first rows, for each of DISTINCT_AT and all hashed."""
        hashes = np.concatenate(self._hashes)[:MOST_HASHED_ROWS]
        sizes = sorted({size for size in DISTINCT_AT if size < len(hashes)} | {len(hashes)})
        return {f"{size}": round(len(np.unique(hashes[:size])) / size, 4) for size in sizes}
