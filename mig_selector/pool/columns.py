"""The type that a column of JSON values has over many rows, and the Arrow type that holds them all."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa


_MAX_DEPTH = 100
"""Levels of lists and objects within each other; more would exhaust Python's stack."""


@dataclass(frozen=True)
class JsonType:
    """What the values of one place look like, seen over rows; `merge` makes it cover one more value."""

    kinds: frozenset[str] = frozenset()
    """Of: bool, int, float, string, list, object."""
    has_null: bool = False
    """A value was null or absent."""
    has_empty: bool = False
    """A list was empty, or an object had no key."""
    varies: bool = False
    """Objects had different keys, or numbers were now whole and now not."""
    items: JsonType | None = None
    """Type of a list's items."""
    keys: dict[str, JsonType] = field(default_factory=dict)
    """Type by key of an object."""

    @property
    def is_empty(self) -> bool:
        """Whether no value was ever there."""
        if self.kinds == {"list"}:
            return self.items is None
        if self.kinds == {"object"}:
            return all(part.is_empty for part in self.keys.values())
        return not self.kinds

    @property
    def is_uniform(self) -> bool:
        """Whether `datasets` reads the column from JSON however late a row comes: one shape, nothing missing."""
        if len(self.kinds) != 1 or self.has_null or self.has_empty or self.varies:
            return False
        below = [self.items] if self.items else list(self.keys.values())
        return all(part.is_uniform for part in below)

    def to_arrow(self, path: str) -> pa.DataType:
        """Return the Arrow type that holds every value seen.

        Args:
            path: The place, for the message.

        Raises:
            TypeError: No Arrow type holds them all; names the place and the kinds found.
        """
        kinds = self.kinds
        if kinds == {"int", "float"}:
            return pa.float64()
        if len(kinds) > 1:
            raise TypeError(f"{path} is now {' and now '.join(sorted(kinds))}")
        match next(iter(kinds), "null"):
            case "list":
                return pa.list_(self.items.to_arrow(f"{path}[]") if self.items else pa.string())
            case "object":
                fields = [
                    (key, part.to_arrow(f"{path}.{key}")) for key, part in self.keys.items() if not part.is_empty
                ]
                return pa.struct(fields)
            case "bool":
                return pa.bool_()
            case "int":
                return pa.int64()
            case "float":
                return pa.float64()
            case _:
                return pa.string()


def merge(seen: JsonType | None, value: Any, depth: int = 0) -> JsonType:
    """Make `seen` cover `value`, too, which stands `depth` levels deep in its column.

    Raises:
        TypeError: `value` is nothing that JSON can hold, which names its type, or is nested too deeply.
    """
    if depth > _MAX_DEPTH:
        raise TypeError(f"it is nested deeper than {_MAX_DEPTH} levels")
    seen_before = seen is not None
    known = seen or JsonType()
    if value is None:
        return replace(known, has_null=True)
    if isinstance(value, dict):
        return _merge_object(known, value, depth)
    if isinstance(value, list):
        items = known.items
        for item in value:
            items = merge(items, item, depth + 1)
        return replace(known, kinds=known.kinds | {"list"}, items=items, has_empty=known.has_empty or not value)
    names = {bool: "bool", int: "int", float: "float", str: "string"}
    if type(value) not in names:
        raise TypeError(f"it holds a value of type {type(value).__name__}, which JSON cannot hold")
    kinds = known.kinds | {names[type(value)]}
    return replace(known, kinds=kinds, varies=known.varies or (seen_before and len(kinds) > 1))


def _merge_object(known: JsonType, value: dict[str, Any], depth: int) -> JsonType:
    keys = dict(known.keys)
    is_first = "object" not in known.kinds
    for key in dict.fromkeys((*keys, *value)):
        part = merge(keys.get(key), value.get(key), depth + 1)
        keys[key] = part if is_first or key in known.keys else replace(part, has_null=True)
    return replace(
        known,
        kinds=known.kinds | {"object"},
        keys=keys,
        has_empty=known.has_empty or not value,
        varies=known.varies or (not is_first and set(known.keys) != set(value)),
    )
