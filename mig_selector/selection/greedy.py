"""Exact lazy greedy selection (Minoux 1978): Algorithm 1 of the paper without its dense matrix.

Reading order: this module checks the arrays and reports progress; `rounds` evaluates all rows and keeps the best in a
working set; `kernel` holds the compiled loops that choose from it; `twins` lets equal rows wait for each other.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mig_selector.arrays import LabelledPool, Propagation, Selection
from mig_selector.errors import ArgumentError
from mig_selector.selection.objective import Objective


_FIRST_PICKS = 64
"""Picks of the first call, whose speed is not known yet."""
_SECONDS_PER_CALL = 0.25
"""Compiled code cannot notice Ctrl+C or report progress, so each call makes as many picks as take about this long."""
_MEASURED_AT_ONCE = 1 << 18
"""Rows whose labels `measure_information` holds at once."""
_EVENTS_AT_ONCE = 1 << 22
"""Changes of a label's information that `information_added` holds at once: 120 MB."""


def select_rows(
    pool: LabelledPool,
    propagation: Propagation,
    objective: Objective,
    budget: int,
    on_progress: Callable[[int], object] | None = None,
) -> Selection:
    """Choose `budget` rows greedily, each time the row with the largest gain; of equal gains the smallest row wins.

    Args:
        pool: N rows.
        propagation: How information spreads among the L labels.
        objective: The function to maximise, and which gain ranks the rows.
        budget: Rows to choose, in [1, N].
        on_progress: Called about four times a second with the number of picks made since the last call.

    Returns:
        The same rows, in the same order and with the same gains, as evaluating every row in float64 at every step.

    Raises:
        ValueError: If `budget` is not in [1, N], or the arrays do not match or break what `LabelledPool` and
            `Propagation` promise.
        ArgumentError: If gains overflow.

    Source: MIG (arXiv 2504.13835), Eq. 8-13 and Algorithm 1.
    """
    if not 1 <= budget <= len(pool):
        raise ValueError(f"budget must be between 1 and the {len(pool)} rows of the pool, got {budget}")
    _check(pool, propagation, objective)
    from mig_selector.selection.rounds import Search  # here, as it loads numba

    return _pick(Search(pool, propagation, objective), budget, lambda rows: on_progress and on_progress(len(rows)))


def select_within(
    pool: LabelledPool,
    propagation: Propagation,
    objective: Objective,
    costs: NDArray[np.int64],
    budget: int,
    on_progress: Callable[[int], object] | None = None,
) -> Selection:
    """Choose rows greedily by gain per unit of cost while one fits and gains; of equal ratios the smallest row wins.

    If the best single row is worth more than all of them together, it is taken first and the others follow it.
    Without this guard one long row that is worth nearly everything could lose to short ones worth nearly nothing.

    Args:
        pool: N rows.
        propagation: How information spreads among the L labels.
        objective: The function to maximise, and which gain ranks the rows.
        costs: What each row takes from the budget, at least 1. Shape (N,).
        budget: What the costs of all chosen rows may add up to, at least 1.
        on_progress: Called about four times a second with the costs of the rows chosen since the last call.

    Returns:
        The rows, in the order, and their gains per unit of cost, that evaluating every row in float64 at every step
        gives. No row is left that fits and gains.

    Raises:
        ValueError: As `select_rows`, or a cost is below 1.
        ArgumentError: If gains overflow.

    Source: Khuller, Moss and Naor, "The budgeted maximum coverage problem" (1999), Section 3; Leskovec et al., "Cost-
    effective outbreak detection in networks" (KDD 2007), Section 4.
    """
    if len(costs) != len(pool) or not np.all(costs >= 1):
        raise ValueError(f"costs must hold {len(pool)} numbers of 1 or more")
    if budget < 1:
        raise ValueError(f"budget must be 1 or more, got {budget}")
    _check(pool, propagation, objective)
    from mig_selector.selection.rounds import Search  # here, as it loads numba

    def spent(rows: NDArray[np.int64]) -> None:
        if on_progress:
            on_progress(int(costs[rows].sum()))

    units = costs.astype(np.float64)
    most_rows = int(np.searchsorted(np.cumsum(np.sort(costs)), budget, side="right"))
    if most_rows == 0:
        return Selection.none()
    chosen = _pick(Search(pool, propagation, objective, units, budget), most_rows, spent)
    first = _worth_more_alone(pool, propagation, objective, costs <= budget, chosen.rows)
    if first is not None:
        search = Search(pool, propagation, objective, units, budget)
        gain = search.take(first)
        rest = _pick(search, most_rows - 1, spent)
        chosen = Selection(np.array([first]), np.array([gain])).joined(rest)
    return Selection(chosen.rows[chosen.gains > 0], chosen.gains[chosen.gains > 0])


