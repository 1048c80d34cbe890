"""DEITA (arXiv 2312.15685): the best rows first, but none that resembles a row already kept (its "Repr Filter").

Dimension letters: N rows to choose from, B rows to keep, C candidates looked at together, D dimensions.
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from mig_selector.arrays import Selection
from mig_selector.selection.method import Candidates, OnProgress, RowEmbedding, best_first, method
from mig_selector.selection.unit_rows import cosines, product_error, unit_rows
from mig_selector.settings import Setting, between


_CANDIDATES = 512
_KEPT_AT_ONCE = 8192
"""Candidates and kept rows of one matrix product: large enough for BLAS, small enough to stay in the cache (16 MB)."""


@method(
    needs={"scores", "embeddings"},
    embedding=RowEmbedding(
        model="mistralai/Mistral-7B-v0.1", template="{conversation}", pooling="lasttoken", max_tokens=2048
    ),
    turns="sum",
    nested=True,
    may_fall_short=True,
)
def deita(
    pool: Candidates,
    budget: int,
    *,
    deita_threshold: Annotated[
        float,
        Setting("A row is left out if its cosine with a chosen one is above this.", between(-1, 1), decides=True),
    ] = 0.9,
    on_progress: OnProgress,
) -> Selection:
    """Go through the rows from the highest score to the lowest; keep those that no kept row resembles.

    Args:
        pool: N rows; equal scores go in the order of the pool.
        budget: Rows to keep at most.
        deita_threshold: Rows resemble each other if the cosine of their vectors is above this; at 1 none do.
        on_progress: Called with the number of rows kept since the last call.

    Returns:
        The rows kept, fewer than `budget` where the others resemble them. Gains are scores.

    Raises:
        EmbeddingError: A vector that was looked at has no direction.

    One thing differs from the published program where it embeds rows: it ends each reply with ``</s>`` whatever the
    model, while here each ends with the end-of-sequence token of `mig_row_embedding_model`. For the default model they
    are the same; for another, the text is not the published one.

    Source: arXiv 2312.15685, the data selection by score and diversity; batches of one row.
    """
    kept = _Kept(pool.embeddings, deita_threshold, budget)
    order = best_first(pool.scores)
    for start in range(0, len(order), _CANDIDATES):
        before = len(kept.rows)
        kept.add(order[start : start + _CANDIDATES])
        on_progress(len(kept.rows) - before)
        if len(kept.rows) == budget:
            break
    return Selection(kept.rows, pool.scores[kept.rows])


class _Kept:
    """The rows kept so far."""

    def __init__(self, embeddings: NDArray[np.floating[Any]], threshold: float, capacity: int) -> None:
        self._embeddings, self._threshold = embeddings, threshold
        dimensions = embeddings.shape[1]
        self._error = product_error(dimensions)
        self._rows = np.empty(capacity, np.int64)
        self._units = np.empty((capacity, dimensions), np.float32)
        self._count = 0

    @property
    def rows(self) -> NDArray[np.int64]:
        """The rows in the order in which they were kept."""
        return self._rows[: self._count]

    def add(self, candidates: NDArray[np.int64]) -> None:
        """Keep, in the order given, each candidate that resembles no row kept before it, as long as there is room."""
        units = unit_rows(self._embeddings, candidates).astype(np.float32)
        for start in range(0, self._count, _KEPT_AT_ONCE):
            span = slice(start, min(start + _KEPT_AT_ONCE, self._count))
            products = units @ self._units[span].T
            pairs = zip(candidates, products, strict=True)
            stays = [not self._resembles_any(candidate, self._rows[span], line) for candidate, line in pairs]
            candidates, units = candidates[stays], units[stays]
        products = units @ units.T
        for index, candidate in enumerate(candidates):
            if self._resembles_any(candidate, candidates[:index], products[index, :index]):
                products[:, index] = -np.inf  # a row that is not kept keeps no other one out
            elif self._count < len(self._rows):
                self._rows[self._count], self._units[self._count] = candidate, units[index]
                self._count += 1

    def _resembles_any(self, candidate: np.int64, rows: NDArray[np.int64], products: NDArray[np.float32]) -> bool:
        """Say whether a candidate resembles any of some rows, given its float32 product with each."""
        highest = float(products.max(initial=-np.inf))
        if abs(highest - self._threshold) > self._error:
            return highest > self._threshold
        unit = unit_rows(self._embeddings, np.array([candidate]))[0]
        doubtful = unit_rows(self._embeddings, rows[products >= self._threshold - self._error])
        return bool(np.any(cosines(doubtful, unit) > self._threshold))
