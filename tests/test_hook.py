"""The hook in the real LLaMA-Factory, by the real commands, on a tiny random Llama."""

import json
import os
import re
import shutil
import zipfile
from importlib.util import find_spec
from pathlib import Path
from subprocess import CompletedProcess
from types import SimpleNamespace

import pytest
import yaml
from support import ROOT, Workplace, make_raw_rows, make_rows, run_command
from training import host_settings, num_examples, train, write_yaml

from mig_selector.hook import _without_own_keys


pytestmark = [pytest.mark.llamafactory, pytest.mark.slow]

PROGRAMS = Path(__file__).parent / "programs"
HOST = Path(find_spec("llamafactory").origin).parent
HAS_RAY = find_spec("ray") is not None


def options(settings):
    return [part for key, value in settings.items() for part in (f"--{key}", str(value))]


@pytest.fixture(scope="module")
def make_training(tmp_path_factory, tiny_llama):
    """A function that writes a YAML to train with, its pool and its cache into a new folder."""

    def make(**more):
        folder = tmp_path_factory.mktemp("training")
        place = Workplace(folder / "work place é")
        place.add("pool", make_rows(60))
        return SimpleNamespace(
            place=place,
            out=folder / "out",
            yaml=write_yaml(folder, {**host_settings(tiny_llama, folder / "out"), **place.settings(), **more}),
            env={"HF_HUB_OFFLINE": "1", "MIG_SELECTOR_CACHE": str(folder / "cache")},
        )

    return make


@pytest.fixture(scope="module")
def trained(make_training):
    """A run that selected 10 rows, trained on them and left a checkpoint."""
    run = make_training(save_steps=1, mig_report="html", preprocessing_num_workers=2)
    run.done = train(run.yaml, env=run.env)
    return run


def test_a_yaml_selects_and_trains_on_the_chosen_rows(trained):
    assert num_examples(trained.done) == {10}
    entry = trained.place.entries()["pool_mig_10"]
    chosen = (trained.place.data / entry["file_name"]).read_text().splitlines()
    assert len(chosen) == 10
    assert "mig_selector: chosen: 10 of 60 rows" in trained.done.stdout  # in the host's own log, too
    mark = json.loads((trained.out / "_mig_selection.json").read_text())
    assert mark["fingerprint"] == entry["mig_selector"]
    assert (trained.out / "model.safetensors").exists()


def test_the_report_is_written_beside_training_although_the_host_forks(trained):
    assert num_examples(trained.done) == {10}
    [page] = trained.place.data.glob("mig_selections/*/report.html")
    assert page.read_text(encoding="utf-8").rstrip().endswith("</html>")
    assert f"mig_selector: report: {page}" in trained.done.stdout  # in the host's own log
    assert "Training takes <b>2 steps</b>" in page.read_text(encoding="utf-8")
    assert "num_proc=2" in trained.done.stderr  # the host's progress bar says that it has forked


def test_each_checkpoint_is_marked_by_the_hosts_trainer(trained):
    assert num_examples(trained.done) == {10}
    fingerprint = trained.place.entries()["pool_mig_10"]["mig_selector"]
    marks = [json.loads(path.read_text()) for path in trained.out.glob("checkpoint-*/_mig_selection.json")]
    assert [mark["fingerprint"] for mark in marks] == [fingerprint] * 2
    assert all(mark["trainer_state"] for mark in marks)


def test_what_a_plain_run_fills_after_a_failed_selecting_run_is_not_trained_on(make_training, tmp_path):
    run = make_training(save_steps=1)
    tokens = run.yaml.parent / "tokens"
    words = [f"tokenized_path={tokens}", "data_shared_file_system=true"]
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')  # a model without a tokenizer: the host fails
    failed = train(run.yaml, *words, f"model_name_or_path={tmp_path}", env=run.env)
    assert failed.returncode == 1
    assert "chosen: 10 of 60 rows" in failed.stderr
    assert not list(run.yaml.parent.rglob("*mig_selection.json"))
    stock = {key: value for key, value in yaml.safe_load(run.yaml.read_text()).items() if not key.startswith("mig_")}
    assert num_examples(train(write_yaml(tmp_path, stock), *words, env=run.env)) == {60}
    again = {"tokens": ([run.yaml, *words, "overwrite_output_dir=true"], {}), "checkpoints": ([run.yaml], {})}
    refused = run_host_commands(again, run.env)
    assert [end.returncode for end in refused.values()] == [1, 1]
    assert "tokens exists and was not made from this selection" in refused["tokens"].stderr
    assert "came from a run without this selection" in refused["checkpoints"].stderr

    shutil.rmtree(tokens)
    assert num_examples(train(run.yaml, *words, "overwrite_output_dir=true", env=run.env)) == {10}
    assert (tokens.parent / "tokens.mig_selection.json").exists()
    assert num_examples(train(run.yaml, *words, "overwrite_output_dir=true", "max_steps=1", env=run.env)) == {10}


