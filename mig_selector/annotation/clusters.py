"""Labels found in the pool itself: clusters of the questions' vectors, named by the terms that set them apart.

Dimension letters: N rows, D dimensions of a vector, K clusters, T terms.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mig_selector.annotation.language import UNCLEAR, detect_languages
from mig_selector.annotation.tagger import Tags
from mig_selector.annotation.vectors import VectorTagger, unit_length
from mig_selector.arrays import RowLabels
from mig_selector.console import plural
from mig_selector.selection.clusters import cluster_by_batches


logger = logging.getLogger(__name__)

_MIN_ROWS_PER_CLUSTER = 20
"""A pool is never cut into clusters that are smaller than this on average."""
_NAMED_ROWS = 100_000
"""Rows from which clusters get their names."""
_TERMS = 3
"""Terms of a name, if so many set the cluster apart."""
_ANY_WORD = "cluster"
"""Names clusters whose questions have no term."""
_WORD = r"(?u)\b[^\W\d_]{2,}\b"
_MOST_QUESTIONS, _FEW_QUESTIONS = 0.05, 3
"""Where questions are not English, words that more than this share of them have, and more than a few, name no cluster:
they are mostly function words."""
_LEAST_LETTERS = 4
"""Nor do shorter words there that are written in Latin letters."""
_AFTER_LATIN = "\u0250"
"""The first character after the Latin letters that most languages use."""
_READ_QUESTIONS = 200
"""Questions from which the language is found."""
_SEED = 0
_BLOCK_ROWS = 8_192


@dataclass(frozen=True)
class ClusterTagger(VectorTagger):
    """Gives each question the cluster that it is in, at several granularities."""

    numbers: tuple[int, ...]
    """K of each granularity."""

    depends_on_all_rows = True

    @property
    def identity(self) -> dict[str, Any]:
        """Granularities and the way in which clusters are found."""
        return {"kind": "clusters", "version": 3, "numbers": list(self.numbers), "max_tokens": self.max_tokens}

    def tag_vectors(
        self,
        vectors: NDArray[np.float32],
        questions: Callable[[], Iterator[str]],
        embed: Callable[[Sequence[str]], NDArray[np.floating[Any]]],
    ) -> Tags:
        """Label rows; the vector of a label is the mean of those of its rows, all of length 1."""
        most = max(len(vectors) // _MIN_ROWS_PER_CLUSTER, 1)
        if most < max(self.numbers):
            found, rows = plural(most, "cluster"), f"{len(vectors):,}"
            logger.warning("mig_clusters: %s at most, one per %s rows of %s", found, _MIN_ROWS_PER_CLUSTER, rows)
        step = -(-len(vectors) // _NAMED_ROWS)
        words = _Words(list(itertools.islice(questions(), 0, None, step)))
        names: list[str] = []
        centres, ids = [], []
        for number in sorted({min(number, most) for number in self.numbers}):
            clusters = _cluster(vectors, number)
            ids.append(clusters + len(names))
            names += words.name_clusters(clusters[::step], number, names)
            centres.append(_centres(vectors, clusters, number))
            clustered = f"{plural(number, 'cluster')} of {plural(len(vectors), 'row')}"
            logger.info("mig_tagger: %s, such as %s", clustered, names[-1])
        offsets = np.arange(len(vectors) + 1, dtype=np.int64) * len(ids)
        return Tags(RowLabels(names, offsets, np.stack(ids, axis=1).ravel().astype(np.int32)), np.concatenate(centres))


def _cluster(vectors: NDArray[np.float32], number: int) -> NDArray[np.int32]:
    """Return the cluster of each row, in [0, number), none of them empty if there are enough different rows."""
    if number == 1:
        return np.zeros(len(vectors), np.int32)
    return cluster_by_batches(vectors, np.arange(len(vectors)), number, _SEED)


def _centres(vectors: NDArray[np.float32], clusters: NDArray[np.int32], number: int) -> NDArray[np.float32]:
    """Return the mean direction of each cluster, of length 1; that of all rows for an empty one. Shape (K, D)."""
    sums = np.zeros((number, vectors.shape[1]))
    for start in range(0, len(vectors), _BLOCK_ROWS):
        block = slice(start, start + _BLOCK_ROWS)
        np.add.at(sums, clusters[block], unit_length(vectors[block]))
    sums[~sums.any(axis=1)] = sums.sum(axis=0)
    return unit_length(sums)


def _are_english(questions: Sequence[str]) -> bool:
    """Whether most of the questions whose language is clear are in English."""
    step = -(-len(questions) // _READ_QUESTIONS)
    languages = [language for language in detect_languages(questions[::step]) if language != UNCLEAR]
    return 2 * languages.count("en") >= len(languages)


class _Words:
    """Which terms are in each question."""

    def __init__(self, questions: Sequence[str]) -> None:
        """Find the terms of n questions: words, without those that would fit any cluster.

        In a small pool such words set clusters apart by chance, and a pool that is one cluster would be named by them.
        """
        from sklearn.feature_extraction.text import CountVectorizer

        counter = CountVectorizer(token_pattern=_WORD, stop_words="english", binary=True, dtype=np.int64)
        has_term = counter.fit_transform([*questions, _ANY_WORD])[:-1]
        terms, is_kept = counter.get_feature_names_out(), np.ones(has_term.shape[1], np.bool_)
        if not _are_english(questions):  # there is a list of English stop words only
            most = max(_MOST_QUESTIONS * len(questions), _FEW_QUESTIONS)
            is_kept = np.asarray(has_term.sum(axis=0)).ravel() <= most
            is_kept &= [len(term) >= _LEAST_LETTERS or max(term) >= _AFTER_LATIN for term in terms.tolist()]
        self._has_term = has_term[:, is_kept]  # shape (n, T)
        self._terms: list[str] = terms[is_kept].tolist()

    def name_clusters(self, clusters: NDArray[np.int32], number: int, taken: Collection[str]) -> list[str]:
        """Name each cluster by the terms that set it apart, so that all names differ.

        The weight of a term (class TF-IDF) is its share of the cluster's terms, times the logarithm of how much more
        frequent it is there than among all questions, times the logarithm of how few of all questions have it: words
        that every cluster or every question uses weigh nothing.

        Args:
            clusters: The cluster of each question. Shape (n,).
            number: K.
            taken: Names that other clusters have.
        """
        used = set(taken)
        names = []
        for cluster in range(number):
            terms = self._best_terms(clusters == cluster)
            name = " / ".join(terms[:_TERMS]) or _ANY_WORD
            for term in terms[_TERMS:]:
                if name not in used:
                    break
                name = f"{name} / {term}"
            if name in used:
                name = next(each for k in itertools.count(2) if (each := f"{name} ({k})") not in used)
            used.add(name)
            names.append(name)
        return names

    def _best_terms(self, is_member: NDArray[np.bool_]) -> list[str]:
        """Return up to twice the terms of a name, the heaviest first; ties in alphabetical order."""
        inside = np.asarray(self._has_term[is_member].sum(axis=0)).ravel().astype(np.float64)
        everywhere = np.asarray(self._has_term.sum(axis=0)).ravel().astype(np.float64)
        known = np.flatnonzero(inside)
        share = inside[known] / inside.sum()
        rarity = np.log(self._has_term.shape[0] / everywhere[known])
        weights = share * np.log(share / (everywhere[known] / everywhere.sum())) * rarity
        # Of a pool that is one cluster all weights are 0; then the most frequent terms name it.
        order = np.lexsort((-inside[known], -np.round(weights, 12)))
        return [self._terms[term] for term in known[order[: 2 * _TERMS]].tolist()]
