"""Rows judged by their shapes fare as rows judged one by one, in every format."""

import json
import random
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import TAGS

from mig_selector.integration.dataset_info import resolve_entry
from mig_selector.pool.formats.arrow import ArrowSource
from mig_selector.pool.formats.csv_rows import CsvSource
from mig_selector.pool.formats.json_array import JsonArraySource
from mig_selector.pool.formats.json_lines import JsonLinesSource
from mig_selector.pool.formats.parquet import ParquetSource
from mig_selector.pool.index.file_index import index_span
from mig_selector.pool.index.judge import RowJudge
from mig_selector.pool.leaves.labels import StoredLabels
from mig_selector.pool.leaves.verdicts import Dropped, Unreadable
from mig_selector.pool.training import judge_row


ALL_TAGS = {**TAGS, "observation_tag": "tool", "function_tag": "call"}
CALL = json.dumps({"name": "f", "arguments": {}})
TALK = {"messages": "talk", "system": "sys", "tools": "tools"}
ENTRIES = {
    "sharegpt": {"formatting": "sharegpt", "columns": TALK, "tags": ALL_TAGS},
    "few tags": {"formatting": "sharegpt", "columns": {"messages": "talk"}, "tags": TAGS},
    "openai": {"formatting": "openai", "columns": TALK, "tags": ALL_TAGS},
    "images": {"formatting": "sharegpt", "columns": {**TALK, "images": "images"}, "tags": ALL_TAGS},
    "alpaca": {
        "columns": {"prompt": "ask", "query": "input", "response": "output", "history": "past", "system": "sys"}
    },
    "one column": {"columns": {"prompt": "output", "response": "output"}},
    "two meanings": {"columns": {"prompt": "good", "response": "output", "kto_tag": "good"}},
    "kto": {"columns": {"prompt": "ask", "response": "output", "kto_tag": "good"}},
    "pairs": {"columns": {"prompt": "ask", "chosen": "good", "rejected": "output"}, "ranking": True},
    "replies": {
        "formatting": "sharegpt",
        "columns": {"messages": "talk", "chosen": "better", "rejected": "worse"},
        "tags": ALL_TAGS,
        "ranking": True,
    },
}
STAGES = {"kto": "kto", "two meanings": "kto", "pairs": "rm", "replies": "rm"}


def judge_and_layout(name, stage=None):
    layout = resolve_entry("pool", {"file_name": "p", **ENTRIES[name]}, Path("/data")).layout
    stage = stage or STAGES.get(name, "sft")
    return RowJudge(StoredLabels(("labels",)), layout=layout, stage=stage), layout, stage


def naive(rows, layout, stage):
    """Kept rows, counts of dropped rows, and unreadable rows with their reasons; each row on its own."""
    kept, dropped, unreadable = [], Counter(), []
    for number, row in enumerate(rows):
        verdict = judge_row(row, layout, stage) if row.get("labels") else Dropped("no labels at labels")
        if isinstance(verdict, Dropped):
            dropped[verdict.reason] += 1
        elif isinstance(verdict, Unreadable):
            unreadable.append((number, verdict.reason))
        else:
            kept.append(number)
    return kept, dropped, unreadable


def by_index(source, judge, spans=1):
    kept, dropped, unreadable, start = [], Counter(), [], 0
    for span in source.spans(spans):
        part = index_span(source, span, judge, lambda count: None, stop_at_unreadable=False)
        kept += (start + part.source_rows).tolist()
        dropped.update(part.tally.dropped)
        unreadable += [(start + line - 1, reason) for line, reason in part.tally.listed]
        start += part.tally.rows
    return kept, dropped, unreadable


