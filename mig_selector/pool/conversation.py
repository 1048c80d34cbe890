"""A row as a conversation: who said what, what of it counts as question and answer, and a row's text for a model.

LLaMA-Factory's three layouts are read as its converters read them (llamafactory/data/converter.py): what it would
train on is what is read here, and a row that it would skip or stumble over has no conversation. One thing differs:
the ``detailed thinking off`` that LLaMA-Factory adds to the system message of openai rows is not said in the row.
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
    """What one side said; what a tool answers counts as the user's, a call of a tool as the assistant's."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class Exchange:
    """A question and its answer."""

    instruction: str
    input: str
    """What the instruction is about, where the row keeps it apart (alpaca without history); else empty."""
    response: str
    """Empty where nobody has answered."""


def read_turns(row: Mapping[str, Any], entry: PoolEntry) -> list[Turn]:
    """Read a row as the host does.

    Args:
        row: Columns to values.
        entry: Says what the columns hold.

    Returns:
        A system turn if the row has one, then user and assistant by turns. Of a ranked pair the chosen reply is read,
        of an unwanted one (KTO) the one that is there. Only an alpaca row may lack the last reply.

    Raises:
        ValueError: The row is no conversation; says why in words that follow the name of the row.
    """
    match entry.formatting:
        case "alpaca":
            system, turns = _text(row, entry, "system"), _alpaca_turns(row, entry)
        case "sharegpt":
            system, turns = _message_turns(row, entry, _sharegpt_turns)
        case "openai":
            system, turns = _message_turns(row, entry, _openai_turns)
        case other:
            raise ValueError(f"is of formatting {other!r}; only alpaca, sharegpt and openai hold conversations")
    return [Turn("system", system), *turns] if system else turns


def _value(row: Mapping[str, Any], entry: PoolEntry, role: str) -> Any:
    """Return what stands in the column of a role; None where there is none."""
    column = entry.columns.get(role)
    return row.get(column) if column else None


def _text(row: Mapping[str, Any], entry: PoolEntry, role: str) -> str:
    """Return the text in the column of a role; empty where there is none."""
    value = _value(row, entry, role)
    return "" if value is None else _checked(value, f"{entry.columns[role]} must be a text")


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
    reply = _alpaca_reply(row, entry)
    return turns if reply is None else [*turns, Turn("assistant", reply)]


def _history(row: Mapping[str, Any], entry: PoolEntry) -> Iterator[tuple[str, str]]:
    history = _value(row, entry, "history")
    for pair in history if isinstance(history, list) else []:
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise _fault(f"{entry.columns['history']} must hold pairs of texts", pair)
        yield pair[0], pair[1]


def _alpaca_reply(row: Mapping[str, Any], entry: PoolEntry) -> str | None:
    if entry.ranking:
        return str(_chosen(row, entry, str))
    return None if _value(row, entry, "response") is None else _text(row, entry, "response")


def _chosen(row: Mapping[str, Any], entry: PoolEntry, kind: type) -> Any:
    """Return the better of two replies."""
    chosen, rejected = _value(row, entry, "chosen"), _value(row, entry, "rejected")
    if not isinstance(chosen, kind) or not isinstance(rejected, kind):
        raise ValueError("lacks a chosen or a rejected reply")  # noqa: TRY004  a fault of the row, not of a call
    return chosen


Numbered: TypeAlias = tuple[int, Any]
"""A message and its place in the row."""


def _message_turns(
    row: Mapping[str, Any], entry: PoolEntry, read: Callable[[Sequence[Numbered], PoolEntry], list[Turn]]
) -> tuple[str, list[Turn]]:
    """Read system message and turns of a row that holds a list of messages."""
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
    for place, turn in enumerate(turns):
        if turn.role != _ORDER[place % 2]:
            raise ValueError(f"has turn {place} by the {turn.role}, where it is the {_ORDER[place % 2]}'s turn")
    if not turns:
        raise ValueError("holds no messages")
    if entry.ranking != bool(len(turns) % 2):
        raise ValueError(f"has {len(turns)} turns, so the {turns[-1].role} speaks last")


