import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import judge_of

from mig_selector.pool.entry import LocalSource, PoolEntry
from mig_selector.pool.leaves.batch import holds_utf8
from mig_selector.pool.leaves.decoder import LeafDecoder
from mig_selector.pool.leaves.shapes import Shapes
from mig_selector.pool.leaves.verdicts import Unreadable


def walk(value, path):
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


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


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from("abc"), _ANY, max_size=3))
def test_what_the_typed_decoder_takes_for_plain_is_what_json_finds(row):
    line = json.dumps(row).encode()
    for paths in (("a", "b"), ("a.b", "a.a", "c"), ("b.a.b",)):
        plain = LeafDecoder(paths).decode_plain(line)
        if plain is not None:
            assert plain == tuple(walk(row, path) for path in paths)
            assert all(value is None or isinstance(value, list | float) for value in plain)
            assert all(type(label) is str for label in plain[0] or [])


@pytest.mark.parametrize("odd", ['a"b', "a\\b", "a\nb", "a\ud800b", ""])
def test_keys_with_any_characters_are_read(tmp_path, odd):
    """msgspec allows some of them in no field's name."""
    columns = {"messages": odd, "system": f"s{odd}"}
    tags = {"role_tag": f"r{odd}", "content_tag": f"c{odd}", "user_tag": odd or "u", "assistant_tag": f"gpt{odd}"}
    turns = [{f"r{odd}": tags["user_tag"], f"c{odd}": "q"}, {f"r{odd}": f"gpt{odd}", f"c{odd}": "a"}]
    line = json.dumps({odd: turns, "labels": ["x"], f"n{odd}": {odd: 2.5}}).encode()
    layout = PoolEntry("p", "sharegpt", columns, tags, False, LocalSource("p", tmp_path), "train").layout
    decoder = LeafDecoder(["labels", f"n{odd}.{odd}"], Shapes(layout))
    values = decoder.decode_plain(line) or decoder.decode(line)
    assert isinstance(values, Unreadable) if "\ud800" in odd else values[:2] == (["x"], 2.5)


def test_the_wanted_columns_are_those_at_the_top():
    assert LeafDecoder(judge_of("annotation.instag.content", "deita").paths).columns == ["annotation"]
    assert LeafDecoder(judge_of("annotation.instag.content", "ifd").paths).columns == ["annotation", "ifd_score"]


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from("abc"), _ANY, max_size=3))
def test_the_fast_decoder_finds_what_json_loads_finds(row):
    paths = ("a.b", "a.a.b", "b", "c.a")
    line = json.dumps(row).encode()
    wanted = tuple(walk(json.loads(line), path) for path in paths)
    assert LeafDecoder(paths).decode(line) == wanted
