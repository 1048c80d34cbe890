"""What the host makes of a row, and whether it trains on it.

`convert` follows LLaMA-Factory's converters (llamafactory/data/converter.py), `judge_row` its converters and the
processor of a stage (llamafactory/data/processor/). A key that is missing counts as null: `datasets` fills in nulls.

What depends on the template is judged by what most of its templates accept: tools must be a list of objects, a tool
call must have a name and arguments, and an entry with media columns is taken to be for a template that counts media.
Rows that are too long are not judged.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, TypeAlias

from mig_selector.pool.entry import Layout
from mig_selector.pool.leaves.decoder import describe_kind
from mig_selector.pool.leaves.verdicts import Dropped, Unreadable


Stage: TypeAlias = Literal["pt", "sft", "rm", "ppo", "kto"]
"""As the host's loader names them; its stage ``dpo`` loads rows as ``rm`` does."""
Role: TypeAlias = Literal["system", "user", "observation", "assistant", "function"]

PLACEHOLDERS: Mapping[str, str] = {
    "images": os.getenv("IMAGE_PLACEHOLDER", "<image>"),
    "videos": os.getenv("VIDEO_PLACEHOLDER", "<video>"),
    "audios": os.getenv("AUDIO_PLACEHOLDER", "<audio>"),
}
"""What stands for a medium in the text, by the role of its column; the host reads the same variables."""

