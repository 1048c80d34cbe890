"""Read randomly damaged pool files, and check that the reader treats every row of them correctly.

    python scripts/faults/fuzz.py
    python scripts/faults/fuzz.py --inputs 1000 --seed 7 --keep findings
    python scripts/faults/fuzz.py --only 4711 --keep findings

Valid files of every format (JSON Lines, a JSON array, CSV, Parquet, Arrow) are written; then values at any depth are
replaced, removed or added, and bytes flipped, inserted, deleted, cut off, repeated and moved. Each file is read with
``mig_on_bad_row`` ``error`` and ``skip``, and its kept rows are read again with all columns. It is a finding if

- anything but a MigSelectorError is raised, a process crashes, or a file takes longer than ten seconds
- the number of rows read is not the sum of rows kept, dropped and skipped, or a skipped row is not listed
- ``error`` does not stop, or not at the first row that ``skip`` lists
- kept rows, labels, scores, reasons or bad lines differ from those that a naive reader finds

Inputs are numbered; the same seed and number give the same file. One line of figures is printed at the end. The exit
code is 1 if there was a finding; ``--keep`` names a folder for the files of all findings.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from random import Random
from typing import Any, Literal


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # scripts/

import numpy as np
import pyarrow as pa

from faults.inputs.files import Input, make_input
from faults.inputs.naive import Reading, read_naively, score_paths
from mig_selector.errors import MigSelectorError
from mig_selector.pool.entry import LocalSource, PoolEntry
from mig_selector.pool.formats import json_array, json_lines, row_source
from mig_selector.pool.formats.files import open_sources
from mig_selector.pool.index.cache import IndexCache
from mig_selector.pool.index.judge import RowJudge
from mig_selector.pool.index.numbers import StoredNumbers
from mig_selector.pool.leaves.labels import StoredLabels
from mig_selector.pool.reading import Pool, read_pool
from mig_selector.store.hashing import ContentHashes


_SECONDS_PER_INPUT = 10
_SILENT_SECONDS = 60
"""A process that reports nothing for this long hangs in code that signals do not interrupt; it is killed."""
_MEMORY_BYTES = 6 << 30
_INPUTS_PER_CACHE = 50
_COLUMNS = ("instruction", "output", "labels", "score", "meta", "annotation")
_MEMORY = Path("/dev/shm")
"""The fastest folder for files; if it does not exist, the default folder of temporary files is used."""
_NOTHING_KEPT = (
    *("none of the ", " is in UTF-"),
    *("has JSON objects over several lines", "is one JSON object with the rows in"),
)
_DAMAGED = "the metadata of a column are damaged"
"""The naive reader does not look at them."""
_NO_ROWS = ("holds no rows", "is empty")


class FindingError(Exception):
    """The reader did something wrong."""


class TookTooLong(BaseException):
    """The time limit was exceeded. Not an Exception, so that the reader cannot take it for an error of the file."""


def check(made: Input, path: Path, cache: Path) -> str:
    """Read a file in every way; return ``refused``, ``with bad rows`` or ``without bad rows``.

    Raises:
        FindingError: The reader did something wrong.
    """
    strict, lenient = (_read(path, made, mode, cache) for mode in ("error", "skip"))
    naive = read_naively(made)
    if isinstance(lenient, str):
        _check_refusal(strict, lenient, naive)
        return "refused"
    report = lenient.report
    if report.read != report.kept + report.dropped.total() + report.unreadable.total():
        raise FindingError(f"the rows do not add up: {report}")
    if len(report.unreadable_rows) != report.unreadable.total():
        raise FindingError(f"not every skipped row is listed: {report}")
    _check_strict(strict, lenient)
    records = _read_whole(lenient)
    if naive is not None:
        _compare(lenient, naive, path.name, made.kind)
        _compare_records(records, lenient, naive, made.kind)
    return "with bad rows" if report.unreadable_rows else "without bad rows"


def _read(path: Path, made: Input, on_bad_row: Literal["error", "skip"], cache: Path) -> Pool | str:
    """Read a pool as a selection does; return it, or the message of the error."""
    # Rows of these columns: a single row whose column holds objects is not taken for a file of wrapped rows.
    columns = dict(zip(("prompt", "response", "query", "history", "system", "tools"), _COLUMNS, strict=True))
    entry = PoolEntry("pool", "alpaca", columns, {}, False, LocalSource(path.name, path), "train")
    hashes = ContentHashes(cache)
    try:
        sources = [open_sources(entry)]
        contents = [[[hashes.file(file) for file in source.files] for source in sources[0]]]
        judge = RowJudge(StoredLabels((made.labels,)), _stored_numbers(made.score))
        return read_pool(
            [entry], sources, contents, [judge], on_bad_row, lambda num_bytes: None, IndexCache(cache, hashes)
        )
    except MigSelectorError as error:
        return str(error)


def _check_refusal(strict: Pool | str, message: str, naive: Reading | None) -> None:
    """Check a pool that `skip` refuses: `error` must refuse it as well, and there must be no row to keep."""
    if not isinstance(strict, str):
        raise FindingError(f"only skip refuses the file: {message}")
    if naive is None or _DAMAGED in message:
        return
    is_known = any(words in message for words in _NOTHING_KEPT) or (_says_empty(message) and not naive.records)
    if naive.kept or not is_known:
        raise FindingError(f"the naive reader keeps {naive.kept} and finds {len(naive.records)} rows: {message}")


def _says_empty(message: str) -> bool:
    return any(words in message for words in _NO_ROWS)


def _check_strict(strict: Pool | str, lenient: Pool) -> None:
    """Check that `error` stops at the first bad row that `skip` lists, and reads the same pool if there is none."""
    listed = lenient.report.unreadable_rows
    if isinstance(strict, str):
        if not listed or not strict.startswith(f"{listed[0]}. "):
            raise FindingError(f"error stops with {strict!r}, skip lists {listed[:1]}")
    elif listed or _kept(strict) != _kept(lenient):
        raise FindingError(f"error does not stop, skip lists {listed[:1]} and keeps {_kept(lenient)}")


def _stored_numbers(score: str) -> StoredNumbers | None:
    """Return the numbers that a kind of score reads; none for a constant."""
    paths = tuple(score_paths(score))
    return StoredNumbers(paths, "mean of products" if len(paths) > 1 else "mean") if paths else None


def _kept(pool: Pool) -> list[tuple[int, list[str], float]]:
    """Return index, labels and score of all kept rows."""
    offsets = pool.labels.offsets.tolist()
    names = [pool.labels.names[label] for label in pool.labels.ids.tolist()]
    labels = [names[begin:end] for begin, end in itertools.pairwise(offsets)]
    scores = np.nan_to_num(pool.scores, nan=1.0)  # no score is stored
    return list(zip(pool.pool_indices.tolist(), labels, scores.tolist(), strict=True))


def _read_whole(pool: Pool) -> list[Any] | None:
    """Read the kept rows as writing a subset does; None if a row holds a value that cannot be read."""
    indices = pool.pool_indices.tolist()
    byte_offsets = [0] * len(indices) if pool.byte_offsets is None else pool.byte_offsets.tolist()
    try:
        records = list(pool.sources[0].read(indices, byte_offsets, _COLUMNS))
    except MigSelectorError:
        return None
    if len(records) != len(indices):
        raise FindingError(f"only {len(records)} of {len(indices)} rows are read again")
    return records


def _compare(pool: Pool, naive: Reading, name: str, kind: str) -> None:
    found, report = _kept(pool), pool.report
    if found != naive.kept or report.dropped != naive.dropped or report.unreadable.total() != len(naive.bad):
        raise FindingError(f"found {found} {report}, the naive reader {naive.kept} {naive.dropped} {naive.bad}")
    lines = [f"{name}:{line}" for _, line in naive.bad]
    if kind == "jsonl" and all(line for _, line in naive.bad):
        listed = [row[: len(line)] for row, line in zip(report.unreadable_rows, lines, strict=True)]
        if listed != lines:
            raise FindingError(f"bad lines are {lines}, but {report.unreadable_rows} are listed")


def _compare_records(records: list[Any] | None, pool: Pool, naive: Reading, kind: str) -> None:
    """Check that rows of JSON are read again unchanged; tables may hold types that are converted."""
    if kind not in ("jsonl", "json"):
        return
    wanted = [
        {key: value for key, value in naive.records[row].items() if key in _COLUMNS}
        for row in pool.pool_indices.tolist()
    ]
    if records is None or json.dumps(records) != json.dumps(wanted):
        raise FindingError(f"read again {records}, the naive reader found {wanted}")


def work(seed: int, numbers: Sequence[int], folder: Path, reports: Connection) -> None:
    """Read inputs in a child process; report each input's number, its outcome, and the finding or an empty string."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    signal.signal(signal.SIGALRM, _time_out)
    pa.set_cpu_count(1)  # one process runs on every core
    for count, number in enumerate(numbers):
        if count % _INPUTS_PER_CACHE == 0:
            shutil.rmtree(folder / "cache", ignore_errors=True)
        reports.send((number, *_try(seed, number, folder)))


