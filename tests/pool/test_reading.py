import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import contents_of, judge_of, make_row

from mig_selector.errors import PoolError
from mig_selector.pool.entry import LocalSource, PoolEntry
from mig_selector.pool.formats.files import open_sources
from mig_selector.pool.index.cache import IndexCache
from mig_selector.pool.reading import read_pool
from mig_selector.store.hashing import ContentHashes


def entry_of(path, split="train"):
    return PoolEntry("pool", "sharegpt", {"messages": "dialogs"}, {}, False, LocalSource(path.name, path), split)


def read(*paths, labels="t", score="s", on_bad_row="error", split="train", on_bytes=lambda count: None):
    entries = [entry_of(path, split) for path in paths]
    return read_entries(entries, judge_of(labels, score), on_bad_row, on_bytes)


def read_entries(entries, judge, on_bad_row="error", on_bytes=lambda count: None):
    cache = entries[0].source.path.parent / "cache"
    sources = [open_sources(entry) for entry in entries]
    hashes = ContentHashes(cache)
    file_hashes = contents_of(sources, hashes)
    return read_pool(
        entries, sources, file_hashes, [judge] * len(entries), on_bad_row, on_bytes, IndexCache(cache, hashes)
    )


@pytest.fixture
def pool(tmp_path):
    """A function that writes bytes to a file and reads it as a pool."""

    def write_and_read(content, name="pool.jsonl", **options):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read(path, **options)

    return write_and_read


def names_of(found, row):
    return [found.labels.names[i] for i in found.labels.ids[found.labels.offsets[row] : found.labels.offsets[row + 1]]]


A, B = '{"t":["a"],"s":1}', '{"t":["b","a"],"s":2.5}'


def test_rows_become_labels_scores_and_indices(pool):
    found = pool(f'{A}\n{{"t":[],"s":1}}\n{B}\n')
    assert found.labels.names == ["a", "b"]
    assert [names_of(found, row) for row in range(2)] == [["a"], ["b", "a"]]
    assert found.scores.tolist() == [1.0, 2.5]
    assert found.pool_indices.tolist() == [0, 2]
    assert [indices.tolist() for indices in found.locate(np.arange(2))] == [[0, 0], [0, 2]]
    assert (found.report.read, found.report.kept) == (3, 2)
    assert found.report.dropped == {"no labels at t": 1}


def test_the_arrays_have_the_promised_types(pool):
    found = pool(f"{A}\n{B}\n")
    types = {
        "scores": np.float64,
        "pool_indices": np.int64,
        "byte_offsets": np.int64,
    }
    assert {name: getattr(found, name).dtype for name in types} == types
    assert (found.labels.offsets.dtype, found.labels.ids.dtype) == (np.int64, np.int32)


@pytest.mark.parametrize(
    "text",
    [
        f"{A}\n{B}\n",
        f"{A}\n{B}",
        f"\ufeff{A}\n{B}\n",
        f"{A}\r\n{B}\r\n",
        f"{A}\r\n{B}",
        f"\n\n{A}\n   \n\t\r\n{B}\n\n\n",
        f"\ufeff\n{A}\n\n{B}",
        f"  {A}  \n\t{B}\t\n",
    ],
    ids=["plain", "no last newline", "mark", "crlf", "crlf, no last", "blank lines", "mark and blank", "indented"],
)
def test_line_ends_blank_lines_and_a_byte_order_mark_change_nothing(pool, text):
    found = pool(text)
    assert found.scores.tolist() == [1.0, 2.5]
    assert found.pool_indices.tolist() == [0, 1]
    assert found.report.read == 2
    rows = found.sources[0].read([0, 1], found.byte_offsets.tolist(), ["t", "s"])
    assert list(rows) == [{"t": ["a"], "s": 1}, {"t": ["b", "a"], "s": 2.5}]


