import json
import math

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow.json import read_json

from mig_selector.pool.subset.columns import BEYOND_JSON, FLOAT, JsonType


_TEXTS = st.none() | st.text(max_size=3)
_NUMBERS = st.none() | st.integers(-5, 5) | st.floats(-5, 5)
_MESSAGES = st.fixed_dictionaries(
    {"role": st.sampled_from("ab")}, optional={"content": _TEXTS, "n": _NUMBERS, "tags": st.lists(_TEXTS, max_size=2)}
)


def type_of(*values):
    found = JsonType()
    for value in values:
        found.add(value)
    return found


@pytest.mark.parametrize(
    ("values", "arrow"),
    [
        (["a", "b"], pa.string()),
        ([1, 2], pa.int64()),
        ([1.5, 2.5], pa.float64()),
        ([True, False], pa.bool_()),
        ([["a"], ["b", "c"]], pa.list_(pa.string())),
        ([{"x": 1}, {"x": 2}], pa.struct([("x", pa.int64())])),
        ([[{"x": "a", "y": [1]}]], pa.list_(pa.struct([("x", pa.string()), ("y", pa.list_(pa.int64()))]))),
    ],
)
def test_one_shape_throughout_is_uniform_and_stays_json(values, arrow):
    found = type_of(*values)
    assert found.is_uniform
    assert not found.is_empty
    assert found.to_arrow("column x") == arrow


@pytest.mark.parametrize(
    ("values", "arrow"),
    [
        (["a", None], pa.string()),
        ([None, "a"], pa.string()),
        ([1, 2.5], pa.float64()),
        ([2.5, 1], pa.float64()),
        ([["a"], []], pa.list_(pa.string())),
        ([[], ["a"]], pa.list_(pa.string())),
        ([None, ["a"]], pa.list_(pa.string())),
        ([["a", None]], pa.list_(pa.string())),
        ([[1], [1.5]], pa.list_(pa.float64())),
        ([{"x": 1}, {"y": "a"}], pa.struct([("x", pa.int64()), ("y", pa.string())])),
        ([{"x": 1}, {"x": 1, "y": "a"}], pa.struct([("x", pa.int64()), ("y", pa.string())])),
        ([{"x": 1, "y": "a"}, {"x": 1}], pa.struct([("x", pa.int64()), ("y", pa.string())])),
        ([{}, {"x": 1}], pa.struct([("x", pa.int64())])),
        ([{"x": None}, {"x": 1}], pa.struct([("x", pa.int64())])),
        ([[{"x": 1}, {"x": 1.5}]], pa.list_(pa.struct([("x", pa.float64())]))),
        ([[{"x": "a"}], [{"x": "a", "y": []}], [{"y": ["b"]}]], None),
        ([{"x": "a", "y": None}, {"x": "b", "y": None}], pa.struct([("x", pa.string()), ("y", pa.null())])),
        ([{"x": "a", "y": {"z": None}}], pa.struct([("x", pa.string()), ("y", pa.struct([("z", pa.null())]))])),
        ([{"x": "a", "y": {}}], pa.struct([("x", pa.string()), ("y", pa.struct([]))])),
        (["2021-03-01", "2021-03-01 10:00:00"], pa.string()),
        ([["2021-03-01"], ["2021-03-02"]], pa.list_(pa.string())),
        ([[{"x": "a", "y": "2021-03-01T10:00Z"}]], pa.list_(pa.struct([("x", pa.string()), ("y", pa.string())]))),
        ([math.nan, 1.5], pa.float64()),
        ([[{"x": math.inf}]], pa.list_(pa.struct([("x", pa.float64())]))),
        ([b"a", b"b"], pa.binary()),
        ([[{"bytes": b"", "path": "a.png"}]], pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))),
    ],
)
def test_what_breaks_readers_of_json_blocks_is_not_uniform_but_has_an_arrow_type(values, arrow):
    found = type_of(*values)
    assert not found.is_uniform
    assert not found.is_empty
    if arrow is not None:
        assert found.to_arrow("column x") == arrow


@pytest.mark.parametrize(
    "values", [[None], [[]], [{}], [None, []], [[], None], [{"x": None}], [{"x": {"y": []}}, None]]
)
def test_a_column_without_any_value_is_empty(values):
    assert type_of(*values).is_empty