class Draw(random.Random):
    """Draws rows by chance."""

    def turn(self, odd=0.2, tool_calls=False):
        role = self.choice(["user", "assistant", "tool", "call", "system", "stranger", None])
        content = self.choice(["a", "", "é<image>", CALL, *([None, 3, ["a"]] if self.random() < odd else [])])
        calls = {"tool_calls": self.choice([None, [], [{"function": json.loads(CALL)}], [{"function": {}}], "x"])}
        return {"role": role, "content": content, **(calls if tool_calls and self.random() < 0.3 else {})}

    def sound_talk(self):
        roles = ["system"] * (self.random() < 0.2) + ["user", "assistant"] * self.randint(1, 3)
        return [{"role": role, "content": self.choice(["a", "é"])} for role in roles]

    def talk(self, odd_turns):
        turns = self.sound_talk()
        match self.randrange(8):
            case 0:
                turns.pop(self.randrange(len(turns)))
            case 1:
                turns[self.randrange(len(turns))] = odd_turns()
            case 2:
                turns = [odd_turns() for _ in range(self.randrange(3))]
        return turns


# Rows as JSON has them

ODD = [None, 0, 3, True, {"a": 1}, [], ["a"], [["q", "a"]], [["q", None]], [["q"]]]


def json_row(draw):
    def value(*usual, odd=0.1):
        return draw.choice(ODD) if draw.random() < odd else draw.choice(usual)

    def turns():
        return value(draw.turn(tool_calls=True))

    row = {
        "labels": draw.choice([["x"], ["x"], ["x"], []]),
        "talk": value(draw.talk(turns)),
        "sys": value("", "s", None),
        "tools": value(None, "", "[]", "x"),
        "images": value(None, [], ["a.png"], "a.png"),
        "better": value(draw.turn(), {"role": "assistant", "content": "a"}),
        "worse": value({"role": "assistant", "content": "b"}),
        **{name: value("", "a", "é", None) for name in ("ask", "input", "output")},
        "past": value(None, [], [["q", "a"]]),
        "good": value(True, False, "a", None),
    }
    return {name: value for name, value in row.items() if name == "labels" or draw.random() > 0.03}


@pytest.mark.parametrize("stage", [None, "pt", "ppo"])
@pytest.mark.parametrize("name", ENTRIES)
def test_rows_of_json_are_judged_as_each_on_its_own(tmp_path, name, stage):
    if stage is not None and name in STAGES:
        stage = "ppo"  # of a row with two replies it takes none
    judge, layout, stage = judge_and_layout(name, stage)
    draw = Draw(f"{name} {stage}")
    rows = [json_row(draw) for _ in range(1_000)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "p.json").write_text("[" + ",\n".join(json.dumps(row) for row in rows) + "]")
    expected = naive(rows, layout, stage)
    assert all(expected)
    assert by_index(JsonArraySource(tmp_path / "p.json", "p"), judge) == expected
    assert by_index(JsonLinesSource(tmp_path / "p.jsonl", "p"), judge, spans=20_000) == expected


def test_labels_may_come_from_a_column_that_is_trained_on():
    _, layout, _ = judge_and_layout("alpaca")
    judge = RowJudge(StoredLabels(("output.tags",)), layout=layout)
    line = json.dumps({"output": {"tags": ["a"]}, "ask": "b"}).encode()
    assert judge.decoder().decode_plain(line) is None
    assert judge.judge(judge.decoder().decode(line)) == Dropped("a reply in output that is not a string")


def test_rows_of_csv_are_judged_by_their_cells(tmp_path):
    judge, _, _ = judge_and_layout("alpaca")
    cells = ['"[""x""]",ask,,a,', '"[""x""]",ask,input,,', '"[""x""]",,,"a, b",', "[],ask,,a,"]
    (tmp_path / "p.csv").write_text("\n".join(["labels,ask,input,output,past", *cells]))
    kept, dropped, unreadable = by_index(CsvSource(tmp_path / "p.csv", "p"), judge)
    assert (kept, unreadable) == ([0, 2], [])
    assert dropped == {"no reply in output": 1, "no labels at labels": 1}


# Rows as Arrow has them

