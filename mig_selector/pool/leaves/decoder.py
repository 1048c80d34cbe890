"""Decode from a JSON line only the values at some dotted paths, and the shape of the row."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any

import msgspec

from mig_selector.pool.leaves.json_shapes import ShapelessError, shape_reader, types_of_columns
from mig_selector.pool.leaves.shapes import Shapes
from mig_selector.pool.leaves.verdicts import Unreadable


MAX_ROW_BYTES = 64 << 20
"""Longest row of text that is read; a decoded row can take twenty times as much memory."""
_INT_DIGITS = 4_300
"""Python refuses to parse integers with more digits; they are read as infinite."""

_NOT_IN_A_FIELD = re.compile(r'["\\\x00-\x1f\ud800-\udfff]')
"""Characters that msgspec does not allow in the name of a field."""

LONE_SURROGATE = Unreadable("contains half of a surrogate pair (\\ud800 to \\udfff), which is not valid text")
TOO_DEEP = Unreadable("is nested too deeply")

_LABELS = list[str] | None
_SCORE = list[float] | float | None


class LeafDecoder:
    """Decodes only the values at some dotted paths of a JSON line, and checks the syntax of the whole line.

    The first path leads to labels, the others to scores. If shapes are wanted, one more value follows: the number of
    the row's shape where the row is plain, else the row itself.
    """

    def __init__(self, paths: Sequence[str | None], shapes: Shapes | None = None) -> None:
        """Build the decoder.

        Args:
            paths: Dotted paths; None stands for a value that is not wanted and always absent.
            shapes: Numbers the shapes of the rows; None if they are not wanted.
        """
        self.paths = tuple(tuple(path.split(".")) if path is not None else None for path in paths)
        self.wanted = [path for path in self.paths if path is not None]
        self.shapes = shapes
        tree = _tree(self.paths)
        # Where one path runs through the value of another, a key would have to be a leaf and an object at once, which
        # a struct type cannot express; likewise where one begins at a column that decides the shape, and keys with
        # some characters. All rows then take the slow path. So do those that never have a shape.
        self._is_slow = (
            any(one[: len(other)] == other for one in self.wanted for other in self.wanted if one is not other)
            or any(_NOT_IN_A_FIELD.search(key) for path in self.wanted for key in path)
            or (
                shapes is not None
                and (
                    shapes.columns is None
                    or not tree.keys().isdisjoint(column.name for column in shapes.columns)
                    or any(map(_NOT_IN_A_FIELD.search, shapes.words))
                )
            )
        )
        tree |= {} if self._is_slow or shapes is None else types_of_columns(shapes)
        # Typed decoding: msgspec checks types while it parses, and makes no Python objects for the keys that the
        # struct type lacks. Most of a row is text that selection does not look at.
        self._decode = msgspec.json.Decoder(Any if self._is_slow else _record_type(tree)).decode
        self._leaves = [_attributes(tree, path) for path in self.paths]
        self._take = _take_all(self._leaves)
        attributes = {column: f"f{index}" for index, column in enumerate(tree)}
        self._shape = None if shapes is None or self._is_slow else shape_reader(shapes, attributes)

    @property
    def columns(self) -> list[str]:
        """Top-level columns on the way to the paths and, if shapes are wanted, those that training reads."""
        trained = self.shapes.names if self.shapes is not None else []
        return list(dict.fromkeys((*(path[0] for path in self.wanted), *trained)))

    def decode_plain(self, line: bytes | memoryview) -> tuple[Any, ...] | None:
        """Return the labels and scores of a row, each None if absent, and the number of its shape.

        None where `decode` must look at the row.

        Args:
            line: JSON, known to be UTF-8: msgspec does not check the encoding of strings that it skips.
        """
        if self._is_slow:
            return None
        try:
            record = self._decode(line)
            shape = () if self._shape is None else (self._shape(record),)
        except (msgspec.MsgspecError, RecursionError, ShapelessError):
            return None
        try:
            return self._take(record) + shape
        except AttributeError:  # an object on the way is null or absent, where attrgetter cannot follow
            return (*(_follow(record, leaf) for leaf in self._leaves), *shape)

    def decode(self, line: bytes) -> tuple[Any, ...] | Unreadable:
        """Return the values at the paths, of any type and None if absent; or what is wrong with the row.

        Slower than `decode_plain`: for rows with other types, NaN, huge integers, a fault to describe or no shape.

        Args:
            line: JSON; an empty one stands for a row longer than `MAX_ROW_BYTES`.
        """
        if not line:
            return Unreadable(f"is longer than {MAX_ROW_BYTES >> 20} MiB")
        try:
            record = msgspec.json.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            record = _decode_carefully(line)
        if isinstance(record, Unreadable):
            return record
        if not isinstance(record, dict):
            return Unreadable(f"must be a JSON object, got {describe_kind(record)}")
        return self.of_mapping(record)

    def of_mapping(self, record: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return the values at the paths of a decoded row, and the row itself if shapes are wanted."""
        values = tuple(look_up(record, path) for path in self.paths)
        return values if self.shapes is None else (*values, record)

    def of_shape(self, values: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the values of a plain row with an example of its shape in place of the number of the shape."""
        return values if self.shapes is None else (*values[:-1], self.shapes.example(values[-1]))


def _decode_carefully(line: bytes) -> Any:
    """Decode a row that msgspec refuses, with NaN and huge numbers; or say what is wrong with it."""
    try:
        record = parse_json(line.decode("utf-8"))
        return LONE_SURROGATE if has_lone_surrogate(record) else record
    except UnicodeDecodeError as error:
        return Unreadable(f"is not UTF-8 (byte {error.start + 1} of the line)")
    except RecursionError:
        return TOO_DEEP
    except ValueError as error:
        return Unreadable(f"is not valid JSON ({error})")


def parse_json(text: str) -> Any:
    """Parse JSON, with NaN and Infinity as numbers.

    Raises:
        ValueError, RecursionError: The text is not valid JSON, or nested too deeply.
    """
    return json.loads(text, parse_int=_parse_int)


def _parse_int(digits: str) -> float:
    return int(digits) if len(digits.lstrip("-")) <= _INT_DIGITS else float(digits)


def has_lone_surrogate(value: Any) -> bool:
    """Whether a JSON value contains half of a surrogate pair, which UTF-8 cannot encode; may raise RecursionError."""
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


def look_up(record: Any, path: tuple[str, ...] | None) -> Any:
    """Follow `path` through nested mappings; None where it ends early, or where `path` is None."""
    if path is None:
        return None
    for key in path:
        if not isinstance(record, Mapping):
            return None
        record = record.get(key)
    return record


def describe_kind(value: Any) -> str:
    """Describe a JSON value in a message: its type, and its value if it is short."""
    if isinstance(value, str):
        return f"the string {value[:40]!r}"
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list):
        return "a list"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return f"the number {value!s:.40}" if isinstance(value, int | float) else f"a value of type {type(value).__name__}"


def _tree(paths: Sequence[tuple[str, ...] | None]) -> dict[str, Any]:
    """Nest the keys of all paths; a leaf is the type of its value."""
    tree: dict[str, Any] = {}
    for index, path in enumerate(paths):
        if path is None:
            continue
        node = tree
        for key in path[:-1]:
            below = node.get(key)
            node[key] = node = below if isinstance(below, dict) else {}
        node.setdefault(path[-1], _SCORE if index else _LABELS)
    return tree


def _record_type(tree: Mapping[str, Any]) -> Any:
    """Build a struct type with just the fields of the tree."""
    kinds = [_record_type(below) | None if isinstance(below, dict) else below for below in tree.values()]
    # The fields have names of our own, because a key need not be a Python identifier. gc=False: structs of lists and
    # numbers form no cycles, and the garbage collector need not track millions of them.
    fields = [(f"f{index}", kind, None) for index, kind in enumerate(kinds)]
    return msgspec.defstruct("Record", fields, rename={f"f{index}": key for index, key in enumerate(tree)}, gc=False)


def _attributes(tree: Mapping[str, Any], path: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Return the fields of the struct types along a path."""
    if path is None:
        return None
    names = []
    node: Any = tree
    for key in path:
        names.append(f"f{list(node).index(key)}")
        node = node[key]
    return tuple(names)


def _take_all(leaves: Sequence[tuple[str, ...] | None]) -> Callable[[Any], tuple[Any, ...]]:
    """Return a function from a record to all its leaves; one attrgetter follows all paths without Python code."""
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