def _worth_more_alone(
    pool: LabelledPool,
    propagation: Propagation,
    objective: Objective,
    fits: NDArray[np.bool_],
    chosen: NDArray[np.int64],
) -> int | None:
    """Return the row, of those that fit, that is worth most alone, if that is more than what is chosen; else None."""
    from mig_selector.selection.rounds import information_alone  # here, as it loads numba

    held = measure_information(pool, propagation, objective, chosen)
    nothing = measure_information(pool, propagation, objective, chosen[:0])
    # phi is concave: a row that reaches m labels with x in all is worth most if each of them gets x / m. So hardly any
    # row has to be evaluated.
    labels, reach = pool.labels, np.diff(propagation.offsets)
    spread = _sums(propagation.weights, propagation.offsets)
    reached = np.maximum(_sums(reach[labels.ids], labels.offsets), 1)
    each = pool.scores * _sums(spread[labels.ids], labels.offsets) / reached
    at_most = reached * objective.increase(np.zeros(len(pool)), each) * (1 + 1e-9)
    may_be = np.flatnonzero(fits & (at_most > held - nothing))
    if len(may_be) == 0:
        return None
    is_asked = np.zeros(len(pool), np.bool_)
    is_asked[may_be] = True
    few = LabelledPool(pool.labels.take(is_asked), pool.scores[may_be])
    best = int(may_be[np.argmax(information_alone(few, propagation, objective))])
    # A row among the chosen cannot be worth more than all of them, whatever rounding says.
    is_more = best not in chosen and measure_information(pool, propagation, objective, np.array([best])) > held
    return best if is_more else None


def _sums(values: NDArray[Any], offsets: NDArray[np.int64]) -> NDArray[np.float64]:
    """Add up the values between one offset and the next."""
    totals = np.concatenate((np.zeros(1), np.cumsum(values, dtype=np.float64)))
    sums: NDArray[np.float64] = np.diff(totals[offsets])
    return sums


def _pick(search: Any, most_rows: int, on_rows: Callable[[NDArray[np.int64]], object]) -> Selection:
    """Let a search pick up to `most_rows` rows, in calls that are short enough to be interrupted."""
    rows = np.empty(most_rows, np.int64)
    gains = np.empty(most_rows, np.float64)
    done, picks = 0, _FIRST_PICKS
    while done < most_rows:
        span = slice(done, min(done + picks, most_rows))
        start = time.perf_counter()
        made = search.pick(rows[span], gains[span])
        seconds = time.perf_counter() - start
        on_rows(rows[done : done + made])
        done += made
        if done < span.stop:
            break
        # At most eight times as many: a call that needed no new round says little about the next, which may need one.
        picks = max(1, min(8 * picks, int(picks * _SECONDS_PER_CALL / max(seconds, 1e-9))))
    return Selection(rows[:done], gains[:done])


def measure_information(
    pool: LabelledPool, propagation: Propagation, objective: Objective, rows: NDArray[np.int64]
) -> float:
    """Return E(D) of some rows (Eq. 8): the sum over labels of phi of the information at the label.

    Scores are added up per label and then spread once, where the search spreads row by row. The result can differ from
    that of the search in its last digits.
    """
    scores = np.zeros(propagation.num_labels)
    for start in range(0, len(rows), _MEASURED_AT_ONCE):
        block = rows[start : start + _MEASURED_AT_ONCE]
        offsets, ids = _take_labels(pool, block)
        np.add.at(scores, ids, np.repeat(pool.scores[block], np.diff(offsets)))
    information = np.zeros(propagation.num_labels)
    np.add.at(
        information,
        propagation.columns,
        np.repeat(scores, np.diff(propagation.offsets)) * propagation.weights,
    )
    return objective.value(information)


