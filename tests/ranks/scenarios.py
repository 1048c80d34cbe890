# ruff: noqa: T201, BLE001  ranks print how they ended
"""Real processes as ranks: `python scenarios.py FOLDER` plays every scenario and records how each rank ended.

All are forked from one process that has imported torch, so that a scenario takes seconds and not half a minute. No
torchrun supervises the ranks, as on another node: they must end by themselves.
"""

import ctypes
import json
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import torch
from torch import distributed
from torch.distributed import TCPStore

from mig_selector.console import show_log
from mig_selector.errors import MigSelectorError, PoolError
from mig_selector.ranks import watch, world
from mig_selector.ranks.group import process_group


WORLD = 4
NODE = 2
AT_ONCE = 4
SHARED_STORE = {"a_second_attempt", "lost_connection", "a_rank_never_starts", "rank_0_never_starts"}


def agreement(ranks, folder):
    """Every rank checks values that were shared in each possible way."""
    assert ranks.decide(lambda: [ranks.rank, "é" * 5_000_000]) == [0, "é" * 5_000_000]
    assert ranks.decide_on_node(lambda: ranks.rank) == ranks.rank // NODE * NODE
    assert ranks.exchange(ranks.rank**2) == [0, 1, 4, 9]
    assert ranks.agree(lambda: ranks.rank) == ranks.rank
    sent = os.urandom(1) * 20_000_000 + b"end"
    got = b"".join(ranks.transfer(lambda: iter([sent[:7], sent[7:], b""]), [1, 3]))
    if ranks.rank in (1, 3):
        assert got.endswith(b"end")
        assert len(got) == 20_000_003
    else:
        assert got == b""
    assert list(ranks.transfer(lambda: iter([]), [2])) == []


def local_ranks_not_given(ranks, folder):
    """Not every launcher says how many ranks a node has; DeepSpeed's does not."""
    assert (ranks.local_rank, ranks.local_world_size, ranks.are_on_one_node) == (ranks.rank, WORLD, True)
    assert ranks.decide_on_node(lambda: ranks.rank) == 0


def two_runs(ranks, folder):
    """The second run of a process must not read what the first one stored, nor start before a slow rank has joined."""
    begun = folder / f"{ranks.rank}.begun"
    number = 2 if begun.exists() else 1
    begun.touch()
    assert ranks.decide(lambda: number) == number


def error_on_rank_0(ranks, folder):
    ranks.decide(lambda: fail("pool.jsonl:3: is not valid JSON"))


def error_elsewhere(ranks, folder):
    """Rank 2 fails while rank 0 is busy, rank 1 waits for it and rank 3 waits for all."""
    if ranks.rank == 2:
        fail("no space left")
    if ranks.rank == 0:
        be_busy()
    ranks.decide(lambda: None)


