"""The values at the wanted paths of an Arrow record batch, without making Python objects of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mig_selector.pool.leaves.batch import Leaves, Numbering, Ragged
from mig_selector.pool.leaves.decoder import LeafDecoder
from mig_selector.pool.leaves.verdicts import Unreadable


_NO_VALUES = np.zeros(0)
_MAX_VALUES = 1 << 22
"""Longest list of labels or scores of a row: converting a longer one to Python objects would take minutes."""


def take_leaves(batch: pa.RecordBatch, decoder: LeafDecoder, numbering: Numbering, start: int) -> Leaves:
    """Take the values at the decoder's paths.

    Args:
        batch: n rows.
        decoder: Knows the paths; the first leads to labels, the others to scores.
        numbering: Gives the labels their ids.
        start: Number of rows before the batch.

    Returns:
        The leaves; a row with a value of an unexpected type at one of the paths is not plain.
    """
    label_path, *score_paths = decoder.paths
    is_plain = np.ones(batch.num_rows, np.bool_)  # the functions below clear it where a row needs a second look
    too_long: dict[int, Unreadable] = {}
    for path in decoder.wanted:
        too_long |= _long_lists(_follow(batch, path))
    is_plain[list(too_long)] = False
    return Leaves(
        labels=_labels(_follow(batch, label_path), numbering, is_plain),
        scores=[_numbers(_follow(batch, path), is_plain) for path in score_paths],
        is_plain=is_plain,
        of_row=lambda row: too_long.get(row) or _values(batch.slice(row, 1), decoder),
        lines=np.arange(start + 1, start + batch.num_rows + 1),
        end_line=start + batch.num_rows,
    )


def _long_lists(leaf: pa.Array) -> dict[int, Unreadable]:
    """Return the rows whose list is too long."""
    if not _is_list(leaf.type):
        return {}
    lengths = _lengths(leaf)
    return {
        int(row): Unreadable(f"has a list of more than {_MAX_VALUES:,} values, got {lengths[row]:,}")
        for row in np.flatnonzero(lengths > _MAX_VALUES)
    }


def _values(row: pa.RecordBatch, decoder: LeafDecoder) -> tuple[Any, ...] | Unreadable:
    try:
        return decoder.of_mapping(row.to_pylist()[0])
    except (pa.ArrowException, ValueError, OverflowError) as error:  # a date beyond the year 9999, for one
        return Unreadable(f"contains a value that cannot be read ({error})")


def _follow(batch: pa.RecordBatch, path: Sequence[str] | None) -> pa.Array:
    """Return the array at a path; nulls where the path ends early, or where `path` is None."""
    if path is None:
        return pa.nulls(batch.num_rows)
    array: Any = batch
    for key in path:
        fields = batch.schema if array is batch else array.type
        if array is not batch and not pa.types.is_struct(fields):
            return pa.nulls(batch.num_rows)
        indices = fields.get_all_field_indices(key)
        if len(indices) > 1:
            raise ValueError(f"{len(indices)} fields are named {key!r}")
        if not indices:
            return pa.nulls(batch.num_rows)
        # struct_field, not `.field()`: it also applies the nulls of the parent.
        array = batch.column(indices[0]) if array is batch else pc.struct_field(array, indices[0])
    return array


def _labels(leaf: pa.Array, numbering: Numbering, is_plain: NDArray[np.bool_]) -> Ragged:
    if not _is_list(leaf.type) or not _is_string(leaf.type.value_type):
        return _nothing(leaf, is_plain)
    texts = leaf.flatten()
    # Encoded as a dictionary, each distinct label becomes one Python string, however many rows have it.
    coded = (texts.dictionary_decode() if pa.types.is_dictionary(texts.type) else texts).dictionary_encode()
    ids = numbering.of_all(coded.dictionary.to_pylist())
    codes = coded.indices.fill_null(0).to_numpy(zero_copy_only=False)
    return _lists(_lengths(leaf), ids[codes] if len(ids) else np.zeros(len(codes)), texts, is_plain)


def _numbers(leaf: pa.Array, is_plain: NDArray[np.bool_]) -> Ragged:
    is_list = _is_list(leaf.type)
    if not _is_number(leaf.type.value_type if is_list else leaf.type):
        return _nothing(leaf, is_plain)
    numbers = leaf.flatten() if is_list else leaf.drop_null()
    values = numbers.fill_null(0).to_numpy(zero_copy_only=False).astype(np.float64)
    return _lists(_lengths(leaf) if is_list else _is_valid(leaf).astype(np.int64), values, numbers, is_plain)


def _lists(lengths: NDArray[np.int64], values: NDArray[Any], array: pa.Array, is_plain: NDArray[np.bool_]) -> Ragged:
    """Build the lists; a row with a null among the values of its list is not plain."""
    if array.null_count:
        owners = np.repeat(np.arange(len(lengths)), lengths)
        is_plain[owners[~_is_valid(array)]] = False
    return Ragged(np.cumsum(lengths) - lengths, lengths, values)


def _nothing(leaf: pa.Array, is_plain: NDArray[np.bool_]) -> Ragged:
    """Build empty lists for a column of an unexpected type: only the rows where it is null are plain."""
    is_plain &= ~_is_valid(leaf)
    zeros = np.zeros(len(leaf), np.int64)
    return Ragged(zeros, zeros, _NO_VALUES)


def _lengths(leaf: pa.Array) -> NDArray[np.int64]:
    lengths: NDArray[np.int64] = pc.list_value_length(leaf).fill_null(0).to_numpy(zero_copy_only=False)
    return lengths.astype(np.int64)


def _is_valid(array: pa.Array) -> NDArray[np.bool_]:
    is_valid: NDArray[np.bool_] = array.is_valid().to_numpy(zero_copy_only=False)
    return is_valid


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _is_string(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_string(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_float32(kind) or pa.types.is_float64(kind))
