"""The processes of a run, and how they agree: rank 0 decides, all are told, none goes on where one has failed.

Ranks talk through the c10d store that torchrun serves anyway, not through a process group. Nothing here waits with a
timeout: work takes as long as it takes, and a fault on any rank, or its death, ends the waiting (see `watch`).
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

from mig_selector.errors import MigSelectorError, RemoteError
from mig_selector.ranks.signals import STOPPED, Stopped, StopSignals
from mig_selector.ranks.watch import ARRIVAL_SECONDS, LOST, Place, Watch


logger = logging.getLogger(__name__)

Plain = TypeVar("Plain")
Result = TypeVar("Result")

_CHUNK_BYTES = 4 << 20
"""A store value beyond 8 MiB kills the connection."""
_CHUNKS_AHEAD = 8
"""So many chunks of a file may wait in the store to be taken."""
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.005, 0.2
_GREETING_SECONDS = 0.05
_CLOSING_SECONDS = 1.0
_NOTICE_SECONDS = 20.0

_kept_stores: list[Any] = []
"""Without torchrun's agent rank 0 hosts the store itself; it must outlive the last reader."""


@dataclass
class Ranks:
    """The processes of this run, and the means to agree. Every method must be called on every rank."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    _session: str = ""
    _store: Any = None
    _watch: Watch | None = None
    _messages: int = field(default=0, repr=False)

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0 of the world."""
        return self.rank == 0

    @property
    def is_local_main(self) -> bool:
        """Whether this is the first rank of its node."""
        return self.local_rank == 0

    @property
    def are_on_one_node(self) -> bool:
        """Whether all ranks are."""
        return self.local_world_size == self.world_size

    def decide(self, work: Callable[[], Plain]) -> Plain:
        """Let rank 0 do `work` and give its result to every rank.

        Args:
            work: Must return what JSON can hold.

        Raises:
            RemoteError: It failed on rank 0.
        """
        return self._do_for(range(self.world_size), work)

    def decide_on_node(self, work: Callable[[], Plain]) -> Plain:
        """Let the first rank of each node do `work` and give its result to the ranks of that node.

        Args:
            work: Must return what JSON can hold.

        Raises:
            RemoteError: It failed on some rank.
        """
        first = self.rank - self.local_rank
        return self._do_for(range(first, first + self.local_world_size), work)

    def _do_for(self, group: Sequence[int], work: Callable[[], Plain]) -> Plain:
        key = f"{self._next_key()}/{group[0]}"
        if self.rank != group[0]:
            return self._read(key)  # type: ignore[no-any-return]
        result = work()
        if len(group) > 1:
            self._write(key, result)
        return result

    def agree(self, work: Callable[[], Result]) -> Result:
        """Do `work` on every rank and go on once it has succeeded on all.

        Returns:
            This rank's own result, which stays here.

        Raises:
            RemoteError: It failed on another rank.
        """
        result = work()
        self.exchange(None)
        return result

    def exchange(self, value: Plain) -> list[Plain]:
        """Give every rank what each has.

        Args:
            value: What JSON can hold, and little of it.

        Returns:
            The values in the order of the ranks.
        """
        if self.world_size == 1:
            return [value]
        key = self._next_key()
        keys = [f"{key}/{rank}" for rank in range(self.world_size)]
        with _connection():
            self._store.set(keys[self.rank], json.dumps(value))
        self._wait(keys)
        with _connection():
            return [json.loads(answer) for answer in self._store.multi_get(keys)]

    def transfer(self, chunks: Callable[[], Iterable[bytes]], receivers: Sequence[int]) -> Iterator[bytes]:
        """Send bytes from rank 0 to some ranks; to be iterated on every rank.

        Args:
            chunks: Called on rank 0: what to send.
            receivers: Which ranks, the same on all.

        Yields:
            The bytes, on the receivers.
        """
        key = self._next_key()
        if self.is_main:
            self._send(key, chunks(), len(receivers))
        elif self.rank in receivers:
            yield from self._receive(key)

    def _send(self, key: str, chunks: Iterable[bytes], num_receivers: int) -> None:
        number = 0
        for chunk in chunks:
            for start in range(0, len(chunk), _CHUNK_BYTES):
                self._forget_taken(key, number - _CHUNKS_AHEAD, num_receivers)
                with _connection():
                    self._store.set(f"{key}/{number}", b"+" + chunk[start : start + _CHUNK_BYTES])
                number += 1
        with _connection():
            self._store.set(f"{key}/{number}", b".")
        for left in range(max(number - _CHUNKS_AHEAD, 0), number):
            self._forget_taken(key, left, num_receivers)

    def _forget_taken(self, key: str, number: int, num_receivers: int) -> None:
        """Wait until a chunk has been taken by all, and remove it from the store."""
        if number < 0:
            return
        self._wait_until(lambda: self._store.add(f"{key}/{number}/taken", 0) >= num_receivers)
        with _connection():
            self._store.delete_key(f"{key}/{number}")

    def _receive(self, key: str) -> Iterator[bytes]:
        number = 0
        while True:
            self._wait([f"{key}/{number}"])
            with _connection():
                chunk = self._store.get(f"{key}/{number}")
                self._store.add(f"{key}/{number}/taken", 1)
            if chunk == b".":
                return
            yield chunk[1:]
            number += 1

    def open_store(self, timeout: timedelta) -> Any:
        """Return a store of its own for a process group, on a connection of its own."""
        with _connection():
            return _open_store(f"{self._session}/{self._next_key()}", timeout)

    def _next_key(self) -> str:
        self._messages += 1
        return f"{self._messages}"

    def _write(self, key: str, value: Any) -> None:
        data = json.dumps(value).encode("ascii")
        chunks = [data[start : start + _CHUNK_BYTES] for start in range(0, len(data), _CHUNK_BYTES)]
        with _connection():
            for number, chunk in enumerate(chunks):
                self._store.set(f"{key}/chunk/{number}", chunk)
            self._store.set(f"{key}/chunks", str(len(chunks)))

    def _read(self, key: str) -> Any:
        self._wait([f"{key}/chunks"])
        with _connection():
            count = int(self._store.get(f"{key}/chunks"))
            return json.loads(b"".join(self._store.get(f"{key}/chunk/{number}") for number in range(count)))

    def _wait(self, keys: list[str]) -> None:
        self._wait_until(lambda: self._store.check(keys))

    def _wait_until(self, is_so: Callable[[], bool]) -> None:
        pause = _SHORTEST_PAUSE
        while True:
            with _connection():
                if is_so():
                    return
            if self._watch is not None and self._watch.fault is not None:
                raise RemoteError(self._watch.fault)
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)


