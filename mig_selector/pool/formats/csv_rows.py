"""CSV files with a header: cells are strings, empty cells are null, labels and scores are JSON in a cell."""

from __future__ import annotations

import codecs
import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from mig_selector.errors import PoolError
from mig_selector.pool.formats.row_source import OnBytes, Span, WholeFile, batched
from mig_selector.pool.leaves.batch import LeafBuilder, Leaves, Numbering
from mig_selector.pool.leaves.decoder import (
    LONE_SURROGATE,
    MAX_ROW_BYTES,
    TOO_DEEP,
    LeafDecoder,
    has_lone_surrogate,
    parse_json,
)
from mig_selector.pool.leaves.verdicts import Unreadable


_BLOCK_BYTES = 1 << 18

_Record = tuple[int, list[str], list[str]]
"""First line, header and cells."""


class CsvSource(WholeFile[_Record]):
    """A CSV file; read as one span, because whether a line break is inside quotes depends on everything before it."""

    kind = "csv"

    def scan(self, span: Span, decoder: LeafDecoder, numbering: Numbering, on_bytes: OnBytes) -> Iterator[Leaves]:
        """Read the records."""
        del span
        builder = LeafBuilder(decoder, numbering)
        for batch, num_bytes in batched(self._rows(), lambda row: sum(map(len, row[2]))):
            values = [_values(header, cells, decoder) for _, header, cells in batch]
            texts = ["\0".join(cells).encode("utf-8", "surrogatepass") for _, _, cells in batch]
            lines = np.array([line for line, _, _ in batch], np.int64)
            builder.add_values(values, texts, lines)
            yield builder.build(int(lines[-1]))
            on_bytes(num_bytes)

    def _project(self, row: _Record, columns: Sequence[str] | None) -> dict[str, Any]:
        """Keep cells as strings."""
        _, header, cells = row
        return {column: cell or None for column, cell in _cells_of(columns, header, cells).items()}

    def _rows(self) -> Iterator[_Record]:
        csv.field_size_limit(MAX_ROW_BYTES)
        with self.files[0].open(encoding="utf-8-sig", newline="") as stream:
            lines = _Lines(stream)
            reader = csv.reader(lines, strict=True)
            header: list[str] = []
            line = 1
            try:
                for cells in reader:
                    if cells and header:  # a record without cells is a blank line
                        yield line, header, cells
                    header = header or cells
                    line = reader.line_num + 1
                    lines.row_size = 0
            except csv.Error as error:
                raise PoolError(f"{self.name}:{line}: is not valid CSV ({error}).") from error
            except UnicodeDecodeError as error:
                raise PoolError(f"{self.name}:{_undecodable_line(self.files[0])}: is not UTF-8.") from error


class _Lines(Iterator[str]):
    """Lines of a file, up to a maximum size of a row: an unclosed quote would take in the rest of the file."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self.row_size = 0
        """Characters since the row began; reset by the reader of rows."""

    def __next__(self) -> str:
        line = self._stream.readline(MAX_ROW_BYTES)
        self.row_size += len(line)
        if self.row_size >= MAX_ROW_BYTES:
            raise csv.Error(f"the row is longer than {MAX_ROW_BYTES >> 20} MiB; is a quote not closed?")
        if not line:
            raise StopIteration
        return line


def _undecodable_line(path: Path) -> int:
    """Return the first line that is not UTF-8; the error of a text stream gives only an offset in its buffer."""
    decoder, line = codecs.getincrementaldecoder("utf-8")(), 1
    with path.open("rb") as stream:
        for block in iter(lambda: stream.read(_BLOCK_BYTES), b""):
            try:
                decoder.decode(block)
            except UnicodeDecodeError as error:
                return line + error.object.count(b"\n", 0, error.start)
            line += block.count(b"\n")
    return line


def _values(header: Sequence[str], cells: Sequence[str], decoder: LeafDecoder) -> tuple[Any, ...] | Unreadable:
    if len(cells) != len(header):
        return Unreadable(f"must have {len(header)} cells like the header, got {len(cells)}")
    wanted = _cells_of(decoder.columns, header, cells)
    values = decoder.of_mapping({column: _parsed(cell) for column, cell in wanted.items()})
    try:
        return LONE_SURROGATE if has_lone_surrogate(values) else values
    except RecursionError:
        return TOO_DEEP


def _cells_of(columns: Sequence[str] | None, header: Sequence[str], cells: Sequence[str]) -> dict[str, str]:
    """Return the cells of `columns`, all if None; of several columns with one name the first, as `datasets` does."""
    found: dict[str, str] = {}
    for column, cell in zip(header, cells, strict=True):
        if columns is None or column in columns:
            found.setdefault(column, cell)
    return found


def _parsed(cell: str) -> Any:
    """Parse a cell with labels or scores: JSON if it is valid, else a string."""
    if cell == "":
        return None
    try:
        return parse_json(cell)
    except (ValueError, RecursionError):
        return cell
