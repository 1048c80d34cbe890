import dataclasses
import json
import sys
from pathlib import Path

import pytest

from mig_selector.errors import ArgumentError
from mig_selector.integration.config import (
    TOKENIZING_KEYS,
    HostArguments,
    Schedule,
    check_overrides,
    drop_options,
    read_config,
    read_options,
    to_options,
    typed_as_in_yaml,
)


YAML = """\
### model
model_name_or_path: some/model
trust_remote_code: true
learning_rate: 1e-6
warmup_ratio: 0.1
cutoff_len: 2048
dataset: pool,identity
dataset_dir: ${home}/data
home: /somewhere
report_to: none
resume_from_checkpoint: null
lora_target: [q_proj, v_proj]
freeze_extra_modules:
  - a
  - "b c"
text: "007"
yes_text: yes
octal: 010
date: 2020-01-01
empty:
é: 答え
mig_num_samples: [10, 0.5]
mig_phi_offset: 1.0e-06
mig_normalize: false
1: number
"""
OVERRIDES = [
    "learning_rate=5e-6",
    "mig_edge_threshold=1e-1",
    "mig_num_samples=[1,2,0.25]",
    "dataset=other",
    "new_key=${home}/x",
    "deepspeed=configs/z3.json",
    "equation=a=b",
    "nothing=",
    "null_key=null",
    "flag=True",
    "nested.key=1",
    "name=é b",
]


@pytest.fixture(scope="module")
def host_parser():
    """The host's parser of configurations."""
    return pytest.importorskip("llamafactory.hparams.parser")


@pytest.mark.llamafactory
@pytest.mark.parametrize("overrides", [[], OVERRIDES])
@pytest.mark.parametrize("ending", ["yaml", "yml"])
def test_a_configuration_is_read_as_the_host_reads_it(host_parser, monkeypatch, tmp_path, ending, overrides):
    path = tmp_path / f"work place.{ending}"
    path.write_text(YAML, encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["llamafactory-cli", str(path), *overrides])
    expected = host_parser.read_args()
    found = read_config(path, overrides)
    assert found == {str(key): value for key, value in expected.items()}
    assert {key: type(value) for key, value in found.items()} == {str(k): type(v) for k, v in expected.items()}
    assert list(found) == [str(key) for key in expected]


def test_numbers_lists_and_strings_have_their_types(tmp_path):
    path = tmp_path / "cfg.yaml"
    path.write_text(YAML, encoding="utf-8")
    found = read_config(path, ["mig_phi_rate=1e-6", "mig_pool=a,b", "max_samples=5", "do_train=true"])
    expected = {
        "learning_rate": 1e-6,
        "mig_num_samples": [10, 0.5],
        "mig_phi_rate": 1e-6,
        "mig_pool": "a,b",
        "max_samples": 5,
        "do_train": True,
        "text": "007",
        "empty": None,
        "1": "number",
    }
    assert {key: found[key] for key in expected} == expected
    assert isinstance(found["learning_rate"], float)


def test_a_json_configuration_is_read_too(tmp_path):
    path = tmp_path / "cfg.json"
    path.write_text(json.dumps({"dataset": "é", "mig_num_samples": 10, "list": [1, None]}))
    assert read_config(path, ["mig_num_samples=20"]) == {"dataset": "é", "mig_num_samples": 20, "list": [1, None]}


