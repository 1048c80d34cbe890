"""The recipe from settings to a registered subset, without an encoder unless a test is about it."""

import csv
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from naive import dense, naive_selection
from support import LABELS, SHAREGPT, make_row, make_rows, run_command, write_lines, write_vectors

from mig_selector.arguments import parse_arguments, split_keys
from mig_selector.arrays import RowLabels
from mig_selector.console import plural
from mig_selector.errors import ArgumentError, EmbeddingError, HandoverError, PoolError, RegistrationError
from mig_selector.graph.label_graph import build_adjacency, build_propagation
from mig_selector.integration.config import HostArguments
from mig_selector.integration.handover import TrainingOrigin
from mig_selector.pipeline import stages, write
from mig_selector.pipeline.recipe import run_selection
from mig_selector.pipeline.request import Request, resolve
from mig_selector.pool.index import parallel
from mig_selector.selection.objective import Objective


def select(workplace, **more):
    return run_selection(workplace.settings(**more))[0]


def table(outcome):
    return pq.read_table(Path(outcome.folder) / "selection.parquet").to_pydict()


def manifest(outcome):
    return json.loads((Path(outcome.folder) / "manifest.json").read_text())


def test_rows_are_those_of_a_naive_selection(pool_of_60):
    rows = make_rows(60)
    with np.load(pool_of_60.vectors) as file:
        vectors = file["embeddings"]
    matrix = dense(build_propagation(build_adjacency(vectors, 0.5), 0.7)).tolist()
    label_sets = [{LABELS.index(label) for label in row["annotation"]["instag"]["content"]} for row in rows]
    scores = [row["annotation"]["deita"]["quality_scores"][0] for row in rows]
    expected, gains = naive_selection(label_sets, scores, matrix, Objective(), 25)

    outcome = select(pool_of_60, mig_num_samples=25, mig_edge_threshold=0.5, mig_propagation_weight=0.7)
    chosen = table(outcome)
    assert chosen["row_index"] == expected
    assert chosen["row_id"] == [f"id{row}" for row in expected]
    assert chosen["gain"] == pytest.approx(gains, rel=1e-12)
    assert chosen["score"] == [scores[row] for row in expected]
    assert chosen["labels"] == [sorted(LABELS[label] for label in label_sets[row]) for row in expected]
    lines = (Path(outcome.folder) / "selected.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"dialogs": rows[row]["dialogs"]} for row in expected]
    assert manifest(outcome)["information"] == pytest.approx(information(expected, label_sets, scores, matrix))


def as_array(path, rows):
    path.write_text(json.dumps(rows, indent=1))


def as_parquet(path, rows):
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=7)


def as_arrow(path, rows):
    table = pa.Table.from_pylist(rows)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=9)


def as_csv(path, rows):
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(rows[0])
        writer.writerows(
            [value if type(value) is str else json.dumps(value) for value in row.values()] for row in rows
        )


@pytest.mark.parametrize("is_parallel", [False, True], ids=["one process", "processes"])
@pytest.mark.parametrize("gain", ["gradient", "marginal"])
@pytest.mark.parametrize("write", [write_lines, as_array, as_parquet, as_arrow, as_csv])
def test_every_way_to_the_rows_leads_to_a_naive_selection(workplace, monkeypatch, write, gain, is_parallel):
    monkeypatch.setattr(parallel, "_PARALLEL_BYTES", 0 if is_parallel else 10**9)
    monkeypatch.setattr(parallel, "_SPAN_BYTES", 3_000)
    monkeypatch.setattr(os, "sched_getaffinity", lambda number: {0, 1})
    rows = [
        {
            "instruction": f"q{number}",
            "output": f"a{number}",
            "annotation": {**row["annotation"], "deita": {"quality_scores": [3.0], "complexity_scores": [1.0]}},
        }
        if number % 3
        else {"instruction": f"q{number}", "output": f"a{number}", "annotation": row["annotation"]}
        for number, row in enumerate(make_rows(60, seed=4))
    ]
    with np.load(workplace.vectors) as file:
        matrix = dense(build_propagation(build_adjacency(file["embeddings"], 0.5), 1.0)).tolist()
    label_sets = [{LABELS.index(label) for label in row["annotation"]["instag"]["content"]} for row in rows]
    scores = [row["annotation"]["deita"]["quality_scores"][0] for row in rows]
    expected, _ = naive_selection(label_sets, scores, matrix, Objective(gain=gain), 40)

    ending = {as_array: "json", as_parquet: "parquet", as_arrow: "arrow", as_csv: "csv"}.get(write, "jsonl")
    columns = {"prompt": "instruction", "response": "output"}
    workplace.add("pool", file_name=f"pool.{ending}", formatting="alpaca", columns=columns)
    write(workplace.data / f"pool.{ending}", rows)
    keys = {"mig_edge_threshold": 0.5, "mig_gain": gain}
    assert table(select(workplace, mig_num_samples=40, **keys))["row_index"] == expected
    monkeypatch.setattr(parallel.Readers, "index_spans", None)  # from here on no text is read
    assert table(select(workplace, mig_num_samples=30, **keys))["row_index"] == expected[:30]
    assert table(select(workplace, mig_num_samples=40, mig_overwrite=True, **keys))["row_index"] == expected