def information_added(
    pool: LabelledPool, propagation: Propagation, objective: Objective, rows: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return what each row adds to E(D): E of the rows up to it minus E of those before it.

    Args:
        pool: N rows.
        propagation: How information spreads among the L labels.
        objective: The function E.
        rows: B rows in the order of choice.

    Returns:
        Their sum is E of all of them minus E of none, but for rounding. Shape (B,).
    """
    offsets, ids = _take_labels(pool, rows)
    degrees = np.diff(propagation.offsets)
    num_events = np.concatenate((np.zeros(1, np.int64), np.cumsum(degrees[ids])))[offsets]
    information = np.zeros(propagation.num_labels)
    added = np.empty(len(rows))
    start = 0
    while start < len(rows):
        # At least one row, however many labels it reaches.
        stop = int(np.searchsorted(num_events, num_events[start] + _EVENTS_AT_ONCE, side="right")) - 1
        stop = min(max(stop, start + 1), len(rows))
        labels = ids[offsets[start] : offsets[stop]]
        row_of_label = np.repeat(np.arange(stop - start), np.diff(offsets[start : stop + 1]))
        scores = pool.scores[rows[start:stop]][row_of_label]
        added[start:stop] = _add_block(propagation, objective, information, labels, row_of_label, scores, stop - start)
        start = stop
    return added


def _add_block(
    propagation: Propagation,
    objective: Objective,
    information: NDArray[np.float64],
    labels: NDArray[np.int32],
    row_of_label: NDArray[np.int64],
    scores: NDArray[np.float64],
    num_rows: int,
) -> NDArray[np.float64]:
    """Add rows to `information`, shape (L,), and return what each adds to E(D).

    An event is a score that reaches a label: a row has one for each neighbour of each of its labels. Sorted by label,
    the information at a label after each of its events is a running sum. So there is one pass over the labels instead
    of one over the rows, and E is computed only where something changes.

    Args:
        propagation: How information spreads.
        objective: The function E.
        information: What earlier rows left at each label; updated.
        labels: The labels of the rows, row after row.
        row_of_label: The row, in [0, `num_rows`), of each of `labels`.
        scores: The score of that row.
        num_rows: Number of rows.
    """
    starts = propagation.offsets[labels]
    lengths = propagation.offsets[labels + 1] - starts
    ends = np.cumsum(lengths)
    entries = np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - (ends - lengths), lengths)
    reached = propagation.columns[entries]
    # Stable: events of a label stay in the order of choice. numpy sorts 16-bit keys several times as fast as others.
    small = reached.astype(np.uint16) if propagation.num_labels <= 1 << 16 else reached
    order = np.argsort(small, kind="stable")
    reached = reached[order]
    amounts = (np.repeat(scores, lengths) * propagation.weights[entries])[order]
    before, after = np.empty(len(amounts)), np.empty(len(amounts))
    bounds = np.flatnonzero(np.diff(reached, prepend=-1, append=-1))
    for start, stop in itertools.pairwise(bounds.tolist()):
        label = reached[start]
        before[start] = information[label]
        amounts[start] += information[label]
        np.cumsum(amounts[start:stop], out=after[start:stop])
        before[start + 1 : stop] = after[start : stop - 1]
        information[label] = after[stop - 1]
    rows = np.repeat(row_of_label, lengths)[order]
    added: NDArray[Any] = np.bincount(rows, objective.increase(before, after), minlength=num_rows)
    return added


# Compiled code does not check indices: arrays that broke a promise would be read, and written, beyond their ends.


def _check(pool: LabelledPool, propagation: Propagation, objective: Objective) -> None:
    _check_pool(pool, propagation.num_labels)
    _check_propagation(propagation)
    _check_gains(pool, objective)


def _check_pool(pool: LabelledPool, num_labels: int) -> None:
    offsets, ids = pool.labels.offsets, pool.labels.ids
    if len(offsets) != len(pool) + 1 or offsets[-1] != len(ids):
        raise ValueError(
            f"labels.offsets must hold {len(pool) + 1} offsets ending at {len(ids)}, "
            f"got {len(offsets)} ending at {offsets[-1]}"
        )
    if offsets[0] != 0 or np.any(offsets[1:] < offsets[:-1]):
        raise ValueError("labels.offsets must begin with 0 and never fall")
    if len(ids) and not 0 <= ids.min() <= ids.max() < num_labels:
        raise ValueError(f"labels.ids must be in [0, {num_labels})")
    if not _ascends_within_rows(offsets, ids):
        raise ValueError("labels.ids must be ascending and distinct within each row")
    if not np.all(pool.scores >= 0) or not np.isfinite(pool.total_score):
        raise ValueError("scores must be 0 or more, and their sum must be finite")


def _check_propagation(propagation: Propagation) -> None:
    offsets, columns, weights = propagation.offsets, propagation.columns, propagation.weights
    if offsets[0] != 0 or np.any(offsets[1:] < offsets[:-1]) or not offsets[-1] == len(columns) == len(weights):
        raise ValueError(
            f"propagation.offsets must begin with 0, never fall, and end at the number of columns and weights, got "
            f"{offsets[0]} to {offsets[-1]} for {len(columns)} columns and {len(weights)} weights"
        )
    if len(columns) and not 0 <= columns.min() <= columns.max() < propagation.num_labels:
        raise ValueError(f"propagation.columns must be in [0, {propagation.num_labels})")
    if not _ascends_within_rows(offsets, columns):
        raise ValueError("propagation.columns must be ascending and distinct within each row")
    if not np.all(weights > 0) or not np.all(np.isfinite(weights)):
        raise ValueError("propagation.weights must be finite and above 0")
    from mig_selector.selection.kernel import is_symmetric  # here, as it loads numba

    if not is_symmetric(offsets, columns):
        raise ValueError("the pattern of propagation must be symmetric")


def _ascends_within_rows(offsets: NDArray[np.int64], ids: NDArray[np.int32]) -> bool:
    """Whether each row's ids rise; from the end of one row to the beginning of the next they may fall."""
    rises = ids[1:] > ids[:-1]
    first = offsets[1:-1]
    rises[first[(first > 0) & (first < len(ids))] - 1] = True
    return bool(rises.all())


def _check_gains(pool: LabelledPool, objective: Objective) -> None:
    """Refuse gains that may overflow: infinity times 0 is not a number, and the search would never end.

    A gain is largest while nothing is chosen, and no row adds more to a label than the sum of all scores.
    """
    if objective.phi == "exp":
        steepest, largest = objective.rate, 1.0
    else:
        with np.errstate(over="ignore"):
            steepest = float(objective.exponent * np.float64(objective.offset) ** (objective.exponent - 1.0))
            largest = float((pool.total_score + np.float64(objective.offset)) ** objective.exponent)
    most_labels = max(int(pool.labels.counts.max()), 1)
    bound = most_labels * (pool.total_score * steepest if objective.gain == "gradient" else largest)
    if not np.isfinite(bound):
        raise ArgumentError(
            "mig_score, mig_phi_offset, mig_phi_rate: the scores are so large, or phi is so steep at 0, that the gain "
            "of a row is not finite; scale the scores down, set a larger mig_phi_offset, or a smaller mig_phi_rate."
        )


def _take_labels(pool: LabelledPool, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Return offsets and ids of the labels of some rows, in the order of `rows`."""
    lengths = pool.labels.offsets[rows + 1] - pool.labels.offsets[rows]
    offsets = np.concatenate((np.zeros(1, np.int64), np.cumsum(lengths)))
    shift = np.repeat(pool.labels.offsets[rows] - offsets[:-1], lengths)
    return offsets, pool.labels.ids[np.arange(offsets[-1]) + shift]
