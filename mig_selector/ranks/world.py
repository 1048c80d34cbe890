"""The processes of a run and how they agree: rank 0 decides, all are told, and no rank goes on when one has failed.

Ranks talk through the c10d store that torchrun hosts anyway, not through a process group. Nothing here has a timeout:
work takes as long as it takes. A failure or death of any rank ends the waiting on all others (see `watch`).
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

from mig_selector.errors import ArgumentError, MigSelectorError, RemoteError
from mig_selector.ranks.signals import STOPPED, Stopped, StopSignals
from mig_selector.ranks.watch import ARRIVAL_SECONDS, LOST, Location, Watch


logger = logging.getLogger(__name__)

Plain = TypeVar("Plain")
"""A JSON-serialisable value."""
Result = TypeVar("Result")

_CHUNK_BYTES = 4 << 20
"""Size of a value in the store: one beyond 8 MiB makes the store close the connection."""
_CHUNKS_AHEAD = 8
"""How many chunks of a transfer the store may hold that not all receivers have read: bounds its memory."""
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.005, 0.2
"""Seconds between two looks at the store: short at first, for quick answers, then longer."""
_GREETING_SECONDS = 0.05
"""Time between two looks while ranks join."""
_CLOSING_SECONDS = 1.0
"""How long after a broken connection a process may still take to exit."""
_NOTICE_SECONDS = 20.0
"""A rank that waits longer than this for the others logs a warning."""

_kept_stores: list[Any] = []
"""Without torchrun's agent rank 0 hosts the store itself, and it must outlive the last reader: never freed."""


