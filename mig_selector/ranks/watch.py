"""Every rank learns of a failure or a death on any other rank, whatever it is doing at the time.

Two threads do this. The listener sends this rank's heartbeat, watches the others, and reads what they publish. The
guard talks to nobody, so nothing can block it; when the run has failed it stops what this rank is doing. It first asks
the main thread through the SIGTERM handler. A main thread that is blocked in a collective with a dead partner never
runs that handler, so after a grace period the guard ends the process.

A rank on this machine is dead when its process is gone. Another machine is dead when none of its ranks has sent a
heartbeat for some seconds. A single silent rank is not: native code that holds Python's interpreter lock can stop the
listener for longer than that.
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
    "the connection between the ranks was lost: torchrun or rank 0, whichever hosted it, has exited. "
    "See the output of the first node."
)
_PERIOD_SECONDS = 1.0
"""Time between two heartbeats."""
_SILENT_PERIODS = 15
"""A machine that misses this many heartbeats counts as dead."""
_NOTICE_PERIODS = 60
"""A warning is logged when a single rank misses this many heartbeats."""
_GRACE_SECONDS = 8.0
"""How long the main thread may take to notice a failure and start cleaning up."""
_FAREWELL_SECONDS = 8.0
"""How long a failed rank waits for the others to read its message: once it exits, torchrun kills them."""
_ARRIVAL_WARNING_SECONDS = 60
"""A warning is logged when ranks are missing after this time."""
ARRIVAL_SECONDS = 600
"""Ranks may start this far apart before the run fails."""


@dataclass(frozen=True)
class Location:
    """Where a rank runs."""

    host: str
    """Host name, for messages."""
    machine: str
    """Equal for ranks that can see each other's processes: same boot of the same machine, same process namespace."""
    pid: int

    @classmethod
    def here(cls) -> Location:
        """Return the location of this process."""
        # The host name alone does not do: containers on one machine, or two machines, may share it.
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return cls(socket.gethostname(), f"{boot} {Path('/proc/self/ns/pid').readlink()}", os.getpid())

    @property
    def is_alive(self) -> bool:
        """Whether the process exists and is not a zombie; only valid on the same machine."""
        try:
            status = Path(f"/proc/{self.pid}/stat").read_text()
        except OSError:
            return False
        # The state follows the process name, which is in parentheses and may itself contain ")".
        return status.rpartition(")")[2].split()[0] not in {"Z", "X"}


