"""The chat client against a server that does all that servers do wrong."""

import json
import logging
import os
import random
import signal
import time
from email.utils import formatdate

import pytest
from chat_server import chat_server, completion, reply

from mig_selector.annotation import chat
from mig_selector.annotation.chat import ChatModel, ask
from mig_selector.errors import AnnotatorError


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(chat, "_FIRST_PAUSE_SECONDS", 0.01)


def model_at(url, **more):
    return ChatModel(**{"url": url, "name": "m", "max_requests": 8, "timeout_seconds": 1.0, "max_tokens": 9, **more})


def ask_all(model, prompts, read=str):
    """Return the value or the reason of each row."""
    found = {}

    def keep(row, value, reason):
        assert row not in found
        assert (value is None) is bool(reason)
        found[row] = reason if value is None else value

    ask(model, enumerate(prompts), read, keep)
    return found


def test_each_answer_comes_to_its_row_whatever_the_order_of_the_answers():
    prompts = [f"row {number}" for number in range(40)]
    with chat_server(
        lambda message, _: reply(f"answer to {message}", wait=random.Random(message).random() / 20)
    ) as at:
        found = ask_all(model_at(at.url), prompts)
        assert sorted(at.asked) == sorted(prompts)
        assert 1 < at.most <= 8
    assert found == {number: f"answer to row {number}" for number in range(40)}
    assert list(found) != sorted(found)


def test_a_request_says_what_servers_expect(monkeypatch):
    monkeypatch.setenv("MIG_ANNOTATOR_API_KEY", "secret")
    with chat_server(lambda *_: reply("yes")) as at:
        ask_all(model_at(at.url), ["naïve 🙂 \ud800"])
        [(_, _, body, headers)] = at.requests
    message = {"role": "user", "content": "naïve 🙂 \ud800"}
    assert body == {"model": "m", "messages": [message], "temperature": 0.0, "max_tokens": 9}
    assert headers["Authorization"] == "Bearer secret"


def test_without_a_key_none_is_sent(monkeypatch):
    monkeypatch.delenv("MIG_ANNOTATOR_API_KEY", raising=False)
    with chat_server(lambda *_: reply("yes")) as at:
        ask_all(model_at(at.url), ["row"])
        assert "Authorization" not in at.requests[0][3]


