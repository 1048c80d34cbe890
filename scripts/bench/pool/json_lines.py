"""A pool as JSON Lines in the layout of the published pools, about 3 KB a row.

A chunk of rows is one long array of byte strings (punctuation, sentences, labels, numbers). The index of each string
is computed for the whole chunk at once, and the strings are joined once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from bench.pool.rows import BLOCK_ROWS, MOST_TURNS, SCORE_UNIT, RowModel, Rows
from bench.pool.words import json_sentences, name_labels


CHUNK_ROWS = 4_096

_SOURCES = ("flan", "sharegpt", "evol-instruct", "code", "dolly", "aya", "math", "no_robots")
_USER_SENTENCES, _ASSISTANT_SENTENCES, _SPREAD = 5.1, 16.9, 0.9
"""Mean number of sentences in a message, and the standard deviation of its logarithm."""
_MOST_SENTENCES = 400
_STREAM_TEXT = 21

Parts = NDArray[np.object_]
Ragged = tuple[Parts, NDArray[np.int64]]
"""Byte strings of all owners (rows, turns or messages) one after the other, and how many strings each owner has."""


class JsonLines:
    """Writes the rows of a model as JSON Lines."""

    def __init__(self, model: RowModel) -> None:
        """Prepare the pieces of text from which rows are put together."""
        self._model = model
        self._sentences = _pieces(json_sentences(model.seed))
        names = [json.dumps(name, ensure_ascii=False).encode() for name in name_labels(model.seed, model.num_labels)]
        self._first_labels, self._more_labels = _pieces(names), _pieces([b"," + name for name in names])
        scores = [f"{number / SCORE_UNIT}".encode() for number in range(6 * SCORE_UNIT + 1)]
        self._first_scores, self._more_scores = _pieces(scores), _pieces([b"," + score for score in scores])
        self._digits = _pieces([f"{number:05d}".encode() for number in range(100_000)])
        self._sources = _pieces([b'],"source":["' + name.encode() + b'"],"_id":"bench-' for name in _SOURCES])

    def chunks(self, num_rows: int) -> Iterator[tuple[Rows, bytes]]:
        """Yield the first `num_rows` rows in chunks, each with its JSON Lines."""
        for number, block in enumerate(self._model.blocks(num_rows)):
            for start in range(0, len(block), CHUNK_ROWS):
                rows = block.slice(start, min(start + CHUNK_ROWS, len(block)))
                yield rows, self._write(rows, number * BLOCK_ROWS + start)

    def _write(self, rows: Rows, first: int) -> bytes:
        """Write one chunk; `first` is the index of its first row in the pool."""
        generator = np.random.default_rng([self._model.seed, _STREAM_TEXT, first])
        indices = first + np.arange(len(rows))
        columns = [
            _each(b'{"dialogs":[', len(rows)),
            self._dialogs(generator, rows),
            _single(self._sources[generator.integers(0, len(_SOURCES), CHUNK_ROWS)[: len(rows)]]),
            _single(self._digits[indices // 100_000]),
            _single(self._digits[indices % 100_000]),
            _each(b'","annotation":{"instag":{"content":[', len(rows)),
            _listed(self._first_labels, self._more_labels, rows.label_ids, rows.label_counts),
            _each(b']},"deita":{"quality_scores":[', len(rows)),
            _listed(self._first_scores, self._more_scores, rows.quality, rows.turns),
            _each(b'],"complexity_scores":[', len(rows)),
            _listed(self._first_scores, self._more_scores, rows.complexity, rows.turns),
            _each(b"]}}}\n", len(rows)),
        ]
        return b"".join(_interleave(columns)[0].tolist())

    def _dialogs(self, generator: np.random.Generator, rows: Rows) -> Ragged:
        """Write the messages of each row: a question and an answer for each turn."""
        num_turns = len(rows.quality)
        questions = _pieces([b',{"role":"user","content":"'])[np.zeros(num_turns, np.int64)]
        questions[_starts(rows.turns)] = b'{"role":"user","content":"'
        parts, counts = _interleave(
            [
                _single(questions),
                self._text(generator, num_turns, _USER_SENTENCES),
                _each(b'"},{"role":"assistant","content":"', num_turns),
                self._text(generator, num_turns, _ASSISTANT_SENTENCES),
                _each(b'"}', num_turns),
            ]
        )
        return parts, np.add.reduceat(counts, _starts(rows.turns))

    def _text(self, generator: np.random.Generator, num_messages: int, mean: float) -> Ragged:
        """Draw the sentences of some messages.

        Lengths are drawn for as many messages as a full chunk can have, so that a row's text does not depend on where
        the pool ends.
        """
        drawn = generator.lognormal(np.log(mean) - _SPREAD**2 / 2, _SPREAD, MOST_TURNS * CHUNK_ROWS)[:num_messages]
        counts = np.rint(drawn).astype(np.int64).clip(1, _MOST_SENTENCES)
        picks = generator.spawn(1)[0].integers(0, len(self._sentences), int(counts.sum()))
        return self._sentences[picks], counts


def _pieces(texts: list[bytes]) -> Parts:
    pieces = np.empty(len(texts), object)
    pieces[:] = texts
    return pieces


def _single(parts: Parts) -> Ragged:
    return parts, np.ones(len(parts), np.int64)


def _each(text: bytes, count: int) -> Ragged:
    return _single(np.full(count, text, object))


def _listed(first: Parts, more: Parts, ids: NDArray[np.int32], counts: NDArray[np.int64]) -> Ragged:
    """Write the elements of lists, with a comma before all but the first of each list."""
    parts, starts = more[ids], _starts(counts)
    parts[starts] = first[ids[starts]]
    return parts, counts


def _starts(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the offset of each owner's first element."""
    return np.cumsum(counts) - counts


def _interleave(columns: list[Ragged]) -> Ragged:
    """Merge columns by owner: the first owner's parts in all columns, column after column, then the second owner's."""
    counts = np.stack([count for _, count in columns], axis=1)
    starts = _starts(counts.ravel()).reshape(counts.shape)
    whole = np.empty(int(counts.sum()), object)
    for column, (parts, count) in enumerate(columns):
        # An owner's parts are adjacent in its column as well as in the result: one shift per owner moves them all.
        whole[np.repeat(starts[:, column] - _starts(count), count) + np.arange(len(parts))] = parts
    return whole, counts.sum(axis=1)
