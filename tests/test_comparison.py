"""`mig-selector compare`: what its figures are, worked from the rows that each method chose."""

import json
import random
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from naive import dense
from support import LABELS, make_rows, run_command

from mig_selector.errors import ArgumentError
from mig_selector.graph.label_graph import build_adjacency, build_propagation
from mig_selector.pipeline.comparison import compare_methods
from mig_selector.pipeline.recipe import run_selection


METHODS = ["mig", "random", "car", "longest"]


@pytest.fixture
def place(workplace, tmp_path):
    """A pool of 50 rows of three sources, two of which lack what one of the methods needs."""
    rows = make_rows(50, seed=3)
    for number, row in enumerate(rows):
        row["annotation"]["CaR"] = [number * 11 % 50 / 10 - 1]
        row["source"] = [["alpaca"], "flan", None][number % 3]
        row["dialogs"][1]["content"] = "word " * (number % 7 + 1)
    del rows[4]["annotation"]["CaR"]
    del rows[9]["annotation"]["deita"]
    workplace.add("pool", rows)
    workplace.rows = rows
    np.save(tmp_path / "rows.npy", np.random.default_rng(1).normal(size=(50, 4)).astype(np.float32))
    workplace.given = {"mig_row_embeddings": str(tmp_path / "rows.npy"), "mig_edge_threshold": 0.5}
    return workplace


def chosen_rows(folder):
    return pq.read_table(Path(folder) / "selection.parquet")["row_index"].to_pylist()


def test_figures_are_those_of_the_rows_that_each_method_chose(place, minilm):
    compared = compare_methods(place.settings(mig_tokenizer=minilm, **place.given), METHODS)
    found = json.loads((Path(compared.folder) / "comparison.json").read_text())
    assert (found["budget"], found["kept_rows"], found["read_rows"]) == (10, 48, 50)
    with np.load(place.vectors) as file:
        matrix = dense(build_propagation(build_adjacency(file["embeddings"], 0.5), 1.0))
    picks = {each["method"]: chosen_rows(each["folder"]) for each in found["methods"]}
    assert list(picks) == METHODS
    kept = [row for row in range(50) if row not in (4, 9)]
    assert picks["random"] == [kept[row] for row in random.Random(42).sample(range(48), 10)]
    scores = {row: place.rows[row]["annotation"]["deita"]["quality_scores"][0] for row in kept}
    used = {label for row in kept for label in place.rows[row]["annotation"]["instag"]["content"]}
    for each in found["methods"]:
        rows = picks[each["method"]]
        held, covered = np.zeros(len(LABELS)), set()
        for row in rows:
            labels = place.rows[row]["annotation"]["instag"]["content"]
            covered |= set(labels)
            held += scores[row] * matrix[[LABELS.index(label) for label in labels]].sum(axis=0)
        assert each["information"] == pytest.approx(float(np.sum((held + 1e-6) ** 0.8)), rel=1e-9)
        assert each["label_coverage"] == len(covered) / len(used)
        assert each["mean_score"] == pytest.approx(np.mean([scores[row] for row in rows]))
        assert each["tokens"] == sum(2 + row % 7 + 1 for row in rows)  # "question 12" and the words
        sources = [["alpaca", "flan", "pool"][row % 3] for row in rows]
        assert each["sources"] == {source: sources.count(source) for source in set(sources)}
        assert each["seconds"] >= 0
        assert each["peak_memory_bytes"] > 10**7
    shares = [[len(set(picks[one]) & set(picks[other])) / 10 for other in METHODS] for one in METHODS]
    assert found["overlaps"] == shares
    assert all(name in compared.table for name in METHODS)


