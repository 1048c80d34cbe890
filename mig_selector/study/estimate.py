"""What a study would train and how long that takes, from a few rows of the pool; nothing is kept of it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mig_selector.annotation.answers import measure_answers
from mig_selector.console import plural
from mig_selector.integration.tokenization import WITHOUT_LOSS, TokenizedRow, tokenize_rows
from mig_selector.integration.training import load_for_prediction, num_processes
from mig_selector.pipeline.crew import in_plain_words
from mig_selector.pipeline.dry_run import describe_duration
from mig_selector.pipeline.lengths import RowTokens
from mig_selector.pipeline.request import resolve
from mig_selector.pipeline.rows import KeptRows
from mig_selector.pipeline.stages import read
from mig_selector.pipeline.tokens import draw_sample
from mig_selector.ranks.models import free_memory
from mig_selector.store.hashing import fingerprint_of
from mig_selector.store.subsets import MANIFEST
from mig_selector.study.arms import Budget, find_budget, take_fitting
from mig_selector.study.heldout import Split, describe_one_group, describe_split, hold_out
from mig_selector.study.plan import identify_model, planned_runs, study_identity
from mig_selector.study.record import folder_name, recorded_steps
from mig_selector.study.setup import FEWEST_DRAWS, RANDOM, Options, Setup, set_up


_SAMPLED_ROWS, _TIMED_ROWS = 4_096, 16
_SEED = 0
_TRAINING_COST = 3.0
"""A step of training computes about three times what a prediction does: forward, and twice that backward."""
_START_SECONDS = 15.0
"""To start LLaMA-Factory, load a model and save it."""


def estimate_study(settings: Mapping[str, Any], options: Options, only: Sequence[str] = ()) -> list[str]:
    """Describe what a study would do and take; the time to annotate and to select is not in it.

    Args:
        settings: LLaMA-Factory's keys and the ``mig_*`` keys, as in a YAML.
        options: What to study.
        only: Arms to train here; all if empty.

    Returns:
        Lines for people: arms, trainings, tokens and time.

    Raises:
        MigSelectorError: The study would fail before it selects.
    """
    setup = set_up(settings, options, only)
    with tempfile.TemporaryDirectory() as cache:
        unkept = replace(setup, own_settings={**setup.own_settings, "mig_cache_dir": cache})
        return in_plain_words(lambda: _describe(unkept, only))


def _describe(setup: Setup, only: Sequence[str]) -> list[str]:
    split = hold_out(setup, None)
    rows, output_dir = _sample(setup, split)
    tokens = RowTokens(np.array([len(row.ids) for row in rows]), np.array([row.supervised for row in rows]))
    budget = find_budget(setup, tokens, len(split.candidates))
    fed, supervised = float(tokens.fed.mean()), float(tokens.counted("supervised").mean())
    chosen, chosen_fed, chosen_supervised = _choose_at_random(tokens, budget, len(split.candidates))
    processes = num_processes()
    estimated_steps = setup.schedule.steps(chosen, processes)
    per_step = setup.schedule.rows_per_batch * setup.schedule.batches_per_step * processes
    passes = estimated_steps * per_step / chosen if setup.schedule.max_steps > 0 else setup.schedule.epochs
    folder = output_dir / folder_name(fingerprint_of(study_identity(setup, split, processes, identify_model(setup))))
    steps = recorded_steps(folder)
    described_steps = f"about {plural(estimated_steps, 'step')}" if steps is None else plural(steps, "step")
    described_passes = f"{passes:.3g} {'pass' if f'{passes:.3g}' == '1' else 'passes'}"
    runs = [run for run in planned_runs(setup) if not only or run.arm in only]
    left = [run for run in runs if not (folder / "runs" / run.name / MANIFEST).is_file()]
    trainings, trainings_left = (sum(run.seed is not None for run in each) for each in (runs, left))
    done = f", {trainings - trainings_left:,} of them finished in {folder}" if len(left) < len(runs) else ""
    per_token = _seconds_per_token(setup, rows)
    training = _START_SECONDS + _TRAINING_COST * passes * chosen_fed * per_token / processes
    measuring = sum(len(row.ids) for row in split.heldout.rows) * per_token
    arms = ", ".join(f"{arm} {count}" for arm, count in setup.planned.items() if count and (arm in only or not only))
    return [
        f"pool: {fed:,.0f} tokens per row, {supervised:,.0f} with a loss ({plural(len(rows), 'row')} sampled)",
        *describe_split(split),
        *([f"warning: {warning}"] if (warning := describe_one_group(split.heldout, setup.holdout)) else []),
        f"arms: {arms or 'none that is trained'}: {plural(trainings, 'training')}{done}",
        f"budget of each arm: {budget.described}",
        f"each training, as for random rows: about {plural(chosen, 'row')} with {chosen_supervised:,.0f} supervised "
        f"tokens, {described_steps}, {described_passes}; equal {setup.options.match}",
        f"time: about {describe_duration(training)} per training, {describe_duration(measuring)} per measurement, "
        f"{describe_duration(trainings_left * training + len(left) * measuring)} for what is left, with this "
        "machine's speed on a few rows; annotating and selecting come on top",
    ]


def _choose_at_random(tokens: RowTokens, budget: Budget, count: int) -> tuple[int, float, float]:
    """Return how many rows a random choice has, and its tokens, fed and with a loss; means over some choices.

    A budget of tokens is filled up with short rows, so they are more than those of average length would be.
    """
    rows = np.resize(np.arange(len(tokens.fed)), count)  # the sample, repeated to the number of candidates
    costs = tokens.counted("supervised")[rows] if budget.counts_tokens else np.ones(count, np.int64)
    rng = np.random.default_rng(_SEED)
    draws = [take_fitting(rng.permutation(count).tolist(), costs, budget.size) for _ in range(FEWEST_DRAWS)]
    chosen = tokens.take(rows[np.concatenate(draws)])
    totals = len(chosen.fed), chosen.fed.sum(), chosen.supervised.sum()
    size, fed, supervised = (float(total) / FEWEST_DRAWS for total in totals)
    return round(size), fed, supervised


def _sample(setup: Setup, split: Split) -> tuple[list[TokenizedRow], Path]:
    """Return some candidates as training is given them, and the folder for subsets and studies."""
    request = resolve(setup.arguments(mig_method=RANDOM, mig_num_samples=1), setup.host, is_registered=False)
    pool = read(request)
    sample = split.candidates[draw_sample(len(split.candidates), most=_SAMPLED_ROWS)]
    rows = KeptRows(request, pool).take(np.isin(pool.pool_indices, sample)).trained()
    layouts = [entry.layout for entry in request.entries]
    return list(tokenize_rows(rows, layouts, setup.host)), request.site.output_dir


def _seconds_per_token(setup: Setup, rows: list[TokenizedRow]) -> float:
    """Time the model on a few rows, after one that warms it up."""
    timed = [(row.ids, row.labels) for row in rows if row.supervised][:_TIMED_ROWS]
    if not timed:
        return 0.0
    model = load_for_prediction(setup.host_settings, None)
    measure_answers(model, timed[:1], WITHOUT_LOSS, lambda count: None)
    start = time.monotonic()
    measure_answers(model, timed, WITHOUT_LOSS, lambda count: None)
    seconds = time.monotonic() - start
    del model
    free_memory()
    return seconds / sum(len(ids) for ids, _ in timed)
