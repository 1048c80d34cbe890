"""What a study refuses before it reads anything."""

import re

import pytest
from support import SHAREGPT, make_row
from training import host_settings, write_yaml

from mig_selector.cli import main
from mig_selector.errors import ArgumentError
from mig_selector.study.estimate import estimate_study
from mig_selector.study.run import run_study
from mig_selector.study.setup import Options, set_up


pytestmark = pytest.mark.llamafactory


@pytest.fixture
def keys(pool_of_60, tiny_llama, tmp_path):
    return {**host_settings(tiny_llama, tmp_path / "out"), **pool_of_60.settings()}


def test_arms_are_those_that_every_study_has_and_the_methods(keys):
    assert set_up(keys, Options()).planned == {
        "base": 0,
        "random": 5,
        "stratified": 3,
        "mig": 3,
        "longest": 3,
        "top_score": 3,
    }
    assert set_up(keys, Options(methods=["random", "mig"], seeds=7)).planned == {
        "base": 0,
        "random": 7,
        "stratified": 7,
        "mig": 7,
    }


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"stage": "pt"}, {}, "stage: pt; a study measures the loss of answers"),
        ({"template": None}, {}, "template: a study trains and tokenizes with it"),
        ({"packing": True}, {}, "^packing: it changes which rows a step takes, so steps cannot be equal; remove it.$"),
        ({"per_device_train_batch_size": 0}, {}, "^per_device_train_batch_size, .*: expected integers of at least 1"),
        ({"adapter_name_or_path": "x"}, {}, "adapter_name_or_path: a study trains from a model; merge the adapter"),
        ({"tokenized_path": "x"}, {}, "tokenized_path: each arm trains on other rows; remove it"),
        ({"learning_rat": 1}, {}, "learning_rat is not a key of LLaMA-Factory; did you mean learning_rate"),
        ({"mig_num_sample": 1}, {}, "mig_num_sample is not a key of mig_selector; did you mean mig_num_samples"),
        ({"mig_num_samples": "5,6"}, {}, "mig_num_samples: '5,6' is a list"),
        ({}, {"methods": ["mig", "mig"]}, "--methods: expected different names"),
        (
            {"mig_num_samples": None, "mig_num_tokens": 500},
            {"match": "rows"},
            "--match rows: mig_num_tokens is set",
        ),
        ({}, {"methods": ["nothing"]}, "mig_method: 'nothing'"),
        ({}, {"seeds": 0}, "--seeds: 0 is not allowed"),
        ({}, {"learning_rates": [1e-5, -1.0]}, "--learning-rates: expected different numbers above 0"),
        ({}, {"holdout": 1.5}, "--holdout: 1.5 is not allowed"),
        ({"eval_dataset": "pool"}, {"holdout": 0.1}, "--holdout: eval_dataset is set"),
    ],
)
def test_what_cannot_be_studied_is_an_error_that_names_the_key_or_option(keys, changes, options, message):
    with pytest.raises(ArgumentError, match=message):
        set_up({**keys, **changes}, Options(**options))


def test_a_dry_run_before_the_first_start_estimates_the_steps(keys):
    [line] = [line for line in estimate_study(keys, Options(methods=["mig"], holdout=0.2)) if "steps" in line]
    assert re.search(r" supervised tokens, about \d+ steps, ", line)


def test_a_page_of_nothing_is_refused_before_rows_are_selected(keys, pool_of_60):
    before = sorted(pool_of_60.folder.rglob("*"))
    with pytest.raises(ArgumentError, match="--report: nothing has been trained; start the study without --report"):
        run_study(keys, Options(methods=["mig"], holdout=0.2), trains=False)
    assert sorted(pool_of_60.folder.rglob("*")) == before


@pytest.mark.parametrize(
    "words", [["--seeds", "0"], ["--holdout", "1.5"], ["--only", "foo"], ["--methods", "mig,mig"]]
)
def test_a_wrong_value_of_an_option_is_wrong_usage(keys, tmp_path, words, capsys):
    assert main(["study", str(write_yaml(tmp_path, keys)), "--dry-run", *words]) == 2
    assert f"mig-selector: error: {words[0]}: " in capsys.readouterr().err


def test_rows_with_images_are_not_measured(keys, pool_of_60):
    pool_of_60.add(
        "seen", [make_row(1, [], 1.0)], **{**SHAREGPT, "columns": {"messages": "dialogs", "images": "pictures"}}
    )
    with pytest.raises(ArgumentError, match="dataset 'seen' has images; a study measures text alone"):
        set_up({**keys, "dataset": "pool,seen"}, Options())


def test_it_is_not_started_by_torchrun_nor_for_arms_that_it_does_not_have(keys, monkeypatch):
    with pytest.raises(
        ArgumentError, match="--only: car is not an arm; expected some of base, random, stratified, mig"
    ):
        run_study(keys, Options(methods=["mig"]), only=["base", "car"])
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ArgumentError, match="start it without torchrun"):
        set_up(keys, Options())


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        (
            {"mig_num_samples": 55},
            {},
            "mig_num_samples: 55 are asked for, but the rows that all arms choose from have 48",
        ),
        (
            {"mig_num_samples": None, "mig_num_tokens": "1M"},
            {},
            "mig_num_tokens: 1,000,000 are asked for, but the",
        ),
        ({}, {"holdout": 0.1}, "--holdout: only 6 answers are held out, and a study needs 10"),
        ({}, {"source_column": "colour"}, "--source: no row of the pool has a column 'colour'"),
        ({}, {"train_command": " "}, "--train-command is empty"),
    ],
)
def test_a_dry_run_refuses_what_the_study_would_refuse(keys, changes, options, message):
    given = Options(**{"methods": ["mig"], "holdout": 0.2, **options})
    for refused in (estimate_study, run_study):
        with pytest.raises(ArgumentError, match=message):
            refused({**keys, **changes}, given)
