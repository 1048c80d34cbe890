import csv
import json
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import contents_of, judge_of

from mig_selector.errors import PoolError
from mig_selector.pool.entry import HubSource, LocalSource, PoolEntry
from mig_selector.pool.formats.files import open_sources
from mig_selector.pool.formats.hub import _missing_package
from mig_selector.pool.index.cache import IndexCache
from mig_selector.pool.reading import read_pool
from mig_selector.store.hashing import ContentHashes


COLUMNS = ("instruction", "input", "output")
RULE = judge_of("labels", "score")


def row(number, labels, score):
    return {
        "instruction": f'Ask "{number}",\nplease; 答え',
        "input": "" if number % 2 else f"line\r\n{number}",
        "output": f"answer, {number} \u2028 é",
        "labels": labels,
        "score": score,
    }


ROWS = [
    row(0, ["a", "b"], 1.5),
    row(1, [], 2.0),  # dropped: no labels
    row(2, ["c"], 0.0),
    row(3, ["b", "b", "a"], 3.25),
    row(4, ["a"], None),  # dropped: no score
    row(5, ["ü", "a"], 4.125),
]


def json_lines(path):
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")


def json_array(path):
    path.write_text(json.dumps(ROWS, ensure_ascii=False), encoding="utf-8")


def pretty_array(path):
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(ROWS, indent=2).replace("\n", "\r\n").encode())


def array_with_nan(path):
    path.write_text(json.dumps([{**row, "unused": float("nan")} for row in ROWS], indent=1), encoding="utf-8")


def parquet(path):
    pq.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=2)


def csv_file(path, encoding="utf-8"):
    with path.open("w", encoding=encoding, newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(ROWS[0])
        for row in ROWS:
            score = "" if row["score"] is None else row["score"]
            writer.writerow([*(row[column] for column in COLUMNS), json.dumps(row["labels"]), score])


def csv_with_mark(path):
    csv_file(path, "utf-8-sig")


def arrow_file(path):
    table = pa.Table.from_pylist(ROWS)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)


def arrow_stream(path):
    table = pa.Table.from_pylist(ROWS)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=4)


FILES = [
    (json_lines, "pool.jsonl"),
    (json_lines, "pool.json"),
    (json_array, "pool.json"),
    (json_array, "pool.jsonl"),
    (pretty_array, "pool.json"),
    (array_with_nan, "pool.json"),
    (parquet, "pool.parquet"),
    (csv_file, "pool.csv"),
    (csv_with_mark, "pool.csv"),
    (arrow_file, "pool.arrow"),
    (arrow_stream, "pool.arrow"),
]


def entry_for(source, split="train"):
    columns = {"prompt": "instruction", "query": "input", "response": "output"}
    return PoolEntry("pool", "alpaca", columns, {}, False, source, split)


def local(path, split="train"):
    return entry_for(LocalSource(path.name, path), split)


def read(entry, rule=RULE, on_bad_row="error"):
    with tempfile.TemporaryDirectory() as cache:
        hashes, sources = ContentHashes(Path(cache)), [open_sources(entry)]
        file_hashes = contents_of(sources, hashes)
        index_cache = IndexCache(Path(cache), hashes)
        return read_pool([entry], sources, file_hashes, [rule], on_bad_row, lambda count: None, index_cache)


def summary(pool):
    names = [
        [pool.labels.names[label] for label in pool.labels.ids[begin:end]]
        for begin, end in zip(pool.labels.offsets[:-1], pool.labels.offsets[1:], strict=True)
    ]
    return names, pool.scores.tolist(), pool.pool_indices.tolist(), dict(pool.report.dropped), pool.report.read


EXPECTED = (
    [["a", "b"], ["c"], ["b", "b", "a"], ["ü", "a"]],
    [1.5, 0.0, 3.25, 4.125],
    [0, 2, 3, 5],
    {"no labels at labels": 1, "no score at score": 1},
    6,
)


def check_reading(pool, empty=""):
    """All kept rows can be read again, or some of them."""
    for wanted in ([0, 1, 2, 3], [1, 3], [2]):
        for index, source in enumerate(pool.sources):
            sources, rows = pool.locate(np.array(wanted))
            mine = np.array(wanted)[sources == index]
            byte_offsets = pool.byte_offsets_of(mine).tolist()
            found = list(source.read(rows[sources == index].tolist(), byte_offsets, COLUMNS))
            whole = [ROWS[pool.pool_indices[row]] for row in mine]
            assert found == [{column: row[column] or empty for column in COLUMNS} for row in whole]
            assert all(list(row) == list(COLUMNS) for row in found)


