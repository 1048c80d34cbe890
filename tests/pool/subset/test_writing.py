import datetime
import errno
import json
import math
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Features, load_dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from support import TAGS, contents_of, judge_of, make_row, write_lines

from mig_selector.errors import PoolError
from mig_selector.pool.entry import LocalSource, PoolEntry
from mig_selector.pool.formats import parquet
from mig_selector.pool.formats.files import open_sources
from mig_selector.pool.index.cache import IndexCache
from mig_selector.pool.reading import read_pool
from mig_selector.pool.subset import tables
from mig_selector.pool.subset.columns import JsonType
from mig_selector.pool.subset.spool import _dump
from mig_selector.pool.subset.writing import write_selection_table, write_subset
from mig_selector.store.hashing import ContentHashes


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
COLUMNS = {"messages": "dialogs", "system": "system", "tools": "tools", "images": "images"}


class Work:
    """One or more pool files, read once, to choose rows from."""

    def __init__(self, folder, columns, *files):
        self.folder = folder
        self.entries = [
            PoolEntry(path.stem, "sharegpt", columns, TAGS, False, LocalSource(path.name, path), "train")
            for path in files
        ]
        judge = judge_of("annotation.instag.content", "constant")
        sources = [open_sources(entry) for entry in self.entries]
        hashes = ContentHashes(folder / "cache")
        cache, file_hashes = IndexCache(folder / "cache", hashes), contents_of(sources, hashes)
        self.pool = read_pool(
            self.entries, sources, file_hashes, [judge] * len(self.entries), "error", lambda count: None, cache
        )

    def write(self, chosen, entry_index=0, on_rows=lambda count: None):
        rows = np.array(chosen, np.int64)
        return write_subset(self.pool, self.entries[entry_index], rows, self.folder / "out", "selected", on_rows)


@pytest.fixture
def pool(tmp_path):
    """A function that makes a pool of rows."""

    def make(rows, columns=COLUMNS, name="pool.jsonl"):
        write_lines(tmp_path / name, rows)
        return Work(tmp_path, columns, tmp_path / name)

    return make


def lines_of(path):
    text = path.read_bytes()
    assert text.endswith(b"\n")
    return text.decode("utf-8").removesuffix("\n").split("\n")


def talk(number, **more):
    return make_row(number, ["a"], 1.0, **more)


def test_only_the_columns_of_the_entry_are_copied_in_the_order_of_choice(pool):
    work = pool([talk(number) for number in range(5)])
    seen = []
    subset = work.write([3, 0, 4], on_rows=seen.append)
    assert lines_of(subset.json_lines) == [
        f'{{"dialogs":[{{"role":"user","content":"question {number}"}},'
        f'{{"role":"assistant","content":"answer {number}"}}]}}'
        for number in (3, 0, 4)
    ]
    assert subset.trainer_file == subset.json_lines
    assert subset.columns == {"messages": "dialogs"}
    assert subset.row_ids == ["id3", "id0", "id4"]
    assert sum(seen) == 3
    assert [path.name for path in work.folder.joinpath("out").iterdir()] == ["selected.jsonl"]


def test_values_are_untouched(pool):
    values = {
        "zeta": 'é 答え \u2028 \x85 \u007f " \\ / \t 😀 \ufeff',
        "alpha": 2**60,
        "float": 0.1,
        "whole": 3.0,
        "tiny": 1e-300,
        "truth": False,
        "list": [[1, 2], [3]],
        "object": {"b": "1", "a": "2"},
        "text": "",
    }
    columns = {f"role{index}": name for index, name in enumerate(sorted(values))}
    subset = pool([talk(0, **values), talk(1, **values)], columns).write([1, 0])
    (line,) = set(lines_of(subset.json_lines))
    assert line == json.dumps(values, ensure_ascii=False, separators=(",", ":"))
    assert "é 答え" in line
    assert list(json.loads(line)) == list(values)  # in the pool's order
    assert json.loads(line) == values


def test_the_parquet_holds_every_row_however_many_there_are(pool):
    rows = [talk(number, system=None if number % 2 else f"s{number}") for number in range(3_001)]
    order = list(np.random.default_rng(0).permutation(3_001))
    subset = pool(rows).write(order)
    assert pq.read_table(subset.trainer_file)["system"].to_pylist() == [rows[number]["system"] for number in order]
    assert [json.loads(line)["system"] for line in lines_of(subset.json_lines)] == [rows[i]["system"] for i in order]


