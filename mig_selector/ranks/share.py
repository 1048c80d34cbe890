"""Run a model over millions of rows: rank 0 reads the rows, every rank computes, rank 0 stores the results.

The batches that the model sees depend on the rows alone, not on the number of ranks nor on where an earlier run
stopped. Rows are taken in chunks of a fixed size; each chunk is sorted by length and cut into batches of about the
same number of tokens, so that there is little padding. The ranks share a round: as many chunks as there are ranks, or
more of them if a round takes less than `_ROUND_SECONDS`.
(The last bit of a result can still depend on the number of threads per rank on a CPU, because numerical libraries then
sum in another order, and on the memory of a GPU, where a batch that is too large is halved.)

Each text is tokenized once: a rank encodes its part of a round as arrays of integers, which all ranks exchange. While
the model computes a round, threads read the round after the next, encode the next, and store the one before. A rank
waits for the others once a round: there it sends its results and tokens and receives its part of the text. Only the
main thread uses the process group; nothing is pickled.

Dimension letters: m items of a batch or a round, W numbers for each item.
"""

from __future__ import annotations

import contextlib
import heapq
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from itertools import islice, zip_longest
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mig_selector.errors import ArgumentError
from mig_selector.ranks.exchange import gather_arrays, gather_rows, scatter
from mig_selector.ranks.group import all_threads, process_group
from mig_selector.ranks.models import free_memory
from mig_selector.ranks.world import Ranks


logger = logging.getLogger(__name__)

Encoded: TypeAlias = NDArray[np.int32]
"""What a model needs of one item, one-dimensional."""

CHUNK_ITEMS = 1_024
"""Items sorted together. When a run is killed, the rounds that are under way are lost."""
_ROUND_SECONDS = 2.0
"""Shorter rounds grow, as the ranks wait for the slowest at the end of each; far longer ones shrink."""
_MOST_CHUNKS = 32
"""For each rank; a round is held in memory."""
GPU_TOKENS, CPU_TOKENS = 16_384, 1_024
"""Tokens per batch, padding included: enough to keep a GPU busy; few enough to stay in the caches of a CPU."""


class RowModel(Protocol):
    """A model that computes W numbers for each item; items must be JSON-serialisable."""

    width: int
    """W."""
    batch_tokens: int
    """Most tokens per batch, padding included; an item that is longer gets a batch of its own."""

    def encode(self, items: Sequence[Any]) -> Sequence[Encoded]:
        """Return what `compute` needs of each item: its tokens, with whatever else it needs as integers.

        The length of an array counts as the item's number of tokens. Called in a thread, which is the only one that
        uses the tokenizer, with at least one item.
        """
        ...

    def compute(self, batch: Sequence[Encoded]) -> Any:
        """Return a float32 tensor of shape (m, W), one row for each of m encoded items."""
        ...


class Matrix(Protocol):
    """Storage for the results, such as a `store.matrix.MatrixFile`; used on rank 0 only."""

    def locked(self) -> AbstractContextManager[None]:
        """Keep other runs from filling this matrix while the block runs."""
        ...

    def is_complete(self) -> bool:
        """Return whether all rows have been stored."""
        ...

    def begin(self, width: int) -> int:
        """Prepare for rows of `width` numbers (W); return the number of rows already stored."""
        ...

    def append(self, rows: NDArray[np.float32]) -> None:
        """Store the next rows, shape (m, W), so that they survive a crash. Called in a thread."""
        ...

    def finish(self) -> None:
        """Close the matrix; called once all rows are stored."""
        ...


def tokens_per_batch(device: Any) -> int:
    """Return the number of tokens per batch for a torch device, for models that set no limit themselves."""
    return CPU_TOKENS if device.type == "cpu" else GPU_TOKENS


def fill_matrix(
    matrix: Matrix,
    items: Callable[[], Iterable[Any]],
    load: Callable[[Any], RowModel],
    ranks: Ranks,
    on_items: Callable[[int], object],
) -> None:
    """Compute a row for every item, resuming where an earlier run stopped. Must be called on every rank.

    Args:
        matrix: Filled in the order of the items.
        items: Called on rank 0 only; yields the items.
        load: Loads the model onto the given device; called on every rank.
        ranks: The ranks that share the work.
        on_items: Called with the number of items finished since the last call, assuming equally fast ranks; first with
            the number that an earlier run finished.

    Raises:
        RemoteError: Another rank failed.
    """
    with matrix.locked() if ranks.is_main else contextlib.nullcontext():
        if ranks.decide(matrix.is_complete):
            return
        with all_threads(ranks), process_group(ranks) as state:
            # No variable here holds the model: it must be garbage by the time free_memory runs.
            _compute_missing_rows(matrix, items, ranks.agree(lambda: load(state.device)), ranks, state, on_items)
            free_memory()
        if ranks.is_main:
            matrix.finish()


