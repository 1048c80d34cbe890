"""mig-selector verify: identical, or what changed."""

import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import LABELS, make_row, write_vectors

from mig_selector import compare_methods, run_selection
from mig_selector.cli import main
from mig_selector.store.hashing import fingerprint_of


def verify(workplace, selection, *words):
    return main(["verify", str(selection), "--dataset-dir", str(workplace.data), *words])


def snapshot(folder):
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def rewrite(folder, change):
    """Change the manifest of a subset."""
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.fixture
def chosen(pool_of_60):
    """The folder of ten rows chosen by mig."""
    return Path(run_selection(pool_of_60.settings())[0].folder)


def test_an_untouched_selection_is_identical_and_stays_untouched(pool_of_60, chosen, tmp_path, capsys):
    before = snapshot(tmp_path)
    for selection in (chosen, "pool_mig_10"):
        assert verify(pool_of_60, selection) == 0
        assert capsys.readouterr().out == "identical\n"
    assert snapshot(tmp_path) == before
    assert verify(pool_of_60, chosen, "--use-cache") == 0
    assert snapshot(pool_of_60.data) == {
        path: content for path, content in before.items() if Path(path).is_relative_to(pool_of_60.data)
    }


def test_the_identity_in_a_manifest_gives_its_fingerprint(chosen):
    manifest = json.loads((chosen / "manifest.json").read_text())
    assert fingerprint_of(manifest["identity"]) == manifest["fingerprint"]


@pytest.mark.parametrize(
    "settings",
    [
        {"mig_num_samples": 0.1, "mig_normalize": True, "mig_gain": "marginal"},
        {"mig_method": "random", "mig_seed": 7},
        {"mig_method": "top_score", "mig_score": "num_labels", "mig_min_label_count": 1},
        {"mig_method": "instag", "mig_fill": "top_score", "mig_num_samples": 40},
        {"mig_method": "top_score", "mig_deita_turns": "sum"},
        {"mig_method": "car", "mig_iqs": "annotation.deita.quality_scores", "mig_row_embeddings": "vectors.npy"},
        {"mig_label_vocabulary": "vocabulary.txt"},
    ],
    ids=lambda settings: settings.get("mig_method", "mig"),
)
def test_any_configuration_is_repeated_from_any_folder(pool_of_60, tmp_path, monkeypatch, settings, capsys):
    np.save(pool_of_60.folder / "vectors.npy", np.random.default_rng(0).normal(size=(60, 4)))
    (pool_of_60.folder / "vocabulary.txt").write_text("\n".join(LABELS[:6]))
    monkeypatch.chdir(pool_of_60.folder)
    outcome = run_selection(pool_of_60.settings(dataset_dir="data", **settings))[0]
    monkeypatch.chdir(tmp_path)
    assert verify(pool_of_60, outcome.folder) == 0, capsys.readouterr().out


def test_one_of_several_budgets_and_several_pools_with_bad_rows(workplace, capsys):
    workplace.add("one", [make_row(number, LABELS[:2], 1 + number) for number in range(20)])
    workplace.add("two", [make_row(number, LABELS[2:4], 2 + number) for number in range(20)])
    with (workplace.data / "two.jsonl").open("a") as stream:
        stream.write("{\n")
    settings = {"dataset": "one,two", "mig_num_samples": "4,6", "mig_on_bad_row": "skip", "mig_method": "random"}
    for outcome in run_selection(workplace.settings(**settings)):
        assert verify(workplace, outcome.folder) == 0, capsys.readouterr().out
    assert verify(workplace, "one+two_random_6__one") == 0


def test_a_subset_of_a_comparison_is_repeated_from_the_rows_that_it_had(workplace, capsys):
    rows = [make_row(number, LABELS[:3], 1.0 + number) for number in range(20)]
    del rows[3]["annotation"]["deita"]  # which top_score cannot use
    workplace.add("pool", rows)
    compare_methods(workplace.settings(mig_num_samples=5), ["random", "top_score"], register=True)
    for name in ("pool_compared_random_5", "pool_compared_top_score_5"):
        assert verify(workplace, name) == 0, capsys.readouterr().out


def test_a_changed_pool_is_named_with_the_first_rank_that_differs(pool_of_60, chosen, capsys):
    pool = pool_of_60.data / "pool.jsonl"
    with pool.open("a") as stream:
        stream.write(json.dumps(make_row(60, LABELS, 1e6)) + "\n")
    assert verify(pool_of_60, chosen) == 1
    out = capsys.readouterr().out
    assert out.startswith("changed\n")
    assert f"pool file {pool} of pool: changed" in out
    assert "the rows differ from rank 0 on" in out
    assert "row 60 now" in out


