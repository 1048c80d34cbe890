"""Taggers that work on vectors of the questions, and need no language model.

Dimension letters: N rows that are tagged, D dimensions of a vector.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mig_selector.annotation.tagger import Tagger, Tags
from mig_selector.annotation.tools import ModelName, Rows, Tools


@dataclass(frozen=True)
class VectorTagger(Tagger):
    """Embeds the questions, and labels rows by these vectors."""

    model: ModelName
    """Embeds the questions."""
    max_tokens: int
    """Tokens of a question that the model reads."""

    embeds_labels = True
    brings_vectors = True

    @property
    def models(self) -> tuple[ModelName, ...]:
        """The one that embeds the questions."""
        return (self.model,)

    def tag(self, rows: Rows, tools: Tools) -> Tags:
        """Label rows; see `Tagger.tag`."""
        vectors = tools.embed_questions(rows, self.model, self.max_tokens)
        return self.tag_vectors(vectors, rows.questions, lambda texts: tools.embed_texts(texts, self.model))

    def rehearse(self, rows: Rows, tools: Tools) -> None:
        """Embed the questions; see `Tagger.rehearse`."""
        tools.embed_questions(rows, self.model, self.max_tokens)

    @abstractmethod
    def tag_vectors(
        self,
        vectors: NDArray[np.float32],
        questions: Callable[[], Iterator[str]],
        embed: Callable[[Sequence[str]], NDArray[np.floating[Any]]],
    ) -> Tags:
        """Label rows.

        Args:
            vectors: Of the questions. Shape (N, D).
            questions: Reads them again.
            embed: Embeds texts with the same model. Shape (number of texts, D).
        """


def unit_length(vectors: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Scale vectors, shape (N, D), to length 1."""
    wide = np.asarray(vectors, np.float64)
    unit: NDArray[np.float32] = (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(np.float32)
    return unit
