"""`mig-selector compare`: what its figures are, worked from the rows that each method chose."""

import json
import random
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from naive import dense
from support import LABELS, make_row, make_rows, run_command
from training import host_settings, trained_tokens

from mig_selector.errors import ArgumentError, PoolError
from mig_selector.graph.label_graph import build_adjacency, build_propagation
from mig_selector.pipeline import comparison
from mig_selector.pipeline.comparison import compare_methods, look_up
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


def figures_of(compared):
    return json.loads((Path(compared.folder) / "comparison.json").read_text())


def by_method(found):
    return {each["method"]: each for each in found["methods"]}


def naive_figures(rows, picked, common, *, matrix=None, scored=True):
    """Count every figure of some rows one by one."""
    label_sets = [set(rows[row]["annotation"]["instag"]["content"]) for row in range(len(rows))]
    used = [label for label in LABELS if sum(label in label_sets[row] for row in common) >= 2]
    held, covered = np.zeros(len(LABELS)), set()
    figures = {"information": None, "mean_score": None}
    total = 0.0
    for row in picked:
        covered |= label_sets[row] & set(used)
        if scored:
            score = rows[row]["annotation"]["deita"]["quality_scores"][0]
            total += score
            if matrix is not None:
                held += score * matrix[[LABELS.index(label) for label in sorted(label_sets[row])]].sum(axis=0)
    if scored:
        figures["mean_score"] = pytest.approx(total / len(picked))
    if matrix is not None:
        figures["information"] = pytest.approx(float(np.sum((held + 1e-6) ** 0.8)), rel=1e-9)
    figures["label_coverage"] = len(covered) / len(used)
    figures["tokens"] = sum(
        len(turn["content"].split()) for row in picked for turn in rows[row]["dialogs"]
    )  # every word of these rows is one token
    sources = [source_of(rows[row]) for row in picked]
    figures["sources"] = {source: sources.count(source) for source in set(sources)}
    return {"rows": len(picked), **figures}


def source_of(row):
    source = row.get("source")
    return "+".join(source) if isinstance(source, list) else source or "pool"


def test_figures_are_those_of_the_rows_that_each_method_chose(place, minilm):
    compared = compare_methods(place.settings(mig_tokenizer=minilm, **place.given), METHODS)
    found = figures_of(compared)
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
        assert each["memory_bytes"] >= 0
        assert each["usable_rows"] == {"mig": 49, "random": 50, "car": 49, "longest": 50}[each["method"]]
        assert each["examples"] == [{"row_index": row, "question": f"question {row}"} for row in rows[:3]]
        naive = naive_figures(place.rows, rows, kept, matrix=matrix)
        assert {key: each[key] for key in naive} == naive
    naive = naive_figures(place.rows, kept, kept, matrix=matrix)
    assert naive["label_coverage"] == 1
    assert {key: found["all_rows"][key] for key in naive} == naive
    assert [found["all_rows"][key] for key in ("seconds", "memory_bytes", "tokens_error")] == [None] * 3
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


def test_a_comparison_describes_the_pool_once(place, caplog):
    with caplog.at_level("INFO", logger="mig_selector"):
        compare_methods(place.settings(**place.given), ["random", "mig", "car"])
    lines = [record.getMessage() for record in caplog.records]
    described = lines.index("pool: read 50 rows of pool.jsonl, kept 48")
    assert not [line for line in lines[described + 1 :] if line.startswith("pool: read")]
    assert set(lines[described + 1 : described + 3]) == {
        "  dropped 1: no score at annotation.CaR",
        "  dropped 1: no score at annotation.deita.quality_scores",
    }
    assert sum("no score at" in line for line in lines) == 2


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
    found = figures_of(compared)
    for each in found["methods"]:
        assert [each[key] for key in ("information", "label_coverage", "mean_score", "tokens")] == [None] * 4
    assert found["kept_rows"] == 50


