"""Fault tests with few rounds, and that their checks find faults made on purpose."""

import importlib
import json
import sys

import pytest
from support import ROOT, run_command


pytestmark = pytest.mark.distributed

SCRIPTS = ROOT / "scripts"


@pytest.fixture(scope="module")
def scripts():
    """Import a module below scripts/ by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        yield importlib.import_module


@pytest.fixture(scope="module")
def sandbox(scripts, tmp_path_factory):
    """A sandbox with one finished selection, and what an undisturbed run wrote."""
    module = scripts("faults.sandbox")
    folder = tmp_path_factory.mktemp("faults")
    pool = module.make_settled_pool(folder / "pool", 300, 0)
    selection = module.Selection(module.given_vectors(pool), 20)
    kernels = module.kernel_folder(folder)
    references = module.make_references(folder / "undisturbed", pool, kernels, [selection])
    sandbox = module.Sandbox(folder / "sandbox", pool, kernels)
    sandbox.create_with_entry(selection)
    return sandbox, references


@pytest.fixture
def findings(scripts, sandbox):
    """What the checks find now."""
    return lambda: list(scripts("faults.checks").Checks(*sandbox).all())


def test_a_sandbox_in_which_nothing_happened_is_sound(sandbox, findings):
    where, _ = sandbox
    entries = json.loads(where.info.read_bytes())
    assert list(entries) == ["first", "zwölf é", "pool", "moving", "last"]
    assert [name for name in entries if "mig_selector" in entries[name]] == ["moving"]
    assert len(list(where.cache.rglob("*.parquet"))) == 1
    assert findings() == []


def cut(content):
    return content[: len(content) // 2]


def flip(content):
    return content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]


def other_fingerprint(content):
    entries = json.loads(content)
    fingerprint = entries["moving"]["mig_selector"]
    return content.replace(fingerprint.encode(), fingerprint[::-1].encode())


DAMAGES = {
    "half of the entries": ("data/dataset_info.json", cut, "is not valid JSON"),
    "entries of others in another format": (
        "data/dataset_info.json",
        lambda content: json.dumps(json.loads(content), indent=2, ensure_ascii=False).encode(),
        "no longer holds this text of others",
    ),
    "an entry of others is gone": (
        "data/dataset_info.json",
        lambda content: content.replace(b'  "zw', b' "z'),
        "no longer holds this text of others",
    ),
    "an entry that nobody wrote": (
        "data/dataset_info.json",
        lambda content: content.replace(b',\n"last"', b', "new": {"file_name": "x"},\n"last"'),
        "entry new is not ours",
    ),
    "text after the end": ("data/dataset_info.json", lambda content: content + b" ", "ends with added text"),
    "the fingerprint of another selection": (
        "data/dataset_info.json",
        other_fingerprint,
        "entry moving has the fingerprint",
    ),
    "half of a subset": ("data/mig_selections/*/selected.jsonl", cut, "does not match the manifest"),
    "a bit of a table": ("data/mig_selections/*/selection.parquet", flip, "differs from that of an undisturbed run"),
    "half of a manifest": ("data/mig_selections/*/manifest.json", cut, "has no manifest"),
    "half of a dataset_dir": (
        "data/mig_selections/*/dataset_dir-*/dataset_info.json",
        cut,
        "is not valid JSON, or names",
    ),
    "half of a pool index": ("cache/pools/*.parquet", cut, "differs from that of an undisturbed run"),
    "half of a record of a hash": ("cache/content_hashes/*.json", cut, "is not a record of a content hash"),
    "a wrong hash": (
        "cache/content_hashes/*.json",
        lambda content: json.dumps({**json.loads(content), "sha256": "0" * 64}).encode(),
        "records a wrong hash of",
    ),
    "half of a record of a subset": ("cache/selections/*.json", cut, "is not a list of folders"),
    "a record of a folder that does not exist": (
        "cache/selections/*.json",
        lambda content: b'["/nowhere"]',
        "names /nowhere",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_checks_see(sandbox, findings, damage):
    pattern, change, words = DAMAGES[damage]
    file = sorted(sandbox[0].folder.glob(pattern))[0]
    content = file.read_bytes()
    file.write_bytes(change(content))
    try:
        assert any(words in finding for finding in findings())
    finally:
        file.write_bytes(content)
    assert findings() == []


def test_the_checks_see_unknown_files_and_temporary_files_that_were_left(scripts, sandbox, findings):
    where, _ = sandbox
    unknown, left = where.cache / "other" / "file", where.data / ".dataset_info.json.x1y2.tmp"
    unknown.parent.mkdir()
    for file in (unknown, left):
        file.touch()
    assert findings() == [f"{unknown} is not a known kind of cache file"]
    assert scripts("faults.checks").leftovers(where.folder) == [left]
    for file in (unknown, left):
        file.unlink()


def run_script(name, *words):
    done = run_command(sys.executable, SCRIPTS / name, *words, timeout=300)
    assert done.returncode == 0, done.stdout[-4_000:] + done.stderr[-4_000:]
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize(("signal", "kills", "codes"), [("KILL", 6, {"-9"}), ("TERM", 3, {"-15"})])
def test_selections_that_are_killed_leave_nothing_half_done_and_can_be_run_again(tmp_path, signal, kills, codes):
    words = ["--kills", kills, "--signal", signal, "--rows", 500, "--encoder-every", 0, "--json", tmp_path / "json"]
    printed = run_script("faults/kill.py", *words)
    result = json.loads((tmp_path / "json").read_text())
    assert result["findings"] == []
    assert kills <= result["kills"] == sum(result["stages"].values()) == sum(result["codes"].values())
    assert result["kills"] + result["finished_before"] == sum(result["kinds"].values())
    assert set(result["codes"]) <= codes
    assert result["leftovers"][1] == 0
    assert printed.startswith(f"SIG{signal}: {kills} kills (")


def test_selections_at_the_same_time_write_what_each_would_write_alone(tmp_path):
    printed = run_script("faults/concurrency.py", "--processes", 8, "--rows", 500, "--json", tmp_path / "json")
    [outcome] = json.loads((tmp_path / "json").read_text())["repeats"]
    assert outcome["findings"] == []
    assert outcome["embeddings"] == 1
    assert printed.startswith("8 selections at once, 1 times: 0 findings; an encoder ran 1 times; ")


def test_a_broken_rank_ends_the_others_with_its_message(tmp_path):
    words = ["--ranks", 3, "--rows", 300, "--given-vectors", "--faults", "bad-row,killed-2"]
    printed = run_script("faults/ranks.py", *words, "--json", tmp_path / "json")
    faults = json.loads((tmp_path / "json").read_text())["faults"]
    assert {name: fault["findings"] for name, fault in faults.items()} == {"bad-row": [], "killed-2": []}
    assert all(0 < fault["seconds"] < 30 for fault in faults.values())
    assert printed.startswith("2 faults on 3 ranks: 0 findings, the slowest end ")


def test_the_benchmark_of_the_start_compares_a_python_with_the_hook_and_one_without(tmp_path):
    printed = run_script("bench/startup.py", "--pairs", 4, "--json", tmp_path / "json")
    result = json.loads((tmp_path / "json").read_text())
    for kind in ("wall", "processor"):
        assert set(result[kind]["medians"]) == {"with", "none", "same"}
        assert all(0 < median < 10_000 for median in result[kind]["medians"].values())
        for difference in (result[kind]["cost"], result[kind]["control"]):
            assert difference["low"] <= difference["median"] <= difference["high"]
    assert printed.startswith("python -c pass, 4 pairs: ")


def test_the_interval_of_a_median_is_that_of_order_statistics(scripts):
    # Of 100 values the 40th and the 61st bound the median with 95 %: a binomial count of 100 halves lies in 40..60.
    differences = list(range(1, 101))
    found = scripts("bench.startup").median_difference([1_000 + each for each in differences], [1_000] * 100)
    assert (found.median, found.low, found.high) == (50.5, 40, 61)
