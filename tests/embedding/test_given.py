import numpy as np
import pytest

from mig_selector.embedding.given import read_given_vectors
from mig_selector.errors import EmbeddingError


def write(path, labels, vectors, **more):
    np.savez(path, labels=np.asarray(labels), embeddings=np.asarray(vectors), **more)
    return path


def test_vectors_come_in_the_order_of_the_labels_and_others_are_ignored(tmp_path):
    path = write(tmp_path / "v.npz", ["pear", "fig", "apple"], np.array([[1, 2], [3, 4], [5, 6]], np.float16))
    vectors = read_given_vectors(path, ["apple", "pear"])
    assert vectors.dtype == np.float64
    assert vectors.tolist() == [[5, 6], [1, 2]]


def test_labels_without_a_vector_are_counted_and_the_first_five_named(tmp_path):
    path = write(tmp_path / "v.npz", ["a"], [[1.0]])
    with pytest.raises(EmbeddingError, match=r"lacks 6 of the 7 labels in use: 'b', 'c', 'd', 'e', 'f', \.\.\."):
        read_given_vectors(path, list("abcdefg"))


@pytest.mark.parametrize(
    ("labels", "vectors", "message"),
    [
        (["a", "a"], [[1.0], [2.0]], "the label 'a' occurs more than once"),
        (["a", "b"], [[1.0], [np.nan]], "1 vectors are zero or not finite, the first for the label 'b'"),
        (["a", "b"], [[0.0], [1.0]], "1 vectors are zero or not finite, the first for the label 'a'"),
        (["a", "b"], [[np.inf], [1.0]], "1 vectors are zero or not finite, the first for the label 'a'"),
        (["a", "b"], [[1e200], [1.0]], "1 vectors are zero or not finite, the first for the label 'a'"),
        (["a", "b"], [[1.0], [1e-200]], "1 vectors are zero or not finite, the first for the label 'b'"),
        ([1, 2], [[1.0], [2.0]], "must be a unicode array"),
        ([["a"]], [[1.0]], "must be a unicode array"),
        (["a", "b"], [[1.0]], r"must be floats of shape \(2, D\), got float64 \(1, 1\)"),
        (["a"], [[1]], r"must be floats of shape \(1, D\), got int64"),
    ],
)
def test_arrays_of_wrong_shape_type_or_content_are_refused(tmp_path, labels, vectors, message):
    with pytest.raises(EmbeddingError, match=message):
        read_given_vectors(write(tmp_path / "v.npz", labels, vectors), ["a"])


def test_object_arrays_would_need_pickle_and_are_refused(tmp_path):
    path = write(tmp_path / "v.npz", np.array(["a"], object), [[1.0]])
    with pytest.raises(EmbeddingError, match="without pickle"):
        read_given_vectors(path, ["a"])


def test_files_of_another_kind_are_refused(tmp_path):
    (tmp_path / "v.npz").write_text("labels")
    with pytest.raises(EmbeddingError, match=r"mig_label_embeddings: .*v\.npz is not an \.npz file; write one with"):
        read_given_vectors(tmp_path / "v.npz", ["a"])
    np.savez(tmp_path / "w.npz", labels=np.array(["a"]))
    with pytest.raises(EmbeddingError, match=r"must hold the arrays 'labels' and 'embeddings', got \['labels'\]"):
        read_given_vectors(tmp_path / "w.npz", ["a"])