def test_two_runs_write_the_same_bytes(pool):
    rows = [talk(number, system=None if number % 2 else f"s{number}") for number in range(50)]
    work = pool(rows)
    order = list(np.random.default_rng(0).permutation(50))
    first = [path.read_bytes() for path in (work.write(order).json_lines, work.write(order).trainer_file)]
    again = [path.read_bytes() for path in (work.write(order).json_lines, work.write(order).trainer_file)]
    assert first == again


def test_columns_that_are_empty_in_every_chosen_row_are_left_out(pool):
    rows = [
        talk(0, system=None, images=[], tools="t"),
        talk(1, images=[], tools="u"),
        talk(2, system="be kind", images=["a.png"], tools="v"),
    ]
    work = pool(rows)
    subset = work.write([1, 0])
    assert subset.columns == {"messages": "dialogs", "tools": "tools"}
    assert [sorted(json.loads(line)) for line in lines_of(subset.json_lines)] == [["dialogs", "tools"]] * 2
    assert subset.trainer_file == subset.json_lines
    assert work.write([2]).columns == COLUMNS


@pytest.mark.parametrize(
    ("column", "values", "arrow"),
    [
        ("system", ["a", None, "b"], pa.string()),
        ("system", [None, None, "b"], pa.string()),
        ("system", ["a", ..., "b"], pa.string()),
        ("system", [..., ..., "b"], pa.string()),
        ("images", [["a"], [], ["b", "c"]], pa.list_(pa.string())),
        ("images", [[], [], ["b"]], pa.list_(pa.string())),
        ("images", [..., None, ["b"]], pa.list_(pa.string())),
        ("tools", [1, 2.5, 3], pa.float64()),
        (
            "tools",
            [{"a": 1}, {"b": "x"}, {"a": 2, "b": None}],
            pa.struct([("a", pa.int64()), ("b", pa.string())]),
        ),
        (
            "dialogs",
            [
                [{"role": "user", "content": "q"}],
                [{"role": "user", "content": "q", "weight": 1}, {"role": "assistant", "content": None}],
                [{"role": "user", "content": "q", "weight": 0.5}],
            ],
            pa.list_(pa.struct([("role", pa.string()), ("content", pa.string()), ("weight", pa.float64())])),
        ),
    ],
)
def test_a_column_that_changes_or_is_missing_in_some_rows_goes_to_parquet_too(pool, column, values, arrow):
    rows = [talk(number, **({} if value is ... else {column: value})) for number, value in enumerate(values)]
    work = pool(rows)
    order = [2, 0, 1]
    subset = work.write(order)
    assert subset.trainer_file == work.folder / "out" / "selected.parquet"
    assert set(subset.columns.values()) == {"dialogs", column}
    found = [json.loads(line) for line in lines_of(subset.json_lines)]
    assert [row[column] for row in found] == [None if values[i] is ... else values[i] for i in order]
    table = pq.read_table(subset.trainer_file)
    assert table.schema.field(column).type == arrow
    assert table.column_names == list(found[0])
    for written, read in zip(found, table.to_pylist(), strict=True):
        assert without_nulls(read) == without_nulls(written)


