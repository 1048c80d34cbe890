"""What every kind of pool file offers: a pass over its rows for what selection needs, and some rows whole."""

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
"""Rows that are handed on at once, at most."""
BATCH_BYTES = 1 << 22
"""Text that is handed on at once, about."""


@dataclass(frozen=True)
class Span:
    """Part of a source that can be passed over on its own."""

    start: int = 0
    stop: int = 0
    """In units of the source: bytes, row groups; the source itself knows."""
    size: int = 0
    """Bytes, for the progress bar."""


class RowSource(Protocol):
    """One file of a pool. Sources can be pickled, so that several processes can pass over one."""

    name: str
    """As messages and selection.parquet name it."""
    size: int
    """Bytes, for the progress bar."""
    kind: str
    """How the file is read; together with the bytes of `files` it decides the rows."""

    can_seek: bool
    """Whether single rows can be read without passing over those before them."""

    @property
    def files(self) -> list[Path]:
        """The files on this machine that hold the rows."""
        ...

    def spans(self, size: int) -> list[Span]:
        """Cut the source into parts of about `size` bytes, in order; one part where it can only be read whole."""
        ...

    def scan(self, span: Span, decoder: LeafDecoder, numbering: Numbering, on_bytes: OnBytes) -> Iterator[Leaves]:
        """Pass over the rows of a part; blank lines are none."""
        ...

    def read(
        self, rows: Sequence[int], positions: Sequence[int], columns: Sequence[str] | None
    ) -> Iterator[dict[str, Any]]:
        """Read some rows, given with the positions found in the scan; in ascending order unless the source can seek.

        Yields:
            Those of `columns` that a row has, all if None, in the row's own order.
        """
        ...


class WholeFile(ABC, Generic[Row]):
    """A source that can only be read from its beginning on."""

    can_seek = False

    def __init__(self, path: Path, name: str) -> None:
        """Read `path`, call it `name`."""
        self.files, self.name, self.size = [path], name, path.stat().st_size

    def spans(self, size: int) -> list[Span]:
        """Take the file whole."""
        del size
        return [Span(size=self.size)]

    def read(
        self, rows: Sequence[int], positions: Sequence[int], columns: Sequence[str] | None
    ) -> Iterator[dict[str, Any]]:
        """Read whole rows by passing over the file once more."""
        del positions
        wanted = iter(rows)
        target = next(wanted, None)
        for number, row in enumerate(self._rows()):
            if number == target:
                yield self._project(row, columns)
                target = next(wanted, None)

    @abstractmethod
    def _rows(self) -> Iterator[Row]:
        """Yield all rows as the file holds them."""

    @abstractmethod
    def _project(self, row: Row, columns: Sequence[str] | None) -> dict[str, Any]:
        """Read a row, and keep those of `columns` that it has, all if None."""


def batched(rows: Iterable[Row], weigh: Callable[[Row], int]) -> Iterator[tuple[list[Row], int]]:
    """Yield many short rows or few long ones at a time, each time with their bytes as `weigh` counts them."""
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
