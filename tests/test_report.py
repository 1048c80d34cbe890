"""The report that every selection gets: its figures against counts of the rows, and what happens if it fails."""

import json
import logging
import os
import shlex
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from naive import dense
from support import LABELS, make_rows

from mig_selector.cli import main
from mig_selector.errors import PoolError
from mig_selector.graph.label_graph import build_adjacency, build_propagation
from mig_selector.pipeline import report, report_run
from mig_selector.pipeline.comparison import compare_methods
from mig_selector.pipeline.recipe import run_selection
from mig_selector.pipeline.report_again import report_again
from mig_selector.pipeline.stored import find_selection


LITTLE = report.Effort(rows=20, row_bytes=1 << 20, unordered_bytes=100, runner_up_rows=0, continued_rows=0)
ENGLISH = "Please explain in a few words how this works and why it matters. "


@pytest.fixture
def place(workplace):
    """A pool of 150 rows with texts of several lengths, turns and sources; the vectors join some labels."""
    rows = make_rows(150, seed=5)
    for number, row in enumerate(rows):
        row["source"] = [["flan"], "alpaca", None][number % 3]
        row["dialogs"][0]["content"] = f"{ENGLISH}{number}"
        row["dialogs"][1]["content"] = "word " * (number % 40 + 1)
        if number % 5 == 0:
            row["dialogs"] = row["dialogs"] * 2
    workplace.add("pool", rows)
    workplace.rows = rows
    return workplace


def select(workplace, **more):
    usual = {"mig_num_samples": 120, "mig_edge_threshold": 0.5, "mig_report": "html"}
    return run_selection(workplace.settings(**{**usual, **more}))[0]


def wait_for_reports():
    """Wait until the report is written that a run makes beside training."""
    for thread in threading.enumerate():
        if thread.name == "mig_selector report":
            thread.join()


def report_of(outcome):
    wait_for_reports()
    return json.loads((Path(outcome.folder) / "report.json").read_text(encoding="utf-8"))


def matrix_of(workplace):
    given = np.load(workplace.vectors)
    return dense(build_propagation(build_adjacency(given["embeddings"], 0.5), 1.0))


def labels_of(row):
    return set(row["annotation"]["instag"]["content"])


def score_of(row):
    return row["annotation"]["deita"]["quality_scores"][0]


def information(rows, matrix):
    """E of some rows, one after the other."""
    held = np.zeros(len(LABELS))
    for row in rows:
        held += score_of(row) * matrix[[LABELS.index(label) for label in sorted(labels_of(row))]].sum(axis=0)
    return float(np.sum((held + 1e-6) ** 0.8))


def shares(values):
    counts = Counter(values)
    return {name: count / len(values) for name, count in counts.items()}


def bins_of(found, key, side):
    distribution = next(each for each in found["distributions"] if each["key"] == key)
    return {each["name"]: each[side] for each in distribution["bins"] if each[side]}