def _try(seed: int, number: int, folder: Path) -> tuple[str, str]:
    """Return the outcome of an input and its finding, if any; the file of a finding is not deleted."""
    rng = Random(f"{seed}/{number}")
    made = make_input(rng)
    block, row_source.BATCH_BYTES = rng.choice(((1 << 18, 1 << 22), (100, 1), (7, 50), (1_000, 1 << 22)))
    json_lines._BLOCK_BYTES = json_array._BLOCK_BYTES = block
    path = folder / f"{number}.{made.kind}"
    path.write_bytes(made.content)
    signal.setitimer(signal.ITIMER_REAL, _SECONDS_PER_INPUT)
    try:
        outcome, wrong = f"{made.kind}, {check(made, path, folder / 'cache')}", ""
    except FindingError as error:
        outcome, wrong = "finding", f"{made.labels} {made.score}\n{error}"
    except (Exception, TookTooLong):  # noqa: BLE001  any exception of the reader is a finding
        outcome, wrong = "finding", f"{made.labels} {made.score}\n{traceback.format_exc()}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    if not wrong:
        path.unlink()
    return outcome, wrong


def _time_out(number: int, frame: object) -> None:
    raise TookTooLong


@dataclass
class _Worker:
    """A child process that reads inputs, as seen by its parent."""

    seed: int
    left: list[int]
    """Numbers of the inputs that it has not reported yet."""
    folder: Path
    last_report: float = field(default_factory=time.monotonic)
    has_ended: bool = False

    def __post_init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.reports, theirs = context.Pipe(duplex=False)
        self.process = context.Process(target=work, args=(self.seed, self.left, self.folder, theirs), daemon=True)
        self.process.start()
        theirs.close()

    def receive(self) -> tuple[int, str, str] | None:
        """Return the next report; None once the process has reported all and exited.

        The input at which a process crashed is reported as a finding.
        """
        try:
            number, outcome, wrong = self.reports.recv()
        except EOFError:
            self.process.join()
            self.has_ended = True
            return (self.left.pop(0), "finding", f"exit code {self.process.exitcode}") if self.left else None
        self.left.remove(number)
        self.last_report = time.monotonic()
        return number, outcome, wrong


