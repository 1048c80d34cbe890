"""What a tagger is: it reads rows that have no labels, and says which they should have.

Dimension letters: N rows that are tagged, L labels, D dimensions of a vector.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from mig_selector.annotation.tools import ModelName, Rows, Tools
from mig_selector.arrays import RowLabels


@dataclass(frozen=True)
class Tags:
    """What a tagger found."""

    labels: RowLabels
    """Of each row, the best first."""
    vectors: NDArray[np.float32] | None = None
    """A vector of each label in `labels.names`, for the label graph; None if the tagger has none. Shape (L, D)."""
    failures: Mapping[int, str] = field(default_factory=dict)
    """Why a row has no labels, by its index in [0, N): each row has labels, or is in here."""
    figures: Mapping[str, Any] | None = None
    """How good the labels are, for the manifest; None where that was not measured."""


class Tagger(ABC):
    """Base of all taggers; `annotation.taggers.find_tagger` gives them their names."""

    embeds_labels: ClassVar[bool]
    """Whether the model of ``mig_tagger_model`` embeds labels; else ``mig_embedding_model`` does."""
    brings_vectors: ClassVar[bool]
    """Whether tags come with vectors."""
    invents_labels: ClassVar[bool] = False
    """Whether labels are whatever a language model writes, so that several of them may mean the same."""
    depends_on_all_rows: ClassVar[bool] = False
    """Whether other rows beside it can change the labels of a row."""

    @property
    def may_succeed_later(self) -> bool:
        """Whether a row that failed may get labels in a later run, and so is tried again."""
        return False

    @property
    def advice(self) -> str | None:
        """What to change where most rows get no labels; None where there is no need to try it on a few rows first."""
        return None

    @property
    def label_texts(self) -> Sequence[str]:
        """The texts of labels that it embeds by ``mig_tagger_model``, beside the questions."""
        return ()

    @property
    @abstractmethod
    def models(self) -> tuple[ModelName, ...]:
        """The models that it runs, found before anything is read."""

    @property
    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What decides the labels, beside the models."""

    @abstractmethod
    def tag(self, rows: Rows, tools: Tools) -> Tags:
        """Label rows; for rank 0 to call.

        Args:
            rows: N rows, none with an empty question, all different.
            tools: What else may be used.
        """

    def check(self, figures: Mapping[str, Any]) -> None:  # noqa: B027  most taggers have no figures
        """Refuse labels whose figures, as `Tags` has them, are too poor.

        Raises:
            PoolError: They are.
        """

    def rehearse(self, rows: Rows, tools: Tools) -> None:
        """Do the part of `tag` that takes longer the more rows there are; a dry run measures how long."""
        self.tag(rows, tools)
