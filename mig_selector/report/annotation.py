"""What became of the rows that a run labelled or scored, in sentences for the page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mig_selector.console import plural
from mig_selector.report.comparison import shorten, significant


_NAME_COLUMNS = 60
"""Longer labels are cut off."""
_STEPS = {
    "frequency": "once rare ones are left out",
    "words": "once those of the same words are one",
    "meaning": "once those that mean the same are one",
    "association": "once those that imply each other are one",
}


def describe_annotation(health: Mapping[str, Any]) -> Iterator[str]:
    """Yield sentences on the annotations of a run.

    Args:
        health: The figures, as the manifest has them under ``annotation``.
    """
    found, failed = health["found_in_sidecar"], health["failed"]
    known = f"; mig_sidecar had those of {found:,}" if found else ""
    yield f"{plural(health['rows'], 'row')} needed labels or scores{known}."
    if failed:
        yield f"{sum(failed.values()):,} of these got none and could not be chosen: {_counts(failed, cut=False)}."
    languages = health["languages"]
    sampled = plural(languages["sampled"], "question")
    yield f"Languages of {sampled} drawn at random: {_counts(languages['questions'])}."
    if labels := health.get("labels"):
        yield (
            f"A row has {labels['per_row']:g} labels on average, of {labels['distinct']:,} different ones. The most "
            f"frequent: {_counts(labels['most_frequent'])}."
        )
        if rare := labels["rows_with_rare_labels_only"]:
            yield f"Rows with rare labels only, which do not count (mig_min_label_count): {rare:,}."
    if tags := health.get("tags"):
        yield from _tags(tags)
    if distilled := health.get("distilled"):
        yield (
            f"{plural(distilled['rows'], 'row')} went to the teacher, of which {distilled['failed']:,} failed; the "
            f"other rows got the {plural(distilled['labels'], 'label')} learnt from these. On "
            f"{distilled['held_out_rows']:,} held-out rows, the F1 is {distilled['micro_f1']:.2f} over all labels "
            f"(micro; {distilled['baseline_f1']:.2f} if every row got the most frequent ones) and "
            f"{distilled['macro_f1']:.2f} as the mean of the labels (macro)."
        )
    if scores := health.get("scores"):
        least, mean, most = (significant(scores[key], 4) for key in ("least", "mean", "most"))
        yield (
            f"Every score is {mean} ({scores['from']})."
            if scores["least"] == scores["most"]
            else f"Scores ({scores['from']}) are from {least} to {most}, {mean} on average."
        )
    scorer = health.get("scorer") or {"doubtful": {}}
    for model, doubtful in scorer["doubtful"].items():
        if doubtful:
            of_texts = f"{doubtful:,} of {plural(scorer['texts'], 'text')}"
            yield f"For {of_texts} the {model} model would rather write something else than a score from 1 to 6."


def _tags(tags: Mapping[str, Any]) -> Iterator[str]:
    """Describe how tags that mean the same became one label."""
    left = ", ".join(f"{count:,} {_STEPS[step]}" for step, count in tags["after"].items())
    yield f"Of {plural(tags['tags'], 'different tag')} that the tagger wrote, there are {left}."
    if merges := tags["largest_merges"]:
        listed = "; ".join(
            f"{_name(name)} (also for {', '.join(map(_name, others))})" for name, others in merges.items()
        )
        yield f"Labels that stand for the most tags: {listed}."


def _counts(counts: Mapping[str, int], *, cut: bool = True) -> str:
    return ", ".join(f"{_name(name) if cut else name} ({count:,})" for name, count in counts.items())


def _name(text: str) -> str:
    return shorten(text, _NAME_COLUMNS)
