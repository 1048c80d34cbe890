"""A study from its configuration to its page, top to bottom."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mig_selector.errors import ArgumentError
from mig_selector.pipeline.common_rows import settle_common_rows
from mig_selector.pipeline.crew import Crew, in_plain_words
from mig_selector.ranks.world import Ranks
from mig_selector.report.study import format_study
from mig_selector.report.writing import write_study
from mig_selector.store.subsets import check_own_folder
from mig_selector.study.arms import count_candidate_tokens, find_budget, select_arms
from mig_selector.study.figures import gather
from mig_selector.study.heldout import split_pool
from mig_selector.study.plan import Plan, make_plan, record_plan
from mig_selector.study.runs import do_run, read_result
from mig_selector.study.setup import RANDOM, Options, Setup, set_up


logger = logging.getLogger(__name__)


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
    setup = set_up(settings, options)
    if unknown := [arm for arm in only if arm not in setup.planned]:
        raise ArgumentError(
            f"--only: {', '.join(unknown)} is not an arm; expected some of {', '.join(setup.planned)}."
        )
    return in_plain_words(lambda: _run(setup, only, trains=trains))


def _run(setup: Setup, only: Sequence[str], *, trains: bool) -> Studied:
    plan = _plan(setup)
    folder = Path(plan.subsets[RANDOM][0].outcome.folder).parent / f"study-{plan.fingerprint[:16]}"
    check_own_folder(folder)
    record = record_plan(plan, folder)
    runs = folder / "runs"
    todo = [run for run in plan.runs if not only or run.arm in only] if trains else []
    for number, run in enumerate(todo, 1):
        logger.info("run %d of %d: %s", number, len(todo), run.name)
        do_run(plan, runs, run)
    results = {run: result for run in plan.runs if (result := read_result(plan, runs, run)) is not None}
    missing = [run.name for run in plan.runs if run not in results]
    if missing and trains:
        return Studied(str(folder), f"{len(missing)} of {len(plan.runs)} runs are missing: {', '.join(missing)}")
    study = gather(plan, results, record)
    write_study(folder, study, record)
    return Studied(str(folder), format_study(study))


def _plan(setup: Setup) -> Plan:
    """Hold rows out, select the rows of every arm, and fix how they are trained on."""
    measures = setup.measuring_arguments()
    crew = Crew(Ranks(), measures)
    methods = [setup.arguments(mig_num_samples=1, mig_method=each.method.name) for each in setup.needs]
    common = settle_common_rows(methods, measures, setup.host, crew)
    split = split_pool(common, setup.holdout, setup.options.source_column)
    tokens = count_candidate_tokens(setup, split)
    budget = find_budget(setup, tokens)
    logger.info("budget of each arm: %s", budget.described)
    return make_plan(setup, split, budget, select_arms(setup, split, tokens, budget))
