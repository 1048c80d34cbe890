"""One picture of a study: the loss of every run, and the difference of each arm from random with its interval."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from mig_selector.report.comparison import shorten
from mig_selector.report.picture import BLUE, FAINT, INK, NO_METADATA, PAPER, PNG_DOTS_PER_INCH, own_style
from mig_selector.report.study import Study


if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NAME_COLUMNS = 20
# Lengths in inches.
_WIDTH, _LINE, _AROUND, _HEADLINE = 11.0, 0.32, 0.9, 0.4


def draw_study_png(study: Study) -> bytes:
    """Draw the picture as a stand-alone file: on white, with a line on top that says what was studied."""
    stream = io.BytesIO()
    with own_style():
        figure = _draw(study, _HEADLINE)
        figure.suptitle(f"{shorten(study.pool, 30)}: {study.training}", x=0.02, ha="left", fontsize=10.5)
        figure.savefig(stream, format="png", dpi=PNG_DOTS_PER_INCH, facecolor=PAPER)
    return stream.getvalue()


def draw_study_svg(study: Study) -> str:
    """Draw the picture for the page: an ``<svg>`` element without background, whose texts remain texts."""
    stream = io.StringIO()
    with own_style():
        _draw(study, 0.0).savefig(stream, format="svg", facecolor="none", metadata=NO_METADATA)
    svg = stream.getvalue()
    return svg[svg.index("<svg") :]


def _draw(study: Study, top: float) -> Figure:
    from matplotlib.figure import Figure

    arms = study.arms
    height = _LINE * len(arms) + _AROUND + top
    figure = Figure(figsize=(_WIDTH, height))
    box = (0.5 / height, _LINE * len(arms) / height)
    losses = figure.add_axes((0.14, box[0], 0.36, box[1]), title="loss per token of each run")
    effects = figure.add_axes((0.56, box[0], 0.36, box[1]), title="difference from random (left of 0 is better)")
    for axes in (losses, effects):
        axes.set_ylim(len(arms) - 0.5, -0.5)
        axes.tick_params(axis="x", labelcolor=INK)
        axes.grid(axis="x", color=FAINT, alpha=0.4, linewidth=0.6)
        axes.margins(x=0.1)
    losses.set_yticks(range(len(arms)), [shorten(each.arm, _NAME_COLUMNS) for each in arms])
    effects.set_yticks([])
    effects.axvline(0, color=FAINT, linewidth=0.8)
    for line, each in enumerate(arms):
        losses.scatter(each.losses, [line] * len(each.losses), s=22, color=BLUE, alpha=0.6, linewidths=0)
        # The model before training is so far away that the others could not be told apart.
        if each.effect is not None and each.rows is not None:
            effects.plot([each.effect.low, each.effect.high], [line, line], color=BLUE, linewidth=1.6)
            effects.scatter([each.effect.difference], [line], s=26, color=BLUE, zorder=3)
    return figure
