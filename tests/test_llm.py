"""Rows that a chat model labels and scores, from the pool to the selection, with a server that is often at fault."""

import json
import random
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from chat_server import chat_server, completion, reply
from support import LABELS, make_raw_rows, write_lines

from mig_selector.annotation import chat
from mig_selector.errors import AnnotatorError, MigSelectorError, PoolError
from mig_selector.pipeline.annotate_pool import annotate_pool
from mig_selector.pipeline.dry_run import estimate
from mig_selector.pipeline.recipe import run_selection


@pytest.fixture
def place(workplace, word_encoder, tmp_path, monkeypatch):
    """A workplace with 60 bare rows, and the settings to have them labelled and scored by a chat model."""
    monkeypatch.setattr(chat, "_FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.delenv("MIG_ANNOTATOR_API_KEY", raising=False)
    workplace.add("pool", make_raw_rows(60), formatting="alpaca")
    workplace.root = tmp_path

    def settings(url, **more):
        return {
            "dataset": "pool",
            "dataset_dir": str(workplace.data),
            "mig_num_samples": 20,
            "mig_tagger": "llm",
            "mig_tagger_model": word_encoder,
            "mig_annotator_url": url,
            "mig_annotator_model": "judge",
            "mig_annotator_requests": 4,
            **more,
        }

    workplace.settings = settings
    return workplace


def select(place, url, **more):
    return run_selection(place.settings(url, **more))[0]


def table(outcome):
    return pq.read_table(Path(outcome.folder) / "selection.parquet").to_pydict()


def manifest(outcome):
    return json.loads((Path(outcome.folder) / "manifest.json").read_text())


def journals(root):
    return sorted((root / "cache" / "chat_answers").glob("*.jsonl"))


def question_of(row):
    return f"{row['instruction']}\n{row['input']}" if row["input"] else row["instruction"]


def asked_about(message):
    """The question, and the answer if that is to be scored, in a prompt."""
    if "\n[begin]\n" in message:
        return message.split("\n[begin]\n")[1].split("\n[end]\n")[0], None
    question, response = message.split("\n[request]\n")[1].split("\n[end]\n")[0].split("\n[response]\n")
    return question, response


def tags_of(question):
    """The labels among the words of a question."""
    return [word for word in dict.fromkeys(question.split()) if word in LABELS] or ["other"]


def score_of(response):
    return 1 + len(response.split()) % 5


def answer(message):
    question, response = asked_about(message)
    return json.dumps(tags_of(question)) if response is None else json.dumps({"score": score_of(response)})


def always(message, before):
    return reply(answer(message))


def test_rows_are_labelled_and_scored_by_a_chat_model(place):
    rows = make_raw_rows(60)
    with chat_server(always) as at:
        outcome = select(place, at.url, mig_scorer="llm", mig_min_label_count=1)
        assert len(at.requests) == 60 + len(set(map(question_of, rows)))
        assert {body["model"] for _, _, body, _ in at.requests} == {"judge"}
        assert at.most <= 4
    chosen = table(outcome)
    assert chosen["labels"] == [sorted(tags_of(question_of(rows[row]))) for row in chosen["row_index"]]
    assert chosen["score"] == [score_of(rows[row]["output"]) for row in chosen["row_index"]]
    health = manifest(outcome)["annotation"]
    assert (health["rows"], health["failed"], health["scores"]["from"]) == (60, {}, "llm")


def faulty(message, before):
    """Answer at last, after up to two faults of any kind."""
    chance = random.Random(message)
    if before < chance.randrange(3):
        return chance.choice(
            [
                lambda: None,
                lambda: reply(status=500),
                lambda: reply(status=429, headers={"Retry-After": "0.02"}),
                lambda: reply(body='{"choices": [{"mess'),
                lambda: reply("slow", wait=0.3),
            ]
        )()
    return reply(answer(message), wait=chance.random() / 100)


def test_a_faulty_server_changes_nothing(place):
    with chat_server(always) as at:
        expected = table(select(place, at.url, mig_scorer="llm", mig_cache_dir=str(place.root / "elsewhere")))
    with chat_server(faulty) as at:
        found = table(select(place, at.url, mig_scorer="llm", mig_annotator_timeout=0.2, mig_overwrite=True))
        assert len(at.requests) > 120
    assert found == expected


def test_after_an_interruption_only_missing_rows_are_asked_for(place):
    rows = make_raw_rows(60)
    with chat_server(always) as at:
        expected = table(select(place, at.url, mig_cache_dir=str(place.root / "elsewhere")))

    def behave(message, before):
        return reply(answer(message)) if len(at.requests) <= 30 else reply(status=401)

    with chat_server(behave) as at, pytest.raises(AnnotatorError, match="the server answered 401"):
        select(place, at.url, mig_overwrite=True)
    [journal] = journals(place.root)
    kept = journal.read_bytes().count(b"\n")
    assert 25 < kept <= 30
    journal.write_bytes(journal.read_bytes()[:-3])  # torn by a kill
    with chat_server(always) as at:
        assert table(select(place, at.url, mig_overwrite=True)) == expected
        assert len(at.requests) == len(set(map(question_of, rows))) - kept + 1


def test_only_new_rows_are_asked_for_and_another_encoder_asks_for_none(place, tiny_llama):
    rows = make_raw_rows(60)
    more = make_raw_rows(5, seed=9)
    with chat_server(always) as at:
        annotate_pool(place.settings(at.url))
        num_requests = len(at.requests)
        write_lines(place.data / "pool.jsonl", [*more, *rows])
        annotate_pool(place.settings(at.url))
        assert set(map(asked_about, at.asked[num_requests:])) == {(question_of(row), None) for row in more}
        num_requests = len(at.requests)
        annotate_pool(place.settings(at.url, mig_tagger_model=tiny_llama))
        assert len(at.requests) == num_requests
        annotate_pool(place.settings(at.url, mig_annotator_model="another"))
        assert len(at.requests) > num_requests


HOSTILE = [
    reply("[" * 5_000),
    reply('["\\u0000"]'),
    reply('["\\ud800"]'),
    reply('["' + "a" * 10**6 + '"]'),
    reply('["a"]', finish="length"),
    reply(body="[]"),
    reply(body=completion(None)),
    reply('{"score": 1e999}'),
    reply(status=400, body="too long"),
]


def test_rows_that_cannot_be_answered_are_left_out_with_the_reason(place):
    rows = make_raw_rows(60)
    bad = {question_of(row): fault for row, fault in zip(rows[25:], HOSTILE, strict=False)}

    def behave(message, before):
        return bad.get(asked_about(message)[0]) or always(message, before)

    with chat_server(behave) as at:
        outcome = select(place, at.url, mig_max_failed=0.2)
        asked = [asked_about(message)[0] for message in at.asked]
    assert [asked.count(question) for question in bad] == [2] * 8 + [1]  # once more but for what is refused
    failed = manifest(outcome)["annotation"]["failed"]
    assert failed == {
        "the answer is not valid JSON": 1,
        "the answer has a tag that is empty, longer than 64 characters, or unprintable": 3,
        "the answer was cut off (mig_annotator_max_tokens)": 1,
        "the answer has no text (choices[0].message.content)": 2,
        "the answer has a tag that is not a string": 1,
        "the server answered 400": 1,
    }
    with chat_server(behave) as at:
        with pytest.raises(PoolError, match=r"9 of 60 rows could not be annotated, more than mig_max_failed: 0\.05"):
            select(place, at.url, mig_overwrite=True)
        assert {asked_about(message)[0] for message in at.asked} == set(bad)
    with chat_server(always) as at:
        assert manifest(select(place, at.url, mig_overwrite=True))["annotation"]["failed"] == {}
        assert {asked_about(message)[0] for message in at.asked} == set(bad)


def test_rows_of_a_small_pool_that_the_teacher_failed_are_asked_about_again(place):
    bad = {question_of(row) for row in make_raw_rows(60)[25:27]}

    def behave(message, before):
        return reply("no") if asked_about(message)[0] in bad else always(message, before)

    keys = {"mig_tagger": "distilled", "mig_overwrite": True}
    for answers, failed in ((behave, 2), (always, 0)):
        with chat_server(answers) as at:
            health = manifest(select(place, at.url, **keys))["annotation"]
            assert sum(health["failed"].values()) == failed
            assert bad <= {asked_about(message)[0] for message in at.asked}


def test_rows_of_which_only_the_score_failed_keep_their_labels(place):
    rows = make_raw_rows(60)
    bad = {row["output"] for row in rows[25:27]}
    rows[7] = {**rows[7], "instruction": " ", "input": ""}  # is looked at again by every run
    write_lines(place.data / "pool.jsonl", rows)

    def behave(message, before):
        return reply("no") if asked_about(message)[1] in bad else always(message, before)

    keys = {"mig_tagger": "clusters", "mig_clusters": [3], "mig_scorer": "llm", "mig_edge_threshold": 0.3}
    found = []
    for answers, failed in ((behave, 3), (always, 1)):
        with chat_server(answers) as at:
            outcome = select(place, at.url, **keys, mig_overwrite=True)
        assert sum(manifest(outcome)["annotation"]["failed"].values()) == failed
        [sidecar] = (place.root / "cache" / "annotations").rglob("*.parquet")
        vectors = sidecar.with_name("label_vectors.npz").read_bytes()
        found.append((pq.read_table(sidecar, columns=["row_hash", "labels"]), vectors, manifest(outcome)["edges"]))
    assert found[0] == found[1]


def test_a_server_that_fails_is_not_taken_for_a_poor_model(place):
    with (
        chat_server(lambda *_: reply(body='{"response": "[]"}')) as at,
        pytest.raises(AnnotatorError, match=r"Good answers are kept \(0 so far\)\. Check that mig_annotator_url"),
    ):
        select(place, at.url)
    with (
        chat_server(lambda *_: reply('["a"]', finish="length")) as at,
        pytest.raises(AnnotatorError, match=r"Where answers are cut off, raise mig_annotator_max_tokens\. "),
    ):
        select(place, at.url)


def test_tags_that_are_all_too_rare_are_refused_with_the_key(place):
    with chat_server(always) as at, pytest.raises(PoolError, match=r"no label is left: mig_tag_min_count .* than 99"):
        select(place, at.url, mig_label_vocabulary=None, mig_tag_min_count=99)


def test_a_model_that_does_not_keep_to_the_format_is_stopped_after_a_few_rows(place, caplog):
    with chat_server(lambda *_: reply("Sure!\n\x1b[2JHere are some tags: a, b.")) as at:
        with pytest.raises(AnnotatorError, match=r"asked for tags, of the first 20 requests 20 failed \(the"):
            select(place, at.url)
        assert len(at.requests) == 40
    assert "the answer is not valid JSON: 'Sure!\\n\\x1b[2JHere are" in caplog.text
    assert not journals(place.root)


def test_too_many_failures_stop_the_run_before_it_asks_on(place):
    write_lines(place.data / "pool.jsonl", make_raw_rows(300))

    def behave(message, before):
        return reply(answer(message)) if len(at.requests) <= 60 else reply("no")

    with chat_server(behave) as at:
        with pytest.raises(AnnotatorError, match=r"more rows failed than mig_max_failed allows: 21 failed \(the"):
            select(place, at.url)
        assert len(at.requests) < 60 + 2 * 30


def test_generated_tags_are_brought_together_and_the_sidecar_keeps_them(place):
    rows = make_raw_rows(60)
    forms = [str.upper, str.title, lambda tag: f"{tag}s", str]

    def behave(message, before):
        tags = tags_of(asked_about(message)[0])
        return reply(json.dumps([random.Random(message).choice(forms)(tag) for tag in tags] + [message[-200:][:9]]))

    def roots(labels):
        return {label.removesuffix("s") for label in labels}

    with chat_server(behave) as at:
        outcome = select(place, at.url, mig_method="instag", mig_num_samples=5)
        plain = select(place, at.url, mig_method="instag", mig_num_samples=5, mig_tag_normalization="none")
        tagged = place.settings(at.url, mig_label_vocabulary=None)
        num_requests = len(at.requests)
        sidecar = annotate_pool(tagged)
        assert len(at.requests) == num_requests
    chosen = table(outcome)
    for row, labels in zip(chosen["row_index"], chosen["labels"], strict=True):
        own = set(tags_of(question_of(rows[row])))
        assert roots(labels) - {"other"} <= own | roots(own)
        assert len(labels) == len(roots(labels))
    tags = manifest(outcome)["annotation"]["tags"]
    assert tags["after"]["words"] < tags["after"]["frequency"] <= tags["tags"]
    assert tags["largest_merges"]
    assert "tags" not in manifest(plain)["annotation"]
    assert outcome.fingerprint != plain.fingerprint
    kept = {tag for tags in pq.read_table(sidecar)["labels"].to_pylist() for tag in tags}
    assert any(f"{label}s" in kept for label in LABELS)


@pytest.mark.slow
def test_a_classifier_learns_from_a_sample_and_labels_the_rest(place):
    rows = make_raw_rows(320)
    write_lines(place.data / "pool.jsonl", rows)
    keys = {"mig_tagger": "distilled", "mig_distill_rows": 240, "mig_num_samples": 200}
    keys |= {"mig_tag_normalization": "none", "mig_report": "none"}
    with chat_server(always) as at:
        outcome = select(place, at.url, **keys)
        asked = {asked_about(message)[0] for message in at.asked}
        assert len(at.requests) == len(asked) <= 240
        figures = manifest(outcome)["annotation"]["distilled"]
        assert (figures["rows"], figures["failed"], figures["held_out_rows"]) == (240, 0, 24)
        assert figures["labels"] == len(LABELS) + 1
        assert figures["micro_f1"] > 0.6

        num_requests = len(at.requests)
        with pytest.raises(PoolError, match=r"F1 on 24 held-out rows is 0\.\d\d, below mig_distill_min_f1: 1,"):
            select(place, at.url, **keys, mig_distill_min_f1=1, mig_turns="first")
        assert len(at.requests) == num_requests

        with pytest.raises(PoolError, match=r"below mig_distill_min_f1: 1,"):  # although all labels are kept
            select(place, at.url, **keys, mig_distill_min_f1=1, mig_overwrite=True)

        lines = estimate(place.settings(at.url, **keys), selects=True)
        assert any("judge: 240 requests for tags" in line for line in lines)
        assert len(at.requests) == num_requests

        write_lines(place.data / "pool.jsonl", [*rows, *make_raw_rows(6, seed=9)])
        select(place, at.url, **keys)
        assert len(at.requests) - num_requests <= 6  # nearly the same sample
    chosen = table(outcome)
    by_row = dict(zip(chosen["row_index"], chosen["labels"], strict=True))
    taught = [row for row in by_row if question_of(rows[row]) in asked]
    assert all(by_row[row] == sorted(tags_of(question_of(rows[row]))) for row in taught)
    learnt = [row for row in by_row if row not in taught]
    right = sum(len(set(by_row[row]) & set(tags_of(question_of(rows[row])))) for row in learnt)
    total = sum(len(by_row[row]) + len(tags_of(question_of(rows[row]))) for row in learnt)
    assert len(learnt) > 20
    assert 2 * right / total > 0.6


def test_a_pool_no_larger_than_the_sample_is_labelled_by_the_chat_model_alone(place):
    with chat_server(always) as at:
        outcome = select(place, at.url, mig_tagger="distilled", mig_min_label_count=1, mig_tag_normalization="none")
    rows, chosen = make_raw_rows(60), table(outcome)
    assert chosen["labels"] == [sorted(tags_of(question_of(rows[row]))) for row in chosen["row_index"]]


def test_a_vocabulary_is_not_renamed(place):
    (place.root / "labels.txt").write_text("\n".join(LABELS))
    with chat_server(always) as at:
        outcome = select(place, at.url, mig_label_vocabulary=str(place.root / "labels.txt"))
    assert "tags" not in manifest(outcome)["annotation"]
    assert {label for labels in table(outcome)["labels"] for label in labels} <= set(LABELS)


def test_no_key_and_no_address_with_a_password_is_written_down(place, monkeypatch, caplog, capsys):
    monkeypatch.setenv("MIG_ANNOTATOR_API_KEY", "topsecret")
    with chat_server(faulty) as at:
        select(place, at.url, mig_annotator_timeout=0.2)
        for url in ("http://me:topsecret@h/v1", "http://h/v1?k=topsecret", "http://192.168.1.300:8000/v1"):
            with pytest.raises(MigSelectorError, match="mig_annotator_url: expected http") as error:
                select(place, url)
            assert "topsecret" not in str(error.value)
    written = [path for path in place.root.rglob("*") if path.is_file() and b"topsecret" in path.read_bytes()]
    assert not written
    assert "topsecret" not in caplog.text + "".join(capsys.readouterr())


def test_a_dry_run_counts_requests_and_tokens_and_sends_nothing(place):
    with chat_server(always) as at:
        lines = estimate(place.settings(at.url, mig_scorer="llm"), selects=False)
        assert not at.requests
    found = [line for line in lines if "requests" in line]
    assert [line.partition(",")[0] for line in found] == [
        "mig_annotator_model: judge: 60 requests for tags",
        "mig_annotator_model: judge: 60 requests for scores",
    ]
