"""The process group and accelerate state for running a model on every rank, removed before training starts.

A default process group left behind would override LLaMA-Factory's ``ddp_timeout``. Destroying a group and creating
another on the same store may fail to connect, so each group here gets its own store.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

from mig_selector.ranks.world import Ranks


_TIMEOUT = timedelta(days=30)
"""In effect none: a rank may have to wait for hours of work on another. Dead ranks are detected by `watch`."""
_OF_TRAINING = ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP")
"""What ``accelerate launch`` sets for the training that follows. With FSDP, transformers would load models with
weights of zero on all ranks but the first; with DeepSpeed, accelerate would hand our process group to it."""


@contextlib.contextmanager
def process_group(ranks: Ranks) -> Iterator[Any]:
    """Open a private process group with accelerate's state on it, and remove both when the block ends.

    Yields:
        accelerate's PartialState.
    """
    import torch
    from accelerate.state import AcceleratorState, PartialState

    if ranks.world_size == 1:
        # torchrun sets LOCAL_RANK for a single rank, too: accelerate would open a default process group, which stays.
        with _environment({"LOCAL_RANK": None}), _reset_accelerate(AcceleratorState):
            yield PartialState()
        return
    from torch import distributed

    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(ranks.local_rank % torch.cuda.device_count())  # a launcher may show each rank one GPU
    # Not every launcher sets LOCAL_RANK; without it accelerate would use the CPU beside a process group of GPUs.
    with _environment({"LOCAL_RANK": str(ranks.local_rank)}), _reset_accelerate(AcceleratorState):
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
def _environment(variables: Mapping[str, str | None]) -> Iterator[None]:
    """Set variables, None to remove one, and remove those of training; restore the environment when the block ends.

    accelerate sets variables, too, on CPU; they must not reach training.
    """
    before = dict(os.environ)
    try:
        for name, value in {**dict.fromkeys(_OF_TRAINING), **variables}.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        yield
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)


@contextlib.contextmanager
def _reset_accelerate(accelerator_state: Any) -> Iterator[None]:
    """Reset accelerate's singletons when the block ends, so that training finds them as in a new process."""
    try:
        yield
    finally:
        accelerator_state._reset_state(reset_partial_state=True)


@contextlib.contextmanager
def all_threads(ranks: Ranks) -> Iterator[None]:
    """Let numerical libraries use as many threads as ``OMP_NUM_THREADS`` says, else this rank's share of the cores."""
    from threadpoolctl import threadpool_limits

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with threadpool_limits(_wanted_threads(ranks) or max(cores // ranks.local_world_size, 1)):
        yield


def _wanted_threads(ranks: Ranks) -> int | None:
    """Return what the user set ``OMP_NUM_THREADS`` to; None if it is not set to a number above 0."""
    value = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # "4,2" is for nested parallel regions
    # torchrun sets 1 if several ranks share a node and the user has set nothing. Work that rank 0 does alone is given
    # a `Ranks` of one, so the environment is looked at, too.
    share_a_node = ranks.local_world_size > 1 or os.environ.get("LOCAL_WORLD_SIZE", "1") != "1"
    if value == "1" and share_a_node:
        return None
    return int(value) if value.isascii() and value.isdecimal() and int(value) else None