@pytest.mark.parametrize("values", [[""], [0], [False], [0.0], [[""]], [[None]], [{"x": ""}]])
def test_empty_text_and_zero_are_values(values):
    assert not type_of(*values).is_empty


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["a", 1], "column x mixes int and string"),
        (["a", ["a"]], "column x mixes list and string"),
        ([{"a": 1}, "a"], "column x mixes object and string"),
        ([True, 1], "column x mixes bool and int"),
        ([[1], ["a"]], r"column x\[\] mixes int and string"),
        ([[{"content": "a"}], [{"content": ["a"]}]], r"column x\[\]\.content mixes list and string"),
        ([{"a": {"b": 1}}, {"a": {"b": {}}}], r"column x\.a\.b mixes int and object"),
    ],
)
def test_kinds_that_no_type_can_hold_are_named_with_their_path(values, message):
    found = type_of(*values)
    assert not found.is_uniform
    with pytest.raises(TypeError, match=message):
        found.to_arrow("column x")


@pytest.mark.parametrize("value", [("a",), {"a": {1}}, [object()], bytearray(b"a")])
def test_values_that_are_neither_of_json_nor_bytes_are_named(value):
    with pytest.raises(TypeError, match=r"a value of type (bytearray|tuple|set|object), which JSON cannot represent"):
        JsonType().add(value)


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (1, 0),
        ("1.5", 0),
        (1.0, FLOAT),
        ([1, [2.5]], FLOAT),
        ({"a": {"b": [0.0, "x"]}}, FLOAT),
        ({"a": 2}, 0),
        (math.nan, FLOAT | BEYOND_JSON),
        ([{"a": -math.inf}], FLOAT | BEYOND_JSON),
        ({"a": [b"x"]}, BEYOND_JSON),
        ([b"x", 0.5], FLOAT | BEYOND_JSON),
        (None, 0),
    ],
)
def test_floats_and_what_json_lacks_are_told_from_other_values(value, found):
    kind = JsonType()
    assert kind.add(value) == found
    assert kind.is_beyond_json is bool(found & BEYOND_JSON)


@pytest.mark.parametrize(
    "values",
    [["2021-03-01", "x"], ["x", "2021-03-01"], [["2021-03-01", ""]], [{"x": "2021-03-01"}, {"x": "on 2021-03-01"}]],
)
def test_dates_among_other_text_stay_json_and_are_known(values):
    found = type_of(*values)
    assert found.is_uniform
    assert found.holds_timestamp


@pytest.mark.parametrize(
    "text", ["2021", "2021-03", "03/01/2021", "10:00", "", "2021-03-01 ", "2021-03-01, noon", "1-2-3"]
)
def test_other_text_is_no_date(text):
    found = type_of(text)
    assert found.is_uniform
    assert not found.holds_timestamp


_DATES = st.builds(
    "".join,
    st.tuples(
        st.sampled_from(["2021-03-01", "0000-01-01", "9999-12-31", "2021-3-1", "2021-03", "20210301"]),
        st.sampled_from(["", " ", "T", "t"]),
        st.sampled_from(["", "10", "10:00", "1000", "10:00:00", "10:00:00.5", "10:00:00.123456789", "24:00"]),
        st.sampled_from(["", "Z", "+02", "+02:00", "-0230", " Z", "z"]),
    ),
)


@settings(max_examples=300, deadline=None)
@given(_DATES | st.text("0123456789-: TZ+.", max_size=20))
def test_every_string_that_the_json_reader_takes_for_a_timestamp_is_known(text):
    read = read_json(pa.BufferReader(json.dumps({"x": text}).encode())).schema.field("x").type
    assert pa.types.is_string(read) or type_of(text).holds_timestamp


@settings(max_examples=150, deadline=None)
@given(st.lists(st.none() | st.lists(_MESSAGES, max_size=3), max_size=4), st.lists(st.lists(_MESSAGES, max_size=3)))
def test_a_merged_type_holds_the_values_of_both(first, second):
    merged = type_of(*first)
    merged.merge(type_of(*second))
    assert merged.to_arrow("x") == type_of(*first, *second).to_arrow("x")


def test_objects_are_found_at_any_depth():
    assert type_of([[{"a": 1}]]).holds_objects
    assert type_of({"a": 1}).holds_objects
    assert not type_of([["a"]], None).holds_objects


def shaped(kind, value):
    """The value as Arrow returns it: absent keys are null, objects have every key."""
    if pa.types.is_struct(kind):
        return None if value is None else {field.name: shaped(field.type, value.get(field.name)) for field in kind}
    if pa.types.is_list(kind):
        return None if value is None else [shaped(kind.value_type, item) for item in value]
    return value


@settings(max_examples=150, deadline=None)
@given(st.lists(st.none() | st.lists(_MESSAGES, max_size=3), min_size=1, max_size=5))
def test_the_arrow_type_holds_every_value_it_was_made_from(values):
    found = type_of(*values)
    if found.is_empty:
        assert all(not value for value in values)
        return
    kind = found.to_arrow("column x")
    assert pa.array(values, kind).to_pylist() == [shaped(kind, value) for value in values]
    if found.is_uniform:
        lines = {json.dumps(value) for value in values}
        assert "null" not in "".join(lines)
        assert "[]" not in lines
