"""The values at the wanted paths of a batch of rows, as arrays: what a scan of a file yields."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from mig_selector.pool.leaves.decoder import LeafDecoder
from mig_selector.pool.leaves.verdicts import Unreadable


@dataclass(frozen=True)
class Ragged:
    """A list of values for each of n rows; a single value is a list of one, an absent value an empty list."""

    starts: NDArray[np.int64]
    """Where each row's values begin in `values`. Shape (n,)."""
    lengths: NDArray[np.int64]
    """Number of values of each row. Shape (n,)."""
    values: NDArray[Any]

    @classmethod
    def of_lists(cls, lists: Sequence[Sequence[Any]], values: NDArray[Any]) -> Self:
        """Take the lengths from `lists`, and from `values` their items, one list after the other."""
        lengths = np.fromiter(map(len, lists), np.int64, len(lists))
        return cls(np.cumsum(lengths) - lengths, lengths, values)

    @classmethod
    def of_parts(cls, parts: Sequence[Ragged], count: int) -> Ragged:
        """Join for each of `count` rows the values that it has in several parts, in their order."""
        if len(parts) == 1:
            return parts[0]
        owners = np.concatenate([np.zeros(0, np.int64), *(part.owners for part in parts)])
        values = np.concatenate([np.zeros(0, np.int32), *(part.flat for part in parts)])
        lengths = np.bincount(owners, minlength=count)
        return cls(np.cumsum(lengths) - lengths, lengths, values[np.argsort(owners, kind="stable")])

    @property
    def flat(self) -> NDArray[Any]:
        """The values of all rows, one row after the other."""
        ends = np.cumsum(self.lengths)
        if len(ends) and np.array_equal(self.starts, ends - self.lengths):
            in_order: NDArray[Any] = self.values[: int(ends[-1])]
            return in_order  # a view, no copy
        shifts: NDArray[np.int64] = np.repeat(self.starts - (ends - self.lengths), self.lengths)
        gathered: NDArray[Any] = self.values[np.arange(len(shifts)) + shifts]
        return gathered

    @property
    def owners(self) -> NDArray[np.int64]:
        """The row of each value in `flat`."""
        return np.repeat(np.arange(len(self.starts)), self.lengths)

    def take(self, rows: NDArray[Any]) -> Ragged:
        """Keep the rows that a mask or a list of indices selects."""
        return Ragged(self.starts[rows], self.lengths[rows], self.values)


@dataclass(frozen=True)
class Leaves:
    """The values at the wanted paths of n consecutive rows."""

    labels: Ragged
    """Labels as ids in a `Numbering`."""
    scores: list[Ragged]
    """Numbers (float64) at each score path."""
    is_plain: NDArray[np.bool_]
    """Whether the arrays hold all values of a row: its labels are strings or absent, its scores numbers or absent, and
    it has a shape if shapes are wanted. For other rows their content is undefined. Shape (n,)."""
    of_row: Callable[[int], tuple[Any, ...] | Unreadable]
    """Returns the values of one row as the file has them, for rows that are not plain, and for messages. If shapes are
    wanted, the row itself follows, or an example of its shape if it is plain."""
    lines: NDArray[np.int64]
    """Line (or row) number of each row, counted from 1 at the beginning of the scan. Shape (n,)."""
    end_line: int
    """Lines (or rows) from the beginning of the scan to the end of the batch, blank lines included."""
    byte_offsets: NDArray[np.int64] | None = None
    """Where each row begins in its file, in formats whose rows are found by offset. Shape (n,)."""
    digests: NDArray[np.uint64] | None = None
    """64-bit hash of each row's text, to count duplicates; None for formats of which only some columns are read."""
    shapes: NDArray[np.int32] | None = None
    """Number of each row's shape in the decoder's `Shapes`; None if shapes are not wanted. Shape (n,)."""

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.lines)


class Numbering(dict[str, int]):
    """Label names to ids, given in the order in which names are first looked up."""

    def __missing__(self, name: str) -> int:
        """Give a new name the next id."""
        self[name] = number = len(self)
        return number

    def of_all(self, names: Iterable[str]) -> NDArray[np.int32]:
        """Return the ids of `names`."""
        return np.fromiter(map(self.__getitem__, names), np.int32)