def test_a_byte_order_mark_in_the_middle_is_not_json(pool):
    with pytest.raises(PoolError, match=r"pool\.jsonl:2: is not valid JSON"):
        pool(f"{A}\n\ufeff{B}\n")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"t": ["a"]', "is not valid JSON"),
        (b"[1, 2]", "must be a JSON object, got a list"),
        (b'{"t": 7, "s": 1}', "t must be a string or a list of strings, got the number 7"),
        (b'{"t": ["a"], "s": "x"}', "s must be a number or a list of numbers, got the string 'x'"),
        (b'{"t": ["a"], "s": NaN}', "s must be a finite number of 0 or more, got nan"),
        (b'{"t": ["a"], "s": -1}', "s must be a finite number of 0 or more, got -1"),
        (b'{"t": ["a"], "s": 1, "x": "\xff"}', "is not UTF-8"),
        (b'{"t": ["a"], "s": 1, "x": "\\ud800"}', "contains half of a surrogate pair"),
        (b'{"t": ["a"], "s": 1, "x": ' + b"[" * 90_000 + b"]" * 90_000 + b"}", "is nested too deeply"),
    ],
)
def test_a_bad_row_stops_with_file_and_line_or_is_skipped_and_counted(pool, line, reason):
    content = b"\n".join([A.encode(), b"", line, B.encode(), b""])
    with pytest.raises(PoolError, match=r"^pool\.jsonl:3: ") as caught:
        pool(content)
    assert str(caught.value).startswith(f"pool.jsonl:3: {reason}")
    assert "mig_on_bad_row: skip" in str(caught.value)
    found = pool(content, on_bad_row="skip")
    assert found.pool_indices.tolist() == [0, 2]  # the bad row has an index, the blank line has none
    assert (found.report.read, found.report.kept, found.report.unreadable.total()) == (3, 2, 1)
    assert found.report.dropped == {}
    assert len(found.report.unreadable_rows) == 1
    assert found.report.unreadable_rows[0].startswith(f"pool.jsonl:3: {reason}")


@pytest.mark.parametrize("first", ["[1, 2]", "[]", '[{"t": ["a"], "s": 1}]'])
def test_an_array_in_the_first_line_does_not_hide_the_rows_after_it(pool, first):
    found = pool(f"{first}\n{A}\n{B}\n", on_bad_row="skip")
    assert found.pool_indices.tolist() == [1, 2]
    assert found.report.unreadable == {"must be a JSON object": 1}


def test_skipped_rows_are_counted_by_reason_without_their_values(pool):
    lines = [
        *('{"t":["a"],"s":-1}', '{"t":["a"],"s":-2}', '{"t":["a"],"s":NaN}'),
        *('{"t":["x",7],"s":1}', '{"t":{"y (z, got":"x"},"s":1}', "{", "{{", A),
    ]
    report = pool("\n".join(lines), on_bad_row="skip").report
    assert report.unreadable == {
        "s must be a finite number of 0 or more": 3,
        "t must be a string or a list of strings": 2,
        "is not valid JSON": 2,
    }
    assert len(report.unreadable_rows) == 7
    assert (report.read, report.kept) == (8, 1)


def test_rows_with_unequal_lists_are_one_reason(pool):
    rows = [make_row(0, ["a"], 1.0), make_row(1, ["a"], 1.0), make_row(2, ["a"], 1.0)]
    rows[0]["annotation"]["deita"] = {"quality_scores": [1, 2], "complexity_scores": [1]}
    rows[1]["annotation"]["deita"] = {"quality_scores": [1, 2, 3], "complexity_scores": [1]}
    text = "\n".join(map(json.dumps, rows))
    report = pool(text, labels="annotation.instag.content", score="deita", on_bad_row="skip").report
    assert list(report.unreadable.values()) == [2]


def test_skipped_rows_beyond_a_thousand_are_only_counted(pool):
    report = pool("{\n" * 1_200 + A, on_bad_row="skip").report
    assert report.unreadable.total() == 1_200
    assert len(report.unreadable_rows) == 1_000


def test_dropped_rows_are_counted_by_reason(pool):
    lines = ["{}", '{"t":null,"s":1}', '{"t":[],"s":1}', '{"t":["a"]}', '{"t":["a"],"s":[]}', '{"t":["a"],"s":0}']
    found = pool("\n".join(lines))
    assert found.report.dropped == {"no labels at t": 3, "no score at s": 2}
    assert found.report.unreadable == {}
    assert found.pool_indices.tolist() == [5]
    assert found.scores.tolist() == [0.0]


def test_equal_rows_all_stay_and_are_counted(pool):
    dropped = '{"t":[],"s":1}'
    found = pool("\n".join([A, B, A, f" {A}", dropped, dropped]))
    assert found.report.duplicates == 2
    assert found.report.kept == 4


def test_blank_files_are_an_error(pool):
    with pytest.raises(PoolError, match=r"pool\.jsonl is empty"):
        pool("")
    for text in ("\n\n", "\ufeff", " \r\n"):
        with pytest.raises(PoolError, match=r"pool\.jsonl holds no rows"):
            pool(text)
    with pytest.raises(PoolError, match=r"pool\.json holds no rows"):
        pool(" [ ] ", "pool.json")


