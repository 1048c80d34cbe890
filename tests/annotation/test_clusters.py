"""Clusters as labels: planted topics are found and named, names differ, and nothing depends on chance."""

import numpy as np
import pytest

from mig_selector.annotation.clusters import ClusterTagger, _Words
from mig_selector.annotation.tools import ModelName


TOPICS = {
    "cook": ["soup", "oven", "spice"],
    "math": ["equation", "triangle", "sum"],
    "code": ["python", "loop", "bug"],
}


def planted(rows_per_topic, seed=0):
    """Questions of three topics that share their other words, and vectors around three directions."""
    rng = np.random.default_rng(seed)
    questions, vectors, topics = [], [], []
    for index, (topic, words) in enumerate(TOPICS.items()):
        for _ in range(rows_per_topic):
            questions.append(f"please explain the {rng.choice(words)} and the {rng.choice(words)} to me")
            vectors.append(np.eye(8)[index] * 3 + rng.normal(scale=0.2, size=8))
            topics.append(topic)
    order = rng.permutation(len(questions))
    return (
        [questions[row] for row in order],
        np.array(vectors)[order].astype(np.float32),
        [topics[row] for row in order],
    )


def tag(questions, vectors, numbers=(3,)):
    tagger = ClusterTagger(ModelName("mig_tagger_model", "none"), 128, numbers)
    return tagger.tag_vectors(vectors, lambda: iter(questions), lambda texts: pytest.fail("no text is embedded"))


def test_planted_topics_are_found_and_named_by_their_words():
    questions, vectors, topics = planted(40)
    tags = tag(questions, vectors)
    label_of = {topic: tags.labels.of_row(topics.index(topic)) for topic in TOPICS}
    assert [tags.labels.of_row(row) for row in range(120)] == [label_of[topic] for topic in topics]
    for topic, [name] in label_of.items():
        assert set(name.split(" / ")) == set(TOPICS[topic])


def test_the_vector_of_a_label_is_the_mean_direction_of_its_rows():
    questions, vectors, _ = planted(40)
    tags = tag(questions, vectors, (3, 6))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = tags.labels.ids.reshape(120, 2)
    for label in range(9):
        mean = unit[(ids == label).any(axis=1)].mean(axis=0)
        assert tags.vectors[label] == pytest.approx(mean / np.linalg.norm(mean), rel=1e-4)


def test_every_row_has_a_label_of_each_granularity_and_all_names_differ():
    questions, vectors, _ = planted(100, seed=1)
    tags = tag(questions, vectors, (2, 5, 9))
    assert set(tags.labels.counts.tolist()) == {3}
    assert len(tags.labels.names) == len(set(tags.labels.names)) == 16
    again = tag(questions, vectors, (2, 5, 9))
    assert again.labels.names == tags.labels.names
    assert again.labels.ids.tolist() == tags.labels.ids.tolist()
    assert again.vectors.tobytes() == tags.vectors.tobytes()


@pytest.mark.parametrize(("rows", "counts"), [(1, 1), (7, 1), (20, 2)])
def test_a_small_pool_has_few_clusters(rows, counts):
    questions, vectors, _ = planted(rows)  # three topics: 3, 21 and 60 rows
    tags = tag(questions, vectors, (2, 50))
    assert set(tags.labels.counts.tolist()) == {counts}
    assert max(tags.labels.ids) == len(tags.labels.names) - 1


def test_questions_without_words_are_clustered_too():
    _, vectors, _ = planted(40)
    tags = tag(["12 + 3 = ?"] * 120, vectors, (3,))
    assert tags.labels.names == ["cluster", "cluster (2)", "cluster (3)"]


def test_the_terms_of_a_cluster_are_weighed_as_the_page_says():
    questions = ["the soup", "the soup oven", "the sum", "the sum sum loop", "the bug"]
    has_term = [{"soup"}, {"soup", "oven"}, {"sum"}, {"sum", "loop"}, {"bug"}]  # without stop words
    clusters = np.array([0, 0, 1, 1, 1])
    names = _Words(questions).name_clusters(clusters, 2, [])
    expected = []
    for cluster in (0, 1):
        inside = [terms for terms, own in zip(has_term, clusters.tolist(), strict=True) if own == cluster]
        count = {term: sum(term in terms for terms in inside) for term in set().union(*inside)}
        everywhere = {term: sum(term in terms for terms in has_term) for term in set().union(*has_term)}
        share = {term: number / sum(count.values()) for term, number in count.items()}
        weight = {
            term: share[term] * np.log(share[term] * sum(everywhere.values()) / number) * np.log(5 / number)
            for term, number in everywhere.items()
            if term in share
        }
        expected.append(
            " / ".join(sorted(weight, key=lambda term: (-round(weight[term], 12), -count[term], term))[:3])
        )
    assert names == expected


def test_names_of_a_small_pool_are_no_stop_words():
    english = [
        "How do I cook a soup for the two of us?",
        "What is the best soup for us?",
        "Is it too hot for the cook?",
    ]
    one_cluster = np.zeros(20, np.int32)
    assert _Words(english).name_clusters(one_cluster[:3], 1, []) == ["cook / soup / best"]
    # No list of ours has German stop words, but they are short, or many questions have them.
    dishes = [
        "Auflauf",
        "Braten",
        "Eintopf",
        "Gulasch",
        "Knödel",
        "Nudeln",
        "Pfannkuchen",
        "Suppe",
        "Torte",
        "Waffeln",
    ]
    german = [f"Wie kocht man das in der Küche, und was ist mit {dish} oder {dish} gemeint?" for dish in dishes * 2]
    assert _Words(german).name_clusters(one_cluster, 1, []) == ["auflauf / braten / eintopf"]
    law = "Was muss in dem Kaufvertrag stehen?\nGilt für den Kaufvertrag eine Frist?\nWann endet der Mietvertrag?"
    rome = "Es gibt in Rom viele Quellen; welche?\nGibt es in Rom eine Statue des Kaisers?\nWer war der Kaiser?"
    questions, clusters = [*law.splitlines(), *rome.splitlines(), *german], np.array([0] * 3 + [1] * 3 + [2] * 20)
    words = {word for name in _Words(questions).name_clusters(clusters, 3, []) for word in name.split(" / ")}
    assert {"kaufvertrag", "kaiser", "auflauf"} <= words
    assert not words & {"den", "dem", "der", "die", "das", "des", "es", "in", "und", "was", "wer", "war", "man"}


def test_short_words_of_other_scripts_are_terms():
    questions = ["Напиши рассказ про мир и про кота", "Как приготовить суп из рыбы?", "Где купить чай в Москве?"] * 2
    [name] = _Words(questions).name_clusters(np.zeros(6, np.int32), 1, [])
    assert len(min(name.split(" / "), key=len)) < 4


def test_nothing_fails_where_no_word_is_left():
    for text in ("the of and", "Ist das ein Cluster oder nicht?"):
        assert _Words([text] * 30).name_clusters(np.zeros(30, np.int32), 1, []) == ["cluster"]