@contextlib.contextmanager
def connect() -> Iterator[Ranks]:
    """Join the other processes that torchrun's environment tells of, and share their fate while the block runs.

    Yields:
        The ranks; a single one where there are no others.

    Raises:
        RemoteError: Another rank has failed, with the same message on every rank.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        with StopSignals():
            yield Ranks()
        return
    from torch.distributed.distributed_c10d import PrefixStore

    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    with _open_session(rank, world_size) as (session, store), StopSignals() as signals:
        watch = Watch(_open_store(f"{session}/watch"), rank, world_size, signals.stop_main_thread)
        ranks = Ranks(
            rank=rank,
            world_size=world_size,
            _session=session,
            _store=PrefixStore(session, store),
            _watch=watch,
        )
        with _shared_fate(ranks, watch, signals):
            _find_place_on_node(ranks)
            yield ranks


def _find_place_on_node(ranks: Ranks) -> None:
    """Fill in the local rank and world size; a launcher that does not tell them has the ranks ask each other."""
    if "LOCAL_WORLD_SIZE" in os.environ:
        ranks.local_rank, ranks.local_world_size = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
        return
    machines = ranks.exchange(Place.here().machine)
    here = [rank for rank, machine in enumerate(machines) if machine == machines[ranks.rank]]
    ranks.local_rank, ranks.local_world_size = here.index(ranks.rank), len(here)


@contextlib.contextmanager
def _shared_fate(ranks: Ranks, watch: Watch, signals: StopSignals) -> Iterator[None]:
    """Tell the other ranks of what goes wrong here, and stop here for what goes wrong there."""
    watch.start()
    try:
        yield
    except BaseException as raised:
        error = Stopped() if signals.is_swallowed(raised) else raised
        signals.settle()
        told = watch.publish(_describe(error, ranks, watch))
        if told == STOPPED:
            raise Stopped from None
        if isinstance(error, KeyboardInterrupt) or told == str(error):
            raise
        if told == _text_of(error, ranks) and not isinstance(error, MigSelectorError):
            raise  # a fault of this program: whoever mends it wants the traceback
        raise RemoteError(told) from (None if isinstance(error, Stopped | RemoteError) else error)
    finally:
        signals.hold()
        watch.leave()


def _describe(error: BaseException, ranks: Ranks, watch: Watch) -> str:
    """Say what ended this rank's work, in the words that all ranks are to use."""
    if isinstance(error, Stopped):  # by the watch, by a torchrun one of whose ranks has ended, or by the user
        return watch.fault or watch.dead_rank() or STOPPED
    if isinstance(error, MigSelectorError | KeyboardInterrupt):
        return _text_of(error, ranks)
    # A collective hears of a death as of a connection that was closed, and sooner than the process is gone.
    return watch.dead_rank(patience=_CLOSING_SECONDS) or _text_of(error, ranks)


