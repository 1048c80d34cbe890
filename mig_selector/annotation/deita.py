"""DEITA's scorers (arXiv 2312.15685): language models that were trained to write a score from 1 to 6 after a prompt.

The score of a text is the mean of 1 to 6 by the probabilities with which the model writes each of them next, as the
published code computes it (deita/selection/scorer). Each question and each answer is scored on its own, without what
was said before. What differs: where the published code returns 3.0 because it finds no probability, there is no score.

Dimension letters: N rows, n pairs of question and answer in all rows, m texts of a batch.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from typing import Any, Literal, TypeAlias

import numpy as np

from mig_selector.annotation.networks import load_network, logits_at, read_prefix
from mig_selector.annotation.scores import MeasuredScore, Measurement
from mig_selector.annotation.text_scores import TextScorer
from mig_selector.annotation.tokens import encode, load_tokenizer
from mig_selector.annotation.tools import Rows, Tools
from mig_selector.console import plural
from mig_selector.embedding.encoder import Encoder
from mig_selector.errors import ArgumentError


logger = logging.getLogger(__name__)

Kind: TypeAlias = Literal["complexity", "quality"]

PROMPTS: dict[Kind, str] = {
    "complexity": (
        "You are a helpful assistant. Please identify the complexity score of the following user query. \n"
        "##Query: {question}  \n##Complexity: "
    ),
    "quality": (
        "You are a helpful assistant. Please identify the quality score of the Response corresponding to the Question."
        " \n #Question#:\n{question}\n#Response#:\n{answer} \n##Quality: "
    ),
}
"""For `str.format`, blanks at the ends of lines included."""
_SCORES = range(1, 7)
_CERTAIN = 0.5
"""Where all scores together are less probable, the model would rather write something else."""
_MEANS_LITTLE = "; it is probably not one of DEITA's scorers, and its scores mean little"


@dataclass(frozen=True)
class DeitaScorer(MeasuredScore):
    """Complexity of each question times quality of its answer, joined over the turns of a row."""

    turns: Literal["mean", "sum"] = "mean"

    @property
    def identity(self) -> dict[str, Any]:
        """Prompts and join too."""
        return {**super().identity, "version": 1, "turns": self.turns, "prompts": PROMPTS}

    def measure(self, rows: Rows, tools: Tools) -> Measurement:
        """Run both models on all ranks, or take what an earlier run kept."""
        counts = np.fromiter(map(len, rows.pairs()), np.int64, len(rows))
        row_of_pair = np.repeat(np.arange(len(rows)), counts)
        product = np.ones(len(row_of_pair))
        failures: dict[int, str] = {}
        doubtful: dict[str, int] = {}
        for kind, name in zip(PROMPTS, self.models, strict=True):
            model = tools.find(name)
            path = rows.cache_path("text_scores", {"version": 2, "prompt": PROMPTS[kind]}, model)
            prompts = partial(_prompts, rows, kind)
            scored = tools.crew.score_texts(prompts, len(row_of_pair), model, path, key=name.key, scorer=kind)
            product *= scored.values
            for pair, reason in scored.failures.items():
                failures.setdefault(int(row_of_pair[pair]), f"{name.key}: {reason}")
            doubtful[kind] = int(np.count_nonzero(scored.certainties < _CERTAIN))
            if doubtful[kind]:
                is_most = 2 * doubtful[kind] > len(scored.values)
                logger.warning(
                    "%s: for %s of %s the model would rather write something else than a score from 1 to 6%s",
                    *(name.key, f"{doubtful[kind]:,}", plural(len(scored.values), "text"), _MEANS_LITTLE * is_most),
                )
        total = np.bincount(row_of_pair, product, len(rows)).astype(np.float64)
        figures = {"texts": len(row_of_pair), "doubtful": doubtful}
        return Measurement(total / counts if self.turns == "mean" else total, failures, figures)


def _prompts(rows: Rows, kind: Kind) -> Iterator[str]:
    """Yield the prompt of each pair."""
    for pairs in rows.pairs():
        for pair in pairs:
            yield PROMPTS[kind].format(question=pair.instruction, answer=pair.response)


class DeitaModel(TextScorer):
    """One of the two models; its texts are prompts."""

    def __init__(self, encoder: Encoder, key: str, kind: Kind, device: Any) -> None:
        """Load the model.

        Raises:
            ArgumentError: It cannot be loaded, or does not write scores as single tokens.
        """
        import torch
        from transformers import AutoModelForCausalLM

        tokenizer = load_tokenizer(encoder.model, key, encoder.revision)
        self._digits = _find_digits(tokenizer, PROMPTS[kind].format(question="", answer=""), encoder.model, key)
        super().__init__(load_network(AutoModelForCausalLM, encoder, key, device), tokenizer)
        one, other = encode([PROMPTS[kind].format(question=text, answer="") for text in ("a", "Z")], tokenizer)
        prefix = [token for token, _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))]
        self._prefix = torch.tensor(prefix, device=device)
        self._past = read_prefix(self._network, prefix) if prefix else None

    def tokenize(self, items: Sequence[str]) -> list[list[int] | None]:
        """Return the tokens of prompts, with those that the tokenizer adds to a text."""
        return list(encode(list(items), self._tokenizer))

    def score(self, ids: Any, mask: Any) -> tuple[Any, Any]:
        """Return the mean of 1 to 6 by their probabilities after each prompt; see `TextScorer.score`."""
        import torch

        is_last = (mask == 1) & (mask.cumsum(dim=1) == mask.sum(dim=1, keepdim=True))
        past = self._past if self._begin_with_prefix(ids, mask) else None
        logits = logits_at(self._network, ids, mask, is_last, past).float()
        certainties = logits.softmax(dim=1)[:, self._digits].sum(dim=1)
        scores = torch.tensor(_SCORES, dtype=torch.float32, device=ids.device)
        return logits[:, self._digits].softmax(dim=1) @ scores, certainties

    def _begin_with_prefix(self, ids: Any, mask: Any) -> bool:
        """Say whether all texts do, and go on; the first letters of a question may change the tokens before it."""
        length = len(self._prefix)
        goes_on = ids.shape[1] > length and bool(mask[:, length].all())
        return goes_on and bool((ids[:, :length] == self._prefix).all())


def _find_digits(tokenizer: Any, prompt: str, model: str, key: str) -> list[int]:
    """Return the tokens that write 1 to 6 after a prompt."""
    before, *after = encode([prompt, *(f"{prompt}{score}" for score in _SCORES)], tokenizer)
    for score, ids in zip(_SCORES, after, strict=True):
        if ids[:-1] != before:
            raise ArgumentError(
                f"{key}: the tokenizer of {model!r} does not write {score} after DEITA's prompt as a single token, so "
                "the model is not one of DEITA's scorers; give one that was trained as they were."
            )
    return [ids[-1] for ids in after]
