"""What a training that was cut off may go on from."""

import subprocess
import sys

import pytest

from mig_selector.study.runs import claimed, keep_resumable


def write(folder, *names):
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_text("{}")


@pytest.mark.parametrize(
    ("names", "stays"),
    [
        (("trainer_state.json", "optimizer.pt", "model.safetensors"), True),
        (("trainer_state.json", "global_step5"), True),
        (("trainer_state.json", "model.safetensors"), False),
        (("optimizer.pt", "model.safetensors"), False),
    ],
)
def test_only_whole_checkpoints_with_an_optimizer_are_gone_on_from(tmp_path, names, stays):
    write(tmp_path / "training" / "checkpoint-5", *names)
    (tmp_path / "training" / "model.safetensors").write_text("half of it")
    keep_resumable(tmp_path / "training")
    assert (tmp_path / "training" / "checkpoint-5").exists() == (tmp_path / "training").exists() == stays


def test_the_last_whole_checkpoint_stays(tmp_path):
    write(tmp_path / "checkpoint-5", "trainer_state.json", "optimizer.pt")
    write(tmp_path / "checkpoint-10", "optimizer.pt")
    keep_resumable(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-5"]


def test_nothing_is_no_error(tmp_path):
    keep_resumable(tmp_path / "training")
    assert list(tmp_path.iterdir()) == []


def test_a_training_holds_the_lock_of_its_run_also_when_the_study_is_gone(tmp_path):
    path = tmp_path / ".mig-seed0.lock"
    with claimed(path) as lock:
        training = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(lock,))
        with claimed(path) as other:
            assert other is None
    with claimed(path) as again:
        assert again is None
    training.communicate(b"\n")
    with claimed(path) as again:
        assert again is not None
