"""The hook in the real LLaMA-Factory, by the real commands, on a tiny random Llama."""

import json
import re
import zipfile
from pathlib import Path

import pytest
import yaml
from support import ROOT, run_command


pytestmark = pytest.mark.llamafactory

EXIT_RACE = "terminate called without an active exception"
"""Stock LLaMA-Factory, without this plugin, aborts now and then when one of two CPU ranks has finished and exits."""


@pytest.fixture
def training(pool_of_60, tiny_llama, tmp_path):
    """Settings of a run of two steps on a pool of 60 rows."""
    return {
        "stage": "sft",
        "do_train": True,
        "model_name_or_path": tiny_llama,
        "finetuning_type": "full",
        "template": "llama3",
        "cutoff_len": 128,
        "output_dir": str(tmp_path / "out"),
        "max_steps": 2,
        "per_device_train_batch_size": 2,
        "report_to": "none",
        "save_only_model": True,
        **pool_of_60.settings(),
    }


def train(*words, env=None, launcher=("llamafactory-cli", "train")):
    """Run a training command; once more if it fell into the host's race at exit."""
    done = run_command(*launcher, *words, env=env)
    if done.returncode != 0 and EXIT_RACE in done.stderr:
        done = run_command(*launcher, *words, "overwrite_output_dir=true", env=env)
    return done


def write_yaml(tmp_path, settings):
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def num_examples(done):
    assert done.returncode == 0, done.stderr[-3000:]
    return {int(number.replace(",", "")) for number in re.findall(r"Num examples = ([\d,]+)", done.stderr)}


def options(settings):
    return [part for key, value in settings.items() for part in (f"--{key}", str(value))]


def test_a_yaml_selects_and_trains_on_the_chosen_rows(training, tmp_path, pool_of_60):
    done = train(write_yaml(tmp_path, training))
    assert num_examples(done) == {10}
    entry = pool_of_60.entries()["pool_mig_10"]
    chosen = (pool_of_60.data / entry["file_name"]).read_text().splitlines()
    assert len(chosen) == 10
    assert "mig_selector: chosen: 10 of 60 rows" in done.stdout  # in the host's own log, too
    mark = json.loads((tmp_path / "out" / "_mig_selection.json").read_text())
    assert mark["fingerprint"] == entry["mig_selector"]
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_overrides_after_a_yaml_are_heard(training, tmp_path):
    done = train(write_yaml(tmp_path, training), "mig_num_samples=7", "max_steps=1", launcher=("lmf", "train"))
    assert num_examples(done) == {7}


def test_options_without_a_yaml_are_heard(training, tmp_path):
    own = {key: training.pop(key) for key in ("dataset", "dataset_dir", "mig_num_samples")}
    words = [*options(training), "--mig_num_samples", "6", "--mig_phi=exp", "--mig_normalize"]
    done = train(*words, "--dataset", own["dataset"], f"--dataset_dir={own['dataset_dir']}")
    assert num_examples(done) == {6}


def test_python_selects_and_raises_plain_errors(training, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import json, sys\n"
        "from llamafactory.train.tuner import run_exp\n"
        "from mig_selector import MigSelectorError\n"
        "settings = json.loads(sys.argv.pop())\n"
        "try:\n"
        "    run_exp({**settings, 'mig_num_samples': 61})\n"
        "except MigSelectorError as error:\n"
        "    print('caught:', error)\n"
        "run_exp(settings)\n"
    )
    done = run_command("python", program, json.dumps(training))
    assert num_examples(done) == {10}
    assert "caught: mig_num_samples: 61 rows are asked for, but the pool has 60 rows" in done.stdout


@pytest.mark.distributed
def test_torchrun_of_a_train_script_selects_once_for_two_ranks(training, tmp_path):
    script = tmp_path / "train.py"
    script.write_text("from llamafactory.train.tuner import run_exp\n\nrun_exp()\n")
    launcher = ("torchrun", "--standalone", "--nproc_per_node", "2", script)
    done = train(write_yaml(tmp_path, training), launcher=launcher)
    assert num_examples(done) == {10}
    assert done.stderr.count("chosen: 10 of 60 rows, E(D)") == 1


