"""Labels and scores as people have them, through a whole selection."""

import csv
import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from datasets import Dataset
from support import LABELS, ROOT, make_row

from mig_selector.errors import ArgumentError, PoolError
from mig_selector.notebook import select as select_from
from mig_selector.pipeline.comparison import compare_methods
from mig_selector.pipeline.recipe import run_selection


CASES = Path(__file__).parent / "data" / "cases"
REWARDS = [-3.0, 8.5, 0.0, -12.25, 8.5, 2.0]
"""One score for each of six rows; two are equal."""


def rewarded(**more):
    """Six rows with the scores of a reward model, one label each, and further columns."""
    return [
        {**make_row(number, [LABELS[number % 2]], 1.0), "reward": reward, **{key: more[key][number] for key in more}}
        for number, reward in enumerate(REWARDS)
    ]


def select(workplace, **more):
    return run_selection(workplace.settings(mig_num_samples=6, **more))[0]


def table(outcome):
    return pq.read_table(Path(outcome.folder) / "selection.parquet").to_pydict()


def manifest(outcome):
    return json.loads((Path(outcome.folder) / "manifest.json").read_text())


@pytest.mark.parametrize(
    ("case", "rows", "scores"),
    [("dotted-column", [0, 1, 2], [9.0, 8.0, 7.0]), ("deita-pipeline-output", [5, 4, 3], [21.0, 18.0, 15.0])],
)
def test_the_scores_of_a_reported_case_are_found(tmp_path, case, rows, scores):
    shutil.copytree(CASES / case, tmp_path / case)
    settings = yaml.safe_load((tmp_path / case / "cfg.yaml").read_text())
    chosen = table(run_selection({**settings, "dataset_dir": str(tmp_path / case)})[0])
    assert (chosen["row_index"], chosen["score"]) == (rows, scores)


def test_a_negative_score_says_which_key_makes_it_usable(workplace):
    workplace.add("pool", rewarded())
    with pytest.raises(PoolError, match=r"^pool\.jsonl:1: reward must be .*, got -3\.0 .*set mig_score_scale: rank"):
        select(workplace, mig_score="reward")


@pytest.mark.parametrize(
    ("scale", "scores"),
    [
        ("rank", [5.5 / 6, 5.5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]),
        ("minmax", [1.0, 1.0, 14.25 / 20.75, 12.25 / 20.75, 9.25 / 20.75, 0.0]),
    ],
)
def test_rewards_of_either_sign_are_usable_on_a_scale(workplace, scale, scores):
    workplace.add("pool", rewarded())
    outcome = select(workplace, mig_method="top_score", mig_score="reward", mig_score_scale=scale)
    chosen = table(outcome)
    assert chosen["row_index"] == [1, 4, 5, 2, 0, 3]
    assert chosen["score"] == chosen["gain"] == scores
    figures = {"scale": scale, "rows": 6, "lowest": -12.25, "mean": sum(REWARDS) / 6, "highest": 8.5}
    assert manifest(outcome)["score_scale"] == figures
    assert manifest(outcome)["settings"]["mig_score_scale"] == scale


def test_mig_gets_scores_on_the_scale(workplace):
    workplace.add("pool", rewarded())
    outcome = select(workplace, mig_score="reward", mig_score_scale="rank", mig_min_label_count=1, mig_normalize=True)
    chosen = table(outcome)
    assert chosen["row_index"][:2] == [1, 4]  # one label each, of the highest rank
    assert min(chosen["gain"]) > 0
    assert chosen["score"][0] == 5.5 / 6


def test_the_scale_is_that_of_the_rows_to_choose_from(workplace):
    rows = rewarded()
    rows[3]["annotation"]["instag"]["content"] = []  # of no use to instag, so that no method may choose it
    workplace.add("pool", rows)
    keys = {"mig_score": "reward", "mig_score_scale": "rank", "mig_fill": "top_score"}
    compared = compare_methods(workplace.settings(mig_num_samples=5, **keys), ["top_score", "instag"])
    figures = json.loads((Path(compared.folder) / "comparison.json").read_text())["methods"]
    chosen = pq.read_table(Path(figures[0]["folder"]) / "selection.parquet").to_pydict()
    assert chosen["row_index"] == [1, 4, 5, 2, 0]
    assert chosen["score"] == [4.5 / 5, 4.5 / 5, 3 / 5, 2 / 5, 1 / 5]
    assert figures[0]["mean_score"] == pytest.approx(3 / 5)