@pytest.mark.parametrize(("write", "name"), FILES, ids=lambda value: getattr(value, "__name__", value))
def test_the_same_rows_are_read_from_every_kind_of_file(tmp_path, write, name):
    write(tmp_path / name)
    pool = read(local(tmp_path / name))
    assert summary(pool) == EXPECTED
    assert pool.locate(np.arange(4))[1].tolist() == [0, 2, 3, 5]
    assert pool.sources[0].name == name
    assert pool.sources[0].size == (tmp_path / name).stat().st_size
    check_reading(pool, empty=None if name.endswith("csv") else "")  # an empty cell is null, as `datasets` reads it


TAGGED = [
    # (row, its labels at annotation.instag.tag and topic, its score at annotation.rating)
    ({"annotation": {"instag": [{"tag": "a", "why": "x"}, {"tag": "b", "why": "y"}], "rating": 2.5}}, ["a", "b"], 2.5),
    ({"annotation.instag": [{"tag": "c"}], "annotation.rating": [1.0, 2.0], "topic": "d, e ,"}, ["c", "d", "e"], 1.5),
    ({"annotation.instag.tag": ["f", "g"], "annotation.rating": 4.0, "topic": ""}, ["f", "g"], 4.0),
    ({"annotation.rating": 5.0, "topic": "h,i"}, ["h", "i"], 5.0),
    ({"annotation": {"instag": []}, "annotation.rating": 6.0, "topic": None}, None, 6.0),
    ({"annotation": {"instag": [{"tag": "j", "why": "x"}]}, "topic": "j"}, ["j", "j"], None),
]
"""One row for each way in which labels and scores are kept."""


def as_json_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def as_json_array(path, rows):
    path.write_text(json.dumps(rows))


def as_csv(path, rows):
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(rows[0])
        for row in rows:
            cells = (value if value is None or isinstance(value, str) else json.dumps(value) for value in row.values())
            writer.writerow(cells)


def as_parquet(path, rows):
    pq.write_table(pa.Table.from_pylist(rows), path)


def as_arrow(path, rows):
    table = pa.Table.from_pylist(rows)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


@pytest.mark.parametrize("from_hub", [False, True], ids=["file", "hub"])
@pytest.mark.parametrize("write", [as_json_lines, as_json_array, as_csv, as_parquet, as_arrow])
def test_labels_and_scores_are_found_wherever_people_keep_them(tmp_path, write, from_hub):
    """Each kind of row in a file of its own, twice: at the same paths in every format."""
    rule = judge_of(["annotation.instag.tag", "topic"], "annotation.rating", separator=",")
    for number, (row, labels, score) in enumerate(TAGGED):
        folder = tmp_path / str(number)
        folder.mkdir()
        ending = {"as_json_lines": "jsonl", "as_json_array": "json"}.get(write.__name__, write.__name__[3:])
        write(folder / f"train.{ending}", [row, row])
        entry = local(folder)
        if from_hub:
            entry = entry_for(HubSource("hf", str(folder), None, None, cache_dir=str(tmp_path / "cache")))
        if labels is None or score is None:
            lack = "score at annotation.rating" if labels else r"labels at annotation\.instag\.tag or topic"
            with pytest.raises(PoolError, match=f"none of the 2 rows .*no {lack}: 2"):
                read(entry, rule)
        elif write is as_csv and from_hub:  # `datasets` leaves JSON in cells as it is
            continue
        else:
            pool = read(entry, rule)
            assert summary(pool)[:2] == ([labels] * 2, [score] * 2), row


def test_the_output_of_deitas_score_pipeline_is_found(tmp_path):
    for write, ending in ((as_json_lines, "jsonl"), (as_json_array, "json"), (as_parquet, "parquet")):
        path = tmp_path / f"pool.{ending}"
        top = {"quality_scores": [1.0, 2.0], "complexity_scores": [3.0, 5.0], "annotation": None}
        nested = {"annotation": {"deita": {"quality_scores": [2.0], "complexity_scores": [3.0]}}}
        write(path, [top, nested])
        assert read(local(path), judge_of(None, "deita")).scores.tolist() == [(1 * 3 + 2 * 5) / 2, 6.0]


