"""The charts of a report as pictures for papers and slides: PNG and SVG, on white, in the style of `picture`."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from mig_selector.report.charts import BarChart, LabelMap, chart_curve, chart_labels, chart_numbers
from mig_selector.report.comparison import shorten
from mig_selector.report.picture import BLUE, FAINT, INK, NO_METADATA, PAPER, PNG_DOTS_PER_INCH, own_style
from mig_selector.report.selection import Curve, Distribution, SelectionReport


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = {"rarest": "#b34d00", "rarer": "#e69f00", "even": "#9aa4ae", "more": "#56b4e9", "most": BLUE}
_LEGEND = {
    "rarest": "under a quarter of random",
    "rarer": "rarer than random",
    "even": "about as random",
    "more": "more often",
    "most": "over four times",
}
_UNITS_PER_INCH = 100.0
"""Of the charts of the page."""
_NAME_COLUMNS = 22


def draw_pictures(report: SelectionReport) -> Iterator[tuple[str, bytes]]:
    """Draw the charts of a report, each as PNG and as SVG.

    Yields:
        The end of a file name (``information.png``) and the bytes; the same report gives the same bytes.
    """
    with own_style():
        for name, figure in _draw(report):
            for kind, options in (("png", {"dpi": PNG_DOTS_PER_INCH}), ("svg", {"metadata": NO_METADATA})):
                stream = io.BytesIO()
                figure.savefig(stream, format=kind, facecolor=PAPER, **options)
                yield f"{name}.{kind}", stream.getvalue()


def _draw(report: SelectionReport) -> Iterator[tuple[str, Figure]]:
    if report.curve is not None:
        yield "information", _draw_curve(report.curve)
    if report.labels is not None and report.labels.map:
        yield "labels", _draw_map(chart_labels(report.labels))
    if report.distributions:
        yield "distributions", _draw_distributions(report.distributions)


def _draw_curve(curve: Curve) -> Figure:
    from matplotlib.figure import Figure

    charts = chart_curve(curve)
    figure = Figure(figsize=(5.0 * len(charts), 3.2), layout="constrained")
    for axes, chart in zip(figure.subplots(1, len(charts), squeeze=False)[0], charts, strict=True):
        axes.set_title(chart.title)
        axes.set_xlabel("rows, in the order of choice")
        axes.set_ylabel("E(D)")
        for path, colour in ((chart.beyond, FAINT), (chart.line, BLUE)):
            points = [tuple(map(float, pair.split(","))) for pair in path.split()]
            axes.plot([x for x, _ in points], [chart.height - y for _, y in points], color=colour, linewidth=1.8)
        axes.set_xticks([tick.at for tick in chart.x_ticks], [tick.text for tick in chart.x_ticks])
        axes.set_yticks([tick.at for tick in chart.y_ticks], [tick.text for tick in chart.y_ticks])
        axes.grid(axis="y", color=FAINT, alpha=0.3, linewidth=0.6)
        axes.set_xlim(0, 1.12 * chart.width)
        axes.set_ylim(0, 1.05 * chart.height)
        for marker in chart.markers:
            y = chart.height - marker.y
            axes.plot([marker.x], [y], "o", markersize=5, color=BLUE, markerfacecolor=PAPER)
            axes.annotate(marker.name, (marker.x, y), xytext=(6, -11), textcoords="offset points", fontsize=8)
    return figure


def _draw_map(chart: LabelMap) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(
        figsize=(chart.width / _UNITS_PER_INCH, chart.height / _UNITS_PER_INCH + 0.4), layout="constrained"
    )
    axes = figure.add_subplot()
    axes.set_axis_off()
    axes.set_xlim(0, chart.width)
    axes.set_ylim(chart.height, 0)
    for x1, y1, x2, y2 in chart.lines:
        axes.plot([x1, x2], [y1, y2], color=FAINT, alpha=0.35, linewidth=0.8, zorder=1)
    points_per_unit = 72 / _UNITS_PER_INCH
    for kind, colour in _COLOURS.items():
        dots = [dot for dot in chart.dots if dot.colour == kind]
        axes.scatter(
            [dot.x for dot in dots],
            [dot.y for dot in dots],
            s=[math.pi * (dot.radius * points_per_unit) ** 2 for dot in dots],
            color=colour,
            edgecolor=PAPER,
            linewidth=0.5,
            alpha=0.85,
            zorder=2,
        )
        axes.scatter([], [], s=30, color=colour, label=_LEGEND[kind])
    paper = {"facecolor": PAPER, "edgecolor": "none", "alpha": 0.6, "pad": 0.5}
    for dot in chart.dots:
        if dot.is_named:
            name = shorten(dot.count.name, _NAME_COLUMNS)
            axes.text(dot.x, dot.y, name, ha="center", va="center", fontsize=8, bbox=paper, zorder=3)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0), ncols=len(_COLOURS))
    return figure


def _draw_distributions(distributions: Sequence[Distribution]) -> Figure:
    from matplotlib.figure import Figure

    columns = min(3, len(distributions))
    lines = math.ceil(len(distributions) / columns)
    figure = Figure(figsize=(3.6 * columns, 2.5 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).flat
    for axes, each in zip(panels, distributions, strict=False):
        axes.set_title(each.title)
        if each.is_numeric:
            _draw_numbers(axes, chart_numbers(each))
        else:
            _draw_categories(axes, each)
    for axes in panels:  # those that are left
        axes.set_axis_off()
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower left", ncols=2)
    return figure


def _draw_numbers(axes: Axes, chart: BarChart) -> None:
    starts = [bar.x for bar in chart.bars]
    axes.bar(starts, [bar.pool for bar in chart.bars], chart.bar, align="edge", color=FAINT, label="pool")
    shifted = [start + chart.bar for start in starts]
    axes.bar(shifted, [bar.chosen for bar in chart.bars], chart.bar, align="edge", color=BLUE, label="selection")
    axes.axhline(0, color=FAINT, linewidth=0.8)
    axes.set_xticks([bar.x for bar in chart.named], [bar.name for bar in chart.named])
    axes.set_yticks([])


def _draw_categories(axes: Axes, distribution: Distribution) -> None:
    names = [shorten(each.name, _NAME_COLUMNS) for each in distribution.bins]
    for shift, colour, label, shares in (
        (-0.2, FAINT, "pool", [each.pool for each in distribution.bins]),
        (0.2, BLUE, "selection", [each.chosen for each in distribution.bins]),
    ):
        axes.barh([line + shift for line in range(len(names))], shares, 0.4, color=colour, label=label)
    axes.set_yticks(range(len(names)), names, fontsize=7, color=INK)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xticks([])
