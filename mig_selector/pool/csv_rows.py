"""CSV files with a header: cells are text, empty cells are null, labels and scores are JSON in a cell."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mig_selector.errors import PoolError
from mig_selector.pool.decoder import LeafDecoder
from mig_selector.pool.leaves import LeafBuilder, Leaves, Numbering
from mig_selector.pool.rows import BATCH_ROWS, OnBytes, Span, WholeFile, batched
from mig_selector.pool.verdicts import Unreadable


_Record = tuple[int, list[str], list[str]]
"""First line, header and cells."""


class CsvSource(WholeFile[_Record]):
    """One row a record; whether a line break stands within quotes is known only from the beginning on."""

    kind = "csv"

    def scan(self, span: Span, decoder: LeafDecoder, numbering: Numbering, on_bytes: OnBytes) -> Iterator[Leaves]:
        """Pass over the records."""
        del span
        builder = LeafBuilder(decoder, numbering)
        for batch in batched(self._rows(), BATCH_ROWS):
            values = [_values(header, cells, decoder) for _, header, cells in batch]
            texts = ["\0".join(cells).encode("utf-8", "surrogatepass") for _, _, cells in batch]
            places = np.array([place for place, _, _ in batch], np.int64)
            builder.add_values(values, texts, places)
            yield builder.build(int(places[-1]))
            on_bytes(sum(map(len, texts)))

    def _project(self, row: _Record, columns: Sequence[str]) -> dict[str, Any]:
        """Cells stay text."""
        _, header, cells = row
        return {key: cell or None for key, cell in zip(header, cells, strict=True) if key in columns}

    def _rows(self) -> Iterator[_Record]:
        """Records without any cell are blank lines."""
        csv.field_size_limit(sys.maxsize)
        with self.files[0].open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            header: list[str] = []
            line = 1
            try:
                for cells in reader:
                    if cells and header:
                        yield line, header, cells
                    header = header or cells
                    line = reader.line_num + 1
            except csv.Error as error:
                raise PoolError(f"{self.name}:{line}: is not CSV ({error}).") from error
            except UnicodeDecodeError as error:
                raise PoolError(f"{self.name}:{_undecodable_line(self.files[0])}: is not UTF-8.") from error


def _undecodable_line(path: Path) -> int:
    """Return the first line that is not UTF-8; the decoder itself knows only its place in a block."""
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                return number
    return 1


def _values(header: Sequence[str], cells: Sequence[str], decoder: LeafDecoder) -> tuple[Any, ...] | Unreadable:
    if len(cells) != len(header):
        return Unreadable(f"must have the {len(header)} cells of the header, got {len(cells)}")
    return decoder.of_mapping(dict(zip(header, map(_parsed, cells), strict=True)))


def _parsed(cell: str) -> Any:
    """Read a cell that labels or scores may stand in: JSON where it is, else text."""
    if cell == "":
        return None
    try:
        return json.loads(cell)
    except (ValueError, RecursionError):
        return cell