def test_an_entry_of_a_list_that_is_no_object_or_lacks_the_key_is_reported(tmp_path):
    path = tmp_path / "pool.jsonl"
    as_json_lines(path, [{"t": [{"tag": "a"}, {}]}, {"t": [{"tag": "a"}, "b"]}, {"t": [{"tag": "a"}]}])
    pool = read(local(path), judge_of("t.tag", "constant"), on_bad_row="skip")
    assert pool.pool_indices.tolist() == [2]
    assert pool.report.unreadable_rows == [
        "pool.jsonl:1: t.tag must be a string or a list of strings, got a list with null"
    ]
    assert dict(pool.report.dropped) == {"no labels at t.tag": 1}


@pytest.mark.parametrize(("write", "ending"), [(json_lines, "jsonl"), (parquet, "parquet"), (csv_file, "csv")])
def test_a_folder_is_read_file_by_file_in_the_order_of_names(tmp_path, write, ending):
    folder = tmp_path / "parts"
    folder.mkdir()
    for name in ("b", "a"):
        write(folder / f"{name}.{ending}")
    pool = read(local(folder))
    assert [source.name for source in pool.sources] == [f"parts/a.{ending}", f"parts/b.{ending}"]
    assert summary(pool) == (
        EXPECTED[0] * 2,
        EXPECTED[1] * 2,
        [*EXPECTED[2], *(6 + row for row in EXPECTED[2])],
        {reason: 2 * count for reason, count in EXPECTED[3].items()},
        12,
    )
    sources, rows = pool.locate(np.arange(8))
    assert rows.tolist() == EXPECTED[2] * 2
    assert sources.tolist() == [0] * 4 + [1] * 4


@pytest.mark.parametrize(("write", "name"), [FILES[0], FILES[6]], ids=["jsonl", "parquet"])
def test_a_hub_entry_is_read_as_datasets_loads_it(tmp_path, write, name):
    hub = tmp_path / "hub"
    hub.mkdir()
    write(hub / name)
    source = HubSource("hf", str(hub), None, None, cache_dir=str(tmp_path / "cache"))
    pool = read(entry_for(source))
    assert summary(pool) == EXPECTED
    assert pool.sources[0].name == str(hub)
    assert all(file.is_file() for file in pool.sources[0].files)
    check_reading(pool)
    half = read(entry_for(source, "train[:50%]"))
    assert half.pool_indices.tolist() == [0, 2]
    assert half.report.read == 3  # `datasets` itself leaves the others out
    without = judge_of("nothing.here", "constant")
    with pytest.raises(PoolError, match=r"none of the 6 rows .*no labels at nothing\.here: 6"):
        read(entry_for(source), without)


@pytest.mark.slow
def test_a_hub_entry_that_cannot_be_loaded_is_a_clear_error(tmp_path):
    source = HubSource("hf", "organisation/nowhere", None, None, cache_dir=str(tmp_path / "cache"), token="hf_secret")
    with pytest.raises(PoolError, match="nowhere' cannot be loaded from its hub") as caught:
        open_sources(entry_for(source))
    assert "hf_secret" not in str(caught.value)
    assert "hf_secret" not in repr(source)


@pytest.mark.parametrize(("write", "name"), FILES, ids=lambda value: getattr(value, "__name__", value))
def test_a_split_keeps_the_same_rows_of_every_kind_of_file(tmp_path, write, name):
    write(tmp_path / name)
    pool = read(local(tmp_path / name, "train[:50%]"))
    assert pool.pool_indices.tolist() == [0, 2]
    assert pool.report.dropped["outside split train[:50%]"] == 2


@pytest.mark.parametrize(("write", "name"), FILES, ids=lambda value: getattr(value, "__name__", value))
def test_a_file_without_the_wanted_column_says_which_path_is_absent(tmp_path, write, name):
    write(tmp_path / name)
    with pytest.raises(PoolError, match=r"none of the 6 rows .* no labels at tags\.names: 6"):
        read(local(tmp_path / name), judge_of("tags.names", "other"))


def test_duplicates_are_counted_where_the_text_is_read(tmp_path):
    row = '{"labels":["a"],"score":1}'
    (tmp_path / "pool.json").write_text(f"[{row},\n {row},{row}]")
    assert read(local(tmp_path / "pool.json")).report.duplicates == 2
    (tmp_path / "pool.csv").write_text('labels,score\n"[""a""]",1\n"[""a""]",1\n"[""a""]",2\n')
    assert read(local(tmp_path / "pool.csv")).report.duplicates == 1
    parquet(tmp_path / "pool.parquet")
    assert read(local(tmp_path / "pool.parquet")).report.duplicates is None


