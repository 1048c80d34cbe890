"""The callbacks in a real trainer of transformers, as the host calls them."""

import json
import logging
import shutil
import struct
from types import SimpleNamespace

import pytest

from mig_selector.errors import HandoverError
from mig_selector.integration.config import HostArguments
from mig_selector.integration.handover import OUTPUT_MARKER, TrainingOrigin, check_origin_markers


pytestmark = [pytest.mark.llamafactory, pytest.mark.slow]

FINGERPRINT, OTHER = "ab" * 32, "cd" * 32


@pytest.fixture
def fit(tmp_path):
    """A function that trains a model of one weight, with the callback if there is a fingerprint."""
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, Trainer, TrainingArguments

    from mig_selector.integration.callback import OriginMarkers

    class Line(PreTrainedModel):
        config_class = PretrainedConfig

        def __init__(self, config):
            super().__init__(config)
            self.weight = torch.nn.Parameter(torch.ones(1))
            self.post_init()

        def forward(self, x, labels):
            return {"loss": ((self.weight * x - labels) ** 2).mean()}

    def train(fingerprint, steps, resume=None, callbacks=(), **more):
        more = {"report_to": "none", "save_steps": 1, **more}
        arguments = TrainingArguments(
            str(tmp_path / "out"), max_steps=steps, save_only_model=True, use_cpu=True, **more
        )
        rows = [{"x": torch.ones(1), "labels": torch.zeros(1)}] * 16
        callbacks = list(callbacks)
        if fingerprint:
            origin = {"fingerprint": fingerprint}
            callbacks = [OriginMarkers(TrainingOrigin.prepare(host(tmp_path), origin, is_local_main=True))]
        trainer = Trainer(Line(PretrainedConfig()), arguments, train_dataset=rows, callbacks=callbacks)
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    return train


def host(folder):
    return HostArguments.read({"dataset": "pool", "do_train": True, "output_dir": str(folder / "out")})


def is_refused(folder, fingerprint, reason):
    try:
        check_origin_markers(host(folder), fingerprint)
    except HandoverError as error:
        return f"came from {reason}" in str(error)
    return False


def test_each_checkpoint_is_marked_when_it_is_saved_and_told_from_those_of_plain_runs(fit, tmp_path):
    out = tmp_path / "out"
    fit(FINGERPRINT, 2)
    check_origin_markers(host(tmp_path), FINGERPRINT)
    assert is_refused(tmp_path, OTHER, "another selection")
    assert not (out / OUTPUT_MARKER).exists()
    states = [json.loads((out / f"checkpoint-{step}" / "trainer_state.json").read_text()) for step in (1, 2)]
    assert [state["stateful_callbacks"]["mig_selector"]["attributes"]["step"] for state in states] == [1, 2]

    # A plain run does the very same steps again, in the same folders: neither weights nor losses tell the two apart.
    shutil.copytree(out, tmp_path / "before")
    fit(None, 2)
    assert is_refused(tmp_path, FINGERPRINT, "a run without this selection")

    # A plain run that resumes from one of ours keeps what our callback put into the host's state.
    for step in (1, 2):
        shutil.rmtree(out / f"checkpoint-{step}")
        shutil.copytree(tmp_path / "before" / f"checkpoint-{step}", out / f"checkpoint-{step}")
    check_origin_markers(host(tmp_path), FINGERPRINT)
    fit(None, 2, resume=str(out / "checkpoint-1"))
    assert is_refused(tmp_path, FINGERPRINT, "a run without this selection")


def test_a_run_that_resumes_marks_what_it_adds(fit, tmp_path):
    fit(FINGERPRINT, 1)
    (tmp_path / "out" / OUTPUT_MARKER).write_text(json.dumps({"fingerprint": FINGERPRINT}))  # of an earlier version
    fit(FINGERPRINT, 3, resume=str(tmp_path / "out" / "checkpoint-1"))
    assert not (tmp_path / "out" / OUTPUT_MARKER).exists()
    check_origin_markers(host(tmp_path), FINGERPRINT)
    for step in (1, 2, 3):
        assert (tmp_path / "out" / f"checkpoint-{step}" / OUTPUT_MARKER).exists()


def test_a_marker_that_cannot_be_written_does_not_end_the_training(fit, tmp_path):
    (tmp_path / "out" / "checkpoint-1" / OUTPUT_MARKER).mkdir(parents=True)
    fit(FINGERPRINT, 1)
    assert is_refused(tmp_path, FINGERPRINT, "a run without this selection")


FIGURES = {"rows": 10, "information": 3.5}


def scalars(folder):
    """The tag and value of every scalar in the event files of a folder."""
    from tensorboardX.proto.event_pb2 import Event

    found = {}
    for file in folder.rglob("events.out.tfevents.*"):
        data, start = file.read_bytes(), 0
        while start < len(data):  # a record is its length, a checksum, the event, a checksum
            (length,) = struct.unpack("<Q", data[start : start + 8])
            event = Event.FromString(data[start + 12 : start + 12 + length])
            found |= {value.tag: value.simple_value for value in event.summary.value if value.tag.count("/") == 1}
            start += length + 16
    return found


def test_the_key_figures_are_reported_into_the_run_of_tensorboard_and_not_into_the_log(fit, tmp_path):
    from mig_selector.integration.callback import KeyFigures

    trainer = fit(None, 2, callbacks=[KeyFigures(FIGURES)], report_to=["tensorboard"], logging_steps=1)
    found = scalars(tmp_path / "out")
    assert (found["selection/rows"], found["selection/information"]) == (10, 3.5)
    assert "train/loss" in found
    assert len({file.parent for file in (tmp_path / "out").rglob("events.out.tfevents.*")}) == 1
    assert not any("selection" in key for entry in trainer.state.log_history for key in entry)


def test_a_tracker_that_fails_is_logged_and_training_goes_on(tmp_path):
    from mig_selector.integration.callback import KeyFigures

    def begin(is_main, *trackers):
        arguments = SimpleNamespace(report_to=list(trackers), output_dir=str(tmp_path), logging_dir=None)
        KeyFigures(FIGURES).on_train_begin(arguments, SimpleNamespace(is_world_process_zero=is_main), None)

    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    host_logger = logging.getLogger("llamafactory.mig_selector")
    host_logger.addHandler(handler)
    try:
        begin(True, "tensorboard", "no such tracker")  # there is no run to report to
        begin(False, "tensorboard")
    finally:
        host_logger.removeHandler(handler)
    assert len(lines) == 1
    assert "not reported to tensorboard (ValueError" in lines[0]


@pytest.mark.parametrize(("batch", "accumulated", "epochs"), [(3, 2, 1.5), (4, 3, 1), (8, 4, 2), (5, 1, 0.3)])
def test_steps_are_foretold_as_the_trainer_counts_them(fit, batch, accumulated, epochs):
    keys = {
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": accumulated,
        "num_train_epochs": epochs,
    }
    trainer = fit(None, -1, save_strategy="no", **keys)
    schedule = HostArguments.read({"dataset": "pool", "do_train": True, **keys}).schedule
    assert schedule.steps(len(trainer.train_dataset), processes=1) == trainer.state.global_step
