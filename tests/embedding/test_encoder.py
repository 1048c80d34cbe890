import errno
import json
import subprocess
import sys

import numpy as np
import pytest
from support import SHARED_DATA, half_the_cores, write_demo_pool

from mig_selector.embedding.encoder import _batches, describe_plain_model, embed_labels, identify_encoder
from mig_selector.errors import EmbeddingError
from mig_selector.ranks.world import Ranks
from mig_selector.store.hashing import ContentHashes


LABELS = ["python", "algebra", "unit conversion", "a much longer label of several words", "é", "", "python code"]


@pytest.fixture
def hashes(tmp_path):
    return ContentHashes(tmp_path / "cache")


def embed(minilm, hashes, labels, batch_size=4):
    made, known = [], {}

    def keep(some, vectors):
        assert known.keys().isdisjoint(some)  # each label comes once
        known.update(zip(some, vectors, strict=True))

    embed_labels(labels, identify_encoder(minilm, "auto", hashes), batch_size, Ranks(), made.append, keep)
    assert sum(made) == len(labels)
    return np.stack([known[label] for label in labels])


def test_vectors_are_those_of_the_model_for_the_plain_text(minilm, hashes):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(minilm, device="cpu")
    expected = np.stack([model.encode(label) for label in LABELS])
    vectors = embed(minilm, hashes, LABELS)
    assert vectors.shape == (len(LABELS), 384)
    assert vectors == pytest.approx(expected, abs=2e-6)


def vectors_by_transformers(model, labels):
    """Vectors as the model's card makes them, without sentence-transformers: means over tokens, scaled to length 1."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer, network = AutoTokenizer.from_pretrained(model), AutoModel.from_pretrained(model)
    with torch.no_grad():
        means = [network(**tokenizer(label, return_tensors="pt")).last_hidden_state[0].mean(dim=0) for label in labels]
    return torch.nn.functional.normalize(torch.stack(means)).numpy().astype(np.float64)


@pytest.fixture(params=["demo", pytest.param("paper", marks=pytest.mark.shared_data)])
def labels_and_vectors(request, minilm, tmp_path):
    """64 labels, and vectors that others made of them: of the demo pool by transformers, of the paper as published."""
    if request.param == "demo":
        rows = [json.loads(line) for line in write_demo_pool(tmp_path, 300).read_text(encoding="utf-8").splitlines()]
        labels = sorted({label for row in rows for label in row["annotation"]["instag"]["content"]})[:64]
        return labels, vectors_by_transformers(minilm, labels)
    with np.load(SHARED_DATA / "label_embeddings_minilm.npz", allow_pickle=False) as file:
        return file["labels"][:64].tolist(), file["embeddings"][:64].astype(np.float64)


@pytest.mark.slow
def test_vectors_are_those_that_others_made_of_the_same_labels(minilm, hashes, labels_and_vectors):
    labels, expected = labels_and_vectors
    assert len(labels) == 64
    vectors = embed(minilm, hashes, labels, batch_size=16).astype(np.float64)
    assert np.all(np.sum(vectors * expected, axis=1) > 0.999)


def test_cosines_are_those_that_the_model_gives_on_other_machines(minilm, hashes):
    labels = ["mathematics", "algebra", "programming", "code generation", "creative writing", "unit conversion"]
    vectors = embed(minilm, hashes, labels)
    cosines = (vectors @ vectors.T)[np.triu_indices(6, 1)]
    expected = [
        0.642,
        0.442,
        0.243,
        0.278,
        0.288,
        0.370,
        0.221,
        0.142,
        0.335,
        0.651,
        0.358,
        0.165,
        0.342,
        0.174,
        -0.002,
    ]
    assert cosines == pytest.approx(expected, abs=1e-3)


def test_a_vector_does_not_depend_on_which_other_labels_are_embedded(minilm, hashes):
    together = embed(minilm, hashes, LABELS)
    for index, label in enumerate(LABELS):
        assert embed(minilm, hashes, [label])[0].tobytes() == together[index].tobytes()


def test_all_labels_of_a_batch_have_the_same_length():
    labels = ["d", "c", "b", "a", "e"]
    assert _batches(labels, np.array([2, 1, 2, 2, 1]), 2) == [[1, 4], [3, 2], [0]]


@pytest.mark.parametrize("model", ["no/such-model", "/nowhere/encoder", "./encoder", "a/b/c"])
def test_a_model_that_does_not_exist_is_named(hashes, monkeypatch, tmp_path, model):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        EmbeddingError, match=f"mig_embedding_model: '{model}' is not a folder on this machine and was not"
    ):
        identify_encoder(model, "auto", hashes)


def test_a_folder_without_a_model_is_named(tmp_path, hashes):
    folder = tmp_path / "empty"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    encoder = identify_encoder(str(folder), "auto", hashes)
    with pytest.raises(EmbeddingError, match=r"mig_embedding_model: '.*empty' cannot be loaded"):
        embed_labels(["a"], encoder, 4, Ranks(), int, lambda labels, vectors: None)


def test_nothing_is_left_open_while_an_error_of_the_caller_is_handled(minilm, hashes):
    """Training in the same process would find accelerate's state, and fewer threads than it had."""
    from accelerate.state import PartialState

    def fail(labels, vectors):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left") as caught:
        embed_labels(["a"], identify_encoder(minilm, "auto", hashes), 4, Ranks(), int, fail)
    assert PartialState._shared_state == {}
    assert caught.value.__traceback__ is not None  # what the stack refers to is still alive