@pytest.mark.distributed
def test_zero3_on_two_ranks_embeds_selects_and_trains(training, tmp_path, minilm, pool_of_60):
    del training["mig_label_embeddings"]
    training |= {
        "mig_embedding_model": minilm,
        "deepspeed": str(ROOT / "yaml_configs" / "deepspeed" / "ds_z3_config.json"),
        "ddp_timeout": 4321,
    }
    done = train(write_yaml(tmp_path, training), env={"FORCE_TORCHRUN": "1", "NPROC_PER_NODE": "2"})
    assert num_examples(done) == {10}
    assert "embedding labels" in done.stderr
    subset = pool_of_60.data / pool_of_60.entries()["pool_mig_10"]["file_name"]
    again = run_command(
        "mig-selector",
        "select",
        write_yaml(tmp_path, training),
        f"mig_output_dir={tmp_path / 'alone'}",
        f"mig_cache_dir={tmp_path / 'fresh'}",
        "mig_dataset_name=alone",
    )
    assert again.returncode == 0, again.stderr
    assert (Path(again.stdout.strip()) / "selected.jsonl").read_bytes() == subset.read_bytes()


def test_help_shows_the_keys_and_the_hosts_own():
    done = run_command("llamafactory-cli", "train", "--help")
    assert done.returncode == 0
    assert "--mig_num_samples" in done.stdout
    assert "--finetuning_type" in done.stdout


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("mig_num_sample=5", "mig_num_sample is not a key of mig_selector; did you mean mig_num_samples?"),
        ("mig_phi=log", "mig_phi: 'log' is not allowed; expected pow or exp."),
        (
            "--mig_num_samples=5",
            "'--mig_num_samples' is no override; after a file expected key=value",
        ),
    ],
)
def test_wrong_keys_and_values_end_the_command_before_anything_is_loaded(training, tmp_path, override, message):
    done = train(write_yaml(tmp_path, training), override)
    assert done.returncode == 1
    assert f"[mig_selector] error: {message}" in done.stderr
    assert "Traceback" not in done.stderr
    assert "reading the pool" not in done.stderr


def test_without_a_key_nothing_changes(training, tmp_path, pool_of_60):
    stock = {key: value for key, value in training.items() if not key.startswith("mig_")}
    done = train(write_yaml(tmp_path, stock))
    assert num_examples(done) == {60}
    assert "mig_selector" not in done.stderr
    assert set(pool_of_60.entries()) == {"pool"}
    assert sorted(path.name for path in pool_of_60.data.iterdir()) == ["dataset_info.json", "pool.jsonl"]
    assert not (tmp_path / "out" / "_mig_selection.json").exists()


def test_disabled_the_keys_are_the_hosts_usual_error(training, tmp_path):
    done = train(write_yaml(tmp_path, training), env={"MIG_SELECTOR_DISABLE": "1"})
    assert done.returncode == 1
    assert "Some keys are not used by the HfArgumentParser" in done.stderr
    assert "mig_num_samples" in done.stderr


def test_other_rows_are_not_resumed_on(training, tmp_path):
    first = train(write_yaml(tmp_path, {**training, "save_steps": 1}))
    assert num_examples(first) == {10}
    done = train(write_yaml(tmp_path, training), "mig_num_samples=11")
    assert done.returncode == 1
    assert "came from another selection" in done.stderr


def test_one_command_of_our_own_does_the_same(training, tmp_path):
    done = train(write_yaml(tmp_path, training), launcher=("mig-selector", "train"))
    assert num_examples(done) == {10}


def test_a_wheel_carries_the_line_that_starts_the_hook(tmp_path):
    done = run_command("python", "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, ROOT)
    assert done.returncode == 0, done.stderr + done.stdout
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        assert wheel.read("mig_selector.pth").decode().strip() == "import mig_selector._autoload"
        assert wheel.read("mig_selector.start").decode().strip() == "mig_selector._autoload:start"
        record = wheel.read("mig_selector-0.1.0.dist-info/RECORD").decode()
    assert "\nmig_selector.pth," in f"\n{record}"  # pip removes what RECORD names


def test_the_installed_hook_is_there_when_python_starts():
    done = run_command("python", "-c", "import sys; print('mig_selector._autoload' in sys.modules)")
    assert done.stdout.strip() == "True"
