"""A language model labels a sample of the rows; a small classifier learns from it, and labels the others.

Dimension letters: N rows, K labels that are learnt, D dimensions of a question's vector.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from mig_selector.annotation.tagger import Tagger, Tags
from mig_selector.annotation.tools import ModelName, Rows, Tools
from mig_selector.annotation.vectors import unit_length
from mig_selector.arrays import RowLabels
from mig_selector.console import progress
from mig_selector.errors import PoolError
from mig_selector.settings import Setting, at_least, between


logger = logging.getLogger(__name__)

_LEAST_ROWS = 10
"""Labels that fewer rows of the sample have are not learnt."""
_LEAST_LEAD = 0.05
"""By which F1 must exceed that of giving every row the most frequent labels; less is hardly more than chance."""
_THRESHOLDS = np.linspace(0.05, 0.6, 12)
"""Probabilities from which a row gets a label; the one with the best F1 is used."""
_REGULARIZATION = 10.0
"""C of the logistic regression. Vectors have length 1, so that its usual 1 would hardly let it learn."""
_SEED = 0
_BLOCK_ROWS = 8_192


@dataclass(frozen=True, kw_only=True)
class DistillationSettings:
    """The keys of the tagger ``distilled``."""

    mig_distill_teacher: Annotated[
        Literal["llm", "instagger"],
        Setting(
            "What labels the rows that mig_tagger: distilled learns from: llm (the chat model of mig_annotator_url) "
            "or instagger (the model of mig_distill_model, on all ranks).",
            decides=True,
        ),
    ] = "llm"
    mig_distill_model: Annotated[
        str,
        Setting("Causal language model of mig_distill_teacher: instagger: hub id or folder.", decides=True),
    ] = "OFA-Sys/InsTagger"
    mig_distill_rows: Annotated[
        int,
        Setting(
            "Rows that mig_tagger: distilled has labelled by its teacher, and learns from.",
            at_least(200),
            decides=True,
        ),
    ] = 10_000
    mig_distill_min_f1: Annotated[
        float,
        Setting(
            "Micro-averaged F1 on held-out rows below which mig_tagger: distilled stops the run.",
            between(0, 1),
            decides=False,
        ),
    ] = 0.3


@dataclass(frozen=True)
class DistilledTagger(Tagger):
    """Learns the labels of a teacher from a sample."""

    teacher: Tagger
    model: ModelName
    """Embeds the questions."""
    max_tokens: int
    """Tokens of a question that the model reads."""
    num_rows: int
    min_f1: float

    embeds_labels = True
    brings_vectors = False
    invents_labels = True
    depends_on_all_rows = True

    @property
    def may_succeed_later(self) -> bool:
        """Where the teacher labels all rows, what it says of them."""
        return self.teacher.may_succeed_later

    @property
    def advice(self) -> str | None:
        """The teacher's."""
        return self.teacher.advice

    @property
    def models(self) -> tuple[ModelName, ...]:
        """The one that embeds the questions, and the teacher's."""
        return (self.model, *self.teacher.models)

    @property
    def identity(self) -> dict[str, Any]:
        """The teacher, the size of the sample, and what the classifier sees."""
        return {
            "kind": "distilled",
            "version": 2,
            "teacher": self.teacher.identity,
            "rows": self.num_rows,
            "max_tokens": self.max_tokens,
        }

    def tag(self, rows: Rows, tools: Tools) -> Tags:
        """Label rows; see `Tagger.tag`. Rows of the sample keep the labels of the teacher."""
        is_taught = self.draw(rows)
        taught = self.teacher.tag(rows.take(is_taught), tools)
        if is_taught.all():
            return taught
        vectors = tools.embed_questions(rows, self.model, self.max_tokens)
        has_labels = taught.labels.counts > 0
        learnt_from = np.flatnonzero(is_taught)[has_labels]
        classifier, figures = learn(vectors[learnt_from], taught.labels.take(has_labels))
        logger.info(
            "distilled: held-out F1 %.2f (micro; %.2f if every row got the most frequent labels), %.2f (macro)",
            *(figures[name] for name in ("micro_f1", "baseline_f1", "macro_f1")),
        )
        self.check(figures)
        labels = _join(taught.labels, learnt_from, has_labels, classifier, vectors)
        figures = {"rows": int(is_taught.sum()), "failed": len(taught.failures), **figures}
        return Tags(labels, figures=figures)

    def check(self, figures: Mapping[str, Any]) -> None:
        """Compare the held-out F1 with the least that is wanted; see `Tagger.check`."""
        if figures["micro_f1"] < self.min_f1:
            raise PoolError(
                f"mig_tagger: distilled: F1 on {figures['held_out_rows']:,} held-out rows is "
                f"{figures['micro_f1']:.2f}, below mig_distill_min_f1: {self.min_f1:g}, so the labels of the other "
                "rows would be poor. Set a larger mig_distill_rows (a chat model is not asked again about rows that "
                "it has labelled), another mig_tagger_model, or mig_tagger: llm or instagger, which label all rows."
            )
        if figures["micro_f1"] < figures["baseline_f1"] + _LEAST_LEAD:
            logger.warning(
                "mig_tagger: distilled: F1 on held-out rows is %.2f, and %.2f if every row got the most frequent "
                "labels: the labels hardly depend on the questions. Look at what the teacher gives (mig-selector "
                "annotate with mig_tagger: %s), or take another mig_tagger_model.",
                figures["micro_f1"],
                figures["baseline_f1"],
                self.teacher.identity["kind"],
            )

    def rehearse(self, rows: Rows, tools: Tools) -> None:
        """Embed the questions; see `Tagger.rehearse`."""
        tools.embed_questions(rows, self.model, self.max_tokens)

    def draw(self, rows: Rows) -> NDArray[np.bool_]:
        """Draw the sample, by the hashes of the questions: with a few rows more, most of it stays. Shape (N,)."""
        texts = (f"{_SEED}\n{question}".encode("utf-8", "surrogatepass") for question in rows.questions())
        keys = np.array([int.from_bytes(hashlib.sha256(text).digest()[:8], "big") for text in texts], np.uint64)
        is_drawn = np.zeros(len(keys), np.bool_)
        is_drawn[np.argsort(keys, kind="stable")[: self.num_rows]] = True
        return is_drawn


