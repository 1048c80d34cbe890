"""Reading of a JSON line no more than what stands at the wanted paths."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any

import msgspec

from mig_selector.pool.leaves.verdicts import Unreadable


MAX_ROW_BYTES = 64 << 20
"""Longest row of text that is read; decoded it can take twenty times as much memory."""
_INT_DIGITS = 4_300
"""Integers with more digits are as good as infinite; Python refuses to read them."""

HALF_PAIR = Unreadable("holds half of a surrogate pair (\\ud800 to \\udfff), which is no text")
TOO_DEEP = Unreadable("is nested too deeply")

_LABELS = list[str] | None
_SCORE = list[float] | float | None


class LeafDecoder:
    """Decodes of a JSON line only what stands at some dotted paths, checking the syntax of all of it.

    The first path leads to labels, the others to scores.
    """

    def __init__(self, paths: Sequence[str | None]) -> None:
        """Prepare the decoder for `paths`; what None stands for is not wanted, and always absent."""
        self.paths = tuple(tuple(path.split(".")) if path is not None else None for path in paths)
        self.wanted = [path for path in self.paths if path is not None]
        tree = _tree(self.paths)
        self._has_clash = any(
            one[: len(other)] == other for one in self.wanted for other in self.wanted if one is not other
        )
        self._decode = msgspec.json.Decoder(_record_type(tree)).decode
        self._leaves = [_attributes(tree, path) for path in self.paths]
        self._take = _take_all(self._leaves)

    @property
    def columns(self) -> list[str]:
        """Top-level columns on the way to the paths."""
        return list(dict.fromkeys(path[0] for path in self.wanted))

    def decode_plain(self, line: bytes | memoryview) -> tuple[Any, ...] | None:
        """Return labels and scores of a row where they are what they should be or absent (None), else None.

        Args:
            line: JSON, known to be UTF-8: the decoder does not look into the texts that it skips.
        """
        if self._has_clash:
            return None
        try:
            record = self._decode(line)
        except (msgspec.MsgspecError, RecursionError):
            return None
        try:
            return self._take(record)
        except AttributeError:  # a path ends early
            return tuple(_follow(record, leaf) for leaf in self._leaves)

    def decode(self, line: bytes) -> tuple[Any, ...] | Unreadable:
        """Return the values at the paths, of whatever kind, None where there is none; or what is wrong.

        Args:
            line: JSON; empty stands for a row that is too long to be read.
        """
        if not line:
            return Unreadable(f"is longer than {MAX_ROW_BYTES >> 20} MiB")
        try:
            record = parse_json(line.decode("utf-8"))
            if has_half_pair(record):
                return HALF_PAIR
        except UnicodeDecodeError as error:
            return Unreadable(f"is not UTF-8 (byte {error.start + 1} of the line)")
        except RecursionError:
            return TOO_DEEP
        except ValueError as error:
            return Unreadable(f"is not JSON ({error})")
        if not isinstance(record, dict):
            return Unreadable(f"must be a JSON object, got {describe_kind(record)}")
        return self.of_mapping(record)

    def of_mapping(self, record: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return the values at the paths of a row that is already decoded."""
        return tuple(look_up(record, path) for path in self.paths)


def parse_json(text: str) -> Any:
    """Read JSON, and NaN and infinity where they stand for numbers.

    Raises:
        ValueError, RecursionError: It is none, or nested too deeply.
    """
    return json.loads(text, parse_int=_parse_int)


def _parse_int(digits: str) -> float:
    return int(digits) if len(digits.lstrip("-")) <= _INT_DIGITS else float(digits)


def has_half_pair(value: Any) -> bool:
    """Whether a JSON value holds half of a surrogate pair, which no file can hold; may raise a RecursionError."""
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


def look_up(record: Any, path: tuple[str, ...] | None) -> Any:
    """Follow `path` through nested mappings; None where it ends early, or where there is none to follow."""
    if path is None:
        return None
    for key in path:
        if not isinstance(record, Mapping):
            return None
        record = record.get(key)
    return record


def describe_kind(value: Any) -> str:
    """Name a JSON value for people."""
    if isinstance(value, str):
        return f"the text {value[:40]!r}"
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list):
        return "a list"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return f"the number {value!s:.40}" if isinstance(value, int | float) else f"a value of type {type(value).__name__}"


def _tree(paths: Sequence[tuple[str, ...] | None]) -> dict[str, Any]:
    """Nest the keys of all paths; what stands at a leaf is the type of its value."""
    tree: dict[str, Any] = {}
    for number, path in enumerate(paths):
        if path is None:
            continue
        node = tree
        for key in path[:-1]:
            below = node.get(key)
            node[key] = node = below if isinstance(below, dict) else {}
        node.setdefault(path[-1], _SCORE if number else _LABELS)
    return tree


def _record_type(tree: Mapping[str, Any]) -> Any:
    """Build a struct type that has just the fields of the tree; the decoder skips all others."""
    kinds = [_record_type(below) | None if isinstance(below, dict) else below for below in tree.values()]
    fields = [(f"f{place}", kind, None) for place, kind in enumerate(kinds)]
    return msgspec.defstruct("Record", fields, rename={f"f{place}": key for place, key in enumerate(tree)}, gc=False)


def _attributes(tree: Mapping[str, Any], path: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Return the names that the struct type has for the keys of a path."""
    if path is None:
        return None
    names = []
    node: Any = tree
    for key in path:
        names.append(f"f{list(node).index(key)}")
        node = node[key]
    return tuple(names)


def _take_all(leaves: Sequence[tuple[str, ...] | None]) -> Callable[[Any], tuple[Any, ...]]:
    wanted = [".".join(leaf) for leaf in leaves if leaf is not None]
    if len(wanted) == len(leaves) > 1:
        return attrgetter(*wanted)
    getters = [None if leaf is None else attrgetter(".".join(leaf)) for leaf in leaves]
    return lambda record: tuple(None if getter is None else getter(record) for getter in getters)


def _follow(record: Any, attributes: Sequence[str] | None) -> Any:
    if attributes is None:
        return None
    for attribute in attributes:
        if record is None:
            return None
        record = getattr(record, attribute)
    return record
