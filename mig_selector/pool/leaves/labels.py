"""The labels that a row holds: where they are, and how a string becomes labels."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import msgspec


_QUOTED = r"""'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)\""""
_LIST = re.compile(rf"\s*\[[\s,]*(?:(?:{_QUOTED})[\s,]*)*\]\s*", re.DOTALL)
"""A list of strings as JSON, or as Python or numpy print it: pandas writes lists so into CSV files."""


@dataclass(frozen=True)
class StoredLabels:
    """Where a row's labels are."""

    paths: tuple[str, ...] = ()
    """Dotted paths, each to a string or a list of strings; the labels at all of them count, in their order. None where
    no labels are needed."""
    separator: str | None = None
    """What separates the labels in a string that is not in a list; such a string is one label if None."""

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the labels, as a plain dictionary."""
        return asdict(self)

    @classmethod
    def of(cls, identity: Mapping[str, Any]) -> Self:
        """Make the labels that have this identity."""
        return cls(tuple(identity["paths"]), identity["separator"])

    def split(self, text: str) -> list[str]:
        """Return the labels in a string, without the blanks around them; empty ones are left out.

        A list that was written into a string counts as that list.
        """
        if _LIST.fullmatch(text):
            return _read_list(text)
        parts = [text] if self.separator is None else text.split(self.separator)
        return [part.strip() for part in parts if part.strip()]

    def join(self, values: Iterable[list[str] | str | None]) -> list[str]:
        """Return the labels at all paths, given the value at each."""
        lists = (self.split(value) if isinstance(value, str) else value or [] for value in values)
        return [label for labels in lists for label in labels]


def _read_list(text: str) -> list[str]:
    """Return the strings in a text that `_LIST` matches."""
    try:
        return msgspec.json.decode(text, type=list[str])
    except msgspec.MsgspecError:
        quoted = re.findall(_QUOTED, text, re.DOTALL)
        return [re.sub(r"\\(.)", r"\1", one or other, flags=re.DOTALL) for one, other in quoted]