def test_without_a_scale_the_manifest_has_none(workplace):
    workplace.add("pool", rewarded())
    assert manifest(select(workplace, mig_method="top_score", mig_score="deita"))["score_scale"] is None


def test_several_scores_are_multiplied_turn_by_turn_as_deita_does(workplace):
    rows = rewarded(quality=[[1.0, 2.0]] * 3 + [[4.0]] * 3, depth=[[3.0, 5.0]] * 3 + [[2.0]] * 3)
    workplace.add("pool", rows)
    keys = {"mig_method": "top_score", "mig_score": ["quality", "depth"]}
    assert table(select(workplace, **keys))["score"] == [8.0] * 3 + [(1 * 3 + 2 * 5) / 2] * 3
    assert table(select(workplace, mig_deita_turns="sum", **keys))["score"] == [13.0] * 3 + [8.0] * 3


def test_three_scores_can_be_multiplied_and_a_kind_cannot(workplace):
    workplace.add("pool", rewarded(a=[2.0] * 6, b=[3.0] * 6, c=[0.5] * 5 + [4.0]))
    assert table(select(workplace, mig_method="top_score", mig_score="a, b,c"))["score"] == [24.0] + [3.0] * 5
    with pytest.raises(ArgumentError, match=r"mig_score: 'a,deita': .* deita is a kind of score"):
        select(workplace, mig_score=["a", "deita"])
    with pytest.raises(PoolError, match=r"pool\.jsonl:1: reward must be a finite number of 0 or more, got -3\.0\."):
        select(workplace, mig_score=["a", "reward"], mig_score_scale="rank")


def write_csv(path, rows):
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(rows[0])
        writer.writerows(row.values() for row in rows)


def test_labels_are_joined_from_several_columns_and_split(workplace):
    rows = rewarded(topic=["maths"] * 3 + ["code"] * 3, other=["logic; maths", None, "", "logic;web"] + ["logic"] * 2)
    workplace.add("pool", rows)
    keys = {"mig_method": "instag", "mig_fill": "top_score", "mig_score": "constant", "mig_min_label_count": 1}
    labels = {"mig_labels": ["topic", "other"], "mig_label_separator": ";"}
    chosen = table(select(workplace, **keys, **labels))
    found = dict(zip(chosen["row_index"], chosen["labels"], strict=True))
    assert found == {
        0: ["logic", "maths"],
        1: ["maths"],
        2: ["maths"],
        3: ["code", "logic", "web"],
        4: ["code", "logic"],
        5: ["code", "logic"],
    }


def test_a_csv_file_that_pandas_wrote_is_a_pool(workplace):
    """Flattened columns, lists as Python and numpy print them, and strings."""
    rows = [
        {
            "instruction": f"q{number}",
            "output": f"a{number}",
            "annotation.tags": ["['maths', 'code']", "['web' 'code']", "code"][number % 3],
            "annotation.reward": reward,
        }
        for number, reward in enumerate(REWARDS)
    ]
    workplace.add("pool", file_name="pool.csv", columns={"prompt": "instruction", "response": "output"})
    write_csv(workplace.data / "pool.csv", rows)
    keys = {"mig_labels": "annotation.tags", "mig_score": "annotation.reward", "mig_score_scale": "sigmoid"}
    chosen = table(select(workplace, mig_method="top_score", **keys))
    assert chosen["row_index"] == [1, 4, 5, 2, 0, 3]
    assert chosen["labels"] == [
        ["code", "web"],
        ["code", "web"],
        ["code"],
        ["code"],
        ["code", "maths"],
        ["code", "maths"],
    ]


def test_a_flattened_dataset_in_memory_is_a_pool():
    rows = [{**row, "reward": 1.0 + row["reward"] ** 2} for row in rewarded()]
    nested = [{"dialogs": row["dialogs"], "annotation": {"tags": ["a"], "rating": row["reward"]}} for row in rows]
    keys = {"num_samples": 2, "method": "top_score", "labels": "annotation.tags", "score": "annotation.rating"}
    flat = Dataset.from_list(nested).flatten()
    assert "annotation.rating" in flat.column_names
    for pool in (flat, nested, flat.to_list(), Dataset.from_list(nested)):
        assert select_from(pool, **keys).indices.tolist() == [3, 1]


