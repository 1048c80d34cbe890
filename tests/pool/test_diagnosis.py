"""Where the host would train on no row of an entry: one message, with the setting that may be right."""

import json
from pathlib import Path

import pytest
from support import TAGS, contents_of

from mig_selector.errors import PoolError
from mig_selector.integration.dataset_info import resolve_entry
from mig_selector.pool.formats.files import open_sources
from mig_selector.pool.index.cache import IndexCache
from mig_selector.pool.index.judge import RowJudge
from mig_selector.pool.reading import read_pool
from mig_selector.store.hashing import ContentHashes


SHAREGPT = {"formatting": "sharegpt", "columns": {"messages": "messages"}, "tags": TAGS}
TALK = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
FROM = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
KTO = {"columns": {"prompt": "instruction", "response": "output", "kto_tag": "label"}}


def read(folder, raw, rows, stage="sft", on_bad_row="error", name="pool.jsonl"):
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows) if isinstance(rows, list) else rows)
    entry = resolve_entry("pool", {"file_name": name, **raw}, folder)
    hashes, sources = ContentHashes(folder / "cache"), [open_sources(entry)]
    judge = RowJudge(None, layout=entry.layout, stage=stage)
    cache, contents = IndexCache(folder / "cache", hashes), contents_of(sources, hashes)
    return read_pool([entry], sources, contents, [judge], on_bad_row, lambda count: None, cache)


MISTAKES = {
    "messages elsewhere": (
        SHAREGPT,
        {"dialogs": TALK, "source": ["a"]},
        "columns.messages of the entry is 'messages', but the rows have lists of messages in 'dialogs'; "
        "set it to that",
    ),
    "no column of messages": (
        {**SHAREGPT, "columns": {"system": "s"}},
        {"dialogs": TALK},
        "columns.messages of the entry is not set, but the rows have lists of messages in 'dialogs'",
    ),
    "messages as text": (
        SHAREGPT,
        {"messages": json.dumps(TALK)},
        "'messages' holds messages as JSON in a string; write them as a list of objects",
    ),
    "alpaca rows": (
        SHAREGPT,
        {"instruction": "a", "output": "b"},
        "The rows have 'instruction', 'output', like alpaca rows; set formatting: alpaca",
    ),
    "other keys": (
        SHAREGPT,
        {"messages": FROM},
        "tags.role_tag is 'role' and tags.content_tag is 'content', but the messages have the keys 'from', 'value'; "
        "set tags.role_tag: from and tags.content_tag: value",
    ),
    "the host's own tags": (
        {"formatting": "sharegpt", "columns": {"messages": "messages"}},
        {"messages": TALK},
        "tags.role_tag is 'from' and tags.content_tag is 'value', but the messages have the keys 'role', 'content'; "
        "set tags.role_tag: role and tags.content_tag: content",
    ),
    "other roles": (
        SHAREGPT,
        {"messages": [{"role": "User", "content": "a"}, {"role": "Assistant", "content": "b"}]},
        "tags.user_tag is 'user' and tags.assistant_tag is 'assistant', but the roles in the messages are 'User', "
        "'Assistant'; set tags.user_tag: User and tags.assistant_tag: Assistant",
    ),
    "one other role": (
        SHAREGPT,
        {"messages": [{"role": "user", "content": "a"}, {"role": "model", "content": "b"}]},
        "tags.assistant_tag is 'assistant', but the roles in the messages are 'user', 'model'; "
        "set tags.assistant_tag: model",
    ),
    "tags without roles": (
        {**SHAREGPT, "tags": {"role_tag": "role", "content_tag": "content"}},
        {"messages": TALK},
        "tags.user_tag is not set and tags.assistant_tag is not set, but the roles in the messages are 'user', "
        "'assistant'; set tags.user_tag: user and tags.assistant_tag: assistant",
    ),
    "an unknown layout": (
        {"formatting": "poem"},
        {"a": 1},
        "Set formatting of the entry to alpaca, sharegpt or openai",
    ),
    "messages in an alpaca entry": (
        {},
        {"dialogs": TALK},
        "The rows have lists of messages in 'dialogs', but formatting of the entry is alpaca; "
        "set formatting: sharegpt, columns.messages: dialogs, and the tags",
    ),
    "the reply elsewhere": (
        {},
        {"question": "a", "answer": "b"},
        "columns.response of the entry is 'output', but the rows have strings in 'question', 'answer'; "
        "set it to 'answer'",
    ),
    "no reply": (
        {"columns": {"prompt": "text"}},
        {"text": "a"},
        "columns.response of the entry is not set. Set it, or stage: pt to train on texts without replies",
    ),
    "a KTO pool": (
        KTO,
        {"instruction": "a", "output": "b", "label": True},
        "Set stage: kto, or leave columns.kto_tag out of the entry to train on all replies",
    ),
    "turns out of order": (
        SHAREGPT,
        {"messages": TALK[:1], "score": 1},
        "Check the entry in dataset_info.json; the rows have the columns 'messages', 'score'",
    ),
}


