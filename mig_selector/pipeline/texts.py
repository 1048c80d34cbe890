"""What only the text of a row tells: its source, length, turns and language, of all rows or of a sample."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mig_selector.annotation.language import detect_languages
from mig_selector.pipeline.request import Request
from mig_selector.pipeline.tokens import draw_sample, text_of
from mig_selector.pool.conversation import read_turns
from mig_selector.pool.entry import PoolEntry
from mig_selector.pool.reading import Pool
from mig_selector.report.figures import describe_categories, describe_numbers
from mig_selector.report.selection import Distribution


_EXAMPLES = 20

SOURCE = "source"
"""Column that says where a row is from, in the published pools."""


def source_of(record: Mapping[str, Any], entry: PoolEntry, column: str = SOURCE) -> str:
    """Say where a row is from: what it says itself in a column, else the dataset."""
    source = record.get(column)
    names = source if isinstance(source, list) else [source]
    return "+".join(name for name in names if isinstance(name, str) and name) or entry.name


@dataclass(frozen=True)
class Texts:
    """Measures of the texts of M rows: a sample of the pool, and a sample of the chosen rows."""

    in_pool: NDArray[np.int64]
    """Which of the M rows are of the sample of the pool."""
    among_chosen: NDArray[np.int64]
    """Which are of the sample of the chosen rows."""
    lengths: NDArray[np.int64]
    """Characters of all replies. Shape (M,)."""
    turns: NDArray[np.int64]
    """Number of replies. Shape (M,)."""
    sources: NDArray[np.str_]
    languages: NDArray[np.str_]
    examples: Sequence[tuple[int, str]]
    """Kept index and text of twenty rows of the sample of the pool."""

    @classmethod
    def read(cls, request: Request, pool: Pool, chosen: NDArray[np.int64], most: int) -> Texts:
        """Read rows again and measure them.

        Args:
            request: Gives the entries of the pool.
            pool: N kept rows.
            chosen: Kept indices of the chosen rows.
            most: Rows of the pool, and chosen rows, to measure at most.
        """
        sample = draw_sample(len(pool.pool_indices), most=most)
        sample_of_chosen = np.sort(chosen[draw_sample(len(chosen), most=most)])
        rows = np.union1d(sample, sample_of_chosen)
        shown = set(sample[draw_sample(len(sample), most=_EXAMPLES)].tolist())
        columns = {column for entry in request.entries for column in entry.columns.values()}
        lengths, turns, sources, texts = [], [], [], []
        for row in pool.rows(sorted({*columns, "source"}), rows):
            entry = request.entries[row.entry_index]
            replies = _replies(row.record, entry)
            lengths.append(sum(map(len, replies)))
            turns.append(len(replies))
            sources.append(source_of(row.record, entry))
            texts.append(text_of(row.record, entry))
        return cls(
            in_pool=np.searchsorted(rows, sample),
            among_chosen=np.searchsorted(rows, sample_of_chosen),
            lengths=np.array(lengths),
            turns=np.array(turns),
            sources=np.array(sources, np.object_),
            languages=np.array(detect_languages(texts), np.object_),
            examples=[(row, text) for row, text in zip(rows.tolist(), texts, strict=True) if row in shown],
        )

    def distributions(self) -> list[Distribution]:
        """Describe all measures."""

        def numbers(key: str, title: str, values: NDArray[np.int64]) -> Distribution:
            return describe_numbers(key, title, values[self.in_pool], values[self.among_chosen])

        def categories(key: str, title: str, names: NDArray[Any]) -> Distribution:
            return describe_categories(key, title, Counter(names[self.in_pool]), Counter(names[self.among_chosen]))

        return [
            numbers("length", "length of the replies (characters)", self.lengths),
            numbers("turns", "replies in a row", self.turns),
            categories("source", "source", self.sources),
            categories("language", "language", self.languages),
        ]


def _replies(record: Mapping[str, Any], entry: PoolEntry) -> list[str]:
    """Return what the assistant says; nothing if the row is not a conversation."""
    try:
        return [turn.content for turn in read_turns(record, entry) if turn.role == "assistant"]
    except ValueError:
        return []
