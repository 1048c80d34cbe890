"""Selections that are stopped, that find no space or may not write: what is left, and that the next one goes on."""

import ctypes
import json
import resource
import signal
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest
from support import make_row, make_rows, write_lines


pytestmark = pytest.mark.slow

CAP_DAC_OVERRIDE, PR_CAPBSET_DROP = 1, 24


def select(settings, **popen):
    """Start `mig-selector select`; a shell that starts the tests in the background has them ignore interrupts."""
    words = [sys.executable, "-m", "mig_selector", "select", *(f"--{key}={value}" for key, value in settings.items())]
    before = popen.pop("preexec_fn", lambda: None)

    def prepare():
        signal.signal(signal.SIGINT, signal.default_int_handler)
        before()

    return subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=prepare, **popen
    )


def finish(process):
    out, text = process.communicate(timeout=300)
    return process.returncode, out, text


def wait_for(is_so, process):
    """Wait until something is so; fail if the process ends before it is."""
    while not is_so():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)


def files_below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def bound_by_permissions():
    """Take from root what lets it write where permissions forbid it."""
    ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE)


@pytest.fixture
def many_labels(workplace, minilm):
    """A pool of 600 labels, which are embedded in four rounds."""
    labels = [f"{word} {number}" for word in ("red", "green", "blue") for number in range(200)]
    workplace.add("pool", [make_row(number, [labels[number % 600]], 1.0) for number in range(1200)])
    settings = workplace.settings(mig_embedding_model=minilm, mig_embedding_batch_size=8)
    del settings["mig_label_embeddings"]
    return settings


def embedded(cache):
    """The labels in each file of vectors."""
    return [set(pq.read_table(file)["label"].to_pylist()) for file in cache.glob("embeddings/*/*.parquet")]


def test_labels_that_were_embedded_before_a_kill_are_not_embedded_again(many_labels, tmp_path):
    cache = tmp_path / "cache"
    process = select(many_labels)
    wait_for(lambda: len(embedded(cache)) >= 2, process)
    process.kill()
    finish(process)
    before = embedded(cache)
    kept = set().union(*before)
    assert 0 < len(kept) < 600
    code, _, text = finish(select(many_labels))
    assert code == 0, text
    after = embedded(cache)
    assert all(some in after for some in before)
    assert sum(map(len, after)) == len(set().union(*after)) == 600
    assert f"embedding labels: {600 - len(kept)} labels" in text


def long_dialog(length):
    return [{"role": role, "content": "x" * length} for role in ("user", "assistant")]


@pytest.mark.parametrize(
    ("number", "code", "message"),
    [
        (signal.SIGTERM, -15, "[mig_selector] stopped (SIGTERM)"),
        (signal.SIGINT, 130, "mig-selector: interrupted"),
    ],
)
def test_a_signal_while_rows_are_written_leaves_no_file_behind(pool_of_60, number, code, message, tmp_path):
    rows = [{**row, "dialogs": long_dialog(50_000)} for row in make_rows(2000)]
    write_lines(pool_of_60.data / "pool.jsonl", rows)
    before = (pool_of_60.data / "dataset_info.json").read_bytes()
    output = pool_of_60.data / "mig_selections"
    process = select(pool_of_60.settings(mig_num_samples=2000))
    wait_for(lambda: list(output.glob("*/.selected.jsonl.*.tmp")), process)
    process.send_signal(number)
    ended, out, text = finish(process)
    assert (ended, out) == (code, "")
    assert text.splitlines()[-1] == message
    assert "Traceback" not in text
    assert (pool_of_60.data / "dataset_info.json").read_bytes() == before
    assert [name for name in files_below(output) if not name.endswith(".lock")] == []
    assert not [name for name in files_below(tmp_path / "cache") if name.endswith(".tmp")]
    assert finish(select(pool_of_60.settings(mig_num_samples=2000)))[0] == 0


