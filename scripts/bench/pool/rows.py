"""Labels and scores of rows, drawn block by block, so that a pool of n rows is the beginning of every larger pool.

Label frequencies are Zipf-like, and each label has a home topic. A topic ranks all labels, common and fitting ones
first. A row draws an anchor label by frequency, then walks down the ranking of the anchor's topic; each step skips
some labels, mostly none, sometimes hundreds. So labels of one topic occur together, some label sets recur often, and
new ones keep appearing, at rates like those of annotated pools.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


BLOCK_ROWS = 65_536
NUM_LABELS = 4_500
SCORE_UNIT = 10_000
"""Scores are integers in units of 1 / SCORE_UNIT, that is, they have four decimals."""

_LENGTHS = (0.083, 0.154, 0.164, 0.151, 0.141, 0.307)
"""Share of rows with 1, 2, ... 6 labels; 4.03 on average."""
_TURNS = (0.82, 0.10, 0.05, 0.03)
"""Share of rows with 1, 2, 3, 4 turns."""
MOST_LABELS, MOST_TURNS = len(_LENGTHS), len(_TURNS)
_TOPICS, _DIMENSIONS = 200, 16
_ZIPF_EXPONENT, _ZIPF_SHIFT = 1.2, 2.0
_TOPIC_FIT = 5.0
"""Weight of the nearness of topic and label in a topic's ranking, relative to the logarithm of the frequency."""
_SKIP_EXPONENT, _SKIP_SHIFT = 1.05, 0.17
"""Skipping g labels has the weight (g + shift) ** -exponent; it decides how often label sets recur."""
_QUANTILES = 65_536
_STREAM_MODEL, _STREAM_ROWS = 1, 2


@dataclass(frozen=True)
class Rows:
    """Labels and scores of n rows with t turns in total."""

    label_counts: NDArray[np.int64]
    """Shape (n,)."""
    label_ids: NDArray[np.int32]
    """The labels of all rows one after the other; distinct within a row, unsorted. Shape (label_counts.sum(),)."""
    turns: NDArray[np.int64]
    """Shape (n,)."""
    quality: NDArray[np.int32]
    """One score from 1 to 6 for each turn, in units of 1 / SCORE_UNIT. Shape (t,)."""
    complexity: NDArray[np.int32]
    """Like `quality`. Shape (t,)."""

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.turns)

    def slice(self, start: int, end: int) -> Rows:
        """Return the rows from `start` up to, but not including, `end`."""
        labels = slice(int(self.label_counts[:start].sum()), int(self.label_counts[:end].sum()))
        turns = slice(int(self.turns[:start].sum()), int(self.turns[:end].sum()))
        rows = slice(start, end)
        return Rows(
            self.label_counts[rows],
            self.label_ids[labels],
            self.turns[rows],
            self.quality[turns],
            self.complexity[turns],
        )


class RowModel:
    """The distribution of all rows of one seed: label frequencies, and topics that rank the labels."""

    def __init__(self, seed: int, num_labels: int = NUM_LABELS) -> None:
        """Draw the topics. The walks down a ranking need at least 50 labels."""
        if num_labels < 50:
            raise ValueError(f"num_labels must be 50 or more, got {num_labels}")
        self.seed, self.num_labels = seed, num_labels
        generator = np.random.default_rng([seed, _STREAM_MODEL])
        frequency = (np.arange(num_labels) + _ZIPF_SHIFT) ** -_ZIPF_EXPONENT
        nearness = _directions(generator, _TOPICS) @ _directions(generator, num_labels).T
        appeal = np.log(frequency) + _TOPIC_FIT * nearness + generator.gumbel(size=nearness.shape)
        self._home = np.argmax(nearness, axis=0)
        self._ranking = np.argsort(-appeal, axis=1).astype(np.int32)
        self._rank = np.argsort(self._ranking, axis=1).astype(np.int32)
        self._frequency = np.cumsum(frequency / frequency.sum())
        farthest = (num_labels - 1) // (MOST_LABELS - 1)
        self._skips = _quantiles((np.arange(farthest) + _SKIP_SHIFT) ** -_SKIP_EXPONENT)
        self._lengths, self._turns = _quantiles(np.array(_LENGTHS)) + 1, _quantiles(np.array(_TURNS)) + 1

    def blocks(self, num_rows: int) -> Iterator[Rows]:
        """Yield the first `num_rows` rows, BLOCK_ROWS at a time."""
        for number, start in enumerate(range(0, num_rows, BLOCK_ROWS)):
            block = self.block(number)
            yield block if start + BLOCK_ROWS <= num_rows else block.slice(0, num_rows - start)

    def block(self, number: int) -> Rows:
        """Draw the rows of one block; they do not depend on which blocks were drawn before."""
        generator = np.random.default_rng([self.seed, _STREAM_ROWS, number])
        counts = _draw(generator, self._lengths, BLOCK_ROWS)
        is_taken = np.arange(MOST_LABELS) < counts[:, None]
        turns = _draw(generator, self._turns, BLOCK_ROWS)
        labels = self._walk(generator, BLOCK_ROWS)[is_taken]
        quality = _scores(generator, turns, mean=4.1, spread=0.7)
        return Rows(counts, labels, turns, quality, _scores(generator, turns, mean=2.6, spread=0.9))

    def _walk(self, generator: np.random.Generator, num_rows: int) -> NDArray[np.int32]:
        """Draw six distinct labels for each row, the anchor first. Shape (num_rows, 6)."""
        anchors = np.searchsorted(self._frequency, generator.random(num_rows)).clip(0, self.num_labels - 1)
        topics = self._home[anchors]
        ranks = np.cumsum(_draw(generator, self._skips, (num_rows, MOST_LABELS - 1)) + 1, axis=1) - 1
        ranks += ranks >= self._rank[topics, anchors][:, None]  # skip the anchor, which the row has already
        labels = np.empty((num_rows, MOST_LABELS), np.int32)
        labels[:, 0], labels[:, 1:] = anchors, self._ranking[topics[:, None], ranks]
        return labels


def _directions(generator: np.random.Generator, count: int) -> NDArray[np.float64]:
    vectors = generator.normal(size=(count, _DIMENSIONS))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _quantiles(weights: NDArray[np.float64]) -> NDArray[np.int64]:
    """Tabulate the values 0, 1, ... so that a uniform draw from the table follows the weights.

    A draw is then one table lookup, which is much faster than ``generator.choice``.
    """
    shares = np.cumsum(weights / weights.sum())
    return np.searchsorted(shares, (np.arange(_QUANTILES) + 0.5) / _QUANTILES).clip(0, len(weights) - 1)


def _draw(generator: np.random.Generator, table: NDArray[np.int64], size: int | tuple[int, int]) -> NDArray[np.int64]:
    return table[generator.integers(0, _QUANTILES, size, np.int32)]


def _scores(generator: np.random.Generator, turns: NDArray[np.int64], mean: float, spread: float) -> NDArray[np.int32]:
    """Draw one score for each turn: the row's level plus a little noise, reflected into [1, 6]."""
    level = np.repeat(generator.normal(mean, spread, len(turns)), turns)
    values = level + generator.normal(0.0, 0.2, len(level))
    reflected = np.where(values < 1, 2 - values, np.where(values > 6, 12 - values, values)).clip(1, 6)
    return np.rint(reflected * SCORE_UNIT).astype(np.int32)
