import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mig_selector.arrays import RowLabels
from mig_selector.errors import PoolError
from mig_selector.graph.vocabulary import count_labels, find_separator, read_vocabulary


def build(rows, *, vocabulary=None, min_count=1):
    names = list(dict.fromkeys(label for row in rows for label in row))
    ids = np.array([names.index(label) for row in rows for label in row], np.int32)
    offsets = np.concatenate(([0], np.cumsum([len(row) for row in rows]))).astype(np.int64)
    return count_labels(RowLabels(names, offsets, ids), vocabulary=vocabulary, min_count=min_count)


def rows_of(labels):
    return [labels.of_row(row) for row in range(len(labels.offsets) - 1)]


@pytest.mark.parametrize(
    ("rows", "mark"),
    [
        ([["algebra; proofs"], ["cooking;history"], ["travel"]], ";"),
        ([["a, b | c"], ["d | e"], []], "|"),
        ([["red, green"], ["blue"]], None),  # half of them is not most
        ([["red;green", "blue;white"]], None),  # rows have several labels already
        ([[]], None),
    ],
)
def test_a_separator_is_found_where_most_labels_hold_several(rows, mark):
    names = list(dict.fromkeys(label for row in rows for label in row))
    offsets = np.cumsum([0, *map(len, rows)])
    ids = np.array([names.index(label) for row in rows for label in row], np.int32)
    assert find_separator(RowLabels(names, offsets, ids)) == mark


def test_labels_are_sorted_and_each_counts_once_per_row():
    labels = build([["pear", "apple", "pear"], ["apple"], []])
    assert labels.names == ["apple", "pear"]
    assert rows_of(labels) == [["apple", "pear"], ["apple"], []]


def test_labels_of_too_few_rows_are_dropped_and_the_rows_stay():
    # "pear" occurs twice, but in one row.
    labels = build([["pear", "pear"], ["apple"], ["apple"]], min_count=2)
    assert labels.names == ["apple"]
    assert rows_of(labels) == [[], ["apple"], ["apple"]]


def test_a_vocabulary_keeps_its_labels_that_are_in_use():
    labels = build([["pear", "apple"], ["fig"]], vocabulary=["pear", "kiwi"])
    assert labels.names == ["pear"]
    assert rows_of(labels) == [["pear"], []]


def test_names_are_sorted_by_code_point():
    assert build([["é", "Z", "a", "😀", "z"]]).names == ["Z", "a", "z", "é", "😀"]


@pytest.mark.parametrize(
    ("name", "text"),
    [("labels.json", '["pear", "apple"]'), ("labels.txt", "pear\n\napple\n"), ("labels.txt", "\ufeffpear\r\napple")],
)
def test_vocabularies_are_json_lists_or_lines(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    assert read_vocabulary(path) == ["pear", "apple"]


@pytest.mark.parametrize("text", ["{}", "[1]", "[]", "[", '"pear"'])
def test_other_vocabularies_are_refused(tmp_path, text):
    path = tmp_path / "labels.json"
    path.write_text(text)
    with pytest.raises(PoolError, match=r"mig_label_vocabulary: .*labels\.json"):
        read_vocabulary(path)


@settings(max_examples=200, deadline=None)
@given(
    rows=st.lists(st.lists(st.sampled_from("dbeac"), max_size=6), max_size=12),
    block=st.integers(1, 5),
    min_count=st.integers(1, 4),
    vocabulary=st.none() | st.sets(st.sampled_from("abcz")),
)
def test_rows_are_renumbered_in_blocks_as_they_are_one_by_one(rows, block, min_count, vocabulary):
    names = list("xdbeac")
    ids = np.array([names.index(label) for row in rows for label in row], np.int32)
    offsets = np.cumsum([0, *map(len, rows)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mig_selector.graph.vocabulary._BLOCK_ROWS", block)
        found = count_labels(RowLabels(names, offsets, ids), vocabulary=vocabulary, min_count=min_count)
    counts = {label: sum(label in row for row in rows) for label in names}
    counted = {label for label, count in counts.items() if count >= min_count}
    kept = {label for label, count in counts.items() if count} & vocabulary if vocabulary is not None else counted
    assert found.names == sorted(kept)
    assert [found.of_row(row) for row in range(len(rows))] == [sorted(set(row) & kept) for row in rows]
    assert (found.offsets.dtype, found.ids.dtype) == (np.int64, np.int32)
