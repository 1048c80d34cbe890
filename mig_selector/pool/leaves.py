"""The values at the wanted paths of many rows, as arrays: what a pass over a file hands on, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from mig_selector.pool.decoder import LeafDecoder
from mig_selector.pool.verdicts import Unreadable


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


class LeafCollector:
    """Gathers rows that were decoded one by one into `Leaves`."""

    def __init__(self, num_scores: int, numbering: Numbering) -> None:
        """Start with no rows; each has labels and `num_scores` scores."""
        self._numbering = numbering
        self._columns: list[list[Any]] = [[] for _ in range(1 + num_scores)]
        self._absent = ((),) * (1 + num_scores)
        self._odd: dict[int, tuple[Any, ...] | Unreadable] = {}
        self._places: list[int] = []
        self._positions: list[int] = []
        self._digests: list[int] = []

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._columns[0])

    def add_line(self, line: bytes, place: int, position: int | None, decoder: LeafDecoder) -> None:
        """Add a row of JSON; `position` is its byte offset, where that leads back to it."""
        values = decoder.decode_plain(line)
        if values is None:
            self.add_odd(decoder.decode(line), line, place)
        else:
            self._add(values, line, place)
        if position is not None:
            self._positions.append(position)

    def add_odd(self, values: tuple[Any, ...] | Unreadable, text: bytes, place: int) -> None:
        """Add a row of which arrays cannot tell all."""
        self._odd[len(self)] = values
        self._add(self._absent, text, place)

    def _add(self, values: tuple[Any, ...], text: bytes, place: int) -> None:
        for column, value in zip(self._columns, values, strict=True):
            column.append(value)
        self._places.append(place)
        self._digests.append(xxh3_64_intdigest(text))

    def collect(self, end_place: int) -> Leaves:
        """Return the rows gathered so far; `end_place` lines have been passed."""
        labels, *scores = self._columns
        lists = [row or () for row in labels]
        is_plain = np.ones(len(self), np.bool_)
        is_plain[list(self._odd)] = False
        return Leaves(
            labels=Ragged.of_lists(lists, self._numbering.of_all(chain.from_iterable(lists))),
            scores=[_numbers(column) for column in scores],
            is_plain=is_plain,
            of_row=self._of_row,
            places=np.array(self._places, np.int64),
            end_place=end_place,
            positions=np.array(self._positions, np.int64) if self._positions else None,
            digests=np.array(self._digests, np.uint64),
        )

    def _of_row(self, row: int) -> tuple[Any, ...] | Unreadable:
        return self._odd[row] if row in self._odd else tuple(column[row] for column in self._columns)


def _numbers(column: Sequence[Any]) -> Ragged:
    lists = [value if type(value) is list else () if value is None or value == () else (value,) for value in column]
    return Ragged.of_lists(lists, np.fromiter(chain.from_iterable(lists), np.float64))
