"""What a model that fails leaves behind: nothing that a second run in the same process would stumble over."""

import json
from pathlib import Path

import pytest
from support import make_rows, run_command

from mig_selector.errors import EmbeddingError
from mig_selector.pipeline.recipe import run_selection


PROGRAM = Path(__file__).parent / "programs" / "select_after_failure.py"


@pytest.fixture
def broken(tmp_path):
    """An encoder whose folder holds no weights."""
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    return str(tmp_path / "broken")


def settings_of(workplace):
    workplace.add("pool", make_rows(60))
    return {key: value for key, value in workplace.settings().items() if key != "mig_label_embeddings"}


def test_a_second_run_succeeds_while_the_error_of_the_first_is_handled(workplace, minilm, broken):
    settings = settings_of(workplace)
    try:
        run_selection({**settings, "mig_embedding_model": broken})
    except EmbeddingError as error:
        told = str(error)
        outcome = run_selection({**settings, "mig_embedding_model": minilm})[0]
        same_key = run_selection({**settings, "mig_embedding_model": minilm, "mig_overwrite": True})[0]
    assert "cannot be loaded" in told
    assert outcome.folder == same_key.folder


def test_the_lock_of_the_labels_is_free_after_a_failure(workplace, minilm, monkeypatch):
    """The same encoder again: the run that failed held the lock that this one needs."""
    settings = {**settings_of(workplace), "mig_embedding_model": minilm}

    def fail(*arguments, **options):
        raise EmbeddingError("mig_embedding_model: the model failed")

    with monkeypatch.context() as patch:
        patch.setattr("mig_selector.pipeline.crew.embed_labels", fail)
        with pytest.raises(EmbeddingError, match="the model failed") as caught:
            run_selection(settings)
    assert caught.value.__traceback__ is not None  # what the stack refers to is still alive
    assert run_selection(settings)[0].budget == 10


@pytest.mark.distributed
@pytest.mark.slow
def test_so_does_one_of_two_ranks(workplace, minilm, broken):
    done = run_command(
        *("python", "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", PROGRAM),
        *(json.dumps(settings_of(workplace)), broken, minilm),
    )
    assert done.returncode == 0, done.stderr
    said = sorted(
        (json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"rank"')),
        key=lambda each: each["rank"],
    )
    assert [each["rank"] for each in said] == [0, 1]
    assert "cannot be loaded" in said[0]["error"]
    assert said[0]["error"] == said[1]["error"]
    assert said[0]["folder"] == said[1]["folder"]