def test_a_change_outside_the_chosen_rows_is_said_to_be_one(pool_of_60, chosen, capsys):
    pool = pool_of_60.data / "pool.jsonl"
    lines = pool.read_text().splitlines()
    chosen_rows = {json.loads(line)["dialogs"][0]["content"] for line in (chosen / "selected.jsonl").open()}
    index = next(i for i, line in enumerate(lines) if json.loads(line)["dialogs"][0]["content"] not in chosen_rows)
    lines[index] = lines[index].replace("question", "Question")
    pool.write_text("\n".join(lines) + "\n")
    assert verify(pool_of_60, chosen) == 1
    out = capsys.readouterr().out
    assert "pool.jsonl of pool: changed" in out
    assert "selected again" not in out


def test_changed_text_of_chosen_rows_shows_in_the_file(pool_of_60, chosen, capsys):
    pool = pool_of_60.data / "pool.jsonl"
    pool.write_text(pool.read_text().replace("question", "Question"))
    assert verify(pool_of_60, chosen) == 1
    assert "selected again, selected.jsonl has other content" in capsys.readouterr().out


def test_changed_files_of_the_subset_are_named(pool_of_60, chosen, capsys):
    (chosen / "selected.jsonl").write_text("{}\n")
    (chosen / "selection.parquet").unlink()
    assert verify(pool_of_60, chosen) == 1
    out = capsys.readouterr().out
    assert "selected.jsonl: changed since the selection was written" in out
    assert "selection.parquet: missing since the selection was written" in out
    assert "cannot be selected again" in out


def test_figures_that_were_changed_in_the_manifest_are_named(pool_of_60, chosen, capsys):
    rewrite(chosen, lambda manifest: manifest.update(information=9999.0, labels_covered=1))
    assert verify(pool_of_60, chosen) == 1
    out = capsys.readouterr().out
    assert re.search(r"information is \d+\.\d+, but 9999\.0 in manifest\.json", out)
    assert re.search(r"labels_covered is \d+, but 1 in manifest\.json", out)


def test_changed_inputs_and_entries_are_named(pool_of_60, chosen, capsys):
    write_vectors(pool_of_60.vectors, LABELS, seed=5)
    entries = pool_of_60.entries()
    entries["pool"]["tags"]["system_tag"] = "sys"
    (pool_of_60.data / "dataset_info.json").write_text(json.dumps(entries))
    assert verify(pool_of_60, chosen) == 1
    out = capsys.readouterr().out
    assert "- mig_label_embeddings: " in out
    assert "system then, sys now" in out


def test_what_is_gone_is_said(pool_of_60, chosen, capsys):
    (pool_of_60.data / "pool.jsonl").unlink()
    assert verify(pool_of_60, chosen) == 1
    out = capsys.readouterr().out
    assert "pool.jsonl of pool: missing" in out
    assert "it cannot be selected again" in out


def test_other_versions_alone_are_no_change(pool_of_60, chosen, capsys):
    rewrite(chosen, lambda manifest: manifest["versions"].update(numpy="0.1", gone="1.0"))
    assert verify(pool_of_60, chosen) == 0
    out = capsys.readouterr().out
    assert out.startswith("identical\n(numpy 0.1 then, ")
    assert "(gone 1.0 then, not installed now)" in out


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        (
            "nothing",
            "'nothing' is neither the folder of a selection nor the name of one. dataset: 'nothing' is not",
        ),
        ("pool", "mig_selector did not write that entry"),
        (".", "is not a finished selection: manifest.json is missing or malformed"),
    ],
)
def test_what_is_no_selection_is_a_users_error(pool_of_60, selection, message, capsys):
    assert verify(pool_of_60, selection) == 1
    assert message in capsys.readouterr().err


def test_a_manifest_of_an_earlier_version_is_a_users_error(pool_of_60, chosen, capsys):
    rewrite(chosen, lambda manifest: manifest.pop("config"))
    assert verify(pool_of_60, chosen) == 1
    assert "was written by an earlier version" in capsys.readouterr().err


def test_a_manifest_that_others_can_write_is_not_believed(pool_of_60, chosen, capsys):
    (chosen / "manifest.json").chmod(0o666)
    assert verify(pool_of_60, chosen) == 1
    assert "others can write to it, so it is not believed" in capsys.readouterr().err


def test_a_table_that_is_none_of_ours_is_reported(pool_of_60, chosen, capsys):
    pq.write_table(pa.table({"row": [1]}), chosen / "selection.parquet")
    assert verify(pool_of_60, chosen) == 1
    assert "selection.parquet has no column" in capsys.readouterr().out
