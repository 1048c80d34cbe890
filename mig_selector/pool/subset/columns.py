"""The type that a column of JSON values has over many rows, and the Arrow type that holds them all."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa


FLOAT, BEYOND_JSON = 1, 2
"""What `JsonType.add` found in a value: a float; something that JSON cannot represent. Combined by ``|``."""

_SCALARS = {bool: "bool", int: "int", float: "float", str: "string", bytes: "bytes"}
_MAX_DEPTH = 100
"""Maximum nesting of lists and objects; deeper values would exhaust Python's stack."""
_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\d(?:[ T][\d:.]+(?:Z|[+-][\d:]+)?)?", re.ASCII)
"""Every string that pyarrow's JSON reader takes for a timestamp, and a few more."""


@dataclass(slots=True)
class JsonType:
    """The type of all values of a column, or of one key or item within it; `add` extends it to one more value."""

    kinds: set[str] = field(default_factory=set)
    """Those seen of bool, int, float, string, bytes, list and object."""
    has_text: bool = False
    """A string was not a timestamp."""
    has_timestamp: bool = False
    """A string was one that `datasets` reads as a timestamp if the others around it are, too."""
    has_nan: bool = False
    """A float was NaN or infinite."""
    has_null: bool = False
    """A value was null, or a column absent."""
    has_empty: bool = False
    """A list was empty, or an object had no keys."""
    varies: bool = False
    """Objects had different keys: those that one of them lacks are null there."""
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
        """Whether `datasets` reads from JSON what was written: one shape, nothing missing, text that stays text.

        `datasets` takes the types from the first block of a file (10 MB), and fails on a later row that differs.
        Strings that are all ISO dates become timestamps.
        """
        if len(self.kinds) != 1 or self.has_null or self.has_empty or self.varies or self.has_nan:
            return False
        if "bytes" in self.kinds or ("string" in self.kinds and not self.has_text):
            return False
        return all(part.is_uniform for part in self._below)

    @property
    def holds_timestamp(self) -> bool:
        """Whether a string anywhere in the values is one that `datasets` may read as a timestamp."""
        return self.has_timestamp or any(part.holds_timestamp for part in self._below)

    @property
    def holds_objects(self) -> bool:
        """Whether there is an object anywhere in the values."""
        return "object" in self.kinds or any(part.holds_objects for part in self._below)

    @property
    def is_beyond_json(self) -> bool:
        """Whether there is something anywhere in the values that JSON cannot represent."""
        return self.has_nan or "bytes" in self.kinds or any(part.is_beyond_json for part in self._below)

    @property
    def _below(self) -> list[JsonType]:
        return [*([self.items] if self.items else []), *self.keys.values()]

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
                # Keys that are null throughout stay: the host may index them, or print the object.
                return pa.struct([(key, part.to_arrow(f"{path}.{key}")) for key, part in self.keys.items()])
            case "bool":
                return pa.bool_()
            case "int":
                return pa.int64()
            case "float":
                return pa.float64()
            case "bytes":
                return pa.binary()
            case "null":
                return pa.null()
            case _:
                return pa.string()

    def add(self, value: Any, depth: int = 0) -> int:
        """Extend the type to `value`, which is nested `depth` levels deep in its column.

        Returns:
            What was found in it: `FLOAT`, `BEYOND_JSON`, both or neither.

        Raises:
            TypeError: The value is neither of JSON nor bytes; the message names its type. Or it is nested too deeply.
        """
        if depth > _MAX_DEPTH:
            raise TypeError(f"it is nested deeper than {_MAX_DEPTH} levels")
        if value is None:
            self.has_null = True
            return 0
        if isinstance(value, dict):
            return self._add_object(value, depth)
        if isinstance(value, list):
            return self._add_list(value, depth)
        name = _SCALARS.get(type(value))
        match name:
            case None:
                raise TypeError(f"it contains a value of type {type(value).__name__}, which JSON cannot represent")
            case "string":
                self._add_text(value)
                return 0
            case "float" if not math.isfinite(value):
                self.has_nan = True
                found = FLOAT | BEYOND_JSON
            case "float":
                found = FLOAT
            case "bytes":
                found = BEYOND_JSON
            case _:
                found = 0
        self.kinds.add(name)
        return found

    def _add_text(self, text: str) -> None:
        self.kinds.add("string")
        if text[4:5] == "-" and _TIMESTAMP.fullmatch(text):
            self.has_timestamp = True
        else:
            self.has_text = True

    def _add_list(self, value: list[Any], depth: int) -> int:
        self.kinds.add("list")
        self.has_empty = self.has_empty or not value
        if value and self.items is None:
            self.items = JsonType()
        found = 0
        for item in value:
            found |= self.items.add(item, depth + 1)  # type: ignore[union-attr]
        return found

    def _add_object(self, value: dict[str, Any], depth: int) -> int:
        is_first = "object" not in self.kinds
        self.kinds.add("object")
        self.has_empty = self.has_empty or not value
        if self.keys.keys() != value.keys():
            self.varies = self.varies or not is_first
            for key in value:
                self.keys.setdefault(key, JsonType())
        found = 0
        # Keys that this object lacks are not visited: `varies` is all there is to know of them, and there can be many.
        for key, item in value.items():
            part = self.keys[key]
            if type(item) is str:  # most values of messages are strings, and add nothing to those before them
                if not part.has_text or item[4:5] == "-":
                    part._add_text(item)
            else:
                found |= part.add(item, depth + 1)
        return found

    def merge(self, other: JsonType) -> None:
        """Extend the type to all values of another; keys that are new come last."""
        self.varies = self.varies or other.varies or ("object" in self.kinds and self.keys.keys() != other.keys.keys())
        self.kinds |= other.kinds
        for flag in ("has_text", "has_timestamp", "has_nan", "has_null", "has_empty"):
            setattr(self, flag, getattr(self, flag) or getattr(other, flag))
        if other.items is not None:
            self.items = self.items or JsonType()
            self.items.merge(other.items)
        for key, part in other.keys.items():
            self.keys.setdefault(key, JsonType()).merge(part)
