"""The benchmarks: what their pools are like, that they are the same everywhere, and that each script runs."""

import functools
import importlib
import json
import operator
import os
import re
import shutil
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import ROOT, make_rows, run_command, write_lines


pytestmark = pytest.mark.slow

SCRIPTS = ROOT / "scripts"
MEGABYTE = 10**6


@pytest.fixture(scope="module")
def bench():
    """Import a module below scripts/ by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        yield importlib.import_module


@pytest.fixture(scope="module")
def make(bench, tmp_path_factory):
    """Make a pool in a folder of its own."""
    pool = bench("bench.pool.folder")

    def make(**settings):
        return pool.make_pool(tmp_path_factory.mktemp("pool"), pool.PoolSettings(**settings))

    return make


@pytest.fixture(scope="module")
def million(bench):
    """Labels of a million rows, sorted within a row and filled up with -1, and the statistics of the generator."""
    model, statistics = bench("bench.pool.rows").RowModel(0), bench("bench.pool.statistics").Statistics(4_500)
    labels = np.full((1_000_000, 6), -1, np.int16)
    start = 0
    for rows in model.blocks(1_000_000):
        is_taken = np.arange(6) < rows.label_counts[:, None]
        labels[start : start + len(rows)][is_taken] = rows.label_ids
        statistics.add(rows)
        start += len(rows)
    labels.sort(axis=1)
    return labels, statistics.summary()


@pytest.fixture(scope="module")
def json_pool(make):
    return make(rows=9_000, kind="jsonl")


@pytest.fixture(scope="module")
def large_pool(make):
    return make(rows=140_000, kind="parquet")


@pytest.fixture(scope="module")
def records(json_pool):
    lines = json_pool.data.read_text(encoding="utf-8").splitlines(keepends=True)
    assert all(line.endswith("}\n") for line in lines)
    return [json.loads(line) for line in lines]


def test_rows_have_as_many_labels_as_those_of_annotated_pools(million):
    counts = np.count_nonzero(million[0] >= 0, axis=1)
    shares = np.bincount(counts, minlength=7)[1:] / len(counts)
    assert shares == pytest.approx([0.08, 0.15, 0.16, 0.15, 0.14, 0.31], abs=0.01)
    assert counts.mean() == pytest.approx(4.04, abs=0.03)


def test_labels_are_as_unequal_as_those_of_annotated_pools(million):
    uses = np.sort(np.bincount(million[0][million[0] >= 0]))[::-1]
    assert 4_400 <= np.count_nonzero(uses) <= 4_600
    assert 0.2 <= uses[:10].sum() / uses.sum() <= 0.3
    assert uses[0] > 100 * uses[2_000]


def test_label_sets_come_again_as_often_as_in_annotated_pools(million):
    distinct = len(np.unique(million[0].view("V12")))
    assert distinct / 1_000_000 == pytest.approx(0.61, abs=0.02)


def test_no_row_names_a_label_twice(million):
    labels = million[0]
    assert not np.any((labels[:, 1:] == labels[:, :-1]) & (labels[:, 1:] >= 0))


def test_labels_that_occur_together_do_so_more_often_than_by_chance(million):
    rows = million[0][:100_000]
    counts = np.bincount(rows[rows >= 0], minlength=4_500)
    common = np.argsort(-counts)[:50]
    has = np.stack([(rows == label).any(axis=1) for label in common], axis=1).astype(np.float64)
    together, alone = has.T @ has, has.mean(axis=0)
    lift = together / len(rows) / np.outer(alone, alone)
    assert np.max(lift[~np.eye(50, dtype=bool)]) > 3


def test_the_statistics_that_are_printed_are_right(million):
    labels, summary = million
    uses = np.sort(np.bincount(labels[labels >= 0]))
    assert summary["rows"] == 1_000_000
    assert summary["labels_per_row"] == pytest.approx(np.count_nonzero(labels >= 0) / 1e6, abs=1e-4)
    assert summary["share_of_top_10_labels"] == pytest.approx(uses[-10:].sum() / uses.sum(), abs=1e-4)
    distinct = len(np.unique(labels[:100_000].view("V12")))
    assert summary["distinct_label_sets"]["100000"] == pytest.approx(distinct / 100_000, abs=1e-4)


def test_json_rows_have_the_layout_of_the_published_pools(records):
    for index, record in enumerate(records):
        assert list(record) == ["dialogs", "source", "_id", "annotation"]
        assert list(record["annotation"]) == ["instag", "deita"]
        assert record["_id"] == f"bench-{index:010d}"
        roles = [message["role"] for message in record["dialogs"]]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        assert all(message["content"].strip() for message in record["dialogs"])
        for scores in record["annotation"]["deita"].values():
            assert len(scores) == len(roles) // 2
            assert all(1 <= score <= 6 for score in scores)
    assert {len(record["source"]) for record in records} == {1}
    assert {len(record["dialogs"]) for record in records} == {2, 4, 6, 8}


def test_json_text_is_like_real_text(json_pool, records):
    text = json_pool.data.read_bytes()
    assert 2_700 < len(text) / len(records) < 3_300
    for piece in (b"\\n", b'\\"', b"\\t", b"\\\\", b"\\u", "数据".encode(), "é".encode(), "🙂".encode()):
        assert piece in text, piece
    sizes = [sum(len(message["content"]) for message in record["dialogs"]) for record in records]
    assert np.quantile(sizes, 0.99) > 5 * np.median(sizes) > 25 * min(sizes)


def test_both_kinds_hold_the_same_labels_and_scores(make, records):
    table = pq.read_table(make(rows=9_000, kind="parquet").data)
    assert table["annotation"].to_pylist() == [record["annotation"] for record in records]
    assert table["_id"].to_pylist() == [record["_id"] for record in records]
    assert [len(dialogs) for dialogs in table["dialogs"].to_pylist()] == [len(each["dialogs"]) for each in records]


def test_arrays_hold_what_the_files_hold(bench, records):
    rows, words = bench("bench.pool.rows"), bench("bench.pool.words")
    offsets, labels, scores = bench("bench.pool.arrays").draw_arrays(rows.RowModel(0), len(records))
    ids = {name: number for number, name in enumerate(words.name_labels(0, 4_500))}
    assert offsets[0] == 0
    assert len(offsets) == len(records) + 1
    for record, start, end, score in zip(records, offsets[:-1], offsets[1:], scores, strict=True):
        names, deita = record["annotation"]["instag"]["content"], record["annotation"]["deita"]
        assert labels[start:end].tolist() == sorted(ids[name] for name in names)
        products = [q * c for q, c in zip(deita["quality_scores"], deita["complexity_scores"], strict=True)]
        assert score == functools.reduce(operator.add, products) / len(products)


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_the_same_settings_make_the_same_bytes(make, kind):
    first, second, other = (make(rows=3_000, kind=kind, seed=seed) for seed in (5, 5, 6))
    assert first.data.read_bytes() == second.data.read_bytes() != other.data.read_bytes()
    assert first.vectors.read_bytes() == second.vectors.read_bytes() != other.vectors.read_bytes()


@pytest.mark.parametrize("rows", [1, 4_095, 4_096, 5_000])
def test_a_larger_json_pool_begins_with_the_smaller_one(make, json_pool, rows):
    shorter = make(rows=rows, kind="jsonl").data.read_bytes()
    assert shorter.count(b"\n") == rows
    assert json_pool.data.read_bytes().startswith(shorter)


def test_a_larger_parquet_pool_begins_with_the_smaller_one(make, large_pool):
    whole = pq.read_table(large_pool.data)
    for rows in (1, 65_536, 70_000):
        assert pq.read_table(make(rows=rows, kind="parquet").data).equals(whole.slice(0, rows))


def test_several_parquet_files_hold_the_rows_of_one(make, large_pool):
    parts = make(rows=140_000, kind="parquet", files=3)
    assert [file.name for file in parts.files] == ["part-00000.parquet", "part-00001.parquet", "part-00002.parquet"]
    read = [pq.read_table(file) for file in parts.files]
    assert [part.num_rows for part in read] == [65_536, 65_536, 140_000 - 2 * 65_536]
    assert pa.concat_tables(read).equals(pq.read_table(large_pool.data))
    assert sorted(file.name for file in parts.data.iterdir()) == [file.name for file in parts.files]


def test_compact_parquet_is_compact(large_pool):
    assert 10 < large_pool.num_bytes / 140_000 < 40
    assert "dictionary" not in str(pq.read_schema(large_pool.data))


def test_label_vectors_are_what_the_selector_takes(json_pool, records):
    with np.load(json_pool.vectors, allow_pickle=False) as file:
        labels, vectors = file["labels"], file["embeddings"].astype(np.float64)
    assert labels.dtype.kind == "U"
    assert len(set(labels.tolist())) == len(labels) == len(vectors)
    assert {label for record in records for label in record["annotation"]["instag"]["content"]} <= set(labels.tolist())
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = (vectors @ vectors.T)[np.triu_indices(len(vectors), 1)]
    above = [np.count_nonzero(cosines >= threshold) for threshold in (0.85, 0.9, 0.95)]
    assert 200 <= above[1] <= 600
    assert above[0] > above[1] > above[2] > 50


def test_a_pool_is_made_once(bench, tmp_path):
    pool = bench("bench.pool.folder")
    settings = pool.PoolSettings(rows=500, kind="jsonl")
    first = pool.make_pool(tmp_path, settings).data.stat().st_mtime_ns
    assert pool.make_pool(tmp_path, settings).data.stat().st_mtime_ns == first
    assert pool.make_pool(tmp_path, pool.PoolSettings(rows=501, kind="jsonl")).data.stat().st_mtime_ns > first


def test_settings_that_make_no_pool_are_refused(bench, make, tmp_path):
    with pytest.raises(ValueError, match="got 0 and 1"):
        make(rows=0, kind="parquet")
    with pytest.raises(ValueError, match="got files=2"):
        make(rows=10, kind="jsonl", files=2)
    with pytest.raises(ValueError, match="10 rows fill 1 blocks, which is too few for 2 files"):
        make(rows=10, kind="parquet", files=2)
    with pytest.raises(ValueError, match="50 or more, got 49"):
        bench("bench.pool.rows").RowModel(0, 49)


def test_memory_is_measured_over_the_process_tree(bench):
    child = "import time; held = b'x' * 80_000_000; time.sleep(1)"
    parent = f"import subprocess, sys; held = b'x' * 150_000_000; subprocess.run([sys.executable, '-c', {child!r}])"
    measured = bench("bench.command").measure(["-c", f"{parent}; print('a'); print('b')"])
    assert measured.last_line == "b"
    assert 150 < measured.main_peak_mb < 220
    assert 230 < measured.tree_peak_mb < 330
    assert 220 < measured.tree_peak_pss_mb <= measured.tree_peak_mb
    assert measured.most_processes == 2
    assert 1 < measured.seconds < 20


def test_a_command_that_fails_is_no_measurement(bench):
    with pytest.raises(RuntimeError, match=r"exited with 3:\nno luck"):
        bench("bench.command").measure(["-c", "import sys; sys.stderr.write('no luck'); sys.exit(3)"])


def test_growth_is_that_of_a_power_law(bench):
    scale = bench("bench.scale")
    sizes = [
        {"rows": rows, "seconds": 3e-6 * rows**1.25, "tree_peak_mb": 200 + rows * 120 / 1e6}
        for rows in (10**6, 10**7, 4 * 10**7)
    ]
    found = scale.growth(sizes)
    for name in ("exponent_least_squares", "exponent_first_to_last", "exponent_last_two"):
        assert found[name] == pytest.approx(1.25)
    assert found["bytes_per_row_between_sizes"] == [120.0, 120.0]
    assert found["gb_at_100m_rows"] == pytest.approx(12.2)
    assert found["is_extrapolated"]
    assert {target.name: target.is_met for target in scale.targets(found)} == {
        "gb_at_100m_rows": True,
        "exponent_least_squares": False,
        "exponent_first_to_last": False,
        "exponent_last_two": False,
    }
    assert scale.growth(sizes[:1]) == {}


def test_too_little_disk_is_refused_before_anything_is_made(bench, tmp_path, capsys):
    needed = 2 * shutil.disk_usage(tmp_path).free
    with pytest.raises(SystemExit, match=f"{needed / 1e9:.1f} GB needed"):
        bench("bench.folders").require_disk(tmp_path, needed)
    assert f"about {needed / 1e9:.1f} GB needed" in capsys.readouterr().out


def run_script(name, *words):
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {"PYTHONPATH": os.pathsep.join(paths)}
    done = run_command(sys.executable, SCRIPTS / name, *map(str, words), env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-4_000:]
    return done.stdout


def check_run(run, smallest_mb):
    assert 0 < run["seconds"] == min(run["all_seconds"]) < 300
    assert smallest_mb < run["main_peak_mb"] <= run["tree_peak_mb"] < 4_000
    assert run["most_processes"] >= 1


def test_a_pool_can_be_made_by_command(tmp_path):
    printed = run_script("bench/make_pool.py", "--rows", 400, "--folder", tmp_path)
    assert "bytes_per_row" in printed
    assert "(0.61 at 1M, 0.49 at 10M)" in printed
    report = json.loads((tmp_path / "pool.json").read_text())
    assert report["bytes"] == (tmp_path / "bench_pool.jsonl").stat().st_size
    assert json.loads((tmp_path / "dataset_info.json").read_text())["bench_pool"]["file_name"] == "bench_pool.jsonl"


def test_the_benchmark_of_the_pipeline_runs(tmp_path):
    words = ["--rows", "2_000", "--budget", 200, "--repeats", 1, "--folder", tmp_path / "pools"]
    printed = run_script("bench/pipeline.py", *words, "--json", tmp_path / "result.json")
    result = json.loads((tmp_path / "result.json").read_text())
    assert [size["rows"] for size in result["sizes"]] == [2_000]
    assert 0 < result["warm_up"]["without_compilation"] < result["warm_up"]["with_compilation"]
    for size in result["sizes"]:
        assert size["budget"] == 200
        check_run(size["reading"], 1)
        for name in ("cold", "cached", "same"):
            check_run(size[name], 20)
        assert {"reading", "selecting", "writing"} <= set(size["cold"]["stages"])
        assert sum(size["cold"]["stages"].values()) <= size["cold"]["seconds"]
        assert size["same"]["stages"] == {}
        assert size["cold_to_reading"] == pytest.approx(size["cold"]["seconds"] / size["reading"]["seconds"], rel=0.01)
        assert [target["limit"] for target in size["targets"]] == [4, 1_500, 6, 500, 1.5]
        assert all(target["is_met"] == (target["found"] <= target["limit"]) for target in size["targets"])
    assert "2,000 rows, 6 MB, budget 200" in printed
    assert [path.name for path in (tmp_path / "pools").iterdir()] == ["jsonl-2000-rows-1-files-seed-0"]


def test_the_benchmark_of_the_scale_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    printed = run_script("bench/scale.py", "--rows", "2000,70000", "--budget", 100, "--json", tmp_path / "result.json")
    result = json.loads((tmp_path / "result.json").read_text())
    assert "GB free" in printed
    assert [(size["rows"], size["budget"]) for size in result["sizes"]] == [(2_000, 100), (70_000, 100)]
    for size in result["sizes"]:
        check_run(size, 20)
        assert size["bytes_of_memory_per_row"] == pytest.approx(
            size["tree_peak_mb"] * MEGABYTE / size["rows"], rel=0.01
        )
        assert {"reading", "selecting", "writing"} <= set(size["stages"])
    assert -1 < result["growth"]["exponent_least_squares"] < 2
    assert [target["limit"] for target in result["targets"]] == [16, 1.1, 1.1, 1.1]
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_the_benchmark_of_the_kernel_runs_and_its_picks_are_those_of_the_dense_algorithm(tmp_path):
    words = ["--rows", 600, "--labels", 200, "--picks", 50, "--json", tmp_path / "result.json"]
    run_script("bench/selection.py", *words)
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["rows"], result["labels"], result["picks"]) == (600, 200, 50)
    assert 0 < result["kernel_seconds"] < result["first_call_seconds"]
    assert result["ratio"] == pytest.approx(result["dense_seconds"] / result["kernel_seconds"])
    assert result["same_picks_as_float64"] is True


def test_the_benchmark_of_token_budgets_spends_the_same_tokens_better(tmp_path):
    words = ["--rows", 600, "--labels", 200, "--picks", 50, "--json", tmp_path / "result.json"]
    run_script("bench/tokens.py", *words)
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["chosen_by_rows"] == 50 < result["chosen_by_tokens"]
    assert result["information_by_tokens"] > result["information_by_rows"]
    assert result["ratio"] == pytest.approx(result["seconds_by_tokens"] / result["seconds_by_rows"])


@pytest.mark.parametrize(
    ("script", "words", "equal"),
    [
        (
            "bench/instag.py",
            "--rows 3000 --picks 300 --compared-rows 1000 --compared-picks 100",
            ["same_picks"],
        ),
        (
            "bench/deita.py",
            "--rows 1500 --dimensions 32 --kept 200 --part-rows 600 --part-kept 100 --published-seconds 0.5",
            ["published_same_verdicts", "part_same_rows"],
        ),
        (
            "bench/zip.py",
            "--rows 600 --chosen 100 --sample 4 --budget 10 --k1 100 --k2 20 --k3 10",
            ["sizes_are_equal", "selections_are_equal"],
        ),
        (
            "bench/qdit.py",
            "--rows 600 --dimensions 16 --picks 30 --part-rows 150 --part-picks 15 --samples 100 --naive-seconds 0.5",
            ["keeping_same_picks", "part_same_rows"],
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and value.endswith(".py") else "",
)
def test_the_benchmarks_of_the_methods_run_and_find_the_same_rows(script, words, equal, tmp_path):
    run_script(script, *words.split(), "--json", tmp_path / "result.json")
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["ratio"] > 0
    assert [result[name] for name in equal] == [True] * len(equal)


def test_the_benchmark_of_clusters_runs(tmp_path):
    words = ["--rows", 1500, "--budget", 100, "--compared-rows", 600, "--compared-budget", 60, "--dimensions", 32]
    run_script("bench/car.py", *words, "--folder", tmp_path, "--json", tmp_path / "result.json")
    result = json.loads((tmp_path / "result.json").read_text())
    assert 0.8 < result["compared"]["inertia_ratio"] < 1.2
    assert (result["full"]["rows"], result["full"]["budget"]) == (1500, 100)


def test_the_benchmark_of_ifd_runs_and_finds_the_same_scores(tmp_path):
    run_script("bench/ifd.py", "--rows", 20, "--words", 2, "--repeats", 1, "--json", tmp_path / "result.json")
    [size] = json.loads((tmp_path / "result.json").read_text())["results"]
    assert size["ratio"] > 0
    assert size["largest_difference"] < 1e-3


def test_the_share_of_time_that_a_model_waits_is_measured(bench, tiny_llama, tmp_path, monkeypatch, capsys):
    write_lines(tmp_path / "pool.jsonl", make_rows(50))
    monkeypatch.setattr(sys, "argv", ["waiting.py", tiny_llama, str(tmp_path / "pool.jsonl")])
    bench("bench.waiting").main()
    first, second = capsys.readouterr().out.splitlines()
    total, *parts = map(float, re.findall(r"([\d.]+)%", first))
    assert first.startswith("rank 0 of 1: the model waits ")
    causes = [part.rpartition(" ")[0] for part in first.partition("time: ")[2].split(", ")]
    assert causes == ["text", "tokens", "results", "own threads"]
    assert 0 < total < 100
    assert sum(parts) == pytest.approx(total, abs=0.3)
    assert second.startswith("50 rows in ")
