"""The shapes of JSON rows: the types with which the columns are decoded, and the shape of a decoded row.

Texts are decoded as `msgspec.Raw`, a slice of the line: their first byte tells a text from a null, and no Python
string is made of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any, Literal

import msgspec

from mig_selector.pool.leaves.shapes import TEXT, Part, Shapes


_QUOTE, _NULL = b'"n'
"""First bytes of a JSON string and of null."""


class ShapelessError(Exception):
    """The row has no shape; it must be judged whole."""


def types_of_columns(shapes: Shapes) -> dict[str, Any]:
    """Return the type of each column that decides the shape; a row with other types is not decoded."""
    return {column.name: _type(column.kind, shapes) for column in shapes.columns or []}


def _type(kind: str, shapes: Shapes) -> Any:
    match kind:
        case "messages":
            return list[_message_type(shapes)] | None  # type: ignore[misc]
        case "message":
            return _message_type(shapes) | None
        case "flag":
            return bool | None
        case "pairs":
            return list[tuple[str, str]] | None
        case "no tools":
            return Literal["", None]
        case _:
            return msgspec.Raw


def _message_type(shapes: Shapes) -> Any:
    fields: list[Any] = [("role", Literal[shapes.known_roles or ("",)]), ("content", msgspec.Raw)]
    if shapes.has_tool_calls:
        fields.append(("calls", None, None))
    names = {"role": shapes.role_tag, "content": shapes.content_tag, "calls": "tool_calls"}
    return msgspec.defstruct("Message", fields, rename=names, gc=False)


def shape_reader(shapes: Shapes, attributes: Mapping[str, str]) -> Callable[[Any], int]:
    """Return a function from a decoded row to the number of its shape, which raises `ShapelessError`.

    Args:
        shapes: Gives the shapes their numbers.
        attributes: The attribute of a decoded row for each column.
    """

    def getters(kinds: Mapping[str, Callable[[Any], Part]]) -> list[tuple[Callable[[Any], Any], Any]]:
        return [
            (attrgetter(attributes[column.name]), kinds[column.kind])
            for column in shapes.columns or []
            if column.kind in kinds
        ]

    parts = getters({"messages": _roles, "message": _role, "text": _text, "flag": _same})
    checks = getters({"any text": _text})
    if len(parts) == 1 and not checks:
        [(get_only, read_only)] = parts
        return lambda record: shapes[read_only(get_only(record)),]

    def read(record: Any) -> int:
        for get, check in checks:
            check(get(record))
        return shapes[tuple([part(get(record)) for get, part in parts])]

    return read


def _roles(messages: Any) -> Part:
    if messages is None:
        return None
    roles = []
    for message in messages:
        if memoryview(message.content)[0] != _QUOTE:
            raise ShapelessError
        roles.append(message.role)
    return tuple(roles)


def _role(message: Any) -> Part:
    roles = _roles(None if message is None else [message])
    return roles[0] if isinstance(roles, tuple) else None


def _text(raw: Any) -> Part:
    first = _NULL if raw is None else memoryview(raw)[0]
    if first == _QUOTE:
        return TEXT
    if first == _NULL:
        return None
    raise ShapelessError


def _same(flag: Any) -> Part:
    part: Part = flag
    return part
