"""Where a value may be in a row: a dotted path can be read in more than one way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias


Keys: TypeAlias = tuple[str, ...]
"""Keys from a row down to a value, one for each level; the first is a column."""


def readings(path: str) -> list[Keys]:
    """Return the ways to read a dotted path, the usual one first.

    ``a.b.c`` is c in b in a. If there is no such value it is c in the column ``a.b``, or the column ``a.b.c``:
    `Dataset.flatten` and pandas' `json_normalize` make such columns.
    """
    keys = path.split(".")
    return [(".".join(keys[:level]), *keys[level:]) for level in range(1, len(keys) + 1)]


def look_up(record: Mapping[str, Any], ways: Iterable[Keys]) -> Any:
    """Return the value at the first of `ways` that leads to one; None if none does.

    At a list of objects a key stands for the list of their values.
    """
    for keys in ways:
        value: Any = record
        for key in keys:
            value = _step(value, key)
        if value is not None:
            return value
    return None


def _step(value: Any, key: str) -> Any:
    if isinstance(value, Mapping):
        return value.get(key)
    if isinstance(value, list) and all(isinstance(item, Mapping) for item in value):
        return [item.get(key) for item in value]
    return None