class Watch:
    """One rank's view of the others.

    Keys in the store, by rank: ``location`` (where it runs), ``pulse`` (heartbeat counter), ``left`` (it has finished,
    or has published its failure), ``heard`` (it knows the failure), ``gone`` (it no longer uses the store). ``fault``
    holds the message of the first failure.
    """

    def __init__(self, store: Any, rank: int, world_size: int, interrupt: Callable[[], object]) -> None:
        """Prepare the two threads without starting them.

        Args:
            store: Connection to the store, used by this watch only: a client that waits for a key on the same
                connection would block the heartbeat.
            rank: This rank.
            world_size: Number of ranks.
            interrupt: Asks the main thread to stop.
        """
        self.fault: str | None = None
        """Why the run ends, once that is known; the same message on every rank."""
        self._store, self._rank, self._world_size = store, rank, world_size
        self._interrupt = interrupt
        self._here = Location.here()
        self._locations: dict[int, Location] = {}
        self._silence: dict[int, tuple[bytes, int]] = {}
        """Last heartbeat of a rank, and for how many periods it has not changed."""
        self._started = time.monotonic()
        self._dead_machine: str | None = None
        self._has_warned = False
        self._is_leaving = threading.Event()
        self._is_over = threading.Event()
        self._missed_periods = 0
        self._listener = threading.Thread(target=self._listen, name="mig_selector listener", daemon=True)
        self._guard = threading.Thread(target=self._stop_on_fault, name="mig_selector guard", daemon=True)

    def start(self) -> Self:
        """Announce this rank and start the threads."""
        # Heartbeat first: others read the pulse of every rank whose location they know, and would block without one.
        self._send_heartbeat(0)
        self._store.set(f"location/{self._rank}", json.dumps(asdict(self._here)))
        self._listener.start()
        self._guard.start()
        return self

    def publish(self, message: str) -> str:
        """Tell every rank why this run ends. Only for the main thread.

        Returns:
            The message that all ranks see: that of the first rank to publish one.
        """
        self._is_leaving.set()
        self.fault = message
        with contextlib.suppress(RuntimeError):
            self.fault = self._publish_first(message)
        return self.fault

    def _publish_first(self, message: str) -> str:
        """Store `message` unless there is one already, atomically; return the one that is stored."""
        return self._store.compare_set("fault", "", message).decode()  # type: ignore[no-any-return]

    def dead_rank(self, patience: float = 0.0) -> str | None:
        """Describe a rank of this machine that exited unexpectedly, if one does within `patience` seconds."""
        end = time.monotonic() + patience
        with contextlib.suppress(RuntimeError):
            self._read_locations()
            while True:
                for rank, location in list(self._locations.items()):
                    is_gone = location.machine == self._here.machine and not location.is_alive
                    # Check "left" second: a rank sets it before it exits, so a rank that is gone has set it by now.
                    if is_gone and not self._has_any_left([rank]):
                        return (
                            f"rank {rank} (process {location.pid} on {location.host}) exited unexpectedly, possibly "
                            "killed for lack of memory; see its own output and the system log"
                        )
                if time.monotonic() >= end:
                    break
                time.sleep(0.05)
        return None

    def _has_ended(self, rank: int) -> bool:
        """Whether a rank that had started has exited, as far as this one can see."""
        location = self._locations.get(rank)
        if location is None:
            return False
        if location.machine == self._here.machine:
            return not location.is_alive
        return location.machine == self._dead_machine

    def leave(self) -> None:
        """Stop watching and being watched; after a failure, first give the others time to read the message."""
        with contextlib.suppress(RuntimeError):
            self._store.set(f"left/{self._rank}", "1")
            # SIGTERM needs no farewell: whoever sends it (torchrun, a scheduler) sends it to all ranks.
            if self.fault not in (None, STOPPED):
                self._store.set(f"heard/{self._rank}", "1")
                self._wait_for_all("heard", _FAREWELL_SECONDS)
        self._is_over.set()
        if self._listener.ident is not None:  # the store may have been lost before the thread was started
            self._listener.join()
        with contextlib.suppress(RuntimeError):
            self._store.set(f"gone/{self._rank}", "1")
            # Without torchrun's agent the store is in this process: it must live until no rank needs it.
            if self._rank == 0:
                self._wait_for_all("gone", ARRIVAL_SECONDS if self.fault is None else _FAREWELL_SECONDS / 2)

    def _wait_for_all(self, key: str, seconds: float) -> None:
        """Wait, for at most `seconds`, until every rank that is still running has set `key`."""
        end = time.monotonic() + seconds
        waiting = set(range(self._world_size))
        while waiting and time.monotonic() < end:
            waiting = {
                rank for rank in waiting if not self._store.check([f"{key}/{rank}"]) and not self._has_ended(rank)
            }
            time.sleep(0.05)

    def _listen(self) -> None:
        try:
            beats = 0
            while not self._is_over.wait(_PERIOD_SECONDS):
                beats += 1
                self._send_heartbeat(beats)
                self._check_others()
                self._missed_periods = 0
        except RuntimeError:  # how torch reports a broken connection to the store
            self.fault = self.fault or LOST

    def _send_heartbeat(self, number: int) -> None:
        self._store.set(f"pulse/{self._rank}", str(number))

    def _check_others(self) -> None:
        """Read the published failure, or look for ranks that died or never started and publish that."""
        if self._store.check(["fault"]):
            self.fault = self._store.get("fault").decode()
            return
        if found := self.dead_rank() or self._silent_machine() or self._missing_ranks():
            self.fault = self._publish_first(found)

    def _read_locations(self) -> None:
        """Read the locations of ranks that have started since the last call."""
        for rank in range(self._world_size):
            if rank not in self._locations and self._store.check([f"location/{rank}"]):
                self._locations[rank] = Location(**json.loads(self._store.get(f"location/{rank}")))

    def _has_any_left(self, ranks: Sequence[int]) -> bool:
        return any(self._store.check([f"left/{rank}"]) for rank in ranks)

    def _silent_machine(self) -> str | None:
        """Describe another machine that sends no heartbeat; rank 0 watches all, the others that of rank 0."""
        self._count_silence()
        machines: dict[str, list[int]] = defaultdict(list)
        for rank in self._silence:
            machines[self._locations[rank].machine].append(rank)
        for machine, ranks in machines.items():
            is_silent = all(self._silence[rank][1] >= _SILENT_PERIODS for rank in ranks)
            if is_silent and machine != self._here.machine and not self._has_any_left(ranks):
                self._dead_machine = machine
                return (
                    f"{self._locations[ranks[0]].host} with rank {ranks[0]}"
                    f"{f' and {len(ranks) - 1} more' if len(ranks) > 1 else ''} has not responded for "
                    f"{_SILENT_PERIODS} seconds; the machine is down, or its processes were killed"
                )
        return None

    def _count_silence(self) -> None:
        """Count the periods without a heartbeat per rank; rank 0 warns of a rank that may be suspended or stuck."""
        main_machine = self._locations[0].machine if 0 in self._locations else None
        # Only rank 0 watches every rank: if all did, the store would serve N^2 heartbeats a second.
        watched = [
            rank for rank, location in self._locations.items() if self._rank == 0 or location.machine == main_machine
        ]
        for rank, pulse in zip(watched, self._store.multi_get([f"pulse/{rank}" for rank in watched]), strict=True):
            before, periods = self._silence.get(rank, (b"", 0))
            self._silence[rank] = (pulse, periods + 1 if pulse == before else 0)
            if self._rank == 0 and self._silence[rank][1] == _NOTICE_PERIODS and not self._has_any_left([rank]):
                location = self._locations[rank]
                logger.warning(
                    "rank %d (process %d on %s) has not responded for %d seconds, but it is alive; waiting for it",
                    *(rank, location.pid, location.host, _NOTICE_PERIODS),
                )

    def _missing_ranks(self) -> str | None:
        """On rank 0: warn of ranks that have not started; describe them once they are too late."""
        missing = [rank for rank in range(self._world_size) if rank not in self._locations]
        waited = time.monotonic() - self._started
        if self._rank != 0 or not missing or waited < _ARRIVAL_WARNING_SECONDS:
            return None
        text = (
            f"rank {missing[0]}{f' and {len(missing) - 1} more' if len(missing) > 1 else ''} of {self._world_size} "
            f"did not start selecting within {waited:.0f} seconds; is mig_selector installed on every node, and does "
            "every node's configuration have the mig_ keys?"
        )
        if waited >= ARRIVAL_SECONDS:
            return text
        if not self._has_warned:
            self._has_warned = True
            logger.warning("%s Still waiting.", text)
        return None

    def _stop_on_fault(self) -> None:
        """Wait for a failure, then stop this rank: ask the main thread, and end the process if it does not react."""
        while self.fault is None:
            if self._is_over.wait(_PERIOD_SECONDS):
                return
            # Count periods rather than read a clock: what holds up the listener (the interpreter lock, a suspended
            # process) holds up this thread too. If only the listener stops, it is blocked by a lost connection.
            self._missed_periods += 1
            if self._missed_periods > _SILENT_PERIODS:
                self.fault = LOST
        if self._is_over.is_set():
            return
        self._interrupt()
        if not self._is_leaving.wait(_GRACE_SECONDS) or not self._is_over.wait(2 * _FAREWELL_SECONDS):
            logger.error("error: %s", self.fault)
            # Not sys.exit: this thread cannot stop a main thread that is blocked in native code.
            os._exit(1)
