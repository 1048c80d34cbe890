import contextlib
import json
import os
import shutil
from pathlib import Path

import pytest

from mig_selector.errors import HandoverError
from mig_selector.integration import handover
from mig_selector.integration.config import HostArguments
from mig_selector.integration.dataset_info import DatasetInfo
from mig_selector.integration.handover import (
    OUTPUT_MARKER,
    TrainingOrigin,
    check_origin_markers,
    check_output_is_free,
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


ORIGIN = {"fingerprint": FINGERPRINT, "subset": "/é", "dataset": ["pool_mig_10"]}


def train(folder, origin=ORIGIN, steps=(), tokens=None, **settings):
    """Train as the host does, with the markers of a run that selects, or without where it does not."""
    run = host(folder, tokenized_path=str(folder / "tok"), **settings)
    training = TrainingOrigin.prepare(run, origin, is_local_main=True) if origin else None
    if tokens is not None and not (folder / "tok").exists():
        (folder / "tok" / "train").mkdir(parents=True)
        (folder / "tok" / "train" / "data-00000-of-00001.arrow").write_bytes(tokens)
        (folder / "tok" / "dataset_dict.json").write_text("{}")
    if training:
        training.mark_tokenized()
        training.retire_old_marker()
    for step in steps:
        write_checkpoint(folder / "out" / f"checkpoint-{step}", step)
        if training:
            training.mark_checkpoint(folder / "out" / f"checkpoint-{step}", is_writer=True)
    return training


def write_checkpoint(checkpoint, step):
    checkpoint.mkdir(parents=True, exist_ok=True)
    (checkpoint / "trainer_state.json").write_text(json.dumps({"global_step": step, "random": os.urandom(8).hex()}))


def test_markers_are_written_where_the_next_run_looks_for_them(tmp_path):
    train(tmp_path, steps=[10], tokens=b"x").finish()
    for folder in (tmp_path / "out" / "checkpoint-10", tmp_path / "out"):
        marker = json.loads((folder / "_mig_selection.json").read_text())
        assert {key: marker[key] for key in ORIGIN} == ORIGIN
    assert json.loads((tmp_path / "tok.mig_selection.json").read_text())["fingerprint"] == FINGERPRINT
    run = host(tmp_path, tokenized_path=str(tmp_path / "tok"))
    check_origin_markers(run, FINGERPRINT)
    with pytest.raises(HandoverError, match="checkpoints"):
        check_origin_markers(run, OTHER)
    with pytest.raises(HandoverError, match="tokenized_path"):
        check_origin_markers(host(tmp_path, tokenized_path=str(tmp_path / "tok"), do_train=False), OTHER)


def test_no_marker_is_written_where_training_writes_nothing(tmp_path):
    train(tmp_path).finish()
    train(tmp_path, do_train=False).finish()
    train(tmp_path, output_dir=None).finish()
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_does_not_train_marks_no_model(tmp_path):
    (tmp_path / "out").mkdir()
    train(tmp_path, do_train=False, tokens=b"x").finish()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "tok", "tok.mig_selection.json"]
    assert list((tmp_path / "out").iterdir()) == []


def test_what_a_plain_run_fills_after_a_failed_one_is_refused(tmp_path):
    train(tmp_path)  # it fails before anything is written
    train(tmp_path, None, steps=[5], tokens=b"all rows")
    with pytest.raises(HandoverError, match="a run without this selection"):
        check_origin_markers(host(tmp_path), FINGERPRINT)
    with pytest.raises(HandoverError, match=r"tok exists and was not made from this selection"):
        check_origin_markers(host(tmp_path, tokenized_path=str(tmp_path / "tok"), do_train=False), FINGERPRINT)


def test_a_checkpoint_that_a_plain_run_writes_again_is_refused(tmp_path):
    train(tmp_path, steps=[5, 10])
    check_origin_markers(host(tmp_path), FINGERPRINT)
    train(tmp_path, None, steps=[10])
    with pytest.raises(HandoverError, match="a run without this selection"):
        check_origin_markers(host(tmp_path), FINGERPRINT)
    checkpoint = str(tmp_path / "out" / "checkpoint-5")
    check_origin_markers(host(tmp_path, resume_from_checkpoint=checkpoint), FINGERPRINT)


def test_a_later_checkpoint_of_a_plain_run_is_refused(tmp_path):
    train(tmp_path, steps=[5]).finish()
    train(tmp_path, None, steps=[6])
    with pytest.raises(HandoverError, match="a run without this selection"):
        check_origin_markers(host(tmp_path), FINGERPRINT)


def test_stale_checkpoints_are_told_in_a_copy_too(tmp_path):
    train(tmp_path, steps=[5])
    train(tmp_path, {"fingerprint": OTHER}, steps=[3], overwrite_output_dir=True).finish()
    shutil.copytree(tmp_path / "out", tmp_path / "copy" / "out", copy_function=shutil.copyfile)
    for folder in (tmp_path, tmp_path / "copy"):
        for checkpoint in (folder / "out").glob("checkpoint-*"):
            os.utime(checkpoint)  # a plain copy has other time stamps
        with pytest.raises(HandoverError, match="another selection"):
            check_origin_markers(host(folder), OTHER)
        check_origin_markers(host(folder), FINGERPRINT)
        shutil.rmtree(folder / "out" / "checkpoint-5")
        check_origin_markers(host(folder), OTHER)


