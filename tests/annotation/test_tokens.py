import numpy as np
import pytest

from mig_selector.annotation import tokens
from mig_selector.annotation.tokens import count_tokens
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


@pytest.mark.parametrize("model", ["no/such-model", "/nowhere/tokenizer"])
def test_a_tokenizer_that_is_nowhere_is_named_with_its_key(model):
    with pytest.raises(ArgumentError, match=f"mig_tokenizer: '{model}' cannot be loaded"):
        count_tokens(["a"], model, "mig_tokenizer")
