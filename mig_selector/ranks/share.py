"""Run a model over millions of rows: rank 0 reads the rows, every rank computes, rank 0 stores the results.

The batches that the model sees depend on the rows alone, not on the number of ranks nor on where an earlier run
stopped. Rows are taken in chunks of a fixed size; each chunk is sorted by length and cut into batches of about the
same number of tokens, so that there is little padding. The ranks share a round, as many chunks as there are ranks.
(The last bit of a result can still depend on the number of threads per rank on a CPU, because numerical libraries then
sum in another order, and on the memory of a GPU, where a batch that is too large is halved.) Ranks exchange tensors
through the process group; nothing is pickled.

While the model computes a round, threads read the next round, count its tokens and tokenize the next batches. Only one
thread of a rank uses the tokenizer: it must not be used by two at once. Only the main thread uses the process group.

Dimension letters: m items of a batch or a round, W numbers for each item.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from itertools import islice
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mig_selector.errors import ArgumentError
from mig_selector.ranks.group import all_threads, process_group
from mig_selector.ranks.models import free_memory
from mig_selector.ranks.world import Ranks


logger = logging.getLogger(__name__)

CHUNK_ITEMS = 1_024
"""Items sorted together; at most this much work for each rank is lost when a run is killed."""
GPU_TOKENS, CPU_TOKENS = 16_384, 1_024
"""Tokens per batch, padding included: enough to keep a GPU busy; few enough to stay in the caches of a CPU."""


class RowModel(Protocol):
    """A model that computes W numbers for each item; items must be JSON-serialisable."""

    width: int
    """W."""
    batch_tokens: int
    """Most tokens per batch, padding included; an item that is longer gets a batch of its own."""

    def count_tokens(self, items: Sequence[Any]) -> NDArray[np.int64]:
        """Return the length in tokens, or a close bound, of each of m items. Shape (m,)."""
        ...

    def prepare(self, items: Sequence[Any]) -> Any:
        """Return what `compute` needs of the m items of a batch. Called in the thread that counts tokens."""
        ...

    def compute(self, batch: Any) -> Any:
        """Return a float32 tensor of shape (m, W), one row per item of a batch that `prepare` returned."""
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
        """Store the next rows, shape (m, W), so that they survive a crash."""
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
    for _, rows in shared_results(remaining, model, state, on_items):
        matrix.append(rows)


def shared_results(
    items: Iterator[Any], model: RowModel, state: Any, on_items: Callable[[int], object]
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Compute the results of a stream of items on all ranks; every rank must iterate to the end.

    Args:
        items: Only those of rank 0 are used.
        model: The same model on every rank.
        state: accelerate's PartialState, with a process group if there are several ranks.
        on_items: Called with the number of items finished since the last call, assuming equally fast ranks.

    Yields:
        On rank 0, for each round: the index of its first item, and the results, shape (m, W), in the items' order.
    """
    first_index = 0
    with _thread() as reader, _thread() as tokenizer:
        rounds = _Rounds(items, state, reader)
        round_ = rounds.next()
        counts = tokenizer.submit(_count_own_tokens, round_, model, state)
        while round_:
            batches = _batches_of_round(_gather_counts(counts.result(), len(round_), state), model.batch_tokens)
            mine = [
                [round_[index] for index in batch] for batch in batches[state.process_index :: state.num_processes]
            ]
            prepared = [tokenizer.submit(model.prepare, batch) for batch in mine]
            following = rounds.next()
            counts = tokenizer.submit(_count_own_tokens, following, model, state)
            results = _compute_batches(mine, prepared, batches, model, state, tokenizer, on_items)
            rows = _gather_rows(results, batches, state)
            if state.is_main_process:
                yield first_index, rows
            first_index += len(round_)
            round_ = following
        rounds.raise_failure()


@contextlib.contextmanager
def _thread() -> Iterator[Executor]:
    """Run one thread; what it has not begun when the block ends is left undone."""
    executor = ThreadPoolExecutor(1)
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)


class _Rounds:
    """The items of rank 0, round by round, on every rank; the next round is read ahead."""

    def __init__(self, items: Iterator[Any], state: Any, reader: Executor) -> None:
        self._items, self._state, self._reader = items, state, reader
        self._ahead = self._read()
        self._failure: BaseException | None = None

    def _read(self) -> Future[list[Any]]:
        size = CHUNK_ITEMS * self._state.num_processes
        return self._reader.submit(lambda: list(islice(self._items, size)) if self._state.is_main_process else [])

    def next(self) -> list[Any]:
        """Return the next round; empty after the last one.

        If reading fails, the round before it is still computed and stored: then comes the end, and `raise_failure`.
        """
        self._failure = self._ahead.exception()
        round_ = [] if self._failure is not None else self._ahead.result()
        if self._failure is None:
            self._ahead = self._read()
        return _broadcast_items(round_, self._state)

    def raise_failure(self) -> None:
        """Raise what ended the rounds early, if anything did."""
        if self._failure is not None:
            raise self._failure


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


