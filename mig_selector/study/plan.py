"""What is fixed before the first training: arms, runs, batches, and what is measured and how it is judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mig_selector.arguments import all_keys
from mig_selector.embedding.encoder import identify_encoder
from mig_selector.integration.config import typed_as_in_yaml
from mig_selector.integration.training import num_processes, training_settings
from mig_selector.pipeline.recipe import LOCAL_TO_A_NODE
from mig_selector.store.hashing import ContentHashes, fingerprint_of
from mig_selector.study.arms import Budget, Subset
from mig_selector.study.heldout import Split
from mig_selector.study.schedule import Lesson, equal_rows, equal_tokens
from mig_selector.study.setup import BASE, BUDGET_KEYS, RANDOM, Setup
from mig_selector.study.statistics import ERROR_RATE, POWER


_VERSION = 1
"""Raised when the same settings would give other figures."""
_NOT_DECIDING = (
    *(
        "output_dir",
        "dataset",
        "dataset_dir",
        "media_dir",
        "cache_dir",
        "model_name_or_path",
        "logging_dir",
        "run_name",
    ),
    *("logging_steps", "save_steps", "save_strategy", "save_total_limit", "save_only_model", "plot_loss", "report_to"),
    *("preprocessing_num_workers", "dataloader_num_workers", "overwrite_cache", "hf_hub_token", "ms_hub_token"),
)
"""Keys of the host that are about paths, logs and speed."""


@dataclass(frozen=True)
class Run:
    """One training, or the model before any."""

    arm: str
    seed: int | None
    """0-based; None for the model before training."""
    learning_rate: float | None
    """None if it is the configuration's, or nothing is trained."""

    @property
    def name(self) -> str:
        """Name of its folder."""
        rate = "" if self.learning_rate is None else f"-lr{self.learning_rate:g}"
        return self.arm if self.seed is None else f"{self.arm}{rate}-seed{self.seed}"


def planned_runs(setup: Setup) -> list[Run]:
    """Return all runs, seed by seed: a study that is cut off has trained its arms equally often."""
    rates, planned = setup.options.learning_rates or (None,), setup.planned
    return [
        Run(BASE, None, None),
        *(
            Run(arm, seed, rate)
            for seed in range(max(planned.values()))
            for rate in rates
            for arm, count in planned.items()
            if seed < count
        ),
    ]


