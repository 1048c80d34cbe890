import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import judge_of

from faults.inputs.naive import walk
from mig_selector.pool.entry import LocalSource, PoolEntry
from mig_selector.pool.leaves.batch import holds_utf8
from mig_selector.pool.leaves.decoder import LeafDecoder
from mig_selector.pool.leaves.labels import StoredLabels
from mig_selector.pool.leaves.shapes import Shapes
from mig_selector.pool.leaves.verdicts import Unreadable


def decoder_of(labels, *numbers):
    return LeafDecoder(StoredLabels(labels), numbers)


@given(st.binary(max_size=40) | st.text(max_size=10).map(str.encode))
def test_a_text_holds_utf8_where_python_can_decode_it(data):
    try:
        data.decode("utf-8")
        expected = True
    except UnicodeDecodeError:
        expected = False
    assert holds_utf8(data) is expected


@pytest.mark.parametrize(
    "data", [b"\xed\xa0\x80", b"\xc0\xaf", b"\xf4\x90\x80\x80", b"\xe2\x82", b"\x80", b"a" * 70 + b"\xff"]
)
def test_surrogates_overlong_and_truncated_sequences_are_not_utf8(data):
    assert not holds_utf8(data)


_ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
)
_ROWS = st.dictionaries(st.sampled_from(["a", "b", "c", "a.b", "b.a", "b.a.b"]), _ANY, max_size=4)


@settings(max_examples=300, deadline=None)
@given(_ROWS)
def test_what_the_typed_decoder_takes_for_plain_is_what_json_finds(row):
    line = json.dumps(row).encode()
    for labels, numbers in (("a", ["b"]), ("a.b", ["a.a", "c"]), ("b.a.b", []), ("c", [("b.a", "a")])):
        paths = [(path,) if isinstance(path, str) else path for path in numbers]
        plain = decoder_of([labels], *paths).decode_plain(line)
        if plain is not None:
            assert plain == (walk(row, labels), *(walk(row, *each) for each in paths))
            assert all(value is None or isinstance(value, list | float) for value in plain[1:])
            assert plain[0] is None or isinstance(plain[0], str | list)
            assert all(type(label) is str for label in plain[0] or [])
            assert all(type(number) is float for value in plain[1:] if isinstance(value, list) for number in value)


@pytest.mark.parametrize("odd", ['a"b', "a\\b", "a\nb", "a\ud800b", ""])
def test_keys_with_any_characters_are_read(tmp_path, odd):
    """msgspec allows some of them in no field's name."""
    columns = {"messages": odd, "system": f"s{odd}"}
    tags = {"role_tag": f"r{odd}", "content_tag": f"c{odd}", "user_tag": odd or "u", "assistant_tag": f"gpt{odd}"}
    turns = [{f"r{odd}": tags["user_tag"], f"c{odd}": "q"}, {f"r{odd}": f"gpt{odd}", f"c{odd}": "a"}]
    line = json.dumps({odd: turns, "labels": ["x"], f"n{odd}": {odd: 2.5}}).encode()
    layout = PoolEntry("p", "sharegpt", columns, tags, False, LocalSource("p", tmp_path), "train").layout
    decoder = LeafDecoder(StoredLabels(["labels"]), [[f"n{odd}.{odd}"]], Shapes(layout))
    values = decoder.decode_plain(line) or decoder.decode(line)
    assert isinstance(values, Unreadable) if "\ud800" in odd else values[:2] == (["x"], 2.5)


def test_the_wanted_columns_are_those_at_the_top():
    labels = ["annotation", "annotation.instag", "annotation.instag.content"]
    assert judge_of("annotation.instag.content", "s").decoder().columns == [*labels, "s"]
    assert judge_of("annotation.instag.content", "ifd").decoder().columns == [
        *labels,
        "ifd_score",
        "ifd_score.content",
    ]
    assert judge_of(None, "deita").decoder().columns == [
        "annotation",
        "annotation.deita",
        "annotation.deita.quality_scores",
        "quality_scores",
        "annotation.deita.complexity_scores",
        "complexity_scores",
    ]


@settings(max_examples=200, deadline=None)
@given(_ROWS)
def test_the_fast_decoder_finds_what_json_loads_finds(row):
    line = json.dumps(row).encode()
    paths = ("a.b", "a.a.b", "b", "c.a")
    wanted = tuple(walk(json.loads(line), path) for path in paths)
    assert decoder_of(paths).decode(line) == wanted


@pytest.mark.parametrize(
    ("row", "labels"),
    [
        ('{"annotation": {"instag": {"content": ["a", "b"]}}}', ["a", "b"]),
        ('{"annotation.instag.content": ["a"]}', ["a"]),
        ('{"annotation.instag": {"content": ["a"]}}', ["a"]),
        ('{"annotation.instag": [{"content": "a"}, {"content": "b", "why": "c"}]}', ["a", "b"]),
        ('{"annotation": [{"instag": {"content": "a"}}, {"instag": {"content": "b"}}]}', ["a", "b"]),
        ('{"annotation": {"instag": null}, "annotation.instag.content": "a"}', "a"),
        ('{"annotation": "x", "annotation.instag.content": ["a"]}', ["a"]),
        ('{"annotation": {"instag": {"content": ["a"]}}, "annotation.instag.content": ["b"]}', ["a"]),
        ('{"annotation": {"instag": []}}', []),
        ('{"annotation": {"instag": [{"content": "a"}, "b"]}}', None),
        ('{"annotation": {"instag": [{"content": "a"}, {}]}}', ["a", None]),
    ],
)
def test_a_path_leads_through_lists_and_to_columns_with_dots(row, labels):
    decoder = decoder_of(["annotation.instag.content"])
    assert decoder.decode(row.encode()) == (labels,)
    assert decoder.decode_plain(row.encode()) in ((labels,), None)


def test_columns_with_dots_and_lists_of_objects_are_plain_too():
    decoder = decoder_of(["annotation.instag.tag"], ("annotation.rating", "rating"))
    for row in (
        {"annotation": {"instag": [{"tag": "a", "explanation": "b"}, {"tag": "c"}]}, "annotation.rating": 2.5},
        {"annotation.instag.tag": ["a", "c"], "rating": 2.5},
        {"annotation": {"instag": [{"tag": "a"}, {"tag": "c"}]}, "rating": 2.5},
    ):
        assert decoder.decode_plain(json.dumps(row).encode()) == (["a", "c"], 2.5)
