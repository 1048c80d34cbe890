"""A row as a conversation: who says what, which parts are question and answer, and the row's text for a model.

LLaMA-Factory's three layouts are read as its converters read them (llamafactory/data/converter.py): what is read here
is what it would train on, and a row that it would skip or fail on is not a conversation. One difference: LLaMA-Factory
adds ``detailed thinking off`` to the system message of openai rows, which is not part of the row.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from mig_selector.pool.entry import PoolEntry
from mig_selector.pool.leaves.decoder import describe_kind


Side: TypeAlias = Literal["user", "assistant"]
Which: TypeAlias = Literal["all", "first", "last"]

_SIDES: Mapping[str, Side] = {
    "user_tag": "user",
    "observation_tag": "user",
    "assistant_tag": "assistant",
    "function_tag": "assistant",
}
_ORDER: tuple[Side, Side] = ("user", "assistant")
_NEXT_TOOL_RESPONSE = "\n</tool_response>\n<tool_response>\n"
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


def read_turns(row: Mapping[str, Any], entry: PoolEntry) -> list[Turn]:
    """Read a row as the host does.

    Args:
        row: Columns to values.
        entry: Gives the roles of the columns.

    Returns:
        A system turn if the row has one, then user and assistant in alternation. Of a ranked pair the chosen reply is
        read, of a KTO row its only reply. Only an alpaca row may end without a reply.

    Raises:
        ValueError: The row is not a conversation; the message follows the name of the row.
    """
    match entry.formatting:
        case "alpaca":
            system, turns = _text(row, entry, "system"), _alpaca_turns(row, entry)
        case "sharegpt":
            system, turns = _message_turns(row, entry, _sharegpt_turns)
        case "openai":
            system, turns = _message_turns(row, entry, _openai_turns)
        case other:
            raise ValueError(f"has formatting {other!r}; only alpaca, sharegpt and openai rows are conversations")
    return [Turn("system", system), *turns] if system else turns


def _value(row: Mapping[str, Any], entry: PoolEntry, role: str) -> Any:
    """Return the value of the column with a role; None if there is no such column."""
    column = entry.columns.get(role)
    return row.get(column) if column else None


def _text(row: Mapping[str, Any], entry: PoolEntry, role: str) -> str:
    """Return the string in the column with a role; empty if it is null or there is no such column."""
    value = _value(row, entry, role)
    return "" if value is None else _checked(value, f"{entry.columns[role]} must be a string")


def _checked(value: Any, expected: str) -> str:
    if not isinstance(value, str):
        raise _fault(expected, value)
    return value


def _fault(expected: str, value: Any) -> ValueError:
    return ValueError(f"{expected}, got {describe_kind(value)}")


def _alpaca_turns(row: Mapping[str, Any], entry: PoolEntry) -> list[Turn]:
    turns = []
    for asked, answered in _history(row, entry):
        turns += [Turn("user", asked), Turn("assistant", answered)]
    question = [text for text in (_text(row, entry, "prompt"), _text(row, entry, "query")) if text]
    turns.append(Turn("user", "\n".join(question)))
    if entry.ranking:
        return [*turns, Turn("assistant", _chosen(row, entry, str))]
    if _value(row, entry, "response") is None:
        return turns
    return [*turns, Turn("assistant", _text(row, entry, "response"))]


def _history(row: Mapping[str, Any], entry: PoolEntry) -> Iterator[tuple[str, str]]:
    history = _value(row, entry, "history")
    for pair in history if isinstance(history, list) else []:
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise _fault(f"every item of {entry.columns['history']} must be a pair of strings", pair)
        yield pair[0], pair[1]


def _chosen(row: Mapping[str, Any], entry: PoolEntry, kind: type) -> Any:
    """Return the chosen one of a ranked pair of replies."""
    chosen, rejected = _value(row, entry, "chosen"), _value(row, entry, "rejected")
    if not isinstance(chosen, kind) or not isinstance(rejected, kind):
        raise ValueError("lacks a chosen or a rejected reply")  # noqa: TRY004  a fault of the row, not of a call
    return chosen


Numbered: TypeAlias = tuple[int, Any]
"""A message and its index in the row."""


def _message_turns(
    row: Mapping[str, Any], entry: PoolEntry, read: Callable[[Sequence[Numbered], PoolEntry], list[Turn]]
) -> tuple[str, list[Turn]]:
    """Read the system message and the turns of a row with a list of messages."""
    messages = _value(row, entry, "messages")
    if not isinstance(messages, list):
        raise _fault(f"{entry.columns.get('messages', 'messages')} must be a list of messages", messages)
    numbered = list(enumerate(messages))
    system_tag = entry.tags.get("system_tag")
    if system_tag and messages and _role(numbered[0], entry) == system_tag:
        system, turns = _content(numbered[0], entry), read(numbered[1:], entry)
    else:
        system, turns = _text(row, entry, "system"), read(numbered, entry)
    _check_order(turns, entry)
    return system, [*turns, _chosen_turn(row, entry)] if entry.ranking else turns


def _check_order(turns: Sequence[Turn], entry: PoolEntry) -> None:
    for index, turn in enumerate(turns):
        if turn.role != _ORDER[index % 2]:
            raise ValueError(f"has turn {index} from the {turn.role}, where the {_ORDER[index % 2]}'s is expected")
    if not turns:
        raise ValueError("has no messages")
    if entry.ranking != bool(len(turns) % 2):  # in a ranked row the reply is in columns of its own
        raise ValueError(f"has {len(turns)} turns, so the {turns[-1].role} speaks last")


def _chosen_turn(row: Mapping[str, Any], entry: PoolEntry) -> Turn:
    [turn] = _sharegpt_turns([(0, _chosen(row, entry, dict))], entry)
    if turn.role != "assistant":
        raise ValueError("has a chosen reply that is not from the assistant")
    return turn


def _sharegpt_turns(messages: Sequence[Numbered], entry: PoolEntry) -> list[Turn]:
    return [Turn(_side(_role(message, entry), entry), _content(message, entry)) for message in messages]


def _openai_turns(messages: Sequence[Numbered], entry: PoolEntry) -> list[Turn]:
    """Read tool calls as text, and consecutive answers of tools as one turn.

    Answers of tools at the end of the row are left out, as the host leaves them out.
    """
    turns: list[Turn] = []
    answers: list[Numbered] = []
    for message in messages:
        role = _role(message, entry)
        if role == entry.tags.get("observation_tag"):
            answers.append(message)
            continue
        if answers:
            turns.append(Turn("user", _NEXT_TOOL_RESPONSE.join(_content(answer, entry) for answer in answers)))
            answers = []
        side = _side(role, entry)
        calls = message[1].get("tool_calls") if side == "assistant" else None
        turns.append(Turn(side, _write_calls(calls) if calls else _content(message, entry)))
    return turns


def _write_calls(calls: Any) -> str:
    if not isinstance(calls, list) or not all(isinstance(call, Mapping) and "function" in call for call in calls):
        raise _fault("tool_calls must be a list of objects with a function", calls)
    return json.dumps([call["function"] for call in calls], ensure_ascii=False)


def _role(numbered: Numbered, entry: PoolEntry) -> str:
    index, message = numbered
    if not isinstance(message, Mapping):
        raise _fault(f"message {index} must be an object", message)
    tag = entry.tags.get("role_tag") or ""
    return _checked(message.get(tag), f"{tag} of message {index} must be a string")


def _content(numbered: Numbered, entry: PoolEntry) -> str:
    index, message = numbered
    tag = entry.tags.get("content_tag") or ""
    return _checked(message.get(tag), f"{tag} of message {index} must be a string")


def _side(role: str, entry: PoolEntry) -> Side:
    for tag, side in _SIDES.items():
        if role == entry.tags.get(tag):
            return side
    raise ValueError(f"has a message with role {role!r}, which is not one of the entry's user or assistant tags")


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
    if entry.formatting == "alpaca" and not any(_history(row, entry)):
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


def _alpaca_exchange(row: Mapping[str, Any], turns: Sequence[Turn], entry: PoolEntry, which: Which) -> Exchange:
    said = [turn.content for turn in turns if turn.role == "system" and which == "last"]
    answered = [turn.content for turn in turns if turn.role == "assistant"]
    instruction = "\n".join([*said, _text(row, entry, "prompt")])
    return Exchange(instruction, _text(row, entry, "query"), "".join(answered))


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
