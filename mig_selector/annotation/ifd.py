"""Instruction-following difficulty: how much harder an answer is to say without the instruction than with it.

As Superfiltering computes it (arXiv 2402.00530, code_ifd/data_analysis.py): with P the instruction and, if there is
one, the input, each ending a line, A the answer and L the mean loss of a language model over the tokens of A,
IFD = exp(L(A | P) - L(A)). Where P and A together are too long, both losses are over the tokens of A that fit.

Dimension letters: N rows, m texts that are scored together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mig_selector.annotation.networks import load_network, logits_at
from mig_selector.annotation.tokens import encode, load_tokenizer
from mig_selector.embedding.encoder import Encoder
from mig_selector.errors import ArgumentError
from mig_selector.ranks.models import pad_tokens
from mig_selector.ranks.share import fill_matrix, tokens_per_batch
from mig_selector.ranks.world import Ranks
from mig_selector.store.matrix import MatrixFile


_LOGIT_BYTES = 1 << 30
"""A batch's logits, one number for each token and each word of the vocabulary, take no more than this."""
_LOSSES = 1_024
"""Losses that are computed at once: in float32 the logits of a batch could take twice their memory."""


@dataclass(frozen=True)
class CausalModel:
    """A language model, known before it is loaded."""

    key: str
    """Names it in the configuration."""
    model: str
    """Folder or hub id."""
    revision: str | None = None
    """Commit on the hub; None for a folder."""
    dtype: str = "auto"
    """auto (bfloat16 on a GPU, float32 on a CPU), float32, bfloat16 or float16."""
    max_tokens: int = 1_024
    """Instruction and answer together are cut off after so many tokens."""


def measure_losses(
    rows: Callable[[], Iterable[tuple[str, str, str]]],
    count: int,
    model: CausalModel,
    path: Path,
    ranks: Ranks,
    on_texts: Callable[[int], object],
) -> Path:
    """Measure the two losses of each row; every rank must call this.

    What is done is kept chunk by chunk: a run that was killed goes on where it was, and the losses are the same.

    Args:
        rows: Called on rank 0 only, which streams them: instruction, input and answer of N rows.
        count: N.
        model: The language model.
        path: Where the losses are kept, on rank 0: a name made from rows and model.
        ranks: Who shares the work.
        on_texts: Called with the number of texts scored since the last call, by all ranks if they keep step; a row is
            two texts, the answer alone and the answer after the instruction.

    Returns:
        `path`, for `read_ifd` on rank 0's node.

    Raises:
        ArgumentError: The model cannot be loaded or reads fewer tokens, or the disk has no room for the losses.
        RemoteError: Another rank failed.
    """
    fill_matrix(
        MatrixFile(path, 2 * count), lambda: _texts(rows()), lambda device: _load(model, device), ranks, on_texts
    )
    return path


def read_ifd(path: Path) -> NDArray[np.float64]:
    """Return the difficulty of each row; NaN where it has none: no answer, or none of its tokens could be scored.

    Args:
        path: What `measure_losses` wrote.

    Returns:
        Above 0; below 1 where the instruction helps. Shape (N,).
    """
    alone, after_prompt = np.load(path, allow_pickle=False).astype(np.float64).reshape(-1, 2).T
    with np.errstate(over="ignore", invalid="ignore"):
        difficulty = np.exp(after_prompt - alone)
    return np.where(np.isfinite(difficulty), difficulty, np.nan)


def _texts(rows: Iterable[tuple[str, str, str]]) -> Iterator[tuple[bool, str, str]]:
    """Yield each row's answer twice, alone and after the prompt: whether it is the latter, prompt and answer."""
    for instruction, context, answer in rows:
        prompt = f"{instruction}\n{context}\n" if context else f"{instruction}\n"
        yield False, prompt, answer
        yield True, prompt, answer


