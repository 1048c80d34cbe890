"""Work on millions of rows shared out: rank 0 reads them, every rank computes its part, rank 0 keeps the results.

What the model sees depends on the rows alone: not on how many ranks there are, nor on what an earlier run has done.
Rows are taken in chunks of a fixed size; a chunk is sorted by length and cut into batches of about as many tokens, so
that little is padded. (On a CPU the last bit of a result may still depend on the threads of a rank: numerical
libraries sum in another order.) Ranks talk in tensors over the process group; nothing is pickled.

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
"""Items that are sorted together; so much work can be lost when a run is killed."""
GPU_TOKENS, CPU_TOKENS = 16_384, 1_024
"""Tokens of a batch, padding included: as many as keep a GPU busy, or as stay in the caches of a CPU."""


class RowModel(Protocol):
    """A model that turns items, each of which JSON can hold, into W numbers each."""

    width: int
    """W."""
    batch_tokens: int
    """Tokens that it takes at once, padding included; an item that is longer comes alone."""

    def count_tokens(self, items: Sequence[Any]) -> NDArray[np.int64]:
        """Return the length of each of m items in tokens, or a bound close to it. Shape (m,)."""
        ...

    def compute(self, items: Sequence[Any]) -> Any:
        """Return a float32 tensor of shape (m, W)."""
        ...


class Matrix(Protocol):
    """Where the results go, such as a `store.matrix.MatrixFile`; only rank 0 uses it."""

    def locked(self) -> AbstractContextManager[None]:
        """Keep others from filling it while the block runs."""
        ...

    def is_whole(self) -> bool:
        """Say whether there is nothing left to do."""
        ...

    def begin(self, width: int) -> int:
        """Prepare for rows of W numbers; return how many are there already."""
        ...

    def append(self, rows: NDArray[np.float32]) -> None:
        """Keep the next rows, shape (m, W), for good."""
        ...

    def finish(self) -> None:
        """Close it; it must be full."""
        ...


def tokens_per_batch(device: Any) -> int:
    """Return how many tokens a batch may have on a device (torch's), if the model itself sets no limit."""
    return CPU_TOKENS if device.type == "cpu" else GPU_TOKENS


def fill_matrix(
    matrix: Matrix,
    items: Callable[[], Iterable[Any]],
    load: Callable[[Any], RowModel],
    ranks: Ranks,
    on_items: Callable[[int], object],
) -> None:
    """Compute a row for every item, on all ranks, and go on where an earlier run was ended; for every rank to call.

    Args:
        matrix: Filled in the order of the items.
        items: Called on rank 0 only, which streams them.
        load: Loads the model onto the device it is given.
        ranks: Who shares the work.
        on_items: Called with the number of items done since the last call, by all ranks if they keep step; first with
            what an earlier run has done.

    Raises:
        RemoteError: Another rank failed.
    """
    with matrix.locked() if ranks.is_main else contextlib.nullcontext():
        if ranks.decide(matrix.is_whole):
            return
        with all_threads(ranks), process_group(ranks) as state:
            _fill(matrix, items, ranks.agree(lambda: load(state.device)), ranks, state, on_items)
            free_memory()
        if ranks.is_main:
            matrix.finish()


def _fill(
    matrix: Matrix,
    items: Callable[[], Iterable[Any]],
    model: RowModel,
    ranks: Ranks,
    state: Any,
    on_items: Callable[[int], object],
) -> None:
    done = ranks.decide(lambda: matrix.begin(model.width))
    on_items(done)
    rest = islice(items(), done, None) if ranks.is_main else iter(())
    for _, rows in shared_results(rest, model, state, on_items):
        matrix.append(rows)


def shared_results(
    items: Iterator[Any], model: RowModel, state: Any, on_items: Callable[[int], object]
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Compute on every rank; every rank must iterate over this.

    Args:
        items: Those of rank 0 count.
        model: The same on every rank.
        state: accelerate's PartialState, with the process group of the ranks if there are several.
        on_items: Called with the number of items done since the last call, by all ranks if they keep step.

    Yields:
        On rank 0, chunk by chunk: the place of its first item, and the results, shape (m, W), in the items' order.
    """
    first = 0
    while chunk := _tell(list(islice(items, CHUNK_ITEMS)), state):
        batches = cut_batches(_shared_counts(chunk, model, state), model.batch_tokens)
        results = _compute_share(chunk, batches, model, state, on_items)
        rows = _gather_rows(results, batches, state)
        if state.is_main_process:
            yield first, rows
        first += len(chunk)


def cut_batches(token_counts: NDArray[np.int64], batch_tokens: int) -> list[NDArray[np.int64]]:
    """Cut items into batches, the longest first; equal ones in their order.

    Args:
        token_counts: Length of each item. Shape (m,).
        batch_tokens: Rows times the longest of them is at most this, but in a batch of one.

    Returns:
        The places of each batch's items.
    """
    order = np.argsort(-token_counts, kind="stable")
    batches = []
    start = 0
    while start < len(order):
        size = max(batch_tokens // max(int(token_counts[order[start]]), 1), 1)
        batches.append(order[start : start + size])
        start += size
    return batches


def _tell(chunk: list[Any], state: Any) -> list[Any]:
    """Give every rank the items of rank 0."""
    if state.num_processes == 1:
        return chunk
    import torch
    from accelerate.utils import broadcast

    data = torch.frombuffer(bytearray(json.dumps(chunk).encode("ascii")), dtype=torch.uint8).to(state.device)
    size = broadcast(torch.tensor([len(data)], device=state.device))
    if not state.is_main_process:
        data = torch.empty(int(size), dtype=torch.uint8, device=state.device)
    return list(json.loads(broadcast(data).cpu().numpy().tobytes()))


def _shared_counts(chunk: Sequence[Any], model: RowModel, state: Any) -> NDArray[np.int64]:
    """Count the tokens of a chunk, the ranks in turn."""
    import torch
    from accelerate.utils import gather

    mine = chunk[state.process_index :: state.num_processes]
    counts = np.zeros(-(-len(chunk) // state.num_processes), np.int64)
    if mine:
        counts[: len(mine)] = model.count_tokens(mine)
    gathered = gather(torch.from_numpy(counts).to(state.device)).cpu().numpy()
    return gathered.reshape(state.num_processes, -1).T.ravel()[: len(chunk)]  # type: ignore[no-any-return]


def _compute_share(
    chunk: Sequence[Any],
    batches: Sequence[NDArray[np.int64]],
    model: RowModel,
    state: Any,
    on_items: Callable[[int], object],
) -> Any:
    """Compute this rank's batches, one after the other; a tensor of shape (rows, W)."""
    import torch

    size = state.num_processes
    results = [torch.empty((0, model.width), dtype=torch.float32, device=state.device)]
    for step, batch in enumerate(batches[state.process_index :: size]):
        results.append(model.compute([chunk[place] for place in batch]))
        on_items(sum(map(len, batches[step * size : (step + 1) * size])))
    return torch.cat(results)


def _gather_rows(results: Any, batches: Sequence[NDArray[np.int64]], state: Any) -> NDArray[np.float32]:
    """Put the results of all ranks in the order of the items; every rank sends as many rows."""
    import torch
    from accelerate.utils import gather

    size = state.num_processes
    places = [np.concatenate([np.empty(0, np.int64), *batches[rank::size]]) for rank in range(size)]
    padded = torch.zeros((max(map(len, places)), results.shape[1]), dtype=torch.float32, device=state.device)
    padded[: len(results)] = results
    gathered = gather(padded).cpu().numpy().reshape(size, len(padded), -1)
    rows = np.empty((sum(map(len, places)), gathered.shape[2]), np.float32)
    for place, values in zip(places, gathered, strict=True):
        rows[place] = values[: len(place)]
    return rows