def test_a_pool_without_a_usable_row_is_an_error_that_says_why(pool):
    with pytest.raises(PoolError, match=r"none of the 3 rows of pool\.jsonl") as caught:
        pool('{"s":1}\n{"t":["a"]}\nx\n', on_bad_row="skip")
    assert "no labels at t: 1; no score at s: 1; is not valid JSON: 1" in str(caught.value)
    assert "The first rows have values at s, t. Check mig_labels" in str(caught.value)
    assert str(caught.value).endswith("mig_score: constant for labelled rows without score.")


def test_a_wrong_path_is_answered_with_those_that_rows_have(pool):
    row = {"a": {"b": [{"c": 1, "d": {"e": None}}]}, "f": ["x"], **{f"g{number}": 0 for number in range(30)}}
    with pytest.raises(PoolError) as caught:
        pool(json.dumps(row))
    listed = ", ".join(["a.b.c", "a.b.d.e", "f", *(f"g{number}" for number in range(17))])
    assert f"have values at {listed}, .... Check" in str(caught.value)


def test_num_labels_gives_no_score_yet(pool):
    found = pool(f"{A}\n{B}\n", score="num_labels")
    assert all(math.isnan(score) for score in found.scores)


def test_sources_are_concatenated_in_order(tmp_path):
    for name, text in {"b.jsonl": f"{A}\n{{}}\n", "a.jsonl": f"{B}\n{B}\n"}.items():
        (tmp_path / name).write_text(text)
    found = read(tmp_path / "b.jsonl", tmp_path / "a.jsonl")
    assert [source.name for source in found.sources] == ["b.jsonl", "a.jsonl"]
    assert found.source_entry_indices == [0, 1]
    assert found.pool_indices.tolist() == [0, 2, 3]
    assert [indices.tolist() for indices in found.locate(np.arange(3))] == [[0, 1, 1], [0, 0, 1]]
    assert found.report.duplicates == 1


@pytest.mark.parametrize("names", [("one.jsonl", "two.jsonl"), ("one.json", "two.json"), ("one.jsonl", "two.json")])
def test_some_rows_can_be_read_again_or_all(tmp_path, names):
    for name, first in zip(names, (0, 3), strict=True):
        rows = [{"t": ["a"], "s": 1, "n": number} for number in range(first, first + 3)]
        text = json.dumps(rows) if name.endswith(".json") else "\n".join(map(json.dumps, rows))
        (tmp_path / name).write_text(text)
    found = read(*(tmp_path / name for name in names))
    assert [row.record for row in found.rows(["n"])] == [{"n": number} for number in range(6)]
    some = list(found.rows(["n"], np.array([1, 3, 5])))
    assert [row.record["n"] for row in some] == [1, 3, 5]
    assert [row.entry_index for row in some] == [0, 1, 1]
    assert some[1].where == f"{names[1]}, row 1"
    assert list(found.rows(["n"], np.array([], np.int64))) == []


def test_every_byte_is_reported_to_the_progress_bar(tmp_path):
    path = tmp_path / "pool.jsonl"
    path.write_text(f"{A}\n" * 2_500 + "\n\n")
    seen = []
    read(path, on_bytes=seen.append)
    assert sum(seen) == path.stat().st_size


@pytest.mark.parametrize(
    ("split", "kept"),
    [
        ("train", range(10)),
        ("train[:50%]", range(5)),
        ("train[50%:]", range(5, 10)),
        ("train[2:4]", range(2, 4)),
        ("train[-3:]", range(7, 10)),
        ("train[:2]+train[8:]", [0, 1, 8, 9]),
    ],
)
def test_a_split_of_a_local_file_keeps_the_rows_that_the_host_would_read(pool, split, kept):
    lines = [f'{{"t":["a"],"s":{number}}}' for number in range(10)]
    found = pool("\n".join(lines), split=split)
    assert found.pool_indices.tolist() == found.scores.tolist() == list(kept)
    assert found.report.read == 10
    assert found.report.kept == len(found.labels.offsets) - 1 == len(kept)
    assert found.report.dropped.get(f"outside split {split}", 0) == 10 - len(kept)


def test_a_split_counts_rows_that_lack_something_and_looks_at_one_name_only(tmp_path):
    (tmp_path / "half.jsonl").write_text(f"{{}}\n{A}\n{A}\n{{}}\n")
    (tmp_path / "whole.jsonl").write_text(f"{B}\n{B}\n")
    entries = [entry_of(tmp_path / "half.jsonl", "train[:50%]"), entry_of(tmp_path / "whole.jsonl")]
    found = read_entries(entries, judge_of("t", "s"))
    assert found.pool_indices.tolist() == [1, 4, 5]
    assert found.report.dropped == {"no labels at t": 2, "outside split train[:50%]": 1}
    assert [names_of(found, row) for row in range(3)] == [["a"], ["b", "a"], ["b", "a"]]
    assert found.report.duplicates == 1


