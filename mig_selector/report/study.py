"""The figures of a study, and their table for a terminal.

`study_picture` draws them, `page` lays them out as HTML, `writing` writes all of it to files. Text that comes from
data is kept unchanged here and escaped where it is shown.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mig_selector.console import plural
from mig_selector.report.comparison import MISSING, shorten


APART = 0.05
"""Relative difference of an arm from random, in passes or tokens seen, from which readers are told."""
_LINE_WIDTH = 120
_NAME_WIDTH = 24


@dataclass(frozen=True)
class Difference:
    """Mean loss of an arm minus that of random: below 0 the arm is better."""

    difference: float
    low: float
    high: float
    """Ends of the interval."""

    @property
    def text(self) -> str:
        """The difference with its interval."""
        return f"{self.difference:+.4f} ({self.low:+.4f} to {self.high:+.4f})"


@dataclass(frozen=True)
class ArmFigures:
    """What an arm was trained on, and what came of it."""

    arm: str
    runs: int
    """Finished runs."""
    planned_runs: int
    losses: Sequence[float]
    """Primary measure of each seed, or draw, of which all runs are finished."""
    rows: float | None = None
    """Mean over the subsets; None for the model before training, as are the others."""
    supervised_tokens: float | None = None
    tokens: float | None = None
    """Fed in a pass."""
    steps: int | None = None
    passes: float | None = None
    """How often a training sees each row; the mean over the subsets."""
    training_seconds: float | None = None
    """Of all finished trainings together."""
    effect: Difference | None = None
    """Against random; None for random itself, if too few runs are finished, or if a training diverged."""
    smallest: float | None = None
    """The smallest difference that the study could have seen."""
    verdict: str | None = None
    """None for arms that are not judged, until all runs are finished, and where there is no `effect`."""

    @property
    def loss(self) -> float | None:
        """Mean of the primary measure."""
        return sum(self.losses) / len(self.losses) if self.losses else None

    @property
    def supervised_tokens_seen(self) -> float | None:
        """Tokens with a loss that a training sees, repetitions included."""
        if self.supervised_tokens is None or self.passes is None:
            return None
        return self.supervised_tokens * self.passes


@dataclass(frozen=True)
class Group:
    """Some of the held-out answers."""

    kind: str
    """What the answers have in common: source, label, length, ..."""
    name: str
    answers: int
    losses: Mapping[str, float]
    """Mean loss by arm."""
    effects: Mapping[str, Difference]
    """By arm, for those that are compared with random."""


@dataclass(frozen=True)
class Study:
    """A study, finished or not."""

    pool: str
    primary: str
    """What is measured."""
    budget: str
    match: str
    held_out: str
    """Where the held-out answers are from, and how many there are."""
    confidence: float
    """Of each interval."""
    arms: Sequence[ArmFigures]
    """The model before training first, then random."""
    groups: Sequence[Group]
    warnings: Sequence[str]
    settings: Mapping[str, Any]
    """The options of the command, then the keys that the arms share."""
    about_groups: str = ""
    """How the answers were divided, and what is left out."""
    command: str = ""
    """Repeats the study, or continues it."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Of the packages that it was begun with."""

    @property
    def training(self) -> str:
        """What each training sees. Steps and budget are the same for all; tokens seen may differ."""
        random = next((each for each in self.arms if each.supervised_tokens_seen is not None), None)
        if random is None:
            return f"{self.budget} per arm"
        steps = plural(random.steps or 0, "optimizer step")
        if self.match == "rows":
            return f"each training takes {steps} on {self.budget} chosen; the tokens that it sees differ"
        seen = [each.supervised_tokens_seen for each in self.arms if each.supervised_tokens_seen is not None]
        usual = seen[0]
        differ = any(abs(each - usual) > APART * usual for each in seen)
        tokens = f"{min(seen):,.0f} to {max(seen):,.0f}" if differ else f"about {usual:,.0f}"
        return f"each training sees {tokens} supervised tokens in {steps} (at most {self.budget} chosen)"

    @property
    def compared(self) -> list[ArmFigures]:
        """The arms that are compared with random."""
        return [each for each in self.arms if each.effect is not None]


@dataclass(frozen=True)
class StudyColumn:
    """A figure of each arm."""

    key: str
    """Name in CSV."""
    head: str
    meaning: str
    value: Callable[[ArmFigures], Any]
    """The figure; None if it is not known."""
    form: Callable[[Any], str]

    def text(self, figures: ArmFigures) -> str:
        """Return the figure as readers see it."""
        value = self.value(figures)
        return MISSING if value is None else self.form(value)


_COULD_SEE = (
    "The smallest difference that this study sees with a chance of 80 %. It matters where the verdict is no "
    "difference seen."
)


def _effect(figures: ArmFigures) -> str | None:
    return figures.effect.text if figures.effect else None


STUDY_COLUMNS = (
    StudyColumn("runs", "runs", "Finished runs of those planned.", lambda f: f"{f.runs}/{f.planned_runs}", str),
    StudyColumn(
        "rows", "rows", "Rows of the arm's subset; the mean if there are several.", lambda f: f.rows, "{:,.0f}".format
    ),
    StudyColumn(
        "supervised_tokens",
        "chosen",
        "Tokens of the subset that have a loss.",
        lambda f: f.supervised_tokens,
        "{:,.0f}".format,
    ),
    StudyColumn(
        "steps", "steps", "Optimizer steps of each training: the same for all arms.", lambda f: f.steps, "{:,}".format
    ),
    StudyColumn(
        "supervised_tokens_seen",
        "seen",
        "Tokens with a loss that a training sees, repetitions included.",
        lambda f: f.supervised_tokens_seen,
        "{:,.0f}".format,
    ),
    StudyColumn(
        "loss", "loss", "The primary measure, averaged over runs; lower is better.", lambda f: f.loss, "{:.4f}".format
    ),
    StudyColumn(
        "difference",
        "against random",
        "Loss minus that of random, and its interval: below 0 the arm is better.",
        _effect,
        str,
    ),
    StudyColumn(
        "smallest",
        "could see",
        _COULD_SEE,
        lambda f: f.smallest,
        "{:.4f}".format,
    ),
    StudyColumn(
        "verdict",
        "verdict",
        "better or worse if the interval lies on one side of 0, else no difference seen. The chance that a study of "
        "methods that all equal random calls any of them better or worse is 5 %.",
        lambda f: f.verdict,
        str,
    ),
)


def format_study(study: Study) -> str:
    """Format the figures as a table for a terminal, with the warnings below it."""
    lines = [["arm", *(column.head for column in STUDY_COLUMNS)]]
    lines += [
        [shorten(each.arm, _NAME_WIDTH), *(column.text(each) for column in STUDY_COLUMNS)] for each in study.arms
    ]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    notes = [
        f"loss: {study.primary}",
        f"intervals: {100 * study.confidence:.4g} %",
        f"could see: {_COULD_SEE}",
        study.held_out,
        *study.warnings,
    ]
    wrapped = [textwrap.fill(shorten(note, 600), _LINE_WIDTH, subsequent_indent="  ") for note in notes]
    return "\n".join([f"{shorten(study.pool, 60)}: {study.training}", "", *table, "", *wrapped])
