from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import SHAREGPT, TAGS

from mig_selector.integration.dataset_info import resolve_entry
from mig_selector.pool.conversation import Exchange, Turn, as_exchange, read_turns, render


ALPACA = {"columns": {"prompt": "instruction", "query": "input", "response": "output"}}
HISTORY = {"columns": {**ALPACA["columns"], "history": "past", "system": "system"}}
OPENAI_TAGS = {**TAGS, "observation_tag": "tool", "function_tag": "call"}
ALL_TAGS = {**SHAREGPT, "tags": OPENAI_TAGS}
OPENAI = {"formatting": "openai", "columns": {"messages": "messages", "system": "sys"}, "tags": OPENAI_TAGS}
PLAIN_SHAREGPT = {"formatting": "sharegpt"}
RANKED = {"chosen": "chosen", "rejected": "rejected"}
VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions. "
)


def resolve(raw):
    return resolve_entry("pool", {"file_name": "pool.jsonl", **raw}, Path("/data"))


def read(row, raw):
    return read_turns(row, resolve(raw))


def exchange(row, raw, which):
    entry = resolve(raw)
    return as_exchange(row, read_turns(row, entry), entry, which)


def dialog(*contents, system=None):
    """Alternating messages of user and assistant."""
    messages = [{"role": "system", "content": system}] if system else []
    return {
        "dialogs": messages
        + [{"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(contents)]
    }


# The host's own converter reads the same rows

THINKING = "detailed thinking off"
SIDES = {"system": "system", "user": "user", "observation": "user", "assistant": "assistant", "function": "assistant"}


def read_as_host(row, raw):
    """What LLaMA-Factory's converter makes of a row; None where it skips the row or fails."""
    from llamafactory.data.converter import get_dataset_converter
    from llamafactory.data.parser import DatasetAttr

    layout = DatasetAttr("file", dataset_name="pool")
    layout.join(raw)
    try:
        out = get_dataset_converter(layout.formatting, layout, SimpleNamespace(media_dir=""))(row)
    except Exception:  # noqa: BLE001  it fails in many ways
        return None
    replies = out["_response"]
    if layout.kto_tag and isinstance(row.get(layout.kto_tag), bool):
        replies = replies[:1] if row[layout.kto_tag] else replies[1:]
    elif layout.ranking:
        replies = replies[:1] if len(replies) == 2 else None
    if not out["_prompt"] or replies is None:
        return None  # the host skips such a row when it tokenises
    messages = [*out["_prompt"], *replies]
    system = out["_system"] or ""
    if layout.formatting == "openai":
        system = system.removesuffix(THINKING).removesuffix("\n")
    turns = [("system", system)] if system else []
    # What is not a string breaks the host where it uses it, so that such a row is not kept at that stage.
    contents = [message["content"] if isinstance(message["content"], str) else "" for message in messages]
    return turns + [(SIDES[message["role"]], text) for message, text in zip(messages, contents, strict=True)]


def read_as_ours(row, raw):
    try:
        return [(turn.role, turn.content) for turn in read(row, raw)]
    except ValueError:
        return None


TEXT = st.text(alphabet="ab{}\n é", max_size=6)
MAYBE = st.none() | TEXT


def messages_of(tags):
    """Messages, mostly alternating, some in any order, some broken; `tags` are of user, tool, assistant, call."""
    asking, answering = st.sampled_from(tags[:2]), st.sampled_from(tags[2:4])

    def message(roles, contents=TEXT):
        return st.fixed_dictionaries({"role": roles, "content": contents})

    pairs = st.lists(st.tuples(message(asking), message(answering)), max_size=3)
    by_turns = pairs.map(lambda some: [message for pair in some for message in pair])
    any_order = st.lists(message(st.sampled_from([*tags, "system", "stranger"]), TEXT | st.none()), max_size=4)
    opening = st.lists(message(st.just("system")), max_size=1)
    return st.builds(lambda first, rest, last: first + rest + last, opening, by_turns, any_order | st.just([]))


def agree(row, raw):
    assert read_as_ours(row, raw) == read_as_host(row, raw)


@pytest.mark.llamafactory
@settings(deadline=None, max_examples=100)
@given(
    st.fixed_dictionaries({"instruction": MAYBE, "input": MAYBE, "output": MAYBE, "system": MAYBE, "good": MAYBE})
    | st.fixed_dictionaries(
        {
            "instruction": TEXT,
            "input": MAYBE,
            "output": MAYBE,
            "system": MAYBE,
            "past": st.none() | st.lists(st.lists(TEXT, min_size=2, max_size=2), max_size=2),
            "chosen": MAYBE,
            "rejected": MAYBE,
            "good": st.none() | st.booleans(),
        }
    ),
    st.sampled_from(["plain", "history", "ranked", "kto"]),
)
def test_alpaca_rows_are_read_as_the_host_reads_them(row, kind):
    row = {"past": None, "chosen": None, "rejected": None, **row}
    ranked = {"columns": {**HISTORY["columns"], **RANKED}, "ranking": True}
    kto = {"columns": {**ALPACA["columns"], "kto_tag": "good"}}
    raw = {"plain": ALPACA, "history": HISTORY, "ranked": ranked, "kto": kto}[kind]
    if kind == "kto" and row["output"] is None:
        row["output"] = ""
    agree(row, raw)


@pytest.mark.llamafactory
@settings(deadline=None, max_examples=100)
@given(
    messages_of(["user", "observed", "assistant", "call"]),
    MAYBE,
    st.none() | st.fixed_dictionaries({"role": st.sampled_from(["assistant", "call"]), "content": TEXT}),
    st.sampled_from(["plain", "ranked", "kto"]),
    st.booleans(),
)
def test_sharegpt_rows_are_read_as_the_host_reads_them(messages, system, chosen, kind, is_good):
    tags = {**TAGS, "observation_tag": "observed", "function_tag": "call"}
    columns = {"messages": "dialogs", "system": "system"}
    raw = {"formatting": "sharegpt", "columns": columns, "tags": tags}
    if kind == "ranked":
        raw |= {"columns": {**columns, **RANKED}, "ranking": True}
        messages = messages[:-1]
    if kind == "kto":
        raw |= {"columns": {**columns, "kto_tag": "good"}}
    rejected = {"role": "assistant", "content": "worse"}
    agree({"dialogs": messages, "system": system, "chosen": chosen, "rejected": rejected, "good": is_good}, raw)


@pytest.mark.llamafactory
@settings(deadline=None, max_examples=100)
@given(
    messages_of(["user", "tool", "assistant", "call"]),
    MAYBE,
    st.lists(st.sampled_from([0, 1, 2, 3, 4]), max_size=2),
    st.lists(st.fixed_dictionaries({"function": st.fixed_dictionaries({"name": TEXT})}), max_size=2),
)
def test_openai_rows_are_read_as_the_host_reads_them(messages, system, indices, calls):
    for index in indices:
        if index < len(messages) and messages[index]["role"] in {"assistant", "call"}:
            messages[index] = {**messages[index], "content": None, "tool_calls": calls}
    messages = [each for message in messages for each in [message] * (1 + (message["role"] == "tool"))]
    agree({"messages": messages, "sys": system}, OPENAI)


@pytest.mark.llamafactory
def test_the_hosts_own_tags_and_columns_are_read_where_an_entry_is_silent():
    row = {
        "conversations": [
            {"from": "system", "value": "s"},
            *({"from": role, "value": role} for role in ("human", "function_call", "observation", "gpt")),
        ]
    }
    agree(row, PLAIN_SHAREGPT)
    assert [turn.role for turn in read(row, PLAIN_SHAREGPT)] == ["system", *["user", "assistant"] * 2]
    agree({"instruction": "a", "input": "b", "output": "c"}, {})


# Rows that are not conversations

FAULTS = {
    "no messages": ({}, SHAREGPT, "dialogs must be a list of messages, got null"),
    "no list": ({"dialogs": "hi"}, SHAREGPT, "dialogs must be a list of messages, got the string 'hi'"),
    "an empty list": ({"dialogs": []}, SHAREGPT, "has no messages"),
    "no object": ({"dialogs": ["hi"]}, SHAREGPT, "a message that must be an object, got the string 'hi'"),
    "no role": ({"dialogs": [{"content": "a"}]}, ALL_TAGS, "a role that is not one of the entry's tags"),
    "a stranger": (
        {"dialogs": [{"role": "x", "content": "a"}]},
        SHAREGPT,
        "has a role that is not one of the entry's tags",
    ),
    "the wrong side": (
        {"dialogs": dialog("a")["dialogs"] * 2},
        SHAREGPT,
        "has turns that do not alternate between user and assistant, the user first",
    ),
    "no reply": (dialog("a", "b", "c"), SHAREGPT, "has an odd number of turns, so that the user speaks last"),
    "a ranked row with a reply": (
        dialog("a", "b"),
        {**SHAREGPT, "ranking": True},
        "has an even number of turns, but the user must speak last where the replies are in columns of their own",
    ),
    "a reply from nobody": (
        {**dialog("a"), "chosen": dialog("b")["dialogs"][0], "rejected": {}},
        {**ALL_TAGS, "columns": {"messages": "dialogs", **RANKED}, "ranking": True},
        "has a reply in rejected with a role that is not one of the entry's tags, got null",
    ),
    "a ranked row without a pair": (
        {**dialog("a"), "chosen": dialog("b")["dialogs"][0]},
        {**SHAREGPT, "columns": {"messages": "dialogs", **RANKED}, "ranking": True},
        "lacks a chosen or a rejected reply",
    ),
    "calls that are none": (
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": [{"x": 1}]}]},
        OPENAI,
        "has tool_calls that must be a list of objects with a function, got a list",
    ),
    "a number asked": ({"instruction": 3}, ALPACA, "instruction must be a string, got the number 3"),
    "history of one": (
        {"instruction": "a", "past": [["q"]]},
        HISTORY,
        "past must be a list of pairs of strings, got a list",
    ),
    "another layout": ({}, {"formatting": "poem"}, "has formatting 'poem'; only alpaca, sharegpt and openai"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_row_that_is_not_a_conversation_says_why(fault):
    row, raw, words = FAULTS[fault]
    with pytest.raises(ValueError, match=words):
        read(row, raw)


# Question and answer

LONG = dialog("q1", "a1", "q2", "a2", system="be kind")


@pytest.mark.parametrize(
    ("which", "expected"),
    [
        ("all", Exchange("q1\nq2", "", "a1\na2")),
        ("first", Exchange("q1", "", "a1")),
        ("last", Exchange("be kind\nq1\na1\nq2", "", "a2")),
    ],
)
def test_an_exchange_is_the_whole_conversation_or_its_beginning_or_its_end(which, expected):
    assert exchange(LONG, SHAREGPT, which) == expected


@pytest.mark.parametrize("which", ["all", "first", "last"])
@pytest.mark.parametrize("history", [None, []])
def test_instruction_and_input_of_an_alpaca_row_stay_apart(which, history):
    row = {"instruction": "sum", "input": "1 2", "output": "3", "past": history}
    assert exchange(row, ALPACA, which) == exchange(row, HISTORY, which) == Exchange("sum", "1 2", "3")
    assert exchange({"instruction": "hi", "output": "ho"}, ALPACA, which) == Exchange("hi", "", "ho")


def test_the_history_of_an_alpaca_row_is_part_of_the_exchange():
    row = {"instruction": "q2", "input": "x", "output": "a2", "past": [["q1", "a1"]], "system": "s"}
    assert exchange(row, HISTORY, "all") == Exchange("q1\nq2\nx", "", "a1\na2")
    assert exchange(row, HISTORY, "first") == Exchange("q1", "", "a1")
    assert exchange(row, HISTORY, "last") == Exchange("s\nq1\na1\nq2\nx", "", "a2")
    assert exchange({**row, "past": []}, HISTORY, "last") == Exchange("s\nq2", "x", "a2")


@pytest.mark.parametrize("which", ["all", "first", "last"])
def test_an_alpaca_row_may_have_no_reply(which):
    assert exchange({"instruction": "q", "system": "s"}, ALPACA, which) == Exchange("q", "", "")
    past = {"instruction": "q2", "past": [["q1", "a1"]]}
    expected = {"all": ("q1\nq2", "a1"), "first": ("q1", "a1"), "last": ("q1", "a1")}[which]
    assert exchange(past, HISTORY, which) == Exchange(expected[0], "", expected[1])


# Text of a row


def test_a_conversation_is_written_as_vicuna_writes_it():
    turns, pair = read(LONG, SHAREGPT), Exchange("", "", "")
    expected = f"{VICUNA}USER: q1 ASSISTANT: a1</s>USER: q2 ASSISTANT: a2</s>"
    assert render("{conversation}", turns, pair) == expected
    assert render("{conversation}", turns, pair, eos="<end>") == expected.replace("</s>", "<end>")
    assert render("{conversation}", [Turn("user", "q"), Turn("assistant", "")], pair) == f"{VICUNA}USER: q ASSISTANT:"


def test_templates_insert_the_text_of_a_row_as_it_is():
    pair = Exchange("{x} {0}", "{input}", "a}")
    assert render("I: {instruction} X: {input} R: {response}", [], pair) == "I: {x} {0} X: {input} R: a}"
    assert render("{conversation}", [Turn("user", "{y}")], pair) == f"{VICUNA}USER: {{y}} "


def test_trailing_whitespace_is_removed_where_a_template_ends_in_the_input():
    pair = Exchange("say ", "", "")
    assert render("{instruction}\n{input}", [], pair) == "say"
    assert render("{input}{instruction}", [], pair) == "say "
