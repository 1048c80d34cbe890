"""What ranks send each other by a process group: tensors only, nothing is pickled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def scatter(parts: Sequence[bytes], state: Any) -> bytes:
    """Return on each rank its part of what rank 0 has, with blanks at the end; other ranks give any parts."""
    import torch
    from accelerate.utils import broadcast
    from torch import distributed

    # The largest size goes first: a scatter needs tensors of the same size on all ranks.
    [size] = broadcast(torch.tensor([max(map(len, parts))], device=state.device)).tolist()
    padded = [part.ljust(size) for part in parts] if state.is_main_process else []
    tensors = [torch.frombuffer(bytearray(part), dtype=torch.uint8).to(state.device) for part in padded]
    own = torch.empty(size, dtype=torch.uint8, device=state.device)
    distributed.scatter(own, tensors or None)
    return own.cpu().numpy().tobytes()


def gather_arrays(own: Sequence[NDArray[np.int32]], state: Any) -> list[NDArray[np.int32]]:
    """Return the one-dimensional arrays of all ranks, rank after rank."""
    import torch
    from accelerate.utils import gather

    lengths = torch.tensor(list(map(len, own)), dtype=torch.int32)
    values = torch.from_numpy(np.concatenate([np.empty(0, np.int32), *own]))
    counts = gather(torch.tensor([[len(lengths), len(values)]], device=state.device)).cpu().numpy()
    if not counts.any():
        return []
    ends = np.cumsum(gather_rows(lengths, counts[:, 0], state))
    return np.split(gather_rows(values, counts[:, 1], state), ends[:-1])


def gather_rows(own: Any, counts: Sequence[int] | NDArray[np.int64], state: Any) -> NDArray[Any]:
    """Return the rows of all ranks, rank after rank.

    Args:
        own: What this rank has, a tensor with as many rows as `counts` says.
        counts: Number of rows on each rank.
        state: accelerate's PartialState.
    """
    import torch
    from accelerate.utils import gather

    # gather needs the same shape on every rank: each pads to the largest, and the padding is dropped again.
    padded = torch.zeros((max(*counts, 1), *own.shape[1:]), dtype=own.dtype, device=state.device)
    padded[: len(own)] = own
    gathered = gather(padded).cpu().numpy().reshape(len(counts), *padded.shape)
    return np.concatenate([rows[:count] for rows, count in zip(gathered, counts, strict=True)])
