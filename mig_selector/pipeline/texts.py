"""The kept rows of a pool as texts: for models that embed or score them, and for methods that read them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from mig_selector.annotation.tokens import load_tokenizer
from mig_selector.embedding.encoder import Encoder
from mig_selector.errors import PoolError
from mig_selector.pipeline.plan import Plan
from mig_selector.pool.conversation import Exchange, Turn, as_exchange, read_turns, render
from mig_selector.pool.reading import Pool, PoolRow


_BLOCK_ROWS = 4_096


def read_exchanges(plan: Plan, pool: Pool) -> Iterator[Exchange]:
    """Yield question and answer of each kept row, in the order of the pool.

    Raises:
        PoolError: A row is no conversation; names it.
    """
    return (exchange for _, exchange in _read(plan, pool))


def read_embedded_texts(plan: Plan, pool: Pool) -> Iterator[str]:
    """Yield the text of each kept row that the method wants embedded.

    Raises:
        PoolError: A row is no conversation; names it.
    """
    how, encoder = plan.needs.embedding, plan.models.rows
    if how is None or encoder is None:
        raise ValueError("the method embeds no rows")
    eos = _end_of_sequence(encoder) if "{conversation}" in how.template else ""
    return (render(how.template, turns, exchange, eos) for turns, exchange in _read(plan, pool))


def skip_unreadable(plan: Plan, pool: Pool) -> Pool:
    """Look at every kept row before a model is loaded for hours: is it a conversation?

    Returns:
        The pool; with ``mig_on_bad_row: skip`` without the rows that are none, which are counted and listed.

    Raises:
        PoolError: A row is no conversation; names it.
    """
    faults: dict[int, str] = {}
    for place, row in enumerate(_rows(plan, pool)):
        try:
            _converse(plan, row)
        except PoolError as error:
            if plan.arguments.mig_on_bad_row == "error":
                raise
            faults[place] = str(error)
    return pool.skipping(faults, "is no conversation") if faults else pool


def read_records(pool: Pool) -> Iterator[dict[str, Any]]:
    """Yield the kept rows whole."""
    return (row.record for row in pool.rows(None))


def _end_of_sequence(encoder: Encoder) -> str:
    return str(load_tokenizer(encoder.model, "mig_row_embedding_model", encoder.revision).eos_token or "")


def _unchanged(plan: Plan, rows: Iterator[PoolRow]) -> Iterator[PoolRow]:
    """Yield rows only once it is known that no file was changed before they were read.

    What a model makes of them is kept under the content that the files had when the plan was made.
    """
    while block := list(islice(rows, _BLOCK_ROWS)):
        plan.check_unchanged()
        yield from block


def _read(plan: Plan, pool: Pool) -> Iterator[tuple[list[Turn], Exchange]]:
    return (_converse(plan, row) for row in _rows(plan, pool))


def _rows(plan: Plan, pool: Pool) -> Iterator[PoolRow]:
    columns = sorted({column for entry in plan.entries for column in entry.columns.values()})
    return _unchanged(plan, pool.rows(columns))


def _converse(plan: Plan, row: PoolRow) -> tuple[list[Turn], Exchange]:
    entry = plan.entries[row.entry_index]
    try:
        turns = read_turns(row.record, entry)
        return turns, as_exchange(row.record, turns, entry, plan.arguments.mig_turns)
    except ValueError as error:
        raise PoolError(
            f"{row.where}: {error}. LLaMA-Factory could not train on it; mend the row, or set mig_on_bad_row: skip to "
            "count such rows and go on."
        ) from error