def information(chosen, label_sets, scores, matrix):
    held = np.zeros(len(matrix))
    for row in chosen:
        for label in label_sets[row]:
            held += scores[row] * np.array(matrix[label])
    return float(np.sum((held + 1e-6) ** 0.8))


def test_normalising_divides_by_all_labels_that_a_row_names(workplace):
    # "rare" does not count, the second "algebra" is a double: the row still names three labels.
    workplace.add("pool", [make_row(0, ["algebra", "algebra", "rare"], 5.0), make_row(1, ["algebra"], 2.0)])
    assert table(select(workplace, mig_num_samples=1))["row_index"] == [0]
    chosen = table(select(workplace, mig_num_samples=1, mig_normalize=True))
    assert chosen["row_index"] == [1]
    chosen = table(select(workplace, mig_num_samples=2, mig_normalize=True))
    assert chosen["score"] == [2.0, 5.0]  # before normalisation


def test_a_row_that_has_lost_all_its_tags_keeps_its_score(workplace):
    workplace.add("pool", [make_row(0, ["algebra"], 5.0), make_row(1, ["algebra", "biology"], 2.0)])
    host, own = split_keys(workplace.settings(mig_normalize=True))
    request = resolve(parse_arguments(own, training=False), HostArguments.read(host))
    pool = stages.read(request)
    left = RowLabels(["biology"], np.array([0, 0, 1]), np.zeros(1, np.int32))  # as mig_tag_min_count leaves them
    scores = stages.finish_scores(stages.Measured(replace(pool, labels=left), None), left, request)
    assert scores.final.tolist() == [5.0, 2.0]


def test_number_of_labels_as_score_counts_distinct_labels_of_the_vocabulary(workplace, tmp_path):
    (tmp_path / "vocabulary.txt").write_text("algebra\nbiology\n")
    workplace.add(
        "pool", [make_row(0, ["algebra", "algebra", "cooking"], 6.0), make_row(1, ["algebra", "biology"], 1.0)]
    )
    outcome = select(
        workplace, mig_num_samples=2, mig_score="num_labels", mig_label_vocabulary=str(tmp_path / "vocabulary.txt")
    )
    assert table(outcome)["score"] == [2.0, 1.0]
    assert table(outcome)["labels"] == [["algebra", "biology"], ["algebra"]]


@pytest.mark.parametrize(("write", "ending"), [(write_lines, "jsonl"), (as_parquet, "parquet")])
def test_a_subset_that_keeps_labels_score_and_id_is_a_pool(workplace, write, ending):
    rows = make_rows(60)
    rows[7]["annotation"]["instag"]["content"] += ["seen once"]  # a label that does not count
    for row in rows[1::4]:  # then the column has nulls, and the file to train on is a table
        del row["_id"]
    write(workplace.data / f"pool.{ending}", rows)
    workplace.add("pool", file_name=f"pool.{ending}", **SHAREGPT)
    first = select(workplace, mig_num_samples=40, mig_keep=["labels", "score", "id"], mig_dataset_name="first")
    chosen = table(first)
    entry = workplace.entries()["first"]
    assert entry["columns"] == {"messages": "dialogs"}
    subset = pq.read_table(workplace.data / entry["file_name"]).to_pydict()
    assert list(subset) == ["dialogs", "labels", "score", "_id"]
    assert [subset[name] for name in ("labels", "score", "_id")] == [
        chosen[name] for name in ("labels", "score", "row_id")
    ]
    again = {"mig_num_samples": 12, "mig_labels": "labels", "mig_score": "score"}
    second = table(select(workplace, dataset="first", **again))
    whole = table(select(workplace, mig_num_samples=40))
    assert second["row_id"] == whole["row_id"][:12]  # MIG chooses from what it chose as it did before
    assert second["score"] == whole["score"][:12]