GOOD = '{"labels":["a"],"score":1}'


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (f'[{GOOD},\n{{"labels":}},\n{GOOD}]', 2),
        (f"[\n {GOOD}\n {GOOD}\n]", 2),
        (f"[\n {GOOD},\n {GOOD}\n", 3),
        (f"[\n {GOOD},\n]", 2),
        (f"[\n {GOOD},\n\n {GOOD},,\n {GOOD}]", 4),
        (f"[\n {GOOD}\n]\n{GOOD}\n", 4),
        (f"[{GOOD}] more", 1),
        (f'[\n {GOOD},\n {{"x": NaN}}\n]]', 4),
        ("[\n", 2),
        ("[", 1),
    ],
)
@pytest.mark.parametrize("on_bad_row", ["error", "skip"])
def test_a_broken_array_is_an_error_with_its_line(tmp_path, text, line, on_bad_row):
    (tmp_path / "pool.json").write_text(text)
    with pytest.raises(PoolError, match=rf"^pool\.json:{line}: .*convert it to JSON Lines"):
        read(local(tmp_path / "pool.json"), on_bad_row=on_bad_row)


def test_a_bad_element_of_an_array_is_skipped_and_its_line_named(tmp_path):
    text = f'[\n{GOOD},\n\n7,\n{{"labels": ["a"],\n "score": "x"}},\n{{"score": 1, "labels": ["\\ud800"]}},\n{GOOD}\n]'
    (tmp_path / "pool.json").write_text(text)
    with pytest.raises(PoolError, match=r"pool\.json:4: must be a JSON object, got the number 7"):
        read(local(tmp_path / "pool.json"))
    pool = read(local(tmp_path / "pool.json"), on_bad_row="skip")
    assert pool.pool_indices.tolist() == [0, 4]
    assert [text.split(": ")[0] for text in pool.report.unreadable_rows] == [
        "pool.json:4",
        "pool.json:5",
        "pool.json:7",
    ]


def test_bytes_that_are_not_utf8_make_one_element_of_an_array_bad(tmp_path):
    (tmp_path / "pool.json").write_bytes(f'[\n{GOOD},\n{{"x": "'.encode() + b'\xff"},\n' + f"{GOOD}]".encode())
    with pytest.raises(PoolError, match=r"pool\.json:3: is not UTF-8"):
        read(local(tmp_path / "pool.json"))
    assert read(local(tmp_path / "pool.json"), on_bad_row="skip").pool_indices.tolist() == [0, 2]


def test_an_array_of_many_rows_with_nan_is_read_in_one_pass(tmp_path):
    rows = [{"labels": ["a"], "score": number, "x": float("nan")} for number in range(20_000)]
    (tmp_path / "pool.json").write_text(json.dumps(rows, indent=1))
    pool = read(local(tmp_path / "pool.json"))
    assert pool.scores.tolist() == list(range(20_000))


def test_a_csv_row_is_named_by_the_line_where_it_begins(tmp_path):
    path = tmp_path / "pool.csv"
    path.write_text('text,labels,score\n"two\nlines","[""a""]",1\n\n"three\n\nlines",7,1\n"x","[""a""]",2\n')
    with pytest.raises(
        PoolError, match=r"pool\.csv:5: labels must be a string or a list of strings, got the number 7"
    ):
        read(local(path))
    pool = read(local(path), on_bad_row="skip")
    assert pool.pool_indices.tolist() == [0, 2]
    assert list(pool.sources[0].read([0, 2], [0, 0], ["text"])) == [{"text": "two\nlines"}, {"text": "x"}]


@pytest.mark.parametrize(("cells", "number"), [("1", 1), ('"[""a""]",1,7', 3)])
def test_a_csv_row_with_other_cells_than_the_header_is_bad(tmp_path, cells, number):
    path = tmp_path / "pool.csv"
    path.write_text(f'labels,score\n"[""a""]",1\n{cells}\n')
    with pytest.raises(PoolError, match=rf"pool\.csv:3: must have 2 cells like the header, got {number}"):
        read(local(path))
    report = read(local(path), on_bad_row="skip").report
    assert report.unreadable == {"must have 2 cells like the header": 1}


def test_csv_cells_lead_dotted_paths_through_json(tmp_path):
    path = tmp_path / "pool.csv"
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerows([["annotation", "text"], [json.dumps({"names": ["a"], "values": [1, 2]}), "x"], ["", "y"]])
    pool = read(local(path), judge_of("annotation.names", "annotation.values"))
    assert pool.scores.tolist() == [1.5]
    assert pool.report.dropped == {"no labels at annotation.names": 1}


