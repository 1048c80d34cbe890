"""What a study would train and how long that takes, from a few rows of the pool; nothing is kept of it."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from mig_selector.annotation.answers import measure_answers, release_memory
from mig_selector.integration.tokenization import WITHOUT_LOSS, TokenizedRow, tokenize_rows
from mig_selector.integration.training import load_for_prediction, num_processes
from mig_selector.pipeline.crew import in_plain_words
from mig_selector.pipeline.dry_run import describe_duration
from mig_selector.pipeline.request import resolve
from mig_selector.pipeline.rows import KeptRows
from mig_selector.pipeline.stages import read
from mig_selector.pipeline.tokens import draw_sample
from mig_selector.study.setup import BASE, RANDOM, Options, Setup, set_up


_SAMPLED_ROWS, _TIMED_ROWS = 256, 16
_TRAINING_COST = 3.0
"""A step of training computes about three times what a prediction does: forward, and twice that backward."""
_START_SECONDS = 15.0
"""To start LLaMA-Factory, load a model and save it."""


def estimate_study(settings: Mapping[str, Any], options: Options) -> list[str]:
    """Describe what a study would do and take; the time to annotate and to select is not in it.

    Args:
        settings: LLaMA-Factory's keys and the ``mig_*`` keys, as in a YAML.
        options: What to study.

    Returns:
        Lines for people: arms, trainings, tokens and time.

    Raises:
        MigSelectorError: The study would fail before it selects.
    """
    setup = set_up(settings, options)
    return in_plain_words(lambda: _describe(setup))


def _describe(setup: Setup) -> list[str]:
    rows, num_rows = _sample(setup)
    fed = float(np.mean([len(row.ids) for row in rows]))
    supervised = float(np.mean([row.supervised for row in rows]))
    [asked] = setup.budget.budgets
    held_out = 0 if setup.holdout is None else round(setup.holdout * num_rows)
    if setup.budget.counts_tokens:
        chosen = asked / (supervised if setup.budget.mig_count_tokens == "supervised" else fed)
    else:
        chosen = asked * (num_rows - held_out) if isinstance(asked, float) else asked
    processes = num_processes()
    steps = setup.schedule.steps(math.ceil(chosen), processes)
    per_step = setup.schedule.rows_per_batch * setup.schedule.batches_per_step * processes
    passes = steps * per_step / chosen if setup.schedule.max_steps > 0 else setup.schedule.epochs
    trainings = sum(setup.planned.values()) * max(len(setup.options.learning_rates), 1)
    per_token = _seconds_per_token(setup, rows)
    training = _START_SECONDS + _TRAINING_COST * passes * chosen * fed * per_token / processes
    measuring = held_out * fed * per_token
    arms = ", ".join(f"{arm} {count}" for arm, count in setup.planned.items() if arm != BASE)
    from_eval = f"eval_dataset {', '.join(setup.host.eval_dataset)}"
    return [
        f"pool: {num_rows:,} rows; {fed:,.0f} tokens a row, {supervised:,.0f} with a loss ({len(rows)} rows sampled)",
        f"held out: {f'about {held_out:,} rows' if held_out else from_eval}",
        f"arms: {BASE} (not trained), {arms}: {trainings} trainings",
        f"each training, as of {RANDOM}: about {chosen:,.0f} rows with {chosen * supervised:,.0f} supervised tokens, "
        f"{steps:,} steps, {passes:.3g} passes; equal {setup.options.match}",
        f"time: about {describe_duration(training)} a training, {describe_duration(measuring)} a measurement, "
        f"{describe_duration(trainings * (training + measuring) + measuring)} in all, with this machine's speed on a "
        "few rows; annotating and selecting come on top",
    ]


def _sample(setup: Setup) -> tuple[list[TokenizedRow], int]:
    """Return some rows of the pool as training is given them, and how many rows it has."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = replace(setup.arguments(mig_method=RANDOM, mig_num_samples=1), mig_cache_dir=folder)
        request = resolve(arguments, setup.host, is_registered=False)
        pool = read(request)
        sample = draw_sample(len(pool.pool_indices), most=_SAMPLED_ROWS)
        is_sampled = np.zeros(len(pool.pool_indices), np.bool_)
        is_sampled[sample] = True
        rows = KeptRows(request, pool.without(~is_sampled, "")).trained()
        layouts = [entry.layout for entry in request.entries]
        return list(tokenize_rows(rows, layouts, setup.host)), len(pool.pool_indices)


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
    release_memory()
    return seconds / sum(len(ids) for ids, _ in timed)
