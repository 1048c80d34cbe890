"""Why a selection has a row, or what the row would have needed: the request made again, up to the choice."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from mig_selector.arrays import Selection
from mig_selector.errors import ArgumentError
from mig_selector.pipeline.crew import Crew
from mig_selector.pipeline.recipe import offer
from mig_selector.pipeline.request import Request
from mig_selector.pipeline.stages import Clock, Offered, information_inputs
from mig_selector.pipeline.stored import StoredSelection
from mig_selector.pool.index.file_index import judge_row
from mig_selector.pool.reading import Pool
from mig_selector.pool.subset.writing import ID_COLUMNS, read_row_id
from mig_selector.ranks.world import Ranks


if TYPE_CHECKING:
    from mig_selector.selection.receipts import LabelShare

_LISTED = 5
"""Rows that took from a gain, or rows with the same identifier, that are named."""
_LEAST_SHARE = 0.05
"""Share of what a row took from which on a label is named."""


def explain_row(selection: StoredSelection, *, row: int | None = None, row_id: str | None = None) -> list[str]:
    """Explain one row of the pool, chosen or not.

    The pool index, label vectors and scores come from the cache of the selection where it has them.

    Args:
        selection: The selection.
        row: Pool index of the row: `row_index` in selection.parquet.
        row_id: Its ``_id`` or ``id``, in place of `row`.

    Returns:
        Lines for people.

    Raises:
        ArgumentError: There is no such row, or several have the identifier.
        PoolError: The pool or the settings are not what they were, so another selection would be explained.
    """
    arguments, host = selection.arguments()
    crew = Crew(Ranks(), arguments)
    return crew.run(lambda: _explain_row(selection, selection.unchanged_request(arguments, host), crew, row, row_id))


def _explain_row(
    selection: StoredSelection, request: Request, crew: Crew, row: int | None, row_id: str | None
) -> list[str]:
    with _without_warnings():
        offered = offer(request, crew, Clock())
    pool, table = offered.pool, selection.table
    if row_id is not None:
        row = _find_id(row_id, pool)
    if row is None or not 0 <= row < pool.report.read:
        raise ArgumentError(f"--row: {row} is not a row of the pool; it has rows 0 to {pool.report.read - 1:,}.")
    kept = int(np.searchsorted(pool.pool_indices, row))
    if kept == len(pool.pool_indices) or pool.pool_indices[kept] != row:
        return [_explain_dropped(row, request, pool)]
    rows = np.searchsorted(pool.pool_indices, table["row_index"].to_numpy())
    gains = table["gain"].to_numpy().astype(np.float64)
    information = table["information"].to_pylist()
    return list(_explain(_where(row, pool), kept, Selection(rows, gains), request, offered, information))


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Keep the stages from repeating what selecting has warned of; what models have to say is still logged."""
    logger = logging.getLogger(__package__)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _find_id(wanted: str, pool: Pool) -> int:
    """Return the pool index of the only kept row with an identifier."""
    rows = zip(pool.pool_indices.tolist(), pool.rows(ID_COLUMNS), strict=True)
    found: list[int] = [index for index, row in rows if read_row_id(row.record) == wanted]
    if len(found) != 1:
        listed = ", ".join(map(str, found[:_LISTED])) + (", ..." if len(found) > _LISTED else "")
        problem = f"{len(found):,} rows have it ({listed}); give one by --row" if found else "no kept row has it"
        raise ArgumentError(f"--id: {wanted!r}: {problem}.")
    return found[0]


def _where(row: int, pool: Pool) -> str:
    source, source_row = pool.locate_any(row)
    return f"row {row} ({pool.sources[source].name}:{source_row + 1})"


def _explain_dropped(row: int, request: Request, pool: Pool) -> str:
    """Say why a row could not be chosen: a stage after reading dropped it, or it is judged once more."""
    reason = next((reason for reason, rows in pool.dropped_later if row in rows), None)
    if reason is None:
        source, source_row = pool.locate_any(row)
        entry_index = pool.source_entry_indices[source]
        reason = judge_row(pool.sources[source], source_row, request.judges[entry_index])
        if reason is None:  # nothing is wrong with the row itself
            reason = f"outside split {request.entries[entry_index].split}"
    lost = pool.report.read - pool.report.kept
    return (
        f"{_where(row, pool)}: could not be chosen: {reason}. Of the {pool.report.read:,} rows of the pool, "
        f"{lost:,} could not be; manifest.json counts them by reason."
    )


