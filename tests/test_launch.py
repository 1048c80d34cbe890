"""Every way to launch a training, with real processes on the CPU (gloo), on a tiny random Llama."""

import json
import os
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from filelock import FileLock
from support import ROOT, Workplace, make_rows, run_command
from training import host_settings, num_examples, train, train_on_two_nodes, write_yaml


pytestmark = [pytest.mark.llamafactory, pytest.mark.distributed]

PROGRAMS = Path(__file__).parent / "programs"
ZERO_3 = ROOT / "yaml_configs" / "deepspeed" / "ds_z3_config.json"


@pytest.fixture(scope="module")
def zero_3(tmp_path_factory, minilm, tiny_llama):
    """Three runs of a train script under torchrun, on two ranks with ZeRO-3: after an embedding of labels on both
    ranks and a selection, on the same rows registered by hand, and after a selection that is found finished."""
    folder = tmp_path_factory.mktemp("zero 3")
    place = Workplace(folder)
    place.add("pool", make_rows(60))
    env = {"HF_HUB_OFFLINE": "1", "MIG_SELECTOR_CACHE": str(folder / "cache")}
    mig = {"dataset": "pool", "mig_num_samples": 10, "mig_embedding_model": minilm}

    def run(name, settings):
        settings = {
            **host_settings(tiny_llama, folder / name),
            "per_device_train_batch_size": 1,
            "max_steps": 5,
            "logging_steps": 1,
            "learning_rate": 0.01,
            "deepspeed": str(ZERO_3),
            "ddp_timeout": 4321,
            "dataset_dir": str(place.data),
            **settings,
        }
        script = PROGRAMS / "train_and_record.py"
        launcher = ("torchrun", "--standalone", "--nproc_per_node", "2", script)
        done = train(write_yaml(folder, settings, name), env=env, launcher=launcher)
        assert num_examples(done) == {10}
        log = json.loads((folder / name / "trainer_state.json").read_text())["log_history"]
        return SimpleNamespace(
            stderr=done.stderr,
            state=[json.loads((folder / f"{name}-rank{rank}.json").read_text()) for rank in range(2)],
            curve=[(line["step"], line["loss"], line["grad_norm"]) for line in log if "loss" in line],
            weights=(folder / name / "model.safetensors").read_bytes(),
        )

    selected = run("selected", mig)
    subset = place.data / place.entries()["pool_mig_10"]["file_name"]
    (place.data / "by_hand.jsonl").write_bytes(subset.read_bytes())
    place.add("by_hand")
    stock = run("stock", {"dataset": "by_hand"})
    return SimpleNamespace(
        selected=selected, stock=stock, found=run("found", mig), mig=mig, env=env, place=place, subset=subset
    )


def test_the_loss_curve_after_a_selection_is_that_of_the_rows_registered_by_hand(zero_3):
    assert [step for step, _, _ in zero_3.stock.curve] == [1, 2, 3, 4, 5]
    assert zero_3.selected.curve == zero_3.stock.curve
    assert zero_3.selected.weights == zero_3.stock.weights
    assert zero_3.found.curve == zero_3.stock.curve


def test_training_begins_in_the_state_of_a_run_without_selection(zero_3):
    traces = {"process groups made", "sentence_transformers is loaded"}
    for selected, stock in zip(zero_3.selected.state, zero_3.stock.state, strict=True):
        assert {name for name in stock if selected[name] != stock[name]} == traces
        assert selected["timeout in seconds"] == 4321
        assert (selected["process groups made"], stock["process groups made"]) == (2, 1)


def test_a_finished_selection_opens_no_group_and_loads_no_encoder(zero_3):
    assert zero_3.found.state == zero_3.stock.state
    assert zero_3.found.stderr.count("already selected: 10 of 60 rows; nothing is computed") == 1


def test_two_ranks_embed_and_choose_as_one_process_does(zero_3, tmp_path):
    assert zero_3.selected.stderr.count("chosen: 10 of 60 rows, E(D)") == 1
    settings = {**zero_3.mig, "dataset_dir": str(zero_3.place.data), "mig_dataset_name": "alone"}
    settings["mig_output_dir"] = str(tmp_path / "alone")
    alone = run_command("mig-selector", "select", write_yaml(tmp_path, settings))
    assert alone.returncode == 0, alone.stderr
    assert "embedding labels" in alone.stderr  # in a cache of its own
    assert (Path(alone.stdout.strip()) / "selected.jsonl").read_bytes() == zero_3.subset.read_bytes()


@pytest.fixture
def slow_registration(pool_of_60, tmp_path):
    """Another run, which keeps rank 0 from registering for 22 seconds after it has read the pool."""

    def hold():
        with FileLock(pool_of_60.data / ".dataset_info.json.lock"):
            is_held.set()
            while not list((tmp_path / "cache" / "pools").glob("*.parquet")) and not is_over.wait(0.1):
                pass
            is_over.wait(22)

    is_held, is_over = threading.Event(), threading.Event()
    other = threading.Thread(target=hold)
    other.start()
    is_held.wait()
    yield
    is_over.set()
    other.join()


