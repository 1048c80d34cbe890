"""ZIP: the rows that compress worst together repeat each other least.

N rows, B chosen rows. A list of rows is measured by its ratio: the bytes of `str(rows)` by those that zlib makes of it
at level 9, rounded to float32. The lower, the less redundant. Equal ratios go by the ratio by which the rows became
candidates, then by the ratio before that, then by row index.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from typing import IO, Annotated, Any

import numpy as np
from numpy.typing import NDArray

from mig_selector.arrays import Selection
from mig_selector.errors import ArgumentError, PoolError
from mig_selector.selection.method import Candidates, OnProgress, method
from mig_selector.settings import Setting, at_least


_LEVEL = 9
_WINDOW = 1 << 15
"""How far back deflate looks for repetitions, in bytes."""
_LOOKAHEAD = 262
"""How many bytes deflate wants to see before it encodes the first of them (MIN_LOOKAHEAD in zlib)."""
_BLOCK_ROWS = 16
"""Rows that a thread measures at a time; with fewer, handing them out costs more than sharing evenly gains."""
_MOST_BLOCKS = 1024


@method(
    needs={"records"},
    nested=True,
    version=2,  # 1 had equal ratios go by row index alone
    keeps_to_tokens=True,
)
def least_redundant(
    pool: Candidates,
    budget: int,
    *,
    zip_k1: Annotated[int, Setting("Candidates measured again in each round.", at_least(1), decides=True)] = 10_000,
    zip_k2: Annotated[int, Setting("Candidates kept of them.", at_least(1), decides=True)] = 200,
    zip_k3: Annotated[int, Setting("Rows chosen in each round.", at_least(1), decides=True)] = 100,
    on_progress: OnProgress,
) -> Selection:
    """Choose in rounds, each from the rows whose ratios were lowest when they were last measured.

    First each row is measured alone. Then each round has three stages:

    1. The `zip_k1` rows of lowest ratio, whenever it was measured, become candidates; equal ratios go by row index.
    2. Each candidate is measured together with all rows chosen in earlier rounds. The `zip_k2` lowest are taken out of
       the pool for good; equal ratios go by the order of stage 1.
    3. Of these, `zip_k3` are chosen one after the other, each time the row that has the lowest ratio together with the
       choices of this round alone; equal ratios go by the order of stage 2.

    The texts of all rows are in a temporary file (in ``TMPDIR``), about as large as the pool.

    Of a budget of tokens, choices that no longer fit are passed over, until no row fits that may still be chosen.

    Args:
        pool: N rows, at least ``2 * budget + zip_k1``, more if `zip_k2` is more than twice `zip_k3`.
        budget: Rows to choose; tokens, where the pool has `tokens`.
        zip_k1: Rows that a round measures.
        zip_k2: Rows that a round takes out of the pool, at most `zip_k1`.
        zip_k3: Rows that a round chooses, at most `zip_k2`; the last round ends at the budget.
        on_progress: Called after each choice, with 1 or the tokens of the row.

    Returns:
        The rows that the published algorithm chooses, cut to the budget. A gain is the ratio of the round's choices up
        to and with this one, those passed over included: low is good.

    Raises:
        ArgumentError: The settings contradict each other, or the pool is too small for them.
        PoolError: The temporary file cannot be written.

    Source: ZIP (arXiv 2407.06645), Algorithm 1, and the defaults of its published code, which leaves the order of
    equal ratios to `torch.topk`, and chooses rows again when fewer than `zip_k1` are left.
    """
    _check_settings(zip_k1, zip_k2, zip_k3)
    tokens = pool.tokens
    if tokens is None:
        _check_pool(len(pool), budget, zip_k1, zip_k2, zip_k3)
    rows, gains = list[int](), list[float]()
    cores = len(os.sched_getaffinity(0))
    with _kept_texts(pool.records()) as texts, ThreadPoolExecutor(cores) as threads:
        meter = _Meter(texts, threads)
        ratios = meter.measure(CompressedList(), np.arange(len(pool)))
        choices = _choose(meter, ratios, zip_k1, zip_k2, zip_k3)
        fitting = (
            islice(choices, budget)
            if tokens is None
            else _take_fitting(choices, ratios, tokens, budget, zip_k1, zip_k3)
        )
        for row, ratio in fitting:
            rows.append(row)
            gains.append(ratio)
            on_progress(1 if tokens is None else int(tokens[row]))
    return Selection(np.array(rows, np.int64), np.array(gains))


def _check_settings(k1: int, k2: int, k3: int) -> None:
    if not k1 >= k2 >= k3 >= 1:
        raise ArgumentError(
            f"mig_zip_k1, mig_zip_k2, mig_zip_k3: {k1}, {k2}, {k3} are not allowed together; "
            "expected mig_zip_k1 >= mig_zip_k2 >= mig_zip_k3 >= 1."
        )


def _check_pool(num_rows: int, budget: int, k1: int, k2: int, k3: int) -> None:
    taken_out = (budget - 1) // k3 * k2
    needed = max(2 * budget, taken_out) + k1
    if num_rows < needed:
        raise ArgumentError(
            f"mig_num_samples: to choose {budget} rows with mig_zip_k1 {k1}, mig_zip_k2 {k2} and mig_zip_k3 {k3}, zip "
            f"needs a pool of {needed} rows, but this one has {num_rows} to choose from; "
            "choose fewer, or lower mig_zip_k1 or mig_zip_k2."
        )


def _take_fitting(
    choices: Iterator[tuple[int, float]],
    ratios: NDArray[np.float32],
    tokens: NDArray[np.int64],
    budget: int,
    k1: int,
    k3: int,
) -> Iterator[tuple[int, float]]:
    """Yield the choices that fit in what is left of a budget of tokens.

    Raises:
        ArgumentError: Every choice fits, but too few rows are left for another round.
    """
    left, num_seen, num_taken = budget, 0, 0
    for row, ratio in choices:
        num_seen += 1
        if tokens[row] <= left:
            left -= int(tokens[row])
            num_taken += 1
            yield row, ratio
        is_round_over = num_seen % k3 == 0
        if is_round_over and not np.any(tokens[np.isfinite(ratios)] <= left):
            return
    if num_taken == num_seen:
        raise ArgumentError(
            f"mig_num_tokens: {budget} tokens are asked for, but zip chooses only {num_taken} of {len(tokens)} rows, "
            f"with {budget - left} tokens; then fewer than mig_zip_k1: {k1} rows are left. Ask for fewer, or lower "
            "mig_zip_k1 or mig_zip_k2."
        )


def _choose(meter: _Meter, ratios: NDArray[np.float32], k1: int, k2: int, k3: int) -> Iterator[tuple[int, float]]:
    """Yield rows and their ratios, round after round, for as long as the pool lasts.

    Args:
        meter: Measures rows.
        ratios: Of each row alone; brought up to date, and infinite for rows that are out of the pool. Shape (N,).
        k1: Rows that a round measures.
        k2: Rows that it takes out of the pool.
        k3: Rows that it chooses.
    """
    chosen = CompressedList()
    while np.count_nonzero(np.isfinite(ratios)) >= k1:
        candidates = _lowest(ratios, k1)
        ratios[candidates] = meter.measure(chosen, candidates)
        taken_out = candidates[_lowest(ratios[candidates], k2)]
        ratios[taken_out] = np.inf
        for row, ratio in _choose_greedily(meter, taken_out, k3):
            yield row, ratio
            chosen.append(meter.texts[row])


def _choose_greedily(meter: _Meter, rows: NDArray[np.int64], count: int) -> Iterator[tuple[int, float]]:
    """Yield `count` of some rows and their ratios; of equal ratios the row that comes first in `rows`."""
    chosen = CompressedList()
    for _ in range(count):
        ratios = meter.measure(chosen, rows)
        lowest = int(np.argmin(ratios))
        yield int(rows[lowest]), float(ratios[lowest])
        chosen.append(meter.texts[int(rows[lowest])])
        rows = np.delete(rows, lowest)


def _lowest(ratios: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Return the indices of the `count` lowest ratios, lowest first; of equal ratios the first indices, ascending."""
    limit = np.partition(ratios, count - 1)[count - 1]
    # The limit may occur more often than there is room for. Only what is kept gets sorted, not the whole pool.
    below, equal = np.flatnonzero(ratios < limit), np.flatnonzero(ratios == limit)
    found = np.concatenate((below, equal[: count - len(below)]))
    lowest: NDArray[np.int64] = found[np.argsort(ratios[found], kind="stable")]
    return lowest


