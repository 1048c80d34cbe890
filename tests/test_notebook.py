"""`mig_selector.select`: a pool in any form in, a dataset out."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from support import LABELS, make_rows, write_vectors

import mig_selector
from mig_selector import ArgumentError, Candidates, PoolError, method, run_selection, select
from mig_selector.arrays import Selection


@pytest.fixture
def vectors(tmp_path):
    write_vectors(tmp_path / "vectors.npz", LABELS)
    return {"label_embeddings": tmp_path / "vectors.npz", "edge_threshold": 0.5}


@pytest.fixture
def expected(pool_of_60):
    """The rows that the same selection chooses by way of dataset_info.json."""
    outcome = run_selection(pool_of_60.settings(mig_edge_threshold=0.5))[0]
    lines = (Path(outcome.folder) / "selected.jsonl").read_text().splitlines()
    return [json.loads(line)["dialogs"] for line in lines]


@pytest.mark.parametrize("form", ["path", "text path", "list", "dataset", "name"])
def test_a_pool_in_any_form_gives_the_same_rows(pool_of_60, vectors, expected, form):
    rows, file = make_rows(60), pool_of_60.data / "pool.jsonl"
    pool = {"path": file, "text path": str(file), "list": rows, "dataset": Dataset.from_list(rows), "name": "pool"}
    more = {"dataset_dir": pool_of_60.data} if form == "name" else {}
    subset = select(pool[form], num_samples=10, **vectors, **more)
    assert subset.dataset["dialogs"] == expected
    assert [rows[index]["dialogs"] for index in subset.indices] == expected
    assert (len(subset), subset.manifest["rows"]["kept"]) == (10, 60)
    assert np.all(subset.gains > 0)
    assert repr(subset).startswith("Subset(10 of 60 rows by mig, E(D) ")
    assert str(subset.folder) in repr(subset)
    again = select(pool[form], num_samples=10, **vectors, **more)
    assert again.folder == subset.folder
    assert "already selected" in again.outcome.summary[0]


def test_rows_in_memory_keep_all_their_columns(vectors):
    rows = [{**row, "extra": number} for number, row in enumerate(make_rows(60))]
    for pool in (rows, Dataset.from_list(rows)):
        subset = select(pool, num_samples=10, **vectors)
        assert subset.dataset["extra"] == subset.indices.tolist()


@pytest.mark.parametrize("form", [list, Dataset.from_list])
def test_rows_in_a_file_that_others_may_write_to_are_written_again(form):
    pool = form([{"instruction": f"q{n}", "output": "a", "rating": float(n)} for n in range(20)])
    select(pool, num_samples=2, method="top_score", score="rating")
    [file] = (Path(os.environ["MIG_SELECTOR_CACHE"]) / "notebook").glob("*.*")
    file.write_bytes(b"")
    file.chmod(0o666)
    assert select(pool, num_samples=3, method="top_score", score="rating").indices.tolist() == [19, 18, 17]


def test_rows_of_several_datasets_are_in_the_order_of_choice(workplace):
    for name, ratings in (("a", [1, 4]), ("b", [3, 2])):
        rows = [{"instruction": f"q{rating}", "output": "a", "rating": rating} for rating in ratings]
        workplace.add(name, rows, formatting="alpaca")
    subset = select("a,b", dataset_dir=workplace.data, num_samples=4, method="top_score", score="rating")
    assert subset.indices.tolist() == [1, 2, 3, 0]
    assert subset.dataset["instruction"] == ["q4", "q3", "q2", "q1"]


def test_columns_that_the_first_chosen_row_lacks_are_kept(vectors):
    rows = [{"instruction": "q", "output": "a", "rating": 9}]
    rows += [{**rows[0], "rating": rating, "system": "Be brief."} for rating in (8, 7)]
    subset = select(rows, num_samples=2, method="top_score", score="rating")
    assert subset.dataset["system"] == [None, "Be brief."]


def test_alpaca_rows_need_no_layout_and_other_columns_are_named(vectors):
    rows = [{"q": f"q{n}", "a": f"a{n}", "rating": float(n)} for n in range(20)]
    subset = select(rows, num_samples=3, method="top_score", score="rating", columns={"prompt": "q", "response": "a"})
    assert subset.indices.tolist() == [19, 18, 17]
    plain = [{"instruction": row["q"], "output": row["a"], "rating": row["rating"]} for row in rows]
    assert select(plain, num_samples=3, method="top_score", score="rating").indices.tolist() == [19, 18, 17]


def test_a_function_is_a_method(vectors):
    @method(needs={"scores"})
    def worst(pool: Candidates, budget: int, *, depth: int = 1) -> Selection:
        order = np.argsort(pool.scores, kind="stable")[:budget]
        return Selection(order, pool.scores[order])

    rows = [{"instruction": "q", "output": "a", "rating": float(n)} for n in range(20)]
    subset = select(rows, num_samples=2, method=worst, score="rating")
    assert subset.indices.tolist() == [0, 1]
    assert subset.manifest["method"].endswith("worst")


@pytest.mark.parametrize(
    ("pool", "more", "error", "fault"),
    [
        ("/no/such/file.jsonl", {}, PoolError, "pool: /no/such/file.jsonl does not exist"),
        ([1, 2], {}, ArgumentError, "pool: row 0 must be a dictionary, got int"),
        ([{"a": {1}}], {}, ArgumentError, "pool: row 0 cannot be written as JSON"),
        ([{"a": float("nan")}], {}, ArgumentError, "pool: row 0 cannot be written as JSON"),
        ([{}], {"treshold": 1}, ArgumentError, "mig_treshold is not a key of mig_selector; did you mean mig_edge"),
        ([{}], {"num_samples": [1, 2]}, ArgumentError, "is a list; training takes one budget"),
        ([{}], {"dataset_dir": "data"}, ArgumentError, "expected the name of a dataset in data, got list"),
    ],
)
def test_what_cannot_be_selected_from_is_said(pool, more, error, fault):
    with pytest.raises(error, match=fault):
        select(pool, **{"num_samples": 1, **more})


def test_the_public_names_are_shown():
    assert set(mig_selector.__all__) <= set(dir(mig_selector))


USER_PROGRAM = """
from pathlib import Path
from typing import Annotated

