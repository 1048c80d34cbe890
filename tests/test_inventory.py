"""mig-selector list and prune: what there is, what goes, and what stays whatever is asked."""

import json
import os
import re
import time
from pathlib import Path

import pytest

from mig_selector import compare_methods, run_selection, select
from mig_selector.cli import main
from mig_selector.store.files import locked


DAY = 86_400


@pytest.fixture
def chosen(pool_of_60):
    """Two subsets of 10 and 20 rows, and what was cached on the way."""
    outcomes = run_selection(pool_of_60.settings(mig_method="random", mig_num_samples="10,20"))
    return pool_of_60, [Path(each.folder) for each in outcomes]


def run(command, workplace, *words):
    return main([command, *words, "--dataset-dir", str(workplace.data)])


def age(folder, days):
    """Make everything in a folder look as if it was written some days ago."""
    then = time.time() - days * DAY
    for path in folder.rglob("*"):
        os.utime(path, (then, then), follow_symlinks=False)


def unregister(workplace, name):
    entries = workplace.entries()
    del entries[name]
    (workplace.data / "dataset_info.json").write_text(json.dumps(entries))


def test_list_shows_subsets_comparisons_and_what_is_cached(chosen, tmp_path, capsys):
    workplace, folders = chosen
    compare_methods(workplace.settings(mig_num_samples=5), ["random"])
    capsys.readouterr()
    assert run("list", workplace) == 0
    out = capsys.readouterr().out
    for name, rows, folder in (("pool_random_10", "10 of 60", folders[0]), ("pool_random_20", "20 of 60", folders[1])):
        [line] = [line for line in out.splitlines() if line.startswith(f"{name} ")]
        assert rows in line
        assert line.count(name) == 3  # its name, the entry that names it, the folder
        assert line.endswith(str(folder))
        assert time.strftime("%Y-%m-%d") in line
    assert re.search(r"^comparison-\w+ +- ", out, re.MULTILINE)
    assert "cache/pools" in out
    assert f"IN {tmp_path / 'cache'}" in out
    assert " in all\n" in out
    # Whatever a run caches is listed: a new folder of the cache needs a line in store/inventory.py.
    folders = {path.name for path in (tmp_path / "cache").iterdir() if any(path.glob("[!.]*"))}
    assert folders - {"selections"} == set(re.findall(r"^cache/(\w+)", out, re.MULTILINE))


def test_list_of_nothing(tmp_path, capsys):
    assert main(["list", "--dataset-dir", str(tmp_path)]) == 0
    assert capsys.readouterr().out.endswith("0 B in all\n")


def test_a_subset_elsewhere_is_found_because_the_cache_has_recorded_it(pool_of_60, tmp_path, capsys):
    run_selection(pool_of_60.settings(mig_method="random", mig_output_dir=str(tmp_path / "elsewhere")))
    assert main(["list", "--dataset-dir", str(tmp_path)]) == 0
    assert str(tmp_path / "elsewhere" / "pool_random_10-") in capsys.readouterr().out
    # It is registered where it was selected, wherever `prune` is called.
    age(tmp_path / "elsewhere", days=9)
    assert main(["prune", "--older-than", "1w", "--dataset-dir", str(tmp_path)]) == 0
    assert f"named by pool_random_10 in {pool_of_60.data / 'dataset_info.json'}" in capsys.readouterr().out


def test_prune_leaves_what_an_entry_names_unless_told_otherwise(chosen, capsys):
    workplace, [ten, twenty] = chosen
    assert run("prune", workplace, "pool_random_10") == 1
    out = capsys.readouterr().out
    assert f"kept {ten}: named by pool_random_10 in {workplace.data / 'dataset_info.json'}" in out
    assert out.endswith("0 B freed\n")
    before = (workplace.data / "dataset_info.json").read_bytes()
    assert run("prune", workplace, "pool_random_10", "--registered", "--dry-run") == 0
    assert f"would remove {ten}" in capsys.readouterr().out
    assert ten.exists()
    assert run("prune", workplace, "pool_random_10", "--registered") == 0
    assert not ten.exists()
    assert twenty.exists()
    assert (workplace.data / "dataset_info.json").read_bytes() == before


def test_prune_by_age_removes_what_is_old_and_named_by_no_entry(chosen, capsys):
    workplace, [ten, twenty] = chosen
    for name in ("pool_random_10", "pool_random_20"):
        unregister(workplace, name)
    age(ten, days=31)
    assert run("prune", workplace, "--older-than", "30d") == 0
    out = capsys.readouterr().out
    assert f"removed {ten}" in out
    assert not ten.exists()
    assert twenty.exists()
    assert run("prune", workplace, "--older-than", "5w") == 0
    assert twenty.exists()
    assert run("prune", workplace, str(twenty)) == 0  # by its folder
    assert not twenty.exists()


def test_an_entry_in_another_folder_protects_too(chosen, tmp_path, capsys):
    workplace, [ten, _] = chosen
    unregister(workplace, "pool_random_10")
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "dataset_info.json").write_text(json.dumps({"copy": {"file_name": str(ten / "selected.jsonl")}}))
    words = ["prune", str(ten), "--dataset-dir", str(mine), "--output-dir", str(ten.parent)]
    assert main(words) == 1
    assert f"named by copy in {mine / 'dataset_info.json'}" in capsys.readouterr().out
    assert ten.exists()


def test_a_dataset_info_that_cannot_be_read_protects_everything(chosen, capsys):
    workplace, [ten, _] = chosen
    (workplace.data / "dataset_info.json").write_text("{")
    assert run("prune", workplace, str(ten)) == 1
    assert "is not valid JSON" in capsys.readouterr().err
    assert ten.exists()
    assert run("list", workplace) == 0
    assert "is not valid JSON" in capsys.readouterr().err