def test_what_is_not_read_cannot_be_kept(pool_of_60):
    with pytest.raises(ArgumentError, match="mig_keep: score cannot be kept, because random reads none; set mig_sco"):
        select(pool_of_60, mig_method="random", mig_keep="score")
    with pytest.raises(ArgumentError, match="mig_keep: 'labels,rank' is not allowed; expected labels, score or id"):
        select(pool_of_60, mig_keep="labels,rank")


def test_what_is_kept_takes_no_column_that_training_reads(workplace):
    columns = {"messages": "dialogs", "system": "score"}
    workplace.add("pool", [{**row, "score": "Be brief."} for row in make_rows(20)], **{**SHAREGPT, "columns": columns})
    with pytest.raises(ArgumentError, match="mig_keep: score would be kept in a column 'score', but training reads a"):
        select(workplace, mig_keep="score")


@pytest.mark.parametrize(("share", "rows"), [(0.29, 29), (0.999, 99), (0.001, 1)])
def test_a_share_is_of_the_kept_rows_and_rounded_down(workplace, share, rows):
    workplace.add("pool", [*make_rows(100), make_row(100, [], 1.0)])
    outcome = select(workplace, mig_num_samples=share)
    assert outcome.budget == rows
    assert outcome.entries == {"pool": f"pool_mig_{rows}"}


def test_more_rows_than_there_are_is_an_error_with_both_numbers(pool_of_60):
    with pytest.raises(ArgumentError, match="61 rows are asked for, but the pool has 60"):
        select(pool_of_60, mig_num_samples=61)


def test_rows_without_gain_are_taken_last_and_counted(workplace):
    workplace.add(
        "pool",
        [make_row(0, ["algebra"], 0.0), make_row(1, ["rare"], 3.0), *(make_row(n, ["algebra"], 1.0) for n in (2, 3))],
    )
    outcome = select(workplace, mig_num_samples=4)
    assert table(outcome)["row_index"] == [2, 3, 0, 1]
    assert manifest(outcome)["rows_without_gain"] == 2
    assert "2 of them without any gain" in outcome.summary[1]


def test_the_entry_copies_the_pools_and_points_to_the_subset(pool_of_60):
    outcome = select(pool_of_60)
    entry = pool_of_60.entries()["pool_mig_10"]
    assert entry == {
        "file_name": f"mig_selections/pool_mig_10-{outcome.fingerprint[:16]}/selected.jsonl",
        **SHAREGPT,
        "mig_selector": outcome.fingerprint,
    }
    assert outcome.settings["dataset"] == "pool_mig_10"


def test_keys_that_would_resample_or_redirect_are_not_copied(workplace):
    workplace.add("pool", make_rows(40), num_samples=25, split="train[:50%]", **SHAREGPT)
    outcome = select(workplace, mig_num_samples=15)
    assert set(workplace.entries()["pool_mig_15"]) == {"file_name", "formatting", "columns", "tags", "mig_selector"}
    assert max(table(outcome)["row_index"]) < 20  # the host would train on the first half only
    assert manifest(outcome)["rows"]["dropped"] == {"outside split train[:50%]": 20}


