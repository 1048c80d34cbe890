"""The command mig-selector: what it prints, and its exit codes."""

import json
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from support import make_rows, run_command, write_lines

from mig_selector.cli import main


@pytest.fixture
def config(pool_of_60, tmp_path):
    """A full training YAML, of whose other keys selection asks nothing."""
    path = tmp_path / "full.yaml"
    path.write_text(yaml.safe_dump({**pool_of_60.settings(), "model_name_or_path": "no/where", "stage": "sft"}))
    return path


def test_select_prints_the_folder_last_and_the_rest_to_stderr(config, capsys):
    assert main(["select", str(config)]) == 0
    out, err = capsys.readouterr()
    folder = Path(out.splitlines()[-1])
    assert (folder / "selected.jsonl").read_text().count("\n") == 10
    assert "read 60 rows of pool.jsonl, kept 60" in err
    assert main(["select", str(config)]) == 0  # a cache hit
    assert capsys.readouterr().out == f"{folder}\n"


def test_overrides_and_options_are_heard(config, pool_of_60, capsys):
    assert main(["select", str(config), "mig_num_samples=5,6", "mig_phi=exp"]) == 0
    assert [Path(line).name.rpartition("-")[0] for line in capsys.readouterr().out.splitlines()] == [
        "pool_mig_5",
        "pool_mig_6",
    ]
    words = [f"--{key}={value}" for key, value in pool_of_60.settings(mig_num_samples=7).items()]
    assert main(["select", *words]) == 0
    assert "pool_mig_7-" in capsys.readouterr().out
    words = [
        part for key, value in pool_of_60.settings(mig_num_samples=8).items() for part in (f"--{key}", str(value))
    ]
    assert main(["select", *words]) == 0
    assert "pool_mig_8-" in capsys.readouterr().out


def test_a_json_config_is_read(pool_of_60, tmp_path, capsys):
    (tmp_path / "c.json").write_text(json.dumps(pool_of_60.settings()))
    assert main(["select", str(tmp_path / "c.json")]) == 0
    assert "pool_mig_10-" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("mig_num_samples=61", "61 rows are asked for, but the pool has 60"),
        ("mig_thresh=1", "mig_thresh is not a key of mig_selector"),
        ("MIG_NUM_SAMPLES=5", "MIG_NUM_SAMPLES is not a key of mig_selector; did you mean mig_num_samples?"),
        ("mig-num-samples=5", "mig-num-samples is not a key of mig_selector; did you mean mig_num_samples?"),
        ("mig.num_samples=5", "mig: keys are not nested; write mig_num_samples: 5 beside LLaMA-Factory's keys"),
        ("mig=5", "mig is not a key of mig_selector; did you mean mig_num_samples?"),
        ("dataset=nowhere", "'nowhere' is not in"),
        ("dataset_dir=/no/such/folder", "/no/such/folder/dataset_info.json does not exist"),
        ("dataset=null", "dataset is missing"),
        ("nonsense", "'nonsense' is not an override; after a file, write key=value without dashes"),
        ("--mig_num_samples=5", "'--mig_num_samples=5' is not an override"),
        ("mig_output_dir=/etc/passwd", "mig_output_dir: /etc/passwd is not a folder"),
        ("mig_output_dir=/etc/passwd/below", "mig_output_dir: /etc/passwd is not a folder"),
        ("mig_label_embeddings=/no/file.npz", "mig_label_embeddings: /no/file.npz is not a file"),
    ],
)
def test_a_users_error_is_one_message_and_exit_code_1(config, override, message, capsys):
    assert main(["select", str(config), override]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert "Traceback" not in err


def test_a_config_that_is_missing_or_broken_is_a_users_error(tmp_path, capsys):
    assert main(["select", str(tmp_path / "none.yaml")]) == 1
    assert "none.yaml does not exist" in capsys.readouterr().err
    (tmp_path / "broken.yaml").write_text("a: [1")
    assert main(["select", str(tmp_path / "broken.yaml")]) == 1
    assert "broken.yaml cannot be read" in capsys.readouterr().err


def test_an_override_in_place_of_a_file_says_that_a_file_is_expected(capsys):
    assert main(["select", "dataset=pool"]) == 1
    assert "'dataset=pool' is not a YAML or JSON file; give one first" in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["choose"], ["select"]])
def test_wrong_usage_is_exit_code_2(words, capsys):
    try:
        code = main(words)
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    assert capsys.readouterr().out == ""


def test_the_version_is_that_of_the_package(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"mig_selector {version('mig_selector')}\n"


def test_help_names_every_key(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["select", "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "mig_num_samples (this or mig_num_tokens)" in text
    assert "mig_edge_threshold (default 0.9)" in text


def test_a_cache_hit_loads_neither_torch_nor_the_host(config):
    assert run_command("mig-selector", "select", config).returncode == 0
    program = (
        "import sys; from mig_selector.cli import main; assert main(['select', sys.argv[1]]) == 0; "
        "print([name for name in ('torch', 'transformers', 'llamafactory', 'numba') if name in sys.modules])"
    )
    done = run_command("python", "-c", program, config)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


@pytest.mark.slow
def test_an_interrupt_ends_with_130_and_leaves_nothing_half_done(pool_of_60, config):
    write_lines(pool_of_60.data / "pool.jsonl", make_rows(150_000))
    before = (pool_of_60.data / "dataset_info.json").read_bytes()
    command = [sys.executable, "-m", "mig_selector", "select", str(config)]
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # A shell that starts the tests in the background has them ignore interrupts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stderr
    seen = ""
    while "reading the pool" not in seen:
        seen += process.stderr.read(1)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert (pool_of_60.data / "dataset_info.json").read_bytes() == before
    assert not (pool_of_60.data / "mig_selections").exists()
