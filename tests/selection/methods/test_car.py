"""CaR chooses what the published rule chooses on scikit-learn's clusters: the best of all, and the best of each."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from threadpoolctl import threadpool_limits

from mig_selector.errors import ArgumentError
from mig_selector.selection import clusters
from mig_selector.selection.clusters import cluster_by_batches
from mig_selector.selection.method import Candidates
from mig_selector.selection.methods.car import car, choose_by_clusters, share_among_clusters


def naive_choice(scores, numbers, budget, rows_per_cluster):
    """Methods.md 6.3 on Python's lists: more and more of the best of all, until the budget is full."""
    by_score = sorted(range(len(scores)), key=lambda row: scores[row], reverse=True)
    for num_best in range(len(scores) + 1):
        chosen = by_score[:num_best]
        for label in sorted({str(number) for number in numbers}, reverse=True):
            members = [row for row in by_score if str(numbers[row]) == label]
            chosen += [row for row in members[:rows_per_cluster] if row not in chosen]
        if len(chosen) == budget:
            return chosen
    raise AssertionError


def drawn_pool(num_rows, seed):
    rng = np.random.default_rng(seed)
    embeddings = (rng.normal(size=(num_rows, 16)) * (np.arange(16) + 1.0) ** -0.7).astype(np.float32)
    return embeddings, rng.normal(0.5, 0.6, num_rows).round(1)


def choose(embeddings, scores, budget, ratio="1000:161", seed=42, on_progress=lambda chosen: None):
    pool = Candidates(len(scores), scores=np.array(scores, np.float64), embeddings=embeddings)
    return car(pool, budget, car_ratio=ratio, seed=seed, on_progress=on_progress)


@pytest.mark.parametrize(
    ("num_rows", "budget", "ratio", "rows_per_cluster"),
    [
        (400, 100, "1000:161", 1),  # 14 clusters, 100 * 161 / 1161 = 13.9 rows
        (400, 300, "1000:161", 3),  # 41.6 rows
        (300, 60, "1:3", 4),  # 12 clusters, 45 rows: 3.75 each
        (300, 12, "1000:161", 1),
        (300, 300, "1000:161", 3),
        (7, 5, "1000:161", 1),  # a single cluster
    ],
)
@pytest.mark.parametrize("seed", [42, 7])
def test_the_rows_are_those_of_the_published_rule_on_scikit_learns_clusters(
    num_rows, budget, ratio, rows_per_cluster, seed
):
    embeddings, scores = drawn_pool(num_rows, seed)
    # The published program clusters the file that its ranker has written, which is sorted by score.
    by_score = sorted(range(num_rows), key=lambda row: scores[row], reverse=True)
    with threadpool_limits(1):
        reduced = PCA(n_components=0.95, svd_solver="full", random_state=seed).fit_transform(embeddings[by_score])
        means = KMeans(n_clusters=int(np.sqrt(num_rows / 2)), n_init=10, random_state=seed)
        numbers = means.fit_predict(reduced).tolist()
    in_file = naive_choice(scores[by_score].tolist(), numbers, budget, rows_per_cluster)
    selection = choose(embeddings, scores, budget, ratio, seed)
    assert selection.rows.tolist() == [by_score[line] for line in in_file]
    assert selection.gains.tolist() == scores[selection.rows].tolist()


def test_rows_are_clustered_in_the_order_of_their_scores_also_in_batches(monkeypatch):
    monkeypatch.setattr(clusters, "EXACT_ROWS", 399)
    embeddings, scores = drawn_pool(400, 3)
    by_score = np.array(sorted(range(400), key=lambda row: scores[row], reverse=True))
    numbers = cluster_by_batches(embeddings, by_score, 14, 42)
    in_pool_order = cluster_by_batches(embeddings, np.arange(400), 14, 42)
    chosen = choose(embeddings, scores, 60, "1:3").rows.tolist()
    assert chosen == naive_choice(scores.tolist(), numbers.tolist(), 60, 3)
    assert chosen != naive_choice(scores.tolist(), in_pool_order.tolist(), 60, 3)