def fuzz(seed: int, numbers: Sequence[int], processes: int, folder: Path) -> Iterator[tuple[int, str, str]]:
    """Yield the report of every input; the files of findings remain in `folder`."""
    workers = []
    for number in range(processes):
        (folder / str(number)).mkdir()
        workers.append(_Worker(seed, list(numbers[number::processes]), folder / str(number)))
    while workers:
        by_pipe = {worker.reports: worker for worker in workers}
        for pipe in wait(list(by_pipe), timeout=1):
            worker = by_pipe[pipe]
            report = worker.receive()
            if report is not None:
                yield report
            if worker.has_ended:
                workers.remove(worker)
                if worker.left:
                    workers.append(_Worker(seed, worker.left, worker.folder))
        for worker in workers:
            if time.monotonic() - worker.last_report > _SILENT_SECONDS:
                worker.process.kill()


def _keep(folder: Path, number: int, outcome: str, wrong: str, target: Path | None) -> None:
    """Print a finding, and copy its file."""
    [file] = folder.glob(f"*/{number}.*")
    print(f"{outcome} {file.name}: {wrong.strip()}\n", flush=True)
    if target is not None:
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
        (target / f"{number}.txt").write_text(wrong)


def main() -> None:
    """Read all inputs, print and keep findings, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="read only the input with this number")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--keep", type=Path, help="folder for the files of findings; created if necessary")
    options = parser.parse_args()

    numbers = range(options.inputs) if options.only is None else [options.only]
    outcomes = Counter[str]()
    start = time.monotonic()
    with tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None) as folder:
        for number, outcome, wrong in fuzz(options.seed, numbers, options.processes, Path(folder)):
            outcomes[outcome] += 1
            if wrong:
                _keep(Path(folder), number, outcome, wrong, options.keep)
    seconds = time.monotonic() - start
    findings = outcomes.pop("finding", 0)
    parts = "; ".join(f"{outcome} {count:,}" for outcome, count in sorted(outcomes.items()))
    speed = f"{len(numbers):,} inputs in {seconds:.0f} s ({len(numbers) / seconds:.0f} a second)"
    print(f"{speed}, {findings} findings: {parts}")
    raise SystemExit(1 if findings else 0)


if __name__ == "__main__":
    main()
