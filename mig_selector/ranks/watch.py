"""Every rank learns of a fault or a death on any other, whatever it is at.

Two threads: the listener shows that this rank is alive, looks after the others and hears what they publish; the guard
never talks to anyone, so nothing can hold it up, and ends what this rank is doing when there is a fault. It first asks
the main thread by way of SIGTERM's handler; a main thread that sits in a collective whose partner has died hears
nothing, so after a while the guard ends the process.

A rank on this machine is dead when its process is gone. Another machine is dead when none of its ranks has been heard
of for some seconds: a single rank may be silent for longer while it holds Python's interpreter lock.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from mig_selector.ranks.signals import STOPPED


logger = logging.getLogger(__name__)

LOST = (
    "the connection between the ranks is lost: the torchrun, or the rank 0, that held it has ended. "
    "Look at the messages of the first node."
)
_PERIOD_SECONDS = 1.0
_SILENT_PERIODS = 15
"""So long may a machine be silent before it counts as dead."""
_NOTICE_PERIODS = 60
"""After so long a silence of one rank people are told."""
_GRACE_SECONDS = 8.0
"""So long may the main thread take to hear of a fault and clean up."""
_FAREWELL_SECONDS = 8.0
"""So long does a rank with a fault wait for the others to hear of it: once it is gone, torchrun ends them."""
_ARRIVAL_WARNING_SECONDS = 60
ARRIVAL_SECONDS = 600
"""So long may ranks take to get here one after the other."""


@dataclass(frozen=True)
class Place:
    """Where a rank runs."""

    host: str
    """For people."""
    machine: str
    """For programs: ranks of one machine see each other's processes."""
    pid: int

    @classmethod
    def here(cls) -> Place:
        """Return that of this process."""
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return cls(socket.gethostname(), f"{boot} {Path('/proc/self/ns/pid').readlink()}", os.getpid())

    @property
    def is_alive(self) -> bool:
        """Whether the process is there and no zombie; only for those on the same machine."""
        try:
            status = Path(f"/proc/{self.pid}/stat").read_text()
        except OSError:
            return False
        return status.rpartition(")")[2].split()[0] not in {"Z", "X"}


