"""Fewer and clearer tags: what a language model calls by several names, or names once only, is brought together.

A model that tags freely writes "Maths", "mathematics" and "math problem" for the same thing. The steps, with their
figures, are those of InsTag's paper; what was not published is settled here (see `normalize_tags`).

Dimension letters: L labels, D dimensions of a label's vector.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray

from mig_selector.arrays import RowLabels
from mig_selector.graph.label_graph import build_adjacency
from mig_selector.graph.vocabulary import count_labels
from mig_selector.settings import Setting, above_and_at_most, at_least, between


logger = logging.getLogger(__name__)

Embed = Callable[[Sequence[str]], NDArray[np.floating[Any]]]

_LARGEST_MERGES = 10
_NAMED_FORMS = 6
_SPECIAL = re.compile(r"(?:[^\w+#]|_)+|(?<!\w)[+#]+")
"""All but letters and digits, and the signs behind them: "C++" is not "C"."""


@dataclass(frozen=True, kw_only=True)
class NormalizationSettings:
    """The keys of the steps."""

    mig_tag_normalization: Annotated[
        Literal["instag", "none"],
        Setting(
            "instag drops rare tags of mig_tagger: instagger, llm or distilled, and merges those that mean the same; "
            "none takes them as they are, and so do mig_label_vocabulary and mig_label_embeddings.",
            decides=True,
        ),
    ] = "instag"
    mig_tag_min_count: Annotated[
        int,
        Setting("Tags of fewer rows are dropped, before any are merged (InsTag: 20).", at_least(1), decides=True),
    ] = 2
    mig_tag_max_distance: Annotated[
        float, Setting("Cosine distance up to which two tags are merged.", between(0, 0.5), decides=True)
    ] = 0.05
    mig_tag_min_support: Annotated[
        int, Setting("Rows that must have both of two tags, for the two to be merged.", at_least(1), decides=True)
    ] = 40
    mig_tag_min_confidence: Annotated[
        float,
        Setting(
            "Share of the rows of each of two tags that must have the other one, for the two to be merged.",
            above_and_at_most(0, 1),
            decides=True,
        ),
    ] = 0.99


@dataclass(frozen=True)
class Normalization:
    """The limits of the steps."""

    min_count: int
    """Rows that a tag must have."""
    max_distance: float
    """Cosine distance of two tags that are one, in [0, 1)."""
    min_support: int
    """Rows that two tags must have in common to be one."""
    min_confidence: float
    """Share of the rows of either tag that must have the other one."""

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the tags, beside the model that embeds them."""
        return {"version": 1, **asdict(self)}


def find_normalization(settings: Mapping[str, Any]) -> Normalization | None:
    """Return the limits that the keys of `NormalizationSettings` set; None if tags are taken as they are."""
    if settings["mig_tag_normalization"] == "none":
        return None
    limits = ("min_count", "max_distance", "min_support", "min_confidence")
    return Normalization(**{limit: settings[f"mig_tag_{limit}"] for limit in limits})


@dataclass(frozen=True)
class Normalized:
    """Tags after the steps."""

    labels: RowLabels
    """Each row's ascending and distinct; a row may have none left."""
    report: dict[str, Any]
    """How many tags each step left, and what became one; for the manifest."""


