"""What is read in the words of a judge; without a verdict there is no score."""

import pytest

from mig_selector.evaluation.verdicts import OTHER_SIDE, read_choice, read_rating, read_winner


@pytest.mark.parametrize(
    ("text", "rating"),
    [
        ("It is good. Rating: [[7]]", 7.0),
        ("Rating: [[8.5]].", 8.5),
        ("I would first say [[9]], but it is wrong. Rating: [[ 3 ]]", 3.0),
        ("<think>Rating: [[2]]</think>Rating: [[10]]", 10.0),
    ],
)
def test_a_rating_is_the_last_one_in_brackets(text, rating):
    assert read_rating(text) == rating


@pytest.mark.parametrize("text", ["", "Rating: 7", "Rating: [7]", "Rating: [[0]]", "[[11]]", "[[seven]]", "[[7"])
def test_what_is_no_rating_from_1_to_10_is_none(text):
    with pytest.raises(ValueError, match=r"no rating from 1 to 10"):
        read_rating(text)


@pytest.mark.parametrize(
    ("text", "first_wins"),
    [
        ("m", 1.0),
        ("M", 0.0),
        ('**"m"**\n', 1.0),
        ("M is better: it names all.", 0.0),
        ("Model M names more colours.\n\nm", 1.0),
        ("<think>m? M?</think>\nM", 0.0),
    ],
)
def test_the_winner_is_the_first_word_or_the_last_line(text, first_wins):
    assert read_winner(text) == first_wins


@pytest.mark.parametrize("text", ["", "Model m", "Model M is better.", "mM", "Maybe m", "Both.", "I choose m over M."])
def test_a_text_that_only_mentions_a_model_has_no_winner(text):
    with pytest.raises(ValueError, match="the verdict was neither 'm' nor 'M'"):
        read_winner(text)


@pytest.mark.parametrize(
    ("choice", "value"), [("A++", 1.0), ("A+", 0.5), ("A=B", 0.0), ("B+", -0.5), ("B++", -1.0), (" B++ ", -1.0)]
)
def test_a_choice_is_read_in_json_that_need_not_be_valid(choice, value):
    text = f'```json\n{{"analysis of A": "says "yes"", "reason of A>B": "A++",\n"choice" : "{choice}",}}\n```'
    assert read_choice(text) == value


@pytest.mark.parametrize("text", ["", "A++", '"choice": "A"', '"choice": A++', '"choice": "A+++"', '"choices": "A+"'])
def test_what_is_no_choice_is_none(text):
    with pytest.raises(ValueError, match='no "choice" of'):
        read_choice(text)


def test_a_verdict_seen_from_the_other_side_is_its_opposite():
    assert [OTHER_SIDE["alpacaeval"](won) for won in (0.0, 1.0)] == [1.0, 0.0]
    assert [OTHER_SIDE["wildbench"](value) for value in (-1.0, 0.0, 0.5)] == [1.0, 0.0, -0.5]