def without_nulls(value):
    if isinstance(value, dict):
        return {key: without_nulls(below) for key, below in value.items() if below is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


def test_every_row_of_the_json_lines_holds_the_same_columns(pool):
    rows = [talk(0), talk(1, system="s"), talk(2, images=["x"])]
    subset = pool(rows).write([0, 1, 2])
    keys = {tuple(json.loads(line)) for line in lines_of(subset.json_lines)}
    assert keys == {("dialogs", "system", "images")}


@pytest.mark.parametrize(
    ("gap", "hints"),
    [(999, []), (1_000, [("_system", pa.string()), ("_images", pa.list_(pa.string()))])],
)
def test_a_long_gap_adds_columns_that_only_tell_the_host_the_types_of_its_copies(pool, gap, hints):
    images = [["a.png"]] + [[], None] * (gap // 2) + [[]] * (gap % 2) + [["b.png"]]
    rows = [talk(number, system=f"s{number}" if value else None, images=value) for number, value in enumerate(images)]
    subset = pool(rows).write(range(len(rows)))
    table = pq.read_table(subset.trainer_file)
    extra = [field for field in table.schema if field.name not in {"dialogs", "system", "images"}]
    assert [(field.name, field.type) for field in extra] == hints
    assert all(table[field.name].null_count == len(rows) for field in extra)
    assert table["images"].to_pylist() == images
    assert set(subset.columns.values()) == {"dialogs", "system", "images"}
    assert all(list(json.loads(line)) == ["dialogs", "system", "images"] for line in lines_of(subset.json_lines))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["a", ["a"]], "column system mixes list and string"),
        ([{"a": 1}, "a"], "column system mixes object and string"),
        ([True, 1], "column system mixes bool and int"),
        ([[{"a": "x"}], [{"a": 1}]], r"column system\[\]\.a mixes int and string"),
    ],
)
def test_types_that_cannot_be_reconciled_are_an_error_that_names_the_column(pool, values, message):
    work = pool([talk(number, system=value) for number, value in enumerate(values)])
    with pytest.raises(PoolError, match=rf"dataset 'pool': {message} among the chosen rows"):
        work.write([0, 1])
    assert work.write([1]).columns == {"messages": "dialogs", "system": "system"}


def test_integers_that_no_float_can_hold_are_refused_rather_than_rounded(pool):
    work = pool([talk(0, tools=2**53 + 1), talk(1, tools=0.5)])
    with pytest.raises(PoolError, match=r"dataset 'pool': .*among the chosen rows"):
        work.write([0, 1])


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_nan_stays_in_the_parquet_and_is_null_in_the_json_lines(tmp_path, value, order):
    path = tmp_path / "pool.jsonl"
    weighted = json.dumps(talk(1, tools="t")).replace(
        '"content": "answer 1"', f'"content": "answer 1", "weight": {value}'
    )
    path.write_text(f"{json.dumps(talk(0, tools='t'))}\n{weighted}\n")
    subset = Work(tmp_path, COLUMNS, path).write(order)
    assert subset.trainer_file.name == "selected.parquet"
    assert subset.lacking == ["dialogs"]
    weight = pq.read_table(subset.trainer_file)["dialogs"].to_pylist()[order.index(1)][1]["weight"]
    assert repr(weight) == repr(float(value))
    lines = [json.loads(line, parse_constant=pytest.fail) for line in lines_of(subset.json_lines)]
    assert lines[order.index(1)]["dialogs"][1] == {"role": "assistant", "content": "answer 1", "weight": None}


def test_a_value_nested_too_deeply_is_an_error_that_names_the_row(tmp_path):
    path = tmp_path / "pool.jsonl"
    deep, fine = ("[" * count + "1" + "]" * count for count in (600, 50))
    path.write_text("".join(f'{json.dumps(talk(0))[:-1]}, "system": {value}}}\n' for value in (fine, deep)))
    work = Work(tmp_path, COLUMNS, path)
    with pytest.raises(PoolError, match=r"pool\.jsonl, row 2: cannot be copied \(it is nested deeper than 100 levels"):
        work.write([0, 1])
    assert f'"system":{fine}' in lines_of(work.write([0]).json_lines)[0]


def write_table(path, table):
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=2)
    else:
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=2)


def labelled(count, **columns):
    return pa.table({"annotation": [{"instag": {"content": ["a"]}}] * count, **columns})


@pytest.mark.parametrize("ending", ["parquet", "arrow"])
def test_bytes_are_copied_to_the_parquet_and_null_in_the_json_lines(tmp_path, ending):
    images = [[{"bytes": bytes([number]) * 3, "path": None}] * (number % 3) for number in range(7)]
    kind = pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    write_table(tmp_path / f"pool.{ending}", labelled(7, dialogs=[["x"]] * 7, images=pa.array(images, kind)))
    subset = Work(tmp_path, COLUMNS, tmp_path / f"pool.{ending}").write([5, 1, 6, 2])
    table = pq.read_table(subset.trainer_file)
    assert table["images"].to_pylist() == [images[number] for number in (5, 1, 6, 2)]
    assert table.schema.field("images").type == kind
    assert subset.columns == {"messages": "dialogs", "images": "images"}
    assert subset.lacking == ["images"]
    lines = [json.loads(line)["images"] for line in lines_of(subset.json_lines)]
    assert lines == [[{"bytes": None, "path": None}] * (number % 3) for number in (5, 1, 6, 2)]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["selected.jsonl", "selected.parquet"]


