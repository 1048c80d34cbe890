"""What every kind of pool file offers: a pass over all rows for what selection needs, and some rows whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from mig_selector.pool.fields import LeafDecoder, Unreadable


OnBytes = Callable[[int], object]


class ScannedRow(NamedTuple):
    """One row of a pass."""

    values: tuple[Any, ...] | Unreadable
    """What stands at the wanted paths."""
    place: int
    """Where it is, for people: line of a text file or row of a table, from 1 on."""
    position: int
    """Where it is, for the machine: a byte offset where the format has one, else 0."""
    digest: int | None
    """64-bit hash of the row's text, to count duplicates; None for formats that are not read whole."""


class RowSource(Protocol):
    """One file of a pool."""

    name: str
    """As messages and selection.parquet name it."""
    size: int
    """Bytes, for the progress bar."""

    @property
    def files(self) -> list[Path]:
        """The files on this machine that hold the rows."""
        ...

    def scan(self, decoder: LeafDecoder, on_bytes: OnBytes) -> Iterator[ScannedRow]:
        """Pass over all rows; blank lines are none."""
        ...

    def read(self, rows: Sequence[int], positions: Sequence[int], columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Read some rows, given in ascending order with the positions found in the scan.

        Yields:
            Those of `columns` that a row has, in the row's own order.
        """
        ...