@dataclass(frozen=True)
class Classifier:
    """A logistic regression for each label."""

    names: list[str]
    """Length K."""
    weights: NDArray[np.float64]
    """Shape (D, K)."""
    offsets: NDArray[np.float64]
    """Shape (K,)."""
    threshold: float
    """Probability from which a row gets a label."""

    def probabilities(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the probability of each label, rounded: the last bits depend on the threads. Shape (n, K)."""
        logits = unit_length(vectors).astype(np.float64) @ self.weights + self.offsets
        probabilities: NDArray[np.float64] = np.round(1 / (1 + np.exp(-logits)), 5)
        return probabilities

    def predict(self, vectors: NDArray[np.float32]) -> RowLabels:
        """Label rows by their vectors, shape (n, D), the likeliest label first; every row gets at least one."""
        counts, ids = [], []
        for start in range(0, len(vectors), _BLOCK_ROWS):
            found = self.probabilities(vectors[start : start + _BLOCK_ROWS])
            order = np.argsort(-found, axis=1, kind="stable")
            is_label = np.take_along_axis(decide(found, self.threshold), order, axis=1)
            counts.append(is_label.sum(axis=1))
            ids.append(order[is_label])
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.concatenate(counts))])
        return RowLabels(self.names, offsets, np.concatenate(ids).astype(np.int32))


def decide(probabilities: NDArray[np.float64], threshold: float) -> NDArray[np.bool_]:
    """Say which labels rows get: the likely ones, and the likeliest where none is likely. Shape (n, K)."""
    is_label = probabilities >= threshold
    is_label[np.arange(len(probabilities)), probabilities.argmax(axis=1)] = True
    return is_label


def learn(vectors: NDArray[np.float32], labels: RowLabels) -> tuple[Classifier, dict[str, Any]]:
    """Learn the labels of rows from their vectors.

    Of the rows, 80 % are learnt from, 10 % set the threshold, and 10 % are held out for the F1.

    Args:
        vectors: Of n rows. Shape (n, D).
        labels: Of these rows, none without any.

    Returns:
        The classifier, and figures: the held-out F1 over the labels that were learnt, that of giving every row the
        most frequent ones, as many as fit best, and the share of all held-out labels that these make up.

    Raises:
        PoolError: No label is frequent enough to be learnt.
    """
    from sklearn.linear_model import LogisticRegression

    has_label = np.zeros((len(labels), len(labels.names)), np.bool_)
    has_label[np.repeat(np.arange(len(labels)), labels.counts), labels.ids] = True
    order = np.random.default_rng(_SEED).permutation(len(labels))
    train, tune, held_out = np.split(order, [len(order) * 8 // 10, len(order) * 9 // 10])
    counts = has_label[train].sum(axis=0)
    known = np.flatnonzero((counts >= _LEAST_ROWS) & (counts < len(train)))
    if not len(known):
        raise PoolError(
            f"mig_tagger: distilled: no label was given to {_LEAST_ROWS} of the {len(train):,} rows that are learnt "
            "from; set a larger mig_distill_rows, or mig_tagger: llm or instagger, which label all rows."
        )
    unit = unit_length(vectors).astype(np.float64)
    models = []
    # On one thread, which is ten times faster for so small a problem, and whose last bits do not depend on the number.
    with threadpool_limits(1), progress("learning labels", len(known), "labels", is_main=True) as bar:
        for label in known:
            model = LogisticRegression(C=_REGULARIZATION, max_iter=200)
            models.append(model.fit(unit[train], has_label[train, label]))
            bar(1)
    weights = np.concatenate([model.coef_ for model in models]).T
    offsets = np.concatenate([model.intercept_ for model in models])
    names = [labels.names[label] for label in known.tolist()]
    untuned = Classifier(names, weights, offsets, 0.5)
    found = untuned.probabilities(vectors[tune])
    has_known = has_label[:, known]
    f1 = [f1_scores(has_known[tune], decide(found, threshold))[0] for threshold in _THRESHOLDS]
    classifier = Classifier(names, weights, offsets, float(_THRESHOLDS[int(np.argmax(f1))]))
    truth = has_label[held_out]
    found = classifier.probabilities(vectors[held_out])
    micro, macro = f1_scores(has_known[held_out], decide(found, classifier.threshold))
    by_frequency = np.argsort(-counts[known], kind="stable")
    most = int(np.argmax(_constant_f1(has_known[tune][:, by_frequency])))
    baseline = _constant_f1(has_known[held_out][:, by_frequency])[most]
    return classifier, {
        "labels": len(known),
        "threshold": round(classifier.threshold, 2),
        "held_out_rows": len(held_out),
        "micro_f1": round(micro, 4),
        "baseline_f1": round(float(baseline), 4),
        "macro_f1": round(macro, 4),
        "learnt_share": round(float(truth[:, known].sum() / max(truth.sum(), 1)), 4),
    }


def f1_scores(truth: NDArray[np.bool_], found: NDArray[np.bool_]) -> tuple[float, float]:
    """Return F1 over all pairs of row and label (micro), and the mean over labels that some row has (macro).

    Args:
        truth: Which labels rows have. Shape (n, K).
        found: Which they were given. Shape (n, K).
    """
    both, either = (truth & found).sum(axis=0), truth.sum(axis=0) + found.sum(axis=0)
    is_there = truth.any(axis=0)
    micro = 2 * both.sum() / max(either.sum(), 1)
    macro = np.mean(2 * both[is_there] / either[is_there]) if is_there.any() else 0.0
    return float(micro), float(macro)


def _constant_f1(truth: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the micro-averaged F1 of giving every row the first label, the first two, and so on.

    Args:
        truth: Which labels rows have. Shape (n, K).

    Returns:
        Shape (K,).
    """
    given = np.arange(1, truth.shape[1] + 1) * len(truth)
    f1: NDArray[np.float64] = 2 * np.cumsum(truth.sum(axis=0)) / np.maximum(given + truth.sum(), 1)
    return f1


def _join(
    taught: RowLabels,
    learnt_from: NDArray[np.int64],
    has_labels: NDArray[np.bool_],
    classifier: Classifier,
    vectors: NDArray[np.float32],
) -> RowLabels:
    """Return the labels of all rows: the teacher's where it gave some, else the classifier's."""
    is_rest = np.ones(len(vectors), np.bool_)
    is_rest[learnt_from] = False
    learnt = classifier.predict(vectors[is_rest])
    counts = np.empty(len(vectors), np.int64)
    counts[is_rest], counts[~is_rest] = learnt.counts, taught.counts[has_labels]
    numbers = {name: number for number, name in enumerate(taught.names)}
    known = np.array([numbers[name] for name in learnt.names], np.int32)
    is_learnt = np.repeat(is_rest, counts)
    ids = np.empty(len(is_learnt), np.int32)
    ids[is_learnt], ids[~is_learnt] = known[learnt.ids], taught.ids
    return RowLabels(taught.names, np.concatenate((np.zeros(1, np.int64), np.cumsum(counts))), ids)