def _broadcast_items(items: list[Any], state: Any) -> list[Any]:
    """Return rank 0's items on every rank."""
    if state.num_processes == 1:
        return items
    import torch
    from accelerate.utils import broadcast

    data = torch.frombuffer(bytearray(json.dumps(items).encode("ascii")), dtype=torch.uint8).to(state.device)
    # The size goes first: a broadcast needs a tensor of the right size on the receivers.
    size = broadcast(torch.tensor([len(data)], device=state.device))
    if not state.is_main_process:
        data = torch.empty(int(size), dtype=torch.uint8, device=state.device)
    return list(json.loads(broadcast(data).cpu().numpy().tobytes()))


def _count_own_tokens(round_: Sequence[Any], model: RowModel, state: Any) -> NDArray[np.int64]:
    """Count the tokens of every num_processes-th item, those that are this rank's to count."""
    mine = round_[state.process_index :: state.num_processes]
    return model.count_tokens(mine) if mine else np.zeros(0, np.int64)


def _gather_counts(mine: NDArray[np.int64], num_items: int, state: Any) -> NDArray[np.int64]:
    """Return the tokens of all items of a round, as the ranks have counted them. Shape (m,)."""
    import torch
    from accelerate.utils import gather

    # gather needs the same shape on every rank, so the last ranks pad with a zero, which is cut off again below.
    counts = np.zeros(-(-num_items // state.num_processes), np.int64)
    counts[: len(mine)] = mine
    gathered = gather(torch.from_numpy(counts).to(state.device)).cpu().numpy()
    return gathered.reshape(state.num_processes, -1).T.ravel()[:num_items]  # type: ignore[no-any-return]


def _batches_of_round(token_counts: NDArray[np.int64], batch_tokens: int) -> list[NDArray[np.int64]]:
    """Cut each chunk of a round into batches; return those of all chunks, those with the longest items first.

    Ranks get them by turns, so that each has about the same to do.
    """
    starts = range(0, len(token_counts), CHUNK_ITEMS)
    chunks = (cut_batches(token_counts[start : start + CHUNK_ITEMS], batch_tokens) for start in starts)
    batches = [batch + start for start, chunk in zip(starts, chunks, strict=True) for batch in chunk]
    return sorted(batches, key=lambda batch: -token_counts[batch[0]])


def _compute_batches(
    mine: Sequence[Sequence[Any]],
    prepared: Sequence[Future[Any]],
    batches: Sequence[NDArray[np.int64]],
    model: RowModel,
    state: Any,
    tokenizer: Executor,
    on_items: Callable[[int], object],
) -> Any:
    """Compute this rank's share of the batches; a tensor of shape (rows, W), in the order of its batches."""
    import torch

    size = state.num_processes
    # A rank without a batch still has to take part in the gather, with a tensor of the right width.
    results = [torch.empty((0, model.width), dtype=torch.float32, device=state.device)]
    for step, (items, batch) in enumerate(zip(mine, prepared, strict=True)):
        results += _compute_halving(items, batch.result(), model, tokenizer)
        on_items(sum(map(len, batches[step * size : (step + 1) * size])))
    return torch.cat(results)


def _compute_halving(items: Sequence[Any], batch: Any, model: RowModel, tokenizer: Executor) -> list[Any]:
    """Compute a batch, in halves where the GPU has too little memory for it.

    Raises:
        ArgumentError: It has too little for a single item.
    """
    import torch

    try:
        return [model.compute(batch)]
    except torch.OutOfMemoryError as error:
        if len(items) == 1:
            raise ArgumentError(
                "the GPU has too little memory for a single text of the pool; use a smaller model, "
                "mig_embedding_dtype: bfloat16, or a GPU with more memory."
            ) from error
    # Not in the except clause: there the traceback keeps the tensors of the failed attempt.
    logger.warning("the GPU has too little memory for %s texts at once; they are computed in halves", len(items))
    free_memory()
    middle = len(items) // 2
    return [
        result
        for half in (items[:middle], items[middle:])
        for result in _compute_halving(half, tokenizer.submit(model.prepare, half).result(), model, tokenizer)
    ]


def _gather_rows(results: Any, batches: Sequence[NDArray[np.int64]], state: Any) -> NDArray[np.float32]:
    """Collect the results of all ranks in the order of the items, shape (m, W)."""
    import torch
    from accelerate.utils import gather

    size = state.num_processes
    indices = [np.concatenate([np.empty(0, np.int64), *batches[rank::size]]) for rank in range(size)]
    # gather needs the same shape on every rank: each pads to the largest share, and the padding is dropped below.
    padded = torch.zeros((max(map(len, indices)), results.shape[1]), dtype=torch.float32, device=state.device)
    padded[: len(results)] = results
    gathered = gather(padded).cpu().numpy().reshape(size, len(padded), -1)
    rows = np.empty((sum(map(len, indices)), gathered.shape[2]), np.float32)
    for rank_indices, values in zip(indices, gathered, strict=True):
        rows[rank_indices] = values[: len(rank_indices)]
    return rows
