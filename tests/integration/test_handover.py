import json
from pathlib import Path

import pytest

from mig_selector.errors import HandoverError
from mig_selector.integration import handover
from mig_selector.integration.config import HostArguments
from mig_selector.integration.dataset_info import DatasetInfo
from mig_selector.integration.handover import (
    OUTPUT_MARKER,
    check_origin_markers,
    check_output_is_free,
    write_origin_markers,
    write_private_dataset_dir,
)


FINGERPRINT, OTHER = "ab" * 32, "cd" * 32


def host(folder, **settings):
    """The keys of a training run into `folder`/out."""
    return HostArguments.read({"dataset": "pool", "do_train": True, "output_dir": str(folder / "out"), **settings})


def make_run(folder, fingerprint=None, checkpoints=("checkpoint-10",), name="out"):
    """Make an output_dir as an earlier run left it."""
    for checkpoint in checkpoints:
        (folder / name / checkpoint).mkdir(parents=True)
    if fingerprint is not None:
        (folder / name / OUTPUT_MARKER).write_text(json.dumps({"fingerprint": fingerprint}))


# A finished model in output_dir


def test_a_finished_model_is_refused_before_anything_is_selected(tmp_path):
    (tmp_path / "out").mkdir()
    check_output_is_free(host(tmp_path))
    (tmp_path / "out" / "trainer_log.jsonl").write_text("")
    (tmp_path / "out" / OUTPUT_MARKER).write_text("{}")
    check_output_is_free(host(tmp_path))
    (tmp_path / "out" / "adapter_model.safetensors").write_bytes(b"x")
    with pytest.raises(
        HandoverError, match=r"output_dir: .*out already holds a model\. Set overwrite_output_dir: true"
    ):
        check_output_is_free(host(tmp_path))


@pytest.mark.parametrize(
    "settings",
    [
        {"overwrite_output_dir": True},
        {"overwrite_output_dir": "true"},
        {"resume_from_checkpoint": "elsewhere/checkpoint-3"},
        {"resume_from_checkpoint": False},
        {"do_train": False},
        {"output_dir": None},
    ],
)
def test_a_finished_model_is_accepted_where_the_host_accepts_it(tmp_path, settings):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model.safetensors").write_bytes(b"x")
    check_output_is_free(host(tmp_path, **settings))


def test_a_finished_model_beside_checkpoints_is_resumed_not_refused(tmp_path):
    make_run(tmp_path, FINGERPRINT)
    (tmp_path / "out" / "model.safetensors").write_bytes(b"x")
    check_output_is_free(host(tmp_path))
    check_origin_markers(host(tmp_path), FINGERPRINT)


@pytest.mark.llamafactory
def test_a_finished_model_is_recognised_as_the_host_does():
    from llamafactory.extras.constants import CHECKPOINT_NAMES

    assert set(handover._FINAL_WEIGHTS) == CHECKPOINT_NAMES


