import numpy as np
import pytest

from mig_selector.annotation import tokens
from mig_selector.annotation.tokens import LocalTokenizer, count_tokens, estimate_total, find_tokenizer_file
from mig_selector.errors import ArgumentError


TEXTS = ["", "one", "unit conversion", "é 答え", "a\nb", "word " * 3_000, "one two"]


@pytest.mark.parametrize("batch", [1, 3, 1_024])
def test_every_text_is_counted_without_what_a_model_adds_around_it(minilm, tiny_llama, monkeypatch, batch):
    from transformers import AutoTokenizer

    monkeypatch.setattr(tokens, "_BATCH_TEXTS", batch)
    for folder in (minilm, tiny_llama):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        found = count_tokens(iter(TEXTS), folder, "mig_tokenizer")
        assert found.dtype == np.int64
        assert found.tolist() == [len(tokenizer.tokenize(text)) for text in TEXTS]


def test_there_may_be_no_texts(minilm):
    assert count_tokens([], minilm, "mig_tokenizer").shape == (0,)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["no/such-model", "/nowhere/tokenizer"])
def test_a_tokenizer_that_is_nowhere_is_named_with_its_key(model):
    with pytest.raises(ArgumentError, match=f"mig_tokenizer: '{model}' cannot be loaded"):
        count_tokens(["a"], model, "mig_tokenizer")


@pytest.mark.parametrize("in_threads", [False, True])
def test_a_local_tokenizer_counts_as_that_of_transformers_does(minilm, tiny_llama, monkeypatch, in_threads):
    monkeypatch.setattr(tokens, "_BATCH_TEXTS", 3)
    for folder in (minilm, tiny_llama):  # minilm's tokenizer.json cuts texts off and pads them
        found = LocalTokenizer(find_tokenizer_file(folder)).count(iter(TEXTS), in_threads=in_threads)
        assert found.dtype == np.int64
        assert found.tolist() == count_tokens(TEXTS, folder, "mig_tokenizer").tolist()


def test_a_tokenizer_is_at_hand_in_a_folder_or_in_the_cache_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    cached = tmp_path / "hub" / "models--some--model"
    snapshot = cached / "snapshots" / "abc"
    for folder in (tmp_path / "folder", tmp_path / "empty", snapshot, cached / "refs"):
        folder.mkdir(parents=True)
    assert find_tokenizer_file("some/model") is None
    (cached / "refs" / "main").write_text("abc")
    assert find_tokenizer_file("some/model") is None
    for folder in (tmp_path / "folder", snapshot):
        (folder / "tokenizer.json").write_text("{}")
    assert find_tokenizer_file("some/model") == snapshot / "tokenizer.json"
    assert find_tokenizer_file(str(tmp_path / "folder")) == tmp_path / "folder" / "tokenizer.json"
    for nowhere in ("some/other", str(tmp_path / "empty"), str(tmp_path / "none"), "../../some/model", ""):
        assert find_tokenizer_file(nowhere) is None, nowhere


def test_a_damaged_tokenizer_is_named(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ArgumentError, match=r"tokenizer\.json is not a valid tokenizer\.json"):
        LocalTokenizer(tmp_path / "tokenizer.json")


@pytest.mark.parametrize("has_sizes", [False, True])
def test_the_interval_of_an_estimate_holds_the_true_total_nearly_always(has_sizes):
    rng = np.random.default_rng(0)
    sizes = rng.integers(100, 4_000, 3_000)
    counts = (sizes / rng.normal(4, 0.4, 3_000)).astype(np.int64)
    hits, errors = 0, []
    for _ in range(400):
        sample = rng.choice(3_000, 100, replace=False)
        shown = sizes if has_sizes else np.ones_like(sizes)
        estimate, error = estimate_total(counts[sample], shown[sample], int(shown.sum()), 3_000)
        hits += abs(estimate - counts.sum()) <= error
        errors.append(error)
    assert 0.91 <= hits / 400 <= 0.98
    # Sizes tell most of what there is to know.
    assert (np.mean(errors) < 0.04 * counts.sum()) == has_sizes


def test_all_rows_are_no_sample():
    counts = np.array([3, 5])
    assert estimate_total(counts, np.array([10, 20]), 30, 2) == (8, 0)
