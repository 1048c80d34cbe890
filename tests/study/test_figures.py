"""From the losses of finished runs to figures, verdicts and warnings."""

from types import SimpleNamespace

import numpy as np
import pytest

from mig_selector.integration.config import Schedule
from mig_selector.integration.tokenization import TokenizedRow
from mig_selector.study.arms import Budget
from mig_selector.study.figures import gather
from mig_selector.study.heldout import OTHER_SOURCES, HeldOut
from mig_selector.study.plan import Plan, Run
from mig_selector.study.runs import Result
from mig_selector.study.schedule import Batch, Lesson


PLANNED = {"base": 0, "random": 5, "stratified": 2, "mig": 2, "longest": 2}
SOURCES = np.repeat(np.array(["a", "b", "c"], np.object_), [15, 15, 30])


def plan_of(rates=(), holdout=0.1, sources=SOURCES, batch=2):
    """A plan whose subsets were never selected."""
    heldout = HeldOut(
        "0.1 of the pool",
        np.arange(60),
        [TokenizedRow([1] * (number + 3), [-100] + [1] * (number + 2)) for number in range(60)],
        sources,
        [frozenset({"algebra"} if number < 20 else {"history"}) for number in range(60)],
        np.array([0.9] + [0.0] * 59),
        "digest",
    )
    everywhere = SimpleNamespace(rows=30, fed=900, supervised=300, sources={"a": 10, "b": 10, "c": 10}, outcome=None)
    nowhere_b = SimpleNamespace(rows=9, fed=700, supervised=299, sources={"a": 4, "c": 5}, outcome=None)
    subsets = {"random": [everywhere] * 5, "stratified": [everywhere] * 2, "mig": [everywhere], "longest": [nowhere_b]}
    lessons = {arm: [Lesson(12, Batch(2, 2), 1.0)] * len(made) for arm, made in subsets.items()}
    lessons["longest"] = [Lesson(12, Batch(1, 1), 1.2)]
    options = SimpleNamespace(learning_rates=rates, match="tokens")
    setup = SimpleNamespace(planned=PLANNED, options=options, holdout=holdout, schedule=Schedule(batch, 1, 1.0, -1))
    split = SimpleNamespace(heldout=heldout)
    return Plan(setup, split, Budget(300, counts_tokens=True), subsets, lessons, 1, "model")


def results_of(plan, effects=None):
    """Losses of all runs: those of random, shifted by the effect of the arm."""
    answers = np.random.default_rng(0).normal(2, 0.5, 60)
    found = {}
    for number, run in enumerate(plan.runs):
        rng = np.random.default_rng(number)
        shift = (effects or {}).get(run.arm, 0.0) + rng.normal(0, 0.003)
        manifest = {"passes": 1.0, "planned_passes": 1.0, "training_seconds": 2.0}
        found[run] = Result(answers + shift + rng.normal(0, 0.02, 60), manifest)
    return found


def study_of(plan, results):
    return gather(plan, results, {"plan": {"pool": "pool", "arms": plan.subsets}, "settings": {}})


def test_a_planted_effect_is_found_and_equal_arms_are_called_equal():
    plan = plan_of()
    study = study_of(plan, results_of(plan, {"mig": -0.05, "base": 0.5}))
    verdicts = {each.arm: each.verdict for each in study.arms}
    assert verdicts == {
        **{"base": None, "random": None, "mig": "better"},
        **{"stratified": "no difference seen", "longest": "no difference seen"},
    }
    assert study.confidence == pytest.approx(1 - 0.05 / 3)
    arms = {each.arm: each for each in study.arms}
    assert arms["mig"].training_seconds == 4.0
    assert arms["longest"].supervised_tokens_seen == pytest.approx(299 * 1.2)


def test_parts_of_the_answers_are_those_of_their_sources_labels_and_lengths():
    plan = plan_of()
    groups = {(group.kind, group.name): group for group in study_of(plan, results_of(plan)).groups}
    counts = {key: group.answers for key, group in groups.items()}
    assert counts["all", "every answer alike"] == 60
    assert [counts["source", name] for name in "abc"] == [15, 15, 30]
    assert (counts["label", "algebra"], counts["label", "history"]) == (20, 40)
    assert sum(count for (kind, _), count in counts.items() if kind == "length") == 60
    assert counts["overlap", "without flagged answers"] == 59
    losses = np.mean([result.losses[:15].mean() for run, result in results_of(plan).items() if run.arm == "mig"])
    assert groups["source", "a"].losses["mig"] == pytest.approx(losses)
    # The primary measure without the first answer, which is flagged.
    parts = [slice(1, 15), slice(15, 30), slice(30, 60)]
    of_mig = [result.losses for run, result in results_of(plan).items() if run.arm == "mig"]
    expected = np.mean([np.mean([each[part].mean() for part in parts]) for each in of_mig])
    assert groups["overlap", "without flagged answers"].losses["mig"] == pytest.approx(expected)