@pytest.mark.llamafactory
@pytest.mark.parametrize("name", ["checkpoint-10", "checkpoint-", "checkpoint-x", "checkpoint-1-2", "a-checkpoint-1"])
def test_a_checkpoint_is_recognised_as_the_host_does(tmp_path, name):
    from transformers.trainer_utils import get_last_checkpoint

    (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-7").write_text("a file, not a checkpoint")
    found = get_last_checkpoint(str(tmp_path))
    assert [str(path) for path in handover._checkpoints(tmp_path)] == ([found] if found else [])


# Checkpoints of another selection


@pytest.mark.parametrize(
    ("fingerprint", "found"), [(OTHER, "another selection"), (None, "a run without this selection")]
)
@pytest.mark.parametrize("settings", [{}, {"resume_from_checkpoint": True}, {"resume_from_checkpoint": "true"}])
def test_checkpoints_of_other_rows_are_refused(tmp_path, fingerprint, found, settings):
    make_run(tmp_path, fingerprint)
    with pytest.raises(HandoverError, match=rf"checkpoints in .*out came from {found}; .* overwrite_output_dir: true"):
        check_origin_markers(host(tmp_path, **settings), FINGERPRINT)


def test_an_unreadable_marker_counts_as_none(tmp_path):
    make_run(tmp_path)
    for text in ("", "[]", '{"fingerprint": null}'):
        (tmp_path / "out" / OUTPUT_MARKER).write_text(text)
        with pytest.raises(HandoverError, match="a run without this selection"):
            check_origin_markers(host(tmp_path), FINGERPRINT)


def test_checkpoints_of_the_same_rows_are_accepted(tmp_path):
    make_run(tmp_path, FINGERPRINT)
    for resume in (None, True, str(tmp_path / "out" / "checkpoint-10"), f"{tmp_path}/out/checkpoint-10/"):
        check_origin_markers(host(tmp_path, resume_from_checkpoint=resume), FINGERPRINT)


@pytest.mark.parametrize(
    "settings",
    [
        {"overwrite_output_dir": True},
        {"resume_from_checkpoint": False},
        {"resume_from_checkpoint": False, "overwrite_output_dir": True},
        {"do_train": False},
        {"output_dir": None},
    ],
)
def test_checkpoints_that_are_not_resumed_are_accepted(tmp_path, settings):
    make_run(tmp_path, OTHER)
    check_origin_markers(host(tmp_path, **settings), FINGERPRINT)


@pytest.mark.parametrize("checkpoints", [(), ("checkpoint-x", "logs")])
def test_an_output_dir_without_checkpoints_is_accepted(tmp_path, checkpoints):
    check_origin_markers(host(tmp_path), FINGERPRINT)
    make_run(tmp_path, None, checkpoints)
    check_origin_markers(host(tmp_path), FINGERPRINT)


def test_a_checkpoint_given_by_path_is_checked_against_its_own_run(tmp_path, monkeypatch):
    make_run(tmp_path, FINGERPRINT)
    make_run(tmp_path, OTHER, name="other")
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path / "other" / "checkpoint-10", "other/checkpoint-10"):
        with pytest.raises(HandoverError, match=r"checkpoints in .*other came from another selection"):
            check_origin_markers(host(tmp_path, resume_from_checkpoint=str(path)), FINGERPRINT)
        check_origin_markers(host(tmp_path, resume_from_checkpoint=str(path)), OTHER)


def test_overwriting_does_not_permit_resuming_from_other_rows(tmp_path):
    make_run(tmp_path, OTHER)
    for resume in (True, str(tmp_path / "out" / "checkpoint-10")):
        with pytest.raises(HandoverError, match="another selection"):
            check_origin_markers(host(tmp_path, overwrite_output_dir=True, resume_from_checkpoint=resume), FINGERPRINT)


# Tokenized data


def tokenized(folder, fingerprint=None):
    (folder / "tok").mkdir()
    (folder / "tok" / "data.arrow").write_bytes(b"x")
    if fingerprint is not None:
        (folder / "tok.mig_selection.json").write_text(json.dumps({"fingerprint": fingerprint}))
    return str(folder / "tok")


@pytest.mark.parametrize("fingerprint", [None, OTHER])
@pytest.mark.parametrize("do_train", [True, False])
def test_tokenized_data_of_other_rows_is_refused(tmp_path, fingerprint, do_train):
    path = tokenized(tmp_path, fingerprint)
    with pytest.raises(HandoverError, match=r"tokenized_path: .*tok exists and was not made from this selection"):
        check_origin_markers(
            host(tmp_path, tokenized_path=path, do_train=do_train, overwrite_output_dir=True), FINGERPRINT
        )


def test_tokenized_data_of_the_same_rows_is_accepted(tmp_path):
    path = tokenized(tmp_path, FINGERPRINT)
    check_origin_markers(host(tmp_path, tokenized_path=path), FINGERPRINT)
    check_origin_markers(host(tmp_path, tokenized_path=f"{path}/"), FINGERPRINT)


