"""Why none of a pool's rows, or of an entry's, can be used: one message, with the setting that may be right."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from mig_selector.errors import PoolError
from mig_selector.pool.entry import Layout, PoolEntry
from mig_selector.pool.formats.row_source import RowSource
from mig_selector.pool.index.judge import RowJudge
from mig_selector.pool.leaves.batch import Leaves, Numbering
from mig_selector.pool.leaves.decoder import LeafDecoder
from mig_selector.pool.leaves.verdicts import Unreadable
from mig_selector.pool.training import Stage, judge_row


LOOKED_AT = 50
"""Rows of a file that are looked at."""
_MOST_PATHS = 20

_ROLE_KEYS = ("role", "from", "speaker", "author")
_CONTENT_KEYS = ("content", "value", "text", "message")
_REPLY_COLUMNS = ("output", "response", "answer", "completion", "target", "reply")
_QUESTION_COLUMNS = ("instruction", "prompt", "question", "query", "input")


def explain_entry(entry: PoolEntry, source: RowSource, stage: Stage) -> str | None:
    """Say why the host trains on none of the first rows of a file, and what to set instead.

    Args:
        entry: The entry whose file it is.
        source: The file.
        stage: The stage of training.

    Returns:
        A message; None if it does train on one of them, or they have different faults.
    """
    rows = list(islice(_first_rows(source), LOOKED_AT))
    verdicts = [judge_row(row, entry.layout, stage) for row in rows]
    reasons = {None if verdict is None else _without_values(verdict.reason) for verdict in verdicts}
    if len(rows) < 2 or len(reasons) != 1 or None in reasons:
        return None
    guess = _guess(entry.layout, rows, stage)
    columns = ", ".join(map(repr, islice(dict.fromkeys(name for row in rows for name in row), 20)))
    return (
        f"dataset {entry.name!r}: LLaMA-Factory would train on none of the first {len(rows)} rows of {source.name} in "
        f"stage {stage}. The first row: {verdicts[0].reason if verdicts[0] else ''}. "
        f"{guess or f'Check the entry in dataset_info.json; the rows have the columns {columns}.'}"
    )


def explain_first_rows(judged: Sequence[tuple[RowSource, RowJudge]]) -> str | None:
    """Say what the first rows of all files lack of what a selection needs: labels or scores.

    Args:
        judged: The files, each with what decides which of its rows are kept.

    Returns:
        A message; None if one of the rows has all of it, or there are no rows.
    """
    lost = Counter[str]()
    for source, whole_judge in judged:
        judge = whole_judge.without_layout()  # whether the host trains on the rows is up to `explain_entry`
        for leaves in _first_batch(source, judge.decoder()):
            for row in range(min(len(leaves), LOOKED_AT)):
                values = leaves.of_row(row)
                verdict = values if isinstance(values, Unreadable) else judge.judge(values)
                if isinstance(verdict, tuple):
                    return None
                lost[_without_values(verdict.reason)] += 1
    return describe_loss(f"first {lost.total()}", [source for source, _ in judged], lost) if lost else None


def describe_loss(rows: str, sources: Sequence[RowSource], lost: Mapping[str, int]) -> str:
    """Say that none of some rows can be selected, why, and what to set; `lost` counts them by reason."""
    return (
        f"none of the {rows} rows of {', '.join(source.name for source in sources)} can be selected: "
        f"{'; '.join(f'{reason}: {count}' for reason, count in lost.items())}. The first rows have values at "
        f"{describe_paths(sources[0])}. Check mig_labels, mig_score, and the columns and tags of the entry. "
        "Set mig_tagger: vocabulary for rows without labels, mig_score: constant for labelled rows without score."
    )


def describe_paths(source: RowSource) -> str:
    """Name the dotted paths at which the first rows of a file have values, the first twenty of them."""
    rows = islice(_first_rows(source), LOOKED_AT)
    paths = list(dict.fromkeys(path for row in rows for path in _paths(row)))
    return ", ".join(paths[:_MOST_PATHS]) + (", ..." if len(paths) > _MOST_PATHS else "")


def _paths(value: Any, path: str = "") -> Iterator[str]:
    """Yield the paths to all values but objects; of a list of objects, those into the first."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        value = value[0]
    if not isinstance(value, dict):
        yield path
        return
    for key, part in value.items():
        yield from _paths(part, f"{path}.{key}" if path else str(key))


def _without_values(reason: str) -> str:
    return reason.split(" (")[0].split(", got")[0]


def _first_batch(source: RowSource, decoder: LeafDecoder) -> Iterator[Leaves]:
    """Return an iterator over what is decoded of the first rows: one batch, or none of a file without rows."""
    [span, *_] = source.spans(1 << 20)
    return islice(source.scan(span, decoder, Numbering(), lambda num_bytes: None), 1)


def _first_rows(source: RowSource) -> Iterator[dict[str, Any]]:
    """Read the first rows that can be read, as the host reads them."""
    for leaves in _first_batch(source, LeafDecoder()):
        is_row = (not isinstance(leaves.of_row(row), Unreadable) for row in range(min(len(leaves), LOOKED_AT)))
        rows = np.flatnonzero(list(is_row))
        offsets = np.zeros(len(leaves), np.int64) if leaves.byte_offsets is None else leaves.byte_offsets
        with contextlib.suppress(PoolError):
            yield from source.read(rows.tolist(), offsets[rows].tolist(), None)


