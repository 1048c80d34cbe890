"""The kept rows of a pool, read again as texts: for models that embed or score them and for methods that read them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mig_selector.annotation.sidecar import hash_row
from mig_selector.annotation.tokens import load_tokenizer
from mig_selector.embedding.encoder import Encoder
from mig_selector.errors import PoolError
from mig_selector.pipeline.request import Request
from mig_selector.pool.conversation import (
    Exchange,
    Turn,
    Which,
    as_exchange,
    as_pairs,
    read_turns,
    render,
    text_columns,
)
from mig_selector.pool.reading import Pool, PoolRow
from mig_selector.store.hashing import fingerprint_of


_BLOCK_ROWS = 4_096


@dataclass(frozen=True)
class KeptRows:
    """The kept rows of a pool, in its order."""

    request: Request
    pool: Pool

    def __len__(self) -> int:
        """Return how many there are."""
        return self.pool.report.kept

    def take(self, keep: NDArray[np.bool_]) -> KeptRows:
        """Return the rows where `keep`, shape (N,), is true."""
        return replace(self, pool=self.pool.without(~keep, ""))

    def exchanges(self, which: Which | None = None) -> Iterator[Exchange]:
        """Read question and answer of each row.

        Args:
            which: Turns that count; as ``mig_turns`` says if None.

        Raises:
            PoolError: A row is not a conversation; names it.
        """
        which = which or self.request.arguments.mig_turns
        return (self._exchange(row, which)[1] for row in self._rows())

    def embedded_texts(self) -> Iterator[str]:
        """Read the text of each row that the method wants embedded.

        Raises:
            PoolError: A row is not a conversation; names it.
        """
        how, encoder = self.request.needs.embedding, self.request.models.get("mig_row_embedding_model")
        if how is None or encoder is None:
            raise ValueError("the method embeds no rows")
        eos = _end_of_sequence(encoder) if "{conversation}" in how.template else ""
        for row in self._rows():
            turns, exchange = self._exchange(row, self.request.arguments.mig_turns)
            yield render(how.template, turns, exchange, eos)

    def questions_and_answers(self) -> Iterator[tuple[str, str]]:
        """Read question, with its input on a line of its own, and answer of each row."""
        for each in self.exchanges():
            yield _question(each), each.response

    def questions(self) -> Iterator[str]:
        """Read the question of each row, with its input on a line of its own."""
        return (_question(each) for each in self.exchanges())

    def pairs(self) -> Iterator[list[Exchange]]:
        """Read each turn of the user with its reply, of each row; those that ``mig_turns`` names."""
        which = self.request.arguments.mig_turns
        return (as_pairs(self._exchange(row, which)[0], which) for row in self._rows())

    def conversations(self) -> Iterator[list[Turn]]:
        """Read all turns of each row."""
        return (self._exchange(row, "all")[0] for row in self._rows())

    def hashed_questions(self) -> Iterator[tuple[str, str]]:
        """Read the hash by which sidecars know a row, and the question, of each row."""
        columns = self._trained_columns
        for row in self._rows(set(chain.from_iterable(columns))):
            _, exchange = self._exchange(row, self.request.arguments.mig_turns)
            yield hash_row(row.record, columns[row.entry_index]), _question(exchange)

    def trained(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Read for each row the index of its entry, and the columns that training reads."""
        columns = self._trained_columns
        for row in self._rows(set(chain.from_iterable(columns))):
            yield row.entry_index, {column: row.record.get(column) for column in columns[row.entry_index]}

    @property
    def _trained_columns(self) -> list[list[str]]:
        """The columns of each entry that training reads, media included."""
        return [list(dict.fromkeys(entry.columns.values())) for entry in self.request.entries]

    def records(self) -> Iterator[dict[str, Any]]:
        """Read the rows with all their columns."""
        return (row.record for row in self.pool.rows(None))

    def cache_path(self, kind: str, identity: Mapping[str, Any], model: Encoder) -> Path:
        """Name the file for what a model makes of these rows, by all that decides it.

        Args:
            kind: Folder in the cache.
            identity: What decides it beside rows, turns and model.
            model: The model.
        """
        request = self.request
        everything = {
            **identity,
            "model": {**model.identity, "dtype": model.resolve_dtype()},
            "turns": request.arguments.mig_turns,
            "pool": [request.contents, [entry.identity for entry in request.entries]],
            "rows": hashlib.sha256(self.pool.pool_indices.tobytes()).hexdigest(),
        }
        return request.arguments.cache_dir / kind / f"{fingerprint_of(everything)[:32]}.npy"

    def _rows(self, columns: set[str] | None = None) -> Iterator[PoolRow]:
        """Yield rows only once it is known that no file was changed before they were read.

        What a model makes of them is kept under the content that the files had when the request was resolved.

        Args:
            columns: Those that are read; if None, those of the conversations.
        """
        if columns is None:
            columns = {column for entry in self.request.entries for column in text_columns(entry)}
        rows = self.pool.rows(sorted(columns))
        while block := list(islice(rows, _BLOCK_ROWS)):
            self.request.check_unchanged()
            yield from block

    def _exchange(self, row: PoolRow, which: Which) -> tuple[list[Turn], Exchange]:
        entry = self.request.entries[row.entry_index]
        try:
            turns = read_turns(row.record, entry)
            return turns, as_exchange(row.record, turns, entry, which)
        except ValueError as error:
            raise PoolError(f"{row.where}: {error}, although it was judged to be a conversation.") from error


def _question(exchange: Exchange) -> str:
    return f"{exchange.instruction}\n{exchange.input}" if exchange.input else exchange.instruction


def _end_of_sequence(encoder: Encoder) -> str:
    return str(load_tokenizer(encoder.model, "mig_row_embedding_model", encoder.revision).eos_token or "")