@pytest.mark.parametrize("limit", [100, 2_000, 20_000, 200_000])
def test_a_full_disk_is_a_plain_error_and_costs_nothing(pool_of_60, tmp_path, limit):
    """The limit on a file's size strikes at another file each time: hash notes, extract, subset."""
    rows = [{**row, "dialogs": long_dialog(5_000)} for row in make_rows(200)]
    write_lines(pool_of_60.data / "pool.jsonl", rows)
    before = (pool_of_60.data / "dataset_info.json").read_bytes()
    full = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))  # noqa: E731
    code, out, text = finish(select(pool_of_60.settings(mig_num_samples=100), preexec_fn=full))
    assert (code, out) == (1, "")
    assert "cannot be used: File too large." in text.splitlines()[-1] or "cannot be written" in text.splitlines()[-1]
    assert "Traceback" not in text
    assert (pool_of_60.data / "dataset_info.json").read_bytes() == before
    assert not [name for name in files_below(tmp_path) if name.endswith(".tmp")]
    assert finish(select(pool_of_60.settings(mig_num_samples=100)))[0] == 0


def test_a_dataset_dir_that_may_not_be_written_is_left_alone(pool_of_60, tmp_path):
    before = files_below(pool_of_60.data)
    pool_of_60.data.chmod(0o555)
    (pool_of_60.data / "dataset_info.json").chmod(0o444)
    code, out, text = finish(select(pool_of_60.settings(), preexec_fn=bound_by_permissions))
    pool_of_60.data.chmod(0o755)
    assert code == 0, text
    assert out.startswith(str(tmp_path / "cache" / "selections"))
    assert "not registered, as dataset_dir cannot be written to" in text
    assert files_below(pool_of_60.data) == before


def test_a_cache_that_may_not_be_written_is_named(pool_of_60, tmp_path):
    cache = tmp_path / "cache"
    cache.mkdir()
    cache.chmod(0o555)
    code, out, text = finish(select(pool_of_60.settings(), preexec_fn=bound_by_permissions))
    assert (code, out) == (1, "")
    assert f"mig_cache_dir: {cache} cannot be written" in text
    assert files_below(cache) == []


def test_a_cache_that_may_not_be_written_is_enough_where_nothing_must_be_written(pool_of_60, tmp_path):
    cache = tmp_path / "cache"
    assert finish(select(pool_of_60.settings()))[0] == 0
    folders = [cache, *(path for path in cache.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    before = files_below(cache)
    for settings in ({}, {"mig_num_samples": 20}):  # a finished selection, and one whose pool is indexed
        code, out, text = finish(select(pool_of_60.settings(**settings), preexec_fn=bound_by_permissions))
        assert (code, "Traceback" in text) == (0, False), text
        assert "/pool_mig_" in out
    assert files_below(cache) == before
    for folder in folders:
        folder.chmod(0o755)


def test_an_output_folder_that_may_not_be_written_is_named(pool_of_60, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    output.chmod(0o555)
    settings = pool_of_60.settings(mig_output_dir=str(output))
    (pool_of_60.data / "pool.jsonl").write_text("not JSON, but not read either")
    code, out, text = finish(select(settings, preexec_fn=bound_by_permissions))
    assert (code, out) == (1, "")
    assert f"error: mig_output_dir: {output} cannot be written to" in text


def test_a_dataset_dir_behind_a_link_is_written_where_it_is(pool_of_60, tmp_path):
    link = tmp_path / "link to dàta"
    link.symlink_to(pool_of_60.data)
    settings = pool_of_60.settings(dataset_dir=str(link))
    code, _, text = finish(select(settings))
    assert code == 0, text
    assert link.is_symlink()
    entry = pool_of_60.entries()["pool_mig_10"]
    assert (pool_of_60.data / entry["file_name"]).is_file()
    assert (link / entry["file_name"]).is_file()
    assert finish(select(pool_of_60.settings()))[0] == 0
    assert pool_of_60.entries()["pool_mig_10"] == entry


def test_a_dataset_info_that_is_a_link_stays_one(pool_of_60, tmp_path):
    elsewhere = tmp_path / "shared.json"
    (pool_of_60.data / "dataset_info.json").rename(elsewhere)
    (pool_of_60.data / "dataset_info.json").symlink_to(elsewhere)
    assert finish(select(pool_of_60.settings()))[0] == 0
    assert (pool_of_60.data / "dataset_info.json").is_symlink()
    assert "pool_mig_10" in json.loads(elsewhere.read_text())