def test_other_rows_are_not_resumed_on(trained):
    assert num_examples(trained.done) == {10}
    assert (trained.out / "checkpoint-1").is_dir()
    done = train(trained.yaml, "mig_num_samples=11", env=trained.env)
    assert done.returncode == 1
    assert "came from another selection" in done.stderr


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


def run_host_commands(commands, env):
    """Run several commands of the host in one launch; return how each ended, by name."""
    given = json.dumps([[["llamafactory-cli", "train", *map(str, words)], own] for words, own in commands.values()])
    done = run_command("python", PROGRAMS / "commands_of_the_host.py", given, env=env)
    assert done.returncode == 0, done.stderr
    ends = json.loads(done.stdout.splitlines()[-1])
    return {name: CompletedProcess(name, *end) for name, end in zip(commands, ends, strict=True)}


def test_the_real_trainer_is_hooked_after_find_spec_and_reload():
    program = (
        "import importlib, importlib.util\n"
        "assert importlib.util.find_spec('llamafactory.train.tuner')\n"
        "import llamafactory.train.tuner as tuner\n"
        "print(hasattr(tuner.run_exp, 'is_mig_selector'))\n"
        "importlib.reload(tuner)\n"
        "print(hasattr(tuner.run_exp, 'is_mig_selector'))\n"
    )
    done = run_command("python", "-c", program)
    assert done.stdout.split() == ["True", "True"], done.stderr


REFUSED = {
    "mig_num_sample=5": "mig_num_sample is not a key of mig_selector; did you mean mig_num_samples?",
    "mig_phi=log": "mig_phi: 'log' is not allowed; expected pow or exp.",
    "MIG_NUM_SAMPLES=5": "MIG_NUM_SAMPLES is not a key of mig_selector; did you mean mig_num_samples?",
    "mig.num_samples=5": "mig: keys are not nested; write mig_num_samples: 5",
    "--mig_num_samples=5": "'--mig_num_samples' is not an override; after a file, write key=value",
}


@pytest.fixture(scope="module")
def ends(make_training):
    """How commands that end before they train ended: one launch runs them all."""
    run = make_training()
    commands = {override: ([run.yaml, override], {}) for override in REFUSED}
    commands["slips"] = ([run.yaml, "learning_rat=1", "template=llama33"], {})
    commands["help"] = (["--help"], {})
    commands["dashes"] = (["--mig-num-sample", 5], {})
    if not HAS_RAY:
        commands["ray"] = ([run.yaml], {"USE_RAY": "1"})
    return run_host_commands(commands, run.env)


def test_help_shows_the_keys_and_the_hosts_own(ends):
    assert ends["help"].returncode == 0
    assert "--mig_num_samples" in ends["help"].stdout
    assert "--finetuning_type" in ends["help"].stdout


@pytest.mark.parametrize(("override", "message"), REFUSED.items())
def test_wrong_keys_and_values_end_the_command_before_anything_is_loaded(ends, override, message):
    done = ends[override]
    assert done.returncode == 1
    assert f"[mig_selector] error: {message}" in done.stderr
    assert "Traceback" not in done.stderr
    assert "reading the pool" not in done.stderr


def test_an_option_written_with_dashes_is_a_key_too(ends):
    assert ends["dashes"].returncode == 1
    message = "error: mig_num_sample is not a key of mig_selector; did you mean mig_num_samples?"
    assert message in ends["dashes"].stderr


@pytest.mark.skipif(HAS_RAY, reason="ray is installed")
def test_ray_that_is_not_installed_is_missed_before_the_selection(ends):
    assert ends["ray"].returncode == 1
    message = "error: USE_RAY is set, so LLaMA-Factory would train with Ray, but the package ray is not installed;"
    assert message in ends["ray"].stderr
    assert "reading the pool" not in ends["ray"].stderr


def test_a_slip_in_the_hosts_keys_ends_the_command_before_anything_is_read(ends):
    done = ends["slips"]
    assert done.returncode == 1
    assert (
        "[mig_selector] error: learning_rat is not a key of LLaMA-Factory; did you mean learning_rate?" in done.stderr
    )
    assert "template: 'llama33' is not a template of LLaMA-Factory; did you mean llama3?" in done.stderr
    assert "reading the pool" not in done.stderr
    assert "Traceback" not in done.stderr


def test_two_pools_of_any_name_are_trained_on_and_max_samples_counts_for_each(workplace, tiny_llama, tmp_path):
    rows = make_rows(12)
    for number, name in enumerate(("数据集", "my data")):
        best = [{**row, "rating": 10 - index} for index, row in enumerate(rows[6 * number : 6 * number + 6])]
        workplace.add(name, best, file_name=f"{number}.jsonl")
    keys = {"dataset": "数据集,my data", "mig_num_samples": 6, "mig_method": "top_score", "mig_score": "rating"}
    settings = {**host_settings(tiny_llama, tmp_path / "out"), **workplace.settings(), **keys, "max_samples": 4}
    done = train(write_yaml(tmp_path, {**settings, "max_steps": 1}))
    assert num_examples(done) == {6}
    assert "max_samples: 4" not in done.stderr
    assert len(workplace.entries()) == 4