FAULTS = {
    "dropped connection": lambda: None,
    "slow": lambda: reply("late", wait=1.0),
    "busy": lambda: reply(status=429, body="{}"),
    "gone": lambda: reply(status=408, body=""),
    "in conflict": lambda: reply(status=409, body=""),
    "broken": lambda: reply(status=500, body="<html>"),
    "not there yet": lambda: reply(status=503, body="[1"),
    "broken JSON": lambda: reply(body='{"choices": [{"mess'),
    "nested JSON": lambda: reply(body="[" * 100_000),
    "not UTF-8": lambda: reply(body=b"\xff\xfe\x00"),
    "behind a router": lambda: reply(body='{"error": {"message": "upstream is busy", "code": 502}}'),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_may_pass_is_asked_again(fault):
    def behave(message, before):
        return FAULTS[fault]() if before < 2 else reply(f"answer to {message}")

    prompts = [f"row {number}" for number in range(5)]
    with chat_server(behave) as at:
        found = ask_all(model_at(at.url, timeout_seconds=0.5 if fault == "slow" else 5.0), prompts)
        assert sorted(at.asked) == sorted(3 * prompts)
    assert found == {number: f"answer to row {number}" for number in range(5)}


def test_all_faults_together_lose_and_invent_nothing():
    def behave(message, before):
        chance = random.Random(f"{message} {before}")
        if chance.random() < 0.4:
            return FAULTS[chance.choice(sorted(set(FAULTS) - {"slow"}))]()
        return reply(f"answer to {message}", wait=chance.random() / 50)

    prompts = [f"row {number}" for number in range(150)]
    with chat_server(behave) as at:
        found = ask_all(model_at(at.url, max_requests=16), prompts)
        assert at.most <= 16
        never = {message for message in prompts if at.asked.count(message) == 6} - {
            message for message in prompts if found[int(message.split()[1])].startswith("answer")
        }
    assert set(found) == set(range(150))
    for number, answer in found.items():
        if f"row {number}" in never:
            assert answer.startswith(("the server answered 5", "no answer from", "the server answered 40", "the ans"))
        else:
            assert answer == f"answer to row {number}"


def test_a_row_at_which_the_server_always_breaks_fails_with_its_reason():
    with chat_server(lambda message, _: reply(status=500) if message == "bad" else reply("fine")) as at:
        assert ask_all(model_at(at.url), ["good", "bad", "good too"]) == {
            0: "fine",
            1: "the server answered 500",
            2: "fine",
        }
        assert at.asked.count("bad") == 6


@pytest.mark.parametrize("told", [lambda: "0.4", lambda: formatdate(time.time() + 1.6, usegmt=True)])
def test_nobody_asks_before_the_server_wants_to_be_asked(told):
    def behave(message, before):
        return (
            reply(status=429, headers={"Retry-After": told()}) if (message, before) == ("first", 0) else reply("yes")
        )

    with chat_server(behave) as at:
        ask_all(model_at(at.url, max_requests=1), ["first", "second"])
        assert at.asked == ["first", "first", "second"]
        assert at.requests[1][0] - at.requests[0][0] >= 0.39  # a date has whole seconds


def test_a_server_that_has_had_enough_for_today_stops_the_run():
    def behave(message, before):
        return reply("yes") if message == "first" else reply(status=429, headers={"Retry-After": "86400"})

    with chat_server(behave) as at, pytest.raises(AnnotatorError, match=r"in 24\.0 hours: the server answered 429: "):
        ask_all(model_at(at.url, max_requests=1), ["first", "second", "third"])
    assert at.asked == ["first", "second"]


def test_a_full_server_is_no_fault_of_a_row():
    def behave(message, before):
        return reply("yes") if message == "other" or before == 9 else reply(status=429)

    with chat_server(behave) as at:
        assert ask_all(model_at(at.url, max_requests=2), ["full", *["other"] * 3])[0] == "yes"


@pytest.mark.parametrize("status", [401, 403, 404, 301])
def test_what_will_not_pass_stops_at_once_with_what_the_server_says(status, monkeypatch):
    monkeypatch.setenv("MIG_ANNOTATOR_API_KEY", "secret")
    body = json.dumps({"error": {"message": "The model\n`m` does \x1b[31mnot exist."}})
    with chat_server(lambda *_: reply(status=status, body=body)) as at:
        expected = (
            rf"{at.url} with mig_annotator_model: m: the server answered {status}: The model `m` does \\x1b\[31m"
        )
        with pytest.raises(AnnotatorError, match=expected) as error:
            ask_all(model_at(at.url, max_requests=2), ["row"] * 100)
        assert len(at.requests) <= 2
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_request_that_is_refused_fails_alone(status, caplog):
    body = "maximum context length is 4096 tokens"
    with chat_server(lambda message, _: reply(status=status, body=body) if message == "long" else reply("yes")) as at:
        found = ask_all(model_at(at.url), ["short", "long"])
        assert at.asked.count("long") == 1
    assert found == {0: "yes", 1: f"the server answered {status}"}
    assert body in caplog.text


def test_a_server_that_is_gone_stops_the_run():
    with (
        chat_server(lambda *_: None) as at,
        pytest.raises(AnnotatorError, match=r"no longer answers: no answer from th"),
    ):
        ask_all(model_at(at.url, max_requests=2), ["row"] * 100)
    with pytest.raises(AnnotatorError, match=r"no longer answers: no answer from the server \(ConnectError\)"):
        ask_all(model_at(at.url, max_requests=2), ["row"] * 100)


def test_what_the_server_says_of_an_error_is_told(caplog):
    body = json.dumps({"error": {"message": "You exceeded your quota."}})
    message = r"no longer answers: the server answered 429: You exceeded your quota\."
    with chat_server(lambda *_: reply(status=429, body=body)) as at, pytest.raises(AnnotatorError, match=message):
        ask_all(model_at(at.url, max_requests=1), ["row"])
    assert "the server answered 429: You exceeded your quota.; asking again" in caplog.text


def test_a_key_with_a_line_end_is_taken_without_it_and_other_odd_ones_are_refused(monkeypatch):
    with chat_server(lambda *_: reply("yes")) as at:
        monkeypatch.setenv("MIG_ANNOTATOR_API_KEY", "secret\r\n")
        ask_all(model_at(at.url), ["row"])
        assert at.requests[0][3]["Authorization"] == "Bearer secret"
        for key in ("\u201csecret\u201d", "sec\nret"):
            monkeypatch.setenv("MIG_ANNOTATOR_API_KEY", key)
            with pytest.raises(AnnotatorError, match=r"MIG_ANNOTATOR_API_KEY: the key in .* ASCII") as error:
                ask_all(model_at(at.url), ["row"])
            assert "secret" not in str(error.value)


def test_an_answer_that_cannot_be_used_is_asked_for_once_more():
    def read(text):
        if not text.isdigit():
            raise ValueError("not a number")
        return int(text)

    answers = {"first": ["no", "7"], "never": ["no", "no"], "at once": ["8"]}
    with chat_server(lambda message, before: reply(answers[message][before])) as at:
        assert ask_all(model_at(at.url), list(answers), read) == {0: 7, 1: "not a number", 2: 8}
        assert sorted(at.asked) == sorted(["first"] * 2 + ["never"] * 2 + ["at once"])
        again = [body["temperature"] for _, message, body, _ in at.requests if message == "first"]
    assert again == [0.0, 0.7]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (completion("[1", "length"), "the answer was cut off (mig_annotator_max_tokens)"),
        (completion("", "content_filter"), "the answer was withheld by a content filter"),
        (completion(None), "the answer has no text (choices[0].message.content)"),
        (completion([{"type": "text", "text": "a"}]), "the answer has no text (choices[0].message.content)"),
        ('{"choices": []}', "the answer has no text (choices[0].message.content)"),
        ('{"choices": "abc"}', "the answer has no text (choices[0].message.content)"),
        ('{"choices": [[1]]}', "the answer has no text (choices[0].message.content)"),
        ("[]", "the answer has no text (choices[0].message.content)"),
        ("null", "the answer has no text (choices[0].message.content)"),
        ("1" * 4000, "the answer has no text (choices[0].message.content)"),
    ],
)
def test_what_is_no_whole_answer_is_none(body, reason):
    with chat_server(lambda *_: reply(body=body)) as at:
        assert ask_all(model_at(at.url), ["row"]) == {0: reason}


