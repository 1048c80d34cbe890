"""What taggers are that work on vectors of the questions, and need no language model.

Dimension letters: N rows that are tagged, L labels, D dimensions of a vector.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from mig_selector.annotation.scores import ModelName
from mig_selector.arrays import RowLabels


@dataclass(frozen=True)
class Tags:
    """What a tagger found."""

    labels: RowLabels
    """Of each row, the best first; none where no label fits."""
    vectors: NDArray[np.float32]
    """A vector of each label in `labels.names`, for the label graph. Shape (L, D)."""


@dataclass(frozen=True)
class Tagger(ABC):
    """A tagger that works on vectors of the questions."""

    model: ModelName
    """Embeds the questions."""
    max_tokens: int
    """Tokens of a question that the model reads."""

    no_label: ClassVar[str]
    """Why a row may get no label."""
    depends_on_all_rows: ClassVar[bool]
    """Whether other rows beside it can change the labels of a row."""

    @property
    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What decides the labels, beside the model."""

    @abstractmethod
    def tag(
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
