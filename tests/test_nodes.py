"""Two nodes on one machine: two processes that torchrun's variables call nodes, each in a folder of its own."""

import json
import os
import shutil
import socket
import subprocess
import sys

import pytest
from support import Workplace, make_rows


pytestmark = pytest.mark.distributed

PROGRAM = """
import json, resource, sys
from mig_selector.console import show_log
from mig_selector.errors import MigSelectorError
from mig_selector.pipeline.recipe import run_selection
from mig_selector.ranks.world import connect
settings, options = json.loads(sys.argv[1]), json.loads(sys.argv[2])
show_log(is_main=True)
if "largest_file" in options:
    resource.setrlimit(resource.RLIMIT_FSIZE, (options["largest_file"],) * 2)
try:
    with connect() as ranks:
        outcomes = run_selection(settings, ranks, training=options.get("training", False))
except MigSelectorError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(1)
print(json.dumps([[outcome.folder, outcome.settings] for outcome in outcomes]))
"""


class Node:
    """A folder with a dataset_dir, a cache, and the settings to select there."""

    def __init__(self, folder, place):
        self.workplace = Workplace(folder)
        self.folder, self.data = folder, self.workplace.data
        self.settings = self.workplace.settings(
            dataset_dir="data", mig_label_embeddings="vectors.npz", mig_num_samples=[10]
        )
        self.options = {}
        self.environment = {
            **os.environ,
            "RANK": str(place),
            "WORLD_SIZE": "2",
            "LOCAL_RANK": "0",
            "LOCAL_WORLD_SIZE": "1",
            "MASTER_ADDR": "127.0.0.1",
            "MIG_SELECTOR_CACHE": str(folder / "cache"),
        }

    def start(self, port):
        return subprocess.Popen(
            [sys.executable, "-c", PROGRAM, json.dumps(self.settings), json.dumps(self.options)],
            cwd=self.folder,
            env={**self.environment, "MASTER_PORT": str(port)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def subset(self, name="pool_mig_10"):
        """Return the bytes of the files that the node's own entry leads to."""
        entry = json.loads((self.data / "dataset_info.json").read_text())[name]
        folder = (self.data / entry["file_name"]).parent
        return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def nodes(tmp_path):
    """Two nodes that share nothing; only the first has the pool."""
    nodes = [Node(tmp_path / "node a é", 0), Node(tmp_path / "node b", 1)]
    nodes[0].workplace.add("pool", make_rows(60))
    nodes[1].workplace.add("other", make_rows(3))
    return nodes


def run(nodes):
    """Run both nodes; return code, stdout and stderr of each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [node.start(port) for node in nodes]
    outputs = [process.communicate(timeout=120) for process in processes]
    return [(process.returncode, *output) for process, output in zip(processes, outputs, strict=True)]


def errors(ends):
    assert [code for code, _, _ in ends] == [1, 1], ends
    return [line.removeprefix("error: ") for _, _, text in ends for line in text.splitlines() if "error: " in line]


def test_a_node_with_files_of_its_own_gets_a_copy_and_an_entry(nodes):
    before = json.loads((nodes[1].data / "dataset_info.json").read_text())
    ends = run(nodes)
    assert [code for code, _, _ in ends] == [0, 0], ends
    assert "sending pool_mig_10-" in ends[0][2]
    assert "reading the pool" not in ends[1][2]
    here, there = (node.subset() for node in nodes)
    assert here == there
    assert {"selected.jsonl", "selection.parquet", "manifest.json"} <= set(here)
    entries = json.loads((nodes[1].data / "dataset_info.json").read_text())
    assert {name: entry for name, entry in entries.items() if name != "pool_mig_10"} == before
    (folder, settings), *_ = json.loads(ends[1][1])
    assert folder.startswith(str(nodes[1].data / "mig_selections"))
    own = json.loads((nodes[1].folder / settings["dataset_dir"] / "dataset_info.json").read_text())
    assert own["pool_mig_10"]["file_name"] == f"{folder}/selected.jsonl"
    assert own["pool_mig_10"]["columns"] == {"messages": "dialogs"}

    again = run(nodes)
    assert [code for code, _, _ in again] == [0, 0]
    assert "already selected" in again[0][2]
    assert "sending" not in again[0][2]


def test_nodes_that_share_the_dataset_dir_share_the_subset(nodes):
    for node in nodes:
        node.settings["dataset_dir"] = str(nodes[0].data)
    ends = run(nodes)
    assert [code for code, _, _ in ends] == [0, 0], ends
    assert "sending" not in ends[0][2]
    assert json.loads(ends[0][1]) == json.loads(ends[1][1])
    assert len(list(nodes[0].data.glob("mig_selections/*/selected.jsonl"))) == 1


def test_a_large_subset_of_several_files_is_sent_whole(nodes):
    rows = [
        {**row, "dialogs": [row["dialogs"][0], {"role": "assistant", "content": "x" * 400_000}]}
        for row in make_rows(40)
    ]
    nodes[0].workplace.add("pool", rows)
    nodes[0].workplace.add("more", make_rows(30, seed=1))
    for node in nodes:
        node.settings |= {"dataset": "pool,more", "mig_num_samples": [60, 20]}
    ends = run(nodes)
    assert [code for code, _, _ in ends] == [0, 0], ends
    for name in ("pool+more_mig_60__pool", "pool+more_mig_60__more", "pool+more_mig_20__pool"):
        here, there = (node.subset(name) for node in nodes)
        assert here == there
    assert len(nodes[1].subset("pool+more_mig_60__pool")["selected__pool.jsonl"]) > 10_000_000


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("mig_num_samples", [11], "mig_num_samples: '11' on this node, but '10' on that of rank 0"),
        ("mig_phi", "exp", "mig_phi: 'exp' on this node, but 'pow' on that of rank 0"),
        ("dataset", "pool,other", r"dataset: \['pool', 'other'\] on this node, but \['pool'\] on that of rank 0"),
    ],
)
def test_a_node_with_other_settings_is_refused_on_both(nodes, key, value, message):
    nodes[1].settings[key] = value
    first, second = errors(run(nodes))
    assert first == second
    assert message.replace("\\", "") in first
    assert first.endswith(f"(rank 1 on {socket.gethostname()})")


def test_a_node_without_dataset_info_json_ends_both(nodes):
    (nodes[1].data / "dataset_info.json").unlink()
    first, second = errors(run(nodes))
    assert first == second
    where = f"{nodes[1].data / 'dataset_info.json'} does not exist; give the folder that holds dataset_info.json."
    assert f"{where} (rank 1 on " in first


def test_a_node_without_space_ends_both_and_keeps_no_half_file(nodes):
    nodes[1].options["largest_file"] = 600
    first, second = errors(run(nodes))
    assert first == second
    assert "cannot be used: File too large. " in first
    assert "give another one by mig_output_dir or mig_cache_dir. (rank 1 on " in first
    assert not [path for path in nodes[1].data.glob("mig_selections/**/*") if path.is_file()]
    nodes[1].options.clear()
    assert [code for code, _, _ in run(nodes)] == [0, 0]
    assert nodes[0].subset() == nodes[1].subset()


def test_a_node_that_would_train_on_other_tokenized_rows_ends_both(nodes):
    for node in nodes:
        node.settings |= {"mig_num_samples": 10, "do_train": True, "tokenized_path": "tokens"}
        node.options["training"] = True
    (nodes[1].folder / "tokens").mkdir()
    (nodes[1].folder / "tokens" / "data.arrow").write_text("of other rows")
    first, second = errors(run(nodes))
    assert first == second
    assert "tokenized_path: tokens exists and was not made from this selection" in first


def test_every_node_embeds_with_its_own_copy_of_the_encoder(nodes, minilm):
    for node in nodes:
        shutil.copytree(minilm, node.folder / "encoder")
        del node.settings["mig_label_embeddings"]
        node.settings["mig_embedding_model"] = "encoder"
    ends = run(nodes)
    assert [code for code, _, _ in ends] == [0, 0], ends
    assert nodes[0].subset() == nodes[1].subset()


def test_encoders_that_differ_are_refused(nodes, minilm):
    for node in nodes:
        shutil.copytree(minilm, node.folder / "encoder")
        del node.settings["mig_label_embeddings"]
        node.settings["mig_embedding_model"] = "encoder"
    (nodes[1].folder / "encoder" / "config.json").write_text("{}")
    first, second = errors(run(nodes))
    assert first == second
    assert f"{nodes[1].folder / 'encoder'} on this node has other files than {nodes[0].folder / 'encoder'}" in first
