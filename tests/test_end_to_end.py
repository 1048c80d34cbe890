"""The demo pool and a pool of real text, from the file to a trained model."""

import gzip
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
from support import SHARED_DATA, SHAREGPT, run_command, write_demo_pool
from training import host_settings, write_yaml


pytestmark = [pytest.mark.llamafactory, pytest.mark.slow]


@pytest.fixture(params=["demo", pytest.param("real", marks=pytest.mark.shared_data)])
def text_pool(request, workplace, minilm):
    """20,000 rows of the demo pool, whose labels are embedded; or 74,721 rows of real text and their label vectors."""
    if request.param == "demo":
        path = write_demo_pool(workplace.data, 20_000)
        return SimpleNamespace(rows=20_000, path=path, settings={"mig_embedding_model": minilm})
    path = workplace.data / "real.jsonl"
    with gzip.open(SHARED_DATA / "real_text_pool.jsonl.gz") as packed, path.open("wb") as plain:
        shutil.copyfileobj(packed, plain)
    vectors = SHARED_DATA / "label_embeddings_minilm.npz"
    return SimpleNamespace(rows=74_721, path=path, settings={"mig_label_embeddings": str(vectors)})


def test_text_is_selected_and_trained_on(workplace, text_pool, tiny_llama, tmp_path):
    workplace.add("pool", file_name=text_pool.path.name, **SHAREGPT)
    settings = {
        **host_settings(tiny_llama, tmp_path / "out"),
        "cutoff_len": 256,
        "max_steps": 3,
        "per_device_train_batch_size": 4,
        "dataset": "pool",
        "dataset_dir": str(workplace.data),
        "mig_num_samples": 5000,
        **text_pool.settings,
    }
    config = write_yaml(tmp_path, settings)
    selected = run_command("mig-selector", "select", config)
    assert selected.returncode == 0, selected.stderr
    assert f"read {text_pool.rows:,} rows of {text_pool.path.name}, kept {text_pool.rows:,}" in selected.stderr
    folder = Path(selected.stdout.strip().splitlines()[-1])
    chosen = pq.read_table(folder / "selection.parquet").to_pydict()
    assert sorted(chosen["gain"], reverse=True) == chosen["gain"]
    assert len(set(chosen["row_index"])) == 5000

    wanted = {row: rank for rank, row in enumerate(chosen["row_index"])}
    subset = (folder / "selected.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(subset) == 5000
    with text_pool.path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines):
            if number in wanted:
                assert json.loads(subset[wanted[number]]) == {"dialogs": json.loads(line)["dialogs"]}

    trained = run_command("llamafactory-cli", "train", config)
    assert trained.returncode == 0, trained.stderr[-3000:]
    assert f"already selected: 5,000 of {text_pool.rows:,} rows" in trained.stderr
    assert re.findall(r"Num examples = ([\d,]+)", trained.stderr) == ["5,000"]
    assert (tmp_path / "out" / "model.safetensors").exists()


@pytest.fixture(params=["demo", pytest.param("real", marks=pytest.mark.shared_data)])
def packed_pool(request, workplace):
    """A pool compressed with gzip."""
    if request.param == "real":
        return SHARED_DATA / "real_text_pool.jsonl.gz"
    plain, packed = write_demo_pool(workplace.data, 300), workplace.data / "packed.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    return packed


def test_a_packed_pool_is_refused_with_a_hint(workplace, packed_pool):
    workplace.add("packed", file_name=str(packed_pool), **SHAREGPT)
    done = run_command(
        "mig-selector", "select", *[f"--{key}={value}" for key, value in workplace.settings(dataset="packed").items()]
    )
    assert done.returncode == 1
    assert "Unpack it first: LLaMA-Factory cannot read it either." in done.stderr