def test_a_comparison_protects_its_subsets_as_long_as_it_stays(pool_of_60, capsys):
    compared = compare_methods(pool_of_60.settings(), ["random"])
    output_dir = pool_of_60.data / "mig_selections"
    [subset] = output_dir.glob("pool_compared_random_10-*")
    assert run("prune", pool_of_60, str(subset)) == 1
    age(output_dir, days=2)
    assert run("prune", pool_of_60, "--older-than", "1d") == 0
    assert not subset.exists()
    assert compared.folder in capsys.readouterr().out
    assert [path.name for path in output_dir.iterdir() if not path.name.startswith(".")] == []


def test_what_a_process_has_locked_stays(chosen, tmp_path, capsys):
    workplace, [ten, _] = chosen
    with locked(ten):
        assert run("prune", workplace, str(ten), "--registered") == 1
    assert f"kept {ten}: another process holds its lock" in capsys.readouterr().out
    assert ten.exists()
    [index] = (tmp_path / "cache" / "pools").glob("*.parquet")
    with locked(index):
        assert run("prune", workplace, "cache/pools") == 1
    assert "kept 1 file that another process has locked" in capsys.readouterr().out
    assert index.exists()
    with locked(tmp_path / "cache" / "locks" / "any selection"):
        assert run("prune", workplace, "cache") == 1
    assert "a selection is running" in capsys.readouterr().err
    assert index.exists()
    assert run("prune", workplace, str(index.parent)) == 0  # by its folder
    assert not index.exists()


def test_prune_of_the_cache_removes_our_files_and_no_others(chosen, tmp_path, capsys):
    workplace, [ten, _] = chosen
    cache = tmp_path / "cache"
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / f"{'0' * 32}.npy").write_text("precious")
    (cache / "ifd").symlink_to(outside)
    (cache / "row_embeddings").mkdir()
    (cache / "row_embeddings" / f"{'1' * 32}.npy").symlink_to(outside / f"{'0' * 32}.npy")
    (cache / "row_embeddings" / "thesis.npy").write_text("precious")
    (cache / "row_embeddings" / f"{'2' * 32}.npy.partial").write_text("ours")
    assert run("prune", workplace, "cache") == 0
    out = capsys.readouterr().out
    assert "removed 1 file of cache/pools" in out
    assert "removed 1 file of cache/row_embeddings" in out
    assert list((cache / "pools").glob("*.parquet")) == []
    assert (outside / f"{'0' * 32}.npy").read_text() == "precious"
    assert (cache / "row_embeddings" / "thesis.npy").exists()
    assert not (cache / "row_embeddings" / f"{'2' * 32}.npy.partial").exists()
    # Nothing is lost: the next run makes the cache again, and finds the subset.
    assert run_selection(workplace.settings(mig_method="random"))[0].folder == str(ten)


def test_cache_means_the_cache_and_no_subset_of_that_name(pool_of_60, capsys):
    [outcome] = run_selection(pool_of_60.settings(mig_method="random", mig_dataset_name="cache"))
    assert run("prune", pool_of_60, "cache", "--registered") == 0
    assert "removed 1 file of cache/pools" in capsys.readouterr().out
    assert Path(outcome.folder).exists()


def test_links_and_strange_folders_are_no_subsets(chosen, tmp_path, capsys):
    workplace, [ten, _] = chosen
    outside = tmp_path / "outside"
    ten.rename(outside)
    ten.symlink_to(outside)
    (ten.parent / "other").mkdir()
    (ten.parent / "other" / "manifest.json").write_text('{"budget": 3}')
    for name in (ten.name, "other"):
        assert run("prune", workplace, name, "--registered") == 1
        assert "is not the name or the folder of anything" in capsys.readouterr().err
    assert (outside / "selected.jsonl").exists()


def test_a_link_in_a_subset_is_removed_and_not_followed(chosen, tmp_path):
    workplace, [ten, _] = chosen
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter").write_text("precious")
    (ten / "link").symlink_to(tmp_path / "thesis")
    assert run("prune", workplace, str(ten), "--registered") == 0
    assert (tmp_path / "thesis" / "chapter").read_text() == "precious"


def test_an_entry_protects_although_the_cache_is_above_its_folder(chosen, tmp_path, capsys):
    workplace, [ten, _] = chosen
    assert run("prune", workplace, str(ten), "--cache-dir", str(tmp_path)) == 1
    assert "named by pool_random_10" in capsys.readouterr().out


def test_a_name_of_two_folders_is_refused(pool_of_60, capsys):
    for count in (5, 6):
        run_selection(pool_of_60.settings(mig_method="random", mig_num_samples=count, mig_dataset_name="mine"))
    assert run("prune", pool_of_60, "mine") == 1
    assert "'mine' means 2 folders; give one of them" in capsys.readouterr().err


def test_subsets_of_a_notebook_go_although_their_own_entry_names_them(tmp_path, capsys):
    rows = [{"instruction": f"say {number}", "output": str(number)} for number in range(9)]
    folder = select(rows, num_samples=3, method="random").folder
    age(tmp_path / "cache" / "notebook", days=9)
    assert main(["prune", "--older-than", "1w", "--dataset-dir", str(tmp_path)]) == 0
    assert f"removed {folder}" in capsys.readouterr().out
    assert not folder.exists()


@pytest.mark.parametrize("words", [["prune"], ["prune", "--older-than", "soon"], ["list", "--what"]])
def test_wrong_usage_is_exit_code_2(words, capsys):
    try:
        code = main(words)
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    assert capsys.readouterr().out == ""
