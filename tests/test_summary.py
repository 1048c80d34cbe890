"""What a summary says beside numbers of rows: tokens, rows in eval_dataset, what each row added, compiling."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from naive import dense
from support import LABELS, ROOT, SHAREGPT, make_row, make_rows, write_lines
from training import host_settings, trained_tokens

from mig_selector.graph.label_graph import build_adjacency, build_propagation
from mig_selector.pipeline import tokens
from mig_selector.pipeline.recipe import run_selection
from mig_selector.pipeline.tokens import describe_tokens, describe_training_tokens, draw_sample


ALPACA = {"formatting": "alpaca", "columns": {"prompt": "instruction", "query": "input", "response": "output"}}


def select(workplace, **more):
    return run_selection(workplace.settings(**more))[0]


def manifest(outcome):
    return json.loads((Path(outcome.folder) / "manifest.json").read_text())


OF_TEXT = "tokens of text, before the chat template: "


def tokens_line(outcome):
    return next((line for line in outcome.summary if line.startswith(OF_TEXT)), None)


@pytest.fixture
def wordy(workplace):
    """A pool of 900 rows whose every word is one token: one to nine words and the question."""
    rows = make_rows(900)
    for number, row in enumerate(rows):
        row["dialogs"][0]["content"] = "question"
        row["dialogs"][1]["content"] = "word " * (number % 9 + 1)
    workplace.add("pool", rows)
    return workplace


def test_tokens_of_few_rows_are_counted(wordy, minilm):
    outcome = select(wordy, mig_method="random", mig_num_samples=30, mig_tokenizer=minilm)
    chosen = pq.read_table(Path(outcome.folder) / "selection.parquet")["row_index"].to_pylist()
    exact = sum(2 + row % 9 for row in chosen)
    assert manifest(outcome)["tokens"] == {
        "estimate": exact,
        "error": 0,
        "rows_sampled": 30,
        "tokenizer": minilm,
    }
    assert tokens_line(outcome) == f"{OF_TEXT}{exact:,}"
    again = select(wordy, mig_method="random", mig_num_samples=30, mig_tokenizer=minilm)
    assert again.is_reused
    assert tokens_line(again) == tokens_line(outcome)
    assert tokens_line(select(wordy, mig_method="random", mig_num_samples=30)) is None


def test_tokens_of_many_rows_are_estimated_from_a_sample_with_an_error(wordy, minilm):
    outcome = select(wordy, mig_method="random", mig_num_samples=800, model_name_or_path=minilm)
    chosen = pq.read_table(Path(outcome.folder) / "selection.parquet")["row_index"].to_pylist()
    exact = sum(2 + row % 9 for row in chosen)
    found = manifest(outcome)["tokens"]
    assert found["rows_sampled"] == 512
    assert 0 < found["error"] < 0.02 * exact
    assert abs(found["estimate"] - exact) <= 2 * found["error"]
    assert tokens_line(outcome) == f"{OF_TEXT}{describe_tokens(found, 800)}"


def test_of_long_rows_fewer_are_sampled(wordy, minilm, monkeypatch):
    monkeypatch.setattr(tokens, "_SAMPLED_BYTES", 20_000)
    found = manifest(select(wordy, mig_num_samples=800, mig_score="constant", mig_tokenizer=minilm))["tokens"]
    assert 64 <= found["rows_sampled"] < 300
    assert draw_sample(800, 800 * 10**6).tolist() == draw_sample(800, 800 * 10**6).tolist()
    assert [len(draw_sample(800, size)) for size in (None, 1, 800 * 10**6)] == [512, 512, 64]
    assert draw_sample(512).tolist() == list(range(512))


@pytest.mark.slow
@pytest.mark.llamafactory
def test_a_training_says_what_it_is_fed_also_for_rows_that_were_selected_before(pool_of_60, tiny_llama, tmp_path):
    keys = {**host_settings(tiny_llama, tmp_path / "out"), **pool_of_60.settings(mig_method="random")}

    def said(training=True, **more):
        [outcome] = run_selection({**keys, **more}, training=training)
        lines = [line for line in outcome.summary if line.startswith(("training is fed", OF_TEXT))]
        return lines[0], outcome

    assert said(training=False)[0].startswith(OF_TEXT)  # of the texts: LLaMA-Factory is not imported for that
    line, outcome = said()
    rows = pq.read_table(Path(outcome.folder) / "selection.parquet")["row_index"].to_pylist()
    fed, supervised = trained_tokens(tiny_llama, make_rows(60))[rows].sum(axis=0).tolist()
    expected = f"training is fed {fed:,} tokens, {supervised:,} of them with a loss"
    assert line == expected
    assert outcome.is_reused
    assert (outcome.figures["tokens"], outcome.figures["supervised_tokens"]) == (fed, supervised)
    assert "training: 2 optimizer steps of up to 2 rows" in outcome.summary
    line, outcome = said(training=False, mig_count_tokens="supervised")
    assert line == expected
    assert "training on one process: 2 optimizer steps of up to 2 rows" in outcome.summary
    line, outcome = said(mig_num_samples=11)
    known = manifest(outcome)["training_tokens"]
    assert (known["rows_sampled"], known["fed_error"], known["settings"]["template"]) == (11, 0, "llama3")
    again, outcome = said(mig_num_samples=11, cutoff_len=8)  # not what the manifest says
    assert outcome.is_reused
    assert again.startswith(f"training is fed {11 * 8} tokens, ")
    assert again != line


def test_what_training_is_fed_is_said_with_its_error():
    tokens = {"fed": 248_765, "fed_error": 6_123, "supervised": 99_876, "supervised_error": 2_345, "rows_sampled": 512}
    assert describe_training_tokens(tokens, 9_000) == (
        "training is fed about 249,000 +- 7,000 tokens, about 100,000 +- 3,000 of them with a loss (512 rows sampled)"
    )


def test_tokens_of_several_names_are_added_up(wordy, minilm):
    wordy.add("more", [{"instruction": "one two", "input": "three", "output": "four"}] * 5, **ALPACA)
    outcome = select(wordy, dataset="pool,more", mig_method="random", mig_num_samples=400, mig_tokenizer=minilm)
    table = pq.read_table(Path(outcome.folder) / "selection.parquet").to_pydict()
    exact = sum(
        2 + row % 9 if dataset == "pool" else 4
        for row, dataset in zip(table["row_index"], table["dataset"], strict=True)
    )
    assert "more" in table["dataset"]
    assert manifest(outcome)["tokens"]["estimate"] == exact


@pytest.mark.parametrize(
    ("estimate", "error", "sampled", "text"),
    [
        (1_234, 0, 700, "1,234"),
        (248_731, 5_832, 512, "about 249,000 +- 6,000 (512 rows sampled)"),
        (248_731, 12, 512, "about 248,730 +- 20 (512 rows sampled)"),
        (500, 0, 512, "about 500 +- 0 (512 rows sampled)"),
    ],
)
def test_a_total_is_rounded_to_what_its_error_leaves_certain(estimate, error, sampled, text):
    assert describe_tokens({"estimate": estimate, "error": error, "rows_sampled": sampled}, 700) == text


def test_a_tokenizer_that_is_not_at_hand_or_damaged_is_no_error(wordy, tmp_path, caplog):
    for name in ("someone/not-here", str(tmp_path)):
        assert manifest(select(wordy, mig_method="random", mig_num_samples=7, mig_tokenizer=name))["tokens"] is None
    (tmp_path / "tokenizer.json").write_text("{}")
    with caplog.at_level("INFO", logger="mig_selector"):
        outcome = select(wordy, mig_method="random", mig_num_samples=8, mig_tokenizer=str(tmp_path))
    assert manifest(outcome)["tokens"] is None
    assert "tokens are not counted: " in caplog.text


def run_program(program, workplace, **more):
    settings = json.dumps(workplace.settings(**more))
    done = subprocess.run(
        [sys.executable, "-c", program, settings], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")[:-1]


def test_counting_tokens_loads_neither_transformers_nor_torch(wordy, minilm):
    program = """
