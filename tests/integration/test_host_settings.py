"""Faults of the host's keys that are found before a selection."""

import json

import pytest
from support import make_rows
from training import host_settings

from mig_selector.errors import ArgumentError, MigSelectorError
from mig_selector.integration.host_settings import find_host_faults
from mig_selector.pipeline.recipe import run_selection


pytestmark = pytest.mark.llamafactory


@pytest.fixture
def settings(pool_of_60, tiny_llama, tmp_path):
    """Keys of the host for a run that it accepts."""
    return {**host_settings(tiny_llama, tmp_path / "out"), "dataset": "pool", "dataset_dir": str(pool_of_60.data)}


def test_a_sound_configuration_has_no_fault(settings):
    assert find_host_faults(settings) == []
    assert find_host_faults({key: str(value) for key, value in settings.items()}) == []
    more = {"learning_rate": 1e-5, "lr_scheduler_type": "cosine", "bf16": False, "val_size": 0.1, "ddp_timeout": 180}
    assert find_host_faults({**settings, **more, "report_to": ["none"], "eval_strategy": "steps"}) == []


def test_the_recipes_have_no_fault_but_models_that_are_not_here(monkeypatch):
    from support import ROOT

    from mig_selector.integration.config import read_config

    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("LOCAL_RANK", "0")
    for path in [*ROOT.glob("yaml_configs/*.yaml"), *ROOT.glob("yaml_configs/baselines/*.yaml")]:
        keys = {key: value for key, value in read_config(path, []).items() if not key.startswith("mig_")}
        faults = find_host_faults({**keys, "model_name_or_path": str(ROOT / "nowhere")})
        assert faults == [f"model_name_or_path: {ROOT / 'nowhere'} is not a folder on this machine."], path


@pytest.mark.parametrize(
    ("keys", "fault"),
    [
        ({"learning_rat": 1e-5}, "learning_rat is not a key of LLaMA-Factory; did you mean learning_rate?"),
        ({"qqqqqq": 1}, "qqqqqq is not a key of LLaMA-Factory."),
        ({"learning_rate": "fast"}, "learning_rate: 'fast' is not allowed; expected a number."),
        ({"max_steps": 1.5}, "max_steps: 1.5 is not allowed; expected an integer."),
        ({"do_train": "yess"}, "do_train: 'yess' is not allowed; expected true or false."),
        ({"lr_scheduler_type": "cosin"}, "lr_scheduler_type: 'cosin' is not allowed; expected linear or "),
        ({"stage": "stf"}, "stage: 'stf' is not allowed; expected pt or sft or"),
        ({"finetuning_type": "loar"}, "finetuning_type: 'loar' is not allowed"),
        ({"template": "llama33"}, "template: 'llama33' is not a template of LLaMA-Factory; did you mean llama3?"),
        ({"model_name_or_path": "/no/model"}, "model_name_or_path: /no/model is not a folder on this machine."),
        pytest.param(
            {"model_name_or_path": "no-model"},
            "model_name_or_path: 'no-model' is not a folder on this machine and was",
            marks=pytest.mark.slow,
        ),
        ({"model_name_or_path": None}, "LLaMA-Factory: Please provide `model_name_or_path`."),
        ({"deepspeed": "/no/ds.json"}, "deepspeed: /no/ds.json is not a file."),
        ({"val_size": 0.1, "eval_dataset": "pool"}, "LLaMA-Factory: Cannot specify `val_size` if `eval_dataset`"),
        ({"stage": "dpo"}, "dataset 'pool' has no ranked pairs, but stage is dpo"),
        ({"stage": "kto"}, "dataset 'pool' has no column kto_tag"),
    ],
)
def test_a_fault_is_named_with_key_value_and_what_is_expected(settings, keys, fault):
    [found] = find_host_faults({**settings, **keys})
    assert found.startswith(fault)


