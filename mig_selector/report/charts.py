"""Where the lines, bars and dots of the charts in a page are; the templates write them as SVG.

Lengths are in the units of a chart's ``viewBox``; y grows downwards.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mig_selector.report.selection import Curve, Distribution, LabelCount, Labels, Point


_LETTER_WIDTH, _LETTER_HEIGHT = 10.0, 22.0
"""Of the names in the curve on a small screen."""


@dataclass(frozen=True)
class Tick:
    """A number on an axis."""

    at: float
    text: str


def round_step(least: float) -> float:
    """Return the smallest of 1, 2, 5, 10, 20, 50, ... times a power of ten that is at least `least`, above 0."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= least)


def ticks(top: float, length: float, most: int = 5) -> list[Tick]:
    """Return round numbers from 0 to `top`, which is above 0, on an axis of some length."""
    step = round_step(top / most)
    return [Tick(step * number / top * length, f"{step * number:,.10g}") for number in range(int(top / step) + 1)]


@dataclass(frozen=True)
class Marker:
    """A point that is marked on a chart."""

    x: float
    y: float
    name: str
    kind: str
    """Class of its form."""
    is_crowded: bool
    """Whether its name would touch an earlier one in the larger letters of a small screen."""


@dataclass(frozen=True)
class CurveChart:
    """The information curve, or its part up to the budget."""

    title: str
    width: float
    height: float
    line: str
    """``points`` of a polyline: up to the budget."""
    beyond: str
    """``points`` of a polyline: from the budget on; empty if the chart ends there."""
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    markers: Sequence[Marker]


def chart_curve(curve: Curve, width: float = 560, height: float = 250) -> list[CurveChart]:
    """Lay out the information curve up to the budget, and, if it is known beyond, all of it as well."""
    end = curve.at_shares["100%"]
    shares = [(point, f"{point.rows:,}", "quarter") for name, point in curve.at_shares.items() if name != "100%"]
    marked = [*shares, (curve.knee, f"knee: {curve.knee.rows:,}", "knee"), (end, "", "budget")]
    charts = [_chart_points("the selection", curve, end.rows, marked, width, height)]
    last = curve.points[-1].rows
    if last > end.rows:
        goals = [
            (Point(rows, float(name[:-1]) / 100 * curve.pool_information, 0.0), f"{name}: {rows:,}", "goal")
            for name, rows in curve.rows_needed.items()
            if rows is not None and rows > end.rows
        ]
        marked = [(end, f"the selection: {end.rows:,}", "budget"), *goals]
        charts.append(_chart_points("if it went on to the whole pool", curve, last, marked, width, height))
    return charts


def _chart_points(
    title: str, curve: Curve, right: int, marked: Sequence[tuple[Point, str, str]], width: float, height: float
) -> CurveChart:
    end = curve.at_shares["100%"]
    top = max(point.information for point in (end, *curve.points) if point.rows <= right) or 1.0

    def at(point: Point) -> tuple[float, float]:
        return width * point.rows / right, height * (1 - point.information / top)

    def path(points: Sequence[Point]) -> str:
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in map(at, points))

    before = [point for point in curve.points if point.rows < end.rows]
    after = [point for point in curve.points if end.rows < point.rows <= right]
    return CurveChart(
        title=title,
        width=width,
        height=height,
        line=path([Point(0, 0.0, 0.0), *before, end]),
        beyond=path([end, *after]) if after else "",
        x_ticks=ticks(right, width),
        y_ticks=ticks(top, height),
        markers=_place_markers([(*at(point), name, kind) for point, name, kind in marked]),
    )


def _place_markers(marked: Sequence[tuple[float, float, str, str]]) -> list[Marker]:
    """Make markers; of names that would touch each other on a small screen, the first one has room."""
    markers: list[Marker] = []
    for x, y, name, kind in marked:
        is_crowded = any(
            abs(y - other.y) < _LETTER_HEIGHT
            and abs(x - other.x) < _LETTER_WIDTH * (len(name if x < other.x else other.name) + 1)
            for other in markers
            if other.name and not other.is_crowded
        )
        markers.append(Marker(x, y, name, kind, is_crowded))
    return markers


