"""What is learnt from labelled rows, and how its quality is measured."""

import numpy as np
import pytest

from mig_selector.annotation.distilled import DistilledTagger, decide, f1_scores, learn
from mig_selector.annotation.instagger import InstaggerTagger
from mig_selector.annotation.tools import ModelName
from mig_selector.arrays import RowLabels
from mig_selector.errors import PoolError


LANGUAGE_MODEL = InstaggerTagger(ModelName("mig_distill_model", "some"), "{query}", 8)


def labels_of(has_label):
    offsets = np.concatenate(([0], np.cumsum(has_label.sum(axis=1))))
    ids = np.nonzero(has_label)[1].astype(np.int32)
    return RowLabels([f"label {number}" for number in range(has_label.shape[1])], offsets.astype(np.int64), ids)


def planted(rng, count):
    """Rows with the labels whose direction they point to."""
    vectors = rng.normal(size=(count, 8))
    vectors[:, 6:] *= 0.1
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float32), decide(vectors[:, :6].copy(), 0.4)


def test_labels_that_follow_from_the_vectors_are_learnt():
    vectors, truth = planted(np.random.default_rng(0), 1000)
    classifier, figures = learn(vectors, labels_of(truth))
    assert (figures["labels"], figures["held_out_rows"], figures["learnt_share"]) == (6, 100, 1.0)
    assert figures["micro_f1"] > 0.8 > figures["baseline_f1"] + 0.3
    more, expected = planted(np.random.default_rng(1), 300)
    found = classifier.predict(more)
    assert found.counts.min() >= 1
    has_label = np.zeros_like(expected)
    has_label[np.repeat(np.arange(300), found.counts), found.ids] = True
    assert f1_scores(expected, has_label)[0] == pytest.approx(figures["micro_f1"], abs=0.1)
    probabilities = classifier.probabilities(more)
    for row in range(300):
        own = probabilities[row, found.ids[found.offsets[row] : found.offsets[row + 1]]].tolist()
        assert own == sorted(own, reverse=True)  # the likeliest first


def test_labels_that_do_not_follow_from_the_vectors_have_a_low_f1():
    rng = np.random.default_rng(0)
    _, figures = learn(rng.normal(size=(600, 8)).astype(np.float32), labels_of(decide(rng.random((600, 20)), 0.95)))
    assert figures["micro_f1"] < 0.3


def test_labels_that_most_rows_have_are_no_merit(caplog):
    rng = np.random.default_rng(0)
    truth = rng.random((2000, 3)) < (0.9, 0.8, 0.1)
    truth[~truth.any(axis=1), 0] = True
    _, figures = learn(rng.normal(size=(2000, 8)).astype(np.float32), labels_of(truth))
    constant = np.zeros((2000, 3), np.bool_)
    constant[:, :2] = True
    assert figures["baseline_f1"] == pytest.approx(f1_scores(truth, constant)[0], abs=0.04)
    assert figures["micro_f1"] == pytest.approx(figures["baseline_f1"], abs=0.02)
    tagger = DistilledTagger(LANGUAGE_MODEL, ModelName("mig_tagger_model", "some"), 128, 200, 0.3)
    tagger.check({**figures, "micro_f1": figures["baseline_f1"] + 0.06})
    assert "most frequent" not in caplog.text
    tagger.check(figures)
    assert "if every row got the most frequent labels: the labels hardly depend on the questions" in caplog.text


def test_rare_labels_are_not_learnt_and_their_share_is_told():
    vectors, truth = planted(np.random.default_rng(0), 500)
    rare = np.zeros((500, 250), np.bool_)
    rare[np.arange(500), np.arange(500) % 250] = True
    classifier, figures = learn(vectors, labels_of(np.hstack((truth, rare))))
    assert classifier.names == [f"label {number}" for number in range(6)]
    assert 0.4 < figures["learnt_share"] < 0.75
    with pytest.raises(PoolError, match="no label was given to 10 of the 400 rows that are learnt from"):
        learn(vectors, labels_of(rare))


@pytest.mark.parametrize("seed", range(4))
def test_f1_is_that_of_its_definition(seed):
    rng = np.random.default_rng(seed)
    truth, found = rng.random((30, 5)) < 0.3, rng.random((30, 5)) < 0.4
    truth[:, 4] = False  # no row has it
    each = []
    totals = [0, 0, 0]
    for label in range(5):
        pairs = list(zip(truth[:, label].tolist(), found[:, label].tolist(), strict=True))
        counts = [pairs.count((True, True)), pairs.count((False, True)), pairs.count((True, False))]
        totals = [one + other for one, other in zip(totals, counts, strict=True)]
        if label < 4:
            each.append(2 * counts[0] / (2 * counts[0] + counts[1] + counts[2]))
    micro = 2 * totals[0] / (2 * totals[0] + totals[1] + totals[2])
    assert f1_scores(truth, found) == pytest.approx((micro, sum(each) / 4))