def test_faults_of_entries_are_found(settings, pool_of_60, tmp_path):
    pool_of_60.add("pairs", make_rows(3), ranking=True, columns={"chosen": "a", "rejected": "b"})
    [found] = find_host_faults({**settings, "dataset": "pool,pairs"})
    assert found.startswith("dataset 'pairs' has ranked pairs (ranking: true), but stage is sft")
    pool_of_60.add("odd", make_rows(3), formating="x", columns={"mesages": "dialogs"}, tags={"role_tags": "role"})
    assert find_host_faults({**settings, "dataset": "odd"}) == [
        "dataset 'odd': LLaMA-Factory ignores formating; did you mean formatting?",
        "dataset 'odd': LLaMA-Factory ignores columns.mesages; did you mean messages?",
        "dataset 'odd': LLaMA-Factory ignores tags.role_tags; did you mean role_tag?",
    ]
    pool_of_60.add("other", make_rows(3), formatting="sharegtp", note="mine")
    [found] = find_host_faults({**settings, "dataset": "other"})
    assert found == "dataset 'other': formatting 'sharegtp' is not known; expected alpaca or sharegpt or openai."


def test_a_deepspeed_file_is_read_and_needs_torchrun(settings, tmp_path, monkeypatch):
    keys = {**settings, "deepspeed": str(tmp_path / "ds.json")}
    (tmp_path / "ds.json").write_text("{")
    [found] = find_host_faults(keys)
    assert "ds.json is not valid JSON" in found
    (tmp_path / "ds.json").write_text(json.dumps({"zero_optimization": {"stage": 3}}))
    [found] = find_host_faults(keys)
    assert "FORCE_TORCHRUN=1" in found
    assert find_host_faults(keys, is_launched=False) == [found]
    monkeypatch.setenv("FORCE_TORCHRUN", "1")  # the command starts torchrun then, which sets LOCAL_RANK
    assert find_host_faults(keys) == [found]
    assert find_host_faults(keys, is_launched=False) == []
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert find_host_faults(keys) == []


def test_a_folder_without_a_model_is_found(settings, tmp_path):
    (tmp_path / "empty").mkdir()
    [found] = find_host_faults({**settings, "model_name_or_path": str(tmp_path / "empty")})
    assert found.endswith("empty holds no model: it has no config.json.")


def test_no_process_group_and_no_deepspeed_configuration_is_left_behind(settings, tmp_path, monkeypatch):
    from transformers.integrations import is_deepspeed_zero3_enabled

    monkeypatch.setenv("LOCAL_RANK", "0")
    (tmp_path / "ds.json").write_text(json.dumps({"zero_optimization": {"stage": 3}}))
    assert find_host_faults({**settings, "deepspeed": str(tmp_path / "ds.json")}) == []
    assert not is_deepspeed_zero3_enabled()


def test_all_faults_are_reported_at_once_and_before_anything_is_read(pool_of_60, settings, caplog):
    def select(**more):
        keys = {**settings, **pool_of_60.settings(), "learning_rat": 1, "template": "llama33", **more}
        host = {key: value for key, value in keys.items() if not key.startswith("mig_")}
        return run_selection(keys, training=True, find_faults=lambda: find_host_faults(host))

    (pool_of_60.data / "pool.jsonl").write_text("not JSON")
    for more, own in (({}, 0), ({"mig_phi": "log"}, 1), ({"mig_label_embeddings": "/no/file.npz"}, 1)):
        with pytest.raises(MigSelectorError) as caught:
            select(**more)
        assert len(str(caught.value).splitlines()) == 2 + own
    assert "reading the pool" not in caplog.text


def test_faults_of_the_host_are_found_also_where_the_selection_is_finished(pool_of_60):
    settings = pool_of_60.settings()
    run_selection(settings)
    with pytest.raises(ArgumentError, match="learning_rat is not a key"):
        run_selection(settings, training=True, find_faults=lambda: ["learning_rat is not a key"])


def test_several_files_and_models_that_are_missing_are_one_error(pool_of_60):
    pool_of_60.add("gone", file_name="gone.jsonl")
    settings = pool_of_60.settings(
        dataset="pool,gone",
        mig_label_embeddings=None,
        mig_label_vocabulary="/no/words.txt",
        mig_embedding_model="/no/model",
    )
    with pytest.raises(MigSelectorError) as caught:
        run_selection(settings)
    for part in ("/no/words.txt is not a file", "gone.jsonl", "/no/model"):
        assert part in str(caught.value)
