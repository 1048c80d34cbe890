"""Selections that are killed, and selections at the same time: the scripts in small, and that they see faults."""

import importlib
import json
import sys

import pytest
from support import ROOT, run_command


pytestmark = pytest.mark.distributed

SCRIPTS = ROOT / "scripts"


@pytest.fixture(scope="module")
def scripts():
    """Import a module of the scripts' folder by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        yield importlib.import_module


@pytest.fixture(scope="module")
def place(scripts, tmp_path_factory):
    """A place with one finished selection, and what an undisturbed run wrote."""
    fault_place = scripts("faults.sandbox")
    folder = tmp_path_factory.mktemp("faults")
    pool = fault_place.make_settled_pool(folder / "pool", 300, 0)
    selection = fault_place.Selection(fault_place.given_vectors(pool), 20)
    kernels = fault_place.kernel_folder(folder)
    references = fault_place.make_references(folder / "undisturbed", pool, kernels, [selection])
    place = fault_place.Place(folder / "place", pool, kernels)
    place.prepare(selection)
    return place, references


@pytest.fixture
def findings(scripts, place):
    """What the checks find now."""
    return lambda: list(scripts("faults.checks").Checks(*place).all())


def test_a_place_where_nothing_happened_is_sound(place, findings):
    where, _ = place
    entries = json.loads(where.info.read_bytes())
    assert list(entries) == ["first", "zwölf é", "pool", "moving", "last"]
    assert [name for name in entries if "mig_selector" in entries[name]] == ["moving"]
    assert len(list(where.cache.rglob("*.parquet"))) == 1
    assert findings() == []


def cut(content):
    return content[: len(content) // 2]


def flip(content):
    return content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]


def other_mark(content):
    entries = json.loads(content)
    mark = entries["moving"]["mig_selector"]
    return content.replace(mark.encode(), mark[::-1].encode())


DAMAGES = {
    "half of the entries": ("data/dataset_info.json", cut, "is no JSON"),
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
    "something behind the end": ("data/dataset_info.json", lambda content: content + b" ", "ends with something new"),
    "the mark of another selection": ("data/dataset_info.json", other_mark, "entry moving is of"),
    "half of a subset": ("data/mig_selections/*/selected.jsonl", cut, "is not what the manifest says"),
    "a bit of a table": ("data/mig_selections/*/selection.parquet", flip, "is not what an undisturbed run wrote"),
    "half of a manifest": ("data/mig_selections/*/manifest.json", cut, "has no manifest"),
    "half of a dataset_dir": ("data/mig_selections/*/dataset_dir-*/dataset_info.json", cut, "is no JSON, or names"),
    "half of an extract": ("cache/pools/*.parquet", cut, "is not what an undisturbed run wrote"),
    "half of a note of a hash": ("cache/content_hashes/*.json", cut, "is no note of a content hash"),
    "a wrong hash": (
        "cache/content_hashes/*.json",
        lambda content: json.dumps({**json.loads(content), "sha256": "0" * 64}).encode(),
        "notes a wrong hash of",
    ),
    "half of a note of a subset": ("cache/selections/*.json", cut, "is no list of folders"),
    "a note of no subset": ("cache/selections/*.json", lambda content: b'["/nowhere"]', "names /nowhere"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_checks_see(place, findings, damage):
    pattern, change, words = DAMAGES[damage]
    file = sorted(place[0].folder.glob(pattern))[0]
    content = file.read_bytes()
    file.write_bytes(change(content))
    try:
        assert any(words in finding for finding in findings())
    finally:
        file.write_bytes(content)
    assert findings() == []


def test_the_checks_see_files_that_nobody_knows_and_files_that_were_left(scripts, place, findings):
    where, _ = place
    unknown, left = where.cache / "other" / "file", where.data / ".dataset_info.json.x1y2.tmp"
    unknown.parent.mkdir()
    for file in (unknown, left):
        file.touch()
    assert findings() == [f"{unknown} is not among the files that the cache is known to hold"]
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
