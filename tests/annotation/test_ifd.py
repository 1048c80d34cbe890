import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
from support import half_the_cores

from mig_selector.annotation import ifd
from mig_selector.annotation.ifd import CausalModel, measure_losses, read_ifd
from mig_selector.errors import ArgumentError
from mig_selector.ranks import share
from mig_selector.ranks.world import Ranks


LONGEST = 40
LONG = "sum add the of numbers two three answer is write poem about sea 1 2 3 + = ; : blue"
WORDS = LONG.split()


def some_words(generator, most):
    return " ".join(generator.choice(WORDS, generator.integers(1, most)))


def make_rows():
    """Rows of every kind; behind the hand-made ones, rows drawn at random, short ones and some that are cut off."""
    rows = [
        ("add two", "", "three"),
        ("add two", "1 2", "1 + 2 = 3"),
        ("say nothing", "", ""),
        ("say the sea", "", "sea"),
        ("blue is blue", "blue", "blue"),
        ("write", "", "sea sea sea"),
        ("", "", "sea is blue"),
        ("write", "", "\nsea"),
        ("write ", "\n", " sea"),
        ("write", "", "é 答え"),
        ("write", "", "1"),
        (LONG, LONG, "too late"),
        (LONG, "", LONG),
        ("", "", LONG * 3),
    ]
    generator = np.random.default_rng(0)
    for _ in range(30):
        context = some_words(generator, 5) if generator.random() < 0.3 else ""
        rows.append((some_words(generator, 20), context, some_words(generator, 20)))
    return rows


ROWS = make_rows()
UNSCORED = {2, 11}
"""No answer; no room for one."""


def make_tokenizer(begin):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=["<s>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([LONG, f"{LONG}\n\n"] * 3, trainer)
    if begin:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="<s>")


@pytest.fixture(params=["llama", "gpt2"])
def folder(request, tmp_path):
    """A random Llama that begins each text with a token of its own, and a random GPT-2 that does not."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    folder = tmp_path / request.param
    tokenizer = make_tokenizer(begin=request.param == "llama")
    if request.param == "llama":
        sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
        config = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=64, initializer_range=0.3, **sizes)
        model = LlamaForCausalLM(config)
    else:
        config = GPT2Config(
            vocab_size=len(tokenizer), n_positions=64, n_embd=32, n_layer=2, n_head=4, initializer_range=0.3
        )
        model = GPT2LMHeadModel(config)
    for part in (model, tokenizer):
        part.save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch):
    monkeypatch.setattr(share, "CHUNK_ITEMS", 20)
    monkeypatch.setattr(share, "CPU_TOKENS", 150)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cache" / "losses.npy"


def model_of(folder, **more):
    return CausalModel("mig_ifd_model", str(folder), dtype="float32", max_tokens=LONGEST, **more)


def score(folder, path, rows=ROWS, on_texts=lambda _: None):
    return read_ifd(measure_losses(lambda: iter(rows), len(rows), model_of(folder), path, Ranks(), on_texts))


def naive_ifd(model, tokenizer, instruction, context, answer, max_length=LONGEST):
    """Superfiltering's difficulty of one row, as its page says it, in float64."""
    import torch

    def encode(text, limit=None):
        options = {"truncation": True, "max_length": limit} if limit else {}
        return tokenizer(text, **options)["input_ids"]

    def mean_loss(ids, start):
        if len(ids) < 2:
            return math.nan
        with torch.inference_mode():
            chances = model(torch.tensor([ids])).logits[0].double().log_softmax(dim=-1)
        losses = [-chances[place - 1, ids[place]].item() for place in range(max(start, 1), len(ids))]
        return sum(losses) / len(losses) if losses else math.nan

    if answer == "":
        return math.nan
    prompt = instruction + "\n" if context == "" else instruction + "\n" + context + "\n"
    whole = prompt + answer
    prompt_length = len(encode(prompt, max_length))
    alone = mean_loss(encode(answer, max_length - prompt_length + 1), 0)
    start = len(encode(whole[: whole.rfind(answer)]))
    return math.exp(mean_loss(encode(whole, max_length), start) - alone)