class CompressedList:
    """`str` of a growing list of rows, compressed as far as it is settled whatever row comes next.

    So a further row costs the compression of that row, however long the list is, and yields the size that
    `zlib.compress` makes of the whole text.
    """

    def __init__(self) -> None:
        """Begin with no row."""
        self._stream = zlib.compressobj(_LEVEL)
        self._num_given = self._num_made = 0
        self._held_back = b"["

    def ratio_with(self, text: bytes) -> float:
        """Return the ratio of the list with one row more, not yet rounded to float32.

        Args:
            text: `str` of the row as UTF-8.
        """
        stream, ending = self._stream.copy(), self._held_back + text + b"]"
        size = self._num_made + len(stream.compress(ending)) + len(stream.flush())
        return (self._num_given + len(ending)) / size

    def append(self, text: bytes) -> None:
        """Add a row."""
        settled = self._held_back + text + b", "
        # zlib moves its window on when it stands _LOOKAHEAD bytes before the window's end. Were it to wait for input
        # there, it would move too early, and miss a match that it finds when the whole text is at hand.
        surplus = (self._num_given + len(settled)) % _WINDOW - (_WINDOW - _LOOKAHEAD)
        end = len(settled) - max(surplus, 0)
        self._num_made += len(self._stream.compress(settled[:end]))
        self._num_given += end
        self._held_back = settled[end:]