def test_an_endless_answer_is_not_read_to_its_end():
    body = completion("a" * 6 * 2**20)
    with chat_server(lambda *_: reply(body=body)) as at:
        assert ask_all(model_at(at.url), ["row"]) == {0: "an answer of more than 4 MiB"}


def test_an_interrupt_stops_at_once_and_asks_no_more(caplog):
    caplog.set_level(logging.CRITICAL, "asyncio")
    interrupted_at = []

    def behave(*_):
        if len(at.requests) == 8 and not interrupted_at:
            interrupted_at.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGINT)
        return reply("yes", wait=5.0)

    with chat_server(behave) as at:
        with pytest.raises(KeyboardInterrupt):
            ask_all(model_at(at.url, timeout_seconds=60.0), ["row"] * 100)
        assert time.monotonic() - interrupted_at[0] < 4.0
        assert len(at.requests) == 8


def test_rows_are_taken_only_when_they_can_be_asked_for():
    taken = []

    def prompts():
        for number in range(50):
            taken.append(number)
            yield number, f"row {number}"

    def behave(message, _):
        assert len(taken) <= 4 + len(at.requests)
        return reply("yes")

    with chat_server(behave) as at:
        ask(model_at(at.url, max_requests=4), prompts(), str, lambda *_: None)
    assert len(taken) == 50


def test_an_error_of_the_caller_ends_all_requests():
    def keep(row, value, reason):
        raise AnnotatorError("enough")

    with chat_server(lambda *_: reply("yes")) as at:
        with pytest.raises(AnnotatorError, match="enough"):
            ask(model_at(at.url, max_requests=4), ((number, "row") for number in range(100)), str, keep)
        assert len(at.requests) <= 8
