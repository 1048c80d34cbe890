"""Pool files of every format with damaged values, bytes or both."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from faults.inputs.values import JUDGES, disturb, make_row, to_json


_BOM = b"\xef\xbb\xbf"
_MOST_ROWS = 6
_PIECES = (
    *(b"\n", b"\r", b"\r\n", b"\0", b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b" ", b"\xff", b"\xc3", _BOM),
    *(b"\xed\xa0\x80", b"\\ud800", b"null", b"NaN", b"-", b"0", b"1e999", b"PAR1", b"ARROW1", b"\xff\xff\xff\xff"),
)


@dataclass(frozen=True)
class Input:
    """A pool file, and the settings to read it with."""

    kind: str
    """jsonl, json, csv, parquet or arrow; also the suffix of the file."""
    content: bytes
    labels: str
    score: str


def make_input(rng: Random) -> Input:
    """Draw a file. Some are valid; in most of them some values, some bytes or both are damaged."""
    kind = rng.choice(("jsonl", "jsonl", "json", "csv", "parquet", "arrow"))
    labels, score = rng.choice(JUDGES)
    rows: list[Any] = [make_row(rng, number) for number in range(rng.randint(1, _MOST_ROWS))]
    content = _WRITERS[kind](rng, rows)
    if rng.random() < 0.5:
        content = disturb_bytes(rng, content)
    return Input(kind, content, labels, score)


def disturb_bytes(rng: Random, content: bytes) -> bytes:
    """Flip, insert, delete, cut off, repeat or move some bytes, one or several times."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        start, end = sorted(rng.randrange(len(data) + 1) for _ in range(2))
        end = min(end, start + rng.choice((1, 4, 16, len(data))))
        match rng.randrange(7):
            case 0 if start < len(data):
                data[start] ^= 1 << rng.randrange(8)
            case 1:
                data[start:start] = rng.choice(_PIECES)
            case 2:
                del data[start:end]
            case 3:
                del data[start:]
            case 4:
                data[start:start] = data[start:end]
            case 5:
                target = rng.randrange(len(data) + 1)
                data[target : target + end - start] = data[start:end]
            case _:
                data[start:end] = rng.randbytes(end - start)
    return bytes(data)


def _disturbed(rng: Random, rows: list[Any]) -> list[Any]:
    """Damage a value in some of the rows, often in none."""
    return [disturb(rng, row) if rng.random() < 0.3 else row for row in rows]


def _write_lines(rng: Random, rows: list[Any]) -> bytes:
    ends = [rng.choice(("\n", "\n", "\n", "\r\n", "\n\n", " \n", "\n \t\r\n")) for _ in rows]
    lines = (to_json(rng, row) + end for row, end in zip(_disturbed(rng, rows), ends, strict=True))
    text = "".join(lines).encode("utf-8", "surrogatepass")
    return (_BOM if rng.random() < 0.1 else b"") + (text.rstrip() if rng.random() < 0.3 else text)


def _write_array(rng: Random, rows: list[Any]) -> bytes:
    gap = rng.choice(("", " ", "\n", "\r\n  "))
    text = f"{gap}[{gap}{f',{gap}'.join(to_json(rng, row) for row in _disturbed(rng, rows))}{gap}]{gap}"
    return (_BOM if rng.random() < 0.1 else b"") + text.encode("utf-8", "surrogatepass")


def _write_csv(rng: Random, rows: list[Any]) -> bytes:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator=rng.choice(("\n", "\r\n")))
    header = list(rows[0])
    writer.writerow([*header, rng.choice(header)] if rng.random() < 0.05 else header)
    for row in _disturbed(rng, rows):
        values = row.values() if isinstance(row, dict) else [row]
        writer.writerow([value if type(value) is str else to_json(rng, value) for value in values])
    return stream.getvalue().encode("utf-8", "surrogatepass")