@pytest.mark.parametrize("as_struct", [True, False])
def test_a_column_that_holds_nothing_but_bytes_is_not_empty(tmp_path, as_struct):
    images = [{"bytes": b"x"}, {"bytes": b"y"}] if as_struct else [b"x", b"y"]
    write_table(tmp_path / "pool.parquet", labelled(2, dialogs=[["x"]] * 2, images=images))
    subset = Work(tmp_path, COLUMNS, tmp_path / "pool.parquet").write([1, 0])
    assert pq.read_table(subset.trainer_file)["images"].to_pylist() == images[::-1]
    assert set(subset.columns) == {"messages", "images"}


@pytest.mark.parametrize("num_bytes", [1, 1_000, 10**9])
def test_long_rows_are_copied_a_few_at_a_time(tmp_path, monkeypatch, num_bytes):
    monkeypatch.setattr(tables, "_BATCH_BYTES", num_bytes)
    monkeypatch.setattr(parquet, "_BATCH_BYTES", num_bytes)
    images = [bytes([number % 256]) * (number % 7) for number in range(500)]
    table = labelled(500, dialogs=[["x"]] * 500, images=images)
    pq.write_table(table, tmp_path / "pool.parquet", row_group_size=70)
    order = list(np.random.default_rng(0).permutation(500)[:300])
    subset = Work(tmp_path, COLUMNS, tmp_path / "pool.parquet").write(order)
    assert pq.read_table(subset.trainer_file)["images"].to_pylist() == [images[number] for number in order]


def test_files_of_one_entry_may_differ_in_their_types(tmp_path):
    folder = tmp_path / "parts"
    folder.mkdir()
    message = pa.struct([("role", pa.string()), ("content", pa.string()), ("at", pa.int32())])
    other = pa.struct([("content", pa.large_string()), ("role", pa.string()), ("at", pa.int64()), ("by", pa.binary())])
    said = {"role": "user", "content": "q", "at": 1}
    write_table(
        folder / "a.parquet", labelled(2, dialogs=pa.array([[said]] * 2, pa.list_(message)), system=["s", "t"])
    )
    more = pa.array([[said | {"by": b"x"}], [said]], pa.list_(other))
    write_table(folder / "b.parquet", labelled(2, dialogs=more, images=[[b"x"], None]))
    subset = Work(tmp_path, COLUMNS, folder).write([2, 0, 3])
    assert pq.read_table(subset.trainer_file).to_pylist() == [
        {"dialogs": [{**said, "by": b"x"}], "system": None, "images": [b"x"]},
        {"dialogs": [{**said, "by": None}], "system": "s", "images": None},
        {"dialogs": [{**said, "by": None}], "system": None, "images": None},
    ]


def test_types_of_files_that_have_none_in_common_are_an_error(tmp_path):
    folder = tmp_path / "parts"
    folder.mkdir()
    write_table(folder / "a.parquet", labelled(1, dialogs=[["x"]], images=[[b"x"]]))
    write_table(folder / "b.parquet", labelled(1, dialogs=[["x"]], images=["a.png"]))
    with pytest.raises(PoolError, match=r"dataset 'parts': .*images.* among the chosen rows"):
        Work(tmp_path, COLUMNS, folder).write([0, 1])


def test_a_column_of_a_type_that_the_host_cannot_read_is_an_error(tmp_path):
    spans = pa.array([(1, 2, 3)], pa.month_day_nano_interval())
    table = labelled(1, dialogs=[["x"]], system=spans)
    write_table(tmp_path / "pool.arrow", table)
    with pytest.raises(PoolError, match=r"dataset 'pool': column system has the Arrow type month_day_nano_interval"):
        Work(tmp_path, COLUMNS, tmp_path / "pool.arrow").write([0])


