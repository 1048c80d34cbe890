"""The hook in the real LLaMA-Factory, by the real commands, on a tiny random Llama."""

import json
import os
import re
import shutil
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest
from support import ROOT, run_command
from training import num_examples, train, write_yaml


pytestmark = pytest.mark.llamafactory

HOST = Path(find_spec("llamafactory").origin).parent


def options(settings):
    return [part for key, value in settings.items() for part in (f"--{key}", str(value))]


def test_a_yaml_selects_and_trains_on_the_chosen_rows(training, tmp_path, pool_of_60):
    done = train(write_yaml(tmp_path, training))
    assert num_examples(done) == {10}
    entry = pool_of_60.entries()["pool_mig_10"]
    chosen = (pool_of_60.data / entry["file_name"]).read_text().splitlines()
    assert len(chosen) == 10
    assert "mig_selector: chosen: 10 of 60 rows" in done.stdout  # in the host's own log, too
    marker = json.loads((tmp_path / "out" / "_mig_selection.json").read_text())
    assert marker["fingerprint"] == entry["mig_selector"]
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_overrides_after_a_yaml_apply(training, tmp_path):
    done = train(write_yaml(tmp_path, training), "mig_num_samples=7", "max_steps=1", launcher=("lmf", "train"))
    assert num_examples(done) == {7}


def test_options_without_a_yaml_apply(training, tmp_path):
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
            "'--mig_num_samples' is not an override; after a file, write key=value",
        ),
    ],
)
def test_wrong_keys_and_values_end_the_command_before_anything_is_loaded(training, tmp_path, override, message):
    done = train(write_yaml(tmp_path, training), override)
    assert done.returncode == 1
    assert f"[mig_selector] error: {message}" in done.stderr
    assert "Traceback" not in done.stderr
    assert "reading the pool" not in done.stderr


def test_an_option_written_with_dashes_is_a_key_too():
    done = train("--mig-num-sample", "5")
    assert done.returncode == 1
    assert "error: mig_num_sample is not a key of mig_selector; did you mean mig_num_samples?" in done.stderr


def test_without_a_key_nothing_changes(training, tmp_path, pool_of_60):
    stock = {key: value for key, value in training.items() if not key.startswith("mig_")}
    done = train(write_yaml(tmp_path, stock))
    assert num_examples(done) == {60}
    assert "mig_selector" not in done.stderr
    assert set(pool_of_60.entries()) == {"pool"}
    assert sorted(path.name for path in pool_of_60.data.iterdir()) == ["dataset_info.json", "pool.jsonl"]
    assert not (tmp_path / "out" / "_mig_selection.json").exists()


def test_when_disabled_the_keys_are_an_error_of_the_host(training, tmp_path):
    done = train(write_yaml(tmp_path, training), env={"MIG_SELECTOR_DISABLE": "1"})
    assert done.returncode == 1
    assert "Some keys are not used by the HfArgumentParser" in done.stderr
    assert "mig_num_samples" in done.stderr


def test_a_run_on_other_rows_does_not_resume(training, tmp_path):
    first = train(write_yaml(tmp_path, {**training, "save_steps": 1}))
    assert num_examples(first) == {10}
    done = train(write_yaml(tmp_path, training), "mig_num_samples=11")
    assert done.returncode == 1
    assert "came from another selection" in done.stderr


def test_mig_selector_train_does_the_same(training, tmp_path):
    done = train(write_yaml(tmp_path, training), launcher=("mig-selector", "train"))
    assert num_examples(done) == {10}


@pytest.fixture
def old_host(tmp_path):
    """An environment in which a copy of the installed LLaMA-Factory that reports version 0.8.3 comes first."""
    copy = tmp_path / "old" / "llamafactory"
    shutil.copytree(HOST, copy)
    version = copy / "extras" / "env.py"
    version.write_text(re.sub(r'^VERSION = ".*"$', 'VERSION = "0.8.3"', version.read_text(), flags=re.MULTILINE))
    return {"PYTHONPATH": os.pathsep.join([str(copy.parent), os.environ.get("PYTHONPATH", "")])}


def test_an_unsupported_version_is_refused_with_one_message_if_there_are_keys(training, tmp_path, old_host):
    refused = train(write_yaml(tmp_path, training), env=old_host)
    assert refused.returncode == 1
    own = [line for line in refused.stderr.splitlines() if "mig_selector" in line]
    assert own == [
        "[mig_selector] error: LLaMA-Factory 0.8.3 is installed, but mig_selector supports "
        "llamafactory<0.10,>=0.9.3 only; `pip install 'llamafactory<0.10,>=0.9.3'`, or remove the mig_ keys."
    ]
    stock = {key: value for key, value in training.items() if not key.startswith("mig_")}
    unknown = train(write_yaml(tmp_path, {**stock, "unknown": 1}), env=old_host)
    assert "Some keys are not used by the HfArgumentParser: ['unknown']" in unknown.stderr
    assert "[mig_selector]" not in unknown.stderr


@pytest.mark.skipif(find_spec("ray") is not None, reason="ray is installed")
def test_a_missing_ray_is_reported_before_the_selection(training, tmp_path):
    done = train(write_yaml(tmp_path, training), env={"USE_RAY": "1"})
    assert done.returncode == 1
    assert (
        "error: USE_RAY is set, so LLaMA-Factory would train with Ray, but the package ray is not installed;"
        in done.stderr
    )
    assert "reading the pool" not in done.stderr


@pytest.mark.skipif(not (HOST / "v1").is_dir(), reason="this LLaMA-Factory has no v1 trainer")
def test_the_v1_trainer_works_as_usual_but_rejects_mig_keys(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "from llamafactory.v1.config.arg_parser import get_args\n"
        "print(get_args({'model': 'x', 'output_dir': 'y'}))\n"
        "print(get_args())\n"
    )
    path = write_yaml(tmp_path, {"model": "x", "mig_num_samples": 5})
    done = run_command("python", program, path, env={"ALLOW_EXTRA_KEYS": "1"})
    assert done.returncode == 1
    assert done.stdout.count("output_dir='y'") == 1
    assert "error: LLaMA-Factory's v1 trainer (USE_V1) is not supported: nothing would be selected." in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wheel_contains_the_line_that_starts_the_hook(tmp_path):
    done = run_command("python", "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, ROOT)
    assert done.returncode == 0, done.stderr + done.stdout
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        assert wheel.read("mig_selector.pth").decode().strip() == "import mig_selector._autoload"
        assert wheel.read("mig_selector.start").decode().strip() == "mig_selector._autoload:start"
        record = wheel.read("mig_selector-0.1.0.dist-info/RECORD").decode()
    assert "\nmig_selector.pth," in f"\n{record}"  # pip removes what RECORD names


def test_the_installed_hook_is_loaded_when_python_starts():
    done = run_command("python", "-c", "import sys; print('mig_selector._autoload' in sys.modules)")
    assert done.stdout.strip() == "True"
