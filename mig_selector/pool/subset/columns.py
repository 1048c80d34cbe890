"""The type that a column of JSON values has over many rows, and the Arrow type that holds them all."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa


_SCALARS = {bool: "bool", int: "int", float: "float", str: "string"}
_MAX_DEPTH = 100
"""Maximum nesting of lists and objects; deeper values would exhaust Python's stack."""


@dataclass(slots=True)
class JsonType:
    """The type of all values of a column, or of one key or item within it; `add` extends it to one more value."""

    kinds: set[str] = field(default_factory=set)
    """Those seen of bool, int, float, string, list and object."""
    has_null: bool = False
    """A value was null or absent."""
    has_empty: bool = False
    """A list was empty, or an object had no keys."""
    varies: bool = False
    """Objects had different keys."""
    items: JsonType | None = None
    """Type of the items of lists."""
    keys: dict[str, JsonType] = field(default_factory=dict)
    """Types of the values of objects, by key."""

    @property
    def is_empty(self) -> bool:
        """Whether there was no value at all: only nulls, empty lists, and objects of nothing else."""
        if self.kinds == {"list"}:
            return self.items is None
        if self.kinds == {"object"}:
            return all(part.is_empty for part in self.keys.values())
        return not self.kinds

    @property
    def is_uniform(self) -> bool:
        """Whether `datasets` can read the column from JSON: one shape, and nothing missing.

        `datasets` takes the types from the first block of a file (10 MB), and fails on a later row that differs.
        """
        if len(self.kinds) != 1 or self.has_null or self.has_empty or self.varies:
            return False
        below = [self.items] if self.items else list(self.keys.values())
        return all(part.is_uniform for part in below)

    def to_arrow(self, path: str) -> pa.DataType:
        """Return the Arrow type that can hold every value seen.

        Args:
            path: Names the column, key or item in the error message.

        Raises:
            TypeError: No Arrow type can hold them all; the message names the path and the kinds found.
        """
        kinds = self.kinds
        if kinds == {"int", "float"}:
            return pa.float64()
        if len(kinds) > 1:
            raise TypeError(f"{path} mixes {' and '.join(sorted(kinds))}")
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

    def add(self, value: Any, depth: int = 0) -> bool:
        """Extend the type to `value`, which is nested `depth` levels deep in its column.

        Returns:
            Whether there is a float in it.

        Raises:
            TypeError: JSON cannot represent a value; the message names its type. Or it is nested too deeply.
        """
        if depth > _MAX_DEPTH:
            raise TypeError(f"it is nested deeper than {_MAX_DEPTH} levels")
        if value is None:
            self.has_null = True
            return False
        if isinstance(value, dict):
            return self._add_object(value, depth)
        if isinstance(value, list):
            return self._add_list(value, depth)
        name = _SCALARS.get(type(value))
        if name is None:
            raise TypeError(f"it contains a value of type {type(value).__name__}, which JSON cannot represent")
        self.kinds.add(name)
        return name == "float"

    def _add_list(self, value: list[Any], depth: int) -> bool:
        self.kinds.add("list")
        self.has_empty = self.has_empty or not value
        if value and self.items is None:
            self.items = JsonType()
        has_float = False
        for item in value:
            has_float |= self.items.add(item, depth + 1)  # type: ignore[union-attr]
        return has_float

    def _add_object(self, value: dict[str, Any], depth: int) -> bool:
        is_first = "object" not in self.kinds
        self.kinds.add("object")
        self.has_empty = self.has_empty or not value
        if self.keys.keys() != value.keys():
            self.varies = self.varies or not is_first
            for key in value:
                self.keys.setdefault(key, JsonType(has_null=not is_first))
        has_float = False
        for key, part in self.keys.items():
            item = value.get(key)
            if type(item) is str:  # what `add` would do, without the call: most values of messages are strings
                part.kinds.add("string")
            else:
                has_float |= part.add(item, depth + 1)
        return has_float
