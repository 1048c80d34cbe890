"""The shape of a row: what decides whether the host trains on it, without the text.

Nearly always that depends only on the roles of the messages in their order, and on which values are there: a pool of
millions of rows has a few shapes. Readers give each row the number of its shape, and each shape is judged once, by an
example. A row whose fate depends on its text, or that has values of unexpected types, has no shape; it is judged
whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from mig_selector.pool.entry import Layout


Part: TypeAlias = str | bool | tuple[str, ...] | None
Shape: TypeAlias = tuple[Part, ...]
"""One part for each column that has one: "text" or None of a text, the flag itself, the role of a message, the roles
of messages, and None for what is null."""

TEXT = "text"
"""The part of a text; it also stands for every text in an example."""

Kind: TypeAlias = Literal["messages", "message", "text", "any text", "flag", "pairs", "no tools"]
"""Values that a column may have in a row with a shape, beside null. Of *any text* (which may be null as well), *pairs*
(of texts, in a list) and *no tools* (an empty text) it makes no difference which value a row has: there is no part."""

_ALPACA_KINDS: dict[str, Kind] = {
    "prompt": "any text",
    "query": "any text",
    "response": "text",
    "history": "pairs",
}
_MESSAGES_KINDS: dict[str, Kind] = {"messages": "messages"}
_MEDIA = ("images", "videos", "audios")


@dataclass(frozen=True)
class Column:
    """A column that training reads."""

    name: str
    kind: Kind

    @property
    def has_part(self) -> bool:
        """Whether the shape says something about it."""
        return self.kind in ("messages", "message", "text", "flag")


class Shapes(dict[Shape, int]):
    """The shapes that rows were found to have, numbered in the order in which they are first looked up."""

    def __init__(self, layout: Layout) -> None:
        """Find out which columns decide the shape of a row with this layout."""
        super().__init__()
        self._layout = layout
        self.columns: list[Column] | None = _columns(layout)
        """None where no row has a shape: the layout has media, which are counted in the text, or is not understood."""
        self.seen: list[Shape] = []
        """The shapes by their numbers."""
        self.parts = [column for column in self.columns or [] if column.has_part]
        self.known_roles = tuple(
            tag
            for key in ("user_tag", "observation_tag", "assistant_tag", "system_tag")
            if (tag := layout.tags.get(key)) and tag != layout.tags.get("function_tag")
        )
        """Roles that a message of a row with a shape may have. A tool call is not among them: it must be JSON."""

    def __missing__(self, shape: Shape) -> int:
        """Give a new shape the next number."""
        self[shape] = number = len(self)
        self.seen.append(shape)
        return number

    @property
    def names(self) -> list[str]:
        """The columns that training reads."""
        return list(dict.fromkeys(self._layout.columns.values()))

    @property
    def words(self) -> list[str]:
        """The columns that training reads, and the keys and roles of messages."""
        return [*self.names, *(tag for tag in self._layout.tags.values() if tag)]

    @property
    def role_tag(self) -> str:
        """The key of a message's role."""
        return str(self._layout.tags.get("role_tag"))

    @property
    def content_tag(self) -> str:
        """The key of a message's content."""
        return str(self._layout.tags.get("content_tag"))

    @property
    def has_tool_calls(self) -> bool:
        """Whether a message may have a list of tool calls beside its content."""
        return self._layout.formatting == "openai"

    def example(self, number: int) -> dict[str, Any]:
        """Make a row with a shape."""
        row: dict[str, Any] = {}
        for column, part in zip(self.parts, self.seen[number], strict=True):
            if column.kind == "messages" and isinstance(part, tuple):
                row[column.name] = [self._message(role) for role in part]
            elif column.kind == "message" and part is not None:
                row[column.name] = self._message(part)
            else:
                row[column.name] = part
        return row

    def _message(self, role: Part) -> dict[str, Any]:
        return {self.role_tag: role, self.content_tag: TEXT}


def _columns(layout: Layout) -> list[Column] | None:
    if any(role in layout.columns for role in _MEDIA):
        return None
    kinds: dict[str, Kind] = {"system": "any text", "tools": "no tools", "kto_tag": "flag"}
    match layout.formatting:
        case "alpaca":
            kinds |= {**_ALPACA_KINDS, **({"chosen": "text", "rejected": "text"} if layout.ranking else {})}
        case "sharegpt" | "openai":
            kinds |= {**_MESSAGES_KINDS, **({"chosen": "message", "rejected": "message"} if layout.ranking else {})}
            role_tag, content_tag = layout.tags.get("role_tag"), layout.tags.get("content_tag")
            if not role_tag or not content_tag or role_tag == content_tag or "tool_calls" in (role_tag, content_tag):
                return None
        case _:
            return None
    columns = {Column(name, kinds[role]) for role, name in layout.columns.items() if role in kinds}
    if len({column.name for column in columns}) < len(columns):  # one column with two meanings
        return None
    return sorted(columns, key=lambda column: column.name)
