"""Length of texts in tokens, as a model's tokenizer counts them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mig_selector.errors import ArgumentError
from mig_selector.ranks.models import loading


_BATCH_TEXTS = 1_024
"""Texts that are tokenized at once: enough for all cores."""


def count_tokens(texts: Iterable[str], model: str, key: str, revision: str | None = None) -> NDArray[np.int64]:
    """Count the tokens of N texts; tokens that a model adds around a text do not count.

    Args:
        texts: Taken in batches, never held as a whole.
        model: Whose tokenizer counts: folder or hub id.
        key: Names the model in the configuration.
        revision: Commit on the hub; None for a folder, or the newest.

    Returns:
        The number of tokens of each text. Shape (N,).

    Raises:
        ArgumentError: The tokenizer cannot be loaded.
    """
    return np.fromiter(_counts(iter(texts), load_tokenizer(model, key, revision)), np.int64)


def load_tokenizer(model: str, key: str, revision: str | None = None) -> Any:
    """Load the tokenizer of a model; see `count_tokens`."""
    from transformers import AutoTokenizer

    with loading(key, model, ArgumentError):
        return AutoTokenizer.from_pretrained(model, revision=revision)


def encode(texts: list[str], tokenizer: Any, **options: Any) -> list[list[int]]:
    """Return the tokens of some texts.

    Args:
        texts: At least one.
        tokenizer: As transformers load it.
        options: For the tokenizer: `add_special_tokens`, `truncation`, `max_length`.
    """
    return list(tokenizer(texts, return_attention_mask=False, verbose=False, **options)["input_ids"])


def _counts(texts: Iterator[str], tokenizer: Any) -> Iterator[int]:
    while batch := list(islice(texts, _BATCH_TEXTS)):
        yield from map(len, encode(batch, tokenizer, add_special_tokens=False))
