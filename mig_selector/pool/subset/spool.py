"""Chosen rows on their way to a subset file: what their columns hold is known only once all are there."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mig_selector.pool.subset.columns import JsonType


_COPIED_BYTES = 1 << 20


class Spool:
    """B chosen rows as JSON in a temporary file: put in as they come, taken out in the order of choice."""

    def __init__(self, stream: IO[bytes], chosen: NDArray[np.int64]) -> None:
        """Keep rows in `stream`; `chosen` are their places in the pool in the order of choice, shape (B,)."""
        count = len(chosen)
        self._stream = stream
        self._chosen = chosen
        self._starts = np.zeros(count, np.int64)
        self._shapes: dict[tuple[tuple[str, ...], tuple[str, ...]], int] = {}
        self._shape_of = np.zeros(count, np.int64)
        self._types: dict[str, JsonType] = {}
        self._end = 0

    def put(self, rank: int, row: dict[str, Any]) -> None:
        """Take in the row that was chosen as number `rank`.

        Raises:
            TypeError, ValueError: It holds what JSON cannot hold.
        """
        line = _dump(row, has_float=self._learn(row))
        empty = tuple(column for column, value in row.items() if value is None or value == [])
        self._shape_of[rank] = self._shapes.setdefault((tuple(row), empty), len(self._shapes))
        self._starts[rank] = self._end
        self._stream.write(line)
        self._end += len(line)

    def _learn(self, row: Mapping[str, Any]) -> bool:
        """Cover the row by the columns' types; return whether it holds a number with a fraction."""
        for column in row:
            if column not in self._types:
                self._types[column] = JsonType(has_null=self._end > 0)
        has_float = False
        for column, kind in self._types.items():
            has_float |= kind.add(row.get(column))
        return has_float

    def kept_columns(self) -> dict[str, JsonType]:
        """Return the columns that hold anything, in the order in which the pool's rows name them, and their types."""
        first_rows = np.full(len(self._shapes), np.iinfo(np.int64).max)
        np.minimum.at(first_rows, self._shape_of, self._chosen)
        shapes = list(self._shapes)
        columns = (column for place in np.argsort(first_rows) for column in shapes[place][0])
        return {column: self._types[column] for column in columns if not self._types[column].is_empty}

    def lines(self, columns: Sequence[str]) -> Iterator[bytes]:
        """Yield the rows as JSON Lines that all have the same columns: lines, or blocks of them."""
        if all(shape == tuple(columns) for shape, _ in self._shapes) and np.all(np.diff(self._starts) > 0):
            self._stream.seek(0)
            yield from iter(lambda: self._stream.read(_COPIED_BYTES), b"")
            return
        is_final = np.array([shape == tuple(columns) for shape, _ in self._shapes])[self._shape_of]
        for start, as_it_is in zip(self._starts.tolist(), is_final.tolist(), strict=True):
            self._stream.seek(start)
            line = self._stream.readline()
            yield line if as_it_is else _dump(_project(json.loads(line), columns), has_float=True)

    def rows(self, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Yield the rows with the same columns throughout."""
        for start in self._starts.tolist():
            self._stream.seek(start)
            yield _project(json.loads(self._stream.readline()), columns)

    def longest_gap(self, column: str) -> int:
        """Return the longest run of rows in which a column is absent, null or ``[]``."""
        is_gap = np.array([column not in shape or column in empty for shape, empty in self._shapes])[self._shape_of]
        filled = np.flatnonzero(~is_gap)
        return int(np.diff(filled, prepend=-1, append=len(is_gap)).max()) - 1


def _project(row: Mapping[str, Any], columns: Sequence[str]) -> dict[str, Any]:
    return {column: row.get(column) for column in columns}


def _dump(row: Mapping[str, Any], *, has_float: bool) -> bytes:
    """Write a row as the `json` module does, without blanks; msgspec writes the same but for fractions."""
    if not has_float:
        return msgspec.json.encode(row) + b"\n"
    return json.dumps(row, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode("utf-8") + b"\n"
