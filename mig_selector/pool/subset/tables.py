"""Chosen rows as Arrow tables: the types of columnar files, which JSON may lack, and files with explicit types."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mig_selector.pool.leaves.json_values import is_any_list
from mig_selector.store.files import whole_file


_FEATURES = b"huggingface"
"""Metadata with what Arrow types do not say, for example that a struct is an image; `datasets` reads it."""
_BATCH_ROWS = 1_000
_BATCH_BYTES = 64 << 20


def table_schema(schemas: Sequence[pa.Schema], columns: Iterable[str]) -> pa.Schema:
    """Return the types that hold some columns of several files, such that `datasets` can read them.

    Args:
        schemas: The types in each file.
        columns: Columns that at least one of the files has.

    Raises:
        TypeError, pyarrow.ArrowException: A column has no such type.
    """
    fields = []
    for column in columns:
        kinds = [schema.field(column).type for schema in schemas if column in schema.names]
        readable = [_readable_type(kind) for kind in dict.fromkeys(kinds)]
        if None in readable:
            raise TypeError(f"column {column} has the Arrow type {kinds[0]}")
        parts = [pa.schema([(column, kind)]) for kind in readable]
        fields.append(pa.unify_schemas(parts, promote_options="permissive").field(0))
    metadata = (schema.metadata[_FEATURES] for schema in schemas if _FEATURES in (schema.metadata or {}))
    features = next(metadata, None)
    return pa.schema(fields, None if features is None else {_FEATURES: features})


def _readable_type(kind: pa.DataType) -> pa.DataType | None:
    """Return the type nearest to one that `datasets` may not know; None if there is none."""
    types = pa.types
    if isinstance(kind, pa.BaseExtensionType):
        return _readable_type(kind.storage_type)
    if types.is_dictionary(kind) or types.is_run_end_encoded(kind):
        return _readable_type(kind.value_type)
    if types.is_map(kind):
        return _readable_type(pa.list_(pa.struct([("key", kind.key_type), ("value", kind.item_type)])))
    if types.is_struct(kind):
        below = [(field.name, _readable_type(field.type)) for field in kind]
        return pa.struct([(name, inner) for name, inner in below if inner is not None])
    if is_any_list(kind):
        inner = _readable_type(kind.value_type)
        if inner == kind.value_type and not types.is_fixed_size_list(kind):  # null among them cannot be read again
            return kind
        return None if inner is None else pa.list_(inner)
    if types.is_fixed_size_binary(kind):
        return pa.binary()
    return None if types.is_interval(kind) or types.is_union(kind) else kind


def conform(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Give a batch just the columns and types of a schema; columns that it lacks are null."""
    names = batch.schema.names
    columns = [
        _as_type(batch.column(field.name), field.type) if field.name in names else pa.nulls(len(batch), field.type)
        for field in schema
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _as_type(array: pa.Array, kind: pa.DataType) -> pa.Array:
    # Through Python where the types differ: `cast` knows no maps, and few conversions of nested types.
    return array if array.type == kind else pa.array(array.to_pylist(), kind)


def write_batches(path: Path, batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> None:
    """Write batches to a temporary file, for `read_in_order`."""
    with pa.OSFile(str(path), "wb") as stream, pa.ipc.new_file(stream, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)


def read_in_order(path: Path, positions: NDArray[np.int64]) -> Iterator[pa.Table]:
    """Yield the rows that `write_batches` wrote, in another order.

    Args:
        path: The file. It is mapped, not read into memory.
        positions: Index in the file of each row, in the order wanted.
    """
    with pa.memory_map(str(path)) as data:
        reader = pa.ipc.open_file(data)
        batches = [reader.get_batch(index) for index in range(reader.num_record_batches)]
        starts = np.cumsum([0, *(batch.num_rows for batch in batches)])
        step = int(np.clip(_BATCH_BYTES * len(positions) // max(path.stat().st_size, 1), 1, _BATCH_ROWS))
        for first in range(0, len(positions), step):
            wanted = positions[first : first + step]
            order = np.argsort(wanted)
            owners = np.searchsorted(starts, wanted[order], side="right") - 1
            pieces = [
                batches[owner].take(pa.array(wanted[order][owners == owner] - starts[owner]))
                for owner in np.unique(owners)
            ]
            yield pa.Table.from_batches(pieces).combine_chunks().take(pa.array(np.argsort(order)))


def with_columns(tables: Iterable[pa.Table], added: pa.Table) -> Iterator[pa.Table]:
    """Yield tables with the columns of another one, whose rows are those of all of them together."""
    start = 0
    for table in tables:
        part = added.slice(start, len(table))
        start += len(table)
        for field in added.schema:
            table = table.append_column(field, part[field.name])
        yield table


def write_table_file(folder: Path, stem: str, tables: Iterable[pa.Table], schema: pa.Schema) -> Path:
    """Write tables as Parquet, or as an Arrow stream if the schema has objects without keys, which Parquet lacks.

    Returns:
        The file.
    """
    path = folder / f"{stem}.{'arrow' if any(_has_empty_struct(field.type) for field in schema) else 'parquet'}"
    with whole_file(path, is_private=True) as stream:
        make = pq.ParquetWriter if path.suffix == ".parquet" else pa.ipc.new_stream
        with make(stream, schema) as writer:
            for table in tables:
                writer.write_table(table)
    return path


def _has_empty_struct(kind: pa.DataType) -> bool:
    below = chain(
        [kind.value_type] if is_any_list(kind) else [], (field.type for field in kind) if _is_struct(kind) else []
    )
    return (_is_struct(kind) and kind.num_fields == 0) or any(map(_has_empty_struct, below))


def _is_struct(kind: pa.DataType) -> bool:
    return bool(pa.types.is_struct(kind))