def normalize_tags(tags: RowLabels, limits: Normalization, embed: Embed) -> Normalized:
    """Leave out rare tags, and bring together tags that mean the same.

    1. Tags that fewer than `min_count` rows have are left out.
    2. Tags with the same words are one: lower case, special characters as spaces, each word by its English lemma. The
       paper speaks of stems, but published tags such as "problem solve" are lemmas; Snowball's stems would make one of
       "optimization" and "optimism", or of "animal" and "animation". ``+`` and ``#`` behind a letter stay, as in C++.
    3. Tags whose vectors are near are one: cosine distance of at most `max_distance`, directly or by way of others.
       These are the clusters of DBSCAN with ``min_samples=1``.
    4. Tags that imply each other are one: at least `min_support` rows have both, and at least `min_confidence` of the
       rows of either have the other; again with the tags that come of it, until there are no such pairs.

    What is brought together is named by the tag that most rows have, of equal ones the first by code point.

    The paper mines its rules by FP-growth, whose rules may have several tags on a side. Here both sides are one tag,
    which takes one product of sparse matrices and not the hours and memory of all frequent sets of a million rows. A
    rule in one direction only ("algebra" implies "mathematics") merges nothing: the rarer tag says more.

    Args:
        tags: As a tagger gave them.
        limits: The limits of the steps.
        embed: Embeds tags. Shape (number of tags, D).

    Source: #InsTag (arXiv 2308.07074), section 3.2.
    """
    report: dict[str, Any] = {"tags": len(set(tags.names)), "after": {}, "largest_merges": {}}
    members: dict[str, list[str]] = {}
    labels = count_labels(tags, vocabulary=None, min_count=limits.min_count)
    report["after"]["frequency"] = len(labels.names)
    for step, group in (("words", _by_words), ("meaning", _by_meaning), ("association", _by_association)):
        while len(labels.names):
            groups = group(labels, limits, embed)
            merged = _merge(labels, groups, members)
            is_done = step != "association" or len(merged.names) == len(labels.names)
            labels = merged
            if is_done:
                break
        report["after"][step] = len(labels.names)
    largest = sorted(members.items(), key=lambda item: (-len(item[1]), item[0]))[:_LARGEST_MERGES]
    report["largest_merges"] = {name: sorted(others)[:_NAMED_FORMS] for name, others in largest}
    logger.info("tags: %s", ", ".join([f"{report['tags']:,}", *(f"{n:,} by {s}" for s, n in report["after"].items())]))
    return Normalized(labels, report)


def _merge(labels: RowLabels, groups: NDArray[np.int64], members: dict[str, list[str]]) -> RowLabels:
    """Make one label of those with the same group.

    Args:
        labels: Each row's distinct.
        groups: The group of each label, in [0, G). Shape (L,).
        members: By label, the others that it stands for; brought up to date.
    """
    names, counts = labels.names, labels.count_rows()
    # The last one written stays: the most frequent, of equal ones the first by code point, which is the order of ids.
    order = np.lexsort((-np.arange(len(names)), counts))
    best = np.empty(int(groups.max()) + 1, np.int64)
    best[groups[order]] = order
    for label in np.flatnonzero(best[groups] != np.arange(len(names))).tolist():
        own = members.setdefault(names[best[groups[label]]], [])
        own += [names[label], *members.pop(names[label], [])]
    renamed = RowLabels([names[label] for label in best.tolist()], labels.offsets, groups[labels.ids].astype(np.int32))
    return count_labels(renamed, vocabulary=None, min_count=1)


def _by_words(labels: RowLabels, limits: Normalization, embed: Embed) -> NDArray[np.int64]:
    from simplemma import lemmatize

    numbers: dict[tuple[str, ...], int] = {}
    groups = []
    for name in labels.names:
        words = tuple(lemmatize(word, lang="en") for word in _SPECIAL.sub(" ", name.lower()).split()) or (name,)
        groups.append(numbers.setdefault(words, len(numbers)))
    return np.array(groups, np.int64)


def _by_meaning(labels: RowLabels, limits: Normalization, embed: Embed) -> NDArray[np.int64]:
    near = build_adjacency(embed(labels.names), 1 - limits.max_distance)
    return _components(near.offsets, near.columns)


def _by_association(labels: RowLabels, limits: Normalization, embed: Embed) -> NDArray[np.int64]:
    from scipy.sparse import csr_matrix

    has_label = csr_matrix(
        (np.ones(len(labels.ids), np.int32), labels.ids, labels.offsets), (len(labels), len(labels.names))
    )
    both = (has_label.T @ has_label).tocoo()
    counts = labels.count_rows()
    larger = np.maximum(counts[both.row], counts[both.col])
    implied = (both.data >= limits.min_support) & (both.data >= limits.min_confidence * larger)
    pairs = csr_matrix((both.data[implied], (both.row[implied], both.col[implied])), both.shape)
    return _components(pairs.indptr, pairs.indices)


def _components(offsets: NDArray[Any], columns: NDArray[Any]) -> NDArray[np.int64]:
    """Return the connected component of each label in a graph of compressed rows. Shape (L,)."""
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import connected_components

    size = len(offsets) - 1
    graph = csr_matrix((np.ones(len(columns), np.int8), columns, offsets), (size, size))
    return connected_components(graph, directed=False)[1].astype(np.int64)  # type: ignore[no-any-return]
