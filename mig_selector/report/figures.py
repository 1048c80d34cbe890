"""From arrays to the figures of a selection: the information curve, the distributions, the labels.

Dimension letters: N rows of the pool, B chosen rows, L labels, M labels on the map.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mig_selector.report.charts import round_step
from mig_selector.report.selection import Bin, Curve, Distribution, LabelCount, Labels, MapLabel, Point


_CURVE_POINTS = 100
"""Most points of a curve up to the budget, and beyond it: more could not be told apart."""
_CATEGORIES = 12
"""Categories, or whole numbers, that have a bin each."""
_NUMBER_BINS = 20
_TAIL_PERCENTILE = 99.0
"""Where the last bin of a histogram ends, in the pool; larger values are in it too."""
_VALUES_AT_ONCE = 1 << 20
"""Values that are copied at once: a pool may have more than there is memory for twice."""
_LISTED_LABELS = 20


def build_curve(information: NDArray[np.float64], budget: int, pool_information: float) -> Curve:
    """Build the information curve.

    Args:
        information: E(D) after each row in the order of choice: the chosen rows first, then those that the method
            would have chosen next, as far as that is known.
        budget: Rows chosen.
        pool_information: E(D) of all rows of the pool.
    """
    total = float(information[budget - 1])

    def point(rows: int) -> Point:
        value = float(information[rows - 1])
        return Point(rows, value, value / total if total > 0 else 0.0)

    def needed(share: float) -> int | None:
        # The curve is rounded in its last digits; so little must not decide whether all rows suffice.
        rows = int(np.searchsorted(information, share * pool_information * (1 - 1e-9))) + 1
        return rows if rows <= len(information) else None

    spans = np.linspace((1, budget), (budget, len(information)), _CURVE_POINTS)
    shown = np.unique(spans.round().astype(int))
    above_line = information[:budget] - total * np.arange(1, budget + 1) / budget
    return Curve(
        points=[point(rows) for rows in shown.tolist()],
        knee=point(int(np.argmax(above_line)) + 1),
        at_shares={f"{share}%": point(math.ceil(budget * share / 100)) for share in (10, 25, 50, 100)},
        pool_information=pool_information,
        rows_needed={f"{share}%": needed(share / 100) for share in (80, 90, 95, 99)},
    )


def describe_numbers(key: str, title: str, pool: NDArray[Any], chosen: NDArray[Any]) -> Distribution:
    """Describe a number that each row has: whole numbers of a small range one by one, others in a histogram.

    Args:
        key: Name in files.
        title: Name for readers, with the unit.
        pool: Of rows of the pool; at least one.
        chosen: Of chosen rows; at least one.
    """
    low = float(min(pool.min(), chosen.min()))
    top = float(np.percentile(pool[:: len(pool) // _VALUES_AT_ONCE + 1], _TAIL_PERCENTILE))
    if np.issubdtype(pool.dtype, np.integer) and top - low < _CATEGORIES:
        edges = np.arange(low, math.floor(top) + 2)
    else:
        step = round_step((top - low) / _NUMBER_BINS or 1.0)
        edges = step * np.arange(math.floor(low / step), math.floor(top / step) + 2)
    shares = [_count(each, edges) / len(each) for each in (pool, chosen)]
    bins = [
        Bin(f"{edge:,.6g}", *both)
        for edge, *both in zip(edges[:-1].tolist(), *map(np.ndarray.tolist, shares), strict=True)
    ]
    means = float(np.mean(pool)), float(np.mean(chosen))
    return Distribution(key, title, bins, True, *means, len(pool), len(chosen))


def _count(values: NDArray[Any], edges: NDArray[np.float64]) -> NDArray[np.int64]:
    """Count the values in each bin, block by block; those above the last edge are in the last bin."""
    counts = np.zeros(len(edges) - 1, np.int64)
    for start in range(0, len(values), _VALUES_AT_ONCE):
        counts += np.histogram(np.minimum(values[start : start + _VALUES_AT_ONCE], edges[-1]), edges)[0]
    return counts


def describe_categories(key: str, title: str, pool: Mapping[str, int], chosen: Mapping[str, int]) -> Distribution:
    """Describe a category that each row has, from the number of rows of each; small ones are added up.

    Args:
        key: Name in files.
        title: Name for readers.
        pool: Rows of the pool by category; at least one.
        chosen: Chosen rows by category; at least one.
    """
    pool_rows, chosen_rows = sum(pool.values()), sum(chosen.values())
    shares = {
        name: (pool.get(name, 0) / pool_rows, chosen.get(name, 0) / chosen_rows) for name in sorted({*pool, *chosen})
    }
    names = sorted(shares, key=lambda name: -sum(shares[name]))
    bins = [Bin(name, *shares[name]) for name in names[:_CATEGORIES]]
    if others := names[_CATEGORIES:]:
        bins.append(Bin(f"{len(others):,} others", *(sum(shares[name][side] for name in others) for side in (0, 1))))
    return Distribution(key, title, bins, False, None, None, pool_rows, chosen_rows)


def describe_labels(
    names: Sequence[str],
    pool: NDArray[np.int64],
    chosen: NDArray[np.int64],
    chosen_share: float,
    mapped: NDArray[np.int64],
    positions: NDArray[np.float64],
    edges: Sequence[tuple[int, int]],
    not_counted: int,
) -> Labels:
    """Describe the labels of a pool.

    Args:
        names: Length L.
        pool: Rows of the pool that have each label. Shape (L,).
        chosen: Chosen rows that have each label. Shape (L,).
        chosen_share: Chosen rows as a share of the pool, above 0.
        mapped: The labels on the map, as indices into `names`. Shape (M,).
        positions: Their positions. Shape (M, 2).
        edges: Pairs of labels on the map that share an edge, as indices into `mapped`.
        not_counted: Labels of the pool that are not among `names`.
    """
    expected = pool * chosen_share

    def count(label: int) -> LabelCount:
        ratio = float(chosen[label] / expected[label]) if expected[label] else 0.0
        return LabelCount(names[label], int(pool[label]), int(chosen[label]), ratio)

    smoothed = (chosen + 1) / (expected + 1)
    order = np.argsort(-smoothed, kind="stable").tolist()
    absent = np.flatnonzero((chosen == 0) & (pool > 0))
    absent = absent[np.argsort(-pool[absent], kind="stable")]
    return Labels(
        in_use=int(np.count_nonzero(pool)),
        covered=int(np.count_nonzero(chosen)),
        not_counted=not_counted,
        over=[count(label) for label in order[:_LISTED_LABELS] if smoothed[label] > 1],
        under=[count(label) for label in order[: -_LISTED_LABELS - 1 : -1] if smoothed[label] < 1],
        missing=[count(label) for label in absent.tolist()],
        map=[MapLabel(count(label), *xy) for label, xy in zip(mapped.tolist(), positions.tolist(), strict=True)],
        edges=edges,
    )
