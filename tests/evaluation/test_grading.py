"""What answers say, and whether they are right: expected values worked by hand."""

from decimal import Decimal

import pytest
from benchmark_data import write_punkt

from mig_selector.evaluation.grading import (
    GRADERS,
    bbh_choice,
    bbh_text,
    boxed,
    choice_letter,
    final_number,
    humaneval_program,
)


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("Ice floats.\nANSWER: C", "C"),
        ("ANSWER: $B$", "B"),
        ("**Answer: (D)**", "D"),
        ("At first the answer is A. No: the correct answer is (B) because ...", "B"),
        ("The answer is option C.", "C"),
        (r"So \boxed{\text{A}}", "A"),
        ("B", "B"),
        ("B. Photosynthesis", "B"),
        ("(C) the heart", "C"),
        ("A plant needs light, so D", "D"),
        ("A. 12", "A"),
        ("I do not know", None),
        ("", None),
        ("ANSWER: E", None),
    ],
)
def test_the_letter_of_an_answer_is_found(answer, letter):
    assert choice_letter(answer) == letter


@pytest.mark.parametrize(
    ("answer", "read"),
    [
        ("... So the answer is (B).", "B"),
        ("the answer is C", "C"),
        ("the answer is (A). Q: next? So the answer is (D).", "A"),
        ("(F)", "F"),
        ("nothing", "nothing"),
    ],
)
def test_a_choice_of_bbh_is_the_first_after_answer_is(answer, read):
    assert bbh_choice(answer) == read


@pytest.mark.parametrize(
    ("answer", "read"),
    [
        ("So the answer is False.", "false"),
        ("so the Answer is: **Yes**, it is", "yes"),
        ("So the answer is 24.\n\nQ: more", "24"),
        ("the answer is ] ] >", "] ] >"),
        ("So the answer is alpha, beta  gamma.", "alpha beta gamma"),
    ],
)
def test_a_free_answer_of_bbh_is_the_line_after_answer_is(answer, read):
    assert bbh_text(answer) == read


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        (r"He has \boxed{1,234} apples", "1234"),
        (r"\boxed{3} no, \boxed{\$18.50}", "18.50"),
        (r"\boxed{\frac{1}{2} = 0.5}", "0.5"),
        (r"\boxed{-7}", "-7"),
        (r"\boxed{12\text{ dollars}}", "12"),
        ("Step 1: 5. So the answer is 42 apples.", "42"),
        ("#### 72", "72"),
        ("there are 5 of them", None),
        (r"\boxed{none}", None),
        (r"\boxed{12", None),
    ],
)
def test_the_number_of_an_answer_is_in_its_last_box(answer, number):
    assert final_number(answer) == (None if number is None else Decimal(number))


def test_a_box_may_hold_braces():
    assert boxed(r"\boxed{\frac{a}{b}} rest}") == r"\frac{a}{b}"
    assert boxed("no box") is None


def test_equal_numbers_are_equal_however_they_are_written():
    assert GRADERS["gsm8k"]({"target": "18"}, r"\boxed{18.00}")
    assert not GRADERS["gsm8k"]({"target": "18"}, r"\boxed{180}")


DOC = {"prompt": 'def twice(x):\n    """Double."""\n', "test": "def check(f): ...", "entry_point": "twice"}


@pytest.mark.parametrize(
    "answer",
    [
        "    return 2 * x",
        "return 2 * x",
        "Here:\n```python\ndef twice(x):\n    return 2 * x\n```\nDone.\n```python\nraise\n```",
        "```\nreturn 2 * x\n```",
        "```python\nimport math\n\ndef twice(x):\n    return 2 * x\n",  # cut off before the block ends
    ],
)
def test_a_program_is_the_prompt_the_code_of_the_answer_and_the_tests(answer):
    program = humaneval_program(DOC, answer)
    assert program.endswith("\n\ndef check(f): ...\n\ncheck(twice)\n")
    names = {}
    exec(program, names)
    assert names["twice"](4) == 8


IFEVAL = {
    "key": 1,
    "prompt": "Write two paragraphs without commas and at least three words in capitals.",
    "instruction_id_list": ["punctuation:no_comma", "change_case:english_capital", "detectable_format:title"],
    "kwargs": [{"num_words": None}, {"num_words": None}, {"num_words": None}],
}


@pytest.mark.parametrize(
    ("answer", "follows"),
    [
        ("<<THE ROAD>> THE LONG ROAD GOES ON AND ON OVER THE HILLS AND FAR AWAY", True),
        ("<<THE ROAD>> THE LONG ROAD, WHICH GOES ON AND ON OVER THE HILLS", False),  # a comma
        ("<<THE ROAD>> the long road goes on and on over the hills", False),  # small letters
        ("THE LONG ROAD GOES ON AND ON OVER THE HILLS AND FAR AWAY", False),  # no title
        ("", False),
    ],
)
def test_a_prompt_of_ifeval_is_followed_if_each_instruction_is(answer, follows, tmp_path, monkeypatch):
    monkeypatch.setattr("nltk.data.path", [str(write_punkt(tmp_path))])
    assert GRADERS["ifeval"](IFEVAL, answer) is follows