_ROLES: Mapping[str, Role] = {
    "user_tag": "user",
    "assistant_tag": "assistant",
    "observation_tag": "observation",
    "function_tag": "function",
    "system_tag": "system",
}
ASKING: tuple[Role, Role] = ("user", "observation")
ANSWERING: tuple[Role, Role] = ("assistant", "function")
_NEXT_TOOL_RESPONSE = "\n</tool_response>\n<tool_response>\n"
_CALL_WORDS = [("<tool_call>", "</tool_call>"), ("<|tool_call_start|>", "<|tool_call_end|>")]
_THOUGHT_WORDS = [
    ("<think>\n", "\n</think>\n\n"),
    ("<think>", "</think>"),
    ("<seed:think>", "</seed:think>"),
    ("◁think▷", "◁/think▷"),
    ("<|channel>thought\n", "<channel|>"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
]
"""What may surround a tool call or stand before it; which of them count depends on the template."""


@dataclass(frozen=True, slots=True)
class Message:
    """A message of a converted row."""

    role: Role
    content: Any
    where: str
    """Column or tag that the content is from, for messages."""
    index: int | None = None
    """0-based index among the row's messages; None where the content is from a column of its own."""


@dataclass(frozen=True, slots=True)
class Example:
    """A row as the host's converters leave it."""

    prompt: list[Message]
    replies: list[Message]
    """One, or two where they are ranked or the row is for KTO; none where there is none."""
    system: Any
    tools: Any
    lack: str | None = None
    """Why the converter empties the row, for rows without a prompt."""


def judge_row(row: Mapping[str, Any], layout: Layout, stage: Stage) -> Dropped | Unreadable | None:
    """Decide whether the host trains on a row.

    Args:
        row: Columns to values.
        layout: How the host reads it.
        stage: The stage of training.

    Returns:
        None if it does. `Dropped` where a plain run drops the row, `Unreadable` where a plain run breaks at it.
    """
    try:
        example = convert(row, layout)
        lack = _find_lack(example, row, layout, stage)
        if lack is None:
            _check_encodable(example, row, layout, stage)
    except ValueError as fault:
        return Unreadable(str(fault))
    if lack is None:
        return None
    if stage == "pt":  # it takes the first message of every row without looking whether there is one
        return Unreadable(f"has {lack}, at which LLaMA-Factory stops in stage pt")
    return Dropped(lack)


def convert(row: Mapping[str, Any], layout: Layout) -> Example:
    """Read a row as the host's converter does.

    Raises:
        ValueError: The converter would fail; the message follows the name of the row.
    """
    match layout.formatting:
        case "alpaca":
            return _convert_alpaca(row, layout)
        case "sharegpt" | "openai":
            return _convert_messages(row, layout)
        case other:
            raise ValueError(f"has formatting {other!r}; only alpaca, sharegpt and openai rows are conversations")


def value_of(row: Mapping[str, Any], layout: Layout, role: str) -> Any:
    """Return the value of the column with a role; None if there is no such column."""
    column = layout.columns.get(role)
    return row.get(column) if column else None


def _fault(expected: str, value: Any) -> ValueError:
    return ValueError(f"{expected}, got {describe_kind(value)}")


def _convert_alpaca(row: Mapping[str, Any], layout: Layout) -> Example:
    prompt: list[Message] = []
    history = value_of(row, layout, "history")
    for pair in history if isinstance(history, list) else []:
        column = layout.columns["history"]
        try:
            asked, answered = pair
        except (TypeError, ValueError) as error:
            raise _fault(f"{column} must be a list of pairs of strings", pair) from error
        prompt += [Message("user", asked, column), Message("assistant", answered, column)]
    question = []
    for role in ("prompt", "query"):
        text = value_of(row, layout, role)
        if text and not isinstance(text, str):
            raise _fault(f"{layout.columns[role]} must be a string", text)
        question += [text] if text else []
    prompt.append(Message("user", "\n".join(question), layout.columns.get("prompt", "")))

    def reply(role: str) -> Message:
        return Message("assistant", value_of(row, layout, role), layout.columns.get(role, ""))

    replies: list[Message] = []
    if isinstance(value_of(row, layout, "kto_tag"), bool):
        replies = _with_empty(reply("response"), row, layout)
    elif layout.ranking and isinstance(reply("chosen").content, str) and isinstance(reply("rejected").content, str):
        replies = [reply("chosen"), reply("rejected")]
    elif isinstance(reply("response").content, str):
        replies = [reply("response")]
    return Example(prompt, replies, value_of(row, layout, "system"), value_of(row, layout, "tools"))


def _with_empty(reply: Message, row: Mapping[str, Any], layout: Layout) -> list[Message]:
    """Put a KTO row's reply first if it is desired, else second, beside an empty one."""
    empty = Message("assistant", "", "")
    return [reply, empty] if value_of(row, layout, "kto_tag") else [empty, reply]


def _convert_messages(row: Mapping[str, Any], layout: Layout) -> Example:
    messages = value_of(row, layout, "messages")
    if not isinstance(messages, list):
        raise _fault(f"{layout.columns.get('messages', 'messages')} must be a list of messages", messages)
    if not layout.tags.get("role_tag") or not layout.tags.get("content_tag"):
        raise ValueError("cannot be read, because the tags of its entry lack role_tag or content_tag")
    # As the host builds it: of tags that are alike, or not set, the last one counts.
    roles = {layout.tags.get(tag): role for tag, role in _ROLES.items()}
    system_tag = layout.tags.get("system_tag")
    has_system = bool(system_tag and messages and _role(messages[0], layout) == system_tag)
    system = _content(messages[0], layout) if has_system else value_of(row, layout, "system")
    read = _read_openai if layout.formatting == "openai" else _read_sharegpt
    turns, lack = read(messages, int(has_system), roles, layout)
    tools = value_of(row, layout, "tools")
    if layout.formatting == "openai":
        system, tools = _openai_system(system), _openai_tools(tools)
    lack = lack or _find_wrong_count(turns, messages, layout)
    if lack:
        return Example([], [], system, tools, lack)
    prompt, replies = turns[:-1], turns[-1:]
    if isinstance(value_of(row, layout, "kto_tag"), bool):
        replies = _with_empty(replies[0], row, layout)
    elif layout.ranking:
        chosen, rejected = value_of(row, layout, "chosen"), value_of(row, layout, "rejected")
        if isinstance(chosen, dict) and isinstance(rejected, dict):
            pair = [("chosen", chosen), ("rejected", rejected)]
            prompt, replies = turns, [_ranked_reply(role, reply, roles, layout) for role, reply in pair]
    return Example(prompt, replies, system, tools)


def _role(message: Any, layout: Layout) -> Any:
    if not isinstance(message, Mapping):
        raise _fault("has a message that must be an object", message)
    return message.get(str(layout.tags["role_tag"]))


def _content(message: Mapping[str, Any], layout: Layout) -> Any:
    return message.get(str(layout.tags["content_tag"]))


def _read_sharegpt(
    messages: Sequence[Any], start: int, roles: Mapping[str | None, Role], layout: Layout
) -> tuple[list[Message], str | None]:
    """Read the turns from message `start` to the first that is out of order; return them, and what is wrong there."""
    asking, answering = (
        tuple(layout.tags.get(tag) for tag in tags)
        for tags in (("user_tag", "observation_tag"), ("assistant_tag", "function_tag"))
    )
    turns: list[Message] = []
    for index in range(start, len(messages)):
        role = _role(messages[index], layout)
        if role not in (answering if (index - start) % 2 else asking):
            return turns, _describe_disorder(is_known=isinstance(role, str) and role in roles)
        turns.append(Message(roles[role], _content(messages[index], layout), str(layout.tags["content_tag"]), index))
    return turns, None


def _describe_disorder(*, is_known: bool) -> str:
    if is_known:
        return "turns that do not alternate between user and assistant, the user first"
    return "a role that is not one of the entry's tags"


def _read_openai(
    messages: Sequence[Any], start: int, roles: Mapping[str | None, Role], layout: Layout
) -> tuple[list[Message], str | None]:
    """Read tool calls as text, and consecutive answers of tools as one turn.

    Answers of tools at the end of the row are left out, as the host leaves them out.
    """
    tag, turns = str(layout.tags["content_tag"]), list[Message]()
    answers: list[Any] = []
    for index in range(start, len(messages)):
        message = messages[index]
        role, content = _role(message, layout), _content(message, layout)
        calls = message.get("tool_calls")
        if calls and role in (layout.tags.get("assistant_tag"), layout.tags.get("function_tag")):
            role, content = layout.tags.get("function_tag"), _write_calls(calls)
        if role == layout.tags.get("observation_tag"):
            answers.append(content)
            continue
        if answers:
            turns.append(Message("observation", _join_answers(answers), tag, index - 1))
            answers = []
        if not (role is None or isinstance(role, str)) or role not in roles:
            raise _fault("has a message with a role that is not one of the entry's tags", role)
        turns.append(Message(roles[role], content, tag, index))
    if any(turn.role not in (ANSWERING if index % 2 else ASKING) for index, turn in enumerate(turns)):
        return turns, _describe_disorder(is_known=True)
    return turns, None


def _write_calls(calls: Any) -> str:
    try:
        return json.dumps([call["function"] for call in calls], ensure_ascii=False)
    except (TypeError, KeyError, RecursionError) as error:
        raise _fault("has tool_calls that must be a list of objects with a function", calls) from error


def _join_answers(answers: Sequence[Any]) -> str:
    for answer in answers:
        if not isinstance(answer, str):
            raise _fault("has an answer of a tool that must be a string", answer)
    return _NEXT_TOOL_RESPONSE.join(answers)


def _openai_system(system: Any) -> Any:
    if system and not isinstance(system, str):
        raise _fault("has a system message that must be a string", system)
    return system


def _openai_tools(tools: Any) -> Any:
    if not isinstance(tools, dict | list):
        return tools
    try:
        return json.dumps(tools, ensure_ascii=False)
    except (TypeError, RecursionError) as error:
        raise ValueError(f"has tools that are not JSON ({error})") from error


def _find_wrong_count(turns: Sequence[Message], messages: Sequence[Any], layout: Layout) -> str | None:
    if not messages:
        return f"no messages in {layout.columns['messages']}"
    if not turns:
        return "no messages of user and assistant"
    if layout.ranking and len(turns) % 2 == 0:
        return "an even number of turns, but the user must speak last where the replies are in columns of their own"
    if not layout.ranking and len(turns) % 2:
        return "an odd number of turns, so that the user speaks last"
    return None


def _ranked_reply(column_role: str, reply: Mapping[str, Any], roles: Mapping[str | None, Role], layout: Layout) -> Any:
    role, column = _role(reply, layout), layout.columns[column_role]
    if not (role is None or isinstance(role, str)) or role not in roles:
        raise _fault(f"has a reply in {column} with a role that is not one of the entry's tags", role)
    return Message(roles[role], _content(reply, layout), column)


def _find_lack(example: Example, row: Mapping[str, Any], layout: Layout, stage: Stage) -> str | None:
    """Say what the row lacks that the processor of the stage wants; None if nothing."""
    if example.lack or stage == "pt":
        return example.lack
    count = len(example.replies)
    if stage == "sft" and count == 0:
        value, column = value_of(row, layout, "response"), layout.columns.get("response")
        if column is None:
            return "no reply, because columns.response of the entry is not set"
        return f"no reply in {column}" if value is None else f"a reply in {column} that is not a string"
    if stage == "sft" and count == 2:
        return f"true or false in {layout.columns.get('kto_tag')} (kto_tag), which is for stage kto"
    if stage == "kto" and count < 2:
        if "kto_tag" not in layout.columns:
            return "no KTO label, because columns.kto_tag of the entry is not set"
        return f"neither true nor false in {layout.columns['kto_tag']} (kto_tag)"
    if (stage == "rm" and count < 2) or len(example.prompt) % 2 == 0:
        return f"no pair of replies in {layout.columns.get('chosen')} and {layout.columns.get('rejected')}"
    return None


def _check_encodable(example: Example, row: Mapping[str, Any], layout: Layout, stage: Stage) -> None:
    """Check the values that the processor hands to the template.

    Raises:
        ValueError: It would fail.
    """
    if stage == "pt":
        _check_content(example.prompt[0])
        return
    conversations = list(_conversations(example, stage))
    for message in {id(message): message for messages in conversations for message in messages}.values():
        _check_content(message)
        if message.role == "system":  # templates know the other roles only
            raise ValueError("has the role of the system in a message that is not the first")
        if message.role == "function" and not _is_call(message.content):
            raise _fault("has a tool call that must be JSON with a name and arguments", message.content)
    if example.system and not isinstance(example.system, str):
        raise _fault("has a system message that must be a string", example.system)
    if example.tools and not _are_tools(example.tools):
        raise _fault(f"{layout.columns['tools']} must be a JSON list of tools in a string", example.tools)
    if any(role in layout.columns for role in PLACEHOLDERS):
        for role, placeholder in PLACEHOLDERS.items():
            _check_media(value_of(row, layout, role), role, placeholder, conversations)


def _conversations(example: Example, stage: Stage) -> Iterator[list[Message]]:
    """Yield the conversations that the stage encodes."""
    match stage:
        case "kto":  # an empty reply that is desired counts as the other one
            yield [*example.prompt, example.replies[0] if example.replies[0].content else example.replies[1]]
        case "ppo":
            yield [*example.prompt, *(example.replies if len(example.replies) == 1 else [])]
        case _:
            for reply in example.replies:
                yield [*example.prompt, reply]


def _check_content(message: Message) -> None:
    if isinstance(message.content, str):
        return
    if message.index is None:
        raise _fault(f"{message.where} must be a string", message.content)
    raise ValueError(
        f"{message.where} of every message must be a string, got {describe_kind(message.content)} in message "
        f"{message.index}"
    )


def _is_call(text: str) -> bool:
    """Whether some template finds a tool call, or several, in a text."""
    return any(map(_parses_as_call, _call_texts(text)))


def _call_texts(text: str) -> Iterator[str]:
    yield text
    for opening, closing in _CALL_WORDS:
        if match := re.search(f"{re.escape(opening)}(.*?){re.escape(closing)}", text, re.DOTALL):
            yield match[1]
    for opening, closing in _THOUGHT_WORDS:
        if match := re.search(f"{re.escape(opening)}.*?{re.escape(closing)}", text, re.DOTALL):
            yield text.replace(match[0], "")


def _parses_as_call(text: str) -> bool:
    try:
        calls = json.loads(text)
        for call in calls if isinstance(calls, list) else [calls]:
            call["name"], call["arguments"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return False
    return True


def _are_tools(tools: Any) -> bool:
    return isinstance(tools, str) and _is_tool_list(tools)


@lru_cache(maxsize=1_024)
def _is_tool_list(text: str) -> bool:
    """Whether a text is what templates take for tools; many rows have the same ones."""
    try:
        tools = json.loads(text)
    except (ValueError, RecursionError):
        return False
    if tools in ({}, ""):
        return True
    return isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools)


def _check_media(media: Any, role: str, placeholder: str, conversations: Sequence[Sequence[Message]]) -> None:
    given = 0 if media is None else len(media) if isinstance(media, list) else 1
    for messages in conversations:
        asked = sum(message.content.count(placeholder) for message in messages)
        if asked != given:
            raise ValueError(f"must have as many {role} as {placeholder} in its text, got {given} for {asked}")