def test_a_comparison_leaves_plain_selections_alone_and_finds_its_own_again(place, minilm, caplog):
    alone = run_selection(place.settings(**place.given))[0]
    settings = place.settings(mig_tokenizer=minilm, **place.given)
    first = compare_methods(settings, METHODS)
    assert place.entries()["pool_mig_10"]["mig_selector"] == alone.fingerprint
    names = {f"pool_compared_{method}_10" for method in METHODS}
    assert not names & set(place.entries())  # a comparison leaves the user's dataset_info.json alone
    own = json.loads((Path(first.folder) / "dataset_info.json").read_text())
    assert set(own) == names
    for entry in own.values():
        assert len(Path(entry["file_name"]).read_text().splitlines()) == 10
    with caplog.at_level("INFO", logger="mig_selector"):
        assert compare_methods(settings, METHODS) == first
    assert caplog.text.count("already selected") == len(METHODS)


def test_a_comparison_registers_its_subsets_if_asked_and_takes_a_stem_for_their_names(place):
    settings = place.settings(**place.given)
    folder = Path(compare_methods({**settings, "mig_dataset_name": "mine"}, ["random", "top_score"]).folder)
    assert set(json.loads((folder / "dataset_info.json").read_text())) == {"mine_random_10", "mine_top_score_10"}
    assert set(place.entries()) == {"pool"}
    settings["mig_dataset_name"] = "best{budget}"
    compare_methods(settings, ["random", "top_score"], register=True)
    assert set(place.entries()) == {"pool", "best10_random", "best10_top_score"}


@pytest.mark.parametrize("name", ["数据集", "my data", "x" * 120, "user/pool@v1"])
def test_pools_of_any_name_can_be_compared(place, name):
    place.add(name, place.rows)
    settings = {**place.settings(**place.given), "dataset": name}
    names = set(json.loads((Path(compare_methods(settings, ["random"]).folder) / "dataset_info.json").read_text()))
    assert len(names) == 1
    assert re.fullmatch(r"[A-Za-z0-9_.+-]{1,128}", names.pop())


def test_without_labels_and_scores_their_figures_are_missing(place):
    for row in place.rows:
        row.pop("annotation")
    place.add("pool", place.rows)
    compared = compare_methods(place.settings(mig_zip_k1=5, mig_zip_k2=3, mig_zip_k3=2), ["random", "zip"])
    found = json.loads((Path(compared.folder) / "comparison.json").read_text())
    for each in found["methods"]:
        assert [each[key] for key in ("information", "label_coverage", "mean_score", "tokens")] == [None] * 4
    assert found["kept_rows"] == 50


@pytest.mark.parametrize(
    ("methods", "more", "fault"),
    [
        (["mig", "mig"], {}, "--methods: expected different names"),
        (["mig", ""], {}, "--methods: expected different names"),
        (["mig", "rndom"], {}, "'rndom' is not a method; did you mean random"),
        (["mig"], {"mig_num_samples": [5, 6]}, "a comparison takes one budget"),
        (["mig"], {"mig_dataset_name": "a b"}, "mig_dataset_name: 'a b' is not allowed"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_read(place, methods, more, fault):
    (place.data / "pool.jsonl").write_text("no JSON")
    with pytest.raises(ArgumentError, match=fault):
        compare_methods(place.settings(**{**place.given, **more}), methods)


def test_the_command_prints_the_table_and_the_folder(place, tmp_path):
    (tmp_path / "compare.yaml").write_text(json.dumps(place.settings(**place.given)))
    words = ["mig-selector", "compare", tmp_path / "compare.yaml", "mig_num_samples=7", "--methods", "mig,random"]
    done = run_command(*words)
    assert done.returncode == 0, done.stderr
    *table, folder = done.stdout.splitlines()
    assert any(line.startswith("random ") for line in table)
    assert {"comparison.csv", "comparison.json", "comparison.html", "comparison.png"} <= {
        file.name for file in Path(folder).iterdir()
    }
    assert "Traceback" not in done.stderr
    usage = run_command("mig-selector", "compare", tmp_path / "compare.yaml")
    assert (usage.returncode, usage.stdout) == (2, "")
    assert "--methods mig,random" in usage.stderr
    wrong = run_command("mig-selector", "compare", tmp_path / "compare.yaml", "--methods=deta")
    assert wrong.returncode == 1
    assert wrong.stderr.splitlines()[-1].startswith("mig-selector: error: mig_method: 'deta' is not a method")