import json, sys
from mig_selector.pipeline.recipe import run_selection
[outcome] = run_selection(json.loads(sys.argv[1]))
print(next(line for line in outcome.summary if line.startswith("tokens of text")))
print(*({"torch", "transformers"} & set(sys.modules)))
"""
    text, loaded = run_program(program, wordy, mig_method="random", mig_tokenizer=minilm)
    assert text.startswith(OF_TEXT)
    assert loaded == ""


COUNT_SIGNATURES = """
import json, sys
from mig_selector.pipeline import stages
from mig_selector.pipeline.recipe import run_selection

def counts():
    from mig_selector.selection import kernel, passes, twins
    functions = [value for room in (kernel, passes, twins) for value in vars(room).values()]
    return {each.__name__: len(each.signatures) for each in functions if hasattr(each, "signatures")}

choose = stages.choose_for_budgets

def watched(*arguments):
    before = counts()
    chosen = choose(*arguments)
    after = counts()
    print(*(name for name in after if after[name] != before[name]))
    print(*(name for name in after if after[name]))
    return chosen

stages.choose_for_budgets = watched
[outcome] = run_selection(json.loads(sys.argv[1]))
print(json.dumps(json.load(open(outcome.folder + "/manifest.json"))["seconds"]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "compiled"),
    [
        ({}, {"rank", "search", "copy_rows", "_hash_rows", "_link"}),
        ({"mig_score": "constant"}, {"search", "_link"}),  # many equal rows
        ({"mig_gain": "marginal", "mig_normalize": True}, {"rank", "search", "copy_rows", "_hash_rows", "_link"}),
        ({"mig_method": "instag"}, {"_sort_by_label", "_make_pass"}),
    ],
)
def test_nothing_is_compiled_while_a_method_chooses(pool_of_60, more, compiled):
    pool_of_60.add("pool", make_rows(600))
    late, ever, seconds = run_program(COUNT_SIGNATURES, pool_of_60, **more)
    assert late == ""
    assert compiled <= set(ever.split())
    stages = list(json.loads(seconds))
    assert stages.index("compiling") == stages.index("selecting") - 1


