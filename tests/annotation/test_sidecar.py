"""What a sidecar must be, and by which hash it knows a row."""

import hashlib
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mig_selector.annotation.sidecar import (
    SCHEMA,
    hash_row,
    look_up,
    merge,
    read_own_sidecar,
    read_sidecars,
    sidecar_files,
    write_sidecar,
)
from mig_selector.errors import ArgumentError


HASHES = [hashlib.sha256(bytes([number])).hexdigest() for number in range(4)]


def table(**columns):
    values = {
        "row_hash": HASHES[:2],
        "labels": [["a", "b"], None],
        "score": [1.5, None],
        "status": ["ok", "ok"],
        **columns,
    }
    return pa.table({name: values[name] for name in values if values[name] is not None})


def write(folder, name="one.parquet", **columns):
    pq.write_table(table(**columns), folder / name)
    return folder / name


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"instruction": "a", "output": "b", "id": 7}, '{"instruction":"a","output":"b"}'),
        ({"output": "b", "instruction": 'é "\n'}, '{"instruction":"é \\"\\n","output":"b"}'),
        ({"instruction": "a", "input": None, "output": ""}, '{"instruction":"a","output":""}'),
        (
            {"messages": [{"role": "user", "content": "a", "calls": None}], "flag": True},
            '{"flag":true,"messages":[{"content":"a","role":"user"}]}',
        ),
        ({"instruction": "\ud800", "output": [1.5, None, 2]}, '{"instruction":"\\ud800","output":[1.5,null,2]}'),
        ({"images": b"\x01\xff"}, '{"images":"01ff"}'),
    ],
)
def test_the_hash_of_a_row_is_that_of_the_canonical_json_of_the_columns_that_training_reads(row, text):
    columns = ["instruction", "input", "output", "messages", "flag", "images"]
    assert hash_row(row, columns) == hashlib.sha256(text.encode("utf-8")).hexdigest()


def test_a_sidecar_is_read_whatever_the_order_of_its_columns_and_the_width_of_its_types(tmp_path):
    wide = pa.schema(
        {
            "status": pa.large_string(),
            "score": pa.float32(),
            "labels": pa.large_list(pa.large_string()),
            "row_hash": pa.large_string(),
        }
    )
    made = table()
    pq.write_table(made.select(wide.names).cast(wide), tmp_path / "wide.parquet")
    found = read_sidecars(sidecar_files(tmp_path))
    assert found.schema.equals(SCHEMA)
    assert found.to_pylist() == made.to_pylist()


def test_the_files_of_a_folder_are_read_together(tmp_path):
    write(tmp_path, "b.parquet", row_hash=HASHES[2:])
    write(tmp_path, "a.parquet")
    (tmp_path / "notes.txt").write_text("none")
    found = read_sidecars(sidecar_files(tmp_path))
    assert look_up(found, pa.array([HASHES[3], "0" * 64, HASHES[0]])).tolist() == [3, -1, 0]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"status": None},
            "has the columns row_hash, labels, score; expected exactly row_hash, labels, score, status",
        ),
        ({"tags": [1, 2]}, "has the columns row_hash, labels, score, status, tags; expected exactly"),
        ({"score": ["good", "bad"]}, r"expected the types row_hash string, labels list<.*string>, score double"),
        ({"row_hash": HASHES[:1] * 2}, f"row_hash {HASHES[0]} is in .*more than once, with different annotations"),
        ({"row_hash": [HASHES[0].upper(), HASHES[1]]}, r"1 row has a row_hash that is not 64 .* digits; first row 0"),
        ({"row_hash": [HASHES[0], None]}, r"1 row has a row_hash that is not .*; first row 1 \(0-based\)"),
        ({"status": ["ok", None]}, r"1 row has no status; first row 1 \(0-based\)"),
        ({"labels": [["a"], ["b", None]]}, r"1 row has null in its labels; first row 1 \(0-based\)"),
        ({"score": [-1.0, 2.0]}, r"1 row has a score that is not a finite number of 0 or more .*; first row 0 \("),
        ({"score": [1.0, float("nan")]}, r"1 row has a score that is not a finite number of 0 .*; first row 1 \("),
        ({"score": [-1.0, float("inf")]}, r"2 rows have a score that is not a finite number of 0 .*; first row 0 \("),
    ],
)
def test_what_is_not_a_sidecar_is_refused(tmp_path, columns, message):
    with pytest.raises(ArgumentError, match=message):
        read_sidecars([write(tmp_path, **columns)])


def test_a_row_that_is_annotated_twice_alike_counts_once(tmp_path):
    files = [write(tmp_path, name) for name in ("a.parquet", "b.parquet")]
    assert read_sidecars(files).to_pylist() == table().to_pylist()


def test_a_file_that_is_not_parquet_and_a_folder_without_files_are_refused(tmp_path):
    (tmp_path / "text.parquet").write_text("no")
    with pytest.raises(ArgumentError, match=r"text.parquet cannot be read as Parquet"):
        read_sidecars([tmp_path / "text.parquet"])
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "absent.parquet"):
        with pytest.raises(ArgumentError, match="is neither a Parquet file nor a folder with files"):
            sidecar_files(path)


def test_newer_rows_take_the_place_of_older_ones_and_all_are_sorted_by_hash():
    newer = table(row_hash=[HASHES[1], HASHES[3]]).cast(SCHEMA)
    merged = merge(table().cast(SCHEMA), newer)
    assert merged["row_hash"].to_pylist() == sorted([HASHES[0], HASHES[1], HASHES[3]])
    assert [row for row in merged.to_pylist() if row["row_hash"] != HASHES[0]] == sorted(
        newer.to_pylist(), key=lambda row: row["row_hash"]
    )


def test_a_sidecar_of_ours_says_what_made_it_and_counts_as_absent_if_it_is_damaged(tmp_path):
    path = tmp_path / "own.parquet"
    write_sidecar(path, table().cast(SCHEMA), {"tagger": {"kind": "vocabulary"}})
    assert json.loads(pq.read_metadata(path).metadata[b"mig_selector"]) == {"tagger": {"kind": "vocabulary"}}
    types = {"row_hash": pa.string(), "labels": pa.list_(pa.string()), "score": pa.float64(), "status": pa.string()}
    assert {field.name: field.type for field in pq.read_schema(path)} == types
    assert read_own_sidecar(path).to_pylist() == table().to_pylist()
    content = bytearray(path.read_bytes())
    content[60] ^= 1
    path.write_bytes(content)
    assert len(read_own_sidecar(path)) == 0
    assert len(read_own_sidecar(tmp_path / "absent.parquet")) == 0
