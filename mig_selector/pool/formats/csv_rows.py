"""CSV files with a header: cells are what pandas, and so LLaMA-Factory, reads; labels and scores may be JSON."""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa

from mig_selector.errors import PoolError
from mig_selector.pool.formats.row_source import OnBytes, Span, batched
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
_BLOCK_ROWS = 10_000
"""Rows from which `datasets` takes the types of the cells, block by block."""
_MISSING = frozenset(
    (
        *("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A"),
        *("NA", "NULL", "NaN", "None", "n/a", "nan", "null"),
    )
)
"""Cells that pandas reads as null."""
_NUMBER = re.compile(r" *[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)? *", re.ASCII)
"""Numbers to pandas; not all of them are JSON."""

_Record = tuple[int, list[str], list[str]]
"""First line, header and cells."""


class CsvSource:
    """A CSV file; read as one span, because whether a line break is inside quotes depends on everything before it."""

    kind = "csv, as pandas reads it"
    can_seek = False

    def __init__(self, path: Path, name: str) -> None:
        """Read `path`; messages say `name`."""
        self.files, self.name, self.size = [path], name, path.stat().st_size

    def spans(self, size: int) -> list[Span]:
        """Return the file as one span."""
        del size
        return [Span(size=self.size)]

    def scan(self, span: Span, decoder: LeafDecoder, numbering: Numbering, on_bytes: OnBytes) -> Iterator[Leaves]:
        """Read the records: cells with labels and scores as JSON, others as the host reads them."""
        del span
        builder = LeafBuilder(decoder, numbering)
        annotations = set(decoder.annotations)
        others = [column for column in decoder.columns if column not in annotations]
        for batch, num_bytes in batched(self._rows_with(others), lambda row: sum(map(len, row[0][2]))):
            values = [_values(header, cells, decoder, annotations, more) for (_, header, cells), more in batch]
            texts = ["\0".join(cells).encode("utf-8", "surrogatepass") for (_, _, cells), _ in batch]
            lines = np.array([line for (line, _, _), _ in batch], np.int64)
            builder.add_values(values, texts, lines)
            yield builder.build(int(lines[-1]))
            on_bytes(num_bytes)

    def read(
        self, source_rows: Sequence[int], byte_offsets: Sequence[int], columns: Sequence[str] | None
    ) -> Iterator[dict[str, Any]]:
        """Read rows by going through the file once more."""
        del byte_offsets
        start, taken = 0, 0
        for records, table in self._blocks(columns):
            end = bisect_left(source_rows, start + len(records), taken)
            within_block = [row - start for row in source_rows[taken:end]]
            if table.num_columns:
                yield from table.take(pa.array(within_block, pa.int64())).to_pylist()
            else:
                yield from ({} for _ in within_block)
            start, taken = start + len(records), end
            if taken == len(source_rows):
                return

    def _rows_with(self, columns: Sequence[str]) -> Iterator[tuple[_Record, dict[str, Any]]]:
        """Yield all records, each with some columns as the host reads them."""
        if not columns:
            yield from ((record, {}) for record in self._rows())
            return
        for records, table in self._blocks(columns):
            # A table without columns has no rows either.
            rows = table.to_pylist() if table.num_columns else [{}] * len(records)
            yield from zip(records, rows, strict=True)

    def _blocks(self, columns: Sequence[str] | None) -> Iterator[tuple[list[_Record], pa.Table]]:
        """Yield the records in the blocks from which the host takes types, with `columns` (all if None) as it does."""
        records, schema = self._rows(), None
        while block := list(islice(records, _BLOCK_ROWS)):
            names = list(dict.fromkeys(name for name in block[0][1] if columns is None or name in columns))
            try:
                table = _as_pandas_reads(block, names)
            except (ValueError, pa.ArrowException) as error:
                lines = f"{block[0][0]} to {block[-1][0]}"
                raise PoolError(f"{self.name}: pandas cannot read lines {lines} ({error}).") from error
            schema = schema or table.schema
            yield block, _cast(table, schema)

    def _rows(self) -> Iterator[_Record]:
        csv.field_size_limit(MAX_ROW_BYTES)
        with self.files[0].open(encoding="utf-8-sig", newline="") as stream:
            lines = _Lines(stream)
            reader = csv.reader(lines, strict=True)
            header: list[str] = []
            line = 1
            try:
                for cells in reader:
                    if header and not _is_blank(cells, header):
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


def _is_blank(cells: Sequence[str], header: Sequence[str]) -> bool:
    """Whether pandas skips the line."""
    return not cells or (len(cells) == 1 < len(header) and cells[0] != "" and not cells[0].strip(" \t"))


def _values(
    header: Sequence[str],
    cells: Sequence[str],
    decoder: LeafDecoder,
    annotations: set[str],
    others: dict[str, Any],
) -> tuple[Any, ...] | Unreadable:
    if len(cells) != len(header):
        return Unreadable(f"must have {len(header)} cells like the header, got {len(cells)}")
    record = {name: _parsed(cell) for name, cell in _first_cells(header, cells).items() if name in annotations}
    values = decoder.of_mapping({**record, **others})
    try:
        return LONE_SURROGATE if has_lone_surrogate(values) else values
    except RecursionError:
        return TOO_DEEP


def _first_cells(header: Sequence[str], cells: Sequence[str]) -> dict[str, str]:
    """Return the cells by column; of several columns with one name the first, as `datasets` does."""
    found: dict[str, str] = {}
    for column, cell in zip(header, cells, strict=False):
        found.setdefault(column, cell)
    return found


def _parsed(cell: str) -> Any:
    """Parse a cell with labels or scores: null, JSON, a number as pandas reads it, or a string."""
    if cell in _MISSING:
        return None
    try:
        return parse_json(cell)
    except (ValueError, RecursionError):
        return float(cell) if _NUMBER.fullmatch(cell) else cell


def _as_pandas_reads(records: Sequence[_Record], columns: Sequence[str]) -> pa.Table:
    """Give the cells of some columns the types that the host finds: null, bool, int, float or string.

    pandas takes the type of a column from all its cells. It parses them itself here, from the text of just these
    columns and rows, so that the rows are those that the scan counted.
    """
    import pandas as pd

    if not columns:
        return pa.table({})
    text = io.StringIO(newline="")
    writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n")
    for _, header, cells in records:
        found = _first_cells(header, cells)  # cells at the end may be missing
        writer.writerow([found.get(column, "") for column in columns])
    text.seek(0)
    frame = pd.read_csv(text, header=None, names=list(columns), index_col=False, skip_blank_lines=False)
    return pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata()


def _cast(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Cast a later block to the types of the first, as `datasets` does; where that fails, the host fails too."""
    if table.schema != schema:
        from datasets.table import table_cast

        with contextlib.suppress(pa.ArrowException, TypeError):
            return table_cast(table, schema)
    return table
