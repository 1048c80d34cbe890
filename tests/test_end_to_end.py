"""Real text, from the pool to a trained model."""

import gzip
import json
import re
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from support import SHARED_DATA, SHAREGPT, run_command


POOL = SHARED_DATA / "real_text_pool.jsonl.gz"

pytestmark = [
    pytest.mark.llamafactory,
    pytest.mark.skipif(not POOL.exists(), reason="the shared data are not beside this checkout"),
]


@pytest.fixture
def real_pool(workplace):
    """The 74,721 rows of real text, unpacked, with the vectors of their labels."""
    workplace.add("pool", file_name="pool.jsonl", **SHAREGPT)
    with gzip.open(POOL) as packed, (workplace.data / "pool.jsonl").open("wb") as plain:
        shutil.copyfileobj(packed, plain)
    workplace.vectors = SHARED_DATA / "label_embeddings_minilm.npz"
    return workplace


def test_real_text_is_selected_and_trained_on(real_pool, tiny_llama, tmp_path):
    config = tmp_path / "train.yaml"
    settings = {
        "stage": "sft",
        "do_train": True,
        "model_name_or_path": tiny_llama,
        "finetuning_type": "full",
        "template": "llama3",
        "cutoff_len": 256,
        "output_dir": str(tmp_path / "out"),
        "max_steps": 3,
        "per_device_train_batch_size": 4,
        "report_to": "none",
        **real_pool.settings(mig_num_samples=5000),
    }
    config.write_text(yaml.safe_dump(settings))
    selected = run_command("mig-selector", "select", config)
    assert selected.returncode == 0, selected.stderr
    assert "read 74,721 rows of pool.jsonl, kept 74,721" in selected.stderr
    folder = Path(selected.stdout.strip().splitlines()[-1])
    chosen = pq.read_table(folder / "selection.parquet").to_pydict()
    assert sorted(chosen["gain"], reverse=True) == chosen["gain"]
    assert len(set(chosen["row_index"])) == 5000

    wanted = {row: rank for rank, row in enumerate(chosen["row_index"])}
    subset = (folder / "selected.jsonl").read_text(encoding="utf-8").splitlines()
    with (real_pool.data / "pool.jsonl").open(encoding="utf-8") as lines:
        for number, line in enumerate(lines):
            if number in wanted:
                assert json.loads(subset[wanted[number]]) == {"dialogs": json.loads(line)["dialogs"]}

    trained = run_command("llamafactory-cli", "train", config)
    assert trained.returncode == 0, trained.stderr[-3000:]
    assert "already selected: 5,000 of 74,721 rows" in trained.stderr
    assert re.findall(r"Num examples = ([\d,]+)", trained.stderr) == ["5,000"]
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_a_packed_pool_is_refused_with_a_hint(real_pool):
    real_pool.add("packed", file_name=str(POOL), **SHAREGPT)
    done = run_command(
        "mig-selector", "select", *[f"--{key}={value}" for key, value in real_pool.settings(dataset="packed").items()]
    )
    assert done.returncode == 1
    assert "Unpack it first: LLaMA-Factory cannot read it either." in done.stderr