@st.composite
def clustered(draw):
    num_rows = draw(st.integers(1, 40))
    scores = draw(st.lists(st.sampled_from([-0.5, 0.0, 0.25, 1.0, 1.5]), min_size=num_rows, max_size=num_rows))
    numbers = draw(st.lists(st.integers(0, draw(st.integers(0, 13))), min_size=num_rows, max_size=num_rows))
    rows_per_cluster = draw(st.integers(1, 3))
    most_of_clusters = sum(min(numbers.count(number), rows_per_cluster) for number in set(numbers))
    return scores, numbers, draw(st.integers(most_of_clusters, num_rows)), rows_per_cluster


@given(clustered())
def test_so_they_are_whatever_the_clusters_empty_ones_included(case):
    scores, numbers, budget, rows_per_cluster = case
    chosen = choose_by_clusters(np.array(scores), np.array(numbers, np.int32), budget, rows_per_cluster)
    assert chosen.tolist() == naive_choice(scores, numbers, budget, rows_per_cluster)


def test_clusters_are_visited_in_the_order_of_their_numbers_as_texts():
    numbers = np.arange(12, dtype=np.int32)  # one row each: 9, 8, ..., 2, 11, 10, 1, 0
    chosen = choose_by_clusters(np.zeros(12), numbers, 12, 1)
    assert chosen.tolist() == [9, 8, 7, 6, 5, 4, 3, 2, 11, 10, 1, 0]


def test_a_choice_worked_by_hand():
    # Best of all: 1, 4, 0, 2, 3, 5. Best of cluster 1: 2; of cluster 0: 1.
    scores, numbers = np.array([0.5, 0.9, 0.1, 0.05, 0.8, -0.3]), np.array([0, 0, 1, 1, 0, 1], np.int32)
    assert choose_by_clusters(scores, numbers, 2, 1).tolist() == [2, 1]
    assert choose_by_clusters(scores, numbers, 3, 1).tolist() == [1, 4, 2]
    assert choose_by_clusters(scores, numbers, 4, 1).tolist() == [1, 4, 0, 2]
    assert choose_by_clusters(scores, numbers, 6, 1).tolist() == [1, 4, 0, 2, 3, 5]


@pytest.mark.parametrize(
    ("budget", "num_clusters", "ratio", "expected"),
    [
        (50_000, 685, "1000:161", 10),  # Tulu3
        (50_000, 707, "1000:161", 10),  # OpenHermes: 9.8
        (6_000, 391, "1000:161", 2),  # the pool of DEITA: 2.1
        (1_161, 161, "1000:161", 1),  # Alpaca
        (1_000, 89, "1000:161", 2),  # 15,890 rows: 1.56, where the published program has 1
        (1_000, 685, "1000:161", 1),  # 0.2: at least the best of each
        (50, 10, "1:0", 1),
        (50, 10, "0:1", 5),
        (18, 10, "0:1", 1),  # 1.8, but two of each would be more than the budget
    ],
)
def test_each_cluster_gives_its_share_of_the_budget(budget, num_clusters, ratio, expected):
    assert share_among_clusters(budget, num_clusters, ratio) == expected


def test_fewer_rows_than_clusters_are_refused_before_any_cluster_is_looked_for():
    pool = Candidates(800, scores=np.zeros(800))  # no embeddings
    with pytest.raises(ArgumentError, match=r"mig_num_samples: 19 rows are asked for, .* each of 20 clusters"):
        car(pool, 19, car_ratio="1000:161", seed=42, on_progress=lambda chosen: None)


def test_exactly_as_many_rows_are_chosen_where_vectors_are_equal_and_clusters_empty():
    embeddings, scores = drawn_pool(200, 1)
    embeddings = embeddings[np.arange(200) % 4]
    with pytest.warns(Warning, match="distinct clusters"):
        selection = choose(embeddings, scores, 60)
    assert len(set(selection.rows.tolist())) == 60


def test_progress_is_told_once():
    chosen = []
    embeddings, scores = drawn_pool(100, 0)
    choose(embeddings, scores, 30, on_progress=chosen.append)
    assert chosen == [30]


def test_scores_and_vectors_are_needed_and_scores_are_those_of_iqs():
    declaration = car.declaration
    assert declaration.needs == {"scores", "embeddings"}
    assert (declaration.score.option, declaration.score.default) == ("iqs", "annotation.CaR")
    assert declaration.embedding.model == "sentence-transformers/all-mpnet-base-v2"
    text = declaration.embedding.template.format(instruction="Add.", input="", response="3")
    assert text == "Instruction: Add. Input:  Response: 3"
    assert not declaration.is_nested
    assert not declaration.may_fall_short
