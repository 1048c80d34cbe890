"""Finished runs in, the figures of the study out."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mig_selector.console import plural
from mig_selector.report.study import APART, ArmFigures, Difference, Group, Study
from mig_selector.study.heldout import FEWEST_ANSWERS, describe_one_group
from mig_selector.study.overlap import GRAM
from mig_selector.study.plan import Plan, Run
from mig_selector.study.runs import Result
from mig_selector.study.schedule import is_held_by_batch_size
from mig_selector.study.setup import BASE, RANDOM
from mig_selector.study.statistics import ERROR_RATE, Effect, Losses, compare, macro_average


_MOST_LABELS = 12
_LENGTHS = 4
"""Parts of about equal size into which answers are divided by length."""
_LIKE_THE_PRIMARY = ("overlap", "learning rate")
"""Kinds of groups that are the primary measure under another condition."""
_NAMED_RUNS = 5
"""Of those that a warning is about."""
_EXPECTED_ROWS = 5
"""A source of which a random choice has fewer rows may be missing by chance."""
_PASSES_OFF = 0.25
"""Relative difference in passes against the trainer's count, which takes the last batch of a pass for a whole one."""


def gather(plan: Plan, results: Mapping[Run, Result], record: Mapping[str, Any]) -> Study:
    """Compute all figures of a study, as far as its runs are finished.

    Args:
        plan: The study.
        results: The finished runs.
        record: What study.json says of the plan.
    """
    sources = np.unique(plan.split.heldout.sources.astype(str), return_inverse=True)[1].astype(np.int64)
    losses = {arm: _losses(plan, results, arm) for arm in plan.setup.planned}
    # Every method that the study was ever given counts, also one that this report leaves out.
    error_rate = ERROR_RATE / (len(record["plan"]["arms"]) - 1)

    def effect(arm: str, of: Mapping[str, Losses], groups: NDArray[np.int64]) -> Effect | None:
        is_too_small = np.unique(groups, return_counts=True)[1].min() < 2
        if arm == RANDOM or not len(of[arm]) or len(of[RANDOM]) < 2 or is_too_small:
            return None
        if not (np.isfinite(of[arm]).all() and np.isfinite(of[RANDOM]).all()):
            return None
        return compare(of[arm], of[RANDOM], groups, error_rate=error_rate, is_trained=arm != BASE)

    arms = [_figures(plan, results, arm, losses, sources, effect(arm, losses, sources)) for arm in losses]
    groups = []
    for kind, name, mine, only in _groups(plan, results, losses, sources):
        members = sources[mine] if kind in _LIKE_THE_PRIMARY else np.zeros(int(mine.sum()), np.int64)
        cut = {arm: each[:, mine] for arm, each in only.items()}
        effects = {arm: _as_difference(found) for arm in cut if (found := effect(arm, cut, members))}
        means = {arm: float(macro_average(each, members).mean()) for arm, each in cut.items() if len(each)}
        groups.append(Group(kind, name, int(mine.sum()), means, effects))
    heldout = plan.split.heldout
    return Study(
        pool=record["plan"]["pool"],
        primary=plan.primary,
        budget=plan.budget.described,
        match=plan.setup.options.match,
        held_out=(
            f"held out: {plural(len(heldout.rows), 'answer')}, {int(heldout.tokens.sum()):,} tokens; "
            f"{heldout.described}"
        ),
        confidence=1 - error_rate,
        arms=arms,
        groups=groups,
        warnings=[*_warnings(plan, results, arms), *_describe_additions(record)],
        settings={**record.get("options", {}), **record["settings"]},
        about_groups=(
            f"Sources with fewer than {FEWEST_ANSWERS} answers are taken together. Of labels, the {_MOST_LABELS} most "
            f"frequent that at least {FEWEST_ANSWERS} answers have are listed. By length there are up to {_LENGTHS} "
            "parts of about equal size. A part of a single answer has a loss, but no interval. Figures by overlap and "
            "by learning rate are averages over sources, as the primary measure is; the others are plain averages."
        ),
        command=record.get("command", ""),
        versions=record.get("versions", {}),
    )


def _losses(plan: Plan, results: Mapping[Run, Result], arm: str, rate: float | None = None) -> Losses:
    """Return the losses of each seed of an arm, averaged over learning rates, or with one of them."""
    by_seed: dict[int | None, list[NDArray[np.float64]]] = {}
    rates = 1 if arm == BASE or rate is not None else len(plan.setup.options.learning_rates) or 1
    for run, result in results.items():
        if run.arm == arm and rate in (None, run.learning_rate):
            by_seed.setdefault(run.seed, []).append(result.losses)
    complete = [np.mean(each, axis=0) for each in by_seed.values() if len(each) == rates]
    return np.stack(complete) if complete else np.zeros((0, len(plan.split.heldout.rows)))