def test_difficulty_is_that_of_one_row_at_a_time(folder, path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    assert (tokenizer("")["input_ids"] == []) == (folder.name == "gpt2")
    expected, told = np.array([naive_ifd(model, tokenizer, *row) for row in ROWS]), []
    found = score(folder, path, on_texts=told.append)
    assert found.dtype == np.float64
    assert found == pytest.approx(expected, rel=1e-5, nan_ok=True)
    one_token = {place for place, row in enumerate(ROWS) if len(tokenizer(row[2])["input_ids"]) == 1}
    assert 10 in one_token or folder.name == "llama", "a GPT-2 begins a text with nothing"
    assert set(np.flatnonzero(np.isnan(found))) == UNSCORED | one_token
    assert np.ptp(np.log(found[np.isfinite(found)])) > 0.5, "the rows must differ for this test to say anything"
    cut_off = [len(tokenizer("\n".join(row))["input_ids"]) > LONGEST for row in ROWS]
    assert sum(cut_off) > 3
    assert sum(told) == 2 * len(ROWS)


def test_a_difficulty_does_not_depend_on_where_a_run_was_ended(folder, path):
    whole = score(folder, path.with_name("whole.npy"))

    def some_rows():
        yield from ROWS[:25]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_losses(some_rows, len(ROWS), model_of(folder), path, Ranks(), lambda _: None)
    told = []
    assert score(folder, path, on_texts=told.append).tobytes() == whole.tobytes()
    assert told[0] == 40


def test_rows_without_any_score_need_no_model(folder, path):
    assert np.isnan(score(folder, path, [("a", "", ""), ("b", "c", "")])).all()


def test_losses_that_are_no_numbers_are_no_scores(path):
    path.parent.mkdir()
    losses = [[1, 2], [np.inf, np.inf], [0, np.inf], [np.inf, 0], [1, np.nan], [np.nan, 1]]
    np.save(path, np.array(losses, np.float32).reshape(-1, 1))
    assert read_ifd(path) == pytest.approx([math.e, math.nan, math.nan, 0, math.nan, math.nan], nan_ok=True)


@pytest.mark.parametrize(("dtype", "bytes_per_number"), [("float32", 4), ("bfloat16", 2)])
def test_a_batch_is_small_where_the_vocabulary_is_large(folder, monkeypatch, dtype, bytes_per_number):
    monkeypatch.setattr(ifd, "_LOGIT_BYTES", 33_000)
    vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
    model = ifd._load(CausalModel("mig_ifd_model", str(folder), dtype=dtype, max_tokens=LONGEST), "cpu")
    assert 33_000 / (vocabulary * bytes_per_number) - 1 < model.batch_tokens < 33_000 / (vocabulary * bytes_per_number)


@pytest.mark.parametrize("folder", ["gpt2"], indirect=True)
def test_rows_are_cut_off_at_their_end_whatever_the_tokenizer_says(folder, path):
    expected = score(folder, path.with_name("right.npy"))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "truncation_side": "left"}))
    assert np.array_equal(score(folder, path), expected, equal_nan=True)


RANK_PROGRAM = """
import json, sys
from pathlib import Path
from mig_selector.annotation import ifd
from mig_selector.ranks import share
from mig_selector.ranks.world import connect
folder, out, rows = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
share.CHUNK_ITEMS, share.CPU_TOKENS = 20, 150
model = ifd.CausalModel("mig_ifd_model", folder, dtype="float32", max_tokens=int(sys.argv[4]))
with connect() as ranks:
    read = (lambda: iter(rows)) if ranks.is_main else None
    ifd.measure_losses(read, len(rows), model, out / "losses.npy", ranks, lambda _: None)
"""


@pytest.mark.distributed
@pytest.mark.parametrize("folder", ["gpt2"], indirect=True)
def test_two_ranks_measure_the_same_bytes_as_one(folder, path, tmp_path):
    program = tmp_path / "rank.py"
    program.write_text(RANK_PROGRAM)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    words = [program, folder, tmp_path, json.dumps(ROWS), str(LONGEST)]
    # As `accelerate launch` sets them for training with FSDP: transformers would load weights of zero on rank 1.
    fsdp = {"ACCELERATE_USE_FSDP": "true", "FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}
    subprocess.run([sys.executable, *torchrun, *words], check=True, timeout=120, env={**os.environ, **fsdp})
    with half_the_cores():
        score(folder, path)
    assert (tmp_path / "losses.npy").read_bytes() == path.read_bytes()


# Models that cannot be used


def test_a_folder_that_holds_no_model_is_named(tmp_path, path):
    with pytest.raises(ArgumentError, match=r"mig_ifd_model: '/.*' cannot be loaded \("):
        score(tmp_path, path)


@pytest.mark.parametrize("folder", ["llama"], indirect=True)
def test_a_model_without_a_head_is_refused(folder, path):
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(folder).model.save_pretrained(folder)
    with pytest.raises(ArgumentError, match=r"mig_ifd_model: '/.*' lacks the weights lm_head.weight, so it was not"):
        score(folder, path)


def test_a_model_that_reads_less_than_rows_are_long_is_refused(folder, path):
    model = CausalModel("mig_ifd_model", str(folder), dtype="float32")
    words = r"mig_ifd_model: '/.*' reads 64 tokens at most, fewer than the 1024 .*; set mig_ifd_max_tokens: 64\."
    with pytest.raises(ArgumentError, match=words):
        measure_losses(lambda: iter(ROWS), len(ROWS), model, path, Ranks(), lambda _: None)
