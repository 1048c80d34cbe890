"""Reward models: a sequence classification model with one output scores a whole conversation.

Dimension letters: N rows, m texts of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mig_selector.annotation.networks import load_network
from mig_selector.annotation.scores import MeasuredScore, Measurement
from mig_selector.annotation.text_scores import TextScorer
from mig_selector.annotation.tokens import encode, load_tokenizer
from mig_selector.annotation.tools import Rows, Tools
from mig_selector.embedding.encoder import Encoder
from mig_selector.errors import ArgumentError


@dataclass(frozen=True)
class RewardScorer(MeasuredScore):
    """What a reward model says of each row; of either sign."""

    @property
    def identity(self) -> dict[str, Any]:
        """The version too."""
        return {**super().identity, "version": 1}

    def measure(self, rows: Rows, tools: Tools) -> Measurement:
        """Run the model on all ranks, or take what an earlier run kept."""
        [name] = self.models
        model = tools.find(name)
        path = rows.cache_path("text_scores", {"version": 2, "prompt": "chat template"}, model)

        def conversations() -> Any:
            return ([(turn.role, turn.content) for turn in turns] for turns in rows.conversations())

        scored = tools.crew.score_texts(conversations, len(rows), model, path, key=name.key, scorer="reward")
        return Measurement(scored.values, {row: f"{name.key}: {reason}" for row, reason in scored.failures.items()})


class RewardModel(TextScorer):
    """A reward model; its texts are conversations: the role and the content of each turn."""

    def __init__(self, encoder: Encoder, key: str, device: Any) -> None:
        """Load the model.

        Raises:
            ArgumentError: It cannot be loaded, has several outputs, or no chat template.
        """
        from transformers import AutoModelForSequenceClassification

        tokenizer = load_tokenizer(encoder.model, key, encoder.revision)
        if tokenizer.chat_template is None:
            raise ArgumentError(
                f"{key}: the tokenizer of {encoder.model!r} has no chat template, by which a reward model reads "
                "conversations; give a model that has one."
            )
        super().__init__(load_network(AutoModelForSequenceClassification, encoder, key, device), tokenizer)
        if self._network.config.num_labels != 1:
            raise ArgumentError(
                f"{key}: {encoder.model!r} has {self._network.config.num_labels} outputs, but a reward model has one."
            )

    def tokenize(self, items: Sequence[Sequence[tuple[str, str]]]) -> list[list[int] | None]:
        """Return the tokens of conversations in the chat template; None where the template refuses one."""
        texts = [self._render(turns) for turns in items]
        taken = [text for text in texts if text]
        # The template writes the first token of a text itself.
        ids = iter(encode(taken, self._tokenizer, add_special_tokens=False) if taken else [])
        return [next(ids) if text else None for text in texts]

    def _render(self, turns: Sequence[tuple[str, str]]) -> str | None:
        from jinja2 import TemplateError

        messages = [{"role": role, "content": content} for role, content in turns]
        try:
            return str(self._tokenizer.apply_chat_template(messages, tokenize=False))
        except TemplateError:  # many refuse a system message, or turns out of order
            return None

    def score(self, ids: Any, mask: Any) -> tuple[Any, Any]:
        """Return the output of the model for each conversation; see `TextScorer.score`."""
        import torch

        # Models for generation look at the last token that is not padding, and know padding by its id alone.
        last = ids.gather(1, mask.sum(dim=1, keepdim=True) - 1).flatten().tolist()
        pad = self._tokenizer.pad_token_id
        if pad is None or pad in last:
            pad = min(set(range(len(last) + 1)).difference(last))
        self._network.config.pad_token_id = pad
        scores = self._network(input_ids=ids.masked_fill(mask == 0, pad), attention_mask=mask).logits[:, 0].float()
        return scores, torch.ones_like(scores)
