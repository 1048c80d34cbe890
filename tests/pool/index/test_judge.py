import json
import math

import pytest
from support import judge_of, make_row

from mig_selector.pool.leaves.verdicts import Dropped, Unreadable


LABELS = "annotation.instag.content"
QUALITY = "annotation.deita.quality_scores"
COMPLEXITY = "annotation.deita.complexity_scores"


def judge(row, labels=LABELS, score="deita", **more):
    """Judge a row as it is in a JSON Lines file."""
    line = row if isinstance(row, bytes) else json.dumps(row).encode()
    rule = judge_of(labels, score, **more)
    values = rule.decoder().decode(line)
    return values if isinstance(values, Unreadable) else rule.judge(values)


def with_deita(quality, complexity, **more):
    deita = {"quality_scores": quality, "complexity_scores": complexity}
    return {"annotation": {"instag": {"content": ["a"]}, "deita": deita}, **more}


def with_labels(labels):
    return {**with_deita([2.0], [3.0]), "annotation": {**with_deita([2.0], [3.0])["annotation"], "instag": labels}}


def test_deita_is_the_mean_over_turns_of_quality_times_complexity():
    assert judge(with_deita([2.0, 3.0], [4.0, 5.0])) == (["a"], (2 * 4 + 3 * 5) / 2)


def test_deita_can_be_the_sum_over_turns():
    assert judge(with_deita([2.0, 3.0], [4.0, 5.0]), turns="sum") == (["a"], 2 * 4 + 3 * 5)


def test_where_no_labels_are_needed_their_value_does_not_matter():
    for labels in ({"content": "no list"}, {"content": []}, None, 7):
        assert judge(with_labels(labels), labels=None) == ([], 6.0)


@pytest.mark.parametrize("row", [{}, {"a": [1]}, {"annotation": "text"}])
def test_a_row_of_which_nothing_is_needed_is_kept(row):
    labels, score = judge(row, labels=None, score="constant")
    assert (labels, math.isnan(score)) == ([], True)
    assert isinstance(judge(b"[1]", labels=None, score="constant"), Unreadable)


def test_a_score_may_be_negative_only_where_that_is_allowed():
    row = with_deita([1.0], [1.0], iqs=[-0.25, 0.75])
    assert judge(row, score="iqs", is_signed=True) == (["a"], 0.25)
    hint = "for negative scores set mig_score_scale: rank, sigmoid or minmax"
    assert judge(row, score="iqs") == Unreadable(f"iqs must be a finite number of 0 or more, got -0.25 ({hint})")
    for number in ("-Infinity", "1e999", "NaN"):
        fault = judge(f'{{"iqs": {number}}}'.encode(), labels=None, score="iqs", is_signed=True)
        assert fault.reason.startswith("iqs must be a finite number, got ")


def test_further_numbers_must_be_there_but_are_not_looked_at():
    row = with_deita([2.0], [3.0], iqs=[-1.5], ifd_score={"content": 0.5})
    assert judge(row, required=["iqs", "ifd_score.content", QUALITY]) == (["a"], 6.0)
    assert judge(row, required=["iqs", "other"]) == Dropped("no score at other")
    assert judge({**row, "iqs": ["x"]}, required=["iqs"]).reason.startswith("iqs must be a number")


def test_deita_takes_single_numbers_as_one_turn():
    assert judge(with_deita(2, 1.5)) == (["a"], 3.0)


def test_ifd_is_the_content_of_ifd_score():
    assert judge(make_row(0, ["a"], 1, ifd_score={"version": 100, "content": 0.75}), score="ifd") == (["a"], 0.75)


def test_without_a_stored_score_there_is_none_whatever_the_row_holds():
    labels, score = judge({"annotation": {"instag": {"content": ["a"]}}}, score="constant")
    assert (labels, math.isnan(score)) == (["a"], True)


def test_num_labels_is_left_open_until_the_vocabulary_is_known():
    labels, score = judge({"annotation": {"instag": {"content": ["b", "a", "b"]}}}, score="num_labels")
    assert labels == ["b", "a", "b"]
    assert math.isnan(score)