import numpy as np
import mig_selector as ms

@ms.method(needs={"scores"}, embedding=ms.RowEmbedding("model", "{instruction}"))
def mine(
    pool: ms.Candidates,
    budget: int,
    *,
    depth: Annotated[int, ms.Setting("How deep.", ms.Range("any", lambda value: True), decides=True)] = 3,
    seed: ms.Seed = 42,
) -> ms.Selection:
    rows = ms.best_first(pool.scores)[:budget]
    return ms.Selection(rows, pool.scores[rows])

def choose() -> tuple[str, int, list[int]]:
    labels = ms.RowLabels(["a"], np.array([0, 1]), np.array([0], np.int32))
    identity = ms.Propagation(np.array([0, 1]), np.zeros(1, np.int32), np.ones(1))
    pool = ms.LabelledPool(labels, np.ones(1))
    selection: ms.Selection = ms.select_rows(pool, identity, ms.Objective(phi="exp"), 1)
    return ms.__version__, len(pool), selection.rows.tolist()

def full(path: Path) -> str:
    try:
        subset: ms.Subset = ms.select(path, num_samples=0.1, method=mine, embedding_model="x")
        outcomes: list[ms.Outcome] = ms.run_selection({"dataset": "a", "mig_num_samples": 5})
        compared = ms.compare_methods({"dataset": "a", "mig_num_samples": 5}, ["mig", "random"])
        arguments: ms.MigArguments = ms.MigArguments(mig_num_samples="5")
        return repr(subset) + outcomes[0].folder + compared.folder + str(arguments.budgets)
    except (ms.ArgumentError, ms.PoolError, ms.MigSelectorError) as error:
        return str(error)

print(choose())
"""


@pytest.mark.slow
def test_a_program_that_uses_every_public_name_passes_strict_mypy(tmp_path):
    assert all(f"ms.{name}" in USER_PROGRAM for name in mig_selector.__all__)
    program = tmp_path / "program.py"
    program.write_text(USER_PROGRAM)
    words = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), str(program)]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert done.returncode == 0, done.stdout + done.stderr
    shown = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == str((mig_selector.__version__, 1, [0]))
