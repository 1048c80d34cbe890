"""A hub's name in dataset_info.json is data: it must not make `datasets` run code or unpickle files."""

import pickle

import pytest
from datasets import Dataset

from mig_selector.errors import PoolError
from mig_selector.pool.entry import HubSource
from mig_selector.pool.formats.hub import HubTable


class Evil:
    """Leaves a file where it is unpickled."""

    def __reduce__(self):
        return open, ("unpickled", "w")


@pytest.fixture
def evil(tmp_path, monkeypatch):
    (tmp_path / "d" / "evil").mkdir(parents=True)
    (tmp_path / "d" / "evil" / "train.pkl").write_bytes(pickle.dumps(Evil()))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("hub", ["hf", "ms"])
@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("pandas", "d/evil"),
        ("webdataset", "d/evil"),
        ("json", None),
        ("d/evil", None),
        ("./pandas", None),
        ("d/evil/train.pkl", None),
        ("../other", None),
        ("org/script.py", None),
        ("org/name/more", None),
        ("squad", None),
        ("", None),
    ],
)
def test_names_that_are_no_dataset_on_a_hub_are_refused_and_nothing_runs(evil, hub, name, folder):
    with pytest.raises(PoolError, match=f"{hub}_hub_url: .*expected"):
        HubTable(HubSource(hub, name, None, folder, cache_dir=str(evil / "cache")), "train", name)
    assert not (evil / "unpickled").exists()


def test_a_folder_that_is_called_like_a_module_is_refused(evil):
    (evil / "pandas").mkdir()
    (evil / "pandas" / "train.json").write_text('{"a": 1}\n')
    with pytest.raises(PoolError, match="'pandas' is also the name of a module of `datasets`"):
        HubTable(HubSource("hf", "pandas", None, "d/evil"), "train", "pandas")
    assert not (evil / "unpickled").exists()


def test_a_folder_of_data_files_is_read(evil):
    (evil / "data").mkdir()
    (evil / "data" / "train.json").write_text('{"a": 1}\n{"a": 2}\n')
    source = HubSource("hf", str(evil / "data"), None, None, cache_dir=str(evil / "cache"))
    assert HubTable(source, "train", "data").size > 0


def test_small_datasets_are_not_kept_in_memory_where_no_file_would_tell_them_apart(evil, monkeypatch):
    monkeypatch.setattr("datasets.config.IN_MEMORY_MAX_SIZE", 1 << 30)
    (evil / "data").mkdir()
    (evil / "data" / "train.json").write_text('{"a": 1}\n{"a": 2}\n')
    source = HubSource("hf", str(evil / "data"), None, None, cache_dir=str(evil / "cache"))
    assert [file.suffix for file in HubTable(source, "train", "data").files] == [".arrow"]


def test_a_dataset_without_files_is_refused(monkeypatch):
    """A hub's library may return one; two of them would have the same fingerprint."""
    in_memory = Dataset.from_list([{"a": 1}])
    monkeypatch.setattr("mig_selector.pool.formats.hub._load_from_modelscope", lambda *_: in_memory)
    with pytest.raises(PoolError, match=r"'org/name' was loaded into memory, .* Download it, and set file_name"):
        HubTable(HubSource("ms", "org/name", None, None), "train", "name")
