"""Cells of CSV files: what the host reads, which reads them with pandas."""

import csv
import io

import pandas as pd
import pyarrow as pa
import pytest
from datasets import disable_progress_bars, load_dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from pandas._libs.parsers import STR_NA_VALUES
from support import read_file

from mig_selector.errors import PoolError
from mig_selector.pool.formats.csv_rows import _MISSING, _NUMBER, CsvSource


CELLS = [
    *(
        "",
        "NA",
        "null",
        "None",
        "nan",
        "<NA>",
        "n/a",
        "1",
        "01",
        "1.0",
        "1e3",
        " 1",
        "1 ",
        "+5",
        ".5",
        "5.",
        "inf",
        "-0",
    ),
    *("True", "TRUE", "true", "False", "x", " ", '"q"', "a,b", "a\nb", "a\r\nb", "\ta", "1_000", "1,000", "0x10", "é"),
    *("18446744073709551616", "9223372036854775808", "9007199254740993", "36.600000000000001", "2021-01-01", "[1]"),
]


def text_of(rows):
    stream = io.StringIO(newline="")
    csv.writer(stream).writerows(rows)
    return stream.getvalue()


def source_of(folder, text):
    path = folder / "pool.csv"
    path.write_text(text, newline="", encoding="utf-8")
    return CsvSource(path, "pool.csv")


def read_all(source, count, columns=None):
    return list(source.read(range(count), [], columns))


def test_null_is_what_pandas_takes_for_null():
    assert set(_MISSING) == STR_NA_VALUES


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("csv")


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from(CELLS), min_size=1, max_size=3), min_size=2, max_size=3).flatmap(
        lambda choices: st.lists(st.tuples(*map(st.sampled_from, choices)), min_size=1, max_size=5)
    )
)
def test_cells_are_what_pandas_reads_from_the_file(folder, rows):
    header = ["a", "b", "c"][: len(rows[0])]
    source = source_of(folder, text_of([header, *rows]))
    wanted = pa.Table.from_pandas(pd.read_csv(folder / "pool.csv"), preserve_index=False).to_pylist()
    assert repr(read_all(source, len(rows))) == repr(wanted)
    assert repr(read_all(source, len(rows), ["b"])) == repr([{"b": row["b"]} for row in wanted])


def test_rows_are_what_the_host_reads_in_blocks_of_10_000(folder, tmp_path):
    disable_progress_bars()
    rows = [[str(number), "x" if number == 10_005 else "", f"{number}.5", "True", "q"] for number in range(12_000)]
    rows += [[str(number), "", "7", "NA", "05"] for number in range(12_000, 20_500)]
    rows += [["1", "", "7", "", "007"]] * 600
    source = source_of(folder, text_of([["a", "b", "c", "d", "e"], *rows[:10_000], *rows[10_000:]]))
    found = read_all(source, len(rows), ["a", "c", "d", "e"])
    text = (folder / "pool.csv").read_text().replace(",x,", ",,")  # with x the host stops
    source_of(tmp_path, text)
    host = load_dataset("csv", data_files=[str(tmp_path / "pool.csv")], split="train", cache_dir=str(tmp_path))
    assert found == [{key: row[key] for key in "acde"} for row in host]
    assert found[-1]["e"] == "7"  # a block of numbers only, among blocks of text
    assert read_all(source, len(rows), ["b"])[10_005] == {"b": "x"}
    some = [0, 9_999, 10_000, 10_005, 20_999]
    assert list(source.read(some, [], ["a", "c", "d", "e"])) == [found[row] for row in some]


@pytest.mark.parametrize("blank", ["", "  ", " \t", "\r"])
def test_blank_lines_are_no_rows(tmp_path, blank):
    path = tmp_path / "pool.csv"
    path.write_text(f'labels,score,x\n"[""a""]",1,p\n{blank}\n"[""b""]",2,q\n{blank}\n', newline="")
    pool = read_file(path)
    assert pool.scores.tolist() == [1, 2]
    assert pool.report.read == len(pd.read_csv(path)) == 2
    assert list(pool.sources[0].read([1], [], ["x"])) == [{"x": "q"}]


@pytest.mark.parametrize(
    ("cell", "score"), [("7", 7), ("+7", 7), (".5", 0.5), ("5.", 5), (" 1.5 ", 1.5), ("1e2", 100), ('"[1, 2]"', 1.5)]
)
def test_a_score_is_a_number_as_pandas_reads_it_or_json(tmp_path, cell, score):
    path = tmp_path / "pool.csv"
    path.write_text(f'labels,score\n"[""a""]",{cell}\n')
    assert read_file(path).scores.tolist() == [score]


@pytest.mark.parametrize("cell", sorted(STR_NA_VALUES))
def test_a_missing_score_or_list_of_labels_drops_the_row(tmp_path, cell):
    path = tmp_path / "pool.csv"
    path.write_text(f'labels,score\n"[""a""]",1\n"[""a""]",{cell}\n{cell},1\n')
    assert read_file(path).report.dropped == {"no score at score": 1, "no labels at labels": 1}


@pytest.mark.parametrize("cell", ["x", "1_000", "True", "0x10", "1e", ".", "1 2"])
def test_a_score_that_is_no_number_is_bad(tmp_path, cell):
    path = tmp_path / "pool.csv"
    path.write_text(f'labels,score\n"[""a""]",{cell}\n')
    with pytest.raises(PoolError, match=r"pool\.csv:2: score must be a number"):
        read_file(path)


@settings(max_examples=200, deadline=None)
@given(st.text("0123456789+-.eE ", min_size=1, max_size=4))
def test_a_cell_is_a_number_where_it_is_one_to_pandas(cell):
    (value,) = pd.read_csv(io.StringIO(f'"{cell}"\n'), header=None, names=["a"], skip_blank_lines=False)["a"].tolist()
    if _NUMBER.fullmatch(cell):
        assert float(cell) == pytest.approx(value)
    else:
        assert isinstance(value, str)


def test_rows_of_an_entry_without_columns_are_empty(tmp_path):
    source = source_of(tmp_path, "a,b\n1,2\n3,4\n")
    assert read_all(source, 2, []) == [{}, {}]
    assert read_all(source, 2, ["c"]) == [{}, {}]


def test_a_short_row_has_nulls_at_its_end(tmp_path):
    source = source_of(tmp_path, "a,b\n1,2\n3\n")
    assert read_all(source, 2) == pa.Table.from_pandas(pd.read_csv(source.files[0])).to_pylist()