def _guess(layout: Layout, rows: Sequence[Mapping[str, Any]], stage: Stage) -> str | None:
    if layout.formatting not in ("alpaca", "sharegpt", "openai"):
        return "Set formatting of the entry to alpaca, sharegpt or openai."
    if stage == "kto":
        return _guess_flag(layout, rows)
    if stage == "sft" and any(isinstance(row.get(layout.columns.get("kto_tag", "")), bool) for row in rows):
        return "Set stage: kto, or leave columns.kto_tag out of the entry to train on all replies."
    if layout.formatting == "alpaca":
        return _guess_reply(layout, rows, stage)
    return _guess_messages(layout, rows) or _guess_tags(layout, rows)


def _columns_with(rows: Sequence[Mapping[str, Any]], has: Callable[[Any], bool]) -> list[str]:
    """Return the columns where all values but nulls are of a kind."""
    names = dict.fromkeys(name for row in rows for name in row)
    values = {name: [row[name] for row in rows if row.get(name) is not None] for name in names}
    return [name for name in names if values[name] and all(map(has, values[name]))]


def _are_messages(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(message, dict) for message in value)


def _is_string(value: Any) -> bool:
    return isinstance(value, str)


def _named(layout: Layout, role: str) -> str:
    column = layout.columns.get(role)
    return f"columns.{role} of the entry is {column!r}" if column else f"columns.{role} of the entry is not set"


def _guess_flag(layout: Layout, rows: Sequence[Mapping[str, Any]]) -> str | None:
    flags = _columns_with(rows, lambda value: isinstance(value, bool))
    if flags and layout.columns.get("kto_tag") not in flags:
        return f"{_named(layout, 'kto_tag')}, but the rows have true and false in {flags[0]!r}; set it to that."
    return None


def _guess_reply(layout: Layout, rows: Sequence[Mapping[str, Any]], stage: Stage) -> str | None:
    if talks := _columns_with(rows, _are_messages):
        return (
            f"The rows have lists of messages in {talks[0]!r}, but formatting of the entry is alpaca; "
            f"set formatting: sharegpt, columns.messages: {talks[0]}, and the tags of the messages."
        )
    texts = _columns_with(rows, _is_string)
    for role in ("chosen", "rejected") if stage == "rm" else ("response",):
        if layout.columns.get(role) in texts:
            continue
        if layout.columns.get(role) is None and role == "response":
            return "Set it, or stage: pt to train on texts without replies."
        likely = [name for name in (role, *(_REPLY_COLUMNS if role == "response" else ())) if name in texts]
        hint = f"; set it to {likely[0]!r}" if likely else ""
        return f"{_named(layout, role)}, but the rows have strings in {', '.join(map(repr, texts)) or 'none'}{hint}."
    return None


def _guess_messages(layout: Layout, rows: Sequence[Mapping[str, Any]]) -> str | None:
    column, talks = layout.columns.get("messages"), _columns_with(rows, _are_messages)
    if column in talks:
        return None
    if talks:
        return f"{_named(layout, 'messages')}, but the rows have lists of messages in {talks[0]!r}; set it to that."
    values = [row.get(column or "") for row in rows]
    if all(isinstance(value, str) and _are_messages(_parsed(value)) for value in values):
        return f"{column!r} holds messages as JSON in a string; write them as a list of objects."
    texts = _columns_with(rows, _is_string)
    if any(name in texts for name in _REPLY_COLUMNS) and any(name in texts for name in _QUESTION_COLUMNS):
        found = ", ".join(map(repr, texts))
        return f"The rows have {found}, like alpaca rows; set formatting: alpaca and its columns."
    return None


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _guess_tags(layout: Layout, rows: Sequence[Mapping[str, Any]]) -> str | None:
    messages = [message for row in rows for message in row.get(layout.columns.get("messages", "")) or []]
    keys = list(dict.fromkeys(key for message in messages for key in message))
    wrong = {tag: layout.tags.get(tag) for tag in ("role_tag", "content_tag") if layout.tags.get(tag) not in keys}
    if wrong:
        right = {"role_tag": _ROLE_KEYS, "content_tag": _CONTENT_KEYS}
        found = {tag: next((key for key in right[tag] if key in keys), None) for tag in wrong}
        return _describe_tags(wrong, f"the messages have the keys {', '.join(map(repr, keys[:20]))}", found)
    roles = list(dict.fromkeys(str(message.get(layout.tags["role_tag"])) for message in messages))
    known = {tag: name for tag, name in layout.tags.items() if tag not in ("role_tag", "content_tag")}
    if all(role in known.values() for role in roles):
        return None
    tags = {tag: known.get(tag) for tag in ("user_tag", "assistant_tag") if known.get(tag) not in roles}
    new = [role for role in roles if role not in known.values() and role.lower() != "system"]
    likely = dict(zip(tags, new, strict=True)) if len(new) == len(tags) else {}
    return _describe_tags(tags or known, f"the roles in the messages are {', '.join(map(repr, roles[:20]))}", likely)


def _describe_tags(tags: Mapping[str, str | None], found: str, likely: Mapping[str, str | None]) -> str:
    are = " and ".join(f"tags.{tag} is {name!r}" if name else f"tags.{tag} is not set" for tag, name in tags.items())
    hints = " and ".join(f"tags.{tag}: {name}" for tag, name in likely.items() if name)
    return f"In the entry {are}, but {found}{f'; set {hints}' if hints else ''}."
