"""The folder of a study: what it is shared by, and what may be added to it."""

import json
import shlex
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from training import host_settings

from mig_selector.cli import _parse
from mig_selector.cli.options import read_settings
from mig_selector.integration.tokenization import TokenizedRow
from mig_selector.study.arms import Budget
from mig_selector.study.heldout import HeldOut, Split
from mig_selector.study.plan import Run, make_plan
from mig_selector.study.record import folder_name, keep_steps, record_plan, recorded_steps, study_folder
from mig_selector.study.runs import read_result
from mig_selector.study.setup import Options, set_up


pytestmark = pytest.mark.llamafactory


@pytest.fixture
def plan_of(pool_of_60, tiny_llama, tmp_path):
    """Return a function that plans a study of subsets that were never selected."""
    training = {"max_steps": -1, "num_train_epochs": 3, "per_device_train_batch_size": 2}
    keys = {**host_settings(tiny_llama, tmp_path / "out"), **pool_of_60.settings(), **training}
    (tmp_path / "dataset_info.json").write_text("{}")

    def subset(name, rows):
        outcome = SimpleNamespace(fingerprint=name, folder=name, settings={"dataset_dir": tmp_path}, entries={})
        return SimpleNamespace(outcome=outcome, rows=rows, fed=9 * rows, supervised=300, sources={"a": rows})

    def plan(methods=("mig",), seeds=1, rows=None, changes=None, made="1"):
        setup = set_up({**keys, **(changes or {})}, Options(methods=list(methods), seeds=seeds, holdout=0.2))
        answers = [TokenizedRow([1, 2, 3], [-100, 2, 3])] * 12
        sources = np.full(12, "a", np.object_)
        heldout = HeldOut("", np.arange(12), answers, sources, [frozenset()] * 12, np.zeros(12), "h")
        split = Split(heldout, np.arange(48), np.full(48, "a", np.object_), 0, 0, "c")
        draws = {"random": max(seeds, 5), "stratified": seeds}
        counts = {"random": 30, "stratified": 30, "mig": 20, "longest": 7, **(rows or {})}
        subsets = {
            arm: [subset(f"{arm}{draw}-{made}", counts[arm]) for draw in range(draws.get(arm, 1))]
            for arm in setup.planned
            if arm != "base"
        }
        return make_plan(setup, split, Budget(300, counts_tokens=True), subsets)

    return plan


def test_methods_and_seeds_are_added_to_a_study_and_its_steps_stay(plan_of, tmp_path):
    plan = plan_of()
    folder = study_folder(plan, tmp_path)
    first = record_plan(plan, folder)
    assert folder.name == folder_name(first["fingerprint"])
    assert record_plan(plan, folder) == first

    assert recorded_steps(folder) == plan.lessons["random"][0].steps
    assert recorded_steps(tmp_path / "nowhere") is None

    alone = plan_of(["longest", "mig"], seeds=2)
    assert study_folder(alone, tmp_path) == folder
    more = keep_steps(alone, folder)
    assert alone.lessons["random"][0].steps != more.lessons["longest"][0].steps == plan.lessons["random"][0].steps
    for run in plan.runs:
        assert more.run_fingerprint(run) == plan.run_fingerprint(run)
    assert alone.run_fingerprint(Run("mig", 0, None)) != plan.run_fingerprint(Run("mig", 0, None))

    record = record_plan(more, folder)
    assert {key: record[key] for key in ("fingerprint", "fixed_at", "settings", "versions")} == {
        key: first[key] for key in ("fingerprint", "fixed_at", "settings", "versions")
    }
    assert record["plan"]["runs"][: len(first["plan"]["runs"])] == first["plan"]["runs"]
    [added] = record["added"]
    assert added["runs"] == ["longest-seed0", "stratified-seed1", "longest-seed1", "mig-seed1"]
    assert [len(record["plan"]["arms"][arm]) for arm in ("random", "stratified", "mig", "longest")] == [5, 2, 1, 1]
    assert record["plan"]["error_rate_of_each_interval"] == pytest.approx(0.05 / 3)
    assert "--methods longest,mig --seeds 2" in record["command"]
    assert set(record_plan(keep_steps(plan, folder), folder)["plan"]["arms"]) == set(record["plan"]["arms"])