def _chosen_turn(row: Mapping[str, Any], entry: PoolEntry) -> Turn:
    [turn] = _sharegpt_turns([(0, _chosen(row, entry, dict))], entry)
    if turn.role != "assistant":
        raise ValueError("has a chosen reply that is not the assistant's")
    return turn


def _sharegpt_turns(messages: Sequence[Numbered], entry: PoolEntry) -> list[Turn]:
    return [Turn(_side(_role(message, entry), entry), _content(message, entry)) for message in messages]


def _openai_turns(messages: Sequence[Numbered], entry: PoolEntry) -> list[Turn]:
    """Read calls of tools as text, and what tools answered one after the other as one turn.

    Answers of tools at the end, that nobody has taken up, are left out.
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
    place, message = numbered
    if not isinstance(message, Mapping):
        raise _fault(f"message {place} must be an object", message)
    tag = entry.tags.get("role_tag") or ""
    return _checked(message.get(tag), f"{tag} of message {place} must be a text")


def _content(numbered: Numbered, entry: PoolEntry) -> str:
    place, message = numbered
    tag = entry.tags.get("content_tag") or ""
    return _checked(message.get(tag), f"{tag} of message {place} must be a text")


def _side(role: str, entry: PoolEntry) -> Side:
    for tag, side in _SIDES.items():
        if role == entry.tags.get(tag):
            return side
    raise ValueError(f"holds a message of role {role!r}, which is none of the entry's tags for user and assistant")


def as_exchange(row: Mapping[str, Any], turns: Sequence[Turn], entry: PoolEntry, which: Which) -> Exchange:
    """Take question and answer out of a conversation.

    Args:
        row: The row.
        turns: What `read_turns` made of it.
        entry: Says what the columns hold.
        which: all: everything the user said, one turn a line, and all replies likewise. first: the first thing that
            the user said, and the reply to it. last: the last reply, and all that was said before it, one turn a line.

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
            end = max((place for place, turn in enumerate(turns) if turn.role == "assistant"), default=len(turns))
            return Exchange("\n".join(turn.content for turn in turns[:end]), "", "".join(answered[-1:]))


def _alpaca_exchange(row: Mapping[str, Any], turns: Sequence[Turn], entry: PoolEntry, which: Which) -> Exchange:
    said = [turn.content for turn in turns if turn.role == "system" and which == "last"]
    answered = [turn.content for turn in turns if turn.role == "assistant"]
    instruction = "\n".join([*said, _text(row, entry, "prompt")])
    return Exchange(instruction, _text(row, entry, "query"), "".join(answered))


def render(template: str, turns: Sequence[Turn], exchange: Exchange, eos: str = "</s>") -> str:
    """Write a row as one text.

    Args:
        template: For `str.format`, with ``{instruction}``, ``{input}``, ``{response}`` or ``{conversation}``: the
            last is the conversation as vicuna_v1.1 puts it, without the row's own system message.
        turns: What `read_turns` read.
        exchange: What counts as question and answer.
        eos: Ends each reply in a conversation.

    Returns:
        The text. If the template ends in ``{input}``, which is often empty, white space at the end is cut off.
    """
    text = template.format(
        instruction=exchange.instruction,
        input=exchange.input,
        response=exchange.response,
        conversation=_as_vicuna(turns, eos),
    )
    return text.rstrip() if template.endswith("{input}") else text


def _as_vicuna(turns: Sequence[Turn], eos: str) -> str:
    """Source: DEITA, through FastChat's vicuna_v1.1; it leaves a system message of the data out."""
    parts = [_VICUNA_SYSTEM, " "]
    for turn in turns:
        if turn.role != "system":
            name, end = ("USER", " ") if turn.role == "user" else ("ASSISTANT", eos)
            parts.append(f"{name}: {turn.content}{end}" if turn.content else f"{name}:")
    return "".join(parts)
