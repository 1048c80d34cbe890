"""What columnar formats share: rows come as Arrow record batches, with only the wanted columns."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mig_selector.errors import PoolError
from mig_selector.pool.formats.row_source import OnBytes, Span
from mig_selector.pool.leaves.arrow import WholeRows, take_leaves
from mig_selector.pool.leaves.arrow_shapes import is_list
from mig_selector.pool.leaves.batch import Leaves, Numbering
from mig_selector.pool.leaves.decoder import LeafDecoder


_MUCH_TEXT, _TEXT_PER_BYTE = 1 << 30, 1_024
"""See `text_limit`. A text that is stored once, in a dictionary, can be the value of millions of rows."""
_WITH_LENGTHS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
LEAF_ROWS = 65_536
"""Rows in a batch of leaves. Batches of whole rows are smaller (`BATCH_ROWS`), because a row can be long."""


@dataclass(frozen=True)
class LeafBatch:
    """A record batch with what a scan looks at."""

    batch: pa.RecordBatch
    known_texts: Collection[str] = ()
    """See `take_leaves`."""
    read_whole: WholeRows | None = None
    """Reads rows of the batch with all columns that training reads; None if the batch has them."""


class TableSource(ABC):
    """A source that yields record batches."""

    name: str
    size: int
    title: str
    """Name of the format, for messages."""
    can_seek = False

    def spans(self, size: int) -> list[Span]:
        """Return the table as one span; formats that can be divided override this."""
        del size
        return [Span(size=self.size)]

    def scan(self, span: Span, decoder: LeafDecoder, numbering: Numbering, on_bytes: OnBytes) -> Iterator[Leaves]:
        """Read the leaves of a span."""
        start = 0
        with self._wrapped_errors():
            before = self._rows_before(span)
            share = span.size / max(self._num_rows(span), 1)
            for part in self._leaf_batches(span, decoder):
                checked = self._check_batch(part.batch, before + start)
                for offset in range(0, checked.num_rows, LEAF_ROWS):
                    batch = checked.slice(offset, LEAF_ROWS)
                    read_whole = part.read_whole and _shifted(part.read_whole, offset)
                    yield take_leaves(batch, decoder, numbering, start, part.known_texts, read_whole)
                    start += batch.num_rows
                    on_bytes(int(share * batch.num_rows))

    def read(
        self, source_rows: Sequence[int], byte_offsets: Sequence[int], columns: Sequence[str] | None
    ) -> Iterator[dict[str, Any]]:
        """Read rows batch by batch; only the wanted rows of a batch become Python objects."""
        del byte_offsets
        with self._wrapped_errors():
            for batch in self.read_batches(source_rows, columns):
                yield from batch.to_pylist()

    def read_batches(self, source_rows: Sequence[int], columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
        """Read rows with the types of the file.

        Args:
            source_rows: Which rows, ascending.
            columns: Top-level columns to keep, where the file has them; all if None.
        """
        taken = 0
        with self._wrapped_errors():
            for start, batch in self._batches_with(source_rows, columns):
                end = bisect_left(source_rows, start + batch.num_rows, taken)
                if end > taken:
                    within_batch = [row - start for row in source_rows[taken:end]]
                    yield self._check_batch(batch, start).take(pa.array(within_batch, pa.int64()))
                taken = end
                if taken == len(source_rows):
                    return

    @contextlib.contextmanager
    def _wrapped_errors(self) -> Iterator[None]:
        """Turn pyarrow's errors into one that names the file."""
        try:
            yield
        except (pa.ArrowException, OSError, ValueError, OverflowError, KeyError, RecursionError) as error:
            raise PoolError(f"{self.name}: cannot be read as {self.title} ({error}).") from error

    def _check_batch(self, batch: pa.RecordBatch, start: int) -> pa.RecordBatch:
        """Validate column names, offsets, UTF-8 and sizes: Arrow reads a damaged file as it is, and may crash later.

        Args:
            batch: Rows of the file.
            start: Number of rows before them.

        Returns:
            The batch, with strings in place of views of strings: pyarrow cannot take rows of those.

        Raises:
            ValueError: The batch is damaged; names its rows.
        """
        for name, times in Counter(batch.schema.names).items():
            if times > 1:
                raise ValueError(f"{times} columns are named {name!r}")
        rows = f"rows {start + 1} to {start + batch.num_rows}"
        try:
            batch.validate(full=True)
        except pa.ArrowInvalid as error:
            raise ValueError(f"{rows}: {error}") from error
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            check_declared(f"bytes of text in {name!r} of {rows}", bytes_of_texts(column), text_limit(self.size))
        schema = pa.schema([field.with_type(_without_views(field.type)) for field in batch.schema])
        if schema.equals(batch.schema):
            return batch
        columns = [column.cast(field.type) for column, field in zip(batch.columns, schema, strict=True)]
        return pa.RecordBatch.from_arrays(columns, schema=schema)

    @abstractmethod
    def _num_rows(self, span: Span) -> int:
        """Return the number of rows in a span."""

    def _rows_before(self, span: Span) -> int:
        """Return the number of rows of the file before a span."""
        del span
        return 0

    @abstractmethod
    def _batches(self, columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
        """Yield all rows, with those of the top-level `columns` that exist."""

    def _batches_with(
        self, source_rows: Sequence[int], columns: Sequence[str] | None
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Yield at least the batches with some of `source_rows`, each with the number of rows before it."""
        del source_rows
        start = 0
        for batch in self._batches(columns):
            yield start, batch
            start += batch.num_rows

    def _leaf_batches(self, span: Span, decoder: LeafDecoder) -> Iterator[LeafBatch]:
        """Yield the rows of a span with at least the values at the decoder's paths and what makes their shape."""
        del span
        return map(LeafBatch, self._batches(decoder.columns))


def _shifted(read: WholeRows, offset: int) -> WholeRows:
    return lambda rows: read([offset + row for row in rows])


_NOT_VIEWS = {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}
_NOT_NULL = {pa.null(): pa.bool_()}


def _without_views(kind: pa.DataType) -> pa.DataType:
    """Return a type to cast to, with strings and bytes in place of views of them; if it has none, the type itself."""
    plain = _replace(kind, _NOT_VIEWS)
    # Arrow 25 casts a list of structs with a column of type null to a damaged array. As booleans the nulls stay null.
    return kind if plain == kind else _replace(plain, _NOT_NULL)


def _replace(kind: pa.DataType, others: Mapping[pa.DataType, pa.DataType]) -> pa.DataType:
    """Replace types at any depth of lists and structs."""
    if is_list(kind):
        item = kind.value_field.with_type(_replace(kind.value_type, others))
        return pa.list_(item) if pa.types.is_list(kind) else pa.large_list(item)
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_replace(field.type, others)) for field in kind])
    return others.get(kind, kind)