def test_a_dotted_path_leads_to_a_number_or_to_a_list_of_which_the_mean_is_taken():
    row = {"tags": {"names": ["x", "y"]}, "deep": {"er": {"one": 4, "many": [1, 2, 6]}}}
    assert judge(row, "tags.names", "deep.er.one") == (["x", "y"], 4.0)
    assert judge(row, "tags.names", "deep.er.many") == (["x", "y"], 3.0)


def test_labels_keep_their_order_and_repetitions():
    assert judge(with_labels({"content": ["z", "a", "z"]})) == (["z", "a", "z"], 6.0)


def test_a_score_of_zero_is_kept():
    assert judge(with_deita([0], [5.0])) == (["a"], 0.0)


@pytest.mark.parametrize(
    "row",
    [
        {},
        {"annotation": None},
        {"annotation": {}},
        {"annotation": "free text"},
        {"annotation": 7},
        {"annotation": []},
        with_labels(None),
        with_labels({}),
        with_labels([]),
        with_labels({"content": None}),
        with_labels({"content": []}),
    ],
)
def test_a_row_without_labels_is_dropped(row):
    assert judge(row) == Dropped(f"no labels at {LABELS}")


@pytest.mark.parametrize(
    ("deita", "missing"),
    [
        (None, QUALITY),
        ({}, QUALITY),
        ("none", QUALITY),
        ({"complexity_scores": [1.0]}, QUALITY),
        ({"quality_scores": None, "complexity_scores": [1.0]}, QUALITY),
        ({"quality_scores": [], "complexity_scores": [1.0]}, QUALITY),
        ({"quality_scores": [1.0]}, COMPLEXITY),
        ({"quality_scores": [1.0], "complexity_scores": None}, COMPLEXITY),
        ({"quality_scores": [1.0], "complexity_scores": []}, COMPLEXITY),
    ],
)
def test_a_row_without_a_score_is_dropped_and_the_path_is_named(deita, missing):
    assert judge({"annotation": {"instag": {"content": ["a"]}, "deita": deita}}) == Dropped(f"no score at {missing}")


@pytest.mark.parametrize("value", [None, [], "absent"])
def test_a_score_at_a_path_is_dropped_where_it_is_absent_null_or_empty(value):
    row = {"t": ["a"], **({} if value == "absent" else {"s": value})}
    assert judge(row, "t", "s") == Dropped("no score at s")


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        (7, "the number 7"),
        (1, "the number 1"),
        (0, "the number 0"),
        (True, "true"),
        (False, "false"),
        ({}, "an object"),
        ({"a": 1}, f"an object (name one of its keys, such as {LABELS}.a)"),
        (["a", 1], "a list with the number 1"),
        (["a", None], "a list with null"),
        (["a", False], "a list with false"),
        ([["a"]], "a list with a list"),
        ([{"a": 1}], f"a list with an object (name one of its keys, such as {LABELS}.a)"),
    ],
)
def test_labels_that_are_neither_a_string_nor_a_list_of_strings_make_a_row_unreadable(labels, found):
    verdict = judge(with_labels({"content": labels}))
    assert verdict == Unreadable(f"{LABELS} must be a string or a list of strings, got {found}")


@pytest.mark.parametrize(
    ("score", "found"),
    [
        ("high", "the string 'high'"),
        ("1.5", "the string '1.5'"),
        (True, "true"),
        ({}, "an object"),
        ([1.0, "2"], "the string '2'"),
        ([1.0, None], "null"),
        ([[1.0]], "a list"),
    ],
)
def test_a_score_that_is_not_a_number_makes_a_row_unreadable(score, found):
    verdict = judge({"t": ["a"], "s": score}, "t", "s")
    assert verdict == Unreadable(f"s must be a number or a list of numbers, got {found}")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "-1", "-1e-300", "1e999", "1" + "0" * 400])
@pytest.mark.parametrize("shape", ["%s", "[%s]", "[1.0, %s]"])
def test_a_score_that_is_not_finite_or_below_zero_makes_a_row_unreadable(number, shape):
    verdict = judge(b'{"t": ["a"], "s": %s}' % (shape % number).encode(), "t", "s")
    assert isinstance(verdict, Unreadable)
    assert verdict.reason.startswith("s must be a finite number of 0 or more, got ")


