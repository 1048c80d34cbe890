"""Arrays against rows one by one: an index is what parsing each row with `json` and judging it alone gives."""

import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import judge_of

from faults.inputs.naive import walk
from mig_selector.pool.formats import json_lines, row_source
from mig_selector.pool.formats.json_lines import JsonLinesSource
from mig_selector.pool.formats.parquet import ParquetSource
from mig_selector.pool.index.file_index import index_span
from mig_selector.pool.leaves.verdicts import Dropped, Unreadable


def paths_of(judge):
    """The paths of each value that a judge looks at, in the order of preference."""
    numbers = judge.identity["numbers"]
    elsewhere = numbers["elsewhere"] or [None] * len(numbers["paths"])
    pairs = zip(numbers["paths"], elsewhere, strict=True)
    return [*((path,) for path in judge.identity["labels"]["paths"]), *(list(filter(None, pair)) for pair in pairs)]


def naive(rows, judge):
    """Judge rows one by one: kept (source row, labels, score), dropped reasons, unreadable (source row, reason)."""
    kept, dropped, unreadable = [], [], []
    for source_row, row in enumerate(rows):
        verdict = row
        if not isinstance(row, Unreadable):
            verdict = judge.judge(tuple(walk(row, *paths) for paths in paths_of(judge)))
        if isinstance(verdict, Dropped):
            dropped.append(verdict.reason)
        elif isinstance(verdict, Unreadable):
            unreadable.append((source_row, verdict.reason))
        else:
            kept.append((source_row, *verdict))
    return kept, sorted(dropped), unreadable


def found(index):
    ends = np.cumsum(index.label_counts)
    kept = [
        (row, [index.label_names[label] for label in index.label_ids[end - length : end]], score)
        for row, end, length, score in zip(
            index.source_rows.tolist(), ends, index.label_counts, index.scores.tolist(), strict=True
        )
    ]
    unreadable = [(line - 1, reason) for line, reason in index.tally.listed]
    return kept, sorted(index.tally.dropped.elements()), unreadable


def index_all(source, judge, size=10**9, *, stop=False):
    """What the indexes of all spans make up together."""
    parts = [
        index_span(source, span, judge, lambda count: None, stop_at_unreadable=stop) for span in source.spans(size)
    ]
    kept, dropped, unreadable, rows, lines = [], [], [], 0, 0
    for part in parts:
        mine = found(part)
        kept += [(rows + row, *rest) for row, *rest in mine[0]]
        dropped += mine[1]
        unreadable += [(lines + line, reason) for line, reason in mine[2]]
        rows, lines = rows + part.tally.rows, lines + part.tally.lines
    return kept, sorted(dropped), unreadable


NUMBERS = st.sampled_from([0, 1, 2.5, 3, -0.0, 1e300, 0.1, 0.7])
ODD = st.sampled_from([None, -1, True, "x", [], {}, [None], ["a", 1], [1, "a"], [[1.0]], 10**400, {"q": 1}])
TEXTS = st.sampled_from(["a", "b;c", " a ; ;ü", ";", ""])
LABELS = st.lists(st.sampled_from(["a", "b", "ü", ""]), max_size=4)
SCORES = st.lists(NUMBERS, max_size=4) | NUMBERS
ROWS = st.fixed_dictionaries(
    {},
    optional={
        "t": LABELS | TEXTS | ODD,
        "d": st.fixed_dictionaries({}, optional={"q": SCORES | ODD, "c": SCORES | ODD}) | ODD,
    },
)


@pytest.mark.parametrize("score", ["d.q", "constant", "num_labels"])
@settings(max_examples=150, deadline=None)
@given(rows=st.lists(ROWS, min_size=1, max_size=12))
def test_rows_judged_together_are_judged_as_each_alone(tmp_path_factory, score, rows):
    path = tmp_path_factory.mktemp("pool") / "pool.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    judge = judge_of("t", score)
    assert same(found_in(path, judge), naive(rows, judge))


@settings(max_examples=200, deadline=None)
@given(rows=st.lists(ROWS, min_size=1, max_size=12))
def test_quality_and_complexity_judged_together_are_judged_as_each_alone(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("pool") / "pool.jsonl"
    deita = [{"t": row.get("t"), "annotation": {"deita": renamed(row.get("d"))}} for row in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in deita))
    judge = judge_of("t", "deita")
    assert same(found_in(path, judge), naive(deita, judge))


def renamed(deita):
    names = {"q": "quality_scores", "c": "complexity_scores"}
    return {names[key]: value for key, value in deita.items()} if isinstance(deita, dict) else deita


def found_in(path, judge):
    return index_all(JsonLinesSource(path, path.name), judge)


