"""A pool as compact Parquet: labels and scores as in the JSON Lines of the same seed, and very short messages.

About 22 bytes a row. Each block of rows is one row group, and only one block is in memory at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from bench.pool.rows import BLOCK_ROWS, SCORE_UNIT, RowModel, Rows
from bench.pool.words import name_labels, short_texts


_NUM_TEXTS = 1_024
_ID_PREFIX, _ID_DIGITS = b"bench-", 10
_STREAM_TEXT = 31


class ParquetPool:
    """Writes the rows of a model as Parquet."""

    def __init__(self, model: RowModel) -> None:
        """Prepare the dictionaries of labels and texts."""
        self._model = model
        self._labels = pa.array(name_labels(model.seed, model.num_labels), pa.string())
        self._texts = pa.array(short_texts(model.seed, _NUM_TEXTS), pa.string())

    def write(self, paths: list[Path], num_rows: int) -> Iterator[Rows]:
        """Write the first `num_rows` rows to `paths`, whole blocks to each; yield each block after it is written."""
        num_blocks = -(-num_rows // BLOCK_ROWS)
        if len(paths) > num_blocks:
            raise ValueError(f"{num_rows} rows fill {num_blocks} blocks, which is too few for {len(paths)} files")
        ends = [num_blocks * (file + 1) // len(paths) for file in range(len(paths))]
        blocks = enumerate(self._model.blocks(num_rows))
        for path, start, end in zip(paths, [0, *ends], ends, strict=False):
            with pq.ParquetWriter(path, self._schema, compression="zstd", store_schema=False) as writer:
                for number, rows in (next(blocks) for _ in range(start, end)):
                    writer.write_table(self._table(rows, number), row_group_size=BLOCK_ROWS)
                    yield rows

    @property
    def _schema(self) -> pa.Schema:
        return self._table(self._model.block(0).slice(0, 1), 0).schema

    def _table(self, rows: Rows, number: int) -> pa.Table:
        scores = (_lists(pa.array(units / SCORE_UNIT), rows.turns) for units in (rows.quality, rows.complexity))
        labels = pa.DictionaryArray.from_arrays(pa.array(rows.label_ids), self._labels)
        instag = pa.StructArray.from_arrays([_lists(labels, rows.label_counts)], ["content"])
        deita = pa.StructArray.from_arrays(list(scores), ["quality_scores", "complexity_scores"])
        return pa.table(
            {
                "dialogs": self._dialogs(rows, number),
                "_id": _row_ids(number * BLOCK_ROWS, len(rows)),
                "annotation": pa.StructArray.from_arrays([instag, deita], ["instag", "deita"]),
            }
        )

    def _dialogs(self, rows: Rows, number: int) -> pa.ListArray:
        """Draw a question and an answer for each turn."""
        generator = np.random.default_rng([self._model.seed, _STREAM_TEXT, number])
        num_messages = 2 * len(rows.quality)
        picks = generator.integers(0, len(self._texts), num_messages, np.int32)
        roles = pa.DictionaryArray.from_arrays(
            pa.array(np.arange(num_messages, dtype=np.int32) % 2), pa.array(["user", "assistant"])
        )
        texts = pa.DictionaryArray.from_arrays(pa.array(picks), self._texts)
        return _lists(pa.StructArray.from_arrays([roles, texts], ["role", "content"]), 2 * rows.turns)


def _lists(values: pa.Array, counts: NDArray[np.int64]) -> pa.ListArray:
    offsets = np.concatenate((np.zeros(1, np.int64), np.cumsum(counts))).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), values)


def _row_ids(first: int, count: int) -> pa.StringArray:
    """Make the ids ``bench-0000000000``, ... as one buffer of characters, without a Python string for each."""
    width = len(_ID_PREFIX) + _ID_DIGITS
    characters = np.empty((count, width), np.uint8)
    characters[:, : len(_ID_PREFIX)] = np.frombuffer(_ID_PREFIX, np.uint8)
    powers = 10 ** np.arange(_ID_DIGITS - 1, -1, -1, dtype=np.int64)
    characters[:, len(_ID_PREFIX) :] = (first + np.arange(count))[:, None] // powers % 10 + ord("0")
    offsets = np.arange(0, (count + 1) * width, width, dtype=np.int32)
    return pa.StringArray.from_buffers(count, pa.py_buffer(offsets), pa.py_buffer(characters))