def test_csv_cells_of_any_length_are_read(tmp_path):
    path = tmp_path / "pool.csv"
    path.write_text(f'text,labels,score\n{"x" * 200_000},"[""a""]",1\n')
    assert read(local(path)).report.kept == 1


def test_a_broken_csv_is_an_error_with_its_line(tmp_path):
    path = tmp_path / "pool.csv"
    path.write_text('labels,score\n"[""a""]",1\n"[""a""]"x,1\n')
    with pytest.raises(PoolError, match=r"pool\.csv:3: is not valid CSV"):
        read(local(path), on_bad_row="skip")
    path.write_bytes(b'labels,score\n"[""a""]",1\n' * 1_000 + b'"[""\xff""]",1\n' + b'"[""a""]",1\n' * 1_000)
    with pytest.raises(PoolError, match=r"pool\.csv:2001: is not UTF-8"):
        read(local(path), on_bad_row="skip")


@pytest.mark.parametrize(
    ("name", "kind"), [("pool.parquet", "cannot be read as Parquet"), ("pool.arrow", "cannot be read as Arrow")]
)
def test_a_broken_table_is_an_error(tmp_path, name, kind):
    (tmp_path / name).write_bytes(b"not at all" * 10)
    with pytest.raises(PoolError, match=f"{name}: {kind}"):
        read(local(tmp_path / name))


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_a_bad_row_of_a_table_is_named_by_its_number(tmp_path, kind):
    path = tmp_path / f"pool.{kind}"
    table = pa.table({"labels": [["a"], ["b"], ["c"]], "score": [1.0, float("nan"), 2.0]})
    if kind == "parquet":
        pq.write_table(table, path)
    else:
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
    with pytest.raises(PoolError, match=rf"pool\.{kind}:2: score must be a finite number of 0 or more, got nan"):
        read(local(path))
    assert read(local(path), on_bad_row="skip").pool_indices.tolist() == [0, 2]


@pytest.mark.parametrize("name", ["pool.txt", "pool.tsv", "pool", "pool.JSONL"])
def test_other_kinds_of_file_are_refused(tmp_path, name):
    (tmp_path / name).write_text(GOOD)
    with pytest.raises(
        PoolError, match=r"dataset 'pool': .* has an unsupported file type; expected one of \.jsonl, \.json"
    ):
        open_sources(local(tmp_path / name))


@pytest.mark.parametrize("name", ["pool.jsonl.gz", "pool.zip", "pool.json.zst"])
def test_packed_files_are_refused_with_a_hint(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x1f\x8b")
    with pytest.raises(PoolError, match=r"Unpack it first: LLaMA-Factory cannot read it either"):
        open_sources(local(tmp_path / name))


def test_a_missing_an_empty_and_a_mixed_folder_are_refused(tmp_path):
    with pytest.raises(PoolError, match=r"dataset 'pool': the file .*gone\.jsonl does not exist"):
        open_sources(local(tmp_path / "gone.jsonl"))
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(PoolError, match=r"the folder .*folder is empty"):
        open_sources(local(folder))
    (folder / "a.jsonl").write_text(GOOD)
    (folder / "b.json").write_text(f"[{GOOD}]")
    assert len(open_sources(local(folder))) == 2  # both are JSON to the host
    (folder / "c.csv").write_text("labels,score\n")
    with pytest.raises(PoolError, match=r"contains files of several types \(csv, json\)"):
        open_sources(local(folder))
    (folder / "c.csv").unlink()
    (folder / "README.md").write_text("words")
    with pytest.raises(PoolError, match=r"README\.md has an unsupported file type"):
        open_sources(local(folder))


def test_a_file_that_changed_since_the_scan_is_noticed(tmp_path):
    path = tmp_path / "pool.jsonl"
    path.write_text(f"{GOOD}\n{GOOD}\n")
    pool = read(local(path))
    for text in (f"{GOOD[:-3]}\n{GOOD}\n", "[1]\n" * 40):
        path.write_text(text)
        with pytest.raises(PoolError, match=r"pool\.jsonl, row 2: .*did the file change during the run"):
            list(pool.sources[0].read([1], pool.byte_offsets[1:].tolist(), ["labels"]))


def test_a_package_that_a_hub_needs_is_named_however_its_library_wraps_the_failure():
    def fail():
        try:
            import no_such_package  # noqa: F401
        except ImportError as error:
            raise RuntimeError("Failed to import modelscope.msdatasets") from error

    with pytest.raises(RuntimeError) as caught:
        fail()
    assert _missing_package(caught.value) == "no_such_package"
    assert _missing_package(RuntimeError("no network")) is None