@pytest.mark.usefixtures("slow_registration")
def test_an_elastic_launch_waits_for_rank_0_and_starts_again_when_it_dies_in_the_selection(training, tmp_path):
    """In the first attempt rank 0 takes longer than ddp_timeout, and dies when it has registered the subset; a rank
    that did not wait for it would end that attempt before. The second attempt finds the subset and trains."""
    failed = tmp_path / "failed"
    env = {
        "FORCE_TORCHRUN": "1",
        "NPROC_PER_NODE": "2",
        "RDZV_ID": "elastic",
        "MAX_RESTARTS": "1",
        "PYTHONPATH": os.pathsep.join([str(PROGRAMS / "dies_once"), os.environ.get("PYTHONPATH", "")]),
        "FAILED": str(failed),
    }
    settings = {**training, "finetuning_type": "lora", "deepspeed": str(ZERO_3), "ddp_timeout": 20}
    done = train(write_yaml(tmp_path, settings), "mig_num_samples=12", env=env)
    assert num_examples(done) == {12}
    assert failed.exists()
    assert done.stderr.count("read 60 rows of pool.jsonl, kept 60") == 1  # one rank, in the first attempt
    assert "waiting for another run to release" in done.stderr
    assert done.stderr.count("already selected: 12 of 60 rows; nothing is computed") == 1
    assert (tmp_path / "out" / "adapter_model.safetensors").exists()


def test_two_nodes_that_share_a_dataset_dir_select_once_and_train_with_zero_2(training, tmp_path, pool_of_60):
    zero_2 = tmp_path / "ds_z2_config.json"
    zero_2.write_text(json.dumps({**json.loads(ZERO_3.read_text()), "zero_optimization": {"stage": 2}}))
    path = write_yaml(tmp_path, {**training, "finetuning_type": "lora", "deepspeed": str(zero_2)})
    nodes = train_on_two_nodes([path, path])
    assert [num_examples(node) for node in nodes] == [{10}, {10}]
    assert [node.stderr.count("chosen: 10 of 60 rows, E(D)") for node in nodes] == [1, 0]
    assert set(pool_of_60.entries()) == {"pool", "pool_mig_10"}


def test_two_nodes_with_a_dataset_dir_each_train_on_copies_of_one_subset(tiny_llama, tmp_path):
    nodes = [tmp_path / "node 0", tmp_path / "node 1"]
    for node in nodes:
        Workplace(node).add("pool", make_rows(60))
        settings = {
            **host_settings(tiny_llama, "out"),
            "dataset": "pool",
            "dataset_dir": "data",
            "data_shared_file_system": False,
            "mig_num_samples": 10,
            "mig_label_embeddings": "vectors.npz",
        }
        write_yaml(node, settings)
    done = train_on_two_nodes(
        ["train.yaml", "train.yaml"],
        envs=[{"MIG_SELECTOR_CACHE": str(node / "cache")} for node in nodes],
        cwds=nodes,
    )
    assert [num_examples(one) for one in done] == [{10}, {10}]
    assert [one.stderr.count("chosen: 10 of 60 rows, E(D)") for one in done] == [1, 0]
    entries = [json.loads((node / "data" / "dataset_info.json").read_text()) for node in nodes]
    assert entries[0] == entries[1]
    assert set(entries[1]) == {"pool", "pool_mig_10"}
    subsets = [(node / "data" / entries[1]["pool_mig_10"]["file_name"]).read_bytes() for node in nodes]
    assert len(subsets[1].splitlines()) == 10
    assert subsets[0] == subsets[1]
    for node, one in zip(nodes, done, strict=True):  # not on what node 0 has, which both can see here
        assert f"Loading dataset {node / 'data' / entries[1]['pool_mig_10']['file_name']}" in one.stdout


def test_the_llama_board_launches_what_its_extra_arguments_say(training, tmp_path):
    own = {key: training[key] for key in training if key.startswith("mig_")}
    form = {
        "top.lang": "en",
        "top.model_name": "Custom",
        "top.model_path": training["model_name_or_path"],
        "top.finetuning_type": "lora",
        "top.template": "llama3",
        "train.training_stage": "Supervised Fine-Tuning",
        "train.dataset_dir": training["dataset_dir"],
        "train.dataset": ["pool"],
        "train.output_dir": "run",
        "train.compute_type": "fp32",
        "train.extra_args": json.dumps({**own, "max_steps": 1, "preprocessing_num_workers": 1}),
    }
    board = PROGRAMS / "press_start_on_the_board.py"
    done = run_command("python", board, json.dumps(form), cwd=tmp_path, env={"GRADIO_ANALYTICS_ENABLED": "False"})
    assert done.returncode == 0, done.stderr
    output_box = json.loads(done.stdout.splitlines()[-1])
    assert output_box.startswith("Finished.")
    # The box shows the log as it was up to two seconds before the end.
    [log] = (tmp_path / "saves").rglob("running_log.txt")
    assert "mig_selector: chosen: 10 of 60 rows" in log.read_text()
    assert "Num examples = 10" in log.read_text()
