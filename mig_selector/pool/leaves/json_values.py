"""Arrow values that JSON has, and rows with a stand-in for those that it lacks."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc


def json_rows(batch: pa.RecordBatch, stand_in: bytes = b"") -> list[dict[str, Any]]:
    """Return the rows of a batch, with `stand_in` for each value of a type that JSON lacks.

    The values themselves are not converted: images can be large, and not every timestamp has a Python object.
    """
    if not batch.num_columns:  # rebuilt without a column it would have no rows
        return [{} for _ in range(batch.num_rows)]
    columns = [_without_values(column, stand_in) for column in batch.columns]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names).to_pylist()  # type: ignore[no-any-return]


def survives_json(kind: pa.DataType) -> bool:
    """Whether `datasets` reads values of a type from JSON as it reads them from a table."""
    if pa.types.is_struct(kind):
        return all(survives_json(field.type) for field in kind)
    if is_any_list(kind) or pa.types.is_dictionary(kind):
        return survives_json(kind.value_type)
    return _is_in_json(kind) and not pa.types.is_uint64(kind)  # integers beyond 64 signed bits are read as floats


def _is_in_json(kind: pa.DataType) -> bool:
    types = pa.types
    tests = (types.is_null, types.is_boolean, types.is_integer, types.is_float32, types.is_float64)
    return any(test(kind) for test in (*tests, types.is_string, types.is_large_string))


def is_any_list(kind: pa.DataType) -> bool:
    """Whether values of a type are lists, of whatever kind."""
    return any(test(kind) for test in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list))


def _without_values(array: pa.Array, stand_in: bytes) -> pa.Array:
    """Put `stand_in` in place of each value of a type that JSON lacks."""
    kind = array.type
    if survives_json(kind) or _is_in_json(kind):
        return array
    if pa.types.is_struct(kind):
        below = [_without_values(array.field(index), stand_in) for index in range(kind.num_fields)]
        return pa.StructArray.from_arrays(below, names=[field.name for field in kind], mask=array.is_null())
    if is_any_list(kind) and not pa.types.is_fixed_size_list(kind):
        make = pa.LargeListArray if pa.types.is_large_list(kind) else pa.ListArray
        # A list is null where its offset is null; `values` belong to the whole array, whatever slice of it this is.
        offsets = pc.if_else(pa.concat_arrays([array.is_valid(), pa.array([True])]), array.offsets, None)
        return make.from_arrays(offsets, _without_values(array.values, stand_in))
    return pc.if_else(array.is_valid(), stand_in, pa.scalar(None, pa.binary()))