@pytest.mark.parametrize("on_bad_row", ["error", "skip"])
@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_every_row_has_wrong_is_one_message(tmp_path, mistake, on_bad_row):
    raw, row, words = MISTAKES[mistake]
    with pytest.raises(PoolError) as error:
        read(tmp_path, raw, [row, row, row], on_bad_row=on_bad_row)
    message = str(error.value)
    assert (
        "dataset 'pool': LLaMA-Factory would train on none of the first 3 rows of pool.jsonl in stage sft" in message
    )
    assert words in message.replace(". The first row:", ".")


@pytest.mark.parametrize(
    ("raw", "row", "stage", "words"),
    [
        (
            {"ranking": True, "columns": {"prompt": "instruction", "chosen": "chosen", "rejected": "bad"}},
            {"instruction": "a", "chosen": "b", "rejected": "c"},
            "rm",
            "columns.rejected of the entry is 'bad', but the rows have strings in 'instruction', 'chosen', "
            "'rejected'; set it to 'rejected'",
        ),
        (KTO, {"instruction": "a", "output": "b", "kto": True}, "kto", "the rows have true and false in 'kto'"),
        (
            KTO,
            {"instruction": "a", "output": "b", "label": "True"},
            "kto",
            "neither true nor false in label (kto_tag)",
        ),
        ({}, {"instruction": "a", "output": "b"}, "kto", "no KTO label, because columns.kto_tag of the"),
        (SHAREGPT, {"messages": TALK[:1]}, "pt", "has an odd number of turns, so that the user speaks last, at which"),
    ],
)
def test_other_stages_have_mistakes_of_their_own(tmp_path, raw, row, stage, words):
    with pytest.raises(PoolError) as error:
        read(tmp_path, raw, [row, row], stage)
    assert words in str(error.value)


def test_a_csv_file_is_explained_too(tmp_path):
    with pytest.raises(PoolError, match=r"columns\.response of the entry is 'output', .* in 'question', 'answer'"):
        read(tmp_path, {}, "question,answer\na,b\nc,d\n", name="pool.csv")


@pytest.mark.parametrize("rows", [[{"messages": TALK}, {}], [{}, {"messages": [TALK[0]]}, {}]])
def test_rows_with_faults_of_their_own_are_named_one_by_one(tmp_path, rows):
    with pytest.raises(PoolError, match=r"pool\.jsonl:\d: messages must be a list of messages, got null"):
        read(tmp_path, SHAREGPT, rows)


def test_a_file_without_a_sound_row_beside_one_with_some_is_fine(tmp_path):
    folder = tmp_path / "pool"
    folder.mkdir()
    lines = [json.dumps({"messages": TALK[:count]}) for count in (1, 0)]
    (folder / "a.jsonl").write_text("\n".join(lines))
    (folder / "b.jsonl").write_text(json.dumps({"messages": TALK}) + "\n")
    entry = resolve_entry("pool", {"file_name": "pool", **SHAREGPT}, Path(tmp_path))
    hashes, sources = ContentHashes(tmp_path / "cache"), [open_sources(entry)]
    judge = RowJudge(None, layout=entry.layout)
    cache, contents = IndexCache(tmp_path / "cache", hashes), contents_of(sources, hashes)
    pool = read_pool([entry], sources, contents, [judge], "error", lambda count: None, cache)
    assert (pool.report.read, pool.report.kept) == (3, 1)