def text_dictionaries(array: pa.Array) -> Iterator[pa.DictionaryArray]:
    """Yield the texts or bytes in an array that refer to a dictionary; others take the memory that they have."""
    kind = array.type
    if pa.types.is_dictionary(kind):
        if any(is_kind(kind.value_type) for is_kind in _WITH_LENGTHS):
            yield array
    elif is_list(kind) or pa.types.is_fixed_size_list(kind):
        yield from text_dictionaries(array.flatten())
    elif pa.types.is_map(kind):
        yield from text_dictionaries(array.keys)
        yield from text_dictionaries(array.items)
    elif pa.types.is_struct(kind):
        for index in range(kind.num_fields):
            yield from text_dictionaries(array.field(index))


def bytes_of_texts(array: pa.Array) -> int:
    """Return how many bytes the texts of `text_dictionaries` take where each is written out."""
    return sum(
        pc.sum(pc.take(pc.binary_length(texts.dictionary), texts.indices.drop_null())).as_py() or 0
        for texts in text_dictionaries(array)
    )


def text_limit(size: int) -> int:
    """Return how many bytes of text a column of a batch or a row group may have in a file of `size` bytes."""
    return max(_MUCH_TEXT, _TEXT_PER_BYTE * size)


def check_declared(what: str, number: int, limit: int) -> None:
    """Raise a ValueError where a file asks for more than its size explains; to be called before it is given."""
    if number > limit:
        raise ValueError(f"it declares {number:,} {what}, more than a file of its size can hold in earnest")


def names_among(names: Iterable[str], columns: Sequence[str] | None) -> list[str]:
    """Return those of `names` that are among `columns`; all if None."""
    return [name for name in names if columns is None or name in columns]
