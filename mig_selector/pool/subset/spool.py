"""Chosen rows on their way to a subset file.

They are read in whatever order is fastest, are written in the order of choice, and the columns and types of the file
are known only after the last one. A temporary file holds them in between: all of them may not fit into memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mig_selector.pool.subset.columns import BEYOND_JSON, JsonType


_COPIED_BYTES = 1 << 20


class Spool:
    """B chosen rows as JSON lines in a temporary file: put in any order, taken out in the order of choice."""

    def __init__(self, stream: IO[bytes], chosen: NDArray[np.int64]) -> None:
        """Hold rows in `stream`.

        Args:
            stream: An empty file.
            chosen: Kept index of each row, in the order of choice. Shape (B,).
        """
        count = len(chosen)
        self._stream = stream
        self._chosen = chosen
        self._starts = np.zeros(count, np.int64)
        self._shapes: dict[tuple[tuple[str, ...], tuple[str, ...]], int] = {}
        self._shape_of = np.zeros(count, np.int64)
        self._is_beyond_json = np.zeros(count, np.bool_)
        self._types: dict[str, JsonType] = {}
        self._end = 0

    def put(self, rank: int, row: dict[str, Any]) -> None:
        """Add the row with index `rank` in the order of choice.

        NaN is kept as it is, bytes become null.

        Raises:
            TypeError, ValueError: JSON cannot represent another value of the row.
        """
        found = self._learn(row)
        line = _dump(row, has_float=bool(found))
        self._is_beyond_json[rank] = bool(found & BEYOND_JSON)
        empty = tuple(column for column, value in row.items() if value is None or value == [])
        # The shape of a row is which columns it has, in its order, and which of them are empty. There are few shapes:
        # questions about all rows are answered by looking at them.
        self._shape_of[rank] = self._shapes.setdefault((tuple(row), empty), len(self._shapes))
        self._starts[rank] = self._end
        self._stream.write(line)
        self._end += len(line)

    def _learn(self, row: Mapping[str, Any]) -> int:
        """Extend the types of the columns to the row; return what was found in it."""
        for column in row:
            if column not in self._types:
                self._types[column] = JsonType(has_null=self._end > 0)  # the rows before did not have it
        found = 0
        for column, kind in self._types.items():
            found |= kind.add(row.get(column))
        return found

    def kept_columns(self, also: Sequence[str] = ()) -> dict[str, JsonType]:
        """Return the columns that are not empty in every row, with their types.

        A column of `also` is kept if it is not null in every row: empty lists and objects count there. The order of
        the columns is that of the rows: first the columns of the row that comes first in the pool, then those that the
        next shape adds, and so on.
        """
        first_rows = np.full(len(self._shapes), np.iinfo(np.int64).max)
        np.minimum.at(first_rows, self._shape_of, self._chosen)
        shapes = list(self._shapes)
        columns = (column for index in np.argsort(first_rows) for column in shapes[index][0])
        return {
            column: self._types[column]
            for column in columns
            if not self._types[column].is_empty or (column in also and self._types[column].kinds)
        }

    def lines(self, columns: Sequence[str]) -> Iterator[bytes]:
        """Yield JSON Lines, all with the same columns, in the order of choice: one by one, or in larger pieces.

        Values that JSON cannot represent are null.
        """
        is_final = np.array([shape == tuple(columns) for shape, _ in self._shapes])[self._shape_of]
        is_final &= ~self._is_beyond_json
        # Where every row has just these columns and was put in this order, the spool is the file.
        if is_final.all() and np.all(np.diff(self._starts) > 0):
            self._stream.seek(0)
            yield from iter(lambda: self._stream.read(_COPIED_BYTES), b"")
            return
        for start, is_unchanged in zip(self._starts.tolist(), is_final.tolist(), strict=True):
            self._stream.seek(start)
            line = self._stream.readline()
            # A line that has the columns already is copied; others are parsed again to fill in nulls.
            yield line if is_unchanged else _dump(_project(_parse(line), columns), has_float=True)

    def rows(self, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Yield the rows, all with the same columns, in the order of choice."""
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


def _parse(line: bytes) -> dict[str, Any]:
    """Parse a line of the spool, with null instead of NaN."""
    row: dict[str, Any] = json.loads(line, parse_constant=lambda name: None)
    return row


def _dump(row: Mapping[str, Any], *, has_float: bool) -> bytes:
    """Write a row as the `json` module does, without spaces; bytes become null.

    msgspec is much faster and writes the same text, except for floats (1e16 instead of 1e+16).
    """
    if not has_float:
        return msgspec.json.encode(row) + b"\n"
    text = json.dumps(row, ensure_ascii=False, separators=(",", ":"), default=lambda value: None)
    return text.encode("utf-8") + b"\n"