def _load(model: CausalModel, device: Any) -> _LossModel:
    from transformers import AutoModelForCausalLM

    tokenizer = load_tokenizer(model.model, model.key, model.revision)
    tokenizer.truncation_side = "right"  # the end is cut off: tokens are counted from the beginning
    encoder = Encoder(model.model, model.revision, model.dtype, content="")
    network = load_network(AutoModelForCausalLM, encoder, model.key, device)
    longest = getattr(network.config.get_text_config(), "max_position_embeddings", None) or model.max_tokens
    if longest < model.max_tokens:
        raise ArgumentError(
            f"{model.key}: {model.model!r} reads {longest} tokens at most, fewer than the {model.max_tokens} to which "
            f"rows are cut off; set mig_ifd_max_tokens: {longest}."
        )
    return _LossModel(network, tokenizer, model.max_tokens)


class _LossModel:
    """Measures the mean loss over the tokens of an answer."""

    width = 1

    def __init__(self, network: Any, tokenizer: Any, max_tokens: int) -> None:
        self._network, self._tokenizer, self._max_tokens = network, tokenizer, max_tokens
        bytes_per_token = network.config.get_text_config().vocab_size * network.dtype.itemsize
        self.batch_tokens = min(tokens_per_batch(network.device), _LOGIT_BYTES // bytes_per_token)

    def encode(self, items: Sequence[tuple[bool, str, str]]) -> list[NDArray[np.int32]]:
        """Return for each text the position of the first token whose loss counts, never 0, and then its tokens."""
        prompts = [len(ids) for ids in self._tokenize([prompt for _, prompt, _ in items])]
        texts = self._tokenize([prompt + answer if has_prompt else answer for has_prompt, prompt, answer in items])
        encoded = []
        for (has_prompt, _, answer), ids, length in zip(items, texts, prompts, strict=True):
            # The published code looks for the answer from the right: that is where the prompt ends.
            first = max(length, 1) if has_prompt else 1
            kept = ids if has_prompt else self._cut_alone(answer, ids, self._max_tokens - length + 1)
            encoded.append(np.array([first, *kept], np.int32))
        return encoded

    def _tokenize(self, texts: list[str]) -> list[list[int]]:
        return encode(texts, self._tokenizer, truncation=True, max_length=self._max_tokens)

    def _cut_alone(self, answer: str, ids: list[int], limit: int) -> list[int]:
        """Cut an answer off where it is cut off behind its prompt."""
        if len(ids) > limit > 1:
            [ids] = encode([answer], self._tokenizer, truncation=True, max_length=limit)
        return ids[:limit]

    def compute(self, batch: Sequence[NDArray[np.int32]]) -> Any:
        """Return the losses, NaN where no token counts; shape (m, 1)."""
        import torch

        losses = torch.full((len(batch), 1), torch.nan, device=self._network.device)
        scored = [index for index, text in enumerate(batch) if len(text) - 1 > text[0]]
        if scored:
            losses[scored, 0] = self._losses([batch[index] for index in scored])
        return losses

    def _losses(self, texts: Sequence[NDArray[np.int32]]) -> Any:
        """Run the model over padded texts; shape (m,)."""
        import torch
        from torch.nn.functional import cross_entropy

        device = self._network.device
        ids, mask = pad_tokens([text[1:] for text in texts], device)
        first = torch.tensor([[int(text[0])] for text in texts], device=device)
        end = mask.sum(dim=1, keepdim=True)
        positions = torch.arange(ids.shape[1], device=device)
        foretells = (positions >= first - 1) & (positions < end - 1)
        with torch.inference_mode():
            logits = logits_at(self._network, ids, mask, foretells)
            targets = ids[foretells.roll(1, dims=1)]
            parts = zip(logits.split(_LOSSES), targets.split(_LOSSES), strict=True)
            losses: Any = torch.cat([cross_entropy(some.float(), aim, reduction="none") for some, aim in parts])
            return torch.stack([some.mean() for some in losses.split((end - first).flatten().tolist())])