@pytest.mark.parametrize("text", ["2021-03-01", "on 2021-03-01"])
def test_dates_in_one_block_of_a_large_file_stay_text(pool, tmp_path, text):
    rows, size = [], 0
    while size < 10 << 20:  # the first block ends with the line in which it reaches this size
        rows.append(talk(len(rows), system="x" * 5_000))
        line = {column: rows[-1][column] for column in ("dialogs", "system")}
        size += len(json.dumps(line, separators=(",", ":"))) + 1
    rows += [talk(number, system=text) for number in range(len(rows), len(rows) + 3)]
    subset = pool(rows).write(range(len(rows)))
    assert subset.json_lines.stat().st_size > 10 << 20
    assert subset.trainer_file.suffix == (".parquet" if text.startswith("2021") else ".jsonl")
    kind = subset.trainer_file.suffix.replace(".jsonl", ".json").removeprefix(".")
    loaded = load_dataset(
        kind, data_files=[str(subset.trainer_file)], split="train", cache_dir=str(tmp_path / "datasets")
    )
    assert loaded["system"][-3:] == [text] * 3


NOON = datetime.datetime(2024, 1, 1, 12, tzinfo=datetime.UTC)
BEYOND_JSON = {
    "timestamp": ([NOON, None], pa.timestamp("us", "UTC"), None),
    "nanoseconds": ([1, 2**62 + 1], pa.timestamp("ns"), None),
    "far timestamp": ([2**62, 0], pa.timestamp("us"), None),
    "date": ([datetime.date(2024, 1, 1), None], pa.date32(), None),
    "far date": ([2**31 - 1, 0], pa.date32(), None),
    "time": ([datetime.time(12), None], pa.time64("us"), None),
    "decimal": ([Decimal("1.50"), None], pa.decimal128(10, 2), None),
    "duration": ([5, None], pa.duration("us"), None),
    "half": ([1.5, None], pa.float16(), None),
    "binary": ([b"x", None], pa.binary(), None),
    "large binary": ([b"x", b""], pa.large_binary(), None),
    "list of binary": ([[b"x"], []], pa.list_(pa.binary()), None),
    "large list of dates": ([[NOON], None], pa.large_list(pa.timestamp("us", "UTC")), None),
    "two binaries": ([[b"x", b"y"], [b"", b"z"]], pa.list_(pa.binary(), 2), pa.list_(pa.binary())),
    "dates in objects": ([{"at": [NOON]}, None], pa.struct([("at", pa.list_(pa.timestamp("us", "UTC")))]), None),
    "map": (
        [[("a", 1)], []],
        pa.map_(pa.string(), pa.int64()),
        pa.list_(pa.struct([("key", pa.string()), ("value", pa.int64())])),
    ),
    "map of maps": (
        [[("a", [("b", NOON)])], None],
        pa.map_(pa.string(), pa.map_(pa.string(), pa.timestamp("us", "UTC"))),
        pa.list_(
            pa.struct(
                [
                    ("key", pa.string()),
                    ("value", pa.list_(pa.struct([("key", pa.string()), ("value", pa.timestamp("us", "UTC"))]))),
                ]
            )
        ),
    ),
    "fixed size": ([b"xy", None], pa.binary(2), pa.binary()),
}


@pytest.mark.parametrize("kind", BEYOND_JSON)
@pytest.mark.parametrize("ending", ["parquet", "arrow"])
def test_values_that_json_lacks_keep_their_types_in_messages(tmp_path, kind, ending):
    values, arrow, written = BEYOND_JSON[kind]
    inner = pa.StructArray.from_arrays(
        [pa.array(["user", "assistant"] * 2), pa.array(["q", "a"] * 2), pa.array(values * 2, arrow)],
        names=["role", "content", "extra"],
    )
    talks = pa.ListArray.from_arrays([0, 2, 4], inner)
    write_table(tmp_path / f"pool.{ending}", labelled(2, dialogs=talks))
    read = (pq.read_table if ending == "parquet" else pa.ipc.open_file)(tmp_path / f"pool.{ending}")
    subset = Work(tmp_path, COLUMNS, tmp_path / f"pool.{ending}").write([1, 0])
    assert subset.trainer_file.name == "selected.parquet"
    assert subset.lacking == ["dialogs"]
    found = pq.read_table(subset.trainer_file)["dialogs"].combine_chunks()
    if written is None:
        original = (read if ending == "parquet" else read.read_all())["dialogs"].combine_chunks()
        assert found.values.field("extra").equals(original.values.field("extra"))
    else:
        assert found.values.field("extra").type == written
        assert Features.from_arrow_schema(pq.read_schema(subset.trainer_file))
    assert found.values.field("content").to_pylist() == ["q", "a"] * 2
    for line in lines_of(subset.json_lines):
        assert [sorted(message) for message in json.loads(line)["dialogs"]] == [["content", "extra", "role"]] * 2
        assert json.loads(line)["dialogs"][0]["content"] == "q"


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_an_entry_without_any_of_its_columns_is_an_error(tmp_path, ending):
    path = tmp_path / f"pool.{ending}"
    rows = [{"annotation": {"instag": {"content": ["a"]}}, "text": "x"}]
    write_lines(path, rows) if ending == "jsonl" else pq.write_table(pa.Table.from_pylist(rows), path)
    with pytest.raises(PoolError, match="dataset 'pool': no chosen row has a value in instruction, input"):
        Work(tmp_path, {"prompt": "instruction", "query": "input"}, path).write([0])
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_an_error_with_the_folder(pool, tmp_path):
    def fill(count):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match=r"No space left on device: '.*/out'$"):
        pool([talk(0)]).write([0], on_rows=fill)
    assert not (tmp_path / "out").exists()