def test_a_tokenized_path_without_data_is_accepted(tmp_path):
    check_origin_markers(host(tmp_path, tokenized_path=str(tmp_path / "tok")), FINGERPRINT)
    (tmp_path / "tok").mkdir()
    check_origin_markers(host(tmp_path, tokenized_path=str(tmp_path / "tok")), FINGERPRINT)


# Origin markers


def test_markers_are_written_where_the_next_run_looks_for_them(tmp_path):
    run = host(tmp_path, tokenized_path=str(tmp_path / "tok"))
    write_origin_markers(run, {"fingerprint": FINGERPRINT, "subset": "/é"})
    assert json.loads((tmp_path / "out" / "_mig_selection.json").read_text()) == {
        "fingerprint": FINGERPRINT,
        "subset": "/é",
    }
    assert json.loads((tmp_path / "tok.mig_selection.json").read_text())["fingerprint"] == FINGERPRINT
    make_run(tmp_path)
    tokenized(tmp_path)
    check_origin_markers(run, FINGERPRINT)
    with pytest.raises(HandoverError, match="checkpoints"):
        check_origin_markers(run, OTHER)


def test_no_marker_is_written_where_training_writes_nothing(tmp_path):
    write_origin_markers(host(tmp_path, do_train=False), {"fingerprint": FINGERPRINT})
    write_origin_markers(host(tmp_path, output_dir=None), {"fingerprint": FINGERPRINT})
    assert list(tmp_path.iterdir()) == []


# A private dataset_dir


INFO = DatasetInfo(
    "/data",
    Path("/data/dataset_info.json"),
    {
        "pool": {"file_name": "pool.jsonl"},
        "extra": {"file_name": "sub/extra.json", "formatting": "sharegpt"},
        "hub": {"hf_hub_url": "org/x"},
        "unused": {"file_name": "unused.json"},
    },
)
ENTRIES = {"pool_mig": {"file_name": "/out/selected.jsonl", "mig_selector": FINGERPRINT}}


def test_a_private_dataset_dir_holds_the_names_of_the_run_with_absolute_paths(tmp_path):
    folder = write_private_dataset_dir(tmp_path, INFO, ["pool_mig", "extra", "hub", "extra"], ENTRIES)
    assert folder.parent == tmp_path
    assert json.loads((folder / "dataset_info.json").read_text()) == {
        "pool_mig": {"file_name": "/out/selected.jsonl", "mig_selector": FINGERPRINT},
        "extra": {"file_name": "/data/sub/extra.json", "formatting": "sharegpt"},
        "hub": {"hf_hub_url": "org/x"},
    }


def test_a_private_dataset_dir_is_reused_by_equal_runs_only(tmp_path):
    first = write_private_dataset_dir(tmp_path, INFO, ["pool_mig", "extra"], ENTRIES)
    before = (first / "dataset_info.json").stat()
    assert write_private_dataset_dir(tmp_path, INFO, ["pool_mig", "extra"], ENTRIES) == first
    after = (first / "dataset_info.json").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert write_private_dataset_dir(tmp_path, INFO, ["pool_mig"], ENTRIES) != first
    other = {"pool_mig": {**ENTRIES["pool_mig"], "mig_selector": OTHER}}
    assert write_private_dataset_dir(tmp_path, INFO, ["pool_mig", "extra"], other) != first
    (first / "dataset_info.json").write_text("{}")
    assert write_private_dataset_dir(tmp_path, INFO, ["pool_mig", "extra"], ENTRIES) == first
    assert "pool_mig" in json.loads((first / "dataset_info.json").read_text())


def test_a_shared_entry_does_not_replace_the_entry_of_the_run(tmp_path):
    info = DatasetInfo(
        "/data", INFO.path, {**INFO.entries, "pool_mig": {"file_name": "old.jsonl", "mig_selector": OTHER}}
    )
    folder = write_private_dataset_dir(tmp_path, info, ["pool_mig"], ENTRIES)
    assert json.loads((folder / "dataset_info.json").read_text()) == ENTRIES
