"""Tags that a language model writes. The model here writes after each word what the test wants it to write."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from support import TAGS, half_the_cores, write_vectors, write_word_encoder

from mig_selector.annotation.generation import read_answers, write_answers
from mig_selector.annotation.instagger import parse_tags
from mig_selector.embedding.encoder import Encoder
from mig_selector.errors import ArgumentError, MigSelectorError, PoolError
from mig_selector.pipeline.annotate_pool import annotate_pool
from mig_selector.pipeline.dry_run import estimate
from mig_selector.pipeline.recipe import run_selection
from mig_selector.ranks import share
from mig_selector.ranks.world import Ranks
from mig_selector.store.matrix import MatrixFile


LIMIT, LONGEST = 4, 40
ANSWERS = {
    "algebra": ['[{"tag":"Algebra","explanation":"x"},', '{"tag":"Maths"}]'],
    "soup": ['{"tag":"cooking","explanation":"y"}'],
    "again": ["wait-1", "wait-2", "wait-3", '[{"tag":"patience"}]'],
    "prose": ["it-is-about-prose"],
    "never": ["on", "and", "on"],
}
"""What the model writes after a question that ends in a word; the last of them never ends."""


def write_tagger(folder):
    """A Llama that looks at the last word only: vectors of words are unit vectors, and its layers add nothing."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = [
        "<pad>",
        "</s>",
        "<unk>",
        *ANSWERS,
        *dict.fromkeys(word for answer in ANSWERS.values() for word in answer),
    ]
    number = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(number, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=4,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=LONGEST,
        eos_token_id=1,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        model.model.embed_tokens.weight[:] = torch.eye(len(words), 32)
        model.model.layers[0].self_attn.o_proj.weight[:] = 0
        model.model.layers[0].mlp.down_proj.weight[:] = 0
        model.lm_head.weight[:] = 0
        for word, answer in ANSWERS.items():
            for before, after in zip([word, *answer], [*answer, "</s>"], strict=True):
                model.lm_head.weight[number[after], number[before]] = 1
        model.lm_head.weight[number["</s>"], number["on"]] = 0  # it goes round in a circle
    model.generation_config.do_sample, model.generation_config.temperature = True, 0.7  # the tagger is greedy
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tagger(tmp_path_factory):
    return write_tagger(tmp_path_factory.mktemp("tagger"))


def conversation(*questions):
    said = [
        {"role": role, "content": text} for asked in questions for role, text in (("user", asked), ("assistant", "a"))
    ]
    return {"dialogs": said}


ROWS = [
    *[conversation(f"tell me {number} of algebra") for number in range(6)],
    *[conversation(f"some {number} of soup") for number in range(6)],
    conversation("algebra", "soup", "more algebra"),
    conversation("more of it again"),
    conversation("what is prose"),
    conversation("algebra", "it is never"),
    conversation("word " * LONGEST + "algebra"),
]
EXPECTED = [*[["algebra", "maths"]] * 6, *[["cooking"]] * 6, ["algebra", "maths", "cooking"], ["patience"]]
REASONS = [
    "mig_tagger_model: an answer has no tags in the expected form",
    "mig_tagger_model: an answer was cut off at 8 tokens, or where the model reads no more",
    "mig_tagger_model: a question is longer than the model reads, with room for the answer",
]


@pytest.fixture
def place(workplace, tagger):
    workplace.add("pool", ROWS, formatting="sharegpt", columns={"messages": "dialogs"}, tags=TAGS)
    write_vectors(workplace.vectors, ["algebra", "maths", "cooking", "patience"])

    def settings(**more):
        own = {"mig_tagger": "instagger", "mig_tagger_model": str(tagger), "mig_instagger_template": "Tag {query}"}
        own["mig_tag_normalization"] = "none"
        own |= {"mig_instagger_max_new_tokens": LIMIT, "mig_max_failed": 0.3, "mig_min_label_count": 1}
        return {**workplace.settings(), "mig_embedding_dtype": "float32", **own, **more}

    workplace.tagged = settings
    return workplace


def annotations(sidecar):
    return sorted((row["labels"] or [], row["status"]) for row in pq.read_table(sidecar).to_pylist())


EXPECTED_ANNOTATIONS = sorted([*((labels, "ok") for labels in EXPECTED), *(([], reason) for reason in REASONS)])


def test_a_row_has_the_tags_of_its_turns_or_a_reason(place):
    [outcome] = run_selection(place.tagged())
    table = pq.read_table(Path(outcome.folder) / "selection.parquet").to_pydict()
    assert table["labels"] == [sorted(EXPECTED[row]) for row in table["row_index"]]
    manifest = json.loads((Path(outcome.folder) / "manifest.json").read_text())
    assert manifest["rows"]["dropped"] == {f"not annotated: {reason}": 1 for reason in REASONS}
    assert manifest["annotation"]["failed"] == dict.fromkeys(REASONS, 1)
    assert manifest["settings"]["mig_tagger_model"] == place.tagged()["mig_tagger_model"]
    assert annotations(annotate_pool(place.tagged())) == EXPECTED_ANNOTATIONS


def test_tags_are_made_once_and_a_run_that_is_cut_off_goes_on_where_it_was(place, monkeypatch, tmp_path):
    undisturbed = annotate_pool(place.tagged(mig_cache_dir=str(tmp_path / "elsewhere")))
    append, chunks = MatrixFile.append, []

    def die_after_two(matrix, rows):
        if len(chunks) == 2:
            raise MigSelectorError("killed")
        chunks.append(len(rows))
        append(matrix, rows)

    monkeypatch.setattr(share, "CHUNK_ITEMS", 6)
    monkeypatch.setattr(MatrixFile, "append", die_after_two)
    with pytest.raises(MigSelectorError, match="killed"):
        annotate_pool(place.tagged())
    monkeypatch.setattr(MatrixFile, "append", append)
    sidecar = annotate_pool(place.tagged())
    assert sidecar.read_bytes() == undisturbed.read_bytes()
    written = sidecar.stat().st_mtime_ns
    monkeypatch.setattr(MatrixFile, "append", None)
    assert annotate_pool(place.tagged()).stat().st_mtime_ns == written


def test_a_model_that_does_not_answer_as_expected_is_tried_on_few_rows(place, monkeypatch):
    questions = [*["what is prose"] * 11, *["of algebra"] * 9, *["of soup"] * 10]
    rows = [conversation(f"{number} {question}") for number, question in enumerate(questions)]
    place.add("pool", rows, formatting="sharegpt", columns={"messages": "dialogs"}, tags=TAGS)
    with pytest.raises(PoolError) as caught:
        run_selection(place.tagged())
    assert str(caught.value).startswith(
        f"mig_tagger: 11 of the first 20 rows got no labels ({REASONS[0]}: 11). A model answers in the expected form"
    )
    assert "set mig_instagger_template" in str(caught.value)


def test_a_model_that_answered_before_is_not_tried_again_on_new_rows(place):
    layout = {"formatting": "sharegpt", "columns": {"messages": "dialogs"}, "tags": TAGS}
    rows = [conversation(f"{number} of algebra") for number in range(20)]
    place.add("pool", rows, **layout)
    annotate_pool(place.tagged())
    place.add("pool", [*rows, conversation("what is prose")], **layout)
    assert annotations(annotate_pool(place.tagged())).count(([], REASONS[0])) == 1


@pytest.mark.slow
def test_its_tags_of_a_sample_are_learnt(place, tagger, tmp_path):
    questions = [f"{word} {number} of {word}" for number in range(130) for word in ("algebra", "soup")]
    rows = [conversation(question) for question in questions]
    place.add("pool", rows, formatting="sharegpt", columns={"messages": "dialogs"}, tags=TAGS)
    write_word_encoder(tmp_path / "words", ["algebra", "soup", "of"])
    learnt = place.tagged(
        mig_tagger="distilled",
        mig_tagger_model=str(tmp_path / "words"),
        mig_distill_teacher="instagger",
        mig_distill_model=str(tagger),
        mig_distill_rows=200,
    )
    [outcome] = run_selection(learnt)
    manifest = json.loads((Path(outcome.folder) / "manifest.json").read_text())
    figures = manifest["annotation"]["distilled"]
    assert (figures["rows"], figures["failed"], figures["labels"], figures["micro_f1"]) == (200, 0, 3, 1.0)
    table = pq.read_table(Path(outcome.folder) / "selection.parquet").to_pydict()
    tags = {"algebra": {"algebra", "maths"}, "soup": {"cooking"}}
    for row, labels in zip(table["row_index"], table["labels"], strict=True):
        assert set(labels) == tags[questions[row].rpartition(" ")[2]]
    lines = estimate(learnt, selects=False)
    assert f"mig_distill_model: {tagger} reads 200 rows: about " in lines[-2]
    assert "mig_tagger_model: " in lines[-1]
    assert " reads 260 rows: about " in lines[-1]
    place.add("pool", ROWS[-3:], formatting="sharegpt", columns={"messages": "dialogs"}, tags=TAGS)
    with pytest.raises(PoolError, match=r"mig_distill_model: .*set mig_instagger_template .*, or mig_distill_model"):
        run_selection({**learnt, "mig_num_samples": 1})


@pytest.mark.parametrize(
    ("answer", "tags"),
    [
        ('[{"tag": "a", "explanation": "x"}, {"tag": " B  "}, {"tag": "b"}]', ["a", "b"]),
        ('{"tag": "Only", "explanation": "one"}', ["only"]),
        ('[{"tag": "a" "explanation": "no comma"}, {"tag" : "b"', ["a", "b"]),
        ('Here: {"tag": "a"} and {"tag": ""}', ["a"]),
        ('[{"tag": 3}, "a", {"tags": "b"}]', []),
        ('[{"tag": "a \\ud83d"}, {"tag": "\\ude00"}]', ["a"]),
        ('"tag"', []),
        ("[]", []),
        ("", []),
    ],
)
def test_tags_are_read_from_json_and_from_what_is_nearly_json(answer, tags):
    assert parse_tags(answer) == tags


@pytest.mark.parametrize("template", ["Tag this", "{query} {query}"])
def test_a_template_has_one_place_for_the_question(place, template):
    with pytest.raises(ArgumentError, match=r"mig_instagger_template: .* expected text with \{query\} in it, once"):
        run_selection(place.tagged(mig_instagger_template=template))


def test_a_dry_run_tries_the_tagger(place):
    lines = estimate(place.tagged(), selects=False)
    assert lines[-1].startswith(f"mig_tagger_model: {place.tagged()['mig_tagger_model']} reads 17 rows: about ")


RANK_PROGRAM = """
import sys
from pathlib import Path
sys.path += sys.argv[1:2]
from test_instagger import ROWS, Encoder, share, write_answers
from mig_selector.ranks.world import connect
share.CHUNK_ITEMS = 6
prompts = [row["dialogs"][0]["content"] for row in ROWS]
with connect() as ranks:
    encoder, path = Encoder(sys.argv[2], None, "float32", ""), Path(sys.argv[3]) / "answers.npy"
    write_answers(lambda: iter(prompts), len(prompts), encoder, path, ranks, print, key="key", max_new_tokens=4)
"""


@pytest.mark.distributed
def test_two_ranks_write_the_same_bytes_as_one(tagger, tmp_path, monkeypatch):
    program = tmp_path / "rank.py"
    program.write_text(RANK_PROGRAM)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    subprocess.run(
        [sys.executable, *torchrun, program, Path(__file__).parent, tagger, tmp_path], check=True, timeout=120
    )
    monkeypatch.setattr(share, "CHUNK_ITEMS", 6)
    prompts, encoder = [row["dialogs"][0]["content"] for row in ROWS], Encoder(str(tagger), None, "float32", "")
    path = tmp_path / "one" / "answers.npy"
    with half_the_cores():
        write_answers(
            lambda: iter(prompts), len(prompts), encoder, path, Ranks(), lambda _: None, key="key", max_new_tokens=4
        )
    assert path.read_bytes() == (tmp_path / "answers.npy").read_bytes()
    assert np.load(path).shape == (17, 5)
    answers = list(read_answers(path, encoder, "key"))
    assert answers[0] == ("finished", '[{"tag":"Algebra","explanation":"x"}, {"tag":"Maths"}]')
    assert answers[13] == ("cut off", 'wait-1 wait-2 wait-3 [{"tag":"patience"}]')
    assert answers[16].status == "too long"
