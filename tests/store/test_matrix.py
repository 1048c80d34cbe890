import os
import random
import re
import signal
import time
from types import SimpleNamespace

import numpy as np
import pytest

from mig_selector.errors import ArgumentError
from mig_selector.store.matrix import MatrixFile


ROWS = np.arange(60, dtype=np.float32).reshape(20, 3)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "vectors.npy"


def files(path):
    return [file.name for file in path.parent.iterdir()]


def fill(matrix, rows, chunk=4, pause=0.0):
    """Append what is missing; return how many rows were there before."""
    done = matrix.begin(rows.shape[1])
    for start in range(done, len(rows), chunk):
        matrix.append(rows[start : start + chunk])
        time.sleep(pause)
    matrix.finish()
    return done


def test_a_matrix_is_a_file_that_numpy_maps(path):
    matrix = MatrixFile(path, 20)
    assert not matrix.is_complete()
    assert fill(matrix, ROWS) == 0
    assert matrix.is_complete()
    found = np.load(path, mmap_mode="r", allow_pickle=False)
    assert isinstance(found, np.memmap)
    assert found.dtype == np.float32
    assert np.array_equal(found, ROWS)
    assert files(path) == ["vectors.npy"]


def test_rows_on_disk_are_not_asked_for_again(path):
    first = MatrixFile(path, 20)
    first.begin(3)
    first.append(ROWS[:8])
    assert fill(MatrixFile(path, 20), ROWS) == 8
    assert np.array_equal(np.load(path), ROWS)


def test_rows_that_the_state_does_not_count_are_written_again(path):
    first = MatrixFile(path, 20)
    first.begin(3)
    first.append(ROWS[:4])
    state = path.with_name("vectors.npy.partial.json").read_bytes()
    first.append(ROWS[4:8] + 1)
    path.with_name("vectors.npy.partial.json").write_bytes(state)  # killed before the second state
    assert fill(MatrixFile(path, 20), ROWS) == 4
    assert np.array_equal(np.load(path), ROWS)


@pytest.mark.parametrize("damage", ["another width", "another number of rows", "cut", "no rows", "half a state"])
def test_what_does_not_fit_is_started_again(path, damage):
    rows = ROWS[:, :2] if damage == "another width" else ROWS
    num_rows = 19 if damage == "another number of rows" else 20
    first = MatrixFile(path, num_rows)
    first.begin(rows.shape[1])
    first.append(rows[:8])
    partial, state = (path.with_name(f"vectors.npy.partial{end}") for end in ("", ".json"))
    if damage == "cut":
        os.truncate(partial, 200)
    if damage == "no rows":
        partial.unlink()
    if damage == "half a state":
        state.write_text(state.read_text()[:10])
    assert fill(MatrixFile(path, 20), ROWS) == 0
    assert np.array_equal(np.load(path), ROWS)
    assert files(path) == ["vectors.npy"]


def test_a_matrix_that_got_its_name_before_the_kill_is_complete(path):
    fill(MatrixFile(path, 20), ROWS)
    path.with_name("vectors.npy.partial.json").write_text("{}")
    assert MatrixFile(path, 20).is_complete()
    assert files(path) == ["vectors.npy"]


def test_a_matrix_survives_kills_at_any_moment(path):
    rows = np.random.default_rng(0).normal(size=(4_000, 3)).astype(np.float32)
    generator = random.Random(0)
    kills, done = 0, [0]
    while not path.exists():
        child = os.fork()
        if not child:
            try:
                fill(MatrixFile(path, len(rows)), rows, chunk=10, pause=1e-4)
            finally:
                os._exit(0)
        time.sleep(generator.uniform(0.02, 0.12))
        os.kill(child, signal.SIGKILL)
        kills += os.WIFSIGNALED(os.waitpid(child, 0)[1])
        done.append(len(rows) if path.exists() else MatrixFile(path, len(rows)).begin(3))
    assert kills > 3
    assert sorted(done) == done
    assert np.array_equal(np.load(path), rows)


def test_a_disk_without_space_is_an_error_before_the_work(path, monkeypatch):
    free = needed = 128 + 20 * 3 * 4  # header and rows
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=free))
    assert MatrixFile(path, 20).begin(3) == 0
    free -= 1
    words = f"mig_cache_dir: {path.parent} has {free} bytes free, but 20 rows of 3 numbers need {needed} m"
    with pytest.raises(ArgumentError, match=re.escape(words)):
        MatrixFile(path.with_name("other.npy"), 20).begin(3)


def test_rows_on_disk_need_no_more_space(path, monkeypatch):
    first = MatrixFile(path, 4_000)
    first.begin(3)
    first.append(np.zeros((4_000, 3), np.float32))
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=0))
    assert MatrixFile(path, 4_000).begin(3) == 4_000


def test_a_full_disk_names_the_file(path, monkeypatch):
    matrix = MatrixFile(path, 20)
    matrix.begin(3)

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        matrix.append(ROWS[:4])
    assert caught.value.filename == f"{path}.partial"


def test_rows_that_do_not_fit_are_a_value_error(path):
    matrix = MatrixFile(path, 20)
    matrix.begin(3)
    with pytest.raises(
        ValueError, match=r"float64 rows of shape \(20, 3\) cannot be appended to 0 of 20 rows of width 3"
    ):
        matrix.append(ROWS.astype(np.float64))
    with pytest.raises(ValueError, match=r"shape \(20, 2\)"):
        matrix.append(ROWS[:, :2])
    matrix.append(ROWS[:16])
    with pytest.raises(ValueError, match=r"shape \(5, 3\) cannot be appended to 16 of 20"):
        matrix.append(ROWS[:5])
    with pytest.raises(ValueError, match=r"vectors.npy has 16 of 20 rows"):
        matrix.finish()
