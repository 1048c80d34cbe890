"""Clusters are those of scikit-learn on one thread; in blocks and batches they are close to them."""

import subprocess
import sys

import numpy as np
import pytest
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.decomposition import PCA
from threadpoolctl import threadpool_info, threadpool_limits

from mig_selector.errors import EmbeddingError
from mig_selector.selection import clusters
from mig_selector.selection.clusters import cluster_by_batches, cluster_exactly, cluster_rows, reduce_by_blocks


def cloud(num_rows, dimensions, seed, dtype=np.float64):
    """Draw vectors whose coordinates vary less and less, around a mean that is not zero."""
    scale = (np.arange(dimensions) + 1.0) ** -0.6
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(num_rows, dimensions)) * scale + rng.normal(size=dimensions)).astype(dtype)


def islands(num_islands, rows_each, seed):
    """Draw vectors around centres far apart; return them and the number of each one's centre."""
    rng = np.random.default_rng(seed)
    truth = rng.permutation(np.repeat(np.arange(num_islands), rows_each))
    centres = 10.0 * np.eye(num_islands)
    return (centres[truth] + 0.01 * rng.normal(size=(len(truth), num_islands))).astype(np.float32), truth


def in_file_order(embeddings):
    return np.arange(len(embeddings))


def partition(numbers):
    """Return the sets of rows with equal cluster numbers, whatever the numbers are."""
    return {frozenset(np.flatnonzero(numbers == number).tolist()) for number in np.unique(numbers)}


@pytest.mark.parametrize("seed", [0, 1, 42])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_exact_clusters_are_those_of_scikit_learn(seed, dtype):
    embeddings = cloud(500, 24, seed, dtype)
    with threadpool_limits(1):
        reduced = PCA(n_components=0.95, svd_solver="full", random_state=seed).fit_transform(embeddings)
        expected = KMeans(n_clusters=15, n_init=10, random_state=seed).fit_predict(reduced)
    assert cluster_exactly(embeddings, in_file_order(embeddings), 15, seed).tolist() == expected.tolist()


def test_rows_are_clustered_in_the_order_given_and_found_again_in_that_of_the_file():
    embeddings = cloud(500, 24, 1, np.float32)
    order = np.random.default_rng(1).permutation(500)
    with threadpool_limits(1):
        reduced = PCA(n_components=0.95, svd_solver="full").fit_transform(embeddings[order])
        expected = KMeans(n_clusters=15, n_init=10, random_state=42).fit_predict(reduced)
    found = cluster_exactly(embeddings, order, 15, 42)
    assert found[order].tolist() == expected.tolist()
    assert partition(found) != partition(cluster_exactly(embeddings, in_file_order(embeddings), 15, 42))


def test_so_they_are_in_batches():
    embeddings = cloud(900, 24, 1, np.float32)
    order = np.random.default_rng(1).permutation(900)
    with threadpool_limits(1):
        means = MiniBatchKMeans(n_clusters=21, n_init=1, batch_size=32 * 21, random_state=42)
        expected = means.fit_predict(reduce_by_blocks(embeddings, order))
    found = cluster_by_batches(embeddings, order, 21, 42)
    assert found[order].tolist() == expected.tolist()
    assert partition(found) != partition(cluster_by_batches(embeddings, in_file_order(embeddings), 21, 42))


@pytest.mark.parametrize("block_rows", [7, 100, 8_192])
def test_reducing_by_blocks_is_scikit_learns_pca_up_to_signs(monkeypatch, tmp_path, block_rows):
    monkeypatch.setattr(clusters, "_BLOCK_ROWS", block_rows)
    embeddings = cloud(700, 30, 3, np.float32)
    np.save(tmp_path / "vectors.npy", embeddings)
    expected = PCA(n_components=0.95, svd_solver="full").fit_transform(embeddings.astype(np.float64))
    order = np.random.default_rng(block_rows).permutation(700)
    found = reduce_by_blocks(np.load(tmp_path / "vectors.npy", mmap_mode="r"), order)
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    np.testing.assert_allclose(np.abs(found), np.abs(expected[order]), rtol=0, atol=1e-5)


