"""The shapes of the rows of an Arrow record batch, without making Python objects of their texts."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import repeat
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mig_selector.pool.leaves.shapes import TEXT, Part, Shapes


_OTHER_ROLE = 255


def take_shapes(
    batch: pa.RecordBatch, shapes: Shapes, known_texts: Collection[str], is_plain: NDArray[np.bool_]
) -> NDArray[np.int32]:
    """Return the number of each row's shape.

    Args:
        batch: n rows.
        shapes: Gives the shapes their numbers.
        known_texts: Columns that are not in the batch, or not with the contents of their messages: they are known to
            be texts without nulls.
        is_plain: Is cleared for rows without a shape. Shape (n,).
    """
    if shapes.columns is None:
        is_plain[:] = False
        return np.zeros(batch.num_rows, np.int32)
    parts: list[Iterable[Part]] = []
    for column in shapes.columns:
        is_known = column.name in known_texts
        leaf = batch.column(column.name) if column.name in batch.schema.names else pa.nulls(batch.num_rows)
        match column.kind:
            case "messages":
                parts.append(_roles_of_messages(leaf, shapes, is_plain, has_contents=is_known))
            case "message":
                parts.append(_roles(leaf, shapes, is_plain, has_contents=is_known))
            case "text":
                parts.append(repeat(TEXT, batch.num_rows) if is_known else _texts(leaf, is_plain))
            case "any text":
                _texts(leaf, is_plain)
            case "flag":
                parts.append(_flags(leaf, is_plain))
            case "pairs":
                _check_pairs(leaf, is_plain)
            case "no tools":
                _check_empty(leaf, is_plain)
    rows: Iterable[Any] = zip(*parts, strict=True) if parts else repeat((), batch.num_rows)
    numbers = [shapes[row] if has_shape else 0 for has_shape, row in zip(is_plain.tolist(), rows, strict=True)]
    return np.array(numbers, np.int32)


def is_text(kind: pa.DataType) -> bool:
    """Whether values of a type are strings."""
    if pa.types.is_dictionary(kind):
        return is_text(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def is_list(kind: pa.DataType) -> bool:
    """Whether values of a type are lists."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def is_valid(array: pa.Array) -> NDArray[np.bool_]:
    """Say which values of an array are not null."""
    valid: NDArray[np.bool_] = array.is_valid().to_numpy(zero_copy_only=False)
    return valid


def lengths_of(lists: pa.Array) -> NDArray[np.int64]:
    """Return the length of each list; 0 for null."""
    lengths: NDArray[np.int64] = pc.list_value_length(lists).fill_null(0).to_numpy(zero_copy_only=False)
    return lengths.astype(np.int64)


def _texts(leaf: pa.Array, is_plain: NDArray[np.bool_]) -> list[Part]:
    if not is_text(leaf.type):
        return _nothing(leaf, is_plain)
    return [TEXT if has_text else None for has_text in is_valid(leaf).tolist()]


def _flags(leaf: pa.Array, is_plain: NDArray[np.bool_]) -> list[Part]:
    if not pa.types.is_boolean(leaf.type):
        return _nothing(leaf, is_plain)
    flags: list[Part] = leaf.to_pylist()
    return flags


def _nothing(leaf: pa.Array, is_plain: NDArray[np.bool_]) -> list[Part]:
    """Treat a column of an unexpected type: only the rows where it is null have a shape."""
    is_plain &= ~is_valid(leaf)
    return [None] * len(leaf)


def _check_pairs(leaf: pa.Array, is_plain: NDArray[np.bool_]) -> None:
    if not is_list(leaf.type) or not is_list(leaf.type.value_type) or not is_text(leaf.type.value_type.value_type):
        is_plain &= ~is_valid(leaf) if not is_list(leaf.type) else lengths_of(leaf) == 0
        return
    owners, pairs = np.repeat(np.arange(len(leaf)), lengths_of(leaf)), leaf.flatten()
    lengths, texts = lengths_of(pairs), pairs.flatten()
    is_plain[owners[lengths != 2]] = False
    is_plain[np.repeat(owners, lengths)[~is_valid(texts)]] = False