def test_row_ids_come_from_id_columns_as_text(pool):
    rows = [talk(0, _id="x"), talk(1, _id=7), talk(2, _id=None, id="y"), talk(3), talk(4, id="z"), talk(5, _id=["no"])]
    del rows[3]["_id"]
    del rows[4]["_id"]
    assert pool(rows).write([5, 4, 3, 2, 1, 0]).row_ids == [None, "z", None, "y", "7", "x"]


def test_rows_of_several_files_and_entries_keep_to_their_entry(tmp_path):
    folder = tmp_path / "parts"
    write_lines(folder / "a.jsonl", [talk(0), talk(1)])
    write_lines(folder / "b.jsonl", [talk(2), talk(3)])
    write_lines(tmp_path / "other.jsonl", [talk(4), talk(5)])
    work = Work(tmp_path, COLUMNS, folder, tmp_path / "other.jsonl")
    assert work.write([3, 0, 2, 1]).row_ids == ["id3", "id0", "id2", "id1"]
    assert work.write([5, 4], entry_index=1).row_ids == ["id5", "id4"]


def test_selection_parquet_has_exactly_these_columns_and_types(tmp_path):
    folder = tmp_path / "parts"
    write_lines(folder / "a.jsonl", [talk(0), talk(1)])
    write_lines(folder / "b.jsonl", [talk(2)])
    (tmp_path / "other.jsonl").write_text("\n".join(map(json.dumps, [talk(3), {}, talk(4)])))
    work = Work(tmp_path, COLUMNS, folder, tmp_path / "other.jsonl")
    chosen = np.array([4, 0, 2, 3])  # kept rows: 0, 1 of a; 2 of b; 3 and 4 of other, where row 1 is dropped
    write_selection_table(
        tmp_path / "selection.parquet",
        work.pool,
        ["parts", "other"],
        chosen,
        np.array([3.5, 3.0, 0.5, 0.0]),
        [["a", "b"], ["a"], [], ["b"]],
        np.array([1.0, 2.0, 3.0, 4.0]),
        ["id4", None, "id2", "id3"],
        np.array([2.5, 2.0, 0.25, 0.0]),
    )
    table = pq.read_table(tmp_path / "selection.parquet")
    assert {field.name: str(field.type) for field in table.schema} == {
        "rank": "int64",
        "row_index": "int64",
        "dataset": "string",
        "source_file": "string",
        "source_row": "int64",
        "row_id": "string",
        "gain": "double",
        "score": "double",
        "labels": "list<element: string>",
        "information": "double",
    }
    assert table.to_pydict() == {
        "rank": [0, 1, 2, 3],
        "row_index": [5, 0, 2, 3],
        "dataset": ["other", "parts", "parts", "other"],
        "source_file": ["other.jsonl", "parts/a.jsonl", "parts/b.jsonl", "other.jsonl"],
        "source_row": [2, 0, 0, 0],
        "row_id": ["id4", None, "id2", "id3"],
        "gain": [3.5, 3.0, 0.5, 0.0],
        "score": [1.0, 2.0, 3.0, 4.0],
        "labels": [["a", "b"], ["a"], [], ["b"]],
        "information": [2.5, 2.0, 0.25, 0.0],
    }


