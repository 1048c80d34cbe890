"""The values at the wanted paths of an Arrow record batch, without making Python objects of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mig_selector.pool.leaves.arrow_shapes import is_list, is_text, is_valid, lengths_of, take_shapes
from mig_selector.pool.leaves.batch import Leaves, Numbering, Ragged
from mig_selector.pool.leaves.decoder import LeafDecoder
from mig_selector.pool.leaves.json_values import json_rows
from mig_selector.pool.leaves.labels import StoredLabels
from mig_selector.pool.leaves.paths import Keys
from mig_selector.pool.leaves.verdicts import Unreadable


WholeRows: TypeAlias = Callable[[Sequence[int]], list[dict[str, Any]]]
"""Reads rows of a batch, by ascending index."""

_NO_VALUES = np.zeros(0)
_MAX_VALUES = 1 << 22
"""Longest list of labels or scores of a row: converting a longer one to Python objects would take minutes."""
_ROWS_AT_A_TIME = 256
_STAND_IN = b"?"
"""Not empty: an empty value would count as absent."""


def take_leaves(
    batch: pa.RecordBatch,
    decoder: LeafDecoder,
    numbering: Numbering,
    start: int,
    known_texts: Collection[str] = (),
    read_whole: WholeRows | None = None,
) -> Leaves:
    """Take the values at the decoder's paths, and the shapes of the rows if they are wanted.

    Args:
        batch: n rows.
        decoder: Knows the paths.
        numbering: Gives the labels their ids.
        start: Number of rows before the batch.
        known_texts: Columns that are not in the batch, or not with the contents of their messages: they are known to
            be texts without nulls.
        read_whole: Reads rows of the batch with all columns that training reads; None if the batch has them.

    Returns:
        The leaves; a row with a value of an unexpected type at one of the paths, or without a shape, is not plain.
    """
    is_plain = np.ones(batch.num_rows, np.bool_)  # the functions below clear it where a row needs a second look
    leaves = [_first(batch, ways, is_plain) for ways in decoder.ways]
    too_long = {row: fault for leaf in leaves for row, fault in _long_lists(leaf).items()}
    is_plain[list(too_long)] = False
    num_labels = len(decoder.labels.paths)
    labels = [_labels(leaf, decoder.labels, numbering, is_plain) for leaf in leaves[:num_labels]]
    scores = [_numbers(leaf, is_plain) for leaf in leaves[num_labels:]]
    shapes = None if decoder.shapes is None else take_shapes(batch, decoder.shapes, known_texts, is_plain)
    return Leaves(
        labels=Ragged.of_parts(labels, batch.num_rows),
        scores=scores,
        is_plain=is_plain,
        of_row=_Rows(batch, decoder, shapes, is_plain, too_long, read_whole or partial(take_rows, batch)).values,
        lines=np.arange(start + 1, start + batch.num_rows + 1),
        end_line=start + batch.num_rows,
        shapes=shapes,
    )


def _long_lists(leaf: pa.Array) -> dict[int, Unreadable]:
    """Return the rows whose list is too long."""
    if not is_list(leaf.type):
        return {}
    lengths = lengths_of(leaf)
    return {
        int(row): Unreadable(f"has a list of more than {_MAX_VALUES:,} values, got {lengths[row]:,}")
        for row in np.flatnonzero(lengths > _MAX_VALUES)
    }


def take_rows(batch: pa.RecordBatch, rows: Sequence[int]) -> list[dict[str, Any]]:
    """Return rows of a batch, by index, as Python objects.

    A row with a value that Python has no object for, such as a date beyond the year 9999, has bytes in place of all
    values of types that JSON lacks: whether such a value matters is for others to say.
    """
    taken = batch.take(pa.array(rows, pa.int64()))
    try:
        return taken.to_pylist()  # type: ignore[no-any-return]
    except (pa.ArrowException, ValueError, OverflowError):
        if len(rows) == 1:
            return json_rows(taken, _STAND_IN)
        return [row for index in rows for row in take_rows(batch, [index])]


class _Rows:
    """Single rows of a batch: those that are not plain are read whole, some at a time."""

    def __init__(
        self,
        batch: pa.RecordBatch,
        decoder: LeafDecoder,
        shapes: NDArray[np.int32] | None,
        is_plain: NDArray[np.bool_],
        too_long: Mapping[int, Unreadable],
        read: WholeRows,
    ) -> None:
        self._batch = batch.select([name for name in batch.schema.names if name in decoder.annotations])
        self._decoder, self._shapes, self._is_plain, self._read = decoder, shapes, is_plain, read
        self._too_long = too_long
        self._whole: dict[int, dict[str, Any]] = {}

    def values(self, row: int) -> tuple[Any, ...] | Unreadable:
        """Return the values of a row; rows are asked for in ascending order."""
        if row in self._too_long:  # converting it to Python objects would take minutes
            return self._too_long[row]
        try:
            if self._decoder.shapes is None or self._shapes is None:
                return self._decoder.of_mapping(self._leaves(row))
            if self._is_plain[row]:
                *values, _ = self._decoder.of_mapping(self._leaves(row))
                return self._decoder.of_shape((*values, int(self._shapes[row])))
            return self._decoder.of_mapping(self._read_whole(row))
        except (pa.ArrowException, ValueError, OverflowError) as error:
            return Unreadable(f"contains a value that cannot be read ({error})")

    def _leaves(self, row: int) -> dict[str, Any]:
        [leaves] = take_rows(self._batch, [row])
        return leaves

    def _read_whole(self, row: int) -> dict[str, Any]:
        if row not in self._whole:
            following = (row + np.flatnonzero(~self._is_plain[row:])[:_ROWS_AT_A_TIME]).tolist()
            self._whole = dict(zip(following, self._read(following), strict=True))
        return self._whole[row]


def _first(batch: pa.RecordBatch, ways: Sequence[Keys], is_plain: NDArray[np.bool_]) -> pa.Array:
    """Do for a batch what `look_up` does for a row; a row is not plain where it would not take the array returned."""
    arrays = [array for keys in ways if (array := _follow(batch, keys)).null_count < len(array)]
    if not arrays:
        return pa.nulls(batch.num_rows)
    first, *others = arrays
    for other in others:
        is_plain &= is_valid(first) | ~is_valid(other)
    return first


def _follow(batch: pa.RecordBatch, keys: Keys) -> pa.Array:
    """Return the array at a path; nulls where the path ends early."""
    array: Any = batch
    for key in keys:
        if array is batch:
            index = _field(batch.schema, key)
            array = None if index is None else batch.column(index)
        elif is_list(array.type):
            values = _struct_field(array.flatten(), key)
            array = None if values is None else _with_values(array, values)
        else:
            array = _struct_field(array, key)
        if array is None:
            return pa.nulls(batch.num_rows)
    return array


def _field(fields: pa.Schema | pa.StructType, key: str) -> int | None:
    indices = fields.get_all_field_indices(key)
    if len(indices) > 1:
        raise ValueError(f"{len(indices)} fields are named {key!r}")
    return indices[0] if indices else None


def _struct_field(array: pa.Array, key: str) -> pa.Array | None:
    index = _field(array.type, key) if pa.types.is_struct(array.type) else None
    # Not `.field()`: `struct_field` also applies the nulls of the parent.
    return None if index is None else pc.struct_field(array, index)


def _with_values(lists: pa.Array, values: pa.Array) -> pa.Array:
    """Return lists of the same lengths and nulls, with other values."""
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths_of(lists))])
    return pa.LargeListArray.from_arrays(pa.array(offsets), values, mask=pa.array(~is_valid(lists)))


def _labels(leaf: pa.Array, labels: StoredLabels, numbering: Numbering, is_plain: NDArray[np.bool_]) -> Ragged:
    if _is_label(leaf.type):
        texts, codes = _coded(leaf)
        lists = [*map(labels.split, texts), []]  # the last for nulls
        each = Ragged.of_lists(lists, numbering.of_all(chain.from_iterable(lists)))
        return each.take(codes.fill_null(len(texts)).to_numpy(zero_copy_only=False))
    if not is_list(leaf.type) or not _is_label(leaf.type.value_type):
        return _nothing(leaf, is_plain)
    values = leaf.flatten()
    texts, codes = _coded(values)
    ids = numbering.of_all(texts)
    numbers = codes.fill_null(0).to_numpy(zero_copy_only=False)
    return _lists(lengths_of(leaf), ids[numbers] if len(ids) else np.zeros(len(numbers)), values, is_plain)


def _coded(texts: pa.Array) -> tuple[list[str], pa.Array]:
    """Return the distinct texts, and for each text its index among them.

    Encoded as a dictionary, each distinct label becomes one Python string, however many rows have it.
    """
    coded = (texts.dictionary_decode() if pa.types.is_dictionary(texts.type) else texts).dictionary_encode()
    return coded.dictionary.to_pylist(), coded.indices


def _numbers(leaf: pa.Array, is_plain: NDArray[np.bool_]) -> Ragged:
    has_lists = is_list(leaf.type)
    if not _is_number(leaf.type.value_type if has_lists else leaf.type):
        return _nothing(leaf, is_plain)
    numbers = leaf.flatten() if has_lists else leaf.drop_null()
    values = numbers.fill_null(0).to_numpy(zero_copy_only=False).astype(np.float64)
    return _lists(lengths_of(leaf) if has_lists else is_valid(leaf).astype(np.int64), values, numbers, is_plain)


def _lists(lengths: NDArray[np.int64], values: NDArray[Any], array: pa.Array, is_plain: NDArray[np.bool_]) -> Ragged:
    """Build the lists; a row with a null among the values of its list is not plain."""
    if array.null_count:
        owners = np.repeat(np.arange(len(lengths)), lengths)
        is_plain[owners[~is_valid(array)]] = False
    return Ragged(np.cumsum(lengths) - lengths, lengths, values)


def _nothing(leaf: pa.Array, is_plain: NDArray[np.bool_]) -> Ragged:
    """Build empty lists for a column of an unexpected type: only the rows where it is null are plain."""
    is_plain &= ~is_valid(leaf)
    zeros = np.zeros(len(leaf), np.int64)
    return Ragged(zeros, zeros, _NO_VALUES)


def _is_label(kind: pa.DataType) -> bool:
    return is_text(kind) or bool(pa.types.is_string_view(kind))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_float32(kind) or pa.types.is_float64(kind))
