"""Verdicts on rows, against LLaMA-Factory's own converters and processors."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import TAGS

from mig_selector.integration.dataset_info import resolve_entry
from mig_selector.pool.leaves.verdicts import Dropped, Unreadable
from mig_selector.pool.training import judge_row


STAGES = ["sft", "rm", "kto", "ppo", "pt"]
PLAIN_TAGS = {**TAGS, "observation_tag": "tool", "function_tag": "call"}
COLUMNS = {"system": "sys", "tools": "tools", "kto_tag": "good"}
PAIR = {"chosen": "chosen", "rejected": "rejected"}
ALPACA = {"columns": {**COLUMNS, "prompt": "ask", "query": "input", "response": "output", "history": "past"}}
MESSAGES = {"columns": {**COLUMNS, "messages": "talk"}, "tags": PLAIN_TAGS}


def judge(row, raw, stage="sft"):
    return judge_row(row, resolve_entry("pool", {"file_name": "p.jsonl", **raw}, Path("/data")).layout, stage)


def judged(row, raw, stage="sft"):
    verdict = judge(row, raw, stage)
    return {type(None): "trains", Dropped: "drops", Unreadable: "breaks"}[type(verdict)]


# The host's own converters and processors


@pytest.fixture(scope="session")
def host(tiny_llama):
    """What the host does with a row that comes alone: trains, drops or breaks."""
    from llamafactory.data.converter import get_dataset_converter
    from llamafactory.data.loader import _get_dataset_processor
    from llamafactory.data.parser import DatasetAttr
    from llamafactory.data.template import TEMPLATES
    from llamafactory.hparams import DataArguments
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    arguments = DataArguments(template="llama3", cutoff_len=512, media_dir="")

    def process(row, raw, stage):
        layout = DatasetAttr("file", dataset_name="pool")
        layout.join(raw)
        processor = _get_dataset_processor(arguments, stage, TEMPLATES["llama3"], tokenizer, None)
        try:
            made = get_dataset_converter(layout.formatting, layout, arguments)(row)
            out = processor.preprocess_dataset({name: [value] for name, value in made.items()})
        except Exception:  # noqa: BLE001  it fails in many ways
            return "breaks"
        return "trains" if any(out.values()) else "drops"

    return process


TEXT = st.text(alphabet="ab \n<é", max_size=4)
ODD = st.sampled_from([None, 0, 3, False, True, 2.5, {"a": 1}, {}])
CALL = json.dumps({"name": "f", "arguments": {"x": 1}})
CALLS = [
    *(CALL, f"[{CALL}]", "[]", '{"name": "f"}', "[3]", "3", "null", "nothing", f"<think>\nhm\n</think>\n\n{CALL}"),
    *(f"<tool_call>{CALL}</tool_call>", f"<tool_call>{CALL}", f"so <tool_call>\n{CALL}\n</tool_call>"),
]
TOOL = json.dumps([{"name": "f", "description": "", "parameters": {"type": "object", "properties": {}}}])
TOOLS = ["[]", "{}", "3", "null", '""', '"a"', "[3]", "f(x)", 0, 3, []]
TAGS_OF_ENTRIES = [PLAIN_TAGS, TAGS, {**PLAIN_TAGS, "system_tag": None}, {**PLAIN_TAGS, "assistant_tag": "user"}]
ROLES = ["user", "assistant", "tool", "call", "system", "stranger", None, 3]


def mostly(usual, odd, times=6):
    """Values of one kind, and now and then of another."""
    return st.integers(0, times).flatmap(lambda number: odd if number == times else usual)


MAYBE = mostly(st.none() | TEXT, ODD)
REPLY = mostly(TEXT, ODD)


def message(roles, contents=TEXT):
    return st.fixed_dictionaries({"role": roles, "content": contents})


ANY_MESSAGE = message(st.sampled_from(ROLES), REPLY)


@st.composite
def talk(draw):
    """Messages that mostly alternate; now and then one of any kind follows."""
    asking, answering = (mostly(*map(st.just, pair)) for pair in (("user", "tool"), ("assistant", "call")))
    messages = draw(st.lists(message(st.just("system"), MAYBE), max_size=1))
    for _ in range(draw(st.integers(1, 2))):
        question, answer = draw(message(asking)), draw(message(answering))
        if answer["role"] == "call":
            answer["content"] = draw(st.sampled_from(CALLS))
        messages += [question, answer]
    return messages + draw(mostly(st.just([]), st.lists(ANY_MESSAGE, max_size=1), 3))


TALK = mostly(talk(), st.sampled_from([None, 3, "hi", [], [None], ["hi"], {"a": 1}, [[]]]))
HISTORY = mostly(
    st.lists(st.lists(REPLY, min_size=2, max_size=2), max_size=2) | st.none(),
    st.sampled_from([[["q"]], [None], [3], "past", [["a", "b", "c"]], {"a": 1}]),
)


def rows(**columns):
    tools = mostly(st.sampled_from([None, "", TOOL]), st.sampled_from(TOOLS))
    return st.fixed_dictionaries({"sys": MAYBE, "tools": tools, "good": mostly(st.booleans(), ODD), **columns})


@pytest.mark.llamafactory
@settings(deadline=None, max_examples=300)
@given(
    rows(ask=MAYBE, input=MAYBE, output=REPLY, past=HISTORY, chosen=REPLY, rejected=REPLY),
    st.sampled_from(STAGES),
    st.booleans(),
)
def test_alpaca_rows_are_judged_as_the_host_treats_them(host, row, stage, has_tag):
    raw = {**ALPACA, "columns": {**ALPACA["columns"]}}
    if not has_tag:
        del raw["columns"]["kto_tag"]
    if stage == "rm":
        raw = {**raw, "ranking": True, "columns": {**raw["columns"], **PAIR}}
    assert judged(row, raw, stage) == host(row, raw, stage)


@pytest.mark.llamafactory
@settings(deadline=None, max_examples=600)
@given(
    rows(talk=TALK, chosen=mostly(ANY_MESSAGE, ODD), rejected=mostly(ANY_MESSAGE, ODD)),
    st.sampled_from(STAGES),
    st.sampled_from(["sharegpt", "sharegpt", "openai"]),
    st.sampled_from(TAGS_OF_ENTRIES),
    st.booleans(),
)
def test_rows_with_messages_are_judged_as_the_host_treats_them(host, row, stage, formatting, tags, has_tag):
    raw = {"formatting": formatting, "columns": {**MESSAGES["columns"]}, "tags": tags}
    if not has_tag:
        del raw["columns"]["kto_tag"]
    if stage == "rm":
        raw |= {"ranking": True, "columns": {**raw["columns"], **PAIR}}
        row = {**row, "talk": row["talk"][:-1] if isinstance(row["talk"], list) else row["talk"]}
    assert judged(row, raw, stage) == host(row, raw, stage)


@pytest.mark.llamafactory
@settings(deadline=None, max_examples=300)
@given(
    st.lists(
        message(st.sampled_from(ROLES[:4]), TEXT | st.sampled_from(CALLS))
        | st.fixed_dictionaries(
            {
                "role": st.sampled_from(["assistant", "call", "user"]),
                "content": st.none(),
                "tool_calls": st.sampled_from(
                    [None, [], [{"function": json.loads(CALL)}], [{"function": None}], [{"x": 1}], "calls", {"a": 1}]
                ),
            }
        ),
        max_size=5,
    ),
    st.sampled_from(["sft", "pt"]),
)
def test_tool_calls_of_openai_rows_are_judged_as_the_host_treats_them(host, messages, stage):
    raw = {"formatting": "openai", **MESSAGES}
    row = {"talk": messages, "sys": None, "tools": None, "good": None}
    assert judged(row, raw, stage) == host(row, raw, stage)
