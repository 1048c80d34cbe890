import numpy as np
import pytest

from mig_selector.graph.density import count_edges, describe_density
from mig_selector.graph.label_graph import build_adjacency


def vectors(count, spread, seed=0):
    """Vectors around one direction; the larger the spread, the fewer are alike."""
    return 1.0 + spread * np.random.default_rng(seed).normal(size=(count, 16))


@pytest.mark.parametrize("spread", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("count", [20, 300, 700])
def test_edges_at_other_thresholds_are_those_of_the_graph(spread, count):
    given, thresholds = vectors(count, spread), (0.95, 0.8, 0.5)
    assert count_edges(given, thresholds) == [build_adjacency(given, each).num_edges for each in thresholds]


def test_edges_of_many_labels_are_estimated():
    given = vectors(5000, 1.0)
    exact = build_adjacency(given, 0.7).num_edges
    assert count_edges(given, [0.7])[0] == pytest.approx(exact, rel=0.05)


def test_a_graph_that_says_nothing_is_described():
    empty = describe_density(vectors(100, 3.0), 4, 0.9)
    assert empty.startswith("the graph is nearly empty: at most one label in ten has a neighbour")
    assert " at mig_edge_threshold 0.9; edges: " in empty
    assert " at 0.5" in empty
    full = describe_density(vectors(100, 0.1), 4950, 0.9)
    assert full.startswith("the graph is nearly complete: more than half of all pairs are joined")
    assert "4,950 at 0.9" in full


def test_any_other_graph_is_not():
    assert describe_density(vectors(100, 1.0), 500, 0.9) is None
    assert describe_density(vectors(8, 3.0), 0, 0.9) is None  # too few labels to say
