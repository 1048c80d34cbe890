"""CSV files with a header: cells are text, empty cells are null, labels and scores are JSON in a cell."""

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
from mig_selector.pool.leaves.decoder import HALF_PAIR, MAX_ROW_BYTES, TOO_DEEP, LeafDecoder, has_half_pair, parse_json
from mig_selector.pool.leaves.verdicts import Unreadable


_BLOCK_BYTES = 1 << 18

_Record = tuple[int, list[str], list[str]]
"""First line, header and cells."""


class CsvSource(WholeFile[_Record]):
    """One row a record; whether a line break stands within quotes is known only from the beginning on."""

    kind = "csv"

    def scan(self, span: Span, decoder: LeafDecoder, numbering: Numbering, on_bytes: OnBytes) -> Iterator[Leaves]:
        """Pass over the records."""
        del span
        builder = LeafBuilder(decoder, numbering)
        for batch, num_bytes in batched(self._rows(), lambda row: sum(map(len, row[2]))):
            values = [_values(header, cells, decoder) for _, header, cells in batch]
            texts = ["\0".join(cells).encode("utf-8", "surrogatepass") for _, _, cells in batch]
            places = np.array([place for place, _, _ in batch], np.int64)
            builder.add_values(values, texts, places)
            yield builder.build(int(places[-1]))
            on_bytes(num_bytes)

    def _project(self, row: _Record, columns: Sequence[str] | None) -> dict[str, Any]:
        """Cells stay text."""
        _, header, cells = row
        return {column: cell or None for column, cell in _cells_of(columns, header, cells).items()}

    def _rows(self) -> Iterator[_Record]:
        """Records without any cell are blank lines."""
        csv.field_size_limit(MAX_ROW_BYTES)
        with self.files[0].open(encoding="utf-8-sig", newline="") as stream:
            lines = _Lines(stream)
            reader = csv.reader(lines, strict=True)
            header: list[str] = []
            line = 1
            try:
                for cells in reader:
                    if cells and header:
                        yield line, header, cells
                    header = header or cells
                    line = reader.line_num + 1
                    lines.row_size = 0
            except csv.Error as error:
                raise PoolError(f"{self.name}:{line}: is not CSV ({error}).") from error
            except UnicodeDecodeError as error:
                raise PoolError(f"{self.name}:{_undecodable_line(self.files[0])}: is not UTF-8.") from error


class _Lines(Iterator[str]):
    """Lines of a file, as long as no row of it is too long: a quote that is never closed takes in all that follows."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self.row_size = 0
        """Characters since the row began."""

    def __next__(self) -> str:
        line = self._stream.readline(MAX_ROW_BYTES)
        self.row_size += len(line)
        if self.row_size >= MAX_ROW_BYTES:
            raise csv.Error(f"its row is longer than {MAX_ROW_BYTES >> 20} MiB; is a quote left open?")
        if not line:
            raise StopIteration
        return line


def _undecodable_line(path: Path) -> int:
    """Return the first line that is not UTF-8; the decoder of the text knows only its place in a block."""
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
        return Unreadable(f"must have the {len(header)} cells of the header, got {len(cells)}")
    wanted = _cells_of(decoder.columns, header, cells)
    values = decoder.of_mapping({column: _parsed(cell) for column, cell in wanted.items()})
    try:
        return HALF_PAIR if has_half_pair(values) else values
    except RecursionError:
        return TOO_DEEP


def _cells_of(columns: Sequence[str] | None, header: Sequence[str], cells: Sequence[str]) -> dict[str, str]:
    """Return the cells of those of `columns` that there are, all if None; of two by one name the first."""
    found: dict[str, str] = {}
    for column, cell in zip(header, cells, strict=True):
        if columns is None or column in columns:
            found.setdefault(column, cell)
    return found


def _parsed(cell: str) -> Any:
    """Read a cell that labels or scores may stand in: JSON where it is, else text."""
    if cell == "":
        return None
    try:
        return parse_json(cell)
    except (ValueError, RecursionError):
        return cell
