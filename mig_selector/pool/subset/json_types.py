"""The types that `datasets` gives the columns of JSON files."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow.json import ReadOptions, read_json

from mig_selector.errors import PoolError
from mig_selector.pool.formats.json_text import BYTE_ORDER_MARK, decode_row, project
from mig_selector.pool.formats.row_source import RowSource
from mig_selector.pool.subset.columns import JsonType


_BLOCK_BYTES = 10 << 20
"""Size of the blocks in which `datasets` reads JSON Lines; the first one decides the types."""


def is_read_alike(path: Path) -> bool:
    """Whether `datasets` finds the same types in all blocks of a file of JSON Lines.

    It casts later blocks to the types of the first. A block in which all strings of a column happen to be ISO dates
    is read as timestamps, and cast to strings in another notation.
    """
    first = None
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES) + stream.readline():
            schema = read_json(pa.BufferReader(block), ReadOptions(block_size=len(block))).schema
            first = first or schema
            if schema != first:
                return False
    return True


def read_pool_types(sources: Sequence[RowSource], columns: Sequence[str]) -> dict[str, JsonType]:
    """Return the types of columns in the JSON files of a pool, from the rows that `datasets` takes them from.

    Rows that were not chosen count: a key that one of them has is null in all other objects, and the keys of every
    object are in the same order. That matters where the host prints an object or looks for a key in it.

    Args:
        sources: All files of an entry.
        columns: Top-level columns.
    """
    kinds = {column: JsonType() for column in columns}
    for source in sources:
        for row in _typing_rows(source, columns):
            for column, value in row.items():
                with contextlib.suppress(TypeError):  # nested too deeply
                    kinds[column].add(value)
    return kinds


def _typing_rows(source: RowSource, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    if source.kind == "json array":  # pandas takes the types from all rows
        with contextlib.suppress(PoolError):  # it does not read an array with anything but objects
            yield from source.read(range(sys.maxsize), [], columns)
        return
    with source.files[0].open("rb") as stream:
        block = stream.read(_BLOCK_BYTES) + stream.readline()
    for line in block.removeprefix(BYTE_ORDER_MARK).split(b"\n"):
        with contextlib.suppress(PoolError):  # a blank or unreadable line
            yield project(decode_row(line, source.name), columns)


def with_floats_of_pandas(value: Any) -> Any:
    """Return a value of a JSON array as pandas reads it for `datasets`: some floats differ in the last digit."""
    import pandas as pd

    try:
        return pd.io.json.ujson_loads(json.dumps(value))
    except ValueError:  # an integer of more than 64 bits
        return value