def large_rows(count):
    """About 12 KB per row; `system` and `images` are in the last three only, and a message has a new key there."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(count):
        row = talk(number)
        row["dialogs"][0]["content"] = f"{number} é " + "".join(map(chr, rng.integers(97, 123, 12_000)))
        if number >= count - 3:
            row |= {"system": f"system {number}", "images": [f"{number}.png"] * (number % 3)}
            row["dialogs"][1]["weight"] = number / 2
        rows.append(row)
    return rows


@pytest.mark.llamafactory
def test_a_subset_of_more_than_20_megabytes_loads_though_columns_first_appear_at_the_end(tmp_path):
    from types import SimpleNamespace

    from llamafactory.data.loader import _load_single_dataset
    from llamafactory.data.parser import get_dataset_list
    from llamafactory.hparams import DataArguments, ModelArguments

    rows = large_rows(1_800)
    write_lines(tmp_path / "pool.jsonl", rows)
    work = Work(tmp_path, COLUMNS, tmp_path / "pool.jsonl")
    subset = work.write(range(len(rows)))
    assert subset.json_lines.stat().st_size > 20e6
    assert subset.columns == {"messages": "dialogs", "system": "system", "images": "images"}
    with pytest.raises(Exception, match="generating the dataset"):  # why the Parquet is there
        load_dataset("json", data_files=[str(subset.json_lines)], split="train", cache_dir=str(tmp_path / "cache"))

    entry = {"file_name": str(subset.trainer_file), "formatting": "sharegpt", "columns": subset.columns, "tags": TAGS}
    (tmp_path / "dataset_info.json").write_text(json.dumps({"pool_mig": entry}))
    (attributes,) = get_dataset_list(["pool_mig"], str(tmp_path))
    loaded = load_dataset(
        "parquet", data_files=[str(subset.trainer_file)], split="train", cache_dir=str(tmp_path / "cache")
    )
    for row, found in zip(rows, loaded, strict=True):
        wanted = {column: row[column] for column in subset.columns.values() if column in row}
        assert without_nulls(found) == without_nulls(wanted)
        assert found.get("images") == row.get("images")
    aligned = _load_single_dataset(
        attributes,
        ModelArguments(model_name_or_path="none", cache_dir=str(tmp_path / "cache")),
        DataArguments(dataset="pool_mig", dataset_dir=str(tmp_path), media_dir=str(tmp_path), overwrite_cache=True),
        SimpleNamespace(local_process_index=0),
    )
    assert len(aligned) == len(rows)
    for row, found in zip(rows, aligned, strict=True):
        assert [message["content"] for message in found["_prompt"]] == [row["dialogs"][0]["content"]]
        assert [message["content"] for message in found["_response"]] == [row["dialogs"][1]["content"]]
        assert found["_system"] == row.get("system")
        assert [path.rpartition("/")[2] for path in found["_images"] or []] == row.get("images", [])
    assert math.isclose(loaded[-1]["dialogs"][1]["weight"], 1_799 / 2)


def test_columns_are_in_the_order_of_the_pool_whatever_was_chosen_first(pool):
    rows = [
        {"system": "s", "dialogs": ["d"], "tools": "t", "images": ["i"]},
        {"images": ["i"], "dialogs": ["d"], "system": None, "tools": "t"},
        {"dialogs": ["d"], "tools": "t"},
    ]
    for number, row in enumerate(rows):
        row["annotation"] = talk(number)["annotation"]
    subset = pool(rows).write([2, 1, 0])
    assert [list(json.loads(line)) for line in lines_of(subset.json_lines)] == [
        ["system", "dialogs", "tools", "images"]
    ] * 3


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(
        st.text(max_size=3), st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3), max_leaves=4)
    )
)
def test_rows_are_written_as_the_json_module_writes_them(row):
    has_float = JsonType().add(row)
    wanted = json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
    assert _dump(row, has_float=has_float) == wanted


def test_every_character_is_written_as_the_json_module_writes_it():
    text = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x110000)]))
    assert _dump({"text": text}, has_float=False) == _dump({"text": text}, has_float=True)