def test_an_encoder_is_identified_by_its_files(minilm, tmp_path, hashes):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    before = identify_encoder(str(folder), "auto", hashes).content
    assert identify_encoder(str(folder), "auto", hashes).content == before
    (folder / "config.json").write_text("{ }")
    assert identify_encoder(str(folder), "auto", hashes).content != before


RANK_PROGRAM = """
import json, sys
from pathlib import Path
from mig_selector.embedding.encoder import embed_labels, identify_encoder
from mig_selector.ranks.world import connect
from mig_selector.store.hashing import ContentHashes
model, out = sys.argv[1], Path(sys.argv[2])
encoder = identify_encoder(model, "auto", ContentHashes(out / "cache"))
for labels in json.loads(sys.argv[3]):
    known = {}
    with connect() as ranks:
        embed_labels(labels, encoder, 4, ranks, int, lambda some, vectors: known.update(zip(some, vectors)))
    (out / f"{ranks.rank}-{len(labels)}.bin").write_bytes(b"".join(known[label].tobytes() for label in labels))
    import torch.distributed as dist
    from accelerate.state import PartialState
    assert not dist.is_initialized() and PartialState._shared_state == {}, "process group or state left behind"
"""


@pytest.mark.distributed
def test_two_ranks_embed_to_the_same_bytes_as_one(minilm, hashes, tmp_path):
    lists = [LABELS[:1], LABELS]
    program = tmp_path / "rank.py"
    program.write_text(RANK_PROGRAM)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    subprocess.run([sys.executable, *torchrun, program, minilm, tmp_path, json.dumps(lists)], check=True, timeout=120)
    for labels in lists:
        with half_the_cores():
            alone = embed(minilm, hashes, labels).tobytes()
        assert [(tmp_path / f"{rank}-{len(labels)}.bin").read_bytes() for rank in range(2)] == [alone, alone]


def test_a_model_that_is_not_a_sentence_encoder_is_named_as_such(minilm, tiny_llama, tmp_path):
    def describe(model):
        return describe_plain_model(identify_encoder(model, "auto", ContentHashes(tmp_path / "cache")))

    assert describe(minilm) is None
    assert "is not a sentence encoder (it has no modules.json)" in describe(tiny_llama)


def test_a_folder_without_a_model_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(EmbeddingError, match=r"mig_embedding_model: .*empty holds no model"):
        identify_encoder(str(tmp_path / "empty"), "auto", ContentHashes(tmp_path / "cache"))