@dataclass
class Ranks:
    """This process among the processes of the run. Every rank must call the same methods in the same order."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    _session: str = ""
    _store: Any = None
    _watch: Watch | None = None
    _messages: int = field(default=0, repr=False)
    """Number of messages so far. Equal on all ranks, so that it can serve as the key of the next one."""

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
        """Whether all ranks run on the same node."""
        return self.local_world_size == self.world_size

    def decide(self, work: Callable[[], Plain]) -> Plain:
        """Do `work` on rank 0 and return its result on every rank.

        Args:
            work: Must return a JSON-serialisable value; not called on the other ranks.

        Raises:
            RemoteError: The work failed on rank 0.
        """
        return self._do_for(range(self.world_size), work)

    def decide_on_node(self, work: Callable[[], Plain]) -> Plain:
        """Do `work` on the first rank of each node and return its result on the ranks of that node.

        Args:
            work: Must return a JSON-serialisable value; not called on the other ranks.

        Raises:
            RemoteError: The work failed on another rank.
        """
        first = self.rank - self.local_rank
        return self._do_for(range(first, first + self.local_world_size), work)

    def _do_for(self, group: Sequence[int], work: Callable[[], Plain]) -> Plain:
        """Do `work` on the first rank of `group` and return its result on all of the group."""
        key = f"{self._next_key()}/{group[0]}"
        if self.rank != group[0]:
            return self._read_value(key)  # type: ignore[no-any-return]
        result = work()
        if len(group) > 1:
            self._write_value(key, result)
        return result

    def agree(self, work: Callable[[], Result]) -> Result:
        """Do `work` on every rank and return once it has succeeded on all.

        Returns:
            This rank's own result, which is not sent anywhere.

        Raises:
            RemoteError: The work failed on another rank.
        """
        result = work()
        self.exchange(None)
        return result

    def exchange(self, value: Plain) -> list[Plain]:
        """Give every rank the values of all ranks.

        Args:
            value: JSON-serialisable and small, well below the 8 MiB that the store allows for a value.

        Returns:
            The values in the order of the ranks.

        Raises:
            RemoteError: Another rank failed.
        """
        if self.world_size == 1:
            return [value]
        key = self._next_key()
        keys = [f"{key}/{rank}" for rank in range(self.world_size)]
        with _translated_store_errors():
            self._store.set(keys[self.rank], json.dumps(value))
        self._wait_for_keys(keys)
        with _translated_store_errors():
            return [json.loads(answer) for answer in self._store.multi_get(keys)]

    def transfer(self, chunks: Callable[[], Iterable[bytes]], receivers: Sequence[int]) -> Iterator[bytes]:
        """Send bytes from rank 0 to some ranks; every rank must iterate to the end.

        Args:
            chunks: Called on rank 0 only; yields the bytes to send.
            receivers: The receiving ranks, the same on all ranks.

        Yields:
            On the receivers: the same bytes, cut into chunks of at most 4 MiB.

        Raises:
            RemoteError: Another rank failed.
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
                # Wait for the slowest receiver: the store must not hold the whole file in memory.
                self._delete_taken(key, number - _CHUNKS_AHEAD, num_receivers)
                with _translated_store_errors():
                    self._store.set(f"{key}/{number}", b"+" + chunk[start : start + _CHUNK_BYTES])
                number += 1
        with _translated_store_errors():
            self._store.set(f"{key}/{number}", b".")
        for remaining in range(max(number - _CHUNKS_AHEAD, 0), number + 1):
            self._delete_taken(key, remaining, num_receivers)

    def _delete_taken(self, key: str, number: int, num_receivers: int) -> None:
        """Wait until all receivers have read a chunk, and delete it and its counter from the store."""
        if number < 0:
            return
        self._wait_until(lambda: self._store.add(f"{key}/{number}/taken", 0) >= num_receivers)
        with _translated_store_errors():
            self._store.delete_key(f"{key}/{number}")
            self._store.delete_key(f"{key}/{number}/taken")

    def _receive(self, key: str) -> Iterator[bytes]:
        """Yield the chunks of a transfer: ``+`` begins a chunk, a value ``.`` ends the transfer."""
        number = 0
        while True:
            self._wait_for_keys([f"{key}/{number}"])
            with _translated_store_errors():
                chunk = self._store.get(f"{key}/{number}")
                self._store.add(f"{key}/{number}/taken", 1)
            if chunk == b".":
                return
            yield chunk[1:]
            number += 1

    def open_store(self, timeout: timedelta) -> Any:
        """Return a store for a process group: a namespace and a connection that nothing else uses."""
        with _translated_store_errors():
            return _open_store(f"{self._session}/{self._next_key()}", timeout)

    def _next_key(self) -> str:
        self._messages += 1
        return f"{self._messages}"

    def _write_value(self, key: str, value: Any) -> None:
        data = json.dumps(value).encode("ascii")
        chunks = [data[start : start + _CHUNK_BYTES] for start in range(0, len(data), _CHUNK_BYTES)]
        with _translated_store_errors():
            for number, chunk in enumerate(chunks):
                self._store.set(f"{key}/chunk/{number}", chunk)
            # The count goes last: whoever sees it finds all chunks.
            self._store.set(f"{key}/chunks", str(len(chunks)))

    def _read_value(self, key: str) -> Any:
        self._wait_for_keys([f"{key}/chunks"])
        with _translated_store_errors():
            count = int(self._store.get(f"{key}/chunks"))
            return json.loads(b"".join(self._store.get(f"{key}/chunk/{number}") for number in range(count)))

    def _wait_for_keys(self, keys: list[str]) -> None:
        self._wait_until(lambda: self._store.check(keys))

    def _wait_until(self, is_so: Callable[[], bool]) -> None:
        """Poll the store until `is_so`; RemoteError if the run fails meanwhile.

        The store's own wait is of no use here: it needs a timeout, and no failure interrupts it.
        """
        pause = _SHORTEST_PAUSE
        while True:
            with _translated_store_errors():
                if is_so():
                    return
            if self._watch is not None and self._watch.fault is not None:
                raise RemoteError(self._watch.fault)
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)


