"""What each format offers: a scan of all rows for the values that selection needs, and single rows with all values."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from mig_selector.pool.leaves.batch import Leaves, Numbering
from mig_selector.pool.leaves.decoder import LeafDecoder


OnBytes = Callable[[int], object]

Row = TypeVar("Row")

BATCH_ROWS = 8_192
"""Maximum number of rows in a batch."""
BATCH_BYTES = 1 << 22
"""Approximate size of the text in a batch."""


@dataclass(frozen=True)
class Span:
    """Part of a source that can be scanned on its own."""

    start: int = 0
    stop: int = 0
    """In units of the source: bytes of JSON Lines, row groups of Parquet; unused where there is only one span."""
    size: int = 0
    """Bytes, for the progress bar."""


class RowSource(Protocol):
    """One file of a pool."""

    name: str
    """As messages and selection.parquet name it."""
    size: int
    """Bytes, for the progress bar."""
    kind: str
    """How the file is read; together with the bytes of `files` it determines the rows."""

    can_seek: bool
    """Whether single rows can be read without reading those before them."""

    @property
    def files(self) -> list[Path]:
        """The files on this machine that hold the rows."""
        ...

    def spans(self, size: int) -> list[Span]:
        """Divide the source into spans of about `size` bytes, in order; one span where it can only be read whole."""
        ...

    def scan(self, span: Span, decoder: LeafDecoder, numbering: Numbering, on_bytes: OnBytes) -> Iterator[Leaves]:
        """Read the values at the decoder's paths of all rows of a span, batch by batch; blank lines are not rows."""
        ...

    def read(
        self, source_rows: Sequence[int], byte_offsets: Sequence[int], columns: Sequence[str] | None
    ) -> Iterator[dict[str, Any]]:
        """Read some rows again.

        Args:
            source_rows: Which rows; ascending unless the source can seek.
            byte_offsets: Byte offset of each, as found by the scan; ignored by formats that have none.
            columns: Top-level columns to keep; all if None.

        Yields:
            Those of `columns` that a row has, in the row's own order.
        """
        ...


class WholeFile(ABC, Generic[Row]):
    """A source that can only be read from the beginning."""

    can_seek = False

    def __init__(self, path: Path, name: str) -> None:
        """Read `path`; messages say `name`."""
        self.files, self.name, self.size = [path], name, path.stat().st_size

    def spans(self, size: int) -> list[Span]:
        """Return the file as one span."""
        del size
        return [Span(size=self.size)]

    def read(
        self, source_rows: Sequence[int], byte_offsets: Sequence[int], columns: Sequence[str] | None
    ) -> Iterator[dict[str, Any]]:
        """Read rows by going through the file once more."""
        del byte_offsets
        wanted = iter(source_rows)
        target = next(wanted, None)
        for source_row, row in enumerate(self._rows()):
            if source_row == target:
                yield self._project(row, columns)
                target = next(wanted, None)

    @abstractmethod
    def _rows(self) -> Iterator[Row]:
        """Yield all rows as they are in the file."""

    @abstractmethod
    def _project(self, row: Row, columns: Sequence[str] | None) -> dict[str, Any]:
        """Decode a row, and keep those of `columns` that it has; all if None."""


def batched(rows: Iterable[Row], weigh: Callable[[Row], int]) -> Iterator[tuple[list[Row], int]]:
    """Yield batches of many short rows or few long ones, each with its size in bytes as `weigh` counts them."""
    batch: list[Row] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += weigh(row)
        if size >= BATCH_BYTES or len(batch) == BATCH_ROWS:
            yield batch, size
            batch, size = [], 0
    if batch:
        yield batch, size