class Watch:
    """One rank's view of the others."""

    def __init__(self, store: Any, rank: int, world_size: int, interrupt: Callable[[], object]) -> None:
        """Prepare to watch.

        Args:
            store: To talk to the other watches; nobody else may use it, for a client that waits is deaf meanwhile.
            rank: This rank.
            world_size: How many ranks there are.
            interrupt: Asks the main thread to stop.
        """
        self.fault: str | None = None
        """What ends this run, once it is known."""
        self._store, self._rank, self._world_size = store, rank, world_size
        self._interrupt = interrupt
        self._here = Place.here()
        self._places: dict[int, Place] = {}
        self._silence: dict[int, tuple[bytes, int]] = {}
        self._started = time.monotonic()
        self._silent: str | None = None
        self._has_warned = False
        self._is_leaving = threading.Event()
        self._is_over = threading.Event()
        self._missed_periods = 0
        self._listener = threading.Thread(target=self._listen, name="mig_selector listener", daemon=True)
        self._guard = threading.Thread(target=self._watch_over, name="mig_selector guard", daemon=True)

    def start(self) -> Self:
        """Show that this rank is here, and begin."""
        self._beat(0)
        self._store.set(f"place/{self._rank}", json.dumps(asdict(self._here)))
        self._listener.start()
        self._guard.start()
        return self

    def publish(self, message: str) -> str:
        """Tell every rank what ends this run; of several messages the first is told. For the main thread.

        Returns:
            The message that is told.
        """
        self._is_leaving.set()
        self.fault = message
        with contextlib.suppress(RuntimeError):
            self.fault = self._tell(message)
        return self.fault

    def _tell(self, message: str) -> str:
        return self._store.compare_set("fault", "", message).decode()  # type: ignore[no-any-return]

    def dead_rank(self, patience: float = 0.0) -> str | None:
        """Say which rank of this machine has ended before its time, if any does within `patience` seconds."""
        end = time.monotonic() + patience
        with contextlib.suppress(RuntimeError):
            self._meet()
            while True:
                for rank, place in list(self._places.items()):
                    is_gone = place.machine == self._here.machine and not place.is_alive
                    if is_gone and not self._has_left([rank]):  # in this order: whoever leaves says so, then ends
                        return (
                            f"rank {rank} (process {place.pid} on {place.host}) was ended before its time; its own "
                            "messages, or the system's log if it was for want of memory, say why"
                        )
                if time.monotonic() >= end:
                    break
                time.sleep(0.05)
        return None

    def _ended(self, rank: int) -> bool:
        """Whether a rank that had come is no more, as far as this one can see."""
        place = self._places.get(rank)
        if place is None:
            return False
        return not place.is_alive if place.machine == self._here.machine else place.machine == self._silent

    def leave(self) -> None:
        """Stop watching and being watched; after a fault give the others the time to hear of it."""
        with contextlib.suppress(RuntimeError):
            self._store.set(f"left/{self._rank}", "1")
            if self.fault not in (None, STOPPED):  # whoever sends SIGTERM sends it to all
                self._store.set(f"heard/{self._rank}", "1")
                self._wait_for("heard", _FAREWELL_SECONDS)
        self._is_over.set()
        self._listener.join()
        with contextlib.suppress(RuntimeError):
            self._store.set(f"gone/{self._rank}", "1")
            if self._rank == 0:  # the store may be this process's own: nobody may need it any more
                self._wait_for("gone", ARRIVAL_SECONDS if self.fault is None else _FAREWELL_SECONDS / 2)

    def _wait_for(self, sign: str, seconds: float) -> None:
        """Wait until every rank that has not ended has given a sign."""
        end = time.monotonic() + seconds
        waiting = set(range(self._world_size))
        while waiting and time.monotonic() < end:
            waiting = {rank for rank in waiting if not self._store.check([f"{sign}/{rank}"]) and not self._ended(rank)}
            time.sleep(0.05)

    def _listen(self) -> None:
        try:
            beats = 0
            while not self._is_over.wait(_PERIOD_SECONDS):
                beats += 1
                self._beat(beats)
                self._look_around()
                self._missed_periods = 0
        except RuntimeError:  # torch's errors of a store
            self.fault = self.fault or LOST

    def _beat(self, number: int) -> None:
        self._store.set(f"pulse/{self._rank}", str(number))

    def _look_around(self) -> None:
        if self._store.check(["fault"]):
            self.fault = self._store.get("fault").decode()
            return
        if found := self.dead_rank() or self._silent_machine() or self._missing_ranks():
            self.fault = self._tell(found)

    def _meet(self) -> None:
        """Note where ranks run that have arrived meanwhile."""
        for rank in range(self._world_size):
            if rank not in self._places and self._store.check([f"place/{rank}"]):
                self._places[rank] = Place(**json.loads(self._store.get(f"place/{rank}")))

    def _has_left(self, ranks: Sequence[int]) -> bool:
        return any(self._store.check([f"left/{rank}"]) for rank in ranks)

    def _silent_machine(self) -> str | None:
        """Say which other machine is silent; rank 0 looks after all, the others after rank 0's."""
        self._count_silence()
        machines: dict[str, list[int]] = defaultdict(list)
        for rank in self._silence:
            machines[self._places[rank].machine].append(rank)
        for machine, ranks in machines.items():
            is_silent = all(self._silence[rank][1] >= _SILENT_PERIODS for rank in ranks)
            if is_silent and machine != self._here.machine and not self._has_left(ranks):
                self._silent = machine
                return (
                    f"{self._places[ranks[0]].host} with rank {ranks[0]}"
                    f"{f' and {len(ranks) - 1} more' if len(ranks) > 1 else ''} has not been heard of for "
                    f"{_SILENT_PERIODS} seconds; it has gone down, or its processes were ended"
                )
        return None

    def _count_silence(self) -> None:
        """Count for how many periods a rank has been silent; rank 0 tells of those that may be stopped or stuck."""
        first = self._places[0].machine if 0 in self._places else None
        watched = [rank for rank, place in self._places.items() if self._rank == 0 or place.machine == first]
        for rank, pulse in zip(watched, self._store.multi_get([f"pulse/{rank}" for rank in watched]), strict=True):
            before, periods = self._silence.get(rank, (b"", 0))
            self._silence[rank] = (pulse, periods + 1 if pulse == before else 0)
            if self._rank == 0 and self._silence[rank][1] == _NOTICE_PERIODS and not self._has_left([rank]):
                place = self._places[rank]
                logger.warning(
                    "rank %d (process %d on %s) has not been heard of for %d seconds, but is alive; waiting for it",
                    *(rank, place.pid, place.host, _NOTICE_PERIODS),
                )

    def _missing_ranks(self) -> str | None:
        """Say on rank 0 which ranks do not come."""
        missing = [rank for rank in range(self._world_size) if rank not in self._places]
        waited = time.monotonic() - self._started
        if self._rank != 0 or not missing or waited < _ARRIVAL_WARNING_SECONDS:
            return None
        text = (
            f"rank {missing[0]}{f' and {len(missing) - 1} more' if len(missing) > 1 else ''} of {self._world_size} "
            f"did not begin to select within {waited:.0f} seconds; is mig_selector installed on every node, and are "
            "its keys in every node's configuration?"
        )
        if waited >= ARRIVAL_SECONDS:
            return text
        if not self._has_warned:
            self._has_warned = True
            logger.warning("%s Still waiting.", text)
        return None

    def _watch_over(self) -> None:
        while self.fault is None:
            if self._is_over.wait(_PERIOD_SECONDS):
                return
            # Counted, not timed: whatever holds up this thread holds up the listener, too.
            self._missed_periods += 1
            if self._missed_periods > _SILENT_PERIODS:
                self.fault = LOST
        if self._is_over.is_set():
            return
        self._interrupt()
        if not self._is_leaving.wait(_GRACE_SECONDS) or not self._is_over.wait(2 * _FAREWELL_SECONDS):
            logger.error("error: %s", self.fault)
            os._exit(1)
