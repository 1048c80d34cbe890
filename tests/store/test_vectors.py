import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import needs_root

from mig_selector.store.vectors import VectorCache


VECTORS = np.array([[1.5, -2.25], [3.0, 1e-30], [0.1, 7.0]], np.float32)


def test_what_is_written_is_read_bit_for_bit(tmp_path):
    cache = VectorCache(tmp_path, "a" * 64)
    assert cache.read(["x"]) == {}
    cache.write(["é 答え", "", "x"], VECTORS)
    found = VectorCache(tmp_path, "a" * 64).read(["x", "", "é 答え", "unknown"])
    assert set(found) == {"x", "", "é 答え"}
    for label, vector in zip(["é 答え", "", "x"], VECTORS, strict=True):
        assert found[label].dtype == np.float32
        assert found[label].tobytes() == vector.tobytes()


def test_labels_add_up_over_several_writes(tmp_path):
    cache = VectorCache(tmp_path, "a" * 64)
    cache.write(["x", "y"], VECTORS[:2])
    cache.write(["z"], VECTORS[2:])
    found = cache.read(["z", "y"])
    assert set(found) == {"z", "y"}
    assert found["z"].tolist() == VECTORS[2].tolist()
    assert found["y"].tolist() == VECTORS[1].tolist()


def test_encoders_do_not_see_each_others_vectors(tmp_path):
    VectorCache(tmp_path, "a" * 64).write(["x"], VECTORS[:1])
    VectorCache(tmp_path, "b" * 64).write(["x"], np.ones((1, 5), np.float32))
    assert VectorCache(tmp_path, "a" * 64).read(["x"])["x"].shape == (2,)
    assert VectorCache(tmp_path, "b" * 64).read(["x"])["x"].shape == (5,)
    assert VectorCache(tmp_path, "c" * 64).read(["x"]) == {}


def test_labels_are_told_apart_however_they_are_joined(tmp_path):
    cache = VectorCache(tmp_path, "a" * 64)
    cache.write(["x\0y"], VECTORS[:1])
    cache.write(["x", "y"], VECTORS[1:])
    assert set(cache.read(["x", "y", "x\0y"])) == {"x", "y", "x\0y"}


def test_a_write_that_fails_leaves_nothing(tmp_path):
    cache = VectorCache(tmp_path, "a" * 64)
    with pytest.raises(ValueError, match=r"shape|length|size"):
        cache.write(["x", "y"], VECTORS[:1])
    assert cache.read(["x", "y"]) == {}
    assert list(tmp_path.rglob("*.*")) == []


@pytest.mark.parametrize("damage", ["cut", "empty", "bit", "no checksum", "NaN"])
def test_a_damaged_file_counts_as_absent_is_said_once_and_goes(tmp_path, caplog, damage):
    cache = VectorCache(tmp_path, "a" * 64)
    cache.write(["z"], VECTORS[2:])
    before = set(tmp_path.rglob("*.parquet"))
    cache.write(["x", "y"], VECTORS[:2])
    [file] = set(tmp_path.rglob("*.parquet")) - before
    content = bytearray(file.read_bytes())
    if damage in ("no checksum", "NaN"):
        table = pq.read_table(file)
        vectors = pa.array(np.full(4, np.nan, np.float32) if damage == "NaN" else VECTORS[:2].ravel())
        table = table.set_column(1, "embedding", pa.FixedSizeListArray.from_arrays(vectors, 2))
        pq.write_table(table.replace_schema_metadata(None) if damage == "no checksum" else table, file)
    else:
        start = content.find(VECTORS[:2].tobytes()[:4])
        content[start] ^= 1
        file.write_bytes({"cut": content[:-30], "empty": b"", "bit": content}[damage])
    assert set(cache.read(["x", "y", "z"])) == {"z"}
    assert set(cache.read(["x", "y", "z"])) == {"z"}
    assert [record.message for record in caplog.records] == [
        f"{file} is damaged or has no checksum; its label vectors are computed again"
    ]
    cache.write(["x", "y"], VECTORS[:2])
    assert set(cache.read(["x", "y", "z"])) == {"x", "y", "z"}


def test_vectors_of_another_encoder_do_not_become_this_ones(tmp_path):
    VectorCache(tmp_path, "a" * 64).write(["x"], VECTORS[:1])
    (tmp_path / "embeddings" / ("a" * 32)).rename(tmp_path / "embeddings" / ("b" * 32))
    assert VectorCache(tmp_path, "b" * 64).read(["x"]) == {}


@needs_root
def test_vectors_of_another_user_are_not_believed(tmp_path, caplog):
    cache = VectorCache(tmp_path, "a" * 64)
    cache.write(["x"], VECTORS[:1])
    [file] = tmp_path.rglob("*.parquet")
    os.chown(file, 4242, 4242)
    assert cache.read(["x"]) == {}
    assert cache.read(["x"]) == {}
    assert caplog.text.count("is not used") == 1
    assert file.exists()
