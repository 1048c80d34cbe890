"""Runs of 13 words that texts share, counted one by one."""

import numpy as np
import pytest

from mig_selector.study import overlap
from mig_selector.study.overlap import question_key, shared_shares


def grams(text):
    words = "".join(letter if letter.isalnum() else " " for letter in text.lower()).split()
    return {tuple(words[start : start + 13]) for start in range(len(words) - 12)}


@pytest.mark.parametrize("kept", [5, 1 << 22])
def test_shares_are_those_of_a_count_of_tuples(monkeypatch, kept):
    monkeypatch.setattr(overlap, "_KEPT_WORDS", kept)
    rng = np.random.default_rng(0)
    long = " ".join(f"word{number}" for number in rng.integers(0, 500, 400))
    words = long.split()
    pool = [" ".join(words[:60]), "short text", long.upper()[2000:2600], ""]
    texts = [" ".join(words[20:120]), " ".join(words[:40]) + ", new; ends.", "only a few words", " ".join(words[::-1])]
    known = set().union(*map(grams, pool))
    expected = [len(grams(text) & known) / len(grams(text)) if grams(text) else 0.0 for text in texts]
    assert shared_shares(texts, pool) == pytest.approx(expected)
    assert expected[0] > 0.3
    assert expected[1] > 0.9


def test_in_scripts_without_spaces_a_letter_is_a_word():
    answer = "光合作用是植物把光能变成化学能的过程"
    texts = [answer, answer[:12], answer[::-1], f"CO2 {answer}"]
    assert shared_shares(texts, [f"问题 {answer} end"]).tolist() == [1.0, 0.0, 0.0, 6 / 7]


def test_nothing_is_shared_with_an_empty_pool():
    assert shared_shares(["a " * 30], []).tolist() == [0.0]
    assert shared_shares([], ["a " * 30]).tolist() == []


@pytest.mark.parametrize("other", ["what is\n a Cell?", "What is a cell? ", "WHAT  IS A CELL?"])
def test_questions_are_equal_whatever_their_case_and_white_space(other):
    assert question_key("What is a cell?") == question_key(other)
    assert question_key("What is a cell") != question_key(other)
