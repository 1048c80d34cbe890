"""Scores of DEITA's models and of reward models, against a pass over one text at a time."""

import subprocess
import sys

import numpy as np
import pytest
from support import half_the_cores

from mig_selector.annotation import text_scores
from mig_selector.annotation.deita import PROMPTS, DeitaModel
from mig_selector.annotation.reward import RewardModel
from mig_selector.annotation.text_scores import REASONS, read_scores, score_texts
from mig_selector.embedding.encoder import Encoder
from mig_selector.errors import ArgumentError
from mig_selector.ranks import share
from mig_selector.ranks.world import Ranks


DIGITS = {"0": 29900, "1": 29896, "2": 29906, "3": 29941, "4": 29946, "5": 29945, "6": 29953}
"""Where the tokenizer of LLaMA has them."""
BLANK = "▁"
LONGEST = 260
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['content'] == 'refuse me' %}{{ raise_exception('no such message') }}{% endif %}"
    "[{{ message['role'] }}] {{ message['content'] }}{% endfor %}"
)


def make_llama_tokenizer(*, with_pairs=False):
    """A tokenizer with LLaMA's layout: blanks are letters, digits are single, unknown letters are bytes."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors
    from transformers import PreTrainedTokenizerFast

    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += [f"filler {number}" for number in range(len(pieces), 32000)]
    pieces[29871] = BLANK
    for digit, number in DIGITS.items():
        pieces[number] = digit
    merges = []
    if with_pairs:
        pieces[30000], merges = f"{BLANK}3", [(BLANK, "3")]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(BLANK), normalizers.Replace(" ", BLANK)])
    tokenizer.decoder = decoders.Sequence([decoders.Replace(BLANK, " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.add_special_tokens([AddedToken(piece, special=True) for piece in pieces[:3]])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def write_llama(folder, tokenizer, *, kind="LlamaForCausalLM", seed=0, **more):
    import torch
    import transformers

    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=32000,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=LONGEST,
        initializer_range=0.7,
        **more,
    )
    for part in (getattr(transformers, kind)(config), tokenizer):
        part.save_pretrained(folder)
    return folder


def encoder_of(folder):
    return Encoder(str(folder), None, "float32", "")


@pytest.fixture(scope="module")
def deita(tmp_path_factory):
    return write_llama(tmp_path_factory.mktemp("deita"), make_llama_tokenizer())


@pytest.fixture(scope="module")
def reward(tmp_path_factory):
    tokenizer = make_llama_tokenizer()
    tokenizer.chat_template = TEMPLATE
    folder = tmp_path_factory.mktemp("reward")
    return write_llama(folder, tokenizer, kind="LlamaForSequenceClassification", num_labels=1)


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch):
    monkeypatch.setattr(share, "CHUNK_ITEMS", 7)
    monkeypatch.setattr(text_scores, "tokens_per_batch", lambda device: 600)


def some_prompts():
    questions = ["add 1 and 2", "", "why?  ", "é 答え", "x" * 300, *(f"question {n} " * (n % 4) for n in range(9))]
    return [PROMPTS["complexity"].format(question=question) for question in questions]


def score(load, texts, path):
    score_texts(lambda: iter(texts), len(texts), load, path, Ranks(), lambda _: None)
    return read_scores(path)


def test_a_score_of_deita_is_the_mean_by_the_probabilities_of_six_tokens(deita, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    texts = some_prompts()
    found = score(lambda device: DeitaModel(encoder_of(deita), "key", "complexity", device), texts, tmp_path / "s.npy")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(deita).eval(), AutoTokenizer.from_pretrained(deita)
    ids = [DIGITS[str(value)] for value in range(1, 7)]
    assert [tokenizer.decode(each) for each in ids] == list("123456")
    for text, value, code, certainty in zip(texts, found.values, found.codes, found.certainties, strict=True):
        tokens = tokenizer(text, return_tensors="pt")["input_ids"]
        assert tokens[0, 0] == 1
        assert tokens[0, -1] == 29871  # the blank that ends the prompt is a token
        if tokens.shape[1] > LONGEST:
            assert np.isnan(value)
            assert REASONS[code] == "a text is longer than the model reads"
            continue
        with torch.inference_mode():
            everything = model(tokens).logits[0, -1].double().numpy()
        chances = np.exp(everything[ids] - everything.max())
        assert certainty == pytest.approx(chances.sum() / np.exp(everything - everything.max()).sum(), rel=1e-4)
        assert value == pytest.approx(chances @ np.arange(1, 7) / chances.sum(), rel=1e-5)
        assert code == 0
    assert np.isnan(found.values).sum() == 1
    assert np.nanmax(found.values) - np.nanmin(found.values) > 0.1


def compute_and_count(model, texts):
    """Scores of texts in one batch, and how many tokens the model read of each."""
    read = []
    hook = model._network.get_input_embeddings().register_forward_pre_hook(lambda _, ids: read.append(ids[0].shape[1]))
    scores = model.compute(model.encode(texts))[:, 0].tolist()
    hook.remove()
    return scores, read


def test_the_common_beginning_of_prompts_is_read_once(deita):
    model = DeitaModel(encoder_of(deita), "key", "complexity", "cpu")
    begin = PROMPTS["complexity"].partition("{")[0]
    short = [text for text in some_prompts() if len(text) < LONGEST - 2]
    longest = max(map(len, model.encode(short))) - 1
    scores, [behind] = compute_and_count(model, short)
    assert behind == longest - len(f"<{BLANK}{begin}")  # a text begins with a token and a blank; each letter is one
    one_by_one = [compute_and_count(model, [text])[0][0] for text in short]
    model._past = None
    whole, [everything] = compute_and_count(model, short)
    assert everything == longest
    assert scores == pytest.approx(whole, rel=1e-5)
    assert one_by_one == pytest.approx(whole, rel=1e-5)
    assert np.ptp(whole) > 0.1


def test_prompts_that_begin_otherwise_are_read_whole(deita):
    model = DeitaModel(encoder_of(deita), "key", "complexity", "cpu")
    text, other = some_prompts()[0], "You are"
    together, [length] = compute_and_count(model, [text, other])
    assert length == len(model.encode([text])[0]) - 1
    assert together == pytest.approx([compute_and_count(model, [each])[0][0] for each in (text, other)], rel=1e-5)


@pytest.mark.parametrize("kind", ["sliding window", "recurrent"])
def test_a_model_that_does_not_keep_all_tokens_reads_prompts_whole(tmp_path, kind):
    import torch
    from transformers import MambaConfig, MambaForCausalLM, MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    sizes = {"vocab_size": 32000, "hidden_size": 16, "num_hidden_layers": 2, "initializer_range": 0.7}
    if kind == "recurrent":
        model = MambaForCausalLM(MambaConfig(state_size=4, **sizes))
    else:
        heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 32}
        model = MistralForCausalLM(MistralConfig(sliding_window=8, **heads, **sizes))
    for part in (model, make_llama_tokenizer()):
        part.save_pretrained(tmp_path)
    scorer, texts = DeitaModel(encoder_of(tmp_path), "key", "complexity", "cpu"), some_prompts()[:2]
    scores, [read] = compute_and_count(scorer, texts)
    tokens = [torch.tensor([text[1:].tolist()]) for text in scorer.encode(texts)]
    assert read == max(each.shape[1] for each in tokens)
    for each, value in zip(tokens, scores, strict=True):
        with torch.inference_mode():
            chances = model.eval()(each).logits[0, -1, scorer._digits].softmax(dim=0)
        assert value == pytest.approx(float(chances @ torch.arange(1.0, 7)), rel=1e-4)


def test_a_tokenizer_that_does_not_write_scores_as_tokens_of_their_own_is_refused(tmp_path):
    folder = write_llama(tmp_path, make_llama_tokenizer(with_pairs=True))
    with pytest.raises(ArgumentError, match=r"^mig_x: the tokenizer of '/.*' does not write 3 after DEITA's prompt"):
        DeitaModel(encoder_of(folder), "mig_x", "quality", "cpu")


def conversations():
    texts = ["hello", "", "sum 1 2 3", "x" * 300, "refuse me", "answer </s>"]
    return [[("user", text), ("assistant", f"reply {n}")][: 1 + n % 2] for n, text in enumerate(texts * 3)]


def test_a_reward_is_the_output_for_the_conversation_in_the_chat_template(reward, tmp_path):
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    texts = conversations()
    found = score(lambda device: RewardModel(encoder_of(reward), "key", device), texts, tmp_path / "s.npy")
    model = AutoModelForSequenceClassification.from_pretrained(reward).eval()
    tokenizer = AutoTokenizer.from_pretrained(reward)
    for turns, value, code in zip(texts, found.values, found.codes, strict=True):
        if turns[0][1] == "refuse me":
            assert REASONS[code] == "the chat template of the model does not take the conversation"
            continue
        text = "<s>" + "".join(f"[{role}] {content}" for role, content in turns)
        tokens = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        assert (tokens[0] == 1).sum() == 1
        if len(turns[0][1]) == 300:
            assert REASONS[code] == "a text is longer than the model reads"
            continue
        with torch.inference_mode():
            assert value == pytest.approx(model(tokens).logits.item(), rel=1e-4)
        assert code == 0
    assert np.nanmin(found.values) < 0 < np.nanmax(found.values)


def test_a_batch_of_conversations_that_the_template_refuses_has_no_scores(reward):
    model = RewardModel(encoder_of(reward), "key", "cpu")
    [[value, code, _]] = model.compute(model.encode([[("user", "refuse me")]])).tolist()
    assert np.isnan(value)
    assert REASONS[int(code)] == "the chat template of the model does not take the conversation"


def test_a_score_that_is_not_finite_is_none(reward, tmp_path, monkeypatch):
    def load(device):
        model = RewardModel(encoder_of(reward), "key", device)
        model._network.score.weight.data[:] = float("inf")
        return model

    found = score(load, [[("user", "hello")]], tmp_path / "s.npy")
    assert np.isnan(found.values[0])
    assert REASONS[found.codes[0]] == "the model computes a score that is not finite"


@pytest.mark.parametrize(
    ("kind", "labels", "template", "message"),
    [
        ("LlamaForSequenceClassification", 3, TEMPLATE, r"^mig_x: '/.*' has 3 outputs, but a reward model has one"),
        ("LlamaForSequenceClassification", 1, None, r"^mig_x: the tokenizer of '/.*' has no chat template"),
        ("LlamaForCausalLM", 1, TEMPLATE, r"^mig_x: '/.*' lacks the weights score.weight, so it was not trained"),
    ],
)
def test_what_is_not_a_reward_model_is_refused(tmp_path, kind, labels, template, message):
    tokenizer = make_llama_tokenizer()
    tokenizer.chat_template = template
    folder = write_llama(tmp_path, tokenizer, kind=kind, num_labels=labels)
    with pytest.raises(ArgumentError, match=message):
        RewardModel(encoder_of(folder), "mig_x", "cpu")


RANK_PROGRAM = """
import json, sys
from pathlib import Path
sys.path += [sys.argv[1], str(Path(sys.argv[1]).parent)]
from test_text_scores import DeitaModel, encoder_of, score_texts, share, some_prompts, text_scores
from mig_selector.ranks.world import connect
share.CHUNK_ITEMS, text_scores.tokens_per_batch = 7, lambda device: 600
texts = some_prompts()
with connect() as ranks:
    load = lambda device: DeitaModel(encoder_of(sys.argv[2]), "key", "complexity", device)
    score_texts(lambda: iter(texts), len(texts), load, Path(sys.argv[3]) / "two.npy", ranks, lambda _: None)
"""


@pytest.mark.distributed
def test_two_ranks_give_the_same_bytes_as_one(deita, tmp_path):
    program = tmp_path / "rank.py"
    program.write_text(RANK_PROGRAM)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    here = __file__.rpartition("/")[0]
    subprocess.run([sys.executable, *torchrun, program, here, deita, tmp_path], check=True, timeout=120)
    path = tmp_path / "one" / "two.npy"
    with half_the_cores():
        score(lambda device: DeitaModel(encoder_of(deita), "key", "complexity", device), some_prompts(), path)
    assert path.read_bytes() == (tmp_path / "two.npy").read_bytes()
