"""A row as a conversation: who says what, which parts are question and answer, and the row's text for a model.

What is read here is what LLaMA-Factory would train on (see `training`). One difference: LLaMA-Factory adds ``detailed
thinking off`` to the system message of openai rows, which is not part of the row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Literal, TypeAlias

from mig_selector.pool.entry import PoolEntry
from mig_selector.pool.training import ASKING, PLACEHOLDERS, Message, convert, value_of


Side: TypeAlias = Literal["user", "assistant"]
Which: TypeAlias = Literal["all", "first", "last"]

_ORDER: tuple[Side, Side] = ("user", "assistant")
_VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side says. A tool's answer is the user's turn, a tool call the assistant's."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class Exchange:
    """A question and its answer."""

    instruction: str
    input: str
    """The input column of an alpaca row without history; else empty."""
    response: str
    """Empty if there is no reply."""


def text_columns(entry: PoolEntry) -> list[str]:
    """Return the columns that make the conversation of a row; images and other media, which can be large, do not."""
    return sorted({column for role, column in entry.columns.items() if role not in PLACEHOLDERS})


def read_turns(row: Mapping[str, Any], entry: PoolEntry) -> list[Turn]:
    """Read a row as the host does.

    Args:
        row: Columns to values; a row on which the host trains at some stage.
        entry: Gives the roles of the columns.

    Returns:
        A system turn if the row has one, then user and assistant in alternation. Of a ranked pair the chosen reply is
        read, of a KTO row its only reply. Only an alpaca row may end without a reply. What is not a string is empty:
        the host trains on such a row only at stages that do not use the value.

    Raises:
        ValueError: The row is not a conversation; the message follows the name of the row.
    """
    example = convert(row, entry.layout)
    if example.lack:
        raise ValueError(f"has {example.lack}")
    if entry.ranking and len(example.replies) < 2:
        raise ValueError("lacks a chosen or a rejected reply")
    is_undesired = value_of(row, entry.layout, "kto_tag") is False
    replies = example.replies[1:] if is_undesired else example.replies[:1]
    turns = [Turn("system", example.system)] if example.system and isinstance(example.system, str) else []
    turns += [Turn("user" if message.role in ASKING else "assistant", _text(message)) for message in example.prompt]
    return turns + [Turn("assistant", _text(reply)) for reply in replies]


def _text(message: Message) -> str:
    return message.content if isinstance(message.content, str) else ""


def as_exchange(row: Mapping[str, Any], turns: Sequence[Turn], entry: PoolEntry, which: Which) -> Exchange:
    """Extract question and answer from a conversation.

    Args:
        row: The row.
        turns: Its turns, from `read_turns`.
        entry: Gives the roles of the columns.
        which: ``all``: all turns of the user, and all replies, each joined by line breaks. ``first``: the first turn
            of the user, and the reply to it. ``last``: the last reply, and everything before it, joined by line
            breaks.

    Returns:
        The exchange. An alpaca row without history keeps instruction and input apart.
    """
    history = value_of(row, entry.layout, "history")
    if entry.formatting == "alpaca" and not (isinstance(history, list) and history):
        return _alpaca_exchange(row, turns, entry, which)
    asked, answered = ([turn.content for turn in turns if turn.role == side] for side in _ORDER)
    match which:
        case "all":
            return Exchange("\n".join(asked), "", "\n".join(answered))
        case "first":
            return Exchange("".join(asked[:1]), "", "".join(answered[:1]))
        case "last":
            end = max((index for index, turn in enumerate(turns) if turn.role == "assistant"), default=len(turns))
            return Exchange("\n".join(turn.content for turn in turns[:end]), "", "".join(answered[-1:]))


def as_pairs(turns: Sequence[Turn], which: Which) -> list[Exchange]:
    """Return each turn of the user with the reply to it, which is empty if there is none.

    Args:
        turns: The turns of a row, from `read_turns`; a system turn belongs to no pair.
        which: ``all``, or the ``first`` or the ``last`` pair alone.
    """
    said = [turn.content for turn in turns if turn.role != "system"]
    pairs = [Exchange(asked, "", answer) for asked, answer in zip_longest(said[::2], said[1::2], fillvalue="")]
    return {"all": pairs, "first": pairs[:1], "last": pairs[-1:]}[which]


def _alpaca_exchange(row: Mapping[str, Any], turns: Sequence[Turn], entry: PoolEntry, which: Which) -> Exchange:
    said = [turn.content for turn in turns if turn.role == "system" and which == "last"]
    answered = [turn.content for turn in turns if turn.role == "assistant"]
    asked, given = (value_of(row, entry.layout, role) or "" for role in ("prompt", "query"))
    return Exchange("\n".join([*said, asked]), given, "".join(answered))


def render(template: str, turns: Sequence[Turn], exchange: Exchange, eos: str = "</s>") -> str:
    """Format a row as one text.

    Args:
        template: For `str.format`, with ``{instruction}``, ``{input}``, ``{response}`` or ``{conversation}``. The
            last is the conversation in the vicuna_v1.1 template, without the row's own system message.
        turns: The turns of the row, from `read_turns`.
        exchange: Its question and answer, from `as_exchange`.
        eos: Ends each reply in ``{conversation}``.

    Returns:
        The text. If the template ends in ``{input}``, which is often empty, trailing whitespace is removed.
    """
    text = template.format(
        instruction=exchange.instruction,
        input=exchange.input,
        response=exchange.response,
        conversation=_as_vicuna(turns, eos),
    )
    return text.rstrip() if template.endswith("{input}") else text


def _as_vicuna(turns: Sequence[Turn], eos: str) -> str:
    """Format turns as DEITA does, through FastChat's vicuna_v1.1, which leaves out the row's system message."""
    parts = [_VICUNA_SYSTEM, " "]
    for turn in turns:
        if turn.role != "system":
            name, end = ("USER", " ") if turn.role == "user" else ("ASSISTANT", eos)
            parts.append(f"{name}: {turn.content}{end}" if turn.content else f"{name}:")
    return "".join(parts)
