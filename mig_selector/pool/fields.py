"""Where a row's labels and score stand, and what they must be.

A field on the way to which something is missing, null or empty is *absent*: its row is dropped and counted. A field
that is there but is not what it must be makes its row *unreadable*.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec


SCORE_PATHS: dict[str, tuple[str, ...]] = {
    "deita": ("annotation.deita.quality_scores", "annotation.deita.complexity_scores"),
    "ifd": ("ifd_score.content",),
    "num_labels": (),
    "constant": (),
}


@dataclass(frozen=True, slots=True)
class Dropped:
    """A readable row that lacks what selection needs."""

    reason: str


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A row that cannot be used, and why, in words that follow ``file:line``."""

    reason: str


class LeafDecoder:
    """Decodes of a JSON line only what stands at the given dotted paths, checking the syntax of all of it."""

    def __init__(self, paths: tuple[str, ...]) -> None:
        """Prepare the decoder for `paths`."""
        self._paths = tuple(tuple(path.split(".")) for path in paths)
        self._decoder = msgspec.json.Decoder(_record_type(self._paths))
        self._keys = tuple(_attribute_path(self._paths, path) for path in self._paths)

    @property
    def columns(self) -> list[str]:
        """Top-level columns on the way to the paths."""
        return list(dict.fromkeys(path[0] for path in self._paths))

    def decode(self, line: bytes) -> tuple[Any, ...] | Unreadable:
        """Return the values at the paths, None where there is none."""
        try:
            record = self._decoder.decode(line)
            if not line.isascii():
                line.decode("utf-8")
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return self._decode_slowly(line)
        return tuple(_follow(record, keys) for keys in self._keys)

    def _decode_slowly(self, line: bytes) -> tuple[Any, ...] | Unreadable:
        """Read what the fast decoder refuses: NaN, numbers out of range, and whatever needs a better message."""
        try:
            record = json.loads(line.decode("utf-8"))
            json.dumps(record, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError:
            return Unreadable("holds half of a surrogate pair (\\ud800 to \\udfff), which is no text")
        except UnicodeDecodeError as error:
            return Unreadable(f"is not UTF-8 (byte {error.start + 1} of the line)")
        except RecursionError:
            return Unreadable("is nested too deeply")
        except ValueError as error:
            return Unreadable(f"is not JSON ({error})")
        if not isinstance(record, dict):
            return Unreadable(f"must be a JSON object, got {_kind(record)}")
        return self.of_mapping(record)

    def of_mapping(self, record: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return the values at the paths of a row that is already decoded."""
        return tuple(look_up(record, path) for path in self._paths)


def look_up(record: Any, path: tuple[str, ...]) -> Any:
    """Follow `path` through nested mappings; None where it ends early."""
    for key in path:
        if not isinstance(record, Mapping):
            return None
        record = record.get(key)
    return record


def _tree(paths: tuple[tuple[str, ...], ...]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path in paths:
        node = tree
        for key in path:
            node = node.setdefault(key, {})
    return tree


def _record_type(paths: tuple[tuple[str, ...], ...]) -> Any:
    """Build a struct type that has just the fields on the way to the paths; the decoder skips all others."""

    def build(tree: dict[str, Any]) -> Any:
        kinds = [build(below) | None if below else Any for below in tree.values()]
        fields = [(f"f{place}", kind, None) for place, kind in enumerate(kinds)]
        return msgspec.defstruct("Record", fields, rename={f"f{place}": key for place, key in enumerate(tree)})

    return build(_tree(paths))


def _attribute_path(paths: tuple[tuple[str, ...], ...], path: tuple[str, ...]) -> tuple[str, ...]:
    tree, attributes = _tree(paths), []
    for key in path:
        attributes.append(f"f{list(tree).index(key)}")
        tree = tree[key]
    return tuple(attributes)


def _follow(record: Any, attributes: tuple[str, ...]) -> Any:
    for attribute in attributes:
        if record is None:
            return None
        record = getattr(record, attribute)
    return record


class RowJudge:
    """Turns the values of a row into its labels and score, or says why there are none."""

    def __init__(self, labels: str, score: str) -> None:
        """Judge by the keys ``mig_labels`` and ``mig_score``."""
        self._labels = labels
        self._score = score
        self._score_paths = SCORE_PATHS.get(score, (score,))
        self.paths: tuple[str, ...] = (labels, *self._score_paths)

    def judge(self, values: tuple[Any, ...]) -> tuple[list[str], float] | Dropped | Unreadable:
        """Judge the values that stand at `paths`; the score is NaN where it is the number of labels."""
        labels, *scores = values
        fault = self._label_fault(labels)
        absent = None if labels else f"no labels at {self._labels}"
        for path, value in zip(self._score_paths, scores, strict=True):
            fault = fault or _score_fault(path, value)
            if absent is None and (value is None or value == []):
                absent = f"no score at {path}"
        if fault:
            return Unreadable(fault)
        if absent:
            return Dropped(absent)
        return self._with_score(labels, [_floats(value) for value in scores])

    def _label_fault(self, labels: Any) -> str | None:
        if labels is None:
            return None
        if not isinstance(labels, list):
            return f"{self._labels} must be a list of strings, got {_kind(labels)}"
        for label in labels:
            if type(label) is not str:
                return f"{self._labels} must be a list of strings, got {_kind(label)} in it"
        return None

    def _with_score(self, labels: list[str], scores: list[list[float]]) -> tuple[list[str], float] | Unreadable:
        if self._score == "deita":
            quality, complexity = scores
            if len(quality) != len(complexity):
                return Unreadable(
                    "must have as many quality as complexity scores, one of each a turn, "
                    f"got {len(quality)} and {len(complexity)}"
                )
            score = _mean([q * c for q, c in zip(quality, complexity, strict=True)])
        elif scores:
            score = _mean(scores[0])
        else:
            score = 1.0 if self._score == "constant" else math.nan
        return (labels, score) if score < math.inf or math.isnan(score) else Unreadable("the score is infinite")


def _floats(value: Any) -> list[float]:
    return [float(number) for number in (value if isinstance(value, list) else [value])]


def _mean(numbers: list[float]) -> float:
    """Add up from left to right, as every version of Python and numpy does for short lists, and divide."""
    total = 0.0
    for number in numbers:
        total += number
    return total / len(numbers)


def _score_fault(path: str, value: Any) -> str | None:
    for number in value if isinstance(value, list) else [value]:
        if number is None and not isinstance(value, list):
            return None
        if isinstance(number, bool) or not isinstance(number, int | float):
            return f"{path} must be a number or a list of numbers, got {_kind(number)}"
        if not 0 <= number <= sys.float_info.max:
            return f"{path} must be a finite number of 0 or more, got {number!s:.40}"
    return None


def _kind(value: Any) -> str:
    """Name a JSON value for people."""
    if isinstance(value, str):
        return f"the text {value[:40]!r}"
    if isinstance(value, dict | msgspec.Struct):
        return "an object"
    if isinstance(value, list):
        return "a list"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return f"the number {value}"