def test_methods_without_compiled_code_have_no_stage_for_it(pool_of_60):
    assert "compiling" not in manifest(select(pool_of_60, mig_method="random"))["seconds"]


@pytest.mark.parametrize("phi", ["pow", "exp"])
def test_information_is_what_each_row_added_to_e_and_sums_to_it(pool_of_60, phi):
    rows = make_rows(60)
    outcome = select(pool_of_60, mig_num_samples=25, mig_edge_threshold=0.5, mig_phi=phi)
    with np.load(pool_of_60.vectors) as file:
        matrix = dense(build_propagation(build_adjacency(file["embeddings"], 0.5), 1.0))
    table = pq.read_table(Path(outcome.folder) / "selection.parquet").to_pydict()

    def value(held):
        return float(np.sum((held + 1e-6) ** 0.8 if phi == "pow" else -np.expm1(-held)))

    held, values = np.zeros(len(LABELS)), []
    values.append(value(held))
    for row in table["row_index"]:
        labels = [LABELS.index(label) for label in rows[row]["annotation"]["instag"]["content"]]
        held += rows[row]["annotation"]["deita"]["quality_scores"][0] * matrix[labels].sum(axis=0)
        values.append(value(held))
    assert table["information"] == pytest.approx(np.diff(values), rel=1e-9, abs=1e-14)
    assert sum(table["information"]) == pytest.approx(manifest(outcome)["information"] - values[0], rel=1e-9)
    assert table["gain"] != table["information"]


def test_information_is_null_where_there_is_no_label_graph(pool_of_60):
    outcome = select(pool_of_60, mig_method="top_score")
    assert pq.read_table(Path(outcome.folder) / "selection.parquet")["information"].to_pylist() == [None] * 10


def eval_lines(outcome):
    return [line for line in outcome.summary if line.startswith("eval_dataset ")]


def test_chosen_rows_that_are_in_eval_dataset_are_counted(pool_of_60, caplog):
    rows = make_rows(60)
    top = sorted(range(60), key=lambda row: -rows[row]["annotation"]["deita"]["quality_scores"][0])
    # The same conversations in other layouts, other columns beside them; the last was not chosen.
    other = [
        {"instruction": rows[row]["dialogs"][0]["content"], "output": rows[row]["dialogs"][1]["content"], "id": row}
        for row in (top[0], top[3], top[3], top[-1])
    ]
    pool_of_60.add("holdout", other, **ALPACA)
    pool_of_60.add("clean", [make_row(1000, ["algebra"], 1.0)], **SHAREGPT)
    (pool_of_60.data / "broken.jsonl").write_text("no JSON\n")
    pool_of_60.add("broken", **SHAREGPT)
    pool_of_60.add("remote", hf_hub_url="someone/somewhere")
    settings = {"mig_method": "top_score", "eval_dataset": "holdout, clean,broken,remote"}
    with caplog.at_level("WARNING", logger="mig_selector"):
        outcome = select(pool_of_60, **settings)
    said = "eval_dataset holdout: 2 of the 10 chosen rows are in it; the loss on it will look too good"
    assert eval_lines(outcome) == [said]
    assert "eval_dataset holdout: 2 of the chosen rows are in it" in caplog.text
    again = select(pool_of_60, **settings)
    assert again.is_reused
    assert eval_lines(again) == [said]
    write_lines(pool_of_60.data / "holdout.jsonl", other[:1])
    assert eval_lines(select(pool_of_60, **settings)) == [said.replace("2 of", "1 of")]
    assert eval_lines(select(pool_of_60, mig_method="top_score", eval_dataset="pool"))[0].startswith(
        "eval_dataset pool: 10 of the 10 chosen rows are in it"
    )
    assert eval_lines(select(pool_of_60, mig_method="top_score")) == []


def test_rows_with_other_images_are_other_rows(workplace):
    entry = {**SHAREGPT, "columns": {"messages": "dialogs", "images": "images"}}
    dialogs = [{"role": "user", "content": "<image>What is it?"}, {"role": "assistant", "content": "A cat."}]
    rows = [make_row(0, ["algebra"], 1.0, dialogs=dialogs, images=[f"{number}.png"]) for number in range(12)]
    workplace.add("pool", rows, **entry)
    workplace.add("holdout", rows[3:5], **entry)
    outcome = select(workplace, mig_method="random", mig_num_samples=12, eval_dataset="holdout")
    assert eval_lines(outcome)[0].startswith("eval_dataset holdout: 2 of the 12 ")
