"""Which rank am I; do once and tell all; errors travel to every rank.

Ranks talk through the c10d store that torchrun serves anyway, not through a process group: a default group left alive
would override LLaMA-Factory's ``ddp_timeout``, and one that is destroyed and made again may fail to connect. The
one group made here, for embedding, stands on a store of its own and is gone before training starts.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

from mig_selector.errors import MigSelectorError, RemoteError


Plain = TypeVar("Plain")
Result = TypeVar("Result")

_TIMEOUT = timedelta(days=30)
"""Ranks wait as long as the work on another rank lasts; a rank that dies is noticed by torchrun."""
_CHUNK_BYTES = 4 << 20
"""A store value beyond 8 MiB kills the connection."""

_kept_stores: list[Any] = []
"""Without torchrun's agent rank 0 hosts the store itself; it must outlive the last reader."""


@dataclass
class Ranks:
    """The processes of this run, and the means to agree."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    store: Any = None
    _messages: int = field(default=0, repr=False)

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0 of the world."""
        return self.rank == 0

    @property
    def is_local_main(self) -> bool:
        """Whether this is the first rank of its node."""
        return self.local_rank == 0

    def decide(self, work: Callable[[], Plain]) -> Plain:
        """Let rank 0 do `work` and give its result, or its error, to every rank.

        Args:
            work: Called on rank 0 only; must return what JSON can hold.

        Returns:
            The result, on every rank.

        Raises:
            MigSelectorError: What `work` raised; a RemoteError with the same message on the other ranks.
        """
        if self.world_size == 1:
            return work()
        key = self._next_key()
        if not self.is_main:
            return _unpack(self._read(key))  # type: ignore[no-any-return]
        try:
            result = work()
        except BaseException as error:
            self._write(key, {"error": _message(error)})
            raise
        self._write(key, {"value": result})
        return result

    def agree(self, work: Callable[[], Result]) -> Result:
        """Do `work` on every rank and go on only where it succeeded on all.

        Returns:
            This rank's own result, which stays here.

        Raises:
            MigSelectorError: What `work` raised here, or a RemoteError with the message of the first rank that failed.
        """
        results: list[Result] = []

        def keep() -> None:
            results.append(work())

        self.exchange(keep)
        return results[0]

    def exchange(self, work: Callable[[], Plain]) -> list[Plain]:
        """Do `work` on every rank and give all results to all.

        Args:
            work: Must return what JSON can hold.

        Returns:
            The results in the order of the ranks.

        Raises:
            MigSelectorError: As for `agree`.
        """
        if self.world_size == 1:
            return [work()]
        key = self._next_key()
        try:
            result = work()
        except BaseException as error:
            self._write(f"{key}/{self.rank}", {"error": _message(error)})
            raise
        self._write(f"{key}/{self.rank}", {"value": result})
        return [_unpack(self._read(f"{key}/{other}")) for other in range(self.world_size)]

    @contextlib.contextmanager
    def process_group(self) -> Iterator[Any]:
        """Open a process group of our own and accelerate's state on it; both are gone afterwards.

        Yields:
            accelerate's PartialState.
        """
        import torch
        from accelerate.state import AcceleratorState, PartialState

        if self.world_size == 1:
            with _without_leftovers(AcceleratorState):
                yield PartialState()
            return
        from torch import distributed
        from torch.distributed.distributed_c10d import PrefixStore

        key = self._next_key()
        on_gpu = torch.cuda.is_available()
        if on_gpu:
            torch.cuda.set_device(self.local_rank)
        with _same_environment(), _without_leftovers(AcceleratorState):
            distributed.init_process_group(
                "nccl" if on_gpu else "gloo",
                store=PrefixStore(key, self.store),
                rank=self.rank,
                world_size=self.world_size,
                timeout=_TIMEOUT,
            )
            try:
                yield PartialState()
            finally:
                distributed.destroy_process_group()

    def _next_key(self) -> str:
        self._messages += 1
        return f"{self._messages}"

    def _write(self, key: str, value: Any) -> None:
        data = json.dumps(value).encode("ascii")
        chunks = [data[start : start + _CHUNK_BYTES] for start in range(0, len(data), _CHUNK_BYTES)]
        for number, chunk in enumerate(chunks):
            self.store.set(f"{key}/chunk/{number}", chunk)
        self.store.set(f"{key}/chunks", str(len(chunks)))

    def _read(self, key: str) -> Any:
        count = int(self.store.get(f"{key}/chunks"))
        return json.loads(b"".join(self.store.get(f"{key}/chunk/{number}") for number in range(count)))


def connect() -> Ranks:
    """Find out from torchrun's environment which rank this is, and open the store if there are others."""
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        return Ranks()
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    raw, rank, world_size = next(iter(rendezvous("env://", timeout=_TIMEOUT)))
    # A restarted attempt, and a second run in one process, must not read the answers of the one before.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store = PrefixStore(f"mig_selector/{attempt}/{len(_kept_stores)}", raw)
    store.set_timeout(_TIMEOUT)
    _kept_stores.append(store)
    return Ranks(
        rank=rank,
        world_size=world_size,
        local_rank=int(os.environ.get("LOCAL_RANK", "0")),
        local_world_size=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
        store=store,
    )


def _message(error: BaseException) -> str:
    return str(error) if isinstance(error, MigSelectorError) else f"{type(error).__name__}: {error}"


def _unpack(answer: dict[str, Any]) -> Any:
    if "error" in answer:
        raise RemoteError(answer["error"])
    return answer["value"]


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