def test_a_pool_on_a_hub_is_read_as_the_host_reads_it(workplace, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    write_lines(tmp_path / "repository" / "train.jsonl", make_rows(60))
    workplace.add("pool", make_rows(60))
    workplace.add("hub", hf_hub_url=str(tmp_path / "repository"), num_samples=3, **SHAREGPT)
    outcome = select(workplace, dataset="hub")
    assert table(outcome)["row_id"] == table(select(workplace))["row_id"]
    entry = workplace.entries()["hub_mig_10"]
    assert set(entry) == {"file_name", "formatting", "columns", "tags", "mig_selector"}
    assert (workplace.data / entry["file_name"]).read_text().count("\n") == 10


def test_a_second_run_reads_neither_rows_nor_vectors(pool_of_60, monkeypatch):
    first = select(pool_of_60)
    monkeypatch.setattr("mig_selector.pipeline.stages.read_pool", None)
    monkeypatch.setattr("mig_selector.pipeline.stages.read_given_vectors", None)
    again = select(pool_of_60)
    assert (again.fingerprint, again.folder, again.settings) == (first.fingerprint, first.folder, first.settings)
    assert "already selected" in again.summary[0]


def test_batch_size_report_and_folders_do_not_change_the_fingerprint(pool_of_60, tmp_path):
    first = select(pool_of_60)
    other = select(
        pool_of_60,
        mig_embedding_batch_size=3,
        mig_report="none",
        mig_output_dir=str(tmp_path / "elsewhere"),
        mig_dataset_name="mine",
    )
    assert other.fingerprint == first.fingerprint
    assert "already selected" in other.summary[0]
    assert Path(other.folder).name == f"mine-{first.fingerprint[:16]}"
    for name in ("selected.jsonl", "selection.parquet"):
        assert (Path(other.folder) / name).read_bytes() == (Path(first.folder) / name).read_bytes()


@pytest.mark.parametrize(
    "change",
    [
        {"mig_num_samples": 11},
        {"mig_edge_threshold": 0.8},
        {"mig_propagation_weight": 0.5},
        {"mig_phi_exponent": 0.7},
        {"mig_phi": "exp"},
        {"mig_gain": "marginal"},
        {"mig_normalize": True},
        {"mig_score": "constant"},
        {"mig_min_label_count": 1},
    ],
)
def test_every_parameter_of_the_method_changes_the_fingerprint(pool_of_60, change):
    assert select(pool_of_60, **change).fingerprint != select(pool_of_60).fingerprint


def test_content_changes_the_fingerprint_and_names_do_not(workplace):
    workplace.add("pool", make_rows(60))
    workplace.add("twin", make_rows(60))
    first = select(workplace)
    assert select(workplace, dataset="twin").fingerprint == first.fingerprint
    write_vectors(workplace.vectors, LABELS, seed=1)
    assert select(workplace).fingerprint != first.fingerprint
    workplace.add("pool", make_rows(60, seed=2))
    assert select(workplace).fingerprint != first.fingerprint


def test_a_damaged_subset_is_made_again(pool_of_60):
    first = select(pool_of_60)
    file = Path(first.folder) / "selected.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole[:-5])
    assert "already selected" not in select(pool_of_60).summary[0]
    assert file.read_bytes() == whole


def test_overwrite_selects_again(pool_of_60):
    first = select(pool_of_60)
    again = select(pool_of_60, mig_overwrite=True)
    assert "already selected" not in again.summary[0]
    assert again.folder == first.folder


@pytest.mark.parametrize(
    ("module", "moment"),
    [(Request, "lock"), (stages, "choose_for_budgets"), (write, "write_selection_table")],
    ids=["before reading", "before choosing", "after writing the rows"],
)
def test_a_pool_that_changes_during_a_run_is_refused_and_nothing_is_kept_of_it(
    pool_of_60, monkeypatch, module, moment
):
    pool = pool_of_60.data / "pool.jsonl"
    before = pool.read_bytes()
    original = getattr(module, moment)

    def changing(*arguments, **options):
        pool.write_bytes(before.replace(b"question", b"QUESTION"))
        return original(*arguments, **options)

    monkeypatch.setattr(module, moment, changing)
    with pytest.raises(PoolError, match=r"pool\.jsonl was changed while it was in use"):
        select(pool_of_60)
    assert list(pool_of_60.entries()) == ["pool"]
    monkeypatch.undo()
    pool.write_bytes(before)
    chosen = Path(select(pool_of_60).folder) / "selected.jsonl"
    assert b"QUESTION" not in chosen.read_bytes()


def test_an_entry_that_is_not_ours_is_never_overwritten(pool_of_60):
    pool_of_60.add("pool_mig_10", [])
    before = (pool_of_60.data / "dataset_info.json").read_bytes()
    with pytest.raises(RegistrationError, match="already has an entry 'pool_mig_10' that mig_selector did not write"):
        select(pool_of_60)
    assert (pool_of_60.data / "dataset_info.json").read_bytes() == before
    assert not (pool_of_60.data / "mig_selections").exists()


def test_our_entry_is_pointed_to_the_new_subset_and_each_run_reads_its_own(pool_of_60, caplog):
    first = select(pool_of_60, mig_dataset_name="mine")
    with caplog.at_level("INFO", logger="mig_selector"):
        second = select(pool_of_60, mig_dataset_name="mine", mig_phi="exp")
    assert "mine pointed to another subset until now" in caplog.text
    assert pool_of_60.entries()["mine"]["mig_selector"] == second.fingerprint
    own = json.loads((Path(first.settings["dataset_dir"]) / "dataset_info.json").read_text())
    assert own["mine"]["file_name"] == str(Path(first.folder) / "selected.jsonl")


def test_several_budgets_are_each_equal_to_their_own_run(pool_of_60, tmp_path):
    outcomes = run_selection(pool_of_60.settings(mig_num_samples=[5, 0.5, 12]))
    assert [outcome.budget for outcome in outcomes] == [5, 30, 12]
    alone = select(pool_of_60, mig_num_samples=12, mig_overwrite=True, mig_output_dir=str(tmp_path / "alone"))
    assert alone.fingerprint == outcomes[2].fingerprint
    assert (Path(alone.folder) / "selected.jsonl").read_bytes() == (
        Path(outcomes[2].folder) / "selected.jsonl"
    ).read_bytes()
    assert manifest(alone)["information"] == manifest(outcomes[2])["information"]
    assert {"pool_mig_5", "pool_mig_30", "pool_mig_12"} <= set(pool_of_60.entries())


def test_thousands_are_short_in_names(workplace):
    workplace.add("pool", make_rows(1000))
    assert select(workplace, mig_num_samples=1000).entries == {"pool": "pool_mig_1k"}


def test_several_names_form_one_pool(workplace):
    first, second = make_rows(30), make_rows(50, seed=1)
    workplace.add("a", first)
    workplace.add("b", second)
    workplace.add("rest", make_rows(5, seed=2))
    workplace.add("pool", [*first, *second])
    outcome = select(workplace, dataset="a,rest,b", mig_pool="b,a", mig_num_samples=20)
    together = table(select(workplace, mig_num_samples=20))
    chosen = table(outcome)
    assert chosen["row_index"] == together["row_index"]
    assert chosen["dataset"] == ["a" if row < 30 else "b" for row in chosen["row_index"]]
    assert outcome.settings["dataset"] == "a+b_mig_20__a,rest,a+b_mig_20__b"
    for name, start in (("a", 0), ("b", 30)):
        entry = workplace.entries()[f"a+b_mig_20__{name}"]
        lines = (workplace.data / entry["file_name"]).read_text().splitlines()
        expected = [row for row, owner in zip(chosen["row_index"], chosen["dataset"], strict=True) if owner == name]
        rows = first if name == "a" else second
        assert [json.loads(line)["dialogs"] for line in lines] == [rows[row - start]["dialogs"] for row in expected]


def test_a_name_without_a_chosen_row_is_left_out(workplace, caplog):
    workplace.add("a", make_rows(30))
    workplace.add("b", [make_row(0, ["rare one"], 1.0)])
    with caplog.at_level("INFO", logger="mig_selector"):
        outcome = select(workplace, dataset="a,b", mig_num_samples=5)
    assert outcome.settings["dataset"] == "a+b_mig_5__a"
    assert "no row of b was chosen" in caplog.text
    with pytest.raises(ArgumentError, match="no row of b was chosen"):
        select(workplace, dataset="a,b", mig_num_samples=5, interleave_probs="0.5,0.5")


def test_a_pool_name_that_is_no_dataset_is_refused(pool_of_60):
    with pytest.raises(ArgumentError, match="mig_pool: 'other' is not in dataset \\(pool\\)"):
        select(pool_of_60, mig_pool="other")


@pytest.mark.parametrize("more", [{"dataset": "pool,pool"}, {"dataset": "pool,pool,other", "mig_pool": "pool"}])
def test_a_pool_that_is_named_twice_is_an_error(pool_of_60, more):
    with pytest.raises(ArgumentError, match=r"dataset: a name of the pool is there twice \(pool, pool\)"):
        select(pool_of_60, **more)


@pytest.mark.parametrize(
    "more",
    [{"dataset": "more,sub", "mig_pool": "more"}, {"dataset": "sub"}, {"dataset": "more", "eval_dataset": "sub"}],
)
def test_a_subset_that_the_run_reads_is_not_replaced(pool_of_60, more):
    pool_of_60.add("more", make_rows(20))
    keys = {"mig_method": "random", "mig_dataset_name": "sub"}
    first = select(pool_of_60, **keys)
    assert select(pool_of_60, **keys, eval_dataset="sub").is_reused
    with pytest.raises(RegistrationError, match="mig_dataset_name: 'sub' is also a dataset that this run reads"):
        select(pool_of_60, **keys, **more, mig_num_samples=5)
    assert pool_of_60.entries()["sub"]["mig_selector"] == first.fingerprint


def test_an_unreadable_row_stops_with_file_and_line_and_skip_goes_on(workplace):
    workplace.add("pool", make_rows(30))
    path = workplace.data / "pool.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:6], "{broken", *lines[6:]]))
    with pytest.raises(PoolError, match=r"pool\.jsonl:7: is not valid JSON"):
        select(workplace)
    outcome = select(workplace, mig_on_bad_row="skip")
    assert manifest(outcome)["rows"]["unreadable"] == {"is not valid JSON": 1}
    assert manifest(outcome)["rows"]["unreadable_rows"][0].startswith("pool.jsonl:7: is not valid JSON")
    assert 6 not in table(outcome)["row_index"]
    with pytest.raises(PoolError, match=r"pool\.jsonl:7"):  # although the subset is there already
        select(workplace)


def test_missing_vectors_are_named(pool_of_60):
    write_vectors(pool_of_60.vectors, LABELS[:-1])
    with pytest.raises(EmbeddingError, match="lacks 1 of the 8 labels in use: 'history'"):
        select(pool_of_60)


@pytest.mark.parametrize("gone", [{}, {"dialogs": None}])
def test_a_chosen_row_without_messages_is_refused_before_the_host_stumbles(workplace, gone):
    empty = {key: value for key, value in make_row(1, ["algebra"], 2.0).items() if key != "dialogs"} | gone
    workplace.add("pool", [make_row(0, ["algebra"], 1.0), empty])
    with pytest.raises(PoolError, match=r"pool\.jsonl:2: dialogs must be a list of messages, got null"):
        select(workplace, mig_num_samples=2)
    assert set(workplace.entries()) == {"pool"}


def test_scores_whose_sum_overflows_are_refused(workplace):
    workplace.add("pool", [make_row(number, ["algebra"], 1e308) for number in range(3)])
    with pytest.raises(PoolError, match=r"mig_score: .* their sum is not finite"):
        select(workplace, mig_num_samples=2, mig_gain="marginal")


def test_a_pool_none_of_whose_labels_counts_is_refused(workplace):
    workplace.add("pool", [make_row(0, ["a"], 1.0), make_row(1, ["b"], 1.0)])
    with pytest.raises(PoolError, match="none of the 2 labels in the pool counts, such as 'a', 'b'; check"):
        select(workplace, mig_num_samples=1)


def test_labels_that_look_like_several_in_one_text_are_warned_of(workplace, caplog):
    rows = [make_row(number, [text], 1.0) for number, text in enumerate(["algebra; proofs", "cooking; algebra"] * 2)]
    workplace.add("pool", rows)
    select(workplace, mig_num_samples=1, mig_method="instag", mig_label_embeddings=None)
    assert "such as 'algebra; proofs'; if each text holds several labels, set mig_label_separator: ';'" in caplog.text
    caplog.clear()
    select(workplace, mig_num_samples=1, mig_method="instag", mig_label_embeddings=None, mig_label_separator=";")
    assert "mig_label_separator" not in caplog.text


def test_a_dataset_dir_that_cannot_be_written_is_left_alone(pool_of_60, monkeypatch, tmp_path):
    # As root every folder of ours is writable.
    monkeypatch.setattr("os.access", lambda path, mode: not Path(path).is_relative_to(pool_of_60.data))
    before = (pool_of_60.data / "dataset_info.json").read_bytes()
    outcome = select(pool_of_60)
    assert (pool_of_60.data / "dataset_info.json").read_bytes() == before
    assert Path(outcome.folder).is_relative_to(tmp_path / "cache" / "selections")
    own = json.loads((Path(outcome.settings["dataset_dir"]) / "dataset_info.json").read_text())
    assert own["pool_mig_10"]["file_name"] == str(Path(outcome.folder) / "selected.jsonl")
    assert "not registered" in outcome.summary[-1]
    assert outcome.settings["media_dir"] == str(pool_of_60.data)


def test_training_refuses_tokenized_data_of_other_rows(pool_of_60, tmp_path):
    settings = pool_of_60.settings(tokenized_path=str(tmp_path / "tokens"))
    first = run_selection(settings, training=True)[0]
    training = prepare_training(settings, first)
    (tmp_path / "tokens").mkdir()
    (tmp_path / "tokens" / "state.json").write_text("{}")
    training.mark_tokenized()
    assert run_selection(settings, training=True)[0].fingerprint == first.fingerprint
    with pytest.raises(HandoverError, match=r"tokenized_path: .*tokens exists and was not made from this selection"):
        run_selection({**settings, "mig_num_samples": 11}, training=True)


def test_training_refuses_to_resume_on_other_rows(pool_of_60, tmp_path):
    settings = pool_of_60.settings(output_dir=str(tmp_path / "out"), do_train=True)
    other = {**settings, "mig_num_samples": 11}
    save_checkpoint(settings, run_selection(settings, training=True)[0], "checkpoint-5")
    run_selection(settings, training=True)
    with pytest.raises(HandoverError, match=r"the checkpoints in .*out came from another selection"):
        run_selection(other, training=True)
    outcome = run_selection({**other, "overwrite_output_dir": True}, training=True)[0]
    with pytest.raises(HandoverError, match="came from another selection"):  # checkpoint-5 is still the old run's
        run_selection(other, training=True)
    save_checkpoint(other, outcome, "checkpoint-6")
    run_selection(other, training=True)


def prepare_training(settings, outcome):
    return TrainingOrigin.prepare(
        HostArguments.read(settings), {"fingerprint": outcome.fingerprint}, is_local_main=True
    )


def save_checkpoint(settings, outcome, name):
    """Do what the host and the callback do."""
    folder = Path(settings["output_dir"]) / name
    folder.mkdir(parents=True)
    prepare_training(settings, outcome).mark_checkpoint(folder, is_writer=True)


def test_a_run_that_fails_leaves_no_marker_for_a_plain_run_to_fill(pool_of_60, tmp_path):
    settings = pool_of_60.settings(
        output_dir=str(tmp_path / "out"), do_train=True, tokenized_path=str(tmp_path / "tokens")
    )
    run_selection(settings, training=True)  # and the host fails
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "work place é"]
    (tmp_path / "tokens").mkdir()
    (tmp_path / "tokens" / "state.json").write_text("{}")
    with pytest.raises(HandoverError, match=r"tokens exists and was not made from this selection"):
        run_selection(settings, training=True)
    (tmp_path / "out" / "checkpoint-5").mkdir(parents=True)
    with pytest.raises(HandoverError, match="came from a run without this selection"):
        run_selection(settings, training=True)


def test_labels_are_embedded_once_and_kept(workplace, minilm, monkeypatch):
    workplace.add("pool", make_rows(60))
    settings = {key: value for key, value in workplace.settings().items() if key != "mig_label_embeddings"}
    settings["mig_embedding_model"] = minilm
    first = run_selection(settings)[0]
    monkeypatch.setattr("mig_selector.pipeline.crew.embed_labels", None)
    again = run_selection({**settings, "mig_overwrite": True})[0]  # the selection is made again, the vectors are not
    assert table(again)["row_index"] == table(first)["row_index"]
    assert manifest(first)["encoder"]["model"] == minilm


@pytest.mark.distributed
def test_one_rank_and_two_write_the_same_bytes(workplace, minilm, tmp_path):
    workplace.add("pool", make_rows(60))
    words = [f"dataset_dir={workplace.data}", "dataset=pool", "mig_num_samples=20", f"mig_embedding_model={minilm}"]
    (tmp_path / "s.yaml").write_text("{}")
    written = []
    for launcher in (["-m"], ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m"]):
        out = tmp_path / f"out{len(written)}"
        done = run_command(
            "python",
            *launcher,
            "mig_selector",
            "select",
            tmp_path / "s.yaml",
            *words,
            f"mig_output_dir={out}",
            f"mig_cache_dir={tmp_path / str(len(written))}",
        )
        assert done.returncode == 0, done.stderr
        folder = Path(done.stdout.strip().splitlines()[-1])
        assert folder.parent == out
        written.append((folder / "selected.jsonl").read_bytes())
    assert written[0] == written[1]


def test_line_3_of_the_published_example_is_found(workplace, published_example):
    workplace.add("pool")
    (workplace.data / "pool.jsonl").write_bytes(published_example.read_bytes())
    with pytest.raises(PoolError, match=r"pool\.jsonl:3: is not valid JSON"):
        select(workplace)


def test_max_samples_counts_for_each_name_of_the_pool(workplace):
    for name, seed in (("p", 1), ("q", 2)):
        workplace.add(name, make_rows(6, seed=seed))
    settings = workplace.settings(dataset="p,q", mig_num_samples=6, mig_method="random", mig_seed=1)
    [outcome] = run_selection({**settings, "max_samples": 6})
    assert not [line for line in outcome.summary if line.startswith("max_samples")]
    [outcome] = run_selection({**settings, "max_samples": 2})
    sizes = [len(file.read_text().splitlines()) for file in Path(outcome.folder).glob("selected__*.jsonl")]
    sees = sum(min(size, 2) for size in sizes)
    assert [line for line in outcome.summary if f"training sees {sees} of the 6 chosen rows" in line]


@pytest.mark.parametrize("keys", [{"do_train": False}, {"do_eval": True}, {"do_predict": True}])
def test_nothing_is_selected_where_nothing_is_trained(pool_of_60, keys):
    settings = pool_of_60.settings(**keys)
    with pytest.raises(HandoverError, match=r"nothing is selected.*Run `mig-selector select`"):
        run_selection(settings, training=True)
    assert list(pool_of_60.entries()) == ["pool"]
    [selected] = run_selection(settings)
    [found] = run_selection(settings, training=True)
    assert (found.folder, found.settings) == (selected.folder, selected.settings)


@pytest.mark.parametrize("exists", [False, True])
def test_an_empty_tokenized_path_is_filled_without_training(pool_of_60, tmp_path, exists):
    settings = pool_of_60.settings(do_train=False, tokenized_path=str(tmp_path / "tokenized"))
    if exists:
        (tmp_path / "tokenized").mkdir()
    assert run_selection(settings, training=True)[0].budget == 10


def test_what_is_switched_off_cannot_be_selected(pool_of_60):
    with pytest.raises(ArgumentError, match="mig_enabled: false; nothing is selected"):
        run_selection(pool_of_60.settings(mig_enabled=False))
    assert run_selection(pool_of_60.settings(mig_enabled=True))[0].budget == 10


def test_the_pool_is_described_once_whatever_the_number_of_budgets(pool_of_60, caplog):
    with caplog.at_level("INFO", logger="mig_selector"):
        outcomes = run_selection(pool_of_60.settings(mig_num_samples=[5, 6]))
    lines = [record.getMessage() for record in caplog.records]
    assert sum(line.startswith("pool: read 60 rows") for line in lines) == 1
    assert not [line for line in lines if "60 rows read" in line]
    assert sum(line.startswith("chosen: ") for line in lines) == 2
    assert all(outcome.summary[0].startswith("pool: 60 rows read") for outcome in outcomes)  # for the training log


def held_out(outcome):
    """Questions of the validation rows, file by file."""
    return [
        [json.loads(line)["dialogs"][0]["content"] for line in (Path(outcome.folder) / part["file"]).open()]
        for part in manifest(outcome)["validation"]
    ]


@pytest.mark.parametrize(("val_size", "count"), [(7, 7), ("7", 7), (1, 1), (0.25, 3), (2.9, 2)])
def test_validation_rows_come_from_the_rest_in_the_number_that_the_host_would_take(pool_of_60, val_size, count):
    keys = {"mig_method": "random", "mig_val_from": "rest", "val_size": val_size}
    outcome = select(pool_of_60, **keys)
    [questions] = held_out(outcome)
    chosen = {f"question {row}" for row in table(outcome)["row_index"]}
    assert (len(chosen), len(set(questions)), len(questions)) == (10, count, count)
    assert not chosen & set(questions)
    assert outcome.settings["val_size"] == 0
    info = json.loads((Path(outcome.settings["dataset_dir"]) / "dataset_info.json").read_text())
    assert info[outcome.settings["eval_dataset"]]["columns"] == {"messages": "dialogs"}
    assert f"validation: {plural(count, 'row')} not chosen" in outcome.summary
    again = select(pool_of_60, **keys)
    assert again.is_reused
    assert again.settings == outcome.settings
    assert held_out(select(pool_of_60, **keys, seed=1)) != [questions]
    plain = select(pool_of_60, mig_method="random", val_size=val_size)
    assert plain.settings.keys() == {"dataset", "dataset_dir", "media_dir"}


def test_validation_rows_of_several_names_are_a_dataset_each(workplace):
    workplace.add("pool", make_rows(20))
    workplace.add("more", make_rows(20)[10:])  # rows that the pool has too
    keys = {"mig_method": "random", "mig_val_from": "rest", "val_size": 20, "dataset": "pool,more"}
    outcome = select(workplace, **keys)
    assert sum(map(len, held_out(outcome))) == 20
    name = outcome.settings["dataset"].partition("__")[0]
    assert outcome.settings["eval_dataset"] == f"{name}__pool_validation,{name}__more_validation"
    assert workplace.entries().keys() == {"pool", "more", *outcome.entries.values()}
    files = Path(outcome.folder).glob("selected__*.jsonl")
    chosen = {json.loads(line)["dialogs"][0]["content"] for file in files for line in file.open()}
    again = sum(question in chosen for questions in held_out(outcome) for question in questions)
    assert again > 0
    assert any(f"not chosen, {again} of them equal to a chosen one" in line for line in outcome.summary)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({}, "mig_val_from: rest needs val_size: a number of rows, or a share of the chosen ones. Set it, or leave"),
        ({"val_size": 3, "eval_dataset": "pool"}, "takes the place of eval_dataset. Remove eval_dataset, or leave"),
        ({"val_size": 3, "interleave_probs": "1.0"}, "and interleave_probs has no share for them. Remove it, or"),
        ({"val_size": 51}, "10 rows are to be chosen and 51 more are for validation .val_size., but the pool has 60"),
    ],
)
def test_validation_rows_that_the_host_cannot_be_given_are_refused(pool_of_60, keys, message):
    with pytest.raises(ArgumentError, match=message):
        select(pool_of_60, mig_val_from="rest", **keys)