@dataclass(frozen=True)
class Plan:
    """A study, ready to be trained."""

    setup: Setup
    split: Split
    budget: Budget
    subsets: Mapping[str, Sequence[Subset]]
    """By arm: one, or one for each draw."""
    lessons: Mapping[str, Sequence[Lesson]]
    """How each subset is trained on."""
    processes: int
    model: str
    """Fingerprint of the model that training starts from."""

    @property
    def runs(self) -> list[Run]:
        """All runs; see `planned_runs`."""
        return planned_runs(self.setup)

    @property
    def primary(self) -> str:
        """What is measured."""
        over = "answers" if self.split.heldout.is_one_group else "the answers of each source, then over sources"
        return (
            f"loss per token of each held-out answer (nats), averaged over {over} and learning rates; lower is better"
        )

    def subset(self, run: Run) -> tuple[Subset, Lesson]:
        """Return what a training trains on, and how."""
        subsets = self.subsets[run.arm]
        index = (run.seed or 0) % len(subsets)
        return subsets[index], self.lessons[run.arm][index]

    def training_settings(self, run: Run, output_dir: Path) -> dict[str, Any]:
        """Return the host's keys for a training."""
        subset, lesson = self.subset(run)
        rate = {} if run.learning_rate is None else {"learning_rate": run.learning_rate}
        return training_settings(
            self.setup.host_settings,
            {
                **subset.outcome.settings,
                **rate,
                "output_dir": str(output_dir),
                "seed": self.setup.host.seed + (run.seed or 0),
                "max_steps": lesson.steps,
                "per_device_train_batch_size": lesson.batch.rows_per_batch,
                "gradient_accumulation_steps": lesson.batch.batches_per_step,
            },
        )

    @property
    def identity(self) -> dict[str, Any]:
        """All that decides the figures; no path is in it, so that machines can share a study."""
        return {
            "version": _VERSION,
            "training": _deciding_training(self.setup),
            "model": self.model,
            "held out": self.split.heldout.digest,
            "arms": {arm: [each.outcome.fingerprint for each in made] for arm, made in self.subsets.items()},
            "lessons": {arm: [asdict(each) for each in made] for arm, made in self.lessons.items()},
            "processes": self.processes,
            "runs": [run.name for run in self.runs],
        }

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the plan, its methods and seeds included."""
        return fingerprint_of(self.identity)

    @property
    def study_fingerprint(self) -> str:
        """The fingerprint of the study, which can be given more methods and seeds."""
        return fingerprint_of(study_identity(self.setup, self.split, self.processes, self.model))

    def run_fingerprint(self, run: Run) -> str:
        """Return the fingerprint of a run: all that decides its losses."""
        trained_on = None
        if run.seed is not None:
            subset, lesson = self.subset(run)
            trained_on = {"selection": subset.outcome.fingerprint, "lesson": asdict(lesson)}
        rate_and_seed = {"learning_rate": run.learning_rate, "seed": run.seed}
        return fingerprint_of({"study": self.study_fingerprint, **rate_and_seed, "trained_on": trained_on})

    @property
    def described(self) -> dict[str, Any]:
        """The plan for study.json."""
        heldout, split, judged = self.split.heldout, self.split, len(self.subsets) - 1
        return {
            "pool": "+".join(self.setup.host.dataset),
            "primary": self.primary,
            "comparison": f"each method against {RANDOM}, by a paired hierarchical bootstrap of answers and runs",
            "error_rate": ERROR_RATE,
            "error_rate_of_each_interval": ERROR_RATE / judged,
            "power": POWER,
            "held_out": {
                "from": heldout.described,
                "answers": len(heldout.rows),
                "tokens": int(heldout.tokens.sum()),
                "sources": {name: int((heldout.sources == name).sum()) for name in sorted(set(heldout.sources))},
                "rows": heldout.indices.tolist(),
                "flagged": int(heldout.is_flagged.sum()),
                "overlaps": [round(float(share), 4) for share in heldout.shares],
                "left_out": split.left_out,
            },
            "candidates": {"rows": len(split.candidates), "left_out_for_their_question": split.same_question},
            "match": self.setup.options.match,
            "budget": self.budget.described,
            "arms": {
                arm: [
                    {
                        "folder": subset.outcome.folder,
                        "selection": subset.outcome.fingerprint,
                        "rows": subset.rows,
                        "tokens": subset.fed,
                        "supervised_tokens": subset.supervised,
                        "sources": dict(subset.sources),
                        **asdict(lesson),
                    }
                    for subset, lesson in zip(self.subsets[arm], self.lessons[arm], strict=True)
                ]
                for arm in self.subsets
            },
            "runs": [run.name for run in self.runs],
        }


def study_identity(setup: Setup, split: Split, processes: int, model: str) -> dict[str, Any]:
    """Return what decides held-out answers, candidates, budget and training.

    Methods, seeds and learning rates are not in it: a study can be given more of them. Nor is a path, so that machines
    can share a study.
    """
    keys, values = all_keys(), setup.arguments(mig_num_samples=1).values
    return {
        "version": _VERSION,
        "training": _deciding_training(setup),
        "model": model,
        "held_out": split.heldout.digest,
        "candidates": split.digest,
        "selecting": {
            key: value
            for key, value in sorted(values.items())
            if key in keys and keys[key].setting.decides and key not in LOCAL_TO_A_NODE
        },
        "budget": {key: setup.budget[key] for key in BUDGET_KEYS},
        "epochs": setup.schedule.epochs if setup.schedule.max_steps <= 0 else None,
        "match": setup.options.match,
        "processes": processes,
    }


def _deciding_training(setup: Setup) -> dict[str, Any]:
    training = training_settings(setup.host_settings, {})
    return {key: typed_as_in_yaml(value) for key, value in sorted(training.items()) if key not in _NOT_DECIDING}


def identify_model(setup: Setup) -> str:
    """Return the fingerprint of the model that training starts from."""
    hashes = ContentHashes(setup.arguments(mig_num_samples=1).cache_dir)
    model = identify_encoder(str(setup.host.model_name_or_path), "auto", hashes, "model_name_or_path")
    return fingerprint_of(model.identity)


def make_plan(setup: Setup, split: Split, budget: Budget, subsets: Mapping[str, Sequence[Subset]]) -> Plan:
    """Fix how each subset is trained on."""
    plan = Plan(setup, split, budget, subsets, {}, num_processes(), identify_model(setup))
    return replace(plan, lessons=_lessons(plan, None))


def with_steps(plan: Plan, steps: int) -> Plan:
    """Return a plan whose trainings take a number of steps."""
    return replace(plan, lessons=_lessons(plan, steps))


def _lessons(plan: Plan, steps: int | None) -> dict[str, list[Lesson]]:
    """Return how each subset is trained on, in a number of steps that is given or found."""
    rows = [each.rows for made in plan.subsets.values() for each in made]  # random comes first
    equal = equal_tokens if plan.budget.counts_tokens else equal_rows
    lessons = iter(equal(rows, plan.setup.schedule, plan.processes, steps))
    return {arm: [next(lessons) for _ in made] for arm, made in plan.subsets.items()}
