import json

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mig_selector.pool.subset.columns import JsonType


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
        ([{"x": "a", "y": None}, {"x": "b", "y": None}], pa.struct([("x", pa.string())])),
        ([{"x": "a", "y": {"z": None}}], pa.struct([("x", pa.string())])),
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


@pytest.mark.parametrize("value", [b"bytes", ("a",), {"a": {1}}, [object()]])
def test_values_that_json_cannot_represent_are_named(value):
    with pytest.raises(TypeError, match=r"a value of type (bytes|tuple|set|object), which JSON cannot represent"):
        JsonType().add(value)


@pytest.mark.parametrize(
    ("value", "has_float"),
    [(1, False), ("1.5", False), (1.0, True), ([1, [2.5]], True), ({"a": {"b": [0.0, "x"]}}, True), ({"a": 2}, False)],
)
def test_floats_are_told_from_other_numbers(value, has_float):
    assert JsonType().add(value) is has_float


def shaped(kind, value):
    """The value as Arrow returns it: absent keys are null, objects have every key."""
    if pa.types.is_struct(kind):
        return None if value is None else {field.name: shaped(field.type, value.get(field.name)) for field in kind}
    if pa.types.is_list(kind):
        return None if value is None else [shaped(kind.value_type, item) for item in value]
    return value


_TEXTS = st.none() | st.text(max_size=3)
_NUMBERS = st.none() | st.integers(-5, 5) | st.floats(-5, 5)
_MESSAGES = st.fixed_dictionaries(
    {"role": st.sampled_from("ab")}, optional={"content": _TEXTS, "n": _NUMBERS, "tags": st.lists(_TEXTS, max_size=2)}
)


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
