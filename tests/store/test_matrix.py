import json
import os
import random
import re
import signal
import stat
import time
from types import SimpleNamespace

import numpy as np
import pytest
from xxhash import xxh3_128

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
    state = json.loads(path.with_name("vectors.npy.partial.json").read_text())
    checksum = xxh3_128(ROWS[:8].tobytes()).hexdigest()
    assert state == {"rows": 8, "num_rows": 20, "width": 3, "checksums": [checksum]}
    assert fill(MatrixFile(path, 20), ROWS) == 8
    assert np.array_equal(np.load(path), ROWS)


def test_only_this_user_may_write_to_a_matrix_whatever_the_umask(path):
    before = os.umask(0)
    try:
        fill(MatrixFile(path, 20), ROWS)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


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


def test_rows_of_another_width_are_started_again_though_there_are_bytes_enough(path):
    first = MatrixFile(path, 20)
    first.begin(3)
    first.append(ROWS[:8])
    assert fill(MatrixFile(path, 20), ROWS[:, :2]) == 0  # told by the width in the state, and by the checksums
    assert np.array_equal(np.load(path), ROWS[:, :2])


def flip(path, offset):
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("offset", [60, 128, 200, 367, 380, -1], ids=lambda offset: f"byte {offset}")
def test_a_damaged_matrix_counts_as_absent_and_is_said_once(path, caplog, offset):
    fill(MatrixFile(path, 20), ROWS)
    assert MatrixFile(path, 20).is_complete()
    flip(path, offset)
    assert not MatrixFile(path, 20).is_complete()
    assert not MatrixFile(path, 20).is_complete()
    assert [record.message for record in caplog.records] == [
        f"{path} is damaged or has no checksums; what it held is computed again"
    ]
    assert fill(MatrixFile(path, 20), ROWS) == 0
    assert MatrixFile(path, 20).is_complete()
    assert np.array_equal(np.load(path), ROWS)


@pytest.mark.parametrize("size", [0, 7, 100, 367, 380])
def test_a_matrix_that_is_cut_off_counts_as_absent(path, size):
    fill(MatrixFile(path, 20), ROWS)
    os.truncate(path, size)
    assert not MatrixFile(path, 20).is_complete()


def test_a_matrix_of_other_rows_counts_as_absent_under_this_name(path):
    other = path.with_name("other.npy")
    fill(MatrixFile(other, 20), ROWS + 1)
    other.rename(path)
    assert not MatrixFile(path, 20).is_complete()


def test_a_plain_npy_file_has_no_checksums_and_counts_as_absent(path):
    np.save(path, ROWS)
    assert not MatrixFile(path, 20).is_complete()


def test_damaged_rows_of_an_unfinished_matrix_are_computed_again(path, caplog):
    first = MatrixFile(path, 20)
    first.begin(3)
    first.append(ROWS[:8])
    flip(path.with_name("vectors.npy.partial"), 150)
    assert fill(MatrixFile(path, 20), ROWS) == 0
    assert np.array_equal(np.load(path), ROWS)
    assert "vectors.npy.partial is damaged" in caplog.text


@pytest.mark.parametrize("chunk", [1, 3, 7])
def test_checksums_do_not_depend_on_how_the_rows_came(path, monkeypatch, chunk):
    monkeypatch.setattr("mig_selector.store.matrix._BLOCK_BYTES", 64)
    first = MatrixFile(path, 20)
    first.begin(3)
    for start in range(0, 12, chunk):
        first.append(ROWS[start : min(start + chunk, 12)])
    assert fill(MatrixFile(path, 20), ROWS) == 12
    assert MatrixFile(path, 20).is_complete()
    assert path.read_bytes().count(b'"checksums"') == 1
    flip(path, 300)
    assert not MatrixFile(path, 20).is_complete()


@pytest.mark.parametrize("variable", [None, "1"])
def test_a_matrix_that_others_may_write_is_believed_only_where_users_share_the_cache(path, monkeypatch, variable):
    fill(MatrixFile(path, 20), ROWS)
    path.chmod(0o666)
    if variable:
        monkeypatch.setenv("MIG_SELECTOR_SHARED_CACHE", variable)
    assert MatrixFile(path, 20).is_complete() == bool(variable)


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
    first = MatrixFile(path, 40_000)
    first.begin(3)
    first.append(np.ones((20_000, 3), np.float32))
    with monkeypatch.context() as full:
        full.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=100_000))
        with pytest.raises(ArgumentError, match="100,000 bytes free, but 40,000 rows"):
            MatrixFile(path, 40_000).begin(3)
    first.append(np.ones((20_000, 3), np.float32))
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=0))
    assert MatrixFile(path, 40_000).begin(3) == 40_000


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
    with pytest.raises(ValueError, match="int32 rows"):
        matrix.append(ROWS.astype(np.int32))
    with pytest.raises(ValueError, match=r"shape \(20, 2\)"):
        matrix.append(ROWS[:, :2])
    matrix.append(ROWS[:16])
    with pytest.raises(ValueError, match=r"shape \(5, 3\) cannot be appended to 16 of 20"):
        matrix.append(ROWS[:5])
    with pytest.raises(ValueError, match=r"vectors.npy has 16 of 20 rows"):
        matrix.finish()