def test_what_decides_held_out_rows_or_training_makes_another_study(plan_of):
    study = plan_of().study_fingerprint
    assert plan_of(["longest"], seeds=7).study_fingerprint == study
    assert plan_of(changes={"output_dir": "elsewhere", "mig_output_dir": "other"}).study_fingerprint == study
    for key, value in (("learning_rate", 1e-3), ("mig_num_samples", 11), ("mig_edge_threshold", 0.7)):
        assert plan_of(changes={key: value}).study_fingerprint != study
    assert plan_of(changes={"num_train_epochs": 1}).study_fingerprint != study
    by_steps = [plan_of(changes={"num_train_epochs": epochs, "max_steps": 9}).study_fingerprint for epochs in (1, 3)]
    assert by_steps[0] == by_steps[1] != study
    plan = plan_of()
    assert replace(plan, split=replace(plan.split, digest="other")).study_fingerprint != study
    assert replace(plan, processes=2).study_fingerprint != study


def test_each_training_has_its_own_order_of_rows_and_evaluates_nothing(plan_of, tmp_path):
    evaluating = {"early_stopping_steps": 3, "eval_on_start": True, "save_strategy": "best"}
    plan = plan_of(seeds=2, changes={"data_seed": 7, "seed": 5, **evaluating})
    first, second = (plan.training_settings(Run("mig", seed, None), tmp_path) for seed in (0, 1))
    assert (first["seed"], second["seed"]) == (5, 6)
    assert {"data_seed", *evaluating}.isdisjoint(first)


def test_an_arm_of_the_same_name_with_other_rows_leaves_the_folder_alone(plan_of, tmp_path):
    plan, other = plan_of(), plan_of(made="2")
    folder = study_folder(plan, tmp_path)
    record_plan(plan, folder)
    assert other.study_fingerprint == plan.study_fingerprint
    own = study_folder(other, tmp_path)
    assert own.name == folder_name(other.fingerprint) != folder.name
    record_plan(other, own)
    assert study_folder(other, tmp_path) == own
    assert study_folder(plan, tmp_path) == folder


def test_a_study_of_an_earlier_version_is_found_and_its_runs_are_used(plan_of, tmp_path):
    plan, run = plan_of(), Run("mig", 0, None)
    folder = tmp_path / folder_name(plan.fingerprint)
    record = record_plan(plan, folder)
    earlier = {key: value for key, value in record.items() if key not in ("command", "options", "versions")}
    (folder / "study.json").write_text(json.dumps({**earlier, "fingerprint": plan.fingerprint}))
    assert study_folder(plan, tmp_path) == folder
    made = folder / "runs" / run.name
    made.mkdir(parents=True)
    np.save(made / "losses.npy", np.arange(12.0))
    (made / "manifest.json").write_text(json.dumps({"study": plan.fingerprint}))
    assert read_result(plan, folder / "runs", run).losses.tolist() == list(range(12))
    assert record_plan(plan, folder)["fingerprint"] == plan.fingerprint
    (made / "manifest.json").write_text(json.dumps({"fingerprint": plan.run_fingerprint(run)}))
    assert read_result(plan, folder / "runs", run) is not None
    assert read_result(plan_of(made="2"), folder / "runs", run) is None
    shutil.rmtree(folder)
    assert study_folder(plan, tmp_path).name == folder_name(plan.study_fingerprint)


def test_the_recorded_command_makes_the_same_study(plan_of, tmp_path):
    plan = plan_of(["longest", "mig"], seeds=2)
    record = record_plan(plan, tmp_path / "study")
    assert (record["settings"]["mig_num_samples"], record["options"]["--seeds"]) == ("10", 2)
    asked = _parse(shlex.split(record["command"])[1:])
    options = Options(methods=asked.methods, seeds=asked.seeds, match=asked.match, holdout=asked.holdout)
    setup = set_up(read_settings(asked.settings), options)
    again = make_plan(setup, plan.split, plan.budget, plan.subsets)
    assert again.fingerprint == plan.fingerprint
    assert again.study_fingerprint == plan.study_fingerprint