def test_the_labels_of_instag_are_named_by_a_step_through_their_list(workplace):
    tags = [{"tag": "a", "explanation": "x"}, {"tag": "b", "explanation": "y"}]
    workplace.add("pool", rewarded(instag=[tags] * 6))
    keys = {"mig_method": "top_score", "mig_score": "constant"}
    assert table(select(workplace, mig_labels="instag.tag", **keys))["labels"] == [["a", "b"]] * 6
    with pytest.raises(PoolError, match=r"pool\.jsonl:1: instag must be .* one of its keys, such as instag\.tag\)"):
        select(workplace, mig_labels="instag", **keys)


def rows_of(**columns):
    """Rows, given the values of each column."""
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


FROM_VALUE = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
ABILITIES = [["logic", "maths"], ["maths"], ["logic"], [], ["logic", "writing"]]
PUBLISHED = {
    # Rows as the dataset cards show them; (labels, score) of the rows that can be chosen, best score first.
    "infinity_instruct": (
        rows_of(
            conversations=[FROM_VALUE] * 5,
            id=["1", "2", "3", "4", "5"],
            label=[{"ability_en": each, "ability_zh": each, "cate_ability_en": ["x"]} for each in ABILITIES],
            langdetect=["en"] * 5,
            source=["Subjective"] * 5,
            reward=[-7.5, 21.0, 3.25, 30.0, 3.25],
        ),
        [(["maths"], 4 / 4), (["logic"], 2.5 / 4), (["logic"], 2.5 / 4), (["logic", "maths"], 1 / 4)],
    ),
    "magpie": (
        rows_of(
            conversations=[FROM_VALUE] * 5,
            instruction=["q"] * 5,
            response=["a"] * 5,
            difficulty=["easy"] * 5,
            input_quality=["good"] * 5,
            task_category=["Math", "Coding & Debugging", "Math", "Planning", None],
            other_task_category=[["Reasoning"], [], ["Coding & Debugging", "Reasoning"], ["Math"], None],
            instruct_reward=[-2.5, 1.5, 0.0, -9.0, 8.0],
        ),
        [
            (["Coding & Debugging"], 4 / 4),
            (["Coding & Debugging", "Math", "Reasoning"], 3 / 4),
            (["Math", "Reasoning"], 2 / 4),
            (["Math"], 1 / 4),
        ],
    ),
    "smol_magpie_ultra": (
        rows_of(
            messages=[[{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]] * 5,
            category=["math", "coding", "math", "coding", "math"],
            difficulty=["hard"] * 5,
            quality=["excellent"] * 5,
            reward_model_score=[0.17, 0.19, 0.15, 0.18, 0.16],
            conversation_tokens=[100] * 5,
        ),
        [(["coding"], 5 / 5), (["coding"], 4 / 5), (["math"], 3 / 5), (["math"], 2 / 5), (["math"], 1 / 5)],
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_recipe_of_a_published_pool_finds_its_labels_and_scores(tmp_path, name):
    rows, expected = PUBLISHED[name]
    recipe = yaml.safe_load((ROOT / "yaml_configs" / f"llama3.1_8b_{name}.yaml").read_text())
    entries = json.loads((ROOT / recipe["dataset_dir"] / "dataset_info.json").read_text())
    entry = {key: value for key, value in entries[recipe["dataset"]].items() if key not in ("hf_hub_url", "subset")}
    (tmp_path / "dataset_info.json").write_text(json.dumps({"pool": {**entry, "file_name": "pool.parquet"}}))
    Dataset.from_list(rows).to_parquet(tmp_path / "pool.parquet")
    keys = {key: value for key, value in recipe.items() if key.startswith("mig_")}
    settings = {"dataset": "pool", "dataset_dir": str(tmp_path), **keys, "mig_num_samples": len(expected)}
    chosen = table(run_selection({**settings, "mig_method": "top_score"})[0])
    assert list(zip(chosen["labels"], chosen["score"], strict=True)) == expected