class _RowTexts:
    """`str` of each row as UTF-8, in a file: together they may be larger than memory."""

    def __init__(self, stream: IO[bytes], records: Iterable[dict[str, Any]]) -> None:
        """Write the rows to `stream`, which is empty and stays open."""
        lengths = np.fromiter((stream.write(str(record).encode()) for record in records), np.int64)
        stream.flush()
        self._file = stream.fileno()
        self._bounds = np.concatenate((np.zeros(1, np.int64), np.cumsum(lengths)))

    def __getitem__(self, row: int) -> bytes:
        start, end = self._bounds[row : row + 2].tolist()
        return os.pread(self._file, end - start, start)


@contextlib.contextmanager
def _kept_texts(records: Iterable[dict[str, Any]]) -> Iterator[_RowTexts]:
    try:
        with tempfile.TemporaryFile() as stream:
            yield _RowTexts(stream, records)
    except OSError as error:
        if error.filename is not None:  # a file of the pool
            raise
        raise PoolError(
            f"{tempfile.gettempdir()}: the texts of the pool's rows cannot be kept here ({error.strerror}); zip needs "
            "about as much room as the pool takes. Make room, or name another folder in TMPDIR."
        ) from error


@dataclass(frozen=True)
class _Meter:
    """Measures rows on all cores: zlib works without the interpreter's lock."""

    texts: _RowTexts
    threads: ThreadPoolExecutor

    def measure(self, together_with: CompressedList, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the ratio of a list with each of some rows added alone. Shape of `rows`."""

        def measure_block(block: NDArray[np.int64]) -> list[float]:
            return [together_with.ratio_with(self.texts[row]) for row in block.tolist()]

        blocks = np.array_split(rows, min(-(-len(rows) // _BLOCK_ROWS), _MOST_BLOCKS))
        ratios = chain.from_iterable(self.threads.map(measure_block, blocks))
        return np.fromiter(ratios, np.float32, len(rows))
