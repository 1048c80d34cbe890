"""The values at the wanted paths of many rows, as arrays: what a pass over a file hands on, batch by batch."""

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
    """A list of values for each of n rows; a single value is a list of one, and nothing is an empty list."""

    starts: NDArray[np.int64]
    """Where each row's values begin in `values`. Shape (n,)."""
    lengths: NDArray[np.int64]
    """Shape (n,)."""
    values: NDArray[Any]

    @classmethod
    def of_lists(cls, lists: Sequence[Sequence[Any]], values: NDArray[Any]) -> Self:
        """Take the lengths from `lists` and the values, one list after the other, from `values`."""
        lengths = np.fromiter(map(len, lists), np.int64, len(lists))
        return cls(np.cumsum(lengths) - lengths, lengths, values)

    @property
    def flat(self) -> NDArray[Any]:
        """The values of all rows, one after the other."""
        return self.values[self._places()]

    @property
    def owners(self) -> NDArray[np.int64]:
        """The row of each value in `flat`."""
        return np.repeat(np.arange(len(self.starts)), self.lengths)

    def take(self, rows: NDArray[Any]) -> Ragged:
        """Keep the rows that a mask or a list of indices names."""
        return Ragged(self.starts[rows], self.lengths[rows], self.values)

    def _places(self) -> NDArray[np.int64] | slice:
        ends = np.cumsum(self.lengths)
        if len(ends) and np.array_equal(self.starts, ends - self.lengths):
            return slice(0, int(ends[-1]))  # they stand one after the other already
        shifts: NDArray[np.int64] = np.repeat(self.starts - (ends - self.lengths), self.lengths)
        return np.arange(len(shifts)) + shifts


@dataclass(frozen=True)
class Leaves:
    """What stands at the wanted paths of n rows that follow each other."""

    labels: Ragged
    """Labels as positions in a `Numbering`."""
    scores: list[Ragged]
    """Numbers (float64) at each score path."""
    is_plain: NDArray[np.bool_]
    """Whether the arrays tell all there is: a row whose labels are texts or absent, its scores numbers or absent."""
    of_row: Callable[[int], tuple[Any, ...] | Unreadable]
    """The values of one row as they stand in the file: for the rows that are not plain, and for messages."""
    places: NDArray[np.int64]
    """Where each row is, for people, counted from the beginning of the pass: line or row, from 1 on. Shape (n,)."""
    end_place: int
    """Places passed when the batch ends, blank lines included."""
    positions: NDArray[np.int64] | None = None
    """Byte offset of each row in its file, where the format has one."""
    digests: NDArray[np.uint64] | None = None
    """64-bit hash of each row's text, to count duplicates; None for formats that are not read whole."""

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.places)


class Numbering(dict[str, int]):
    """Label names, numbered in the order in which they are first looked up."""

    def __missing__(self, name: str) -> int:
        """Give a name that was never seen the next number."""
        self[name] = number = len(self)
        return number

    def of_all(self, names: Iterable[str]) -> NDArray[np.int32]:
        """Return the numbers of `names`."""
        return np.fromiter(map(self.__getitem__, names), np.int32)


class LeafBuilder:
    """Gathers rows that were read as text, and makes `Leaves` of them."""

    def __init__(self, decoder: LeafDecoder, numbering: Numbering) -> None:
        """Take what stands at the decoder's paths, and number its labels."""
        self._decoder = decoder
        self._numbering = numbering
        self._rows: list[tuple[Any, ...]] = []
        self._odd: dict[int, Callable[[], tuple[Any, ...] | Unreadable]] = {}
        self._digests: list[int] = []
        self._places: list[NDArray[np.int64]] = []
        self._positions: list[NDArray[np.int64]] = []

    def add_json(
        self,
        texts: Sequence[bytes | memoryview],
        places: NDArray[np.int64],
        positions: NDArray[np.int64] | None = None,
        *,
        is_utf8: bool,
    ) -> None:
        """Decode rows of JSON; `is_utf8` says that all are known to be UTF-8. Empty is one that is too long."""
        decode = self._decoder.decode_plain
        rows = [decode(text) if is_utf8 or holds_utf8(text) else None for text in texts]
        odd = {
            place: partial(self._decoder.decode, bytes(text))
            for place, text in enumerate(texts)
            if rows[place] is None
        }
        self._add(rows, odd, texts, places)
        if positions is not None:
            self._positions.append(positions)

    def add_values(
        self,
        values: Sequence[tuple[Any, ...] | Unreadable],
        texts: Sequence[bytes | memoryview],
        places: NDArray[np.int64],
    ) -> None:
        """Take rows with values of any kind, each to be judged on its own."""
        odd = {place: partial(_identity, value) for place, value in enumerate(values)}
        self._add([None] * len(values), odd, texts, places)

    def _add(
        self,
        rows: Sequence[tuple[Any, ...] | None],
        odd: Mapping[int, Callable[[], tuple[Any, ...] | Unreadable]],
        texts: Sequence[bytes | memoryview],
        places: NDArray[np.int64],
    ) -> None:
        """Add rows of labels and scores, each None where absent; of a row that is None, `odd` tells if asked."""
        absent = (None,) * len(self._decoder.paths)
        first = len(self._rows)
        self._rows += [absent if row is None else row for row in rows]
        self._odd.update({first + place: values for place, values in odd.items()})
        self._digests += map(xxh3_64_intdigest, texts)
        self._places.append(places)

    def build(self, end_place: int) -> Leaves:
        """Make leaves of the rows, and begin anew; `end_place` lines have been passed."""
        rows, odd = self._rows, self._odd
        columns = list(zip(*rows, strict=True)) or [()] * len(self._decoder.paths)
        labels = [row or () for row in columns[0]]
        is_plain = np.ones(len(rows), np.bool_)
        is_plain[list(odd)] = False
        leaves = Leaves(
            labels=Ragged.of_lists(labels, self._numbering.of_all(chain.from_iterable(labels))),
            scores=[_numbers(column) for column in columns[1:]],
            is_plain=is_plain,
            of_row=lambda row: odd[row]() if row in odd else rows[row],
            places=np.concatenate([np.zeros(0, np.int64), *self._places]),
            end_place=end_place,
            positions=np.concatenate(self._positions) if self._positions else None,
            digests=np.array(self._digests, np.uint64),
        )
        self._rows, self._odd, self._digests, self._places, self._positions = [], {}, [], [], []
        return leaves


def _identity(value: tuple[Any, ...] | Unreadable) -> tuple[Any, ...] | Unreadable:
    return value


def holds_utf8(text: bytes | memoryview) -> bool:
    """Check a text many times faster than by decoding it."""
    offsets = pa.py_buffer(np.array([0, len(text)], np.int64))
    try:
        pa.LargeStringArray.from_buffers(1, offsets, pa.py_buffer(text)).validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _numbers(column: Sequence[Any]) -> Ragged:
    lists = [value if type(value) is list else () if value is None else (value,) for value in column]
    return Ragged.of_lists(lists, np.fromiter(chain.from_iterable(lists), np.float64))
