"""The folder in which the machine code of the search is kept."""

import os
import pickle
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT, needs_root

import mig_selector.selection


pytestmark = pytest.mark.slow

IN_TREE = Path(mig_selector.selection.__file__).parent / "__pycache__"
PROGRAM = """
import sys
from numba import config
from mig_selector.selection.kernel import ObjectiveTuple, local_value
value = local_value(ObjectiveTuple(False, True, 0.8, 1e-6, 2.0), 0.0)
stats = local_value.stats
print(value, stats.cache_path, sum(stats.cache_hits.values()), repr(config.CACHE_DIR))
"""


def run(**variables):
    """Compile one function in a new process; return its value, where its code is, hits and numba's own setting."""
    return start(**variables).stdout.split()


def start(**variables):
    kept = {name: value for name, value in os.environ.items() if name not in {"MIG_SELECTOR_CACHE", "NUMBA_CACHE_DIR"}}
    environment = {**kept, "PYTHONPATH": str(ROOT), **{name: str(value) for name, value in variables.items()}}
    words = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(autouse=True)
def _nothing_in_the_package():
    """The package's own folder is left alone, whatever a test sets."""
    before = set(IN_TREE.glob("*.nb?"))
    yield
    assert set(IN_TREE.glob("*.nb?")) == before


def code_below(folder):
    return [path.name for path in folder.rglob("*") if path.suffix in {".nbi", ".nbc"}]


@pytest.mark.parametrize("chosen_by", ["variable", "home"])
def test_code_is_kept_in_the_cache_and_found_there_by_the_next_process(tmp_path, chosen_by):
    kernels = tmp_path / {"variable": "cache", "home": ".cache/mig_selector"}[chosen_by] / "kernels"
    variables = {"variable": {"MIG_SELECTOR_CACHE": tmp_path / "cache"}, "home": {"HOME": tmp_path}}[chosen_by]
    value, path, hits, setting = run(**variables)
    assert float(value) == 2.0
    assert Path(path).parent == kernels
    assert hits == "0"
    assert setting == "''"  # other packages' functions are kept where they were
    assert sorted(Path(name).suffix for name in code_below(kernels)) == [".nbc", ".nbi"]
    assert run(**variables) == ["2.0", path, "1", "''"]


def test_the_folder_that_the_user_gave_numba_wins(tmp_path):
    given = tmp_path / "given"
    _, path, _, setting = run(NUMBA_CACHE_DIR=given, MIG_SELECTOR_CACHE=tmp_path / "cache")
    assert Path(path).parent == given
    assert setting == repr(str(given))
    assert code_below(given)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("variable", ["MIG_SELECTOR_CACHE", "NUMBA_CACHE_DIR"])
def test_without_a_writable_folder_it_is_compiled_in_every_run(tmp_path, variable):
    (tmp_path / "file").write_text("no folder")
    variables = {"HOME": tmp_path / "home", variable: tmp_path / "file"}
    assert [run(**variables)[:3] for _ in range(2)] == [["2.0", "None", "0"]] * 2
    assert not code_below(tmp_path)


def test_a_folder_in_which_numba_cannot_create_its_own_is_not_used(tmp_path):
    kernels = tmp_path / "cache" / "kernels"
    _, path, _, _ = run(MIG_SELECTOR_CACHE=tmp_path / "cache")
    for file in Path(path).iterdir():
        file.unlink()
    Path(path).rmdir()
    Path(path).write_text("no folder")
    assert run(MIG_SELECTOR_CACHE=tmp_path / "cache")[:3] == ["2.0", "None", "0"]
    assert not code_below(kernels)


@pytest.mark.parametrize("ending", [".nbi", ".nbc"])
@pytest.mark.parametrize("damage", ["cut", "empty", "bit"])
def test_damaged_code_counts_as_absent_and_is_made_again(tmp_path, ending, damage):
    cache = tmp_path / "cache"
    run(MIG_SELECTOR_CACHE=cache)
    [file] = cache.rglob(f"*{ending}")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes({"cut": content[:-20], "empty": b"", "bit": content}[damage])
    again = start(MIG_SELECTOR_CACHE=cache)
    assert again.stdout.split()[0] == "2.0"
    assert again.stdout.split()[2] == "0"
    assert again.stderr.count(f"{file} is damaged") == 1
    assert run(MIG_SELECTOR_CACHE=cache)[2] == "1"


class Planted:
    """What numba would run when it unpickles an index."""

    def __reduce__(self):
        return print, ("planted code ran",)


@pytest.mark.parametrize(
    "how",
    ["writable for all", pytest.param("of another user", marks=needs_root), "below a folder that is writable for all"],
)
def test_code_is_neither_read_from_nor_kept_in_a_folder_that_others_may_write(tmp_path, how):
    cache = tmp_path / "cache"
    _, path, _, _ = run(MIG_SELECTOR_CACHE=cache)
    [index] = Path(path).glob("*.nbi")
    version = pickle.load(index.open("rb"))
    index.write_bytes(pickle.dumps(version, -1) + pickle.dumps(Planted()))
    before = code_below(cache)
    if how == "writable for all":
        (cache / "kernels").chmod(0o777)
    elif how == "of another user":
        os.chown(cache / "kernels", 4242, 4242)
    else:
        cache.chmod(0o777)
    done = start(MIG_SELECTOR_CACHE=cache)
    assert done.stdout.split()[:3] == ["2.0", "None", "0"]
    assert done.stderr.count("is not private") == 1
    assert code_below(cache) == before


def test_the_folder_of_the_code_is_for_this_user_only(tmp_path):
    kernels = tmp_path / "cache" / "kernels"
    run(MIG_SELECTOR_CACHE=tmp_path / "cache")
    assert stat.S_IMODE(kernels.stat().st_mode) == 0o700
    kernels.chmod(0o755)  # as an earlier version left it
    assert run(MIG_SELECTOR_CACHE=tmp_path / "cache")[2] == "1"
    assert stat.S_IMODE(kernels.stat().st_mode) == 0o700
