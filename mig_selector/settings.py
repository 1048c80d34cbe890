"""What a ``mig_*`` key is: its type, default, range and help, declared beside the value that it sets.

A setting is a dataclass field or a keyword-only parameter with an annotated type and a default::

    qdit_alpha: Annotated[float, Setting("Weight of quality against diversity.", between(0, 1), decides=True)] = 0.7

The parser, the help, the fingerprint of a selection and the reference of keys are all made from that line.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
import types
import typing
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal


PREFIX = "mig_"

Part = Literal["labels", "graph", "row vectors", "texts", "models", "filling", "tokens"]
"""What of a selection a setting belongs to; a run without that part does not depend on the setting."""


def is_own_key(key: Any) -> bool:
    """Whether a key of a configuration is meant for this package; ``MIG_PHI``, ``mig-phi`` and ``mig`` are, too."""
    plain = str(key).lstrip("-").lower().replace("-", "_")
    return plain.startswith(PREFIX) or plain == PREFIX.rstrip("_")


@dataclass(frozen=True)
class Range:
    """The values that a setting may take, beyond its type."""

    text: str
    """For messages, after "expected": ``above 0 and at most 1``."""
    allows: Callable[[Any], bool]


def at_least(lowest: int) -> Range:
    """Allow numbers from `lowest` on, included."""
    return Range(f"{lowest} or more", lambda value: bool(value >= lowest))


def above(limit: float) -> Range:
    """Allow numbers greater than `limit`."""
    return Range(f"above {limit:g}", lambda value: bool(value > limit))


def between(lowest: float, highest: float) -> Range:
    """Allow numbers from `lowest` to `highest`, both included."""
    return Range(f"between {lowest:g} and {highest:g}", lambda value: bool(lowest <= value <= highest))


def above_and_at_most(limit: float, highest: float) -> Range:
    """Allow numbers greater than `limit` up to `highest`, included."""
    return Range(f"above {limit:g} and at most {highest:g}", lambda value: bool(limit < value <= highest))


_MAX_PARTS = 64
DOTTED_PATH = Range(
    f"a dotted path of at most {_MAX_PARTS} parts, none of them empty",
    lambda value: all(value.split(".")) and value.count(".") < _MAX_PARTS,
)
"""Text such as ``annotation.instag.content``."""


@dataclass(frozen=True)
class Setting:
    """Describes one key."""

    help: str
    """A sentence or two for people."""
    allowed: Range | None = None
    """None where the type says it all."""
    _: KW_ONLY
    decides: bool
    """Whether the value decides which rows are chosen or how they are written: then it is part of the fingerprint."""
    part: Part | None = None
    """The part of a selection that the value has an effect on; every selection if None."""
    may_be_blank: bool = False
    """Whether a text may consist of blanks alone."""


@dataclass(frozen=True)
class Key:
    """A key of the YAML, as made from a declaration."""

    name: str
    """With its prefix: ``mig_qdit_alpha``."""
    kind: Any
    """The type of its value: bool, int, float, str or a Literal of texts, or one of them or None."""
    default: Any
    setting: Setting
    group: str
    """Heading under which help and reference list it."""

    @property
    def option(self) -> str:
        """The name without its prefix, as methods know it."""
        return self.name.removeprefix(PREFIX)

    @property
    def choices(self) -> tuple[str, ...]:
        """The allowed texts; empty where there is no such list."""
        kind = _without_none(self.kind)
        return typing.get_args(kind) if typing.get_origin(kind) is Literal else ()

    @property
    def values(self) -> str:
        """Say in words which values are allowed."""
        if self.choices:
            return " or ".join(self.choices)
        if self.setting.allowed is not None:
            return self.setting.allowed.text
        return {bool: "true or false", int: "an integer", float: "a number", str: "text"}[_without_none(self.kind)]

    def read(self, raw: Any) -> Any:
        """Read a value as a YAML, a command line or Python gives it.

        Raises:
            ValueError: The value is of another type; the message says what was expected.
        """
        if self.choices:
            if raw not in self.choices:
                raise ValueError(f"expected {self.values}")
            return raw
        if self.setting.may_be_blank and isinstance(raw, str) and raw:
            return raw
        return {bool: _read_bool, int: _read_int, float: _read_float, str: _read_text}[_without_none(self.kind)](raw)


def keys_of_fields(declared: type, groups: dict[str, str]) -> dict[str, Key]:
    """Return the keys that the fields of a dataclass declare.

    Args:
        declared: A dataclass whose fields are named as in the YAML; fields without a `Setting` are left out.
        groups: The first field of each group, by its name, to the group's heading.
    """
    hints = typing.get_type_hints(declared, include_extras=True)
    found: dict[str, Key] = {}
    group = ""
    for field in dataclasses.fields(declared):
        group = groups.get(field.name, group)
        key = _key(field.name, hints[field.name], field.default, group)
        if key is not None:
            found[key.name] = key
    return found


def keys_of_parameters(function: Callable[..., Any], group: str) -> dict[str, Key]:
    """Return the keys that the keyword-only parameters of a function declare; others are left out.

    Raises:
        ValueError: A declared parameter has no default.
    """
    found: dict[str, Key] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is not parameter.KEYWORD_ONLY:
            continue
        key = _key(f"{PREFIX}{name}", _evaluate(parameter.annotation, function), parameter.default, group)
        if key is None:
            continue
        if parameter.default is parameter.empty:
            raise ValueError(f"the setting {name!r} has no default")
        found[key.name] = key
    return found


def _evaluate(annotation: Any, function: Callable[..., Any]) -> Any:
    """Return an annotation as a type; one whose names only type checkers import stays text, and declares nothing."""
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, getattr(function, "__globals__", {}))
    except (NameError, AttributeError):
        return annotation


def _key(name: str, annotation: Any, default: Any, group: str) -> Key | None:
    if typing.get_origin(annotation) is not Annotated:
        return None
    kind, *more = typing.get_args(annotation)
    setting = next((one for one in more if isinstance(one, Setting)), None)
    return None if setting is None else Key(name, kind, default, setting, group)


def _without_none(kind: Any) -> Any:
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        return next(one for one in typing.get_args(kind) if one is not type(None))
    return kind


def _read_bool(raw: Any) -> bool:
    if isinstance(raw, bool):
        return raw
    known = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if str(raw).lower() not in known:
        raise ValueError("expected true or false")
    return known[str(raw).lower()]


def _read_int(raw: Any) -> int:
    if isinstance(raw, bool) or not re.fullmatch(r"[+-]?\d+", str(raw)):
        raise ValueError("expected an integer")
    return int(raw)


def _read_float(raw: Any) -> float:
    try:
        value = math.nan if isinstance(raw, bool) else float(raw)
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise ValueError("expected a number")
    return value


def _read_text(raw: Any) -> str:
    if isinstance(raw, bool) or not isinstance(raw, str | int | float | Path) or str(raw).strip() == "":
        raise ValueError("expected text")
    return str(raw)