def test_as_many_dimensions_are_kept_as_hold_more_than_95_percent():
    vectors = np.diag([19.0, 3.0, 3.0, 1.0])  # the squares add up to 380; 361 are 95 %, and not more
    vectors = np.concatenate((vectors, -vectors))
    assert PCA(n_components=0.95, svd_solver="full").fit(vectors).n_components_ == 2
    assert reduce_by_blocks(vectors[:, [2, 0, 3, 1]], in_file_order(vectors)).shape == (8, 2)


@pytest.mark.parametrize("cluster", [cluster_exactly, cluster_by_batches])
def test_islands_are_found(cluster):
    embeddings, truth = islands(12, 25, 5)
    assert partition(cluster(embeddings, in_file_order(embeddings), 12, 42)) == partition(truth)


def test_batches_bring_rows_nearly_as_close_to_their_centres_as_exact_k_means():
    embeddings = cloud(6_000, 20, 9, np.float32)

    def spread(numbers):
        members = (embeddings[numbers == number].astype(np.float64) for number in np.unique(numbers))
        return sum(((rows - rows.mean(axis=0)) ** 2).sum() for rows in members)

    order = in_file_order(embeddings)
    exact, batches = (spread(cluster(embeddings, order, 30, 42)) for cluster in (cluster_exactly, cluster_by_batches))
    assert exact <= batches < 1.05 * exact


@pytest.mark.parametrize(("cluster", "means"), [(cluster_exactly, KMeans), (cluster_by_batches, MiniBatchKMeans)])
def test_k_means_runs_on_one_thread_so_that_cores_do_not_change_clusters(monkeypatch, cluster, means):
    seen, fit_predict = [], means.fit_predict

    def record_threads(self, rows):
        seen.extend(library["num_threads"] for library in threadpool_info())
        return fit_predict(self, rows)

    monkeypatch.setattr(means, "fit_predict", record_threads)
    with threadpool_limits(4):
        cluster(cloud(50, 8, 0), np.arange(50), 5, 42)
        assert {library["num_threads"] for library in threadpool_info()} != {1}
    assert set(seen) == {1}


@pytest.mark.parametrize(
    ("most", "expected", "line"),
    [
        (300, cluster_exactly, "12 of 300 rows, by k-means on all rows"),
        (299, cluster_by_batches, "12 of 300 rows, by k-means in mini-batches, as there are more than 299 rows"),
    ],
)
def test_the_number_of_rows_decides_and_the_log_says_how(monkeypatch, caplog, most, expected, line):
    monkeypatch.setattr(clusters, "EXACT_ROWS", most)
    embeddings, order = cloud(300, 12, 2), np.arange(300)[::-1]
    with caplog.at_level("INFO", logger="mig_selector"):
        assert cluster_rows(embeddings, order, 12, 7).tolist() == expected(embeddings, order, 12, 7).tolist()
    assert caplog.messages == [f"clusters: {line}"]


def test_a_single_cluster_needs_no_search():
    assert cluster_rows(np.ones((1, 4)), np.arange(1), 1, 42).tolist() == [0]
    assert cluster_rows(cloud(5, 3, 0), np.arange(5), 1, 42).tolist() == [0] * 5


@pytest.mark.parametrize("seed", [2**32 - 1, 2**32 + 5])
def test_any_seed_is_accepted(seed):
    embeddings, truth = islands(3, 8, 0)
    assert partition(cluster_rows(embeddings, in_file_order(embeddings), 3, seed)) == partition(truth)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_vector_that_is_not_finite_is_named(monkeypatch, value):
    monkeypatch.setattr(clusters, "_BLOCK_ROWS", 10)
    embeddings = cloud(40, 5, 0)
    embeddings[23, 2] = value
    with pytest.raises(EmbeddingError, match=r"the vector of kept row 23 \(0-based\) has NaN or infinity"):
        cluster_rows(embeddings, np.arange(40)[::-1], 4, 42)


def test_importing_clusters_loads_only_numpy():
    program = (
        "import sys, mig_selector.selection.methods.car\n"
        "print(*({'sklearn', 'scipy', 'threadpoolctl', 'numba'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
