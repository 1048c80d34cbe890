"""A study from its configuration to its page, top to bottom."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mig_selector.console import plural
from mig_selector.errors import ArgumentError
from mig_selector.pipeline.crew import Crew, in_plain_words
from mig_selector.pipeline.site import find_site
from mig_selector.ranks.world import Ranks
from mig_selector.report.study import format_study
from mig_selector.report.writing import write_study
from mig_selector.store.files import in_use
from mig_selector.store.inventory import STUDY
from mig_selector.store.subsets import check_own_folder
from mig_selector.study.arms import count_candidate_tokens, find_budget, select_arms
from mig_selector.study.figures import describe_missing, gather
from mig_selector.study.heldout import describe_one_group, describe_split, hold_out
from mig_selector.study.plan import Plan, make_plan
from mig_selector.study.record import has_studies, keep_steps, record_plan, study_folder
from mig_selector.study.runs import do_run, read_result
from mig_selector.study.setup import RANDOM, Options, Setup, set_up


logger = logging.getLogger(__name__)

_NOT_STARTED = "--report: nothing has been trained; start the study without --report."


@dataclass(frozen=True)
class Studied:
    """A study on disk."""

    folder: str
    """Where its files are; absolute."""
    table: str
    """The figures, for a terminal; which runs are missing if it is not finished."""


def run_study(
    settings: Mapping[str, Any], options: Options, *, only: Sequence[str] = (), trains: bool = True
) -> Studied:
    """Train every arm on an equal budget, measure held-out answers, and say which method differs from random.

    What is finished is used again: the same call goes on where an earlier one was cut off.

    Args:
        settings: LLaMA-Factory's keys and the ``mig_*`` keys, as in a YAML with which the user trains.
        options: What to study.
        only: Arms to train here; all if empty. The others may be trained elsewhere.
        trains: Whether to do runs that are missing; else the page is written of those that are there.

    Raises:
        MigSelectorError: Something that the user can fix.
    """
    setup = set_up(settings, options, only)
    return in_plain_words(lambda: _run(setup, only, trains=trains))


def _run(setup: Setup, only: Sequence[str], *, trains: bool) -> Studied:
    site = find_site(setup.arguments(mig_num_samples=1), setup.host, setup.host.dataset)
    if not trains and not has_studies(site.output_dir):  # known before anything is selected
        raise ArgumentError(_NOT_STARTED)
    with ExitStack() as stack:
        # What is selected here is named by no dataset_info.json before the plan is recorded.
        with in_use(setup.budget.cache_dir / "locks" / "study"):
            plan = _plan(setup)
            folder = study_folder(plan, Path(plan.subsets[RANDOM][0].outcome.folder).parent)
            check_own_folder(folder)
            if not trains and not (folder / STUDY).is_file():
                raise ArgumentError(_NOT_STARTED)
            stack.enter_context(in_use(folder))
            plan = _continued(plan, folder)
            record_plan(plan, folder)
        return _train_and_report(plan, folder, only, trains=trains)


def _continued(plan: Plan, folder: Path) -> Plan:
    """Return the plan in as many steps as the trainings that are there took."""
    kept = keep_steps(plan, folder)
    if kept is not plan:
        logger.info(
            "steps: %d, as in the trainings that the study has; these arms on their own would have got %d. Arms that "
            "were added go through their rows as often as batches of whole rows allow.",
            kept.lessons[RANDOM][0].steps,
            plan.lessons[RANDOM][0].steps,
        )
    return kept


def _train_and_report(plan: Plan, folder: Path, only: Sequence[str], *, trains: bool) -> Studied:
    runs = folder / "runs"
    left = [run for run in plan.runs if read_result(plan, runs, run) is None]
    done = len(plan.runs) - len(left)
    logger.info("study: %s of %s finished in %s", f"{done:,}", plural(len(plan.runs), "run"), folder)
    todo = [run for run in left if not only or run.arm in only] if trains else []
    for number, run in enumerate(todo, 1):
        logger.info("run %d of %d: %s", number, len(todo), run.name)
        do_run(plan, runs, run)
    results = {run: result for run in plan.runs if (result := read_result(plan, runs, run)) is not None}
    missing = [run.name for run in plan.runs if run not in results]
    if missing and trains:
        return Studied(str(folder), f"{describe_missing(len(missing), len(plan.runs))}: {', '.join(missing)}")
    record = record_plan(plan, folder)  # with what other processes have added meanwhile
    study = gather(plan, results, record)
    write_study(folder, study, record)
    return Studied(str(folder), format_study(study))


def _plan(setup: Setup) -> Plan:
    """Hold rows out, select the rows of every arm, and fix how they are trained on."""
    split = hold_out(setup, Crew(Ranks(), setup.measuring_arguments()))
    for line in describe_split(split):
        logger.info("%s", line)
    if warning := describe_one_group(split.heldout, setup.holdout):
        logger.warning("%s", warning)
    tokens = count_candidate_tokens(setup, split)
    budget = find_budget(setup, tokens, len(split.candidates))
    logger.info("budget of each arm: %s", budget.described)
    return make_plan(setup, split, budget, select_arms(setup, split, tokens, budget))
