"""One picture of a comparison: the figures as bars, the rows that methods have in common, the sources of the rows.

It is drawn with matplotlib, without pyplot and with a fixed style, so that it neither depends on the settings of the
user or the calling program nor changes them. The colours are those of Okabe and Ito (Color Universal Design, 2008),
which people with any kind of colour vision can tell apart.
"""

from __future__ import annotations

import contextlib
import io
import math
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from mig_selector.report.comparison import COLUMNS, MISSING, Column, Comparison, MethodFigures, shorten, summary


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


INK, FAINT, PAPER = "#24292f", "#8c959f", "#ffffff"
"""Text, thin lines, background. In dark mode the page replaces these three wherever they occur in the SVG."""
BLUE, _ON_BLUE = "#0072b2", "#fefefe"
MOSTLY_BLUE = 0.8
"""Overlap above which a cell is so blue that white text is easier to read than `INK`."""
_SOURCE_COLOURS = (BLUE, "#e69f00", "#56b4e9", "#d55e00", "#009e73", "#f0e442", "#cc79a7")
_OTHER_COLOUR = "#999999"

_DRAWN = ("information", "label_coverage", "mean_score", "tokens", "seconds")
_STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "text.parse_math": False,
    "axes.facecolor": "none",
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.spines.bottom": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlepad": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "legend.handlelength": 1,
    "legend.handletextpad": 0.3,
    "legend.columnspacing": 1.5,
    "xtick.color": INK,
    "xtick.labelsize": 7,
    "xtick.major.size": 0,
    "ytick.color": INK,
    "ytick.major.size": 0,
    "svg.fonttype": "none",
    "svg.hashsalt": "mig_selector",
}
PNG_DOTS_PER_INCH = 160
NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))
"""For SVG: the same picture gives the same bytes."""
# Lengths in inches.
_WIDTH, _MARGIN, _GAP = 12.5, 0.2, 0.25
_LINE, _CELL = 0.29, 0.42
_HEADLINE, _TITLE, _TICKS, _LEGEND = 0.45, 0.36, 0.3, 0.65
_LEAST_OVERLAPS, _MOST_OVERLAPS = 1.8, 5.5
# Longest names, in characters of single width.
_METHOD_COLUMNS, _SOURCE_COLUMNS = 20, 26


def draw_png(comparison: Comparison) -> bytes:
    """Draw the picture as a stand-alone file: on white, with a summary line on top."""
    stream = io.BytesIO()
    with own_style():
        figure = _draw(comparison, top=_HEADLINE)
        figure.suptitle(summary(comparison), x=_MARGIN / _WIDTH, ha="left", fontsize=12)
        figure.savefig(stream, format="png", dpi=PNG_DOTS_PER_INCH, facecolor=PAPER)
    return stream.getvalue()


def draw_svg(comparison: Comparison) -> str:
    """Draw the picture for the page: an ``<svg>`` element without background, whose texts remain texts."""
    stream = io.StringIO()
    with own_style():
        _draw(comparison, top=0.0).savefig(stream, format="svg", facecolor="none", metadata=NO_METADATA)
    svg = stream.getvalue()
    return svg[svg.index("<svg") :]


@contextlib.contextmanager
def own_style() -> Iterator[None]:
    """Draw in the style of this package while the block runs."""
    from matplotlib import style

    with style.context(["default", _STYLE]), warnings.catch_warnings():
        # Letters that the font lacks are drawn as boxes.
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        yield


class _Sheet:
    """A figure with two rows of panels; in each panel every method has a line, the first method at the top."""

    def __init__(self, names: Sequence[str], top: float) -> None:
        from matplotlib.figure import Figure

        self.figure = Figure()
        self.left = 2 * _MARGIN + self._widest(names)
        self._names = names
        self._height = _LINE * len(names)
        upper = top + _TITLE
        lower = upper + self._height + _TICKS + _TITLE
        self._tops = (upper, lower)
        below = max(_TICKS + _LEGEND, 0.7 * self.left)  # a legend, slanted method names
        self.figure.set_size_inches(_WIDTH, lower + self._height + below)

    def _widest(self, names: Sequence[str]) -> float:
        texts = [self.figure.text(0, 0, name) for name in names]
        width = max(text.get_window_extent().width for text in texts) / self.figure.dpi
        for text in texts:
            text.remove()
        return float(width)

    def panel(self, title: str, row: int, left: float, width: float) -> Axes:
        """Add a panel; only the leftmost panel of a row shows the names. Lengths in inches."""
        full_height = self.figure.get_figheight()
        bottom = full_height - self._tops[row] - self._height
        axes = self.figure.add_axes(
            (left / _WIDTH, bottom / full_height, width / _WIDTH, self._height / full_height), title=title
        )
        axes.set_ylim(len(self._names) - 0.5, -0.5)
        axes.set_yticks(range(len(self._names)), self._names if left == self.left else [""] * len(self._names))
        return axes


