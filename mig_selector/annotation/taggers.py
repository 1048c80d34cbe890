"""Taggers: what gives labels to rows that have none. Those here need vectors of the questions, and no language model.

To add a tagger of this kind, write a class here and add a line to `find_tagger`; ``mig_tagger`` then knows its name.

Dimension letters: N rows that are tagged, L labels, D dimensions of a vector.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from mig_selector.annotation.scores import ModelName
from mig_selector.arrays import RowLabels
from mig_selector.graph.vocabulary import read_vocabulary
from mig_selector.settings import Setting, at_least, between
from mig_selector.store.hashing import fingerprint_of


_BLOCK_ROWS = 8_192


@dataclass(frozen=True, kw_only=True)
class AnnotationSettings:
    """The keys of taggers, of scorers, and of what they write."""

    mig_tagger: Annotated[
        Literal["vocabulary"] | None,
        Setting(
            "What gives labels to rows that have none: vocabulary (the nearest of mig_label_vocabulary, or of 400 "
            "labels that come with the package). Not set: such rows are dropped.",
            decides=True,
        ),
    ] = None
    mig_scorer: Annotated[
        Literal["constant", "response_tokens", "ifd"] | None,
        Setting(
            "What scores all rows, in place of mig_score: constant (1), response_tokens, or ifd (by mig_ifd_model); "
            "default constant if mig_tagger is used.",
            decides=True,
        ),
    ] = None
    mig_sidecar: Annotated[
        str | None,
        Setting(
            "A Parquet file, or a folder of them, with labels and scores of rows made elsewhere; rows that it lacks "
            "are an error, unless mig_tagger is set.",
            decides=True,
        ),
    ] = None
    mig_retag: Annotated[
        bool,
        Setting("Give all rows labels of mig_tagger or mig_sidecar, also those that have some.", decides=True),
    ] = False
    mig_tagger_model: Annotated[
        str,
        Setting(
            "Sentence-transformers model that embeds questions for mig_tagger, and labels unless mig_embedding_model "
            "is set: hub id or folder.",
            decides=True,
        ),
    ] = "sentence-transformers/all-MiniLM-L6-v2"
    mig_tagger_max_tokens: Annotated[
        int, Setting("Tokens of a question that mig_tagger_model reads.", at_least(1), decides=True)
    ] = 128
    mig_labels_per_row: Annotated[
        int, Setting("Most labels that the tagger vocabulary gives a row.", at_least(1), decides=True)
    ] = 4
    mig_label_min_similarity: Annotated[
        float,
        Setting(
            "Cosine similarity to the question from which the tagger vocabulary gives a row a label; a row without "
            "such a label is left out and counted.",
            between(-1, 1),
            decides=True,
        ),
    ] = 0.25
    mig_max_failed: Annotated[
        float,
        Setting(
            "Largest share of rows that may fail to be annotated; more stop the run.", between(0, 1), decides=False
        ),
    ] = 0.05


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


@dataclass(frozen=True)
class VocabularyTagger(Tagger):
    """Gives each question the labels whose vectors are nearest to its own."""

    vocabulary: Mapping[str, str]
    """Labels, each with a typical request; all requests are empty where only labels are known."""
    per_row: int
    min_similarity: float

    no_label = "no label of the vocabulary is near (mig_label_min_similarity)"
    depends_on_all_rows = False

    @property
    def identity(self) -> dict[str, Any]:
        """Labels, limits and the way in which they are compared."""
        return {
            "kind": "vocabulary",
            "version": 1,
            "vocabulary": fingerprint_of({"labels": dict(self.vocabulary)}),
            "per_row": self.per_row,
            "min_similarity": self.min_similarity,
            "max_tokens": self.max_tokens,
        }

    def tag(
        self,
        vectors: NDArray[np.float32],
        questions: Callable[[], Iterator[str]],
        embed: Callable[[Sequence[str]], NDArray[np.floating[Any]]],
    ) -> Tags:
        """Label rows; see `Tagger.tag`. The vector of a label is the mean of those of its name and its request."""
        names, requests = list(self.vocabulary), [text for text in self.vocabulary.values() if text]
        label_vectors = unit_length(embed([*names, *requests]))
        if requests:
            label_vectors = unit_length(label_vectors[: len(names)] + label_vectors[len(names) :])
        labels = nearest_labels(vectors, label_vectors, names, self.per_row, self.min_similarity)
        return Tags(labels, label_vectors)


def unit_length(vectors: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Scale vectors, shape (N, D), to length 1."""
    wide = np.asarray(vectors, np.float64)
    unit: NDArray[np.float32] = (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(np.float32)
    return unit


def nearest_labels(
    vectors: NDArray[np.float32],
    label_vectors: NDArray[np.float32],
    names: Sequence[str],
    per_row: int,
    min_similarity: float,
) -> RowLabels:
    """Give each row its nearest labels by cosine, nearest first; ties go to the label that comes first.

    Args:
        vectors: Of N rows, of any length above 0. Shape (N, D).
        label_vectors: Of L labels, of length 1. Shape (L, D).
        names: The labels.
        per_row: Most labels of a row.
        min_similarity: Least cosine.
    """
    counts, ids = [], []
    for start in range(0, len(vectors), _BLOCK_ROWS):
        # Rounded, so that neither the number of threads nor the size of a block decides between two labels.
        cosines = np.round(unit_length(vectors[start : start + _BLOCK_ROWS]) @ label_vectors.T, 5)
        nearest = np.argsort(-cosines, axis=1, kind="stable")[:, :per_row]
        is_near = np.take_along_axis(cosines, nearest, axis=1) >= min_similarity
        counts.append(is_near.sum(axis=1))
        ids.append(nearest[is_near])
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.concatenate(counts))])
    return RowLabels(list(names), offsets, np.concatenate(ids).astype(np.int32))


@cache
def shipped_vocabulary() -> Mapping[str, str]:
    """Return the labels that come with the package: tasks, domains and formats, each with a typical request."""
    labels: dict[str, str] = json.loads((files(__package__) / "labels.json").read_text(encoding="utf-8"))
    return labels


def find_tagger(settings: Mapping[str, Any], vocabulary: str | None) -> Tagger | None:
    """Return the tagger that ``mig_tagger`` names; None if it is not set.

    Args:
        settings: Values of the keys of `AnnotationSettings`.
        vocabulary: ``mig_label_vocabulary``.

    Raises:
        PoolError: The vocabulary cannot be read.
    """
    model = ModelName("mig_tagger_model", settings["mig_tagger_model"])
    max_tokens = settings["mig_tagger_max_tokens"]
    match settings["mig_tagger"]:
        case "vocabulary":
            labels = dict.fromkeys(read_vocabulary(Path(vocabulary)), "") if vocabulary else shipped_vocabulary()
            per_row, least = settings["mig_labels_per_row"], settings["mig_label_min_similarity"]
            return VocabularyTagger(model, max_tokens, labels, per_row, least)
        case _:
            return None