@contextlib.contextmanager
def connect() -> Iterator[Ranks]:
    """Join the other processes that torchrun's environment variables describe; fail together while the block runs.

    Yields:
        The ranks; a single one if WORLD_SIZE is unset or 1.

    Raises:
        ArgumentError: An environment variable of the launcher is missing or is not a number.
        RemoteError: Another rank failed; the message is the same on every rank.
    """
    world_size = _read_number("WORLD_SIZE", 1, "1")
    if world_size == 1:
        with StopSignals():
            yield Ranks()
        return
    from torch.distributed.distributed_c10d import PrefixStore

    rank = _read_number("RANK", 0)
    if rank >= world_size:
        raise ArgumentError(
            f"the environment variable RANK must be below WORLD_SIZE, {world_size}, got {rank}; torchrun sets both."
        )
    with _open_session(rank, world_size) as (session, store), StopSignals() as signals:
        with _translated_store_errors():
            watch_store = _open_store(f"{session}/watch")
        watch = Watch(watch_store, rank, world_size, signals.stop_main_thread)
        ranks = Ranks(
            rank=rank,
            world_size=world_size,
            _session=session,
            _store=PrefixStore(session, store),
            _watch=watch,
        )
        with _shared_failures(ranks, watch, signals):
            _find_local_rank(ranks)
            yield ranks


def _read_number(variable: str, lowest: int, default: str | None = None) -> int:
    """Read a number from an environment variable that the launcher sets."""
    text = os.environ.get(variable, default)
    if text is None or not text.strip().isascii() or not text.strip().isdigit() or int(text) < lowest:
        raise ArgumentError(
            f"the environment variable {variable} must be a whole number, {lowest} or more, got {text!r}; "
            "torchrun sets it. Start the run with torchrun, or unset WORLD_SIZE."
        )
    return int(text)


def _find_local_rank(ranks: Ranks) -> None:
    """Fill in the local rank and world size. Not every launcher sets them; then the ranks compare their machines."""
    if "LOCAL_WORLD_SIZE" in os.environ:
        ranks.local_rank, ranks.local_world_size = _read_number("LOCAL_RANK", 0), _read_number("LOCAL_WORLD_SIZE", 1)
        return
    machines = ranks.exchange(Location.here().machine)
    here = [rank for rank, machine in enumerate(machines) if machine == machines[ranks.rank]]
    ranks.local_rank, ranks.local_world_size = here.index(ranks.rank), len(here)


@contextlib.contextmanager
def _shared_failures(ranks: Ranks, watch: Watch, signals: StopSignals) -> Iterator[None]:
    """Publish a failure of this rank to the others, and raise theirs here."""
    try:
        with _translated_store_errors():
            watch.start()
        yield
    except BaseException as raised:
        error = Stopped() if signals.is_swallowed(raised) else raised
        signals.settle()
        published = watch.publish(_describe(error, ranks, watch))
        if published == STOPPED:
            raise Stopped from None
        if isinstance(error, KeyboardInterrupt) or published == str(error):
            raise
        if published == _text_of(error, ranks) and not isinstance(error, MigSelectorError):
            raise  # a bug in this program, on this rank: whoever fixes it needs the traceback
        # Another rank failed first: all report that. The error here, perhaps a consequence, is kept as the cause.
        raise RemoteError(published) from (None if isinstance(error, Stopped | RemoteError) else error)
    finally:
        signals.hold()
        watch.leave()


def _describe(error: BaseException, ranks: Ranks, watch: Watch) -> str:
    """Return the message for all ranks: the cause of `error`, which may lie on another rank."""
    # Stopped is raised by the guard, by torchrun after one of its ranks has died, or by the user: the first two have
    # a cause to report.
    if isinstance(error, Stopped):
        return watch.fault or watch.dead_rank() or STOPPED
    if isinstance(error, MigSelectorError | KeyboardInterrupt):
        return _text_of(error, ranks)
    # A collective whose partner dies reports a closed connection, and does so before the dead process is gone.
    return watch.dead_rank(patience=_CLOSING_SECONDS) or _text_of(error, ranks)


