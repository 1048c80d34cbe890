"""Decode from a JSON line only the values at some dotted paths, and the shape of the row."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any

import msgspec

from mig_selector.pool.leaves.json_shapes import ShapelessError, shape_reader, types_of_columns
from mig_selector.pool.leaves.labels import StoredLabels
from mig_selector.pool.leaves.paths import Keys, look_up, readings
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

_LABELS = list[str] | str | None
_NUMBERS = list[float] | float | None


class LeafDecoder:
    """Decodes only the values at some dotted paths of a JSON line, and checks the syntax of the whole line.

    The values at the paths of labels come first, then the numbers. If shapes are wanted, one more value follows: the
    number of the row's shape where the row is plain, else the row itself.
    """

    def __init__(
        self,
        labels: StoredLabels | None = None,
        numbers: Sequence[Sequence[str]] = (),
        shapes: Shapes | None = None,
    ) -> None:
        """Build the decoder.

        Args:
            labels: Where labels are; None if none are wanted.
            numbers: The dotted paths where each number (or list of numbers) may be, in the order of preference.
            shapes: Numbers the shapes of the rows; None if they are not wanted.
        """
        self.labels = labels or StoredLabels()
        self.shapes = shapes
        names = [*((path,) for path in self.labels.paths), *numbers]
        self.paths = [path for paths in names for path in paths]
        self.ways = [[keys for path in paths for keys in readings(path)] for paths in names]
        kinds = [_LABELS if index < len(self.labels.paths) else _NUMBERS for index in range(len(names))]
        tree = _tree(self.ways, kinds)
        # Where one path runs through the value of another, a key would have to be a leaf and an object at once, which
        # a struct type cannot express; likewise where one begins at a column that decides the shape, and keys with
        # some characters. All rows then take the slow path. So do those that never have a shape.
        self._is_slow = (
            _have_conflict(self.ways)
            or any(_NOT_IN_A_FIELD.search(key) for ways in self.ways for keys in ways for key in keys)
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
        self._ways = [[_attributes(tree, keys) for keys in ways] for ways in self.ways]
        self._take = _take_all([ways[0] for ways in self._ways])
        attributes = {column: f"f{index}" for index, column in enumerate(tree)}
        self._shape = None if shapes is None or self._is_slow else shape_reader(shapes, attributes)

    @property
    def annotations(self) -> list[str]:
        """Top-level columns at which a way to a value begins; a file has few of them."""
        return list(dict.fromkeys(keys[0] for ways in self.ways for keys in ways))

    @property
    def columns(self) -> list[str]:
        """The columns of `annotations` and, if shapes are wanted, those that training reads."""
        trained = self.shapes.names if self.shapes is not None else []
        return list(dict.fromkeys((*self.annotations, *trained)))

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
            values = self._take(record)
            if None not in values:
                return values + shape
        except AttributeError:  # on the way is a null or a list, where attrgetter cannot follow
            pass
        try:
            return (*(_first(record, ways) for ways in self._ways), *shape)
        except AttributeError:  # in a list on the way is not an object, or not a single value at its end
            return None

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
        values = tuple(look_up(record, ways) for ways in self.ways)
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


def _have_conflict(ways: Sequence[Sequence[Keys]]) -> bool:
    """Whether a way to one value is the beginning of a way to another, or the same."""
    every = [(value, keys) for value, each in enumerate(ways) for keys in each]
    return any(longer[: len(keys)] == keys for value, keys in every for other, longer in every if value != other)


def _tree(ways: Sequence[Sequence[Keys]], kinds: Sequence[Any]) -> dict[str, Any]:
    """Nest the keys of all ways; a leaf is the type of its value."""
    tree: dict[str, Any] = {}
    for each, kind in zip(ways, kinds, strict=True):
        for keys in each:
            node = tree
            for key in keys[:-1]:
                below = node.get(key)
                node[key] = node = below if isinstance(below, dict) else {}
            node.setdefault(keys[-1], kind)
    return tree


def _record_type(tree: Mapping[str, Any]) -> Any:
    """Build a struct type with just the fields of the tree."""
    kinds = [_below_type(below) if isinstance(below, dict) else below for below in tree.values()]
    # The fields have names of our own, because a key need not be a Python identifier. gc=False: structs of lists and
    # numbers form no cycles, and the garbage collector need not track millions of them.
    fields = [(f"f{index}", kind, None) for index, kind in enumerate(kinds)]
    return msgspec.defstruct("Record", fields, rename={f"f{index}": key for index, key in enumerate(tree)}, gc=False)


def _below_type(tree: Mapping[str, Any]) -> Any:
    record = _record_type(tree)
    return record | list[record] | None  # type: ignore[valid-type]


def _attributes(tree: Mapping[str, Any], keys: Keys) -> Keys:
    """Return the fields of the struct types along a way."""
    names = []
    node: Any = tree
    for key in keys:
        names.append(f"f{list(node).index(key)}")
        node = node[key]
    return tuple(names)


def _take_all(leaves: Sequence[Keys]) -> Callable[[Any], tuple[Any, ...]]:
    """Return a function from a record to all its leaves; one attrgetter follows all ways without Python code."""
    if len(leaves) > 1:
        return attrgetter(*map(".".join, leaves))
    getters = [attrgetter(".".join(leaf)) for leaf in leaves]
    return lambda record: tuple([get(record) for get in getters])


def _first(record: Any, ways: Sequence[Keys]) -> Any:
    """Do for a decoded row what `look_up` does for a mapping.

    Raises:
        AttributeError: A list on the way holds something other than objects with one string or number each.
    """
    for attributes in ways:
        value, has_list = record, False
        for attribute in attributes:
            if value is None:
                break
            if type(value) is list:
                value, has_list = [getattr(item, attribute) for item in value], True
            else:
                value = getattr(value, attribute)
        if has_list and not all(type(each) in (str, float) for each in value):
            raise AttributeError(f"{value} is not a list of single values")
        if value is not None:
            return value
    return None
