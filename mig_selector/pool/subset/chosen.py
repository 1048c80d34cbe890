"""The chosen rows of an entry, read again from the files of the pool."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mig_selector.pool.formats.row_source import RowSource
from mig_selector.pool.formats.tables import TableSource
from mig_selector.pool.leaves.json_values import json_rows
from mig_selector.pool.reading import Pool


class ChosenRows:
    """B rows of one entry. They are read in whatever order is fastest, source by source."""

    def __init__(self, pool: Pool, chosen: NDArray[np.int64]) -> None:
        """Find the rows.

        Args:
            pool: The pool.
            chosen: Kept indices in the order of choice. Shape (B,).
        """
        self._pool, self._chosen = pool, chosen
        # Where rows can be found by offset they come in the order of choice, so that the spool is often the file
        # already. Other sources are read from the beginning, and give rows in ascending order only.
        self._ranks = np.argsort(pool.locate(chosen)[0], kind="stable")
        if not all(source.can_seek for source in pool.sources):
            self._ranks = np.argsort(chosen)
        self.schemas: list[pa.Schema] = []
        """Types of the columns in columnar files, as far as rows were read; empty for other formats."""

    @property
    def sources(self) -> list[RowSource]:
        """All files of the entry."""
        owners = self._pool.source_entry_indices
        entry_index = owners[self._pool.locate(self._chosen[:1])[0][0]]
        return [source for source, owner in zip(self._pool.sources, owners, strict=True) if owner == entry_index]

    @property
    def positions(self) -> NDArray[np.int64]:
        """Where each row comes when they are read. Shape (B,)."""
        return np.argsort(self._ranks)

    def records(self, columns: Sequence[str]) -> Iterator[tuple[int, str, dict[str, Any]]]:
        """Yield the rank, the location (for messages) and some columns of each row."""
        for source, ranks, rows, byte_offsets in self._by_source():
            if isinstance(source, TableSource):
                records = self._table_records(source, rows, columns)
            else:
                records = source.read(rows, byte_offsets, columns)
            for rank, row, record in zip(ranks, rows, records, strict=True):
                yield rank, f"{source.name}, row {row + 1}", record

    def _table_records(self, source: TableSource, rows: list[int], columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        for batch in source.read_batches(rows, columns):
            if batch.schema not in self.schemas:
                self.schemas.append(batch.schema)
            yield from json_rows(batch)

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield the rows of columnar files with their own types."""
        for source, _, rows, _ in self._by_source():
            if isinstance(source, TableSource):
                yield from source.read_batches(rows, columns)

    def _by_source(self) -> Iterator[tuple[RowSource, list[int], list[int], list[int]]]:
        """Yield each source that has chosen rows, with their ranks, source rows and byte offsets."""
        chosen = self._chosen[self._ranks]
        sources, source_rows = self._pool.locate(chosen)
        byte_offsets = self._pool.byte_offsets_of(chosen)
        for index in np.unique(sources):
            mine = sources == index
            yield (
                self._pool.sources[index],
                self._ranks[mine].tolist(),
                source_rows[mine].tolist(),
                byte_offsets[mine].tolist(),
            )