def _draw(comparison: Comparison, top: float) -> Figure:
    """Draw all panels and leave `top` inches free above them."""
    names = [shorten(name, _METHOD_COLUMNS) for name in comparison.methods]
    sheet = _Sheet(names, top)
    drawn = _DRAWN if comparison.unit == "rows" else (*_DRAWN, "rows")
    columns = [column for column in COLUMNS if column.key in drawn and _is_known(column, comparison)]
    width = (_WIDTH - _MARGIN - sheet.left + _GAP) / len(columns)
    for index, column in enumerate(columns):
        axes = sheet.panel(column.head, 0, sheet.left + index * width, width - _GAP)
        (_draw_dots if column.key == "seconds" else _draw_bars)(axes, column, comparison.figures)
    left = sheet.left
    if len(names) > 1:
        width = min(max(_LEAST_OVERLAPS, _CELL * len(names)), _MOST_OVERLAPS)
        _draw_overlaps(sheet.panel("rows in common (%)", 1, left, width), names, comparison.overlaps)
        left += width + _GAP
    _draw_sources(sheet.panel("sources (share of the rows)", 1, left, _WIDTH - _MARGIN - left), comparison)
    return sheet.figure


def _is_known(column: Column, comparison: Comparison) -> bool:
    return any(column.value(figures) is not None for figures in comparison.figures)


def _draw_bars(axes: Axes, column: Column, figures: Sequence[MethodFigures]) -> None:
    lengths = [column.value(each) or 0.0 for each in figures]
    axes.barh(range(len(figures)), lengths, height=0.64, color=BLUE)
    axes.axvline(0, color=FAINT, linewidth=0.8)
    axes.set_xticks([])
    _write_values(axes, column, figures, [max(0.0, length) for length in lengths])
    _leave_room(axes, min(0.0, *lengths), max(0.0, *lengths))


def _draw_dots(axes: Axes, column: Column, figures: Sequence[MethodFigures]) -> None:
    """Draw dots on a logarithmic scale, which has no zero at which a bar could start."""
    values = [column.value(each) or 0.0 for each in figures]
    powers = {line: math.log10(value) for line, value in enumerate(values) if value > 0}
    low = math.floor(min(powers.values(), default=0.0))
    high = max(low + 1, math.ceil(max(powers.values(), default=0.0)))
    axes.hlines(list(powers), low, list(powers.values()), color=BLUE, linewidth=1.6)
    axes.scatter(list(powers.values()), list(powers), s=26, color=BLUE, zorder=3)
    ticks = range(low, high + 1, math.ceil((high - low) / 4))
    axes.set_xticks(ticks, [f"{10.0**power:,g}" for power in ticks])
    axes.grid(axis="x", color=FAINT, alpha=0.4, linewidth=0.6)
    _write_values(axes, column, figures, [powers.get(line, low) for line in range(len(values))])
    _leave_room(axes, low, high)


def _write_values(axes: Axes, column: Column, figures: Sequence[MethodFigures], ends: Sequence[float]) -> None:
    for line, (each, end) in enumerate(zip(figures, ends, strict=True)):
        text = column.text(each)
        axes.annotate(
            text,
            (end, line),
            xytext=(5, 0),
            textcoords="offset points",
            va="center_baseline",
            fontsize=8,
            color=FAINT if text == MISSING else INK,
        )


def _leave_room(axes: Axes, low: float, high: float) -> None:
    """Extend the axis beyond the longest bar, so that its value fits."""
    axes.set_xlim(low, low + 1.5 * ((high - low) or 1.0))


def _draw_overlaps(axes: Axes, names: Sequence[str], overlaps: Sequence[Sequence[float]]) -> None:
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.set_xticks(range(len(names)), names, fontsize=9, rotation=40, ha="right", rotation_mode="anchor")
    for row, shares in enumerate(overlaps):
        for column, share in enumerate(shares):
            if column != row:
                _draw_cell(axes, column, row, share)


def _draw_cell(axes: Axes, x: int, y: int, share: float) -> None:
    from matplotlib.patches import Rectangle

    alpha = 0.05 + 0.95 * share
    axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=BLUE, edgecolor=PAPER, alpha=alpha))
    ink = _ON_BLUE if share > MOSTLY_BLUE else INK
    axes.text(x, y, f"{100 * share:.0f}", ha="center", va="center_baseline", fontsize=8, color=ink)


def _draw_sources(axes: Axes, comparison: Comparison) -> None:
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25%", "50%", "75%", "100%"])
    ends = [0.0] * len(comparison.figures)
    for name, colour, shares in _source_shares(comparison):
        label = f" {name}"  # the space: matplotlib before 3.10 leaves out labels that start with "_"
        axes.barh(range(len(ends)), shares, left=ends, height=0.72, color=colour, edgecolor=PAPER, label=label)
        ends = [end + share for end, share in zip(ends, shares, strict=True)]
    if any(ends):
        below = -_TICKS / (_LINE * len(ends))
        axes.legend(loc="upper left", bbox_to_anchor=(0, below), borderaxespad=0, borderpad=0, ncols=3)


def _source_shares(comparison: Comparison) -> Iterator[tuple[str, str, list[float]]]:
    """Yield name, colour and share per method of each of the largest sources, then of all others together."""
    named, others = comparison.sources[: len(_SOURCE_COLOURS)], comparison.sources[len(_SOURCE_COLOURS) :]
    for source, colour in zip(named, _SOURCE_COLOURS, strict=False):
        yield shorten(source, _SOURCE_COLUMNS), colour, [each.share_of([source]) for each in comparison.figures]
    if others:
        yield f"other ({len(others)})", _OTHER_COLOUR, [each.share_of(others) for each in comparison.figures]