@pytest.mark.parametrize("split", ["test", "train[", "train[:200%]"])
def test_a_split_that_a_local_file_does_not_have_is_an_error(pool, split):
    with pytest.raises(PoolError, match="split") as caught:
        pool(f"{A}\n{B}\n", split=split)
    assert repr(split) in str(caught.value)


def test_the_third_line_of_the_published_example_is_malformed(published_example):
    options = {"labels": "annotation.instag.content", "score": "deita"}
    with pytest.raises(PoolError, match=r"published_example\.jsonl:3: is not valid JSON"):
        read(published_example, **options)
    found = read(published_example, on_bad_row="skip", **options)
    lines = published_example.read_text(encoding="utf-8").splitlines()
    rows = {number: json.loads(line) for number, line in enumerate(lines) if number != 2}
    assert (found.report.read, found.report.kept, found.report.unreadable) == (10, 9, {"is not valid JSON": 1})
    assert found.pool_indices.tolist() == list(rows)
    for kept_index, row in enumerate(rows.values()):
        deita = row["annotation"]["deita"]
        products = [q * c for q, c in zip(deita["quality_scores"], deita["complexity_scores"], strict=True)]
        assert found.scores[kept_index] == sum(products) / len(products)
        assert names_of(found, kept_index) == row["annotation"]["instag"]["content"]


ODD_ROWS = [
    {"t": ["a"], "s": 1, "many": 123456789012345678901234567890, "half": 0.1},
    {"s": 2, "t": ["b"], "deep": [{"x": None, "y": [True, 1.5e-300, "\u2028 é"]}]},
    {"s": 2, "t": ["b"], "half": -0.0, "text": 'it\'s "quoted"', "last": {}},
]


def test_kept_rows_are_read_whole_as_the_json_module_reads_them(tmp_path):
    lines = [json.dumps(row) for row in ODD_ROWS]
    (tmp_path / "a.jsonl").write_text(
        "\n".join([lines[0], '{"t":[],"s":1}', '{"s":9,"t":["z"],"s":3,"n":NaN}', lines[1]])
    )
    (tmp_path / "b.json").write_text(f"[{lines[2]}]")
    found = read_entries([entry_of(tmp_path / "a.jsonl"), entry_of(tmp_path / "b.json")], judge_of("t", "s"))
    rows = list(found.rows(None))
    expected = [ODD_ROWS[0], json.loads('{"s":9,"t":["z"],"s":3,"n":NaN}'), *ODD_ROWS[1:]]
    assert [repr(row.record) for row in rows] == [repr(row) for row in expected]
    assert [row.entry_index for row in rows] == [0, 0, 0, 1]
    assert [row.where for row in rows] == ["a.jsonl, row 1", "a.jsonl, row 3", "a.jsonl, row 4", "b.json, row 1"]
    assert [row.record for row in found.rows(["half"])] == [{"half": 0.1}, {}, {}, {"half": -0.0}]


def test_rows_can_be_dropped_and_are_counted(pool):
    found = pool(f'{A}\n{B}\n{{"t":["c","c"],"s":4}}\n')
    less = found.without(np.array([False, True, False]), "no luck")
    assert [names_of(less, row) for row in range(2)] == [["a"], ["c", "c"]]
    assert less.scores.tolist() == [1.0, 4.0]
    assert less.pool_indices.tolist() == [0, 2]
    assert (less.report.read, less.report.kept, less.report.dropped) == (3, 2, {"no luck": 1})
    assert [row.record["s"] for row in less.rows(["s"])] == [1, 4]
    assert found.report.kept == 3


@pytest.mark.parametrize("name", ["pool.jsonl", "pool.csv", "pool.parquet"])
def test_without_labels_and_scores_every_readable_row_is_kept(tmp_path, name):
    if name == "pool.parquet":
        pq.write_table(pa.table({"t": ["no list", None, "x"], "u": [1, 2, 3]}), tmp_path / name)
    else:
        text = "t,u\nno list,1\n,2\nx,3\n" if name == "pool.csv" else '{"t":"no list"}\n{}\n{"t":[],"s":-1}\n'
        (tmp_path / name).write_text(text)
    found = read_entries([entry_of(tmp_path / name)], judge_of(None, "constant"))
    assert found.pool_indices.tolist() == [0, 1, 2]
    assert found.labels.names == []
    assert found.report.dropped == {}