def _write_parquet(rng: Random, rows: list[Any]) -> bytes:
    table = _make_table(rng, rows)
    stream = io.BytesIO()
    options = {
        "row_group_size": rng.choice((1, 2, 100)),
        "compression": rng.choice(("none", "snappy", "zstd")),
        "use_dictionary": rng.random() < 0.5,
        "data_page_version": rng.choice(("1.0", "2.0")),
        "store_schema": rng.random() < 0.8,
    }
    try:
        pq.write_table(table, stream, **options)
    except pa.ArrowException:  # not every type can be written
        return b"PAR1" + rng.randbytes(20) + b"PAR1"
    return stream.getvalue()


def _write_arrow(rng: Random, rows: list[Any]) -> bytes:
    table = _make_table(rng, rows)
    stream = io.BytesIO()
    make = rng.choice((pa.ipc.new_file, pa.ipc.new_stream))
    options = pa.ipc.IpcWriteOptions(compression=rng.choice((None, "lz4", "zstd")))
    with make(stream, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=rng.choice((1, 2, 100)))
    return stream.getvalue()


def _make_table(rng: Random, rows: list[Any]) -> pa.Table:
    """Make a table of rows; sometimes a column has another type, occurs twice or is missing."""
    table = pa.Table.from_pylist(rows)
    for _ in range(rng.choice((0, 0, 1, 2))):
        index = rng.randrange(table.num_columns)
        name, column = table.column_names[index], _random_array(rng, table.num_rows, 3)
        match rng.randrange(8):
            case 0:
                table = table.append_column(name, column)
            case 1 if table.num_columns > 1:
                table = table.remove_column(index)
            case 2:
                table = table.set_column(index, name, pa.StructArray.from_arrays([column], names=["labels"]))
            case _:
                table = table.set_column(index, name, column)
    return table


def _random_array(rng: Random, length: int, depth: int) -> pa.Array:
    """Make an array of a random type, nested at most `depth` levels deep."""
    if depth and rng.random() < 0.5:
        return _nested_array(rng, length, depth - 1)
    kind = rng.choice(list(_SCALARS))
    return pa.array([rng.choice((None, *_SCALARS[kind])) for _ in range(length)], kind)


def _nested_array(rng: Random, length: int, depth: int) -> pa.Array:
    match rng.randrange(5):
        case 0:
            names = rng.choice((("score", "labels"), ("quality_scores", "complexity_scores"), ("a", "a"), ("", "\0")))
            return pa.StructArray.from_arrays([_random_array(rng, length, depth) for _ in names], names=names)
        case 1:
            return pa.array([rng.choice(("a", "b", None)) for _ in range(length)]).dictionary_encode()
        case _:
            lengths = [rng.choice((None, 0, 1, 2)) for _ in range(length)]
            items = _random_array(rng, sum(size or 0 for size in lengths), depth)
            offsets, end = [], 0
            for size in lengths:
                offsets.append(None if size is None else end)
                end += size or 0
            make, width = rng.choice(((pa.ListArray, pa.int32()), (pa.LargeListArray, pa.int64())))
            return make.from_arrays(pa.array([*offsets, end], width), items)


_SCALARS: dict[pa.DataType, tuple[Any, ...]] = {
    pa.string(): ("a", "", "é\0", "\x1b"),
    pa.large_string(): ("a", "🙂"),
    pa.string_view(): ("a", "longer than twelve bytes"),
    pa.binary(): (b"a", b"\xff"),
    pa.bool_(): (True, False),
    pa.int8(): (0, 1, -1),
    pa.int64(): (0, 7, 2**63 - 1, -(2**63)),
    pa.uint64(): (0, 2**64 - 1),
    pa.float16(): (0.5,),
    pa.float32(): (0.1, float("nan"), 1e38),
    pa.float64(): (0.0, -0.0, 1e308, float("inf"), -1.0),
    pa.decimal128(10, 2): (Decimal("1.50"),),
    pa.date32(): (0, 2**31 - 1),
    pa.timestamp("us"): (0, 2**62),
    pa.duration("ns"): (0, 5),
    pa.null(): (None,),
    pa.map_(pa.string(), pa.float64()): ([("a", 1.0)], []),
}

_WRITERS: dict[str, Callable[[Random, list[Any]], bytes]] = {
    "jsonl": _write_lines,
    "json": _write_array,
    "csv": _write_csv,
    "parquet": _write_parquet,
    "arrow": _write_arrow,
}