def _check_empty(leaf: pa.Array, is_plain: NDArray[np.bool_]) -> None:
    if not is_text(leaf.type):
        _nothing(leaf, is_plain)
        return
    texts = leaf.dictionary_decode() if pa.types.is_dictionary(leaf.type) else leaf
    is_plain &= pc.equal(texts, "").fill_null(True).to_numpy(zero_copy_only=False)


def _roles_of_messages(
    leaf: pa.Array, shapes: Shapes, is_plain: NDArray[np.bool_], *, has_contents: bool
) -> list[Part]:
    if not is_list(leaf.type):
        return _nothing(leaf, is_plain)
    lengths = lengths_of(leaf)
    codes = _code_roles(leaf.flatten(), shapes, has_contents=has_contents)
    is_plain[np.repeat(np.arange(len(leaf)), lengths)[codes == _OTHER_ROLE]] = False
    # The codes of a row's roles are a slice of bytes: few different ones, each turned into roles once.
    known, names = codes.tobytes(), _Names(shapes.known_roles)
    ends = np.cumsum(lengths)
    bounds = zip(is_valid(leaf).tolist(), (ends - lengths).tolist(), ends.tolist(), strict=True)
    return [names[known[start:end]] if has_list else None for has_list, start, end in bounds]


def _roles(leaf: pa.Array, shapes: Shapes, is_plain: NDArray[np.bool_], *, has_contents: bool) -> list[Part]:
    valid = is_valid(leaf)
    codes = _code_roles(leaf, shapes, has_contents=has_contents)
    is_plain &= ~valid | (codes != _OTHER_ROLE)
    names: list[Part] = [*shapes.known_roles, *[None] * (_OTHER_ROLE + 1 - len(shapes.known_roles))]
    return [names[code] if has_role else None for code, has_role in zip(codes.tolist(), valid.tolist(), strict=True)]


class _Names(dict[bytes, Part]):
    def __init__(self, roles: Sequence[str]) -> None:
        super().__init__()
        self._roles = roles

    def __missing__(self, codes: bytes) -> Part:
        known = tuple(self._roles[code] for code in codes if code != _OTHER_ROLE)
        self[codes] = known
        return known


def _code_roles(messages: pa.Array, shapes: Shapes, *, has_contents: bool) -> NDArray[np.uint8]:
    """Number the role of each message among those known; `_OTHER_ROLE` where a row with the message has no shape."""
    others = np.full(len(messages), _OTHER_ROLE, np.uint8)
    roles = _field(messages, shapes.role_tag)
    contents = None if has_contents else _field(messages, shapes.content_tag)
    if roles is None or not is_text(roles.type):
        return others
    if not has_contents and (contents is None or not is_text(contents.type)):
        return others
    is_shaped = is_valid(roles) if contents is None else is_valid(roles) & is_valid(contents)
    calls = _field(messages, "tool_calls") if shapes.has_tool_calls else None
    if calls is not None:
        is_shaped &= (lengths_of(calls) == 0) if is_list(calls.type) else ~is_valid(calls)
    coded = (roles.dictionary_decode() if pa.types.is_dictionary(roles.type) else roles).dictionary_encode()
    numbers = {role: number for number, role in enumerate(shapes.known_roles)}
    code_of = np.array([numbers.get(role, _OTHER_ROLE) for role in coded.dictionary.to_pylist()] or [0], np.uint8)
    codes: NDArray[np.uint8] = code_of[coded.indices.fill_null(0).to_numpy(zero_copy_only=False)]
    return np.where(is_shaped, codes, others)


def _field(messages: pa.Array, key: str) -> pa.Array | None:
    """Return a field of structs, null where the struct is; None if there is no such field, or there are several."""
    if not pa.types.is_struct(messages.type) or len(messages.type.get_all_field_indices(key)) != 1:
        return None
    return pc.struct_field(messages, messages.type.get_field_index(key))