def _text_of(error: BaseException, ranks: Ranks) -> str:
    """Return an error's message, with the rank it came from unless that is rank 0 or the message names it."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    text = str(error) if isinstance(error, MigSelectorError) else f"{type(error).__name__}: {error}"
    is_located = ranks.is_main or isinstance(error, RemoteError)
    return text if is_located else f"{text} (rank {ranks.rank} on {socket.gethostname()})"


def _open_store(prefix: str, timeout: timedelta | None = None) -> Any:
    """Open a new connection to the store that torchrun's environment variables name."""
    timeout = timeout or timedelta(seconds=ARRIVAL_SECONDS)
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    store, _, _ = next(iter(rendezvous("env://", timeout=timeout)))
    _kept_stores.append(store)
    return PrefixStore(prefix, store)


@contextlib.contextmanager
def _open_session(rank: int, world_size: int) -> Iterator[tuple[str, Any]]:
    """Agree on a namespace in which no earlier run has left anything in the store.

    The store may outlive the processes: torchrun restarts them after a failure, and a program may train twice. So
    rank 0 cannot simply publish a name: a fast rank might read that of the previous run. Instead each rank asks with a
    random token, and rank 0 answers every token until all ranks have joined.

    Yields:
        The name of the session, and the store.

    Raises:
        RemoteError: The store cannot be reached, or rank 0 does not answer.
    """
    address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    notice = threading.Timer(
        _NOTICE_SECONDS,
        logger.warning,
        ("rank %d of %d is waiting for the others at %s", rank, world_size, address),
    )
    notice.start()
    try:
        store = _open_store("mig_selector")
        if rank == 0:
            session, is_over = uuid.uuid4().hex, threading.Event()
            # In the background: rank 0 can start working while slow ranks are still loading.
            greeter = threading.Thread(target=_answer_ranks, args=(store, session, world_size, is_over), daemon=True)
            greeter.start()
        else:
            session = _ask_for_session(store, rank)
    except (RuntimeError, ValueError) as error:  # the latter for an address that is missing or is not one
        raise RemoteError(
            f"the ranks cannot reach each other at {address} ({error}); check MASTER_ADDR and MASTER_PORT, and the "
            "output of the first node."
        ) from error
    finally:
        notice.cancel()
    try:
        yield session, store
    finally:
        if rank == 0:
            is_over.set()
            greeter.join()


def _answer_ranks(store: Any, session: str, world_size: int, is_over: threading.Event) -> None:
    """Tell the name of the session to every rank that asks, until all have joined."""
    missing = set(range(1, world_size))
    with contextlib.suppress(RuntimeError):  # the watches notice that the connection is lost
        while missing:
            for rank in sorted(missing):
                token = store.get(f"token/{rank}").decode() if store.check([f"token/{rank}"]) else None
                # Read after the token: if this rank has joined, the token may already be for its next session, and
                # answering it with this session would be wrong.
                if store.check([f"{session}/joined/{rank}"]):
                    missing.remove(rank)
                elif token is not None:
                    store.set(f"answer/{token}", session)
            if is_over.wait(_GREETING_SECONDS):
                return


def _ask_for_session(store: Any, rank: int) -> str:
    """Ask rank 0 for the name of the session, and confirm it."""
    token = uuid.uuid4().hex
    store.set(f"token/{rank}", token)
    end = time.monotonic() + ARRIVAL_SECONDS
    while not store.check([f"answer/{token}"]):
        if time.monotonic() > end:
            raise RemoteError(
                f"rank 0 did not start selecting within {ARRIVAL_SECONDS} seconds; is mig_selector installed on its "
                "node, and does that node's configuration have the mig_ keys?"
            )
        time.sleep(_GREETING_SECONDS)
    session: str = store.get(f"answer/{token}").decode()
    store.set(f"{session}/joined/{rank}", "1")
    return session


@contextlib.contextmanager
def _translated_store_errors() -> Iterator[None]:
    """Turn torch's errors of a store, which are RuntimeErrors, into a message that the connection was lost."""
    try:
        yield
    except RuntimeError as error:
        raise RemoteError(LOST) from error
