"""What accelerate needs to embed on every rank, gone again before training starts.

A default process group left alive would override LLaMA-Factory's ``ddp_timeout``, and one that is destroyed and made
again on the same store may fail to connect; so this one stands on a store of its own.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from mig_selector.ranks.world import Ranks


_TIMEOUT = timedelta(days=30)
"""Ranks wait as long as the work on another rank lasts; deaths are noticed by the watch."""


@contextlib.contextmanager
def process_group(ranks: Ranks) -> Iterator[Any]:
    """Open a process group of our own and accelerate's state on it; both are gone afterwards.

    Yields:
        accelerate's PartialState.
    """
    import torch
    from accelerate.state import AcceleratorState, PartialState

    if ranks.world_size == 1:
        with _without_leftovers(AcceleratorState):
            yield PartialState()
        return
    from torch import distributed

    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(ranks.local_rank)
    with _same_environment(), _without_leftovers(AcceleratorState):
        distributed.init_process_group(
            "nccl" if on_gpu else "gloo",
            store=ranks.open_store(_TIMEOUT),
            rank=ranks.rank,
            world_size=ranks.world_size,
            timeout=_TIMEOUT,
        )
        try:
            yield PartialState()
        finally:
            distributed.destroy_process_group()


@contextlib.contextmanager
def _same_environment() -> Iterator[None]:
    """Put environment variables back that accelerate sets on CPU."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)


@contextlib.contextmanager
def _without_leftovers(accelerator_state: Any) -> Iterator[None]:
    """Leave accelerate's singletons as a fresh process has them."""
    try:
        yield
    finally:
        accelerator_state._reset_state(reset_partial_state=True)


@contextlib.contextmanager
def all_threads(ranks: Ranks) -> Iterator[None]:
    """Let numerical work use this rank's share of the cores: torchrun allows each rank one thread."""
    from threadpoolctl import threadpool_limits

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with threadpool_limits(max(cores // ranks.local_world_size, 1)):
        yield