def _figures(
    plan: Plan,
    results: Mapping[Run, Result],
    arm: str,
    losses: Mapping[str, Losses],
    sources: NDArray[np.int64],
    effect: Effect | None,
) -> ArmFigures:
    planned = Counter(run.arm for run in plan.runs)
    finished = Counter(run.arm for run in results)
    is_complete = all(finished[each] == planned[each] for each in (arm, RANDOM))
    figures = ArmFigures(
        arm,
        finished[arm],
        planned[arm],
        macro_average(losses[arm], sources).tolist(),
        effect=_as_difference(effect) if effect else None,
        smallest=effect.smallest if effect else None,
        verdict=effect.verdict if effect and is_complete and arm != BASE else None,
    )
    if arm == BASE:
        return figures
    subsets, manifests = plan.subsets[arm], [each.manifest for run, each in results.items() if run.arm == arm]
    seconds = [each["training_seconds"] for each in manifests if each.get("training_seconds") is not None]
    return ArmFigures(
        **{
            **vars(figures),
            "rows": float(np.mean([each.rows for each in subsets])),
            "supervised_tokens": float(np.mean([each.supervised for each in subsets])),
            "tokens": float(np.mean([each.fed for each in subsets])),
            "steps": plan.lessons[arm][0].steps,
            "passes": float(np.mean([each.passes for each in plan.lessons[arm]])),
            "training_seconds": sum(seconds) if seconds else None,
        }
    )


def _as_difference(effect: Effect) -> Difference:
    return Difference(effect.difference, effect.low, effect.high)


def _groups(
    plan: Plan, results: Mapping[Run, Result], losses: Mapping[str, Losses], sources: NDArray[np.int64]
) -> Iterator[tuple[str, str, NDArray[np.bool_], Mapping[str, Losses]]]:
    """Yield kind and name of each group of answers, which of the answers are in it, and the losses to take."""
    heldout = plan.split.heldout
    everything = np.ones(len(sources), np.bool_)
    yield "all", "every answer alike", everything, losses
    for name in sorted(set(heldout.sources)) if not heldout.is_one_group else ():
        yield "source", name, heldout.sources == name, losses
    counts = Counter(label for labels in heldout.labels for label in labels)
    for label, count in counts.most_common(_MOST_LABELS):
        if count >= FEWEST_ANSWERS:
            yield "label", label, np.array([label in labels for labels in heldout.labels]), losses
    tokens = heldout.tokens
    bounds = np.unique(np.quantile(tokens, np.linspace(0, 1, _LENGTHS + 1)).astype(int))
    for low, high in itertools.pairwise(bounds):
        is_last = high == bounds[-1]
        mine = (tokens >= low) & ((tokens <= high) if is_last else (tokens < high))
        if mine.any():
            yield "length", f"{low:,} to {high if is_last else high - 1:,} tokens", mine, losses
    if heldout.is_flagged.any() and not heldout.is_flagged.all():
        yield "overlap", "without flagged answers", ~heldout.is_flagged, losses
    rates = plan.setup.options.learning_rates
    for rate in rates if len(rates) > 1 else ():
        of_rate = {arm: losses[arm] if arm == BASE else _losses(plan, results, arm, rate) for arm in losses}
        yield "learning rate", f"{rate:g}", everything, of_rate


