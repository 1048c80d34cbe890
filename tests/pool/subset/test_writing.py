import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import TAGS, contents_of, judge_of, make_row, write_lines

from mig_selector.errors import PoolError
from mig_selector.pool.entry import LocalSource, PoolEntry
from mig_selector.pool.formats.files import open_sources
from mig_selector.pool.index.cache import IndexCache
from mig_selector.pool.reading import read_pool
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


@pytest.mark.parametrize("value", ["NaN", "Infinity"])
def test_a_value_that_json_cannot_represent_is_an_error_that_names_the_row(tmp_path, value):
    path = tmp_path / "pool.jsonl"
    path.write_text(f'{json.dumps(talk(0))}\n{json.dumps(talk(1))[:-1]}, "system": {value}}}\n')
    work = Work(tmp_path, COLUMNS, path)
    with pytest.raises(PoolError, match=r"pool\.jsonl, row 2: cannot be copied"):
        work.write([0, 1])
    assert work.write([0]).row_ids == ["id0"]


def test_a_value_nested_too_deeply_is_an_error_that_names_the_row(tmp_path):
    path = tmp_path / "pool.jsonl"
    deep, fine = ("[" * count + "1" + "]" * count for count in (600, 50))
    path.write_text("".join(f'{json.dumps(talk(0))[:-1]}, "system": {value}}}\n' for value in (fine, deep)))
    work = Work(tmp_path, COLUMNS, path)
    with pytest.raises(PoolError, match=r"pool\.jsonl, row 2: cannot be copied \(it is nested deeper than 100 levels"):
        work.write([0, 1])
    assert f'"system":{fine}' in lines_of(work.write([0]).json_lines)[0]


def test_bytes_in_a_table_are_an_error_that_names_the_type(tmp_path):
    rows = pa.table({"annotation": [{"instag": {"content": ["a"]}}], "dialogs": [["x"]], "images": [[b"\x89PNG"]]})
    pq.write_table(rows, tmp_path / "pool.parquet")
    with pytest.raises(PoolError, match=r"pool\.parquet, row 1: .* value of type bytes, which JSON cannot represent"):
        Work(tmp_path, COLUMNS, tmp_path / "pool.parquet").write([0])


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_an_entry_without_any_of_its_columns_is_an_error(tmp_path, ending):
    path = tmp_path / f"pool.{ending}"
    rows = [{"annotation": {"instag": {"content": ["a"]}}, "text": "x"}]
    write_lines(path, rows) if ending == "jsonl" else pq.write_table(pa.Table.from_pylist(rows), path)
    with pytest.raises(PoolError, match="dataset 'pool': no chosen row has a value in instruction, input"):
        Work(tmp_path, {"prompt": "instruction", "query": "input"}, path).write([0])
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

    from datasets import load_dataset
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
