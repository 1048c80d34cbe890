"""The callbacks in a real trainer of transformers, as the host calls them."""

import json
import shutil

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

    def train(fingerprint, steps, resume=None):
        arguments = TrainingArguments(
            str(tmp_path / "out"), max_steps=steps, save_steps=1, report_to="none", save_only_model=True, use_cpu=True
        )
        rows = [{"x": torch.ones(1), "labels": torch.zeros(1)}] * 16
        callbacks = []
        if fingerprint:
            origin = {"fingerprint": fingerprint}
            callbacks = [OriginMarkers(TrainingOrigin.prepare(host(tmp_path), origin, is_local_main=True))]
        trainer = Trainer(Line(PretrainedConfig()), arguments, train_dataset=rows, callbacks=callbacks)
        trainer.train(resume_from_checkpoint=resume)

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
