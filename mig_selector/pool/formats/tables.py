"""What columnar sources share: only the wanted columns are read, as record batches."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa

from mig_selector.errors import PoolError
from mig_selector.pool.formats.row_source import OnBytes, Span
from mig_selector.pool.leaves.arrow import take_leaves
from mig_selector.pool.leaves.batch import Leaves, Numbering
from mig_selector.pool.leaves.decoder import LeafDecoder


LEAF_ROWS = 65_536
"""Rows of leaves that are looked at together; whole rows can be long, so fewer of those are."""


class TableSource(ABC):
    """A source that yields record batches."""

    name: str
    size: int
    title: str
    """What the format is called."""
    can_seek = False

    def spans(self, size: int) -> list[Span]:
        """Take the table whole, where a format does not know better."""
        del size
        return [Span(size=self.size)]

    def scan(self, span: Span, decoder: LeafDecoder, numbering: Numbering, on_bytes: OnBytes) -> Iterator[Leaves]:
        """Pass over the rows of a part."""
        start = 0
        with self._wrapped_errors():
            share = span.size / max(self._num_rows(span), 1)
            for whole in self._leaf_batches(span, decoder):
                _check(whole, start)
                for offset in range(0, whole.num_rows, LEAF_ROWS):
                    batch = whole.slice(offset, LEAF_ROWS)
                    yield take_leaves(batch, decoder, numbering, start)
                    start += batch.num_rows
                    on_bytes(int(share * batch.num_rows))

    def read(
        self, rows: Sequence[int], positions: Sequence[int], columns: Sequence[str] | None
    ) -> Iterator[dict[str, Any]]:
        """Read whole rows, batch by batch."""
        del positions
        taken = 0
        with self._wrapped_errors():
            for start, batch in self._batches_with(rows, columns):
                end = bisect_left(rows, start + batch.num_rows, taken)
                if end > taken:
                    _check(batch, start)
                    local = [row - start for row in rows[taken:end]]
                    yield from batch.take(pa.array(local, pa.int64())).to_pylist()
                taken = end
                if taken == len(rows):
                    return

    @contextlib.contextmanager
    def _wrapped_errors(self) -> Iterator[None]:
        """Name the file in what pyarrow finds wrong with it."""
        try:
            yield
        except (pa.ArrowException, OSError, ValueError, OverflowError, KeyError, RecursionError) as error:
            raise PoolError(f"{self.name}: cannot be read as {self.title} ({error}).") from error

    @abstractmethod
    def _num_rows(self, span: Span) -> int: ...

    @abstractmethod
    def _batches(self, columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
        """Yield all rows, with those of the top-level `columns` that there are."""

    def _batches_with(
        self, rows: Sequence[int], columns: Sequence[str] | None
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Yield at least the batches that hold some of `rows`, each with the number of rows before it."""
        del rows
        start = 0
        for batch in self._batches(columns):
            yield start, batch
            start += batch.num_rows

    def _leaf_batches(self, span: Span, decoder: LeafDecoder) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a part with at least what stands at the decoder's paths."""
        del span
        return self._batches(decoder.columns)


def _check(batch: pa.RecordBatch, start: int) -> None:
    """Look at names, offsets and texts before anything relies on them: nothing did when they were read."""
    for name, times in Counter(batch.schema.names).items():
        if times > 1:
            raise ValueError(f"{times} columns are named {name!r}")
    try:
        batch.validate(full=True)
    except pa.ArrowInvalid as error:
        raise ValueError(f"rows {start + 1} to {start + batch.num_rows}: {error}") from error


def names_among(names: Iterable[str], columns: Sequence[str] | None) -> list[str]:
    """Return those of `names` that are among `columns`; all if None."""
    return [name for name in names if columns is None or name in columns]