@pytest.mark.parametrize(
    ("name", "content", "overrides", "message"),
    [
        ("cfg.yaml", None, [], r"cfg\.yaml does not exist"),
        ("cfg.yaml", "a: [1", [], r"cfg\.yaml cannot be read"),
        ("cfg.yaml", "a: 1\na: 2", [], r"cfg\.yaml cannot be read"),
        ("cfg.yaml", "- a\n- b", [], r"cfg\.yaml must hold keys and values at its top level"),
        ("cfg.yaml", "- a\n- b", ["a=1"], r"cfg\.yaml must hold keys and values at its top level"),
        ("cfg.json", "null", [], r"cfg\.json must hold keys and values at its top level"),
        ("cfg.yaml", "a: 1".encode("utf-16"), [], r"cfg\.yaml is not UTF-8 \(invalid start byte, byte 0\)"),
        ("cfg.json", "{", [], r"cfg\.json cannot be read"),
        (
            "cfg.yaml",
            "a: 1",
            ["mig_num_samples"],
            "'mig_num_samples' is not an override; after a file, write key=value",
        ),
        ("cfg.yaml", "a: 1", ["--mig_num_samples", "10"], "'--mig_num_samples' is not an override"),
    ],
)
def test_an_unreadable_configuration_is_a_clear_error(tmp_path, name, content, overrides, message):
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ArgumentError, match=message):
        read_config(tmp_path / name, overrides)


def test_a_folder_or_bytes_are_a_clear_error(tmp_path):
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(ArgumentError, match="cannot be read"):
        read_config(tmp_path / "folder.yaml", [])
    with pytest.raises(ArgumentError, match="is not a YAML or JSON file; give one first"):
        read_config(tmp_path, [])
    (tmp_path / "cfg.yaml").write_bytes(b"a: \xff")
    with pytest.raises(ArgumentError, match=r"is not UTF-8 \(invalid start byte, byte 3\); save it as UTF-8"):
        read_config(tmp_path / "cfg.yaml", [])


def test_an_option_after_a_file_is_no_override():
    check_overrides({"mig_phi": "exp", "seed": 1})
    with pytest.raises(ArgumentError, match=r"'--mig_phi' is not an override; after a file, write key=value"):
        check_overrides({"seed": 1, "--mig_phi": "exp"})


def test_options_are_read_in_every_notation():
    options = [
        *("--dataset", "pool", "--mig_num_samples=10", "--do_train", "--mig-edge-threshold", "0.5"),
        *("--seed", "-1", "--empty=", "--text", "two words", "--equation=a=b", "--mig-gain=marginal", "--last"),
    ]
    assert read_options(options) == {
        "dataset": "pool",
        "mig_num_samples": "10",
        "do_train": True,
        "mig_edge_threshold": "0.5",
        "seed": "-1",
        "empty": "",
        "text": "two words",
        "equation": "a=b",
        "mig_gain": "marginal",
        "last": True,
    }


def test_several_words_behind_an_option_are_a_list_as_in_a_yaml():
    settings = read_options(["--dataset", "a", "b", "--mig_labels", "topics", "skills", "--seed", "1"])
    assert settings == {"dataset": ["a", "b"], "mig_labels": ["topics", "skills"], "seed": "1"}
    assert HostArguments.read(settings).dataset == ("a", "b")


def test_the_last_of_equal_options_wins_and_loose_words_are_left_out():
    assert read_options(["loose", "--a", "1", "words", "--a", "2"]) == {"a": "2"}
    assert read_options([]) == {}


def test_dropped_options_go_with_their_values_however_they_are_written():
    options = [
        *("--stage", "sft", "--mig_num_samples", "10", "--do_train", "--mig-gain=marginal", "--lr", "-1"),
        *("--mig_normalize", "--dataset=pool", "--mig_pool", "a", "--flag"),
    ]
    keys = {"mig_num_samples": 1, "mig_gain": 1, "mig_normalize": 1, "mig_pool": 1, "dataset": 1}
    assert drop_options(options, keys) == ["--stage", "sft", "--do_train", "--lr", "-1", "--flag"]
    assert drop_options(options, {}) == options
    assert drop_options(["--dataset", "a", "b", "--x", "1"], {"dataset": 1}) == ["--x", "1"]
    assert drop_options(["--dataset=a", "b", "--x=1"], {"dataset": 1}) == ["b", "--x=1"]


