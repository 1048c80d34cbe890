"""Taggers by vectors, against their definition written straight down."""

import math

import numpy as np
import pytest

from mig_selector.annotation.taggers import find_tagger
from mig_selector.annotation.vectors import unit_length
from mig_selector.annotation.vocabulary import nearest_labels, shipped_vocabulary
from mig_selector.arguments import parse_arguments


def tagger_of(vocabulary=None, **keys):
    arguments = parse_arguments({"mig_num_samples": 1, "mig_tagger": "vocabulary", **keys}, training=False)
    return find_tagger(arguments.more, vocabulary)


def naive_nearest(vector, label_vectors, names, per_row, least):
    def cosine(one, other):
        norms = math.sqrt(sum(x * x for x in one)) * math.sqrt(sum(x * x for x in other))
        return round(sum(x * y for x, y in zip(one, other, strict=True)) / norms, 5)

    found = sorted(range(len(names)), key=lambda label: (-cosine(vector, label_vectors[label]), label))[:per_row]
    return [names[label] for label in found if cosine(vector, label_vectors[label]) >= least]


@pytest.mark.parametrize("seed", range(5))
def test_labels_are_the_nearest_by_cosine_best_first(seed):
    rng = np.random.default_rng(seed)
    vectors, label_vectors = rng.normal(size=(30, 4)), rng.normal(size=(9, 4))
    label_vectors[5] = label_vectors[2]  # a tie
    names = [f"label {number}" for number in range(9)]
    found = nearest_labels(vectors.astype(np.float32), unit_length(label_vectors), names, 3, 0.4)
    assert [found.of_row(row) for row in range(30)] == [
        naive_nearest(vector, label_vectors, names, 3, 0.4) for vector in vectors
    ]
    assert 0 in found.counts
    assert 3 in found.counts


def test_the_vector_of_a_label_is_the_mean_of_name_and_request(tmp_path):
    tagger = tagger_of()
    names = list(shipped_vocabulary())
    vectors = np.random.default_rng(0).normal(size=(800, 6))
    tags = tagger.tag_vectors(vectors[:3].astype(np.float32), lambda: iter(()), lambda texts: vectors[: len(texts)])
    assert list(tags.labels.names) == names
    first = vectors[0] / np.linalg.norm(vectors[0]) + vectors[400] / np.linalg.norm(vectors[400])
    assert tags.vectors[0] == pytest.approx(first / np.linalg.norm(first), rel=1e-5)

    (tmp_path / "own.txt").write_text("algebra\nbiology\n")
    tags = tagger_of(str(tmp_path / "own.txt")).tag_vectors(
        vectors[:3].astype(np.float32), lambda: iter(()), lambda texts: vectors[: len(texts)]
    )
    assert list(tags.labels.names) == ["algebra", "biology"]
    assert tags.vectors == pytest.approx(vectors[:2] / np.linalg.norm(vectors[:2], axis=1, keepdims=True), rel=1e-5)


def test_the_shipped_labels_are_distinct_short_and_each_has_a_request():
    labels = shipped_vocabulary()
    assert len(labels) == 400
    assert len({label.casefold() for label in labels}) == 400
    assert all(label == label.strip() and len(label.split()) <= 4 for label in labels)
    assert len(set(labels.values())) == 400
    assert all(len(request.split()) <= 15 for request in labels.values())


@pytest.mark.parametrize(
    ("keys", "is_same"),
    [
        ({"mig_labels_per_row": 3}, False),
        ({"mig_label_min_similarity": 0.3}, False),
        ({"mig_tagger_max_tokens": 64}, False),
        ({"mig_tagger_model": "other"}, True),  # models count by their content
        ({"mig_max_failed": 0.5}, True),
    ],
)
def test_what_decides_the_labels_is_the_identity_of_the_tagger(keys, is_same):
    assert (tagger_of(**keys).identity == tagger_of().identity) is is_same
