import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support import half_the_cores, write_word_encoder

from mig_selector.embedding.encoder import Encoder
from mig_selector.embedding.rows import check_given_rows, embed_rows, read_given_rows
from mig_selector.errors import EmbeddingError
from mig_selector.ranks import share
from mig_selector.ranks.world import Ranks


TEXTS = [" ".join(f"word{index}"[: 4 + index % 3] for index in range(number % 13 + 1)) for number in range(30)]


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(share, "CHUNK_ITEMS", 8)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cache" / "rows.npy"


def encoder_of(model, dtype="float32"):
    return Encoder(str(model), None, dtype, "content")


def embed(model, path, texts=TEXTS, on_rows=lambda _: None, **how):
    found = embed_rows(lambda: iter(texts), len(texts), encoder_of(model), path, Ranks(), on_rows, **how)
    return np.load(found, mmap_mode="r")


def token_vectors(folder, text, max_tokens=None):
    """Return the last layer's vectors of one text, computed by transformers. Shape (tokens, D)."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    options = {"truncation": True, "max_length": max_tokens} if max_tokens else {}
    with torch.inference_mode():
        model = AutoModel.from_pretrained(folder).eval()
        return model(**tokenizer(text, return_tensors="pt", **options)).last_hidden_state[0].numpy()


@pytest.mark.slow
def test_a_sentence_transformers_model_keeps_its_own_pooling(minilm, path):
    from sentence_transformers import SentenceTransformer

    model, reported = SentenceTransformer(minilm, device="cpu"), []
    expected = np.stack([model.encode(text) for text in TEXTS])
    found = embed(minilm, path, on_rows=reported.append, pooling="lasttoken")
    assert isinstance(found, np.memmap)
    assert (found.dtype, found.shape) == (np.float32, (30, 384))
    assert found == pytest.approx(expected, abs=2e-6)
    assert sum(reported) == 30


def test_a_model_of_word_vectors_embeds_the_text(path, tmp_path):
    from sentence_transformers import SentenceTransformer

    write_word_encoder(tmp_path / "words", {word for text in TEXTS for word in text.split()})
    model, texts = SentenceTransformer(str(tmp_path / "words"), device="cpu"), [*TEXTS, "é 🙂 unknown"]
    assert embed(tmp_path / "words", path, texts) == pytest.approx(model.encode(texts), abs=1e-6)
    with pytest.raises(EmbeddingError, match=r"zero or not finite for row 1 of the kept rows \(0-based\), ' ';"):
        embed(tmp_path / "words", path.with_name("blank.npy"), ["word", " "])


@pytest.mark.parametrize("pooling", ["mean", "lasttoken"])
def test_another_model_embeds_with_the_given_pooling(tiny_llama, path, pooling):
    tokens = [token_vectors(tiny_llama, text) for text in TEXTS[:12]]
    expected = [some.mean(axis=0) if pooling == "mean" else some[-1] for some in tokens]
    assert embed(tiny_llama, path, TEXTS[:12], pooling=pooling) == pytest.approx(np.stack(expected), abs=1e-5)


def test_a_model_with_a_chat_template_embeds_the_plain_text(tiny_llama, path, tmp_path):
    folder = shutil.copytree(tiny_llama, tmp_path / "chat")
    (folder / "chat_template.jinja").write_text("{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}")
    expected = [token_vectors(tiny_llama, text)[-1] for text in TEXTS[:3]]
    assert embed(folder, path, TEXTS[:3], pooling="lasttoken") == pytest.approx(np.stack(expected), abs=1e-5)


def test_longer_texts_are_truncated(tiny_llama, minilm, path):
    expected = [token_vectors(tiny_llama, text, max_tokens=6)[-1] for text in TEXTS[:12]]
    assert any(len(token_vectors(tiny_llama, text)) > 6 for text in TEXTS[:12])
    found = embed(tiny_llama, path, TEXTS[:12], pooling="lasttoken", max_tokens=6)
    assert found == pytest.approx(np.stack(expected), abs=1e-5)
    long = ["word " * 400, "word " * 600]
    vectors = embed(minilm, path.with_name("own.npy"), long, max_tokens=10_000)
    assert vectors[0] == pytest.approx(vectors[1], abs=1e-6), "the model's own limit of 256 tokens holds"


@pytest.mark.slow
def test_an_interrupted_run_resumes_where_it_stopped(minilm, path):
    whole = embed(minilm, path.with_name("whole.npy")).tobytes()

    def some_texts():
        yield from TEXTS[:20]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed_rows(some_texts, 30, encoder_of(minilm), path, Ranks(), lambda _: None)
    reported = []
    assert embed(minilm, path, on_rows=reported.append).tobytes() == whole
    assert reported[0] == 16
    assert sum(reported) == 30
    reported.clear()
    assert embed("no/such-model", path, on_rows=reported.append).tobytes() == whole
    assert reported == []


RANK_PROGRAM = """
import json, sys
from pathlib import Path
from mig_selector.embedding.encoder import Encoder
from mig_selector.embedding.rows import embed_rows
from mig_selector.ranks import share
from mig_selector.ranks.world import connect
model, out, texts = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
share.CHUNK_ITEMS = 8
with connect() as ranks:
    read = (lambda: iter(texts)) if ranks.is_main else None
    embed_rows(read, len(texts), Encoder(model, None, "float32", "content"), out / "rows.npy", ranks, lambda _: None)