def test_the_figures_are_those_of_the_rows(place):
    outcome = select(place)
    assert f"report: {outcome.folder}/report.html" in outcome.summary
    found, rows, matrix = report_of(outcome), place.rows, matrix_of(place)
    order = pq.read_table(Path(outcome.folder) / "selection.parquet")["row_index"].to_pylist()
    chosen = [rows[row] for row in order]

    assert (found["rows"], found["kept_rows"], found["read_rows"]) == (120, 150, 150)
    assert found["this"]["information"] == pytest.approx(information(chosen, matrix))
    assert found["this"]["mean_score"] == pytest.approx(sum(map(score_of, chosen)) / 120)
    assert found["all_rows"]["mean_score"] == pytest.approx(sum(map(score_of, rows)) / 150)
    assert found["this"]["label_coverage"] == len(set().union(*map(labels_of, chosen))) / len(LABELS)
    assert found["all_rows"]["information"] == pytest.approx(information(rows, matrix))

    curve = found["curve"]
    assert [point["rows"] for point in curve["at_shares"].values()] == [12, 30, 60, 120]
    for point in (*curve["at_shares"].values(), *curve["points"][:20]):
        assert point["information"] == pytest.approx(information(chosen[: point["rows"]], matrix), rel=1e-9)
    assert curve["at_shares"]["100%"]["information"] == found["this"]["information"]
    assert curve["points"][-1]["rows"] == 150  # such a small pool is chosen to its end
    assert curve["points"][-1]["information"] == curve["pool_information"] == found["all_rows"]["information"]
    assert list(curve["rows_needed"].values()) == sorted(curve["rows_needed"].values())

    counts = {each["count"]["name"]: each["count"] for each in found["labels"]["map"]}
    assert sorted(counts) == sorted(LABELS)
    for name, count in counts.items():
        in_pool, in_chosen = (sum(name in labels_of(row) for row in some) for some in (rows, chosen))
        assert (count["pool"], count["chosen"]) == (in_pool, in_chosen)
        assert count["ratio"] == pytest.approx(in_chosen / (in_pool * 120 / 150))

    assert bins_of(found, "labels", "pool") == {
        str(n): pytest.approx(s) for n, s in shares([len(labels_of(row)) for row in rows]).items()
    }
    assert bins_of(found, "turns", "chosen") == {
        str(n): pytest.approx(s) for n, s in shares([len(row["dialogs"]) // 2 for row in chosen]).items()
    }
    sources = [{"flan": "flan", "alpaca": "alpaca"}.get("".join(row["source"] or ""), "pool") for row in chosen]
    assert bins_of(found, "source", "chosen") == pytest.approx(shares(sources))
    assert bins_of(found, "language", "pool") == {"en": 1.0}
    length = next(each for each in found["distributions"] if each["key"] == "length")
    replies = [sum(len(turn["content"]) for turn in row["dialogs"][1::2]) for row in chosen]
    assert length["chosen_mean"] == pytest.approx(sum(replies) / 120)


def test_other_choices_of_as_many_rows_have_the_same_figures(place):
    found, rows, matrix = report_of(select(place)), place.rows, matrix_of(place)
    others = {each["method"]: each for each in found["others"]}
    assert list(others) == ["random", "top score", "longest replies"]
    best = sorted(range(150), key=lambda row: -score_of(rows[row]))[:120]
    assert others["top score"]["mean_score"] == pytest.approx(sum(score_of(rows[row]) for row in best) / 120)
    assert others["top score"]["information"] == pytest.approx(information([rows[row] for row in best], matrix))
    said = [sum(len(turn["content"]) for turn in row["dialogs"][1::2]) for row in rows]
    longest = sorted(range(150), key=lambda row: -said[row])[:120]
    assert others["longest replies"]["information"] == pytest.approx(
        information([rows[row] for row in longest], matrix)
    )
    assert found["this"]["information"] > max(each["information"] for each in others.values())


@pytest.mark.slow
@pytest.mark.llamafactory
def test_tokens_are_compared_where_those_of_every_row_are_counted(place, tiny_llama):
    keys = {"model_name_or_path": tiny_llama, "template": "llama3", "cutoff_len": 512}
    outcome = select(place, mig_method="random", mig_num_samples=None, mig_num_tokens=3_000, **keys)
    found = report_of(outcome)
    counted = pq.read_table(Path(outcome.folder) / "selection.parquet")["tokens"].to_numpy().sum()
    assert (found["this"]["tokens"], found["this"]["tokens_error"]) == (counted, None)
    assert counted <= 3_000 < found["all_rows"]["tokens"]
    assert all(0 < each["tokens"] < found["all_rows"]["tokens"] for each in found["others"])
    assert found["others"][-1]["tokens"] == max(each["tokens"] for each in found["others"])  # the longest replies
    page = Path(outcome.folder) / "report.html"
    assert "Total tokens that training is fed" in page.read_text(encoding="utf-8")

    outcome = select(place, mig_num_samples=None, mig_num_tokens=3_000, **keys)
    found, matrix = report_of(outcome), matrix_of(place)
    order = pq.read_table(Path(outcome.folder) / "selection.parquet")["row_index"].to_pylist()
    assert found["curve"]["points"][-1]["rows"] == len(order) < 150
    for point in found["curve"]["points"]:
        chosen = [place.rows[row] for row in order[: point["rows"]]]
        assert point["information"] == pytest.approx(information(chosen, matrix))
    assert found["notes"] == [
        "Gains are per token, and the curve ends at the budget: a larger one may choose other rows first."
    ]

    outcome = select(place, mig_method="random", **keys)
    found = report_of(outcome)
    assert found["this"]["tokens"] > 0
    assert {each["tokens"] for each in (*found["others"], found["all_rows"])} == {None}
    html = (Path(outcome.folder) / "report.html").read_text(encoding="utf-8")
    assert "Tokens are left out" in html
    assert "<dt>tokens</dt>" not in html


def test_shown_rows_are_the_first_and_a_sample_each_with_its_receipt(place):
    outcome = select(place)
    found = report_of(outcome)
    table = pq.read_table(Path(outcome.folder) / "selection.parquet").to_pylist()
    assert [row["rank"] for row in found["first_rows"]] == list(range(100))
    assert [row["rank"] for row in found["sampled_rows"]] == list(range(100, 120))
    for row in (*found["first_rows"], *found["sampled_rows"]):
        of_table = table[row["rank"]]
        assert row["pool_index"] == of_table["row_index"]
        assert (row["gain"], row["score"]) == (of_table["gain"], of_table["score"])
        assert row["question"] == f"{ENGLISH}{row['pool_index']}"
        assert {name for name, _ in row["earned"]} == set(of_table["labels"])
        assert sum(share for _, share in row["earned"]) == pytest.approx(1.0)
        assert row["runner_up"] not in [each["row_index"] for each in table[: row["rank"] + 1]]
        assert row["runner_up_gain"] <= row["gain"]


def test_methods_without_labels_or_scores_are_reported_as_far_as_they_are_known(place):
    outcome = select(place, mig_method="random", mig_edge_threshold=0.9)
    found = report_of(outcome)
    assert (found["curve"], found["labels"], found["score"]) == (None, None, None)
    assert [each["key"] for each in found["distributions"]] == ["length", "turns", "source", "language"]
    assert all(row["earned"] == [] and row["gain"] is None for row in found["first_rows"])
    assert "nan" not in (Path(outcome.folder) / "report.html").read_text(encoding="utf-8").lower()


def test_with_a_sample_the_report_says_so_and_the_command_measures_more(place, monkeypatch, capsys):
    monkeypatch.setattr(report_run, "IN_RUN", LITTLE)
    outcome = select(place)
    found = report_of(outcome)
    assert [(each["pool_rows"], each["chosen_rows"]) for each in found["distributions"]][-1] == (20, 20)
    assert [each["method"] for each in found["others"]] == ["random", "top score"]
    assert found["curve"]["points"][-1]["rows"] == 120
    assert "those of 20 rows of the pool and 20 chosen rows" in found["notes"][0]
    assert "rows that lost to chosen ones were not looked for" in found["notes"][1]
    assert "The curve ends at the budget" in found["notes"][2]
    assert {row["runner_up"] for row in found["first_rows"]} == {None}

    name = next(iter(outcome.entries.values()))
    assert main(["report", name, "--dataset-dir", str(place.data)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] == str(Path(outcome.folder) / "report.html")
    assert {Path(line).name for line in printed} == {
        "report.html", "report.json",
        *(f"report_{name}.{kind}" for name in ("information", "labels", "distributions") for kind in ("png", "svg")),
    }  # fmt: skip
    again = report_of(outcome)
    assert again["notes"] == []
    assert [(each["pool_rows"], each["chosen_rows"]) for each in again["distributions"]][-1] == (150, 120)
    assert again["curve"]["points"][-1]["rows"] == 150
    for row, before in zip(again["first_rows"], found["first_rows"], strict=True):
        assert row["runner_up_gain"] <= row["gain"]
        assert {**row, "runner_up": None, "runner_up_gain": None} == before


def test_files_that_give_no_single_rows_are_not_read_again_if_they_are_large(place, monkeypatch):
    path = place.data / "pool.json"
    path.write_text(json.dumps(place.rows), encoding="utf-8")
    place.add("pool", file_name="pool.json")
    outcome = select(place)
    assert len(report_of(outcome)["distributions"]) == 6
    monkeypatch.setattr(report_run, "IN_RUN", LITTLE)
    found = report_of(select(place, mig_overwrite=True))
    assert [each["key"] for each in found["distributions"]] == ["score", "labels"]
    assert "were not measured" in found["notes"][0]
    assert found["first_rows"][0]["question"].startswith(ENGLISH)


def test_several_datasets_are_told_apart(place):
    place.add("more", make_rows(30, seed=9))
    found = report_of(select(place, dataset="pool,more"))
    assert found["this"]["sources"].keys() == {"pool", "more"}
    assert sum(bins_of(found, "dataset", "chosen").values()) == pytest.approx(1.0)
    assert {row["question"][:8] for row in found["first_rows"]} == {"Please e", "question"}


def test_the_command_in_the_report_selects_the_same_rows(place, tmp_path, monkeypatch, capsys):
    outcome = select(place, mig_gain="marginal", mig_phi_exponent=0.7)
    command = report_of(outcome)["command"].split(" ")
    assert command[:2] == ["mig-selector", "select"]
    monkeypatch.chdir(tmp_path)
    words = [word.strip("'") for word in " ".join(command[2:]).replace("' ", "'\n").replace(" --", "\n--").split("\n")]
    words = [part for word in words for part in ([word] if not word.startswith("--") else word.split(" ", 1))]
    assert main(["select", *(word.strip("'") for word in words)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == outcome.folder


def test_none_writes_nothing(place):
    folder = Path(select(place, mig_report="none").folder)
    assert not list(folder.glob("report*"))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("error", [ValueError("no \x1b[2J such thing"), MemoryError(), OSError("disk full")])
def test_a_report_that_fails_is_logged_and_nothing_else(place, monkeypatch, caplog, error, training):
    def fail(*_):
        raise error

    monkeypatch.setattr(report_run, "build_report", fail)
    settings = place.settings(mig_num_samples=120, mig_report="html")
    with caplog.at_level(logging.WARNING, logger="mig_selector"):
        [outcome] = run_selection(settings, training=training)
        wait_for_reports()
    assert (Path(outcome.folder) / "selected.jsonl").exists()
    assert not (Path(outcome.folder) / "report.html").exists()
    [message] = [message for message in caplog.messages if "no report" in message]
    assert type(error).__name__ in message
    assert message.endswith(f"to make it, run mig-selector report '{outcome.folder}'")


def test_training_does_not_wait_for_the_report_but_a_fork_does(place, monkeypatch):
    may_go_on = threading.Event()
    build = report_run.build_report

    def build_late(*arguments):
        may_go_on.wait(60)
        return build(*arguments)

    monkeypatch.setattr(report_run, "build_report", build_late)
    settings = place.settings(mig_num_samples=120, mig_report="html")
    [outcome] = run_selection(settings, training=True)
    page = Path(outcome.folder) / "report.html"
    assert f"report: {page} (being written)" in outcome.summary
    assert set(place.entries()) == {"pool", "pool_mig_120"}
    assert not page.exists()
    threading.Timer(0.1, may_go_on.set).start()
    if (child := os.fork()) == 0:
        os._exit(0 if page.exists() else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert page.read_text(encoding="utf-8").rstrip().endswith("</html>")


def test_a_selection_that_is_found_says_where_its_report_is_or_how_to_make_it(place, tmp_path, capsys):
    first = select(place)
    assert f"report: {first.folder}/report.html" in select(place).summary
    assert not any(line.startswith("report") for line in select(place, mig_report="none").summary)

    copied = select(place, mig_output_dir=str(tmp_path / "else where"))  # the page names the folder that it is in
    [line] = [line for line in copied.summary if line.startswith("report: none so far; to make it, run ")]
    command = shlex.split(line.partition(", run ")[2])
    assert main(command[1:]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{copied.folder}/report.html"

    page = Path(copied.folder) / "report.html"
    page.unlink()
    page.mkdir()
    assert main(command[1:]) == 1
    assert f"{page} is a directory, not a file; move it away." in capsys.readouterr().err


def test_a_pool_that_changed_is_not_reported_again(place):
    outcome = select(place)
    with (place.data / "pool.jsonl").open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(place.rows[0]) + "\n")
    with pytest.raises(PoolError, match="other files or settings than there are now"):
        report_again(find_selection(outcome.folder, str(place.data)))


def test_a_subset_that_changed_is_not_reported_again(place):
    outcome = select(place)
    file = Path(outcome.folder) / "selected.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(PoolError, match=r"selected\.jsonl was changed since it was written; select again"):
        report_again(find_selection(outcome.folder, str(place.data)))
    file.unlink()
    with pytest.raises(PoolError, match=r"selected\.jsonl is not there any more; select again"):
        report_again(find_selection(outcome.folder, str(place.data)))


def test_a_comparison_leads_to_the_report_of_each_selection(place):
    settings = place.settings(mig_num_samples=20, mig_report="html")
    compared = Path(compare_methods(settings, ["mig", "random"]).folder)
    html = (compared / "comparison.html").read_text(encoding="utf-8")
    links = [part.split('"')[0] for part in html.split('<a href="')[1:]]
    assert len(links) == 2
    assert all((compared / link.replace("%20", " ").replace("%C3%A9", "é")).is_file() for link in links)
    for each in json.loads((compared / "comparison.json").read_text())["methods"]:
        report = json.loads((Path(each["folder"]) / "report.json").read_text())
        assert "every method of a comparison" in report["notes"][0]
        assert report["command"] is None  # `select` would choose from other rows
        page = (Path(each["folder"]) / "report.html").read_text(encoding="utf-8")
        assert "It is part of a comparison or a study" in page


def test_steps_of_training_are_those_of_the_trainer(place):
    schedule = {
        "do_train": True, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "num_train_epochs": 3,
    }  # fmt: skip

    def training(**more):
        settings = place.settings(mig_num_samples=30, mig_overwrite=True, mig_report="html", **{**schedule, **more})
        outcome = run_selection(settings, training=True)[0]
        lines = [line for line in outcome.summary if line.startswith("training: ")]
        [again] = run_selection({**settings, "mig_overwrite": None}, training=True)
        assert [line for line in again.summary if line.startswith("training: ")] == lines
        made = report_of(outcome)["training"]
        assert made is None or made.pop("planned_on") == time.strftime("%Y-%m-%d")
        steps = made and f"training: {made['steps']} optimizer steps of up to {made['rows_per_step']} rows"
        assert lines == ([steps] if made else [])
        return made

    assert training() == {"steps": 12, "rows_per_step": 8, "processes": 1, "epochs": 3.0}
    assert training(max_steps=5) == {"steps": 5, "rows_per_step": 8, "processes": 1, "epochs": None}
    for key in ("packing", "val_size", "streaming"):
        assert training(**{key: True}) is None
    assert report_of(select(place, **schedule))["training"] is None


def test_training_gets_the_key_figures_also_of_a_selection_that_is_there_already(place):
    outcome = select(place, mig_report="html")
    found = report_of(outcome)
    assert outcome.figures == {
        "rows": 120,
        "pool_rows": 150,
        "information": found["this"]["information"],
        "label_coverage": found["this"]["label_coverage"],
        "mean_score": found["this"]["mean_score"],
        "pool_mean_score": found["all_rows"]["mean_score"],
    }
    again = select(place)
    assert again.is_reused
    assert again.figures == outcome.figures
    assert select(place, mig_method="random").figures == {"rows": 120, "pool_rows": 150}


def test_a_row_of_a_megabyte_is_cut_and_stays_text(place):
    rows = [*place.rows[:40]]
    rows[3]["dialogs"] = [{"role": "user", "content": "<b>" * 400_000}, {"role": "assistant", "content": "\u202e" * 9}]
    place.add("pool", rows)
    outcome = select(place, mig_num_samples=40)
    html = (Path(outcome.folder) / "report.html").read_text(encoding="utf-8")
    assert len(html) < 1_000_000
    assert "&lt;b&gt;&lt;b&gt;" in html
    assert "\u202e" not in html