class LeafBuilder:
    """Collects rows that are read as text, and turns them into `Leaves`."""

    def __init__(self, decoder: LeafDecoder, numbering: Numbering) -> None:
        """Collect the values at the paths of `decoder`; labels get their ids from `numbering`."""
        self._decoder = decoder
        self._numbering = numbering
        self._rows: list[tuple[Any, ...]] = []
        self._odd: dict[int, Callable[[], tuple[Any, ...] | Unreadable]] = {}
        self._digests: list[int] = []
        self._lines: list[NDArray[np.int64]] = []
        self._byte_offsets: list[NDArray[np.int64]] = []

    def add_json(
        self,
        texts: Sequence[bytes | memoryview],
        lines: NDArray[np.int64],
        byte_offsets: NDArray[np.int64] | None = None,
        *,
        is_utf8: bool,
    ) -> None:
        """Decode rows of JSON.

        Args:
            texts: One for each row; an empty one stands for a row that is too long.
            lines: Line number of each row.
            byte_offsets: Where each row begins in the file.
            is_utf8: All texts are known to be UTF-8; otherwise each is checked.
        """
        decode = self._decoder.decode_plain
        rows = [decode(text) if is_utf8 or holds_utf8(text) else None for text in texts]
        # Only the few rows that need a second look are copied out of the block they are slices of. They are decoded
        # when asked for, because a strict run stops at the first one that is unreadable.
        odd = {
            index: partial(self._decoder.decode, bytes(text))
            for index, text in enumerate(texts)
            if rows[index] is None
        }
        self._add(rows, odd, texts, lines)
        if byte_offsets is not None:
            self._byte_offsets.append(byte_offsets)

    def add_values(
        self,
        values: Sequence[tuple[Any, ...] | Unreadable],
        texts: Sequence[bytes | memoryview],
        lines: NDArray[np.int64],
    ) -> None:
        """Take rows with values of any type, each to be judged on its own."""
        odd = {index: partial(_return, value) for index, value in enumerate(values)}
        self._add([None] * len(values), odd, texts, lines)

    def _add(
        self,
        rows: Sequence[tuple[Any, ...] | None],
        odd: Mapping[int, Callable[[], tuple[Any, ...] | Unreadable]],
        texts: Sequence[bytes | memoryview],
        lines: NDArray[np.int64],
    ) -> None:
        """Add rows of labels, scores and shapes; for a row that is None `odd` returns the values."""
        absent = (None,) * len(self._decoder.ways) + ((0,) if self._decoder.shapes is not None else ())
        first = len(self._rows)
        self._rows += [absent if row is None else row for row in rows]
        self._odd.update({first + index: values for index, values in odd.items()})
        self._digests += map(xxh3_64_intdigest, texts)
        self._lines.append(lines)

    def build(self, end_line: int) -> Leaves:
        """Turn the collected rows into leaves, and begin the next batch; `end_line` lines have been read."""
        rows, odd = self._rows, self._odd
        num_labels, num_values = len(self._decoder.labels.paths), len(self._decoder.ways)
        columns = list(zip(*rows, strict=True)) or [()] * (num_values + 1)
        is_plain = np.ones(len(rows), np.bool_)
        is_plain[list(odd)] = False
        leaves = Leaves(
            labels=Ragged.of_parts([self._labels(column) for column in columns[:num_labels]], len(rows)),
            scores=[_numbers(column) for column in columns[num_labels:num_values]],
            is_plain=is_plain,
            of_row=lambda row: odd[row]() if row in odd else self._decoder.of_shape(rows[row]),
            lines=np.concatenate([np.zeros(0, np.int64), *self._lines]),
            end_line=end_line,
            byte_offsets=np.concatenate(self._byte_offsets) if self._byte_offsets else None,
            digests=np.array(self._digests, np.uint64),
            shapes=None if self._decoder.shapes is None else np.array(columns[num_values], np.int32),
        )
        self._rows, self._odd, self._digests, self._lines, self._byte_offsets = [], {}, [], [], []
        return leaves

    def _labels(self, column: Sequence[list[str] | str | None]) -> Ragged:
        split = self._decoder.labels.split
        lists = [split(value) if type(value) is str else value or () for value in column]
        return Ragged.of_lists(lists, self._numbering.of_all(chain.from_iterable(lists)))


def _return(value: tuple[Any, ...] | Unreadable) -> tuple[Any, ...] | Unreadable:
    return value


def holds_utf8(text: bytes | memoryview) -> bool:
    """Whether a text is UTF-8: Arrow checks it many times faster than Python decodes it, and without a copy."""
    offsets = pa.py_buffer(np.array([0, len(text)], np.int64))
    try:
        pa.LargeStringArray.from_buffers(1, offsets, pa.py_buffer(text)).validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _numbers(column: Sequence[Any]) -> Ragged:
    lists = [value if type(value) is list else () if value is None else (value,) for value in column]
    return Ragged.of_lists(lists, np.fromiter(chain.from_iterable(lists), np.float64))