"""


@pytest.mark.distributed
def test_two_ranks_embed_to_the_same_bytes_as_one(minilm, path, tmp_path):
    program = tmp_path / "rank.py"
    program.write_text(RANK_PROGRAM)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    subprocess.run([sys.executable, *torchrun, program, minilm, tmp_path, json.dumps(TEXTS)], check=True, timeout=120)
    with half_the_cores():
        alone = Path(embed(minilm, path).filename).read_bytes()
    assert (tmp_path / "rows.npy").read_bytes() == alone


# Models and rows that cannot be used


@pytest.mark.parametrize("config", ["{}", '{"model_type": "llama"}'])
def test_a_folder_without_a_model_is_named(tmp_path, path, config):
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(EmbeddingError, match=r"mig_row_embedding_model: '/.*' cannot be loaded \("):
        embed(tmp_path, path)


def test_a_row_without_a_token_is_named(tiny_llama, path):
    with pytest.raises(EmbeddingError, match=r"mig_row_embedding_model: '/.*' finds no token in row 9 of .*, ''; "):
        embed(tiny_llama, path, [*TEXTS[:9], "", "more"])


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_a_vector_that_is_zero_or_not_finite_is_refused(tiny_llama, path, tmp_path, value):
    import torch
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(tiny_llama), AutoTokenizer.from_pretrained(tiny_llama)
    [bad] = tokenizer("!", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        model.get_input_embeddings().weight[bad] = value
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "broken")
    words = r"computes a vector that is zero or not finite for row 11 of the kept rows \(0-based\), '!'"
    with pytest.raises(EmbeddingError, match=words):
        embed(tmp_path / "broken", path, [*TEXTS[:11], "!", "more"])


# Vectors from a file

GIVEN = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)


def save(path, array):
    path.parent.mkdir(exist_ok=True)
    np.save(path, array)
    return path


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_given_vectors_are_mapped(path, kind):
    found = read_given_rows(save(path, GIVEN.astype(kind)), 6)
    assert isinstance(found, np.memmap)
    assert np.array_equal(found, GIVEN.astype(kind))


@pytest.mark.parametrize(
    ("array", "found"),
    [
        (GIVEN[:5], r"float32 \(5, 4\)"),
        (GIVEN[0], r"float32 \(4,\)"),
        (GIVEN[:, :0], r"float32 \(6, 0\)"),
        (GIVEN[None], r"float32 \(1, 6, 4\)"),
        (GIVEN.astype(int), r"int64 \(6, 4\)"),
        (GIVEN.astype(complex), r"complex128 \(6, 4\)"),
    ],
)
def test_given_vectors_of_another_shape_or_type_are_refused(path, array, found):
    words = rf"mig_row_embeddings: /.*rows.npy must hold floats of shape \(6, D\), .* 6 rows of the pool, got {found}"
    with pytest.raises(EmbeddingError, match=words):
        read_given_rows(save(path, array), 6)


def test_a_file_without_an_array_is_refused(path):
    with pytest.raises(EmbeddingError, match=r"is not a complete .npy file of floats"):
        read_given_rows(path, 6)
    with pytest.raises(EmbeddingError, match=r"is not a complete .npy file of floats"):
        read_given_rows(save(path, np.array([{}], dtype=object)), 6)
    path.write_bytes(b"")
    with pytest.raises(EmbeddingError, match=r"is not a complete .npy file of floats"):
        read_given_rows(path, 6)
    np.savez(path.with_suffix(".npz"), rows=GIVEN)
    with pytest.raises(EmbeddingError, match=r"rows.npz must be an .npy file, not an .npz archive"):
        read_given_rows(path.with_suffix(".npz"), 6)


@pytest.mark.parametrize("value", [np.nan, -np.inf, 0.0])
def test_an_unusable_given_vector_is_named_if_its_row_is_kept(path, monkeypatch, value):
    monkeypatch.setattr("mig_selector.embedding.rows._CHECKED_BYTES", 2 * 4 * 4)
    vectors = GIVEN.copy()
    vectors[3, 0 if np.isnan(value) else slice(None)] = value
    check_given_rows(path, vectors, np.array([0, 1, 2, 4, 5]))
    with pytest.raises(
        EmbeddingError, match=r"rows.npy: the vector of row 3 of the pool \(0-based\) is zero or not finite"
    ):
        check_given_rows(path, vectors, np.array([0, 2, 3, 5]))