def bug_elsewhere(ranks, folder):
    ranks.agree(lambda: 1 // (ranks.rank - 1) if ranks.rank == 1 else None)


def killed_while_others_wait_and_work(ranks, folder):
    if ranks.rank == 3:
        time.sleep(1.5)
        os.kill(os.getpid(), signal.SIGKILL)
    if ranks.rank == 0:
        be_busy()
    ranks.exchange(None)


def killed_before_a_collective(ranks, folder):
    """The others are blocked in a collective that never ends: no exception reaches them there."""
    with process_group(ranks):
        if ranks.rank == 1:
            time.sleep(1.5)
            os.kill(os.getpid(), signal.SIGKILL)
        distributed.all_reduce(torch.ones(1))


def error_while_another_rank_is_blocked(ranks, folder):
    """Rank 1 is blocked in a call into C, as in a collective on a GPU."""
    if ranks.rank == 1:
        ctypes.CDLL(None).sleep(60)
    if ranks.rank == 2:
        time.sleep(1)
        fail("no space left")
    ranks.exchange(None)


def a_machine_goes_down(ranks, folder):
    """The ranks of the second node are killed; the first node cannot see their processes."""
    if ranks.rank >= NODE:
        time.sleep(2.5)
        os.kill(os.getpid(), signal.SIGKILL)
    ranks.exchange(None)


def lost_connection(ranks, folder):
    ranks.exchange(None)
    if ranks.rank == 0:
        (folder / "close the store").touch()
    be_busy()


def a_rank_never_starts(ranks, folder):
    ranks.exchange(None)


def rank_0_never_starts(ranks, folder):
    ranks.exchange(None)


def a_second_attempt(ranks, folder):
    """The first attempt fails; the second uses the same store, as after torchrun's restart."""
    if "first" in folder.name:
        ranks.decide(lambda: fail("only once"))
    assert ranks.decide(lambda: "second") == "second"


def sigterm_to_all(ranks, folder):
    if ranks.rank == 0:
        threading.Timer(1.0, lambda: os.killpg(0, signal.SIGTERM)).start()
    try:
        ranks.exchange(time.sleep(30))
    finally:
        (folder / f"{ranks.rank}.cleaned").touch()


def sigterm_after_a_kill(ranks, folder):
    """What torchrun does when one of its ranks has died: the others get SIGTERM."""
    time.sleep(1.5)
    if ranks.rank == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(30)


SCENARIOS = [
    agreement,
    local_ranks_not_given,
    two_runs,
    a_second_attempt,
    error_on_rank_0,
    error_elsewhere,
    error_while_another_rank_is_blocked,
    bug_elsewhere,
    killed_while_others_wait_and_work,
    killed_before_a_collective,
    a_machine_goes_down,
    lost_connection,
    a_rank_never_starts,
    rank_0_never_starts,
    sigterm_to_all,
    sigterm_after_a_kill,
]


def fail(text):
    raise PoolError(text)


def be_busy():
    """Work in Python, not waiting for anybody."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        sum(range(1000))


def run_rank(rank, name, folder, port):
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(WORLD),
        "LOCAL_RANK": str(rank % NODE),
        "LOCAL_WORLD_SIZE": str(NODE),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": str(name in SHARED_STORE),
    }
    if name == "local_ranks_not_given":
        del os.environ["LOCAL_RANK"], os.environ["LOCAL_WORLD_SIZE"]
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sys.stderr = (folder / f"{rank}.txt").open("w", buffering=1)
    os.dup2(sys.stderr.fileno(), 2)
    if name == "a_machine_goes_down":
        watch._SILENT_PERIODS = 3
        here = watch.Location("node-a" if rank < NODE else "node-b", str(rank // NODE), os.getpid())
        watch.Location.here = classmethod(lambda cls: here)
    if name.endswith("never_starts"):
        world.ARRIVAL_SECONDS, watch.ARRIVAL_SECONDS, watch._ARRIVAL_WARNING_SECONDS = 4, 4, 1
    show_log(is_main=rank == 0)
    try:
        for _ in range(2 if name == "two_runs" else 1):
            if (name, rank) == ("two_runs", 3):
                time.sleep(1)  # the others have finished the first run and ask for the second
            with world.connect() as ranks:
                globals()[name](ranks, folder)
            assert not distributed.is_initialized()
    except MigSelectorError as error:
        print(f"error: {error}", file=sys.stderr)
        os._exit(1)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        os._exit(3)
    os._exit(0)


def run(name, folder, port):
    folder.mkdir()
    absent = {"a_rank_never_starts": {3}, "rank_0_never_starts": {0}}.get(name, set())
    start = time.monotonic()
    ranks = {}
    for rank in set(range(WORLD)) - absent:
        pid = os.fork()
        if pid == 0:
            run_rank(rank, name, folder, port)
        ranks[pid] = rank
    ends = {}
    while len(ends) < len(ranks):
        pid, status = os.wait()
        if pid in ranks:
            ends[ranks[pid]] = (os.waitstatus_to_exitcode(status), round(time.monotonic() - start, 2))
            if name == "sigterm_after_a_kill" and len(ends) == 1:
                for other in set(ranks) - {pid}:
                    os.kill(other, signal.SIGTERM)
    return {
        rank: {"code": code, "seconds": seconds, "text": (folder / f"{rank}.txt").read_text()}
        for rank, (code, seconds) in sorted(ends.items())
    }


def host_store(port, folder):
    """Play the part of torchrun's agent: a process that hosts the store until it is told to end."""
    pid = os.fork()
    if pid:
        return pid
    store = TCPStore("127.0.0.1", port, None, True, wait_for_workers=False)
    while store is not None and not (folder / "close the store").exists():
        time.sleep(0.05)
    os._exit(0)


def direct(name, folder):
    """Play one scenario in a separate process group."""
    os.setpgrp()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    if name in SHARED_STORE:
        host_store(port, folder / name)
    if name == "a_second_attempt":
        run(name, folder / "first", port)
    ends = run(name, folder / name, port)
    (folder / name / "close the store").touch()
    (folder / f"{name}.json").write_text(json.dumps(ends))


def main(folder):
    """Play all scenarios, a few at a time."""
    running = 0
    for name in [scenario.__name__ for scenario in SCENARIOS]:
        if running == AT_ONCE:
            os.wait()
            running -= 1
        if os.fork() == 0:
            direct(name, folder)
            os._exit(0)
        running += 1
    for _ in range(running):
        os.wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