@pytest.mark.parametrize("number", [10**200, 1e200])
def test_a_product_that_is_infinite_makes_a_row_unreadable(number):
    assert judge(with_deita([number], [number])) == Unreadable("has a score that overflows to infinity")


@pytest.mark.parametrize(("quality", "complexity"), [([1.0], [1.0, 2.0]), ([1.0, 2.0], [1.0]), (1.0, [1.0, 2.0])])
def test_quality_and_complexity_of_different_length_make_a_row_unreadable(quality, complexity):
    verdict = judge(with_deita(quality, complexity))
    assert isinstance(verdict, Unreadable)
    assert f"must have one number per turn at each of {QUALITY} and {COMPLEXITY}, got " in verdict.reason


def test_a_bad_value_is_reported_before_an_absent_one():
    assert isinstance(judge({"s": "high"}, "t", "s"), Unreadable)
    assert isinstance(judge({"t": 7}, "t", "s"), Unreadable)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"t": ["a"], "s": 1', "is not valid JSON"),
        (b"plain text", "is not valid JSON"),
        (b'{"t": ["a"], "s": 1,}', "is not valid JSON"),
        (b'{"t": ["a"], "s": 1}}', "is not valid JSON"),
        (b'{"t": ["a"], "s": 1, "x": tru}', "is not valid JSON"),
        (b'{"t": ["a"], "s": 1, "x": "\x01"}', "is not valid JSON"),
        (b'{"t": ["a"], "s": 1, "x": 01}', "is not valid JSON"),
        (b'["a"]', "must be a JSON object, got a list"),
        (b'"a"', "must be a JSON object, got the string 'a'"),
        (b"1", "must be a JSON object, got the number 1"),
        (b"0", "must be a JSON object, got the number 0"),
        (b"null", "must be a JSON object, got null"),
        (b"true", "must be a JSON object, got true"),
        (b'{"t": ["a"], "s": 1, "x": "\xff"}', "is not UTF-8"),
        (b'{"t": ["a"], "s": 1, "\xe9": 1}', "is not UTF-8"),
        (b'{"t": ["\xc3"], "s": 1}', "is not UTF-8"),
        (b'{"t": ["a"], "s": 1, "x": "\\ud800"}', "contains half of a surrogate pair"),
        (b'{"t": ["a"], "s": 1, "\\udfff": 1}', "contains half of a surrogate pair"),
        (b'{"t": ["\\ud800a"], "s": 1}', "contains half of a surrogate pair"),
        (b'{"t": ["a"], "s": 1, "x": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", "is nested too deeply"),
        (b'{"t": ["a"], "s": 1' + b"0" * 5_000 + b"}", "s must be a finite number of 0 or more, got inf"),
    ],
)
def test_a_line_that_is_not_a_json_object_is_unreadable_wherever_the_fault_is(line, reason):
    verdict = judge(line, "t", "s")
    assert isinstance(verdict, Unreadable)
    assert verdict.reason.startswith(reason)


@pytest.mark.parametrize("unused", ["NaN", "-Infinity", "1e999", "1" + "0" * 400, '"\\ud83d\\ude00"'])
def test_odd_values_in_fields_that_are_not_wanted_do_no_harm(unused):
    assert judge(b'{"x": %s, "t": ["a"], "s": 2}' % unused.encode(), "t", "s") == (["a"], 2.0)


def test_a_path_may_go_through_the_value_that_another_path_names():
    row = {"annotation": {"names": ["a"], "score": 3}}
    assert judge(row, "annotation.names", "annotation") == Unreadable(
        "annotation must be a number or a list of numbers, got an object"
    )
    assert judge(row, "annotation", "annotation.score") == Unreadable(
        "annotation must be a string or a list of strings, got an object (name one of its keys, such as "
        "annotation.names)"
    )


def test_labels_and_score_may_share_a_path():
    assert judge({"s": [1, 2]}, "s", "s") == Unreadable(
        "s must be a string or a list of strings, got a list with the number 1"
    )
