"""Answers that a causal language model writes to prompts, word for word the likeliest (greedy), on all ranks.

Dimension letters: n prompts, m of a batch, G tokens that an answer may have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mig_selector.annotation.networks import load_network, longest_text
from mig_selector.annotation.tokens import encode, load_tokenizer
from mig_selector.embedding.encoder import Encoder
from mig_selector.ranks.models import pad_tokens
from mig_selector.ranks.share import fill_matrix, tokens_per_batch
from mig_selector.ranks.world import Ranks
from mig_selector.store.matrix import MatrixFile


Status: TypeAlias = Literal["finished", "cut off", "too long"]

_STATUSES: tuple[Status, ...] = ("finished", "cut off", "too long")
_NO_TOKEN = -1
_DECODED = 1_024
"""Answers that are turned into text at once."""


class Answer(NamedTuple):
    """What a model wrote."""

    status: Status
    """``cut off``: it would have gone on after G tokens. ``too long``: prompt and G tokens are more than the model
    reads, so it was not asked."""
    text: str


def write_answers(
    prompts: Callable[[], Iterable[str]],
    count: int,
    encoder: Encoder,
    path: Path,
    ranks: Ranks,
    on_prompts: Callable[[int], object],
    *,
    key: str,
    max_new_tokens: int,
) -> None:
    """Have a model answer prompts; every rank must call this. A run that was killed goes on where it was.

    Args:
        prompts: Called on rank 0 only, which streams them.
        count: n.
        encoder: The model.
        path: Where the tokens of the answers are kept, on rank 0: a name made from prompts, model and limit.
        ranks: Who shares the work.
        on_prompts: Called with the number of prompts answered since the last call, by all ranks if they keep step.
        key: Names the model in the configuration.
        max_new_tokens: G.

    Raises:
        ArgumentError: The model cannot be loaded, or the disk has no room for the answers.
        RemoteError: Another rank failed.
    """

    def load(device: Any) -> _Writer:
        return _Writer(encoder, key, max_new_tokens, device)

    fill_matrix(MatrixFile(path, count), prompts, load, ranks, on_prompts)


def read_answers(path: Path, encoder: Encoder, key: str) -> Iterator[Answer]:
    """Yield what `write_answers` wrote, in the order of the prompts."""
    tokenizer = load_tokenizer(encoder.model, key, encoder.revision)
    rows: NDArray[np.float32] = np.load(path, mmap_mode="r", allow_pickle=False)
    for start in range(0, len(rows), _DECODED):
        block = rows[start : start + _DECODED].astype(np.int64)
        ids = [[token for token in answer if token != _NO_TOKEN] for answer in block[:, 1:].tolist()]
        texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
        yield from (Answer(_STATUSES[code], text) for code, text in zip(block[:, 0].tolist(), texts, strict=True))


class _Writer:
    """The `RowModel` of prompts: it computes the status of each answer and its tokens.

    Tokens travel and are stored as float32, which is exact up to 2**24, more than any vocabulary has.
    """

    def __init__(self, encoder: Encoder, key: str, max_new_tokens: int, device: Any) -> None:
        from transformers import AutoModelForCausalLM, GenerationConfig

        self._tokenizer = load_tokenizer(encoder.model, key, encoder.revision)
        self._network = load_network(AutoModelForCausalLM, encoder, key, device)
        limit = longest_text(self._network, self._tokenizer)
        self._longest_prompt = None if limit is None else limit - max_new_tokens
        self._max_new_tokens, self.width = max_new_tokens, 1 + max_new_tokens
        self.batch_tokens = tokens_per_batch(self._network.device)
        ends = self._network.generation_config.eos_token_id
        ends = self._tokenizer.eos_token_id if ends is None else ends
        self._ends: list[int] = ends if isinstance(ends, list) else [ends] if ends is not None else []
        # In place of the model's own, which may sample, or punish repetitions such as those of a list of tags.
        self._network.generation_config = GenerationConfig(
            do_sample=False,
            num_beams=1,
            max_new_tokens=max_new_tokens,
            eos_token_id=self._ends or None,
            pad_token_id=self._pad,
        )

    @property
    def _pad(self) -> int:
        """What fills up short prompts and answers; the attention mask hides it."""
        known = (self._tokenizer.pad_token_id, *self._ends)
        return next((token for token in known if token is not None), 0)

    def encode(self, items: Sequence[str]) -> list[NDArray[np.int32]]:
        """Return the tokens of each prompt and room for its answer; nothing of prompts that are too long."""
        room = [_NO_TOKEN] * self._max_new_tokens
        texts = encode(list(items), self._tokenizer)
        return [np.array([*ids, *room] if self._fits(len(ids)) else [], np.int32) for ids in texts]

    def _fits(self, length: int) -> bool:
        return self._longest_prompt is None or length <= self._longest_prompt

    def compute(self, batch: Sequence[NDArray[np.int32]]) -> Any:
        """Return the code of the status of each answer, and its tokens; shape (m, 1 + G)."""
        import torch

        results = torch.full((len(batch), self.width), float(_NO_TOKEN), device=self._network.device)
        results[:, 0] = _STATUSES.index("too long")
        readable = [index for index, text in enumerate(batch) if len(text)]
        if readable:
            answers = self._answer([batch[index][: -self._max_new_tokens] for index in readable])
            results[readable, : answers.shape[1]] = answers
        return results

    def _answer(self, prompts: Sequence[NDArray[np.int32]]) -> Any:
        """Return status and tokens of the answers, as long as the longest; shape (m, 1 + tokens)."""
        import torch

        device = self._network.device
        ids, mask = pad_tokens(prompts, device, self._pad, on_left=True)  # the answer follows the prompt
        with torch.inference_mode():
            written = self._network.generate(input_ids=ids, attention_mask=mask)[:, ids.shape[1] :]
        is_end = torch.isin(written, torch.tensor(self._ends, device=device, dtype=written.dtype))
        after_end = is_end.cumsum(dim=1) - is_end.long() > 0
        statuses = torch.where(is_end.any(dim=1), _STATUSES.index("finished"), _STATUSES.index("cut off"))
        return torch.cat([statuses[:, None], written.masked_fill(after_end, _NO_TOKEN)], dim=1).float()