STRUCT = pa.struct({"role": pa.string(), "content": pa.string()})
CALLS = pa.list_(pa.struct({"function": pa.struct({"name": pa.string(), "arguments": pa.string()})}))
KINDS = {
    "labels": pa.list_(pa.string()),
    "talk": pa.list_(STRUCT),
    "sys": pa.string(),
    "tools": pa.string(),
    "images": pa.list_(pa.string()),
    "better": STRUCT,
    "worse": STRUCT,
    "ask": pa.string(),
    "input": pa.string(),
    "output": pa.string(),
    "past": pa.list_(pa.list_(pa.string())),
    "good": pa.bool_(),
}
OTHER_KINDS = {
    "talk": pa.large_list(pa.struct({"content": pa.large_string(), "role": pa.dictionary(pa.int32(), pa.string())})),
    "output": pa.dictionary(pa.int8(), pa.string()),
    "ask": pa.large_string(),
    "tools": pa.dictionary(pa.int8(), pa.string()),
    "past": pa.large_list(pa.list_(pa.large_string())),
    "sys": pa.null(),
}
WRONG_KINDS = {"talk": pa.list_(pa.string()), "output": pa.int64(), "sys": pa.int64(), "good": pa.string()}


def table_row(draw, kinds):
    def odd_turn():
        turn = draw.turn(odd=0)
        return draw.choice([turn, turn, turn, {**turn, "content": None}, None])

    text = ["", "a", "é", "a", None]
    values = {
        "labels": draw.choice([["x"], ["x"], ["x"], []]),
        "talk": draw.choice([None, *[draw.talk(odd_turn)] * 20]),
        "tools": draw.choice([None, None, "", "[]", "x"]),
        "images": draw.choice([None, [], ["a.png"]]),
        "better": draw.choice([odd_turn(), {"role": "assistant", "content": "a"}]),
        "worse": {"role": "assistant", "content": "a"},
        **{name: draw.choice(text) for name in ("sys", "ask", "input", "output")},
        "past": draw.choice([None, None, [], [["q", "a"]], [["q", "a"], ["r", None]], [["q"]], [None], [[]]]),
        "good": draw.choice([True, False, None]),
    }
    if "tool_calls" in str(kinds["talk"]):
        for turn in filter(None, values["talk"] or []):
            turn["tool_calls"] = draw.choice([None, None, [], [{"function": {"name": "f", "arguments": "{}"}}]])
    for name, kind in kinds.items():
        if kind == pa.null():
            values[name] = None
        elif pa.types.is_int64(kind):
            values[name] = draw.choice([None, 0, 3])
        elif kind == pa.string() and name in ("good", "talk"):
            values[name] = draw.choice(["a", None])
        elif kind == WRONG_KINDS["talk"] and name == "talk":
            values[name] = draw.choice([["a"], [], None])
    return values


@pytest.mark.parametrize("kinds", [{}, OTHER_KINDS, WRONG_KINDS], ids=["usual", "other", "wrong"])
@pytest.mark.parametrize("has_statistics", [True, False])
@pytest.mark.parametrize("name", [name for name in ENTRIES if name != "two meanings"])
def test_rows_of_tables_are_judged_as_each_on_its_own(tmp_path, name, kinds, has_statistics):
    judge, layout, stage = judge_and_layout(name)
    kinds = {**KINDS, **kinds}
    if name == "pairs":
        kinds["good"] = pa.string()
    if name == "openai" and kinds["talk"] == KINDS["talk"]:
        kinds["talk"] = pa.list_(pa.struct([*STRUCT, ("tool_calls", CALLS)]))
    draw = Draw(f"{name} {len(kinds)}")
    rows = [table_row(draw, kinds) for _ in range(600)]
    for row in rows[300:400]:  # row groups without a null
        row |= {"talk": draw.sound_talk()} if pa.types.is_struct(kinds["talk"].value_type) else {}
        row |= {} if kinds["output"] == pa.int64() else {"output": "a"}
    table = pa.Table.from_pylist(rows, pa.schema(list(kinds.items())))
    pq.write_table(table, tmp_path / "p.parquet", row_group_size=50, write_statistics=has_statistics)
    with pa.OSFile(str(tmp_path / "p.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=70)
    expected = naive(table.to_pylist(), layout, stage)
    assert by_index(ParquetSource(tmp_path / "p.parquet", "p"), judge) == expected
    assert by_index(ArrowSource(tmp_path / "p.arrow", "p"), judge) == expected