@pytest.mark.parametrize(
    ("methods", "more", "fault"),
    [
        (["mig", "mig"], {}, "--methods: expected different names"),
        (["mig", ""], {}, "--methods: expected different names"),
        (["mig", "rndom"], {}, "'rndom' is not a method; did you mean random"),
        (["mig"], {"mig_num_samples": [5, 6]}, "mig_num_samples: .* a comparison takes one budget"),
        (
            ["mig"],
            {"mig_num_samples": None, "mig_num_tokens": "5K,6K", "model_name_or_path": "x", "template": "llama3"},
            "mig_num_tokens: '5K,6K' is a list; a comparison takes one budget",
        ),
        (
            ["mig"],
            {"mig_num_samples": None, "mig_num_tokens": "5K"},
            "mig_num_tokens: .* model_name_or_path and template must be set",
        ),
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
    assert "required: --methods" in usage.stderr
    wrong = run_command("mig-selector", "compare", tmp_path / "compare.yaml", "--methods=deta")
    assert wrong.returncode == 1
    assert wrong.stderr.splitlines()[-1].startswith("mig-selector: error: mig_method: 'deta' is not a method")


def test_all_methods_choose_from_the_same_rows_and_no_score_that_nobody_asked_for_narrows_them(workplace, minilm):
    rows = make_rows(400, seed=5)
    for number, row in enumerate(rows):
        row["source"] = ["alpaca" if number < 200 else "flan"]
        row["dialogs"][0]["content"] = "question"
        row["dialogs"][1]["content"] = "word " * (number % 9 + 1)
        if number >= 200:
            del row["annotation"]["deita"]
    workplace.add("pool", rows)
    found = figures_of(
        compare_methods(workplace.settings(mig_num_samples=40, mig_tokenizer=minilm), ["random", "longest"])
    )
    assert (found["kept_rows"], found["read_rows"], found["score"]) == (400, 400, "none")
    picks = {each["method"]: chosen_rows(each["folder"]) for each in found["methods"]}
    assert picks["random"] == random.Random(42).sample(range(400), 40)
    assert picks["longest"] == sorted(range(400), key=lambda row: (-(row % 9), row))[:40]
    for each in found["methods"]:
        naive = naive_figures(rows, picks[each["method"]], range(400), scored=False)
        assert {key: each[key] for key in naive if key != "label_coverage"} | {"label_coverage": None} == naive | {
            "label_coverage": None
        }
        assert each["label_coverage"] is None
        assert each["usable_rows"] == 400
    common = len(set(picks["random"]) & set(picks["longest"])) / 40
    assert found["overlaps"] == [[1.0, common], [common, 1.0]]
    assert found["all_rows"]["sources"] == {"alpaca": 200, "flan": 200}


def test_rows_that_one_method_cannot_read_are_left_out_for_all(workplace, minilm):
    rows = [make_row(number, ["algebra"], 9.0 - number) for number in range(6)]
    for row in rows[:2]:
        row["dialogs"][0]["role"] = "assistant"
    workplace.add("pool", rows)
    settings = workplace.settings(mig_num_samples=3, mig_on_bad_row="skip", mig_tokenizer=minilm)
    found = figures_of(compare_methods(settings, ["top_score", "longest"]))
    assert found["kept_rows"] == 4
    assert [each["rows"] for each in found["methods"]] == [3, 3]
    assert {each["method"]: chosen_rows(each["folder"]) for each in found["methods"]} == {
        "top_score": [2, 3, 4],
        "longest": [2, 3, 4],
    }
    assert [each["mean_score"] for each in found["methods"]] == [6.0, 6.0]


def test_scores_that_a_model_computes_narrow_the_rows_of_all_and_are_computed_once(workplace, tiny_llama, tmp_path):
    rows = make_rows(30)
    for number in (3, 8):
        rows[number]["dialogs"][1]["content"] = ""
    for number in (5, 8):
        del rows[number]["annotation"]["deita"]
    workplace.add("pool", rows)
    settings = workplace.settings(mig_ifd_model=tiny_llama, mig_tokenizer=tiny_llama, mig_fill="top_score")
    compared = compare_methods(settings, ["ifd", "random", "longest", "top_score"])
    found = by_method(figures_of(compared))
    kept = [row for row in range(30) if row not in (3, 5, 8)]
    assert chosen_rows(found["random"]["folder"]) == [kept[row] for row in random.Random(42).sample(range(27), 10)]
    assert {name: each["usable_rows"] for name, each in found.items()} == {
        "ifd": 28,
        "random": 30,
        "longest": 30,
        "top_score": 28,
    }
    assert all(set(chosen_rows(each["folder"])) <= set(kept) for each in found.values())
    for kind in ("ifd", "response_tokens"):
        assert len(list((tmp_path / "cache" / kind).glob("*.npy"))) == 1
    assert "(alone: ifd 28, random 30, longest 30, top_score 28)" in " ".join(compared.table.split())
    run_selection({**settings, "mig_method": "ifd"})
    assert len(list((tmp_path / "cache" / "ifd").glob("*.npy"))) == 1


def test_a_pool_without_scores_can_be_compared_by_methods_that_need_none(place, minilm):
    for row in place.rows:
        row["annotation"].pop("deita", None)
    place.add("pool", place.rows)
    compared = compare_methods(place.settings(mig_tokenizer=minilm), ["instag", "random"])
    found = figures_of(compared)
    assert found["kept_rows"] == 50
    for each in found["methods"]:
        naive = naive_figures(place.rows, chosen_rows(each["folder"]), range(50), scored=False)
        assert {key: each[key] for key in naive} == naive
    assert found["all_rows"]["label_coverage"] == 1


@pytest.mark.parametrize(
    ("methods", "more", "score", "turns"),
    [
        (["random", "deita"], {}, "deita", "sum"),
        (["qdit", "deita"], {}, "deita", "mean"),
        (["random", "longest"], {"mig_score": "annotation.CaR"}, "annotation.CaR", None),
        (["car", "ifd"], {}, "none", None),
    ],
)
def test_the_mean_score_is_that_of_a_score_that_somebody_asked_for(
    workplace, minilm, tmp_path, methods, more, score, turns
):
    rows = make_rows(40)
    for number, row in enumerate(rows):
        row["annotation"]["CaR"] = number % 5 + 1
        row["ifd_score"] = {"content": number / 40}
        quality, complexity = [2.0, 3.0], [1.0, number / 7]
        row["annotation"]["deita"] = {"quality_scores": quality, "complexity_scores": complexity}
    if score == "annotation.CaR":
        del rows[7]["annotation"]["CaR"]
    workplace.add("pool", rows)
    np.save(tmp_path / "rows.npy", np.random.default_rng(1).normal(size=(40, 4)).astype(np.float32))
    settings = workplace.settings(
        mig_row_embeddings=str(tmp_path / "rows.npy"), mig_tokenizer=minilm, mig_num_samples=5, **more
    )
    found = figures_of(compare_methods(settings, methods))
    assert found["score"] == score
    assert found["kept_rows"] == (39 if score == "annotation.CaR" else 40)
    for each in found["methods"]:
        picked = chosen_rows(each["folder"])
        products = [2.0 + 3.0 * row / 7 for row in picked]
        expected = {
            "deita": np.mean(products) / (1 if turns == "sum" else 2),
            "annotation.CaR": np.mean([row % 5 + 1 for row in picked]),
            "none": None,
        }[score]
        assert each["mean_score"] == (None if expected is None else pytest.approx(expected))


def test_costs_of_a_selection_that_an_earlier_run_made_are_left_empty(place, minilm):
    settings = place.settings(mig_tokenizer=minilm, **place.given)
    compare_methods(settings, ["mig", "random"])
    compared = compare_methods(settings, ["mig", "random", "longest"])
    found = by_method(figures_of(compared))
    for name in ("mig", "random"):
        assert [found[name][key] for key in ("seconds", "memory_bytes")] == [None, None]
    assert found["longest"]["seconds"] >= 0
    [line] = [line for line in compared.table.splitlines() if line.startswith("mig ")]
    assert line.split()[-2:] == ["-", "-"]


@pytest.mark.parametrize(
    ("more", "missing", "error", "fault"),
    [
        ({"mig_num_samples": 49}, 2, ArgumentError, r"only 48 rows can be used by every method \(mig 48, random 50\)"),
        ({}, 50, PoolError, r"none of the 50 rows of pool\.jsonl can be selected"),
    ],
)
def test_too_few_common_rows_are_an_error_before_anything_is_selected(place, more, missing, error, fault):
    for row in place.rows[:missing]:
        row["annotation"].pop("instag")
    place.rows[9]["annotation"]["deita"] = place.rows[8]["annotation"]["deita"]
    place.add("pool", place.rows)
    with pytest.raises(error, match=fault):
        compare_methods(place.settings(**{**place.given, **more}), ["mig", "random"])
    assert list(place.entries()) == ["pool"]


def test_methods_without_a_row_in_common_are_an_error_that_says_what_each_could_use(place):
    for number, row in enumerate(place.rows):
        row["annotation"].pop("CaR" if number < 20 else "deita", None)
    place.add("pool", place.rows)
    with pytest.raises(PoolError, match=r"no row .* every method \(car 30, top_score 19\); compare fewer"):
        compare_methods(place.settings(**place.given), ["car", "top_score"])


@pytest.mark.parametrize("wanted", [[1, 4], [6], [0]])
def test_a_row_that_is_looked_up_in_vain_is_an_error(wanted):
    known = np.array([1, 3, 5])
    assert look_up(np.array([5, 1]), known).tolist() == [2, 0]
    with pytest.raises(PoolError, match=f"row {wanted[-1]} of the pool .* among the 3 rows"):
        look_up(np.array(wanted), known)


def test_tokens_of_a_large_pool_are_estimated_and_said_to_be(workplace, minilm, monkeypatch):
    monkeypatch.setattr(comparison, "_SAMPLED_ROWS", 500)
    rows = make_rows(900)
    for number, row in enumerate(rows):
        row["dialogs"][0]["content"] = "question"
        row["dialogs"][1]["content"] = "word " * (number % 9 + 1)
    workplace.add("pool", rows)
    compared = compare_methods(workplace.settings(mig_tokenizer=minilm), ["random", "longest"])
    found = figures_of(compared)
    for each in found["methods"]:
        assert each["tokens"] == naive_figures(rows, chosen_rows(each["folder"]), range(900), scored=False)["tokens"]
        assert each["tokens_error"] is None
    exact = naive_figures(rows, range(900), range(900), scored=False)["tokens"]
    everything = found["all_rows"]
    assert 0 < everything["tokens_error"] < 0.05 * exact
    assert abs(everything["tokens"] - exact) <= 2 * everything["tokens_error"]
    [line] = [line for line in compared.table.splitlines() if line.startswith("all rows")]
    assert " ~" in line
    assert "from a random sample" in " ".join(compared.table.split())


def test_a_model_without_a_tokenizer_leaves_tokens_empty_but_a_tokenizer_that_is_named_must_load(place, tmp_path):
    (tmp_path / "model").mkdir()
    settings = place.settings(model_name_or_path=str(tmp_path / "model"), **place.given)
    found = figures_of(compare_methods(settings, ["mig", "random"]))
    assert found["tokenizer"] is None
    assert [each["tokens"] for each in found["methods"]] == [None, None]
    with pytest.raises(ArgumentError, match=r"mig_tokenizer: .* cannot be loaded"):
        compare_methods({**settings, "mig_tokenizer": str(tmp_path / "model")}, ["mig", "random"])


@pytest.mark.slow
@pytest.mark.llamafactory
@pytest.mark.parametrize("counted", ["all", "supervised"])
def test_methods_are_compared_at_one_budget_of_tokens(place, tiny_llama, tmp_path, counted):
    kept = [row for row in range(50) if row not in (4, 9)]
    counts = trained_tokens(tiny_llama, place.rows)
    column = ["all", "supervised"].index(counted)
    budget = int(counts[kept, column].sum()) // 4
    keys = {**host_settings(tiny_llama, tmp_path / "out"), **place.settings(**place.given)}
    keys |= {"mig_num_samples": None, "mig_num_tokens": budget, "mig_count_tokens": counted}
    methods = ["mig", "longest", "top_score", "car"]
    compared = compare_methods(keys, methods)
    found = figures_of(compared)
    assert (found["budget"], found["budget_unit"], found["kept_rows"]) == (
        budget,
        {"all": "tokens", "supervised": "supervised tokens"}[counted],
        48,
    )
    for each in found["methods"]:
        rows = chosen_rows(each["folder"])
        spent = counts[rows].sum(axis=0).tolist()
        assert [each["rows"], each["tokens"], each["supervised_tokens"], each["steps"]] == [len(rows), *spent, 2]
        assert spent[column] <= budget
        left = [row for row in kept if row not in rows]
        assert min(counts[left, column]) > budget - spent[column] or each["method"] == "car"
        manifest = json.loads((Path(each["folder"]) / "manifest.json").read_text())
        known = manifest["training_tokens"]
        assert [known["fed"], known["supervised"], known["fed_error"]] == [*spent, 0]
        assert manifest["token_budget"] == {"budget": budget, "fed": spent[0], "supervised": spent[1]}
    assert [found["all_rows"][key] for key in ("tokens", "supervised_tokens")] == counts[kept].sum(axis=0).tolist()
    assert len({each["rows"] for each in found["methods"]}) > 1
    assert f"{budget:,} {found['budget_unit']} from 48 rows" in compared.table
    assert len(list((tmp_path / "cache" / "row_tokens").glob("*.npy"))) == 1  # counted once for all methods
    shortest = counts[kept, column].min()
    for asked, fault in (
        ("1M", "mig_num_tokens: 1,000,000 tokens are asked for, but all 48 rows to choose from have"),
        ("1", f"mig_num_tokens: 1 is less than the shortest row to choose from has, {shortest} tokens; set at"),
    ):
        with pytest.raises(ArgumentError, match=fault):
            compare_methods({**keys, "mig_num_tokens": asked}, methods)


@pytest.mark.llamafactory
def test_a_budget_of_rows_says_what_training_is_fed_too(place, tiny_llama, tmp_path):
    keys = {**host_settings(tiny_llama, tmp_path / "out"), **place.settings(**place.given)}
    found = figures_of(compare_methods(keys, ["mig", "random"]))
    counts = trained_tokens(tiny_llama, place.rows)
    for each in found["methods"]:
        expected = [*counts[chosen_rows(each["folder"])].sum(axis=0).tolist(), 2]
        assert [each["tokens"], each["supervised_tokens"], each["steps"]] == expected
    assert found["tokenizer"] == tiny_llama
