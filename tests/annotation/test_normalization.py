"""Each step of the normalisation against its definition written straight down."""

import itertools

import numpy as np
import pytest

from mig_selector.annotation.normalization import Normalization, normalize_tags
from mig_selector.arrays import RowLabels


OFF = Normalization(min_count=1, max_distance=0.0, min_support=10**9, min_confidence=1.0)


def pool_of(rows):
    names = list(dict.fromkeys(itertools.chain(*rows)))
    ids = [names.index(tag) for row in rows for tag in row]
    offsets = np.cumsum([0, *map(len, rows)])
    return RowLabels(names, offsets.astype(np.int64), np.array(ids, np.int32))


def apart(names):
    """Vectors of which no two are near."""
    return np.eye(len(names))


def normalize(rows, embed=apart, **limits):
    done = normalize_tags(pool_of(rows), Normalization(**{**vars(OFF), **limits}), embed)
    return [done.labels.of_row(row) for row in range(len(rows))], done.report


def test_rare_tags_are_left_out_and_a_row_counts_once():
    rows = [["a", "a", "b"], ["a", "c"], ["c", "c"], ["d"]]
    assert normalize(rows, min_count=2)[0] == [["a"], ["a", "c"], ["c"], []]
    assert normalize(rows, min_count=3)[0] == [[], [], [], []]


@pytest.mark.parametrize(
    ("forms", "others"),
    [
        (["problem solving", "Problem-Solving", "problem_solve", "PROBLEM   SOLVED!"], ["problem"]),
        (["recipes", "recipe", "#recipe"], ["recipe book"]),
        (["c++", "C++"], ["C", "c#", "c"]),
        (["naïve Bayes", "NAÏVE BAYES"], ["naive bayes"]),
        (["数学", "数学!"], ["数"]),
        (["!!!"], ["???"]),
    ],
)
def test_tags_of_the_same_words_are_one_named_by_the_most_frequent(forms, others):
    rows = [*[[form] for form in forms], [forms[-1]], *[[other] for other in others], *[[other] for other in others]]
    found, report = normalize(rows)
    assert found[: len(forms)] == [[forms[-1]]] * len(forms)
    assert all(label != [forms[-1]] for label in found[len(forms) + 1 :])
    if len(forms) > 1:
        assert report["largest_merges"][forms[-1]] == sorted(forms[:-1])


def test_equally_frequent_forms_go_by_code_point():
    assert normalize([["maths"], ["Maths"], ["MATHS"]])[0] == [["MATHS"]] * 3


def naive_clusters(vectors, most):
    """DBSCAN with min_samples=1, by its definition: each point is a core point, clusters are what is reachable."""
    clusters = [None] * len(vectors)
    for start in range(len(vectors)):
        if clusters[start] is not None:
            continue
        waiting = [start]
        while waiting:
            one = waiting.pop()
            clusters[one] = start
            for other in range(len(vectors)):
                cosine = np.dot(vectors[one], vectors[other])
                cosine /= np.linalg.norm(vectors[one]) * np.linalg.norm(vectors[other])
                if clusters[other] is None and 1 - cosine <= most:
                    waiting.append(other)
    return clusters


@pytest.mark.parametrize("seed", range(5))
def test_tags_of_near_vectors_are_one_as_by_dbscan(seed):
    from sklearn.cluster import DBSCAN

    rng = np.random.default_rng(seed)
    names = [f"tag{number:02}" for number in range(40)]
    vectors = rng.normal(size=(40, 3)) * rng.uniform(0.1, 5, size=(40, 1))
    rows = [[names[number]] * int(rng.integers(1, 3)) for number in rng.permutation(np.repeat(np.arange(40), 3))]
    rows += [[names[number]] for number in rng.integers(0, 40, 60)]
    clusters = naive_clusters(vectors, 0.05)
    by_sklearn = DBSCAN(eps=0.05, min_samples=1, metric="cosine").fit(vectors).labels_.tolist()
    assert len(set(zip(clusters, by_sklearn, strict=True))) == len(set(clusters)) == len(set(by_sklearn))
    assert 5 < len(set(clusters)) < 40

    count = {name: sum(name in row for row in rows) for name in names}
    name_of = {
        cluster: min((-count[name], name) for name, own in zip(names, clusters, strict=True) if own == cluster)[1]
        for cluster in clusters
    }
    found, _ = normalize(
        rows, lambda asked: np.array([vectors[names.index(name)] for name in asked]), max_distance=0.05
    )
    assert found == [[name_of[clusters[names.index(row[0])]]] for row in rows]


def naive_association(rows, support, confidence):
    """Merge pairs that imply each other, over and over."""
    rows = [set(row) for row in rows]
    while True:
        names = sorted(set().union(*rows))
        count = {name: sum(name in row for row in rows) for name in names}
        group = {name: {name} for name in names}
        for one, other in itertools.combinations(names, 2):
            both = sum(one in row and other in row for row in rows)
            if both >= support and both / count[one] >= confidence and both / count[other] >= confidence:
                joint = group[one] | group[other]
                for name in joint:
                    group[name] = joint
        new = {name: min(group[name], key=lambda each: (-count[each], each)) for name in names}
        if all(name == own for name, own in new.items()):
            return [sorted(row) for row in rows]
        rows = [{new[name] for name in row} for row in rows]


@pytest.mark.parametrize("seed", range(8))
def test_tags_that_imply_each_other_are_one(seed):
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(120):
        row = {"abcdefgh"[number] for number in rng.choice(8, rng.integers(1, 4), replace=False)}
        for one, other in ("ab", "ba", "cd", "dc", "ef"):
            if one in row and rng.random() < 0.93:
                row.add(other)
        rows.append(sorted(row))
    found, _ = normalize(rows, min_support=10, min_confidence=0.85)
    assert found == naive_association(rows, 10, 0.85)
    assert len(set().union(*found)) < 8


def test_what_comes_of_a_merge_may_be_merged_again():
    # Neither x nor y is implied by z, but what becomes of the two is.
    rows = [["x", "y", "z"]] * 8 + [["x", "z"], ["y", "z"]]
    found, report = normalize(rows, min_support=5, min_confidence=0.8)
    assert found == [["z"]] * 10
    assert report["largest_merges"] == {"z": ["x", "y"]}


def test_an_implication_in_one_direction_merges_nothing():
    rows = [["algebra", "mathematics"]] * 50 + [["mathematics"]] * 50
    assert normalize(rows, min_support=40, min_confidence=0.99)[0] == rows


def test_the_report_counts_the_tags_after_each_step():
    rows = [["Math", "math", "sum", "once"], ["math", "sums", "adding", "sum"], ["adding", "Math", "sums"]]
    near = {"sum": [1, 0], "sums": [1, 0], "adding": [1, 0.1], "math": [0, 1], "Math": [0, 1]}
    _, report = normalize(rows, lambda names: np.array([near[name] for name in names]), min_count=2, max_distance=0.05)
    assert report == {
        "tags": 6,
        "after": {"frequency": 5, "words": 3, "meaning": 2, "association": 2},
        "largest_merges": {"sum": ["adding", "sums"], "Math": ["math"]},
    }


def test_nothing_is_left_where_all_tags_are_rare():
    found, report = normalize([["a"], ["b"]], min_count=2)
    assert found == [[], []]
    assert report["after"] == {"frequency": 0, "words": 0, "meaning": 0, "association": 0}
