"""Small pools for the search, written by hand and generated."""

import numpy as np
from hypothesis import strategies as st

from mig_selector.arrays import LabelledPool, RowLabels
from mig_selector.graph.label_graph import build_adjacency, build_propagation
from mig_selector.selection.greedy import select_rows
from mig_selector.selection.objective import Objective


IDENTITY = build_propagation(build_adjacency(np.eye(3), 0.9), 1.0)


def as_pool(label_sets, scores):
    lengths = [len(labels) for labels in label_sets]
    ids = [label for labels in label_sets for label in sorted(labels)]
    offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
    names = [str(label) for label in range(max(ids, default=-1) + 1)]
    return LabelledPool(RowLabels(names, offsets, np.array(ids, np.int32)), np.array(scores, np.float64))


def choose(label_sets, scores, matrix, objective, budget):
    return select_rows(as_pool(label_sets, scores), matrix, objective, budget)


OBJECTIVES = [
    Objective(phi="pow", gain="gradient"),
    Objective(phi="exp", gain="gradient"),
    Objective(phi="pow", gain="marginal"),
    Objective(phi="exp", gain="marginal", rate=0.7),
    Objective(phi="pow", gain="marginal", exponent=1.0, offset=0.5),
]

SCORES = st.one_of(
    st.sampled_from([0.0, 1.0, 2.0, 2.5, 1e-9, 1e6]),  # many ties, and magnitudes that lose digits when added
    st.floats(0.01, 30.0),
)


def name_of(objective):
    return f"{objective.phi}-{objective.gain}-{objective.exponent}"


@st.composite
def pools(draw):
    size = draw(st.integers(1, 6))
    count = draw(st.integers(1, 22))
    label_sets = draw(st.lists(st.frozensets(st.integers(0, size - 1), max_size=size), min_size=count, max_size=count))
    scores = draw(st.lists(SCORES, min_size=count, max_size=count))
    if draw(st.booleans()):  # mig_normalize: by the labels a row names, including some outside the vocabulary
        named = [len(labels) + draw(st.integers(0, 2)) for labels in label_sets]
        scores = [score / max(count_, 1) for score, count_ in zip(scores, named, strict=True)]
    vectors = np.random.default_rng(draw(st.integers(0, 2**16))).normal(size=(size, 3)) + 0.6
    threshold = draw(st.sampled_from([0.3, 0.6, 0.9, 1.0]))
    alpha = draw(st.sampled_from([0.0, 0.5, 1.0, 2.0]))
    matrix = build_propagation(build_adjacency(vectors, threshold), alpha)
    return label_sets, scores, matrix, draw(st.integers(1, count))
