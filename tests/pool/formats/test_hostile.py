"""Malicious and damaged pool files: each ends in a clear error or is counted, within bounded memory."""

import base64
import csv
import os
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from packaging.version import Version
from support import read_file

from mig_selector.errors import PoolError
from mig_selector.pool.formats.arrow import ArrowSource
from mig_selector.pool.formats.parquet import ParquetSource
from mig_selector.pool.formats.tables import bytes_of_texts
from mig_selector.pool.leaves.batch import Numbering
from mig_selector.pool.leaves.decoder import LeafDecoder
from mig_selector.pool.leaves.labels import StoredLabels


GOOD = '{"labels":["a"],"score":1}'
OTHER = '{"labels":["b"],"score":2}'
MEGABYTE = 1 << 20
LIMIT = 64 * MEGABYTE

_READING = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from support import read_file
from mig_selector.errors import PoolError
try:
    pool = read_file(Path(sys.argv[2]), sys.argv[3])
    print(pool.pool_indices.tolist(), *pool.report.unreadable_rows)
except PoolError as error:
    print(str(error).replace("\\n", " "))
own = next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]
print(max(int(own), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) // 1024)
"""


def read_elsewhere(path, on_bad_row="error"):
    """Read a pool in another process; return what it printed, and the peak memory of it and its children in MiB."""
    words = [sys.executable, "-c", _READING, Path(__file__).parents[2], path, on_bad_row]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    line, peak = done.stdout.splitlines()
    return line, int(peak)


def write_hole(path, before, size, after):
    """Write a file with `size` zero bytes in the middle that take no space on disk."""
    with path.open("wb") as stream:
        stream.write(before.encode())
        stream.truncate(len(before.encode()) + size)
        stream.seek(0, os.SEEK_END)
        stream.write(after.encode())


@pytest.mark.parametrize("size", [80 * MEGABYTE, 200 * MEGABYTE], ids=["one process", "several"])
def test_a_line_of_more_than_64_mib_is_unreadable_and_never_in_memory(tmp_path, size):
    path = tmp_path / "pool.jsonl"
    write_hole(path, f'{GOOD}\n{{"x": "', size, f'"}}\n\n{OTHER}\n')
    line, peak = read_elsewhere(path)
    assert line.startswith("pool.jsonl:2: is longer than 64 MiB. Fix the row")
    assert peak < 200
    line, peak = read_elsewhere(path, "skip")
    assert line == "[0, 2] pool.jsonl:2: is longer than 64 MiB"
    assert peak < 200


@pytest.mark.parametrize(("surplus", "rows"), [(0, [0, 1, 2]), (1, [0, 2])])
def test_a_line_of_64_mib_is_read_in_both_passes(tmp_path, surplus, rows):
    path = tmp_path / "pool.jsonl"
    fill = LIMIT - len('{"labels":["c"],"score":9,"x":""}\n') + surplus
    path.write_text(f'{GOOD}\n{{"labels":["c"],"score":9,"x":"{"x" * fill}"}}\n{OTHER}\n')
    pool = read_file(path, "skip")
    assert pool.pool_indices.tolist() == rows
    found = list(pool.sources[0].read(rows, pool.byte_offsets.tolist(), ["score", "x"]))
    assert [(row["score"], len(row.get("x", ""))) for row in found] == [
        (score, length) for row, score, length in ((0, 1, 0), (1, 9, fill), (2, 2, 0)) if row in rows
    ]


def test_a_line_that_has_become_too_long_is_not_read_whole(tmp_path):
    path = tmp_path / "pool.jsonl"
    path.write_text(f"{GOOD}\n{OTHER}\n")
    source = read_file(path).sources[0]
    write_hole(path, '{"x": "', 200 * MEGABYTE, '"}\n')
    with pytest.raises(PoolError, match=r"pool\.jsonl, row 1: .*did the file change during the run"):
        list(source.read([0], [0], ["x"]))


def test_an_endless_first_line_that_begins_as_an_array_is_an_error(tmp_path):
    path = tmp_path / "pool.jsonl"
    write_hole(path, "[", 200 * MEGABYTE, "")
    with pytest.raises(PoolError, match=r"pool\.jsonl:1: the array element that begins here is not"):
        read_file(path)


@pytest.mark.parametrize("nan", ["", ', "y": NaN'], ids=["JSON", "with NaN"])
def test_an_element_of_more_than_64_mib_is_unreadable(tmp_path, nan):
    path = tmp_path / "pool.json"
    path.write_text(f'[\n{GOOD},\n{{"x": ["{"x" * LIMIT}",\n\n"y"]{nan}}},\n 7,{OTHER}]')
    with pytest.raises(PoolError, match=r"^pool\.json:3: is longer than 64 MiB\. Fix the row"):
        read_file(path)
    pool = read_file(path, "skip")
    assert pool.pool_indices.tolist() == [0, 3]
    assert pool.report.unreadable_rows == [
        "pool.json:3: is longer than 64 MiB",
        "pool.json:6: must be a JSON object, got the number 7",
    ]
    assert list(pool.sources[0].read([3], [0], ["score"])) == [{"score": 2}]


FILL = "x" * MEGABYTE


@pytest.mark.parametrize(
    "record",
    [f'1,2,"{FILL * 64}', '1,2,"' + f"{FILL}\n" * 64, "1,2," + f'"{FILL}\n",' * 64, FILL * 64],
    ids=["one line", "many lines", "many cells", "no quotes"],
)
def test_a_csv_row_of_more_than_64_mib_is_an_error_with_its_line(tmp_path, record):
    path = tmp_path / "pool.csv"
    path.write_text(f"labels,score,x\n[],1,x\n{record}")
    for on_bad_row in ("error", "skip"):
        with pytest.raises(PoolError, match=r"^pool\.csv:3: is not valid CSV \(the row is longer than 64 MiB"):
            read_file(path, on_bad_row)


def test_an_unclosed_quote_in_a_large_file_is_an_error_in_little_memory(tmp_path):
    path = tmp_path / "pool.csv"
    write_hole(path, 'labels,score\n"[', 300 * MEGABYTE, "")
    line, peak = read_elsewhere(path)
    assert line.startswith("pool.csv:2: is not valid CSV (the row is longer than 64 MiB; is a quote not closed?)")
    assert peak < 400


def test_an_endless_line_that_is_not_utf8_is_named_in_little_memory(tmp_path):
    path = tmp_path / "pool.csv"
    write_hole(path, 'labels,score\n"[""a""]",1\n', 60 * MEGABYTE, "")
    with path.open("ab") as stream:
        stream.write(b"\xff\n")
    line, peak = read_elsewhere(path)
    assert line == "pool.csv:3: is not UTF-8."
    assert peak < 400


def as_lines(row):
    return f"{GOOD}\n{row}\n{OTHER}\n".encode()


def as_array(row):
    return f"[{GOOD},\n{row},\n{OTHER}]".encode()


@pytest.mark.parametrize(("write", "name"), [(as_lines, "pool.jsonl"), (as_array, "pool.json")])
@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ('"score": 1e400', "score must be a finite number of 0 or more, got inf"),
        ('"score": -1e400', "score must be a finite number of 0 or more, got -inf"),
        (f'"score": 1{"0" * 1_000_000}', "score must be a finite number of 0 or more, got inf"),
        (f'"score": -1{"0" * 1_000_000}', "score must be a finite number of 0 or more, got -inf"),
        (f'"score": 1{"0" * 400}', f"score must be a finite number of 0 or more, got 1{'0' * 39}"),
        ('"x": "\\ud800"', "contains half of a surrogate pair"),
        ('"\\udc00": 1', "contains half of a surrogate pair"),
        ('"labels": ["\\udfff"]', "contains half of a surrogate pair"),
        ('"labels": ["b"], "labels": 1', "labels must be a string or a list of strings, got the number 1"),
        ('"score": 1, "score": "x"', "score must be a number or a list of numbers, got the string 'x'"),
    ],
)
def test_a_value_that_is_not_a_label_or_score_makes_its_row_unreadable(tmp_path, write, name, more, reason):
    path = tmp_path / name
    path.write_bytes(write(f'{{"labels":["a"],"score":1,{more}}}'))
    with pytest.raises(PoolError) as caught:
        read_file(path)
    assert str(caught.value).startswith(f"{name}:2: {reason}")
    assert len(str(caught.value)) < 300
    pool = read_file(path, "skip")
    assert pool.pool_indices.tolist() == [0, 2]
    assert pool.report.unreadable.total() == 1


@pytest.mark.parametrize(("write", "name"), [(as_lines, "pool.jsonl"), (as_array, "pool.json")])
@pytest.mark.parametrize(
    ("more", "labels", "score"),
    [
        (f'"x": {"1" * 1_000_000}', ["a"], 1),
        (f'"x": [NaN, {"1" * 5_000}]', ["a"], 1),
        ('"x": [1e400, -1E999]', ["a"], 1),
        ('"x": "\\u0000", "y\\u0000": 1', ["a"], 1),
        ('"labels": ["\\u0000", "\\u001b[31m"]', ["\0", "\x1b[31m"], 1),
        ('"labels": 1, "labels": ["b"]', ["b"], 1),
        ('"score": -1, "score": 1e-400', ["a"], 0),
        ('"\\u0073core": 7', ["a"], 7),
        (f'"score": 1{"0" * 300}', ["a"], 1e300),
    ],
)
def test_the_last_of_equal_keys_counts_and_other_values_may_be_anything(tmp_path, write, name, more, labels, score):
    path = tmp_path / name
    path.write_bytes(write(f'{{"labels":["a"],"score":1,{more}}}'))
    pool = read_file(path)
    assert [pool.labels.names[label] for label in pool.labels.ids] == ["a", *labels, "b"]
    assert pool.scores.tolist() == [1, score, 2]


DEPTHS = [200, 2_000, 1_000_000]


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("brackets", ["[]", ('{"a":', "}")])
def test_deep_nesting_ends_in_a_verdict_in_every_text_format(tmp_path, depth, brackets):
    nested = f"{brackets[0] * depth}1{brackets[1] * depth}"
    lines, cells, array = tmp_path / "pool.jsonl", tmp_path / "pool.csv", tmp_path / "pool.json"
    for path, column in ((lines, "x"), (lines, "labels"), (lines, "score")):
        path.write_bytes(as_lines(f'{{"labels":["a"],"score":1,"{column}":{nested}}}'))
        assert set(read_file(path, "skip").pool_indices.tolist()) >= {0, 2}
    lines.write_bytes(as_lines(f'{{"labels":["a"],"score":{nested}}}'))
    with pytest.raises(PoolError, match=r"^pool\.jsonl:2: (is nested too deeply|score must be a number)"):
        read_file(lines)
    array.write_bytes(as_array(f'{{"labels":["a"],"score":{nested}}}'))
    with pytest.raises(PoolError, match=r"^pool\.json:2: (score must|the array element that begins here .*recursion)"):
        read_file(array)
    with cells.open("w", newline="") as stream:
        csv.writer(stream).writerows([["labels", "score"], ['["a"]', nested]])
    with pytest.raises(PoolError, match=r"^pool\.csv:2: (score must be a number|is nested too deeply)"):
        read_file(cells)


@pytest.mark.parametrize("cell", ['["\\ud800"]', '{"x": 1}', f"1{'0' * 5_000}", "[[1]]", '["a", null]', "1", "1e400"])
def test_a_cell_that_is_neither_a_label_nor_a_list_of_labels_makes_its_row_unreadable(tmp_path, cell):
    path = tmp_path / "pool.csv"
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([["labels", "score"], ['["a"]', 1], [cell, 1], ['["b"]', 2]])
    with pytest.raises(PoolError, match=r"^pool\.csv:3: (labels must be a string or a list of strings|contains half)"):
        read_file(path)
    assert read_file(path, "skip").pool_indices.tolist() == [0, 2]


def test_of_two_csv_columns_with_one_name_the_first_counts_as_in_datasets(tmp_path):
    path = tmp_path / "pool.csv"
    path.write_text('labels,score,labels,,\n"[""a""]",1,"[""b""]",,\n')
    pool = read_file(path)
    assert pool.labels.names == ["a"]
    assert list(pool.sources[0].read([0], [0], ["labels"])) == [{"labels": '["a"]'}]


def write_table(path, table):
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    else:
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)


TABLES = pytest.mark.parametrize("name", ["pool.parquet", "pool.arrow"])
LABELS = [["a"], ["b"], ["c"]]


@TABLES
def test_strings_of_a_table_that_are_not_utf8_are_an_error_with_their_rows(tmp_path, name):
    path = tmp_path / name
    data = pa.array([b"fine", b"not \xff", b"fine"]).view(pa.string())
    write_table(path, pa.table({"labels": LABELS, "score": [1, 2, 3], "x": data}))
    pool = read_file(path)  # columns that are not wanted are not checked
    with pytest.raises(PoolError, match=rf"^{name}: cannot be read as .* \(rows 1 to 3: .*UTF8"):
        list(pool.sources[0].read([0], [0], ["x"]))
    labels = pa.ListArray.from_arrays(pa.array([0, 1, 2, 3], pa.int32()), data)
    write_table(path, pa.table({"labels": labels, "score": [1, 2, 3]}))
    with pytest.raises(PoolError, match=rf"^{name}: cannot be read as .* \(rows 1 to 3: .*UTF8"):
        read_file(path, "skip")


@TABLES
def test_views_of_strings_are_read_as_strings(tmp_path, name):
    """pyarrow has such types, but cannot take rows of them."""
    view = pa.string_view()
    nothing = pa.list_(pa.struct([("nothing", pa.null()), ("number", pa.int64())]))
    kind = pa.struct([("text", pa.list_(view)), ("bytes", pa.binary_view()), ("empty", nothing)])
    meta = {"text": ["x", None], "bytes": b"x", "empty": [{"nothing": None, "number": number} for number in range(9)]}
    columns = {
        "labels": pa.array([["a", "b"], None, ["longer than twelve bytes"]], pa.large_list(view)),
        "score": [1, 2, 3],
        "output": pa.array(["x", None, "longer than twelve bytes"], view),
        "meta": pa.array([meta] * 3, kind),
    }
    write_table(tmp_path / name, pa.table(columns))
    pool = read_file(tmp_path / name)
    assert pool.labels.names == ["a", "b", "longer than twelve bytes"]
    assert pool.report.dropped == {"no labels at labels": 1}
    rows = list(pool.sources[0].read([0, 2], [0, 0], ["output", "meta"]))
    assert rows == [{"output": text, "meta": meta} for text in ("x", "longer than twelve bytes")]


def test_rows_in_messages_count_from_the_beginning_of_the_file(tmp_path):
    path = tmp_path / "pool.parquet"
    data = pa.array([b"a", b"b", b"c", b"d", b"e", b"not \xff"]).view(pa.string())
    labels = pa.ListArray.from_arrays(pa.array(range(7), pa.int32()), data)
    pq.write_table(pa.table({"labels": labels, "x": data}), path, row_group_size=2)
    source = ParquetSource(path, "pool.parquet")
    last = source.spans(1)[-1]  # large files are read in parts
    with pytest.raises(PoolError, match=r"pool\.parquet: cannot be read as .* \(rows 5 to 6: .*UTF8"):
        list(source.scan(last, LeafDecoder(StoredLabels(["labels"])), Numbering(), int))
    with pytest.raises(PoolError, match=r"pool\.parquet: cannot be read as .* \(rows 5 to 6: .*UTF8"):
        list(source.read([5], [0], ["x"]))


@TABLES
def test_a_table_with_two_columns_of_one_name_is_an_error(tmp_path, name):
    columns = [pa.array(LABELS), pa.array([1, 2, 3]), pa.array([1, 2, 3])]
    path = tmp_path / name
    write_table(path, pa.Table.from_arrays(columns, ["labels", "score", "score"]))
    with pytest.raises(PoolError, match=rf"^{name}: cannot be read as .* \(2 columns are named 'score'\)"):
        read_file(path)
    pool = read_file(path, score="constant")
    with pytest.raises(PoolError, match=rf"^{name}: cannot be read as .* \(2 columns are named 'score'\)"):
        list(pool.sources[0].read([0], [0], ["score"]))
    fields = [pa.field(key, pa.int64()) for key in "xyx"]
    nested = pa.StructArray.from_arrays(columns[1:] + columns[1:2], fields=fields)
    write_table(path, pa.table({"labels": LABELS, "score": nested}))
    with pytest.raises(PoolError, match=rf"^{name}: cannot be read as .* \(2 fields are named 'x'\)"):
        read_file(path, score="score.x")


@TABLES
@pytest.mark.parametrize(
    "column",
    [
        pa.array([1, 2, 3], pa.timestamp("us")),
        pa.array([2**62, 2**61, 0], pa.timestamp("us")),
        pa.array([2**30, 2**31 - 1, 0], pa.date32()),
        pa.array([b"x", b"", b"\xff"]),
        pa.array([[("k", 1)], [], []], pa.map_(pa.string(), pa.int32())),
        pa.array([1, 2, 3], pa.decimal128(5)),
    ],
    ids=lambda column: str(column.type),
)
def test_a_column_of_a_type_that_is_not_a_score_makes_rows_unreadable(tmp_path, name, column):
    write_table(tmp_path / name, pa.table({"labels": LABELS, "score": column}))
    with pytest.raises(PoolError, match=rf"^{name}:1: score must be a number"):
        read_file(tmp_path / name)
    with pytest.raises(PoolError, match="none of the 3 rows"):
        read_file(tmp_path / name, "skip")


@pytest.mark.parametrize("name", ["pool.parquet", "pool.arrow"])
def test_a_date_that_python_lacks_is_not_what_is_wrong_with_a_row_unless_it_is_read(tmp_path, name):
    far = pa.array([2**62] * 3, pa.timestamp("us"))
    found = [pa.array([["a"], ["a", None], ["b"]]), pa.array([1.0, 2.0, 3.0]), far]
    notes = pa.StructArray.from_arrays(found, ["labels", "score", "seen"])
    write_table(tmp_path / name, pa.table({"instruction": ["q"] * 3, "notes": notes}))
    pool = read_file(tmp_path / name, "skip", "notes.labels", "notes.score")
    assert pool.report.unreadable_rows == [
        f"{name}:2: notes.labels must be a string or a list of strings, got a list with null"
    ]
    assert pool.scores.tolist() == [1.0, 3.0]


def thrift_list_of_structs(count, struct_bytes):
    return b"\xfc" + variable_length(count) + struct_bytes


def variable_length(number):
    digits = []
    while number >= 128:
        digits.append(number % 128 + 128)
        number //= 128
    return bytes([*digits, number])


def parquet_with_schema(count, struct_bytes):
    """A file that is only a footer, whose schema claims to have `count` elements."""
    footer = b"\x15\x02" + b"\x19" + thrift_list_of_structs(count, struct_bytes) + b"\x16\x02\x19\x0c\0"
    return b"PAR1" + footer + struct.pack("<I", len(footer)) + b"PAR1"


ELEMENT = b"\x35\x02\x18\x01a\x15\x02\0"  # optional, named "a", with one child


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(
            parquet_with_schema(900_000, ELEMENT * 900_000),
            marks=pytest.mark.skipif(
                Version(pa.__version__) < Version("26"), reason="pyarrow before 26 has no limit and crashes"
            ),
        ),
        parquet_with_schema(2**31 - 1, ELEMENT),
        b"PAR1" + struct.pack("<I", 2**32 - 1) + b"PAR1",
        b"PAR1" + struct.pack("<I", 0) + b"PAR1",
        b"PAR1" * 3,
    ],
    ids=["nested deeply", "more elements than there are", "large footer", "no footer", "no size"],
)
def test_a_malicious_footer_is_an_error(tmp_path, content):
    path = tmp_path / "pool.parquet"
    path.write_bytes(content)
    line, peak = read_elsewhere(path)
    assert line.startswith("pool.parquet: cannot be read as Parquet (")
    assert peak < 400


DAMAGED_HISTOGRAM = base64.b64decode(
    "UEFSMRUAFSwVLCwVBBUAFQYVBhw2ACgBYhgBYRERAAAAAgAAAAQAAgAAAAQDAQAAAGEBAAAAYhUAFSwVLCwVBBUAFQYVBhwYCAAAAAAAAABA"
    "GAgAAAAAAADwPxYAKAgAAAAAAAAAQBgIAAAAAAAA8D8REQAAAAIAAAAEAQAAAAAAAPA/AAAAAAAAAEAVBBlcNQAYBnNjaGVtYRUEADUCGAZs"
    "YWJlbHMVAhUGTDwAAAA1BBgEbGlzdBUCABUMJQIYB2VsZW1lbnQlAEwcAAAAFQolAhgFc2NvcmUAFgQZHBksJgAcFQwZJQYAGTgGbGFiZWxz"
    "BGxpc3QHZWxlbWVudBUAFgQWZhZmJgg8NgAoAWIYAWEREQAZHBUAFQAVAgA8FgQZJgQAGUYAAAAEAAAAJgAcFQoZJQYAGRgFc2NvcmUVABYE"
    "FqoBFqoBJm48GAgAAAAAAAAAQBgIAAAAAAAA8D8WACgIAAAAAAAAAEAYCAAAAAAAAPA/EREAGRwVABUAFQIAPClGGSYABAAAABaQAhYEJggW"
    "kAIAKCBwYXJxdWV0LWNwcC1hcnJvdyB2ZXJzaW9uIDI1LjAuMRksHAAAHAAAADcBAABQQVIx"
)
"""Two rows of labels and scores; one bit of the footer is flipped, in a histogram of a column."""


@pytest.mark.skipif(Version(pa.__version__) < Version("25"), reason="this pyarrow ignores histograms")
def test_metadata_at_which_pyarrow_ends_the_process_are_an_error(tmp_path):
    path = tmp_path / "pool.parquet"
    path.write_bytes(DAMAGED_HISTOGRAM)
    with pytest.raises(PoolError, match=r"^pool\.parquet: .* Parquet \(the metadata of a column are damaged\)"):
        read_file(path)


def test_a_footer_that_counts_other_rows_than_there_are_is_an_error(tmp_path):
    path = tmp_path / "pool.parquet"
    pq.write_table(pa.table({"labels": [["a"]] * 100, "score": range(100)}), path)
    content = path.read_bytes()
    assert content.count(b"\x16\xc8\x01") >= 2  # 100 as thrift writes it, of the file and of its row group
    path.write_bytes(content.replace(b"\x16\xc8\x01", b"\x16\xca\x01"))
    with pytest.raises(PoolError, match=r"^pool\.parquet: "):
        read_file(path, "skip")


def test_a_column_that_ends_before_the_others_is_an_error_when_it_is_wanted(tmp_path):
    path = tmp_path / "pool.parquet"
    table = pa.table({"labels": [["a"]] * 100, "score": range(100), "x": range(100)})
    pq.write_table(table, path, use_dictionary=False, compression="none", write_statistics=False)
    content = path.read_bytes()
    offset = content.rindex(b"\x2c\x15\xc8\x01")  # in the header of the last page: the page's 100 values
    path.write_bytes(content[: offset + 2] + b"\xe4\x00" + content[offset + 4 :])  # 50
    source = read_file(path).sources[0]
    with pytest.raises(PoolError, match=r"^pool\.parquet: .* \(row group 1 declares 100 rows but contains 50\)"):
        list(source.read([0, 99], [0, 0], ["x"]))
    with pytest.raises(PoolError, match=r"^pool\.parquet: cannot be read as Parquet \("):
        read_file(path, score="x")


@pytest.mark.parametrize("name", ["pool.jsonl", "pool.json", "pool.csv", "pool.parquet", "pool.arrow"])
def test_what_is_not_a_file_is_refused_at_once(tmp_path, name):
    folder = tmp_path / "parts"
    folder.mkdir()
    makers = [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero"), lambda path: path.symlink_to("gone")]
    for make in makers:
        path = folder / name
        make(path)
        with pytest.raises(PoolError, match=r"is not a readable file but a folder, a pipe, a device or"):
            read_file(folder)
        if not path.is_dir():
            with pytest.raises(PoolError, match=r"is not a readable file"):
                read_file(path)
        path.rmdir() if path.is_dir() else path.unlink()


def test_parquet_that_declares_billions_of_rows_is_refused_before_memory_is_allocated(tmp_path):
    path = tmp_path / "pool.parquet"
    table = pa.table({"labels": pa.nulls(40_000_000, pa.list_(pa.string())), "score": pa.nulls(40_000_000)})
    pq.write_table(table, path, row_group_size=40_000_000, compression="zstd")
    assert path.stat().st_size < 400_000
    line, peak = read_elsewhere(path)
    assert "cannot be read as Parquet (it declares 40,000,000 rows, more than a file of its size can hold" in line
    assert peak < 400


def test_parquet_that_declares_billions_of_values_is_refused_before_memory_is_allocated(tmp_path):
    path = tmp_path / "pool.parquet"
    one = pa.ListArray.from_arrays(pa.array([0, 60_000_000], pa.int32()), pa.nulls(60_000_000, pa.float64()))
    pq.write_table(pa.table({"labels": [["a"]], "score": one}), path, compression="zstd")
    assert path.stat().st_size < 50_000
    line, peak = read_elsewhere(path)
    assert "it declares 60,000,000 values in row group 1, more than a file of its size can hold" in line
    assert peak < 400


@pytest.mark.parametrize("late", [0, 70_000], ids=["first", "after a batch of empty lists"])
@pytest.mark.parametrize("name", ["pool.parquet", "pool.arrow"])
def test_a_long_text_that_is_stored_once_for_many_rows_is_refused_before_memory_is_allocated(tmp_path, name, late):
    """Two kilobytes of Parquet that would be 20 GB of labels."""
    rows = 20_000
    texts = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array(["x" * MEGABYTE]))
    starts = np.concatenate((np.zeros(late, np.int32), np.arange(rows + 1, dtype=np.int32)))
    labels = pa.ListArray.from_arrays(pa.array(starts), texts)
    write_table(tmp_path / name, pa.table({"labels": labels, "score": np.ones(len(labels))}))
    with pytest.raises(PoolError, match=r"it declares 20,971,520,000 bytes of text in 'labels.*' of row.*, more than"):
        read_file(tmp_path / name)


def test_it_is_found_however_deep_it_is(tmp_path):
    rows = 2_000
    texts = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([b"x" * MEGABYTE]))
    starts, keys = pa.array(range(rows + 1), pa.int32()), pa.array(["k"] * rows)
    for array in (
        texts,
        texts.cast(pa.dictionary(pa.int32(), pa.string())),
        pa.ListArray.from_arrays(starts, pa.ListArray.from_arrays(starts, texts)),
        pa.FixedSizeListArray.from_arrays(texts, 1),
        pa.StructArray.from_arrays([keys, texts], ["k", "x"]),
        pa.MapArray.from_arrays(starts, keys, texts),
    ):
        assert bytes_of_texts(array) == rows * MEGABYTE
    assert bytes_of_texts(pa.array([{"a": [["text"]]}])) == 0  # of what is written out the size is known


def test_a_text_that_many_rows_share_is_read_as_long_as_it_fits(tmp_path):
    texts = pa.array(["s" * 4_096] * 30_000)
    table = pa.table({"labels": [["a"]] * 30_000, "score": np.ones(30_000), "system": texts})
    pq.write_table(table, tmp_path / "pool.parquet")
    pool = read_file(tmp_path / "pool.parquet")
    assert pool.report.kept == 30_000
    assert next(pool.sources[0].read([29_999], [0], ["system"])) == {"system": "s" * 4_096}


@pytest.mark.parametrize("with_null", [False, True])
def test_a_row_with_millions_of_scores_is_unreadable_and_costs_little_time(tmp_path, with_null):
    path = tmp_path / "pool.arrow"
    values = pa.concat_arrays([pa.array([1.0, None if with_null else 2.0]), pa.array(np.ones(20_000_000))])
    scores = pa.ListArray.from_arrays(pa.array([0, 2, len(values)], pa.int32()), values)
    if with_null:
        scores = pa.ListArray.from_arrays(pa.array([0, 1, len(values)], pa.int32()), values)
    table = pa.table({"labels": [["a"], ["b"]], "score": scores})
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write(table)
    start = time.monotonic()
    pool = read_file(path, "skip")
    assert pool.pool_indices.tolist() == [0]
    assert time.monotonic() - start < 10
    with pytest.raises(PoolError, match=r"pool\.arrow:2: has a list of more than 4,194,304 values, got 20,000,00"):
        read_file(path)


@pytest.mark.parametrize("form", ["file", "stream"])
def test_an_arrow_file_that_is_cut_off_while_it_is_read_is_an_error_and_not_a_signal(tmp_path, form):
    path = tmp_path / "pool.arrow"
    table = pa.table({"labels": [["a"]] * 200_000, "score": [1.0] * 200_000, "text": ["x" * 50] * 200_000})
    with (pa.ipc.new_file if form == "file" else pa.ipc.new_stream)(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=20_000)
    program = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from mig_selector.errors import PoolError\n"
        "from mig_selector.pool.formats.arrow import ArrowSource\n"
        "rows = ArrowSource(Path(sys.argv[1]), 'pool.arrow').read(range(200_000), [], None)\n"
        "next(rows)\n"
        "os.truncate(sys.argv[1], 40_000)\n"
        "try:\n"
        "    print(sum(1 for row in rows))\n"
        "except PoolError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("pool.arrow: cannot be read as Arrow")


def test_columns_of_an_arrow_file_that_are_not_wanted_are_not_read(tmp_path):
    path = tmp_path / "pool.arrow"
    table = pa.table({"score": [1.0, 2.0], "text": ["x", "y"], "labels": [["a"], ["b"]]})
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table)
    source = ArrowSource(path, "pool.arrow")
    assert list(source.read([0, 1], [], ["text"])) == [{"text": "x"}, {"text": "y"}]
    assert list(source.read([1], [], ["labels", "score"])) == [{"score": 2.0, "labels": ["b"]}]
    assert list(source.read([0, 1], [], ["absent"])) == [{}, {}]
    assert source._num_rows(source.spans(1)[0]) == 2


def test_a_large_json_array_is_read_and_not_mapped(tmp_path):
    path = tmp_path / "pool.json"
    write_hole(path, "[", (1 << 30) + 1, "]")
    program = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from mig_selector.pool.formats.json_array import JsonArraySource\n"
        "data = JsonArraySource(Path(sys.argv[1]), 'pool.json')._content()\n"
        "os.truncate(sys.argv[1], 1)\n"
        "print(bytes(data[-1:]))\n"
    )
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "b']'\n")