def _compute_missing_rows(
    matrix: Matrix,
    items: Callable[[], Iterable[Any]],
    model: RowModel,
    ranks: Ranks,
    state: Any,
    on_items: Callable[[int], object],
) -> None:
    """Append the rows that the matrix does not hold yet."""
    done = ranks.decide(lambda: matrix.begin(model.width))
    on_items(done)
    remaining = islice(items(), done, None) if ranks.is_main else iter(())
    compute_shared(remaining, model, state, matrix.append, on_items)


def compute_shared(
    items: Iterator[Any],
    model: RowModel,
    state: Any,
    store: Callable[[NDArray[np.float32]], object],
    on_items: Callable[[int], object],
) -> None:
    """Compute the results of a stream of items on all ranks, each of which must call this.

    If reading fails, the rounds before are still computed and stored.

    Args:
        items: Only those of rank 0 are used.
        model: The same model on every rank.
        state: accelerate's PartialState, with a process group if there are several ranks.
        store: Called in a thread of rank 0 with the results of each round, shape (m, W), in the items' order.
        on_items: Called with the number of items finished since the last call, assuming equally fast ranks.
    """
    with _thread() as reader, _thread() as tokenizer, _thread() as writer:
        rounds = _Rounds(items, state, reader)
        encoded = tokenizer.submit(_encode, rounds.next_part(), model)
        stored: Future[object] | None = None
        begun = time.monotonic()
        while tokens := gather_arrays(encoded.result(), state):
            encoded = tokenizer.submit(_encode, rounds.next_part(), model)
            lengths = np.array(list(map(len, tokens)), np.int64)
            shares = deal_batches(_batches_of_round(lengths, model.batch_tokens), lengths, state.num_processes)
            results = _compute_share(shares, tokens, model, state, on_items)
            rows = _gather_in_order(results, shares, state)
            if stored is not None:
                stored.result()
            if state.is_main_process:
                stored = writer.submit(store, rows)
            # The wait for texts counts: where it is reading that takes time, larger rounds would only take memory.
            begun, before = time.monotonic(), begun
            rounds.resize(len(tokens), begun - before)
        if stored is not None:
            stored.result()
        if rounds.failure is not None:
            raise rounds.failure


@contextlib.contextmanager
def _thread() -> Iterator[Executor]:
    """Run one thread; what it has not begun when the block ends is left undone."""
    executor = ThreadPoolExecutor(1)
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)