def same(left, right):
    """Equal, where NaN equals NaN and a number in a message may be written as a float."""

    def plain(kept, dropped, unreadable):
        kept = [(row, labels, None if math.isnan(score) else score) for row, labels, score in kept]
        return kept, dropped, [(line, reason.split(", got")[0]) for line, reason in unreadable]

    return plain(*left) == plain(*right)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(
    rows=st.lists(
        st.fixed_dictionaries(
            {},
            optional={
                "t": st.none() | st.lists(st.none() | st.sampled_from(["a", "b", "ü"]), max_size=3),
                "d": st.none()
                | st.fixed_dictionaries({}, optional={"q": st.none() | st.lists(st.none() | NUMBERS, max_size=3)}),
            },
        ),
        min_size=1,
        max_size=12,
    ),
    text=st.sampled_from([pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())]),
    number=st.sampled_from([pa.float64(), pa.float32()]),
    make_list=st.sampled_from([pa.list_, pa.large_list]),
    group=st.integers(1, 5),
)
def test_a_table_is_judged_as_its_rows_alone(tmp_path_factory, rows, text, number, make_list, group):
    schema = pa.schema({"t": make_list(text), "d": pa.struct({"q": make_list(number), "other": pa.string()})})
    table = pa.Table.from_pylist(rows, schema)
    path = tmp_path_factory.mktemp("pool") / "pool.parquet"
    pq.write_table(table, path, row_group_size=group)
    judge = judge_of("t", "d.q")
    assert index_all(ParquetSource(path, path.name), judge, size=1) == naive(table.to_pylist(), judge)


TAGGED = st.fixed_dictionaries(
    {},
    optional={
        "d": st.lists(st.fixed_dictionaries({}, optional={"t": TEXTS | LABELS | ODD, "q": NUMBERS | ODD}) | ODD)
        | st.fixed_dictionaries({}, optional={"t": TEXTS, "q": NUMBERS}),
        "d.t": TEXTS | LABELS | ODD,
        "d.q": SCORES | ODD,
        "u": TEXTS | LABELS | ODD,
    },
)


@settings(max_examples=200, deadline=None)
@given(rows=st.lists(TAGGED, min_size=1, max_size=12))
def test_several_labels_and_columns_with_dots_judged_together_are_judged_as_each_alone(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("pool") / "pool.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    judge = judge_of(["d.t", "u"], "d.q", separator=";")
    assert same(found_in(path, judge), naive(rows, judge))


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(
    rows=st.lists(
        st.fixed_dictionaries(
            {},
            optional={
                "d": st.none()
                | st.lists(
                    st.none() | st.fixed_dictionaries({}, optional={"t": st.none() | TEXTS, "q": st.none() | NUMBERS}),
                    max_size=3,
                ),
                "d.t": st.none() | TEXTS,
                "d.q": st.none() | NUMBERS,
                "u": st.none() | st.lists(st.none() | TEXTS, max_size=3),
            },
        ),
        min_size=1,
        max_size=12,
    ),
    text=st.sampled_from([pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())]),
    make_list=st.sampled_from([pa.list_, pa.large_list]),
    group=st.integers(1, 5),
)
def test_a_table_with_lists_of_objects_is_judged_as_its_rows_alone(tmp_path_factory, rows, text, make_list, group):
    tagged = pa.struct({"why": pa.string(), "t": text, "q": pa.float64()})
    schema = pa.schema({"d": make_list(tagged), "d.t": text, "d.q": pa.float64(), "u": make_list(text)})
    table = pa.Table.from_pylist(rows, schema)
    path = tmp_path_factory.mktemp("pool") / "pool.parquet"
    pq.write_table(table, path, row_group_size=group)
    judge = judge_of(["d.t", "u"], "d.q", separator=";")
    assert index_all(ParquetSource(path, path.name), judge, size=1) == naive(table.to_pylist(), judge)


def test_labels_kept_as_a_dictionary_are_read_from_every_row_group(tmp_path):
    labels = pa.array([[f"l{number % 7}", "all"] for number in range(3_000)])
    coded = pa.ListArray.from_arrays(labels.offsets, labels.values.dictionary_encode())
    path = tmp_path / "pool.parquet"
    pq.write_table(pa.table({"t": coded, "s": np.arange(3_000.0)}), path, row_group_size=1_000)
    kept, dropped, unreadable = index_all(ParquetSource(path, "p"), judge_of("t", "s"))
    assert kept == [(number, [f"l{number % 7}", "all"], float(number)) for number in range(3_000)]
    assert (dropped, unreadable) == ([], [])