def _warnings(plan: Plan, results: Mapping[Run, Result], arms: Sequence[ArmFigures]) -> Iterator[str]:
    heldout = plan.split.heldout
    if missing := [run.name for run in plan.runs if run not in results]:
        yield f"{describe_missing(len(missing), len(plan.runs))}; an arm has no verdict before its last run."
    if plan.setup.holdout is not None:
        yield (
            "the held-out rows are a random part of the pool: they resemble random choices, which favours random by "
            "construction. To avoid that, set eval_dataset to rows of the task that the model is for."
        )
    if warning := describe_one_group(heldout, plan.setup.holdout):
        yield warning
    see = "" if heldout.is_one_group else " See the figures by source."
    for arm, lacking in _uncovered(plan).items():
        shown = ", ".join(lacking[:5]) + (f" and {len(lacking) - 5} more" if len(lacking) > 5 else "")
        yield (
            f"{arm} has no row of {shown}: on answers from there coverage decides, and not the quality of the chosen "
            f"rows.{see}"
        )
    if flagged := int(heldout.is_flagged.sum()):
        yield (
            f"held-out rows that share at least half of their runs of {GRAM} words with rows to choose from: "
            f"{flagged:,} of {len(heldout.rows):,}; see the figures without them."
        )
    for run, result in results.items():
        planned, counted = result.manifest.get("planned_passes"), result.manifest.get("passes")
        if planned and counted and abs(counted / planned - 1) > _PASSES_OFF:
            yield (
                f"{run.name} went through its rows {counted:.2f} times by the trainer's count, not {planned:.2f} "
                f"times as planned for {plural(plan.processes, 'process')}: tokens are not equal. Set NNODES and "
                "NPROC_PER_NODE as for the training."
            )
    yield from _warn_of_divergence(results)
    yield from _warn_of_unspent_budgets(plan, arms)
    passes = {each.arm: each.passes for each in arms if each.passes is not None}
    for arm, seen in passes.items():
        if RANDOM in passes and abs(seen / passes[RANDOM] - 1) > APART:
            yield (
                f"{arm} goes through its rows {seen:.2f} times, random {passes[RANDOM]:.2f} times: "
                f"{_why_passes_differ(plan, arm, passes[RANDOM])}."
            )


def _warn_of_divergence(results: Mapping[Run, Result]) -> Iterator[str]:
    if diverged := [run.name for run, result in results.items() if not np.isfinite(result.losses).all()]:
        yield (
            f"{_name_runs(diverged)}: the loss of some answers is not finite, as after a training that diverged, so "
            "the arm has no interval and no verdict; if it is random, no arm has one. Lower learning_rate, or train "
            "with bf16 in place of fp16."
        )


def _warn_of_unspent_budgets(plan: Plan, arms: Sequence[ArmFigures]) -> Iterator[str]:
    if not plan.budget.counts_tokens:
        return
    chosen = {each.arm: each.supervised_tokens for each in arms if each.supervised_tokens is not None}
    for arm, tokens in chosen.items():
        if tokens < (1 - APART) * chosen[RANDOM]:
            yield (
                f"{arm} has {tokens:,.0f} supervised tokens, random {chosen[RANDOM]:,.0f}: the method chose no more "
                "rows that fit, so it is trained on less."
            )


def _why_passes_differ(plan: Plan, arm: str, wanted: float) -> str:
    if not plan.budget.counts_tokens:
        return "all arms take equally many rows per step"
    most, steps = plan.setup.schedule.rows_per_batch, plan.lessons[arm][0].steps
    if any(is_held_by_batch_size(each.rows, steps, wanted, most, plan.processes) for each in plan.subsets[arm]):
        return (
            "a step is gradient_accumulation_steps equal batches, of at most per_device_train_batch_size: "
            f"{most} rows; a larger one would come closer"
        )
    return "batches of whole rows cannot come closer"


def _describe_additions(record: Mapping[str, Any]) -> Iterator[str]:
    for added in record.get("added", []):
        yield f"added on {added['at'][:10]}, after the study had been planned: {_name_runs(added['runs'])}."
    if record.get("added"):
        yield (
            "verdicts of earlier arms may have changed with what was added: each new method widens all intervals, and "
            "new seeds change those of their arms."
        )


def _name_runs(names: Sequence[str]) -> str:
    more = len(names) - _NAMED_RUNS
    return f"{', '.join(names[:_NAMED_RUNS])}{f' and {more:,} more' if more > 0 else ''}"


def describe_missing(missing: int, planned: int) -> str:
    """Say how many runs are missing."""
    return f"{missing:,} of {planned:,} runs {'is' if missing == 1 else 'are'} missing"


def _uncovered(plan: Plan) -> dict[str, list[str]]:
    """Return for each arm the sources of which a subset of it has no row, although a random choice has some."""
    random = plan.subsets[RANDOM]
    expected: Counter[str] = Counter()
    for subset in random:
        expected.update(subset.sources)
    usual = sorted(source for source, rows in expected.items() if rows >= _EXPECTED_ROWS * len(random))
    lacking = {
        arm: [source for source in usual if any(not subset.sources.get(source) for subset in subsets)]
        for arm, subsets in plan.subsets.items()
    }
    return {arm: sources for arm, sources in lacking.items() if sources}