def _explain(
    where: str,
    kept: int,
    selection: Selection,
    request: Request,
    offered: Offered,
    information: Sequence[float | None],
) -> Iterator[str]:
    ranks = np.flatnonzero(selection.rows == kept)
    rank = int(ranks[0]) if len(ranks) else None
    method, budget = request.needs.method.name, len(selection.rows)
    if rank is None:
        yield f"{where}: not among the {budget:,} rows that {method} chose"
    else:
        yield f"{where}: chosen by {method} at rank {rank} (0-based) of {budget:,}"
    if method == "mig":
        yield from _explain_gain(kept, rank, selection, request, offered)
    else:
        if rank is not None and not np.isnan(selection.gains[rank]):
            yield f"gain: {selection.gains[rank]:.6g}"
        yield from _explain_score(kept, selection, offered)
    if rank is not None and information[rank] is not None:
        yield f"information: it added {information[rank]:.6g} to E(D)"


def _explain_score(kept: int, selection: Selection, offered: Offered) -> Iterator[str]:
    """Say where a row is by its score, for methods that do not weigh labels."""
    if offered.scores is None:
        yield "the method needs no score of a row, and keeps no record of how it weighed the others"
        return
    scores = offered.scores.final
    better = int(np.count_nonzero(scores > scores[kept]))
    yield f"score: {scores[kept]:.6g}; {better:,} of {len(scores):,} rows have a higher one"
    yield f"the lowest score of a chosen row is {np.min(scores[selection.rows]):.6g}"


def _explain_gain(
    kept: int, rank: int | None, selection: Selection, request: Request, offered: Offered
) -> Iterator[str]:
    """Say what a row gained, or would have, by which labels, and which rows took the rest."""
    from mig_selector.selection.receipts import explain_absence, find_takers, receipts  # here, as it loads numba

    known = information_inputs(request, offered.labels, offered.scores, offered.graph)
    if known is None:
        raise ValueError("mig needs labels, scores and a graph")
    labelled, pool_indices = known[0], offered.pool.pool_indices
    loss = find_takers(*known, selection, kept, _LISTED)
    tokens = offered.tokens
    if tokens is not None:
        counted = tokens.counted(request.arguments.mig_count_tokens)
        left = request.token_budget(request.fingerprints[0]) - int(counted[selection.rows].sum())
        yield f"tokens: {counted[kept]:,}; {left:,} of the budget were left in the end"
    if rank is not None:
        receipt = receipts(*known, selection, [rank], runner_ups=tokens is None)[0]
        unit = "gain" if tokens is None else "gain per token"
        yield f"{unit}: {receipt.gain:.6g}, earned by its labels:"
        yield from _shares(receipt.shares, receipt.gain, labelled.labels.names)
        if receipt.runner_up is not None:
            is_tied = receipt.runner_up_gain == receipt.gain
            how = "the same gain; ties go to the earlier row" if is_tied else f"a gain of {receipt.runner_up_gain:.6g}"
            yield f"nearest row that lost to it: row {pool_indices[receipt.runner_up]}, with {how}"
    elif tokens is None:
        absence = explain_absence(*known, selection, kept)
        last = f"{selection.gains[-1]:.6g}"
        yield f"gain: {absence.gain:.6g} after all chosen rows, the last of which had {last}; by its labels:"
        yield from _shares(absence.shares, absence.gain, labelled.labels.names)
        yield f"it would have entered at rank {absence.entry_rank}, with mig_num_samples: {absence.entry_rank + 1}"
        if absence.needed_score is not None:
            # What methods get is divided by this; what people know is not.
            divisor = offered.pool.labels.counts[kept] if request.arguments.mig_normalize else 1
            has, needs = labelled.scores[kept] * divisor, absence.needed_score * divisor
            yield f"or now, with a score above {needs:.6g}; it has {has:.6g}"
    if loss.num_takers:
        yield (
            f"gain before any row was chosen: {loss.first_gain:.6g}; {loss.num_takers:,} chosen rows took "
            f"{loss.taken:.6g} of it:"
        )
    for each in loss.takers:
        names = [labelled.labels.names[part.label] for part in each.shares if part.share >= _LEAST_SHARE]
        who = f"row {pool_indices[each.row]} at rank {each.rank}"
        yield f"  {each.taken / loss.first_gain:6.1%}  {each.taken:.6g}  {who}, from {', '.join(names)}"
    if others := loss.num_takers - len(loss.takers):
        yield f"  and {others:,} more"


def _shares(shares: Sequence[LabelShare], gain: float, names: Sequence[str]) -> Iterator[str]:
    """Say what each label contributes to a gain, in the unit of the gain."""
    if not shares:
        yield "  none of its labels counts, so it adds no information"
    for each in shares:
        yield f"  {each.share:6.1%}  {each.share * gain:.6g}  {names[each.label]}"