def test_learning_rates_are_averaged_and_shown_one_by_one():
    plan = plan_of(rates=(1e-5, 2e-5))
    results = results_of(plan)
    study = study_of(plan, results)
    first = next(each for each in study.arms if each.arm == "mig")
    of_seed_0 = [result.losses for run, result in results.items() if (run.arm, run.seed) == ("mig", 0)]
    macro = np.mean([np.mean(of_seed_0, axis=0)[SOURCES.tolist().index(name) :][:15].mean() for name in "ab"])
    assert len(of_seed_0) == 2
    assert first.losses[0] == pytest.approx((2 * macro + np.mean(of_seed_0, axis=0)[30:].mean()) / 3)
    assert [group.name for group in study.groups if group.kind == "learning rate"] == ["1e-05", "2e-05"]


def test_readers_are_warned():
    plan = plan_of()
    results = results_of(plan)
    results.pop(Run("mig", 1, None))
    results[Run("random", 3, None)].manifest["passes"] = 0.5
    study = study_of(plan, results)
    assert next(each for each in study.arms if each.arm == "mig").verdict is None
    for message in (
        "1 of 12 runs is missing",
        "favours random by construction",
        "longest has no row of b",
        "share at least half of their runs of 13 words with rows to choose from: 1 of 60",
        "random-seed3 went through its rows 0.50 times by the trainer's count, not 1.00 times",
        "longest goes through its rows 1.20 times, random 1.00 times: batches of whole rows cannot come closer",
    ):
        assert any(message in warning for warning in study.warnings), message
    outside = plan_of(holdout=None)
    assert not any("by construction" in warning for warning in study_of(outside, results_of(outside)).warnings)


def test_a_training_that_diverged_is_named_and_gets_no_verdict():
    plan = plan_of()
    results = results_of(plan)
    results[Run("mig", 1, None)].losses[7] = np.nan
    study = study_of(plan, results)
    arms = {each.arm: each for each in study.arms}
    assert arms["mig"].effect is arms["mig"].verdict is None
    assert arms["longest"].verdict == "no difference seen"
    assert any("mig-seed1: the loss of some answers is not finite" in each for each in study.warnings)


def test_an_arm_that_leaves_much_of_its_budget_is_named():
    plan = plan_of()
    assert not any("is trained on less" in each for each in study_of(plan, {}).warnings)
    plan.subsets["mig"] = [SimpleNamespace(**{**vars(plan.subsets["mig"][0]), "supervised": 280})]
    assert (
        "mig has 280 supervised tokens, random 300: the method chose no more rows that fit, so it is trained on less."
    ) in study_of(plan, {}).warnings


def test_sources_with_too_few_answers_are_said_to_be_one_group():
    plan = plan_of(sources=np.full(60, OTHER_SOURCES, np.object_))
    study = study_of(plan, results_of(plan))
    assert study.primary.startswith(
        "loss per token of each held-out answer (nats), averaged over answers and learning"
    )
    assert (
        "too few sources have 10 held-out answers, so all 60 are one group: the measure is their plain average, and "
        "there are no figures by source. Raise --holdout (now 0.1)."
    ) in study.warnings
    assert not any(group.kind == "source" for group in study.groups)
    assert not any("See the figures by source" in warning for warning in study.warnings)
    assert "over the answers of each source, then over sources" in study_of(plan_of(), {}).primary


def test_what_was_added_later_and_a_batch_that_is_too_small_are_named():
    plan = plan_of(batch=4)
    # 58 rows in 3 steps: 5 rows per step would come closer, but are no equal batches of at most 4.
    subset = SimpleNamespace(**{**vars(plan.subsets["longest"][0]), "rows": 58})
    plan.subsets["longest"] = [subset]
    plan.lessons["longest"] = [Lesson(3, Batch(4, 1), 12 / 58)]
    plan.lessons["random"] = [Lesson(3, Batch(4, 1), 0.25)] * 5
    added = [{"at": "2026-11-26T13:00:00+00:00", "runs": ["longest-seed0", "longest-seed1"]}]
    record = {"plan": {"pool": "pool", "arms": plan.subsets}, "settings": {}, "added": added}
    warnings = gather(plan, results_of(plan), record).warnings
    assert (
        "longest goes through its rows 0.21 times, random 0.25 times: a step is gradient_accumulation_steps equal "
        "batches, of at most per_device_train_batch_size: 4 rows; a larger one would come closer."
    ) in warnings
    assert "added on 2026-11-26, after the study had been planned: longest-seed0, longest-seed1." in warnings
    assert any(each.startswith("verdicts of earlier arms may have changed") for each in warnings)
