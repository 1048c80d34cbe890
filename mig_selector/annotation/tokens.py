"""Length of texts in tokens, as a model's tokenizer counts them, and the total of many rows from a sample of them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mig_selector.errors import ArgumentError
from mig_selector.ranks.models import loading


_BATCH_TEXTS = 1_024
"""Texts that are tokenized at once: enough for all cores."""
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_NORMAL_95 = 1.96
"""Standard errors in half of a 95 % interval."""


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

    with loading(key, model, ArgumentError, is_logged=False):
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


def find_tokenizer_file(model: str) -> Path | None:
    """Return the tokenizer.json of a model that is on this machine; None if there is none. Nothing is downloaded.

    Args:
        model: A folder, or a hub id whose files may be in the local cache of the Hugging Face hub.
    """
    folder = Path(model).expanduser()
    if not folder.is_dir() and _HUB_ID.fullmatch(model):
        from huggingface_hub.constants import HF_HUB_CACHE

        cached = Path(HF_HUB_CACHE) / f"models--{model.replace('/', '--')}"
        reference = cached / "refs" / "main"
        if not reference.is_file():
            return None
        folder = cached / "snapshots" / reference.read_text(encoding="utf-8").strip()
    file = folder / "tokenizer.json"
    return file if file.is_file() else None


class LocalTokenizer:
    """A tokenizer that is read without transformers, whose import alone would take seconds."""

    def __init__(self, file: Path) -> None:
        """Read a tokenizer.json.

        Raises:
            ArgumentError: It is not valid.
        """
        from tokenizers import Tokenizer

        try:
            self._tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises Exception itself
            raise ArgumentError(f"{file} is not a valid tokenizer.json ({error}).") from error
        # A tokenizer.json may say that texts are cut off and padded.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def count(self, texts: Iterable[str], *, in_threads: bool = False) -> NDArray[np.int64]:
        """Count the tokens of N texts; tokens that a model adds around a text do not count.

        Args:
            texts: Taken in batches, never held as a whole.
            in_threads: Use all cores. Not in a process that may fork later: the library would then warn, and tokenize
                on one core in every child.

        Returns:
            The number of tokens of each text. Shape (N,).
        """
        if not in_threads:
            encode = self._tokenizer.encode
            return np.fromiter((len(encode(text, add_special_tokens=False)) for text in texts), np.int64)
        return np.fromiter(self._batched_counts(iter(texts)), np.int64)

    def _batched_counts(self, texts: Iterator[str]) -> Iterator[int]:
        while batch := list(islice(texts, _BATCH_TEXTS)):
            yield from map(len, self._tokenizer.encode_batch(batch, add_special_tokens=False))


def estimate_total(
    counts: NDArray[np.int64], sizes: NDArray[np.int64], total_size: int, num_rows: int
) -> tuple[int, int]:
    """Estimate the tokens of N rows from a random sample of n of them.

    The estimate is a ratio: the tokens of the sample for each unit of its size, times the size of all rows. The error
    is small where the tokens of a row are nearly proportional to its size.

    Args:
        counts: Tokens of each row of the sample. Shape (n,).
        sizes: Size of each row of the sample, above 0, such as its bytes; 1 throughout if sizes are not known. Shape
            (n,).
        total_size: The size of all N rows.
        num_rows: N, at least n.

    Returns:
        The tokens of all rows, and half of the 95 % interval around them; 0 if the sample is all rows.
    """
    n = len(counts)
    if n == num_rows:
        return int(counts.sum()), 0
    ratio = counts.sum() / sizes.sum()
    residuals = counts - ratio * sizes
    # Cochran, Sampling Techniques, 6.4: the variance of a ratio estimate of a total, for samples without replacement.
    variance = float(residuals @ residuals) / max(n - 1, 1) * (1 - n / num_rows) / n
    return round(float(ratio * total_size)), math.ceil(_NORMAL_95 * num_rows * math.sqrt(variance))