@dataclass(frozen=True)
class Bar:
    """A pair of bars."""

    name: str
    x: float
    pool: float
    """Height."""
    chosen: float


@dataclass(frozen=True)
class BarChart:
    """A distribution of a number."""

    width: float
    height: float
    bar: float
    """Width of each bar of a pair."""
    bars: Sequence[Bar]
    named: Sequence[Bar]
    """Those whose names have room on the axis."""


def chart_numbers(distribution: Distribution, width: float = 320, height: float = 110) -> BarChart:
    """Lay out a distribution of a number as pairs of bars."""
    bins = distribution.bins
    top = max(max(each.pool, each.chosen) for each in bins) or 1.0
    step = width / len(bins)
    bars = [
        Bar(each.name, index * step, height * each.pool / top, height * each.chosen / top)
        for index, each in enumerate(bins)
    ]
    every = math.ceil(len(bars) * max(len(each.name) for each in bars) * 7 / width)
    return BarChart(width, height, 0.42 * step, bars, bars[::every])


@dataclass(frozen=True)
class Dot:
    """A label on the map."""

    count: LabelCount
    x: float
    y: float
    radius: float
    colour: str
    """Class of its colour: from much rarer to much more frequent than in a random choice."""
    is_named: bool


@dataclass(frozen=True)
class LabelMap:
    """The label graph in the plane."""

    width: float
    height: float
    dots: Sequence[Dot]
    """The largest first, so that small ones are drawn on top of them."""
    lines: Sequence[tuple[float, float, float, float]]
    """Edges: x and y of both ends."""


_MOST_LINES = 600
_NAMED_DOTS = 24
_LEAST_RADIUS, _MOST_RADIUS = 3.0, 17.0
_COLOURS = ((0.25, "rarest"), (0.67, "rarer"), (1.5, "even"), (4.0, "more"), (math.inf, "most"))
"""Ratios up to which a label has each colour."""


def chart_labels(labels: Labels, width: float = 900, height: float = 520) -> LabelMap:
    """Lay out the label map: the area of a dot is the label's rows in the pool, its colour the ratio."""
    margin = _MOST_RADIUS + 3
    largest = max((each.count.pool for each in labels.map), default=1)
    spots = [(margin + each.x * (width - 2 * margin), margin + each.y * (height - 2 * margin)) for each in labels.map]
    by_size = sorted(range(len(spots)), key=lambda index: -labels.map[index].count.pool)
    named = _with_room([(labels.map[index].count.name, *spots[index]) for index in by_size])
    dots = [
        Dot(
            count := labels.map[index].count,
            *spots[index],
            radius=max(_LEAST_RADIUS, _MOST_RADIUS * math.sqrt(count.pool / largest)),
            colour=next(name for bound, name in _COLOURS if count.ratio <= bound),
            is_named=order in named,
        )
        for order, index in enumerate(by_size)
    ]
    lines = [(*spots[one], *spots[other]) for one, other in labels.edges[:_MOST_LINES]]
    return LabelMap(width, height, dots, lines)


def _with_room(names: Sequence[tuple[str, float, float]]) -> set[int]:
    """Choose names that can be written beside their dots without touching each other, the first ones first."""
    taken: list[tuple[float, float, float]] = []
    chosen: set[int] = set()
    for index, (name, x, y) in enumerate(names):
        half = 3.5 * min(len(name), 24) + 4
        if len(chosen) < _NAMED_DOTS and all(
            abs(x - other_x) > half + other_half or abs(y - other_y) > 16 for other_x, other_y, other_half in taken
        ):
            chosen.add(index)
            taken.append((x, y, half))
    return chosen
