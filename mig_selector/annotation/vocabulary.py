"""Labels of a list, given to the questions that they are nearest to.

Dimension letters: N rows that are tagged, L labels, D dimensions of a vector.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mig_selector.annotation.tagger import Tags
from mig_selector.annotation.vectors import VectorTagger, unit_length
from mig_selector.arrays import RowLabels
from mig_selector.store.hashing import fingerprint_of


NO_LABEL = "no label of the vocabulary is near (mig_label_min_similarity)"
_BLOCK_ROWS = 8_192


@dataclass(frozen=True)
class VocabularyTagger(VectorTagger):
    """Gives each question the labels whose vectors are nearest to its own."""

    vocabulary: Mapping[str, str]
    """Labels, each with a typical request; all requests are empty where only labels are known."""
    per_row: int
    min_similarity: float

    @property
    def identity(self) -> dict[str, Any]:
        """Labels, limits and the way in which they are compared."""
        return {
            "kind": "vocabulary",
            "version": 1,
            "vocabulary": fingerprint_of({"labels": [list(label) for label in self.vocabulary.items()]}),
            "per_row": self.per_row,
            "min_similarity": self.min_similarity,
            "max_tokens": self.max_tokens,
        }

    @property
    def label_texts(self) -> list[str]:
        """The names, then the requests."""
        return [*self.vocabulary, *filter(None, self.vocabulary.values())]

    def tag_vectors(
        self,
        vectors: NDArray[np.float32],
        questions: Callable[[], Iterator[str]],
        embed: Callable[[Sequence[str]], NDArray[np.floating[Any]]],
    ) -> Tags:
        """Label rows; the vector of a label is the mean of those of its name and its request."""
        names = list(self.vocabulary)
        label_vectors = unit_length(embed(self.label_texts))
        if len(label_vectors) > len(names):
            label_vectors = unit_length(label_vectors[: len(names)] + label_vectors[len(names) :])
        labels = nearest_labels(vectors, label_vectors, names, self.per_row, self.min_similarity)
        failures = dict.fromkeys(np.flatnonzero(labels.counts == 0).tolist(), NO_LABEL)
        return Tags(labels, label_vectors, failures)


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
        # Rounded: the last bits depend on the number of threads, and would decide between equally near labels.
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