def test_without_a_key_nothing_changes(training, tmp_path, pool_of_60):
    stock = {key: value for key, value in training.items() if not key.startswith("mig_")}
    done = train(write_yaml(tmp_path, stock))
    assert num_examples(done) == {60}
    assert "mig_selector" not in done.stderr
    assert set(pool_of_60.entries()) == {"pool"}
    assert sorted(path.name for path in pool_of_60.data.iterdir()) == ["dataset_info.json", "pool.jsonl"]
    assert not (tmp_path / "out" / "_mig_selection.json").exists()


@pytest.mark.parametrize(
    ("word", "env"),
    [("mig_enabled=false", {}), ("mig_phi=pow", {"MIG_SELECTOR_DISABLE": "1"})],
    ids=["key", "environment"],
)
def test_switched_off_the_host_trains_on_the_whole_pool_with_the_keys_still_in_the_yaml(
    training, tmp_path, pool_of_60, word, env
):
    done = train(write_yaml(tmp_path, training), word, "max_steps=1", env=env)
    assert num_examples(done) == {60}
    assert set(pool_of_60.entries()) == {"pool"}
    assert not (tmp_path / "out" / "_mig_selection.json").exists()


def test_bare_rows_become_a_trained_model_with_one_key_more_also_by_our_own_command(
    training, tmp_path, workplace, word_encoder
):
    workplace.add("bare", make_raw_rows(60), formatting="alpaca")
    settings = {key: value for key, value in training.items() if key != "mig_label_embeddings"}
    # The encoder of this test knows few words.
    encoder = {"mig_tagger_model": word_encoder, "mig_label_min_similarity": -1}
    yaml = write_yaml(tmp_path, {**settings, "dataset": "bare", "mig_tagger": "vocabulary", **encoder})
    done = train(yaml, launcher=("mig-selector", "train"))
    assert num_examples(done) == {10}
    assert "annotated: 60 of 60 rows" in done.stderr
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_an_unsupported_version_is_refused_in_one_sentence_if_there_are_keys(training, tmp_path):
    """The commands find a copy of LLaMA-Factory that says it is version 0.8.3."""
    copy = tmp_path / "old" / "llamafactory"
    shutil.copytree(HOST, copy)
    version = copy / "extras" / "env.py"
    version.write_text(re.sub(r'^VERSION = ".*"$', 'VERSION = "0.8.3"', version.read_text(), flags=re.MULTILINE))
    old_host = {"PYTHONPATH": os.pathsep.join([str(copy.parent), os.environ.get("PYTHONPATH", "")])}
    stock = {key: value for key, value in training.items() if not key.startswith("mig_")}
    commands = {
        "with keys": ([write_yaml(tmp_path, training)], {}),
        "without": ([write_yaml(tmp_path, {**stock, "unknown": 1}, "stock")], {}),
    }
    ends = run_host_commands(commands, old_host)
    assert ends["with keys"].returncode == 1
    own = [line for line in ends["with keys"].stderr.splitlines() if "mig_selector" in line]
    assert own == [
        "[mig_selector] error: LLaMA-Factory 0.8.3 is installed, but mig_selector supports "
        "llamafactory<0.10,>=0.9.3 only; `pip install 'llamafactory<0.10,>=0.9.3'`, or remove the mig_ keys."
    ]
    assert "Some keys are not used by the HfArgumentParser: ['unknown']" in ends["without"].stderr
    assert "[mig_selector]" not in ends["without"].stderr


@pytest.mark.parametrize(
    ("args", "kept"),
    [
        ({"stage": "sft", "mig_num_samples": 5, "mig_enabled": False}, {"stage": "sft"}),
        (
            ["--stage", "sft", "--mig-num-samples", "5", "--mig_normalize", "--do_train"],
            ["--stage", "sft", "--do_train"],
        ),
    ],
)
def test_without_our_keys_the_host_gets_its_own(args, kept):
    assert _without_own_keys(args) == kept


@pytest.mark.skipif(not (HOST / "v1").is_dir(), reason="this LLaMA-Factory has no v1 trainer")
def test_the_v1_trainer_works_as_usual_but_rejects_mig_keys(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "from llamafactory.v1.config.arg_parser import get_args\n"
        "print(get_args({'model': 'x', 'output_dir': 'y'}))\n"
        "print(get_args())\n"
    )
    path = write_yaml(tmp_path, {"model": "x", "mig_num_samples": 5})
    off = run_command("python", program, path, env={"MIG_SELECTOR_DISABLE": "1"})
    assert off.stdout.count("output_dir=") == 2, off.stderr
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