@pytest.mark.parametrize(
    ("word", "value"),
    [
        *(("256", 256), ("-1", -1), ("0", 0), ("1.5", 1.5), ("5e-05", 5e-05), ("1.0E-5", 1e-5), (".1", 0.1)),
        *(("true", True), ("False", False), ("007", "007"), ("1,2", "1,2"), ("2024-11-26", "2024-11-26"), ("", "")),
        *(("llama3", "llama3"), ("1e", "1e"), ("nan", "nan"), ("1_000", "1_000"), (256, 256), (None, None)),
    ],
)
def test_options_get_the_types_that_a_yaml_gives_them(word, value):
    found = typed_as_in_yaml(word)
    assert (found, type(found)) == (value, type(value))


def test_how_rows_are_tokenized_is_the_same_from_options_and_from_a_yaml():
    given = {"dataset": "pool", "cutoff_len": 256, "train_on_prompt": False, "template": "llama3"}
    options = [word for key, value in given.items() for word in (f"--{key}", str(value))]
    assert HostArguments.read(read_options(options)).tokenizing == HostArguments.read(given).tokenizing


def test_written_options_read_back():
    settings = {"dataset": "a,b", "dataset_dir": "/work place/é", "media_dir": "x"}
    assert to_options(settings) == ["--dataset", "a,b", "--dataset_dir", "/work place/é", "--media_dir", "x"]
    assert read_options(to_options(settings)) == settings


@pytest.mark.llamafactory
def test_options_mean_the_same_as_to_the_host():
    from llamafactory.hparams import DataArguments
    from transformers import HfArgumentParser

    options = ["--dataset", "a, b", "--dataset-dir=/x", "--media_dir", "m", "--mask_history", "--max-samples", "7"]
    (host,) = HfArgumentParser(DataArguments).parse_args_into_dataclasses(options)
    found = HostArguments.read(read_options(options))
    assert found.dataset == tuple(host.dataset)
    assert (found.dataset_dir, found.media_dir, found.max_samples) == (host.dataset_dir, host.media_dir, 7)


def test_the_keys_of_the_host_have_its_defaults():
    found = HostArguments.read({"dataset": "pool"})
    assert found == HostArguments(
        dataset=("pool",),
        dataset_dir="data",
        media_dir=None,
        eval_dataset=(),
        output_dir=None,
        overwrite_output_dir=False,
        resume_from_checkpoint=None,
        tokenized_path=None,
        interleave_probs=False,
        max_samples=None,
        mix_strategy="concat",
        interleave_shares=(),
        seed=42,
        val_size=0.0,
        model_name_or_path=None,
        stage="sft",
        do_train=False,
        only_evaluates=False,
        cache_dir=None,
        trust_remote_code=False,
        hf_hub_token=None,
        ms_hub_token=None,
        tokenizing={},
        schedule=None,
    )


@pytest.mark.llamafactory
def test_training_has_the_schedule_of_the_host_unless_it_sees_other_rows_than_its_datasets_have():
    from transformers import TrainingArguments

    found = HostArguments.read({"dataset": "pool", "do_train": True}).schedule
    theirs = {field.name: field.default for field in dataclasses.fields(TrainingArguments)}
    assert found == Schedule(
        rows_per_batch=theirs["per_device_train_batch_size"],
        batches_per_step=theirs["gradient_accumulation_steps"],
        epochs=theirs["num_train_epochs"],
        max_steps=theirs["max_steps"],
    )
    for more in ({"packing": True}, {"val_size": 0.1}, {"max_samples": 5}, {"num_train_epochs": "many"}):
        assert HostArguments.read({"dataset": "pool", "do_train": True, **more}).schedule is None
    switched_off = {"packing": "false", "val_size": "0", "streaming": False}  # strings as on a command line
    assert HostArguments.read({"dataset": "pool", "do_train": "true", **switched_off}).schedule == found


