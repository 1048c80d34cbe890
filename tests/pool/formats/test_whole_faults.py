"""Files that are wrong as a whole are refused before they are read, with what to do."""

import gzip
import json
import lzma
import re
from pathlib import Path

import pytest
from support import SHAREGPT

from mig_selector.errors import PoolError
from mig_selector.integration.dataset_info import resolve_entry
from mig_selector.pool.formats.files import open_sources
from mig_selector.pool.formats.json_array import JsonArraySource
from mig_selector.pool.formats.json_lines import JsonLinesSource


ROW = {"instruction": "ä", "output": "b"}
TALK = {"dialogs": [{"role": "user", "content": "a"}]}


def open_file(path, content, entry=None):
    path.write_bytes(content)
    return open_sources(resolve_entry("pool", {"file_name": path.name, **(entry or {})}, Path(path.parent)))[0]


@pytest.mark.parametrize("encoding", ["UTF-16", "UTF-16LE", "UTF-16BE", "UTF-32"])
@pytest.mark.parametrize("name", ["p.json", "p.jsonl", "p.csv"])
def test_a_file_that_is_not_utf_8_is_refused(tmp_path, encoding, name):
    text = "instruction,output\n" if name == "p.csv" else json.dumps([ROW])
    with pytest.raises(
        PoolError, match=rf"{name} is in {encoding}, .* iconv -f {encoding} -t UTF-8 {name} > utf8-{name}"
    ):
        open_file(tmp_path / name, text.encode(encoding))


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (gzip.compress(b"{}"), "a gzip archive and not .{ending} data; unpack it first."),
        (b"PK\x03\x04", "a zip archive and not .{ending} data; unpack it first."),
        (lzma.compress(b"{}"), "an xz archive and not .{ending} data; unpack it first."),
        (b"\x28\xb5\x2f\xfd\x04", "a zstd archive and not .{ending} data; unpack it first."),
        (str(ROW).encode(), "text of Python dictionaries and not .{ending} data; write the rows with json.dumps."),
        (b"\n<!DOCTYPE html>\n<html>", "a web page and not .{ending} data; download the file itself, not the page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer and not .{ending} data; fetch the data"),
    ],
    ids=["gzip", "zip", "xz", "zstd", "Python", "HTML", "LFS"],
)
@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "parquet", "arrow"])
def test_a_file_that_is_something_else_is_refused(tmp_path, ending, content, fault):
    with pytest.raises(PoolError, match=re.escape(f"p.{ending} is {fault.format(ending=ending)}")):
        open_file(tmp_path / f"p.{ending}", content)


@pytest.mark.parametrize("indent", [None, 1, 4])
@pytest.mark.parametrize("more", [{}, {"version": "1.0"}, {"meta": {"a": [1]}}])
def test_a_file_with_its_rows_in_a_key_is_refused(tmp_path, indent, more):
    text = json.dumps({**more, "data": [ROW, ROW]}, indent=indent)
    with pytest.raises(PoolError, match=r"""one JSON object with the rows in 'data'; .* jq '\.\["data"\]' p\.json"""):
        open_file(tmp_path / "p.json", text.encode())


@pytest.mark.parametrize("rows", [[TALK], [TALK, TALK], [ROW, ROW, ROW]])
def test_a_file_with_rows_over_several_lines_is_refused(tmp_path, rows):
    text = "\n".join(json.dumps(row, indent=2) for row in rows)
    with pytest.raises(PoolError, match=r"JSON objects over several lines; .* jq -c \. p\.jsonl"):
        open_file(tmp_path / "p.jsonl", text.encode(), SHAREGPT)


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_a_csv_file_without_commas_is_refused(tmp_path, separator):
    text = f"instruction{separator}output\nä{separator}b, c\n"
    with pytest.raises(
        PoolError, match=r"p\.csv: the cells are separated by .*, but LLaMA-Factory reads commas; .*sep="
    ):
        open_file(tmp_path / "p.csv", text.encode())


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(TALK),
        json.dumps(TALK) + "\n\n",
        json.dumps(ROW) + "\n" + json.dumps(ROW),
        json.dumps({"other": [ROW], **TALK}),
        '{"dialogs": [\n' + json.dumps(TALK),
        '{"dialogs": [\n]}\n' + json.dumps(TALK),
        '{"dialogs": ',
        "{",
        "plain",
        "\ufeff" + json.dumps(TALK),
    ],
)
def test_lines_of_rows_are_read_though_the_first_may_be_alone_or_broken(tmp_path, text):
    assert isinstance(open_file(tmp_path / "p.json", text.encode(), SHAREGPT), JsonLinesSource)


def test_a_list_of_rows_is_read(tmp_path):
    assert isinstance(
        open_file(tmp_path / "p.jsonl", json.dumps([{"data": [ROW]}], indent=1).encode()), JsonArraySource
    )


@pytest.mark.parametrize("header", ["instruction,output", "instruction", "a;b,output", '"a;b"', '"a'])
def test_a_csv_file_with_commas_or_one_column_is_read(tmp_path, header):
    assert open_file(tmp_path / "p.csv", f"{header}\n".encode()).name == "p.csv"
