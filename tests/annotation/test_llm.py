"""What counts as an answer of a chat model, and what is asked for."""

import json

import pytest

from mig_selector.annotation.llm import LONGEST_TAG, LlmScore, LlmTagger, read_score, read_tags
from mig_selector.annotation.scorers import find_scorer
from mig_selector.annotation.taggers import find_tagger
from mig_selector.arguments import parse_arguments
from mig_selector.errors import ArgumentError


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        ('["a", "b"]', ["a", "b"]),
        (' ["Data  Analysis", "data analysis",\n"b"] ', ["data analysis", "b"]),
        ('```json\n["a"]\n```', ["a"]),
        ('```\n["a"]\n```', ["a"]),
        ('<think>Perhaps ["x"]?</think>\n\n["a"]', ["a"]),
        ('[{"tag": "Maths", "explanation": "sums"}, {"tag": "b"}]', ["maths", "b"]),
        ('{"tag": "a", "explanation": "one"}', ["a"]),
        ('["\\u00e9 数学"]', ["é 数学"]),
        ("[" + ", ".join(f'"{number}"' for number in range(16)) + "]", [str(number) for number in range(16)]),
        (json.dumps(["a" * LONGEST_TAG]), ["a" * LONGEST_TAG]),
    ],
)
def test_tags_are_read_from_a_list_or_in_the_shape_of_instag(text, tags):
    assert read_tags(text) == tags


NOT_JSON, NO_LIST, NO_STRING = "is not valid JSON", "is not a list of 1 to 16 tags", "a tag that is not a string"
ODD = "a tag that is empty, longer than 64 characters, or unprintable"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", NOT_JSON),
        ("a, b", NOT_JSON),
        ('["a", "b"', NOT_JSON),
        ('["a"] ["b"]', NOT_JSON),
        ('Sure! ["a"]', NOT_JSON),
        ("```", NOT_JSON),
        ("[" * 100_000, NOT_JSON),
        ("[" + "1" * 5_000 + "]", NOT_JSON),
        ('"a"', NO_LIST),
        ("null", NO_LIST),
        ("3", NO_LIST),
        ("[]", NO_LIST),
        (json.dumps(["a"] * 17), NO_LIST),
        ("[1]", NO_STRING),
        ('["a", null]', NO_STRING),
        ('[["a"]]', NO_STRING),
        ("{}", NO_STRING),
        ('[{"tags": "a"}]', NO_STRING),
        ('[{"tag": ["a"]}]', NO_STRING),
        ('["a", ""]', ODD),
        ('["  \\n"]', ODD),
        (json.dumps(["a" * (LONGEST_TAG + 1)]), ODD),
        ('["a\\u0000b"]', ODD),
        ('["\\u001b[31m"]', ODD),
        ('["\\ud800"]', ODD),
        ('["\\u202eabc"]', ODD),
    ],
)
def test_anything_else_is_no_answer(text, reason):
    with pytest.raises(ValueError, match=reason):
        read_tags(text)


@pytest.mark.parametrize(("text", "score"), [("3", 3), ('{"score": 5}', 5), ('```json\n{"score": 1}\n```', 1)])
def test_a_score_is_an_integer_alone_or_in_an_object(text, score):
    assert read_score(text) == score


@pytest.mark.parametrize(
    "text", ["0", "6", "3.0", "true", '"3"', "[3]", '{"rating": 3}', '{"score": null}', "null", "NaN", "-1", "1e999"]
)
def test_no_score_is_made_up(text):
    with pytest.raises(ValueError, match="the answer is not an integer from 1 to 5"):
        read_score(text)


KEYS = {"mig_num_samples": 1, "mig_annotator_url": "http://h:1/v1", "mig_annotator_model": "m"}


def settings(**keys):
    return parse_arguments({**KEYS, **keys}, training=False).more


@pytest.mark.parametrize(
    ("keys", "is_same"),
    [
        ({"mig_annotator_model": "other"}, False),
        ({"mig_annotator_max_tokens": 9}, False),
        ({"mig_annotator_max_chars": 9}, False),
        ({"mig_annotator_url": "https://elsewhere/v1"}, True),
        ({"mig_annotator_requests": 9}, True),
        ({"mig_annotator_timeout": 9}, True),
        ({"mig_tagger_model": "other"}, True),  # embeds the tags, but does not decide them
    ],
)
def test_what_decides_the_answers_is_the_identity(keys, is_same):
    for find in (
        lambda more: find_tagger({**more, "mig_tagger": "llm"}, None),
        lambda more: find_scorer("llm", more, turns="mean", default_tokenizer=None),
    ):
        assert (find(settings(**keys)).identity == find(settings()).identity) is is_same


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"mig_annotator_url": None}, "mig_tagger asks a chat model .* address; set mig_annotator_url."),
        (
            {"mig_annotator_url": None, "mig_annotator_model": None},
            "set mig_annotator_url and mig_annotator_model",
        ),
        ({"mig_annotator_url": "localhost:8000"}, "mig_annotator_url: expected http"),
        ({"mig_annotator_url": "http://:80/v1"}, "mig_annotator_url: expected http"),
        ({"mig_annotator_url": "http://h:99999/v1"}, "mig_annotator_url: expected http"),
        ({"mig_annotator_url": "http://[::1/v1"}, "mig_annotator_url: expected http"),
        ({"mig_annotator_url": "http://me:secret@h/v1"}, "mig_annotator_url: expected http"),
        ({"mig_annotator_url": "http://h/v1?key=secret"}, "mig_annotator_url: expected http"),
    ],
)
def test_an_address_is_an_address_and_nothing_secret(keys, message):
    with pytest.raises(ArgumentError, match=message) as error:
        find_tagger({**settings(**keys), "mig_tagger": "llm"}, None)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("url", ["http://h:1/v1", "http://h:1/v1/", "http://h:1/v1/chat/completions"])
def test_the_end_of_the_address_may_be_written_or_not(url):
    chat = find_tagger({**settings(mig_annotator_url=url), "mig_tagger": "llm"}, None).prompting.chat
    assert chat.url == "http://h:1/v1"


class Rows:
    def questions(self):
        return iter(["{question} of 10 000 chars" + "x" * 10_000])

    def exchanges(self):
        from mig_selector.pool.conversation import Exchange

        return iter([Exchange("{add}", "1 {0}", "y" * 10_000)])


def test_prompts_hold_the_texts_as_they_are_up_to_their_limit():
    more = settings(mig_annotator_max_chars=40)
    [prompt] = LlmTagger.prompts(find_tagger({**more, "mig_tagger": "llm"}, None), Rows())
    assert "\n[begin]\n{question} of 10 000 chars" + "x" * 14 + "\n[end]\n" in prompt
    [prompt] = LlmScore.prompts(find_scorer("llm", more, turns="mean", default_tokenizer=None), Rows())
    assert "\n[request]\n{add}\n1 {0}\n[response]\n" + "y" * 40 + "\n[end]\n" in prompt
    assert prompt.endswith('for example {"score": 3}.')