@pytest.mark.llamafactory
def test_the_defaults_are_those_of_the_host():
    from llamafactory.hparams import DataArguments, FinetuningArguments, ModelArguments

    known = {field.name for kind in (DataArguments, ModelArguments) for field in dataclasses.fields(kind)}
    assert set(TOKENIZING_KEYS) - {"preserve_thinking"} <= known  # which earlier versions lack
    ours = HostArguments.read({"dataset": "pool"})
    theirs = DataArguments(dataset="pool")
    assert ours.dataset == tuple(theirs.dataset)
    assert ours.dataset_dir == theirs.dataset_dir
    assert (ours.tokenized_path, ours.max_samples) == (theirs.tokenized_path, theirs.max_samples)
    assert ours.mix_strategy == theirs.mix_strategy
    assert ours.stage == FinetuningArguments().stage


def test_the_keys_of_the_host_are_read_typed():
    found = HostArguments.read(
        {
            "dataset": ["a", "b"],
            "dataset_dir": "/data",
            "media_dir": "/media",
            "eval_dataset": "c, d",
            "output_dir": "saves/x",
            "overwrite_output_dir": True,
            "tokenized_path": "tok",
            "interleave_probs": "0.5,0.5",
            "max_samples": 100,
            "do_train": True,
            "stage": "dpo",
            "cache_dir": "/cache",
            "hf_hub_token": "t",
        }
    )
    assert found.dataset == ("a", "b")
    assert found.eval_dataset == ("c", "d")
    assert (found.output_dir, found.tokenized_path) == (Path("saves/x"), Path("tok"))
    assert found.overwrite_output_dir is found.interleave_probs is found.do_train is True
    assert found.interleave_shares == (0.5, 0.5)
    assert (found.max_samples, found.stage) == (100, "dpo")


def test_the_keys_of_the_host_are_read_from_strings():
    found = HostArguments.read(
        {"dataset": " a , b ,", "overwrite_output_dir": "True", "do_train": "false", "max_samples": "100"}
    )
    assert found.dataset == ("a", "b")
    assert found.overwrite_output_dir is True
    assert found.do_train is False
    assert found.max_samples == 100


@pytest.mark.parametrize(
    ("value", "meaning"),
    [(None, None), (True, "true"), (False, "false"), ("", "false"), ("out/checkpoint-3", "out/checkpoint-3")],
)
def test_resuming_is_left_open_on_off_or_from_a_checkpoint(value, meaning):
    assert HostArguments.read({"dataset": "a", "resume_from_checkpoint": value}).resume_from_checkpoint == meaning


@pytest.mark.parametrize(
    ("keys", "only_evaluates"),
    [
        ({}, False),
        ({"do_train": True, "do_eval": True}, False),
        ({"do_train": "true"}, False),
        ({"do_train": False}, True),
        ({"do_train": "false"}, True),
        ({"do_eval": True}, True),
        ({"do_predict": "true"}, True),
        ({"do_eval": False}, False),
    ],
)
def test_a_run_only_evaluates_where_training_is_off_or_something_else_is_asked_for(keys, only_evaluates):
    assert HostArguments.read({"dataset": "a", **keys}).only_evaluates is only_evaluates


@pytest.mark.parametrize("value", ["many", 1.5, -1, [1]])
def test_other_keys_of_the_host_are_not_checked(value):
    assert HostArguments.read({"dataset": "a", "max_samples": value, "learning_rate": "x"}).max_samples is None


@pytest.mark.parametrize("stage", ["stf", "SFT", "", 3, ["sft"]])
def test_an_unknown_stage_is_an_error(stage):
    with pytest.raises(ArgumentError, match=r"stage: .* must be one of pt, sft, rm, ppo, dpo, kto\."):
        HostArguments.read({"dataset": "pool", "stage": stage})


@pytest.mark.parametrize("dataset", [None, "", [], " , "])
def test_a_missing_dataset_is_an_error(dataset):
    with pytest.raises(ArgumentError, match="dataset is missing"):
        HostArguments.read({"dataset": dataset})


@pytest.mark.parametrize("folder", [{"pool": {}}, "", None, 3])
def test_a_dataset_dir_that_is_not_a_string_is_an_error(folder):
    with pytest.raises(ArgumentError, match=r"dataset_dir: .* must be a folder, ONLINE or REMOTE"):
        HostArguments.read({"dataset": "pool", "dataset_dir": folder})
