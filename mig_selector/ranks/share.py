"""Run a model over millions of rows: rank 0 reads the rows, every rank computes, rank 0 stores the results.

The batches that the model sees depend on the rows alone, not on the number of ranks nor on where an earlier run
stopped. Rows are taken in chunks of a fixed size; each chunk is sorted by length and cut into batches of about the
same number of tokens, so that there is little padding. (On a CPU the last bit of a result can still depend on the
number of threads per rank, because numerical libraries then sum in another order.) Ranks exchange tensors through the
process group; nothing is pickled.

Dimension letters: m items of a chunk, W numbers for each item.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mig_selector.ranks.group import all_threads, process_group
from mig_selector.ranks.models import free_memory
from mig_selector.ranks.world import Ranks


CHUNK_ITEMS = 1_024
"""Items sorted together and stored together; at most this much work is lost when a run is killed."""
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

    def compute(self, items: Sequence[Any]) -> Any:
        """Return a float32 tensor of shape (m, W), one row per item of a batch."""
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
        On rank 0, for each chunk: the index of its first item, and the results, shape (m, W), in the items' order.
    """
    first_index = 0
    while chunk := _broadcast_items(list(islice(items, CHUNK_ITEMS)), state):
        batches = cut_batches(_count_tokens(chunk, model, state), model.batch_tokens)
        results = _compute_own_batches(chunk, batches, model, state, on_items)
        rows = _gather_rows(results, batches, state)
        if state.is_main_process:
            yield first_index, rows
        first_index += len(chunk)


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


def _broadcast_items(chunk: list[Any], state: Any) -> list[Any]:
    """Return rank 0's chunk on every rank."""
    if state.num_processes == 1:
        return chunk
    import torch
    from accelerate.utils import broadcast

    data = torch.frombuffer(bytearray(json.dumps(chunk).encode("ascii")), dtype=torch.uint8).to(state.device)
    # The size goes first: a broadcast needs a tensor of the right size on the receivers.
    size = broadcast(torch.tensor([len(data)], device=state.device))
    if not state.is_main_process:
        data = torch.empty(int(size), dtype=torch.uint8, device=state.device)
    return list(json.loads(broadcast(data).cpu().numpy().tobytes()))


def _count_tokens(chunk: Sequence[Any], model: RowModel, state: Any) -> NDArray[np.int64]:
    """Count the tokens of each item, each rank every num_processes-th item; the counts of all, shape (m,)."""
    import torch
    from accelerate.utils import gather

    mine = chunk[state.process_index :: state.num_processes]
    # gather needs the same shape on every rank, so the last ranks pad with a zero, which is cut off again below.
    counts = np.zeros(-(-len(chunk) // state.num_processes), np.int64)
    if mine:
        counts[: len(mine)] = model.count_tokens(mine)
    gathered = gather(torch.from_numpy(counts).to(state.device)).cpu().numpy()
    return gathered.reshape(state.num_processes, -1).T.ravel()[: len(chunk)]  # type: ignore[no-any-return]


def _compute_own_batches(
    chunk: Sequence[Any],
    batches: Sequence[NDArray[np.int64]],
    model: RowModel,
    state: Any,
    on_items: Callable[[int], object],
) -> Any:
    """Compute this rank's share of the batches; a tensor of shape (rows, W), in the order of its batches."""
    import torch

    size = state.num_processes
    # A rank without a batch still has to take part in the gather, with a tensor of the right width.
    results = [torch.empty((0, model.width), dtype=torch.float32, device=state.device)]
    for step, batch in enumerate(batches[state.process_index :: size]):
        results.append(model.compute([chunk[index] for index in batch]))
        on_items(sum(map(len, batches[step * size : (step + 1) * size])))
    return torch.cat(results)


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