class _Rounds:
    """The items of rank 0, round by round, a part of each for every rank; the next round is read ahead."""

    def __init__(self, items: Iterator[Any], state: Any, reader: Executor) -> None:
        self._items, self._state, self._reader = items, state, reader
        self._size = self._least = CHUNK_ITEMS * state.num_processes
        self._is_first = True
        self.failure: BaseException | None = None
        """What ended the rounds early, if anything did."""
        self._ahead = reader.submit(self._read)

    def next_part(self) -> Any:
        """Return this rank's part of the next round; all are empty after the last round."""
        parts = self._ahead.result()
        self._ahead = self._reader.submit(self._read)
        return scatter(parts, self._state) if self._state.num_processes > 1 else parts[0]

    def resize(self, num_items: int, seconds: float) -> None:
        """Make later rounds larger if one of `num_items` took few seconds, and smaller if it took many."""
        if num_items != self._size:  # an earlier size
            return
        if seconds < _ROUND_SECONDS:
            self._size = min(2 * self._size, _MOST_CHUNKS * self._least)
        elif seconds > 4 * _ROUND_SECONDS:
            self._size = max(self._size // 2, self._least)

    def _read(self) -> list[Any]:
        """Return the parts of the next items, as JSON if there are other ranks to send them to."""
        size = self._state.num_processes
        items: list[Any] = []
        if self._state.is_main_process and self.failure is None:
            # The first round is one chunk: the models wait until it has been read and encoded.
            num_items, self._is_first = CHUNK_ITEMS if self._is_first else self._size, False
            try:
                items = list(islice(self._items, num_items))
            except BaseException as error:  # noqa: BLE001  raised when the rounds before have been stored
                self.failure = error
        if size == 1:
            return [items]
        length = -(-len(items) // size)
        return [json.dumps(items[rank * length : (rank + 1) * length]).encode("ascii") for rank in range(size)]


def _encode(part: Any, model: RowModel) -> Sequence[Encoded]:
    """Encode this rank's part of a round, a list of items or its JSON."""
    items = json.loads(part) if isinstance(part, bytes) else part
    return model.encode(items) if items else []


def cut_batches(token_counts: NDArray[np.int64], batch_tokens: int) -> list[NDArray[np.int64]]:
    """Cut items into batches, longest items first; items of equal length keep their order.

    Args:
        token_counts: Length of each item. Shape (m,).
        batch_tokens: Upper bound on the number of rows times the longest row; a single longer item is allowed.

    Returns:
        The item indices of each batch.
    """
    # Longest first: a batch that is too large for the memory fails at the start of a chunk, not in its middle.
    order = np.argsort(-token_counts, kind="stable")
    batches = []
    start = 0
    while start < len(order):
        size = max(batch_tokens // max(int(token_counts[order[start]]), 1), 1)
        batches.append(order[start : start + size])
        start += size
    return batches


def _batches_of_round(token_counts: NDArray[np.int64], batch_tokens: int) -> list[NDArray[np.int64]]:
    """Cut each chunk of a round into batches; return those of all chunks, those with the longest items first."""
    starts = range(0, len(token_counts), CHUNK_ITEMS)
    chunks = (cut_batches(token_counts[start : start + CHUNK_ITEMS], batch_tokens) for start in starts)
    batches = [batch + start for start, chunk in zip(starts, chunks, strict=True) for batch in chunk]
    return sorted(batches, key=lambda batch: -token_counts[batch[0]])


def deal_batches(
    batches: Iterable[NDArray[np.int64]], token_counts: NDArray[np.int64], num_ranks: int
) -> list[list[NDArray[np.int64]]]:
    """Give each batch to the rank that has the fewest tokens so far, padding included.

    Returns:
        The batches of each rank. Their sums of tokens differ by a batch at most.
    """
    shares: list[list[NDArray[np.int64]]] = [[] for _ in range(num_ranks)]
    loads = [(0, rank) for rank in range(num_ranks)]  # a heap
    for batch in batches:
        load, rank = loads[0]
        shares[rank].append(batch)
        heapq.heapreplace(loads, (load + len(batch) * max(int(token_counts[batch[0]]), 1), rank))
    return shares


def _compute_share(
    shares: Sequence[Sequence[NDArray[np.int64]]],
    items: Sequence[Encoded],
    model: RowModel,
    state: Any,
    on_items: Callable[[int], object],
) -> Any:
    """Compute this rank's batches; a tensor of shape (rows, W), in the order of its batches."""
    import torch

    # A rank without a batch still has to take part in the gather, with a tensor of the right width.
    results = [torch.empty((0, model.width), dtype=torch.float32, device=state.device)]
    for step in zip_longest(*shares, fillvalue=np.empty(0, np.int64)):
        own = step[state.process_index]
        if len(own):
            results += _compute_halving([items[index] for index in own], model)
        on_items(sum(map(len, step)))
    return torch.cat(results)


def _compute_halving(batch: Sequence[Encoded], model: RowModel) -> list[Any]:
    """Compute a batch, in halves where the GPU has too little memory for it.

    Raises:
        ArgumentError: It has too little for a single item.
    """
    import torch

    try:
        return [model.compute(batch)]
    except torch.OutOfMemoryError as error:
        if len(batch) == 1:
            raise ArgumentError(
                "the GPU has too little memory for a single text of the pool; use a smaller model, "
                "mig_embedding_dtype: bfloat16, or a GPU with more memory."
            ) from error
    # Not in the except clause: there the traceback keeps the tensors of the failed attempt.
    logger.warning("the GPU has too little memory for %s texts at once; they are computed in halves", len(batch))
    free_memory()
    middle = len(batch) // 2
    return [*_compute_halving(batch[:middle], model), *_compute_halving(batch[middle:], model)]


def _gather_in_order(own: Any, shares: Sequence[Sequence[NDArray[np.int64]]], state: Any) -> NDArray[np.float32]:
    """Collect the results of all ranks in the order of the items, shape (m, W)."""
    indices = [np.concatenate([np.empty(0, np.int64), *share]) for share in shares]
    gathered = gather_rows(own, list(map(len, indices)), state)
    rows = np.empty_like(gathered)
    rows[np.concatenate(indices)] = gathered
    return rows