def _text_of(error: BaseException, ranks: Ranks) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    text = str(error) if isinstance(error, MigSelectorError) else f"{type(error).__name__}: {error}"
    is_told = ranks.is_main or isinstance(error, RemoteError)
    return text if is_told else f"{text} (rank {ranks.rank} on {socket.gethostname()})"


def _open_store(prefix: str, timeout: timedelta | None = None) -> Any:
    """Connect to the store that torchrun's environment tells of."""
    timeout = timeout or timedelta(seconds=ARRIVAL_SECONDS)
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    store, _, _ = next(iter(rendezvous("env://", timeout=timeout)))
    _kept_stores.append(store)
    return PrefixStore(prefix, store)


@contextlib.contextmanager
def _open_session(rank: int, world_size: int) -> Iterator[tuple[str, Any]]:
    """Agree on a name under which no earlier run has left anything in the store.

    A store may outlive the processes: torchrun starts them again after a fault, and a program may train twice. So each
    rank asks with a word of its own, and rank 0 answers to that word until all have come.

    Yields:
        The name, and the store.
    """
    address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    notice = threading.Timer(
        _NOTICE_SECONDS, logger.warning, ("rank %d of %d waits for the others at %s", rank, world_size, address)
    )
    notice.start()
    try:
        store = _open_store("mig_selector")
        if rank == 0:
            session, is_over = uuid.uuid4().hex, threading.Event()
            greeter = threading.Thread(target=_greet, args=(store, session, world_size, is_over), daemon=True)
            greeter.start()
        else:
            session = _ask(store, rank)
    except RuntimeError as error:
        raise RemoteError(f"the ranks do not find each other at {address} ({error})") from error
    finally:
        notice.cancel()
    try:
        yield session, store
    finally:
        if rank == 0:
            is_over.set()
            greeter.join()


def _greet(store: Any, session: str, world_size: int, is_over: threading.Event) -> None:
    """Tell every rank that asks the name of the session, until all have come."""
    missing = set(range(1, world_size))
    with contextlib.suppress(RuntimeError):  # the watches notice that the connection is lost
        while missing:
            for rank in sorted(missing):
                word = store.get(f"word/{rank}").decode() if store.check([f"word/{rank}"]) else None
                # Looked up after the word: a rank that has come and asks again asks for another session.
                if store.check([f"{session}/came/{rank}"]):
                    missing.remove(rank)
                elif word is not None:
                    store.set(f"answer/{word}", session)
            if is_over.wait(_GREETING_SECONDS):
                return


def _ask(store: Any, rank: int) -> str:
    word = uuid.uuid4().hex
    store.set(f"word/{rank}", word)
    end = time.monotonic() + ARRIVAL_SECONDS
    while not store.check([f"answer/{word}"]):
        if time.monotonic() > end:
            raise RemoteError(
                f"rank 0 did not begin to select within {ARRIVAL_SECONDS} seconds; is mig_selector installed on its "
                "node, and are its keys in that node's configuration?"
            )
        time.sleep(_GREETING_SECONDS)
    session: str = store.get(f"answer/{word}").decode()
    store.set(f"{session}/came/{rank}", "1")
    return session


@contextlib.contextmanager
def _connection() -> Iterator[None]:
    """Say in words that the store is gone."""
    try:
        yield
    except RuntimeError as error:  # torch's errors of a store
        raise RemoteError(LOST) from error
