"""Time the selection kernel: compared with the paper's dense algorithm on one pool, and alone at the size of Tulu3.

    python scripts/bench/selection.py
    python scripts/bench/selection.py --rows 939000 --picks 50000 --skip-dense
    python scripts/bench/selection.py --rows 939000 --picks 50000 --skip-dense --gain marginal

The dense algorithm multiplies a float32 matrix (rows by labels) with a vector for every pick (numpy, all cores). The
kernel's picks are compared with its picks in float32 and in float64. Labels and scores are those of
``bench/make_pool.py``. The first call compiles the kernel into an empty cache and is reported separately; the kernel's
seconds are the best of four later calls, including the ranking of all rows. Bytes per row are the peak memory of the
process beyond the pool itself (Linux). Results go to stdout as a table, and to a JSON file with ``--json``.
"""

from __future__ import annotations

import ctypes
import os
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # scripts/

import numpy as np
from numpy.typing import NDArray

from bench.options import make_parser
from bench.pool.arrays import draw_arrays
from bench.pool.rows import RowModel
from bench.pool.vectors import draw_vectors
from bench.results import describe_machine, print_figures, write_result
from bench.timing import fastest_of
from mig_selector.arrays import LabelledPool, Propagation, RowLabels
from mig_selector.graph.label_graph import build_adjacency, build_propagation
from mig_selector.selection.greedy import select_rows
from mig_selector.selection.objective import Objective


COUNTED_ROWS = 1_000_000
"""Distinct label sets are counted only in pools of up to this many rows."""


@dataclass
class Result:
    """Results of one run of this script."""

    machine: dict[str, Any]
    rows: int
    labels: int
    picks: int
    objective: str
    first_call_seconds: float
    kernel_seconds: float
    kernel_bytes_per_row: float
    argsort_seconds: float
    kernel_by_argsort: float
    distinct_label_sets: int | None = None
    dense_seconds: float | None = None
    ratio: float | None = None
    same_picks_as_float32: int | None = None
    same_picks_as_float64: bool | None = None


def make_graph(labels: int, seed: int) -> Propagation:
    """Build the label graph of vectors among which some hundred pairs are near twins."""
    return build_propagation(build_adjacency(draw_vectors(seed, labels), 0.9), 1.0)


def dense_picks(
    pool: LabelledPool, graph: Propagation, picks: int, dtype: type[np.floating]
) -> tuple[list[int], float]:
    """Pick by the paper's Algorithm 1: one matrix-vector product for each pick; return picks and seconds."""
    labels = len(graph.offsets) - 1
    spread = np.zeros((labels, labels), dtype)
    spread[np.repeat(np.arange(labels), np.diff(graph.offsets)), graph.columns] = graph.weights
    matrix = np.zeros((len(pool), labels), dtype)
    for row in range(len(pool)):
        members = pool.labels.ids[pool.labels.offsets[row] : pool.labels.offsets[row + 1]]
        matrix[row] = pool.scores[row] * spread[members].sum(axis=0)
    objective = Objective()
    information = np.zeros(labels, dtype)
    taken = np.zeros(len(pool), dtype)
    chosen = []
    start = time.perf_counter()
    for _ in range(picks):
        slope = (objective.exponent * (information + dtype(objective.offset)) ** (objective.exponent - 1)).astype(
            dtype
        )
        row = int(np.argmax(matrix @ slope - taken))
        taken[row] = np.inf
        information += matrix[row]
        chosen.append(row)
    return chosen, time.perf_counter() - start


def timed_kernel(
    pool: LabelledPool, graph: Propagation, objective: Objective, picks: int
) -> tuple[list[int], float, float, float]:
    """Return the kernel's picks, the seconds of the first call and of the best of four later calls, and peak bytes."""
    seconds = []
    for _ in range(5):
        reset_peak()
        held = resident_bytes("VmRSS")
        start = time.perf_counter()
        selection = select_rows(pool, graph, objective, picks)
        seconds.append(time.perf_counter() - start)
    return selection.rows.tolist(), seconds[0], min(seconds[1:]), resident_bytes("VmHWM") - held


def resident_bytes(field: str) -> float:
    """Read the current (VmRSS) or largest (VmHWM) resident set of this process; NaN on systems without /proc."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((1024.0 * int(line.split()[1]) for line in lines if line.startswith(field)), float("nan"))


def reset_peak() -> None:
    """Return freed memory to the system, and restart VmHWM at the current size."""
    if Path("/proc/self/clear_refs").exists():
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")


def count_label_sets(pool: LabelledPool) -> int:
    """Count distinct label sets."""
    bounds = zip(pool.labels.offsets[:-1], pool.labels.offsets[1:], strict=True)
    return len({pool.labels.ids[start:end].tobytes() for start, end in bounds})


def argsort_seconds(pool: LabelledPool) -> float:
    """Time a stable sort of the scores, best of three, as a yardstick for the machine."""
    return fastest_of(3, lambda: np.argsort(pool.scores, kind="stable"))[1]


def agreement(left: NDArray[np.int64] | list[int], right: list[int]) -> int:
    """Count the picks before two runs first differ."""
    return next((count for count, pair in enumerate(zip(left, right, strict=True)) if pair[0] != pair[1]), len(right))


def main() -> None:
    """Run the benchmark."""
    parser = make_parser(__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--labels", type=int, default=4_531)
    parser.add_argument("--picks", type=int, default=1_000)
    parser.add_argument("--phi", choices=["pow", "exp"], default="pow")
    parser.add_argument("--gain", choices=["gradient", "marginal"], default="gradient")
    parser.add_argument("--skip-dense", action="store_true", help="time only the kernel")
    options = parser.parse_args()
    objective = Objective(phi=options.phi, gain=options.gain)
    if objective != Objective() and not options.skip_dense:
        parser.error("the dense algorithm only knows the published settings; add --skip-dense to time others")

    offsets, ids, scores = draw_arrays(RowModel(options.seed, options.labels), options.rows)
    pool = LabelledPool(RowLabels([str(label) for label in range(options.labels)], offsets, ids), scores)
    graph = make_graph(options.labels, options.seed)
    with tempfile.TemporaryDirectory() as kernel_cache:
        os.environ["NUMBA_CACHE_DIR"] = kernel_cache
        picks, first, best, peak = timed_kernel(pool, graph, objective, options.picks)
    argsort = argsort_seconds(pool)
    result = Result(
        machine=describe_machine(),
        rows=options.rows,
        labels=options.labels,
        picks=options.picks,
        objective=f"{options.phi}, {options.gain}",
        first_call_seconds=first,
        kernel_seconds=best,
        kernel_bytes_per_row=peak / options.rows,
        argsort_seconds=argsort,
        kernel_by_argsort=best / argsort,
    )
    if options.rows <= COUNTED_ROWS:
        result.distinct_label_sets = count_label_sets(pool)
    if not options.skip_dense:
        plain, result.dense_seconds = dense_picks(pool, graph, options.picks, np.float32)
        exact, _ = dense_picks(pool, graph, options.picks, np.float64)
        result.ratio = result.dense_seconds / best
        result.same_picks_as_float32 = agreement(picks, plain)
        result.same_picks_as_float64 = picks == exact
    print_figures(asdict(result))
    write_result(options.json, asdict(result))


if __name__ == "__main__":
    main()