def test_tokenized_data_are_told_from_others_at_the_same_path(tmp_path):
    def is_accepted():
        try:
            check_origin_markers(host(tmp_path, tokenized_path=str(tmp_path / "tok")), FINGERPRINT)
        except HandoverError:
            return False
        return True

    train(tmp_path, tokens=bytes(5 << 20))
    marker = (tmp_path / "tok.mig_selection.json").read_text()
    assert is_accepted()
    (tmp_path / "tok" / "train" / "cache-0123.arrow").write_bytes(b"made by datasets")
    os.utime(tmp_path / "tok" / "dataset_dict.json", (0, 0))
    assert is_accepted()
    for tokens in (bytes(4 << 20), bytes(3 << 20) + b"x" * (2 << 20), b"x"):
        shutil.rmtree(tmp_path / "tok")
        assert is_accepted()
        train(tmp_path, None, tokens=tokens)
        assert not is_accepted()
    shutil.rmtree(tmp_path / "tok")
    train(tmp_path, tokens=None)
    assert not (tmp_path / "tok.mig_selection.json").exists()
    train(tmp_path, tokens=bytes(5 << 20))
    assert (tmp_path / "tok.mig_selection.json").read_text() == marker
    assert is_accepted()


def test_tokenized_data_that_were_there_before_are_not_marked(tmp_path):
    path = tokenized(tmp_path, FINGERPRINT)
    before = (tmp_path / "tok.mig_selection.json").read_text()
    train(tmp_path, {"fingerprint": OTHER}).finish()
    assert (tmp_path / "tok.mig_selection.json").read_text() == before
    check_origin_markers(host(tmp_path, tokenized_path=path), FINGERPRINT)


def test_another_node_marks_its_part_of_a_checkpoint_only_where_nobody_else_does(tmp_path):
    training = train(tmp_path)
    checkpoint = tmp_path / "out" / "checkpoint-5"
    training.mark_checkpoint(checkpoint, is_writer=False)
    assert not checkpoint.exists()
    checkpoint.mkdir(parents=True)
    training.mark_checkpoint(checkpoint, is_writer=False)
    check_origin_markers(host(tmp_path), FINGERPRINT)
    with pytest.raises(HandoverError, match="another selection"):
        check_origin_markers(host(tmp_path), OTHER)
    (checkpoint / OUTPUT_MARKER).unlink()
    write_checkpoint(checkpoint, 5)
    training.mark_checkpoint(checkpoint, is_writer=False)
    assert not (checkpoint / OUTPUT_MARKER).exists()


# Markers of earlier versions


def test_stale_checkpoints_of_an_old_marker_are_refused(tmp_path):
    make_run(tmp_path, FINGERPRINT)
    stamp = (tmp_path / "out" / "checkpoint-10").stat().st_mtime_ns
    old = {"fingerprint": FINGERPRINT, "stale_checkpoints": {"checkpoint-10": stamp}}
    (tmp_path / "out" / OUTPUT_MARKER).write_text(json.dumps(old))
    for fingerprint in (FINGERPRINT, OTHER):
        with pytest.raises(HandoverError, match="another selection"):
            check_origin_markers(host(tmp_path), fingerprint)
    old["stale_checkpoints"]["checkpoint-10"] += 1
    for stale in (old["stale_checkpoints"], [], None):
        (tmp_path / "out" / OUTPUT_MARKER).write_text(json.dumps({**old, "stale_checkpoints": stale}))
        check_origin_markers(host(tmp_path), FINGERPRINT)


def test_an_old_marker_does_not_speak_of_checkpoints_after_the_next_run(tmp_path):
    make_run(tmp_path, FINGERPRINT, ("checkpoint-5", "checkpoint-7", "checkpoint-10"))
    stamp = (tmp_path / "out" / "checkpoint-7").stat().st_mtime_ns
    old = {**ORIGIN, "stale_checkpoints": {"checkpoint-7": stamp}}
    (tmp_path / "out" / OUTPUT_MARKER).write_text(json.dumps(old))
    train(tmp_path, steps=[15])
    assert not (tmp_path / "out" / OUTPUT_MARKER).exists()
    accepted = []
    for step in (5, 7, 10, 15):
        run = host(tmp_path, resume_from_checkpoint=str(tmp_path / "out" / f"checkpoint-{step}"))
        with contextlib.suppress(HandoverError):
            check_origin_markers(run, FINGERPRINT)
            accepted.append(step)
    assert accepted == [5, 10, 15]
    train(tmp_path, None, steps=[20])
    with pytest.raises(HandoverError, match="a run without this selection"):
        check_origin_markers(host(tmp_path), FINGERPRINT)


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