@pytest.mark.parametrize(
    ("kind", "values", "scores"),
    [
        (pa.float32(), [1.5, None, 0.25], [1.5, 0.25]),
        (pa.int64(), [3, None, 0], [3.0, 0.0]),
        (pa.uint8(), [255, None, 7], [255.0, 7.0]),
        (pa.int64(), [2**60 + 1, None, 1], [float(2**60 + 1), 1.0]),
    ],
)
def test_a_column_of_single_numbers_is_a_score(tmp_path, kind, values, scores):
    table = pa.table({"t": [["a"]] * 3, "s": pa.array(values, kind)})
    pq.write_table(table, tmp_path / "pool.parquet")
    kept, dropped, _ = index_all(ParquetSource(tmp_path / "pool.parquet", "p"), judge_of("t", "s"))
    assert [score for *_, score in kept] == scores
    assert dropped == ["no score at s"]


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        (pa.array([True, None]), "s must be a number or a list of numbers, got true"),
        (pa.array(["1", None]), "s must be a number or a list of numbers, got the string '1'"),
        (pa.array([{"a": 1}, None]), "s must be a number or a list of numbers, got an object"),
        (
            pa.array([-1.0, None]),
            "s must be a finite number of 0 or more, got -1.0 "
            "(for negative scores set mig_score_scale: rank, sigmoid or minmax)",
        ),
        (pa.array([math.nan, None]), "s must be a finite number of 0 or more, got nan"),
    ],
)
def test_a_table_with_another_kind_of_score_says_what_it_found(tmp_path, column, reason):
    pq.write_table(pa.table({"t": [["a"], ["a"]], "s": column}), tmp_path / "pool.parquet")
    kept, dropped, unreadable = index_all(ParquetSource(tmp_path / "pool.parquet", "p"), judge_of("t", "s"))
    assert (kept, dropped, unreadable) == ([], ["no score at s"], [(0, reason)])


TEXT = (
    '\ufeff{"t":["a"],"s":1}\r\n\n  {"t":["b","ü"],"s":2}\t\n{"t":[],"s":1}\n   \n{"t":["c"],"s":x}\n{"t":["a"],"s":3}'
)
WHOLE = (
    [(0, ["a"], 1.0), (1, ["b", "ü"], 2.0), (4, ["a"], 3.0)],
    ["no labels at t"],
    [(5, "is not valid JSON (Expecting value: line 1 column 16 (char 15))")],
)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 11, 16, 22, 23, 24, 25, 26, 40, 60, 100, 1000])
@pytest.mark.parametrize("block", [1, 10, 1 << 20])
def test_spans_of_any_size_make_up_the_whole(tmp_path, monkeypatch, size, block):
    monkeypatch.setattr(json_lines, "_BLOCK_BYTES", block)
    monkeypatch.setattr(row_source, "BATCH_BYTES", 16 * block)
    path = tmp_path / "pool.jsonl"
    path.write_bytes(TEXT.encode())
    assert index_all(JsonLinesSource(path, "pool.jsonl"), judge_of("t", "s"), size) == WHOLE


@pytest.mark.parametrize("block", [1, 10, 1 << 20])
def test_byte_offsets_lead_back_to_the_lines(tmp_path, monkeypatch, block):
    monkeypatch.setattr(json_lines, "_BLOCK_BYTES", block)
    monkeypatch.setattr(row_source, "BATCH_BYTES", 16 * block)
    path = tmp_path / "pool.jsonl"
    path.write_bytes(TEXT.encode())
    source = JsonLinesSource(path, "pool.jsonl")
    for span in source.spans(20):
        part = index_span(source, span, judge_of("t", "s"), lambda count: None, stop_at_unreadable=False)
        byte_offsets = [] if part.byte_offsets is None else part.byte_offsets.tolist()
        for byte_offset, score in zip(byte_offsets, part.scores.tolist(), strict=True):
            assert json.loads(path.read_bytes()[byte_offset:].splitlines()[0])["s"] == score


def test_a_line_longer_than_many_spans_is_read_by_the_span_it_begins_in(tmp_path, monkeypatch):
    path = tmp_path / "pool.jsonl"
    path.write_text(f'{{"t":["a"],"s":1,"x":"{"y" * 5_000}"}}\n{{"t":["b"],"s":2}}\n')
    source, judge = JsonLinesSource(path, "p"), judge_of("t", "s")
    read = []
    original = json_lines._next_line

    def watched(stream, offset, limit=None):
        end = original(stream, offset, limit)
        read.append(end - offset)
        return end

    monkeypatch.setattr(json_lines, "_next_line", watched)
    assert index_all(source, judge, 10) == ([(0, ["a"], 1.0), (1, ["b"], 2.0)], [], [])
    assert sum(read) < 3 * source.size  # not once for each of the 500 spans


def test_labels_that_no_kept_row_has_are_left_out(tmp_path):
    path = tmp_path / "pool.jsonl"
    path.write_text('{"t":["gone"],"s":null}\n{"t":["kept"],"s":1}\n{"t":["wrong"],"s":-1}\n')
    source = JsonLinesSource(path, "p")
    part = index_span(source, source.spans(100)[0], judge_of("t", "s"), lambda n: None, stop_at_unreadable=False)
    assert part.label_names == ["kept"]
