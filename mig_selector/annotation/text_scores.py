"""Scores that a model gives a text in one forward pass: those of DEITA, and of reward models.

A text is never cut off: a score of half a text would be the score of another one. A text without a score has a reason.

Dimension letters: n texts, m of a batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mig_selector.annotation.networks import longest_text
from mig_selector.ranks.models import pad_tokens
from mig_selector.ranks.share import fill_matrix, tokens_per_batch
from mig_selector.ranks.world import Ranks
from mig_selector.store.matrix import MatrixFile


REASONS = (
    "",
    "a text is longer than the model reads",
    "the chat template of the model does not take the conversation",
    "the model computes a score that is not finite",
)
"""Why a text has no score, by code."""
_TOO_LONG, _NOT_TAKEN, _NOT_FINITE = 1, 2, 3


@dataclass(frozen=True)
class TextScores:
    """The scores of texts."""

    values: NDArray[np.float64]
    """NaN where there is none. Shape (n,)."""
    codes: NDArray[np.int64]
    """Index into `REASONS`; 0 where there is a score. Shape (n,)."""
    certainties: NDArray[np.float64]
    """Probability with which a model writes some score, whichever; 1 for models that write nothing. NaN where there is
    no score. Shape (n,)."""

    @property
    def failures(self) -> dict[int, str]:
        """Why texts have no score, by their index."""
        return {text: REASONS[self.codes[text]] for text in np.flatnonzero(self.codes).tolist()}


def score_texts(
    texts: Callable[[], Iterable[Any]],
    count: int,
    load: Callable[[Any], TextScorer],
    path: Path,
    ranks: Ranks,
    on_texts: Callable[[int], object],
) -> None:
    """Score texts; every rank must call this. A run that was killed goes on where it was, with the same scores.

    Args:
        texts: Called on rank 0 only, which streams them.
        count: n.
        load: Loads the model onto a device.
        path: Where the scores are kept, on rank 0: a name made from texts and model.
        ranks: Who shares the work.
        on_texts: Called with the number of texts scored since the last call, by all ranks if they keep step.

    Raises:
        ArgumentError: The model cannot be loaded, or the disk has no room for the scores.
        RemoteError: Another rank failed.
    """
    fill_matrix(MatrixFile(path, count), texts, load, ranks, on_texts)


def read_scores(path: Path) -> TextScores:
    """Return what `score_texts` wrote."""
    values, codes, certainties = np.load(path, allow_pickle=False).astype(np.float64).T
    return TextScores(values, codes.astype(np.int64), certainties)


class TextScorer(ABC):
    """The `RowModel` of texts."""

    width = 3

    def __init__(self, network: Any, tokenizer: Any) -> None:
        """Take a model that has been loaded, and its tokenizer."""
        self._network, self._tokenizer = network, tokenizer
        self._longest = longest_text(network, tokenizer)
        self.batch_tokens = tokens_per_batch(network.device)

    def encode(self, items: Sequence[Any]) -> list[NDArray[np.int32]]:
        """Return the code of the reason why a text is not read, or 0, and then the tokens of those that are read."""
        return [self._encode_one(ids) for ids in self.tokenize(items)]

    def _encode_one(self, ids: list[int] | None) -> NDArray[np.int32]:
        if ids is None:
            return np.array([_NOT_TAKEN], np.int32)
        if self._longest is not None and len(ids) > self._longest:
            return np.array([_TOO_LONG], np.int32)
        return np.array([0, *ids], np.int32)

    def compute(self, batch: Sequence[NDArray[np.int32]]) -> Any:
        """Return for each text score, code and certainty as `TextScores` has them; shape (m, 3)."""
        import torch

        device = self._network.device
        results = torch.full((len(batch), self.width), torch.nan, device=device)
        results[:, 1] = torch.tensor([int(text[0]) for text in batch])
        readable = [index for index, text in enumerate(batch) if len(text) > 1]
        if readable:
            with torch.inference_mode():
                scores, certainties = self.score(*pad_tokens([batch[index][1:] for index in readable], device))
            is_finite = scores.isfinite()
            results[readable, 0] = scores.where(is_finite, torch.nan)
            results[readable, 1] = torch.where(is_finite, 0.0, float(_NOT_FINITE))
            results[readable, 2] = certainties
        return results

    @abstractmethod
    def tokenize(self, items: Sequence[Any]) -> list[list[int] | None]:
        """Return the tokens of each text, at least one; None where the model takes no such text."""

    @abstractmethod
    def score(self, ids: Any, mask: Any) -> tuple[Any, Any]:
        """Score texts padded at the end.

        Args:
            ids: Tokens. Shape (m, T).
            mask: 1 at tokens of a text. Shape (m, T).

        Returns:
            The scores, and the probability of some score (see `TextScores`); two tensors of float32, shape (m,).
        """
