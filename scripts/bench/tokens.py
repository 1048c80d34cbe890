"""Compare a budget of tokens with a budget of rows of the same size: the time that MIG takes, and the E(D) it reaches.

    python scripts/bench/tokens.py
    python scripts/bench/tokens.py --rows 939000 --picks 50000

MIG chooses some rows; their tokens are the budget within which it then chooses by gain per token. Labels and scores
are those of ``bench/make_pool.py``; tokens of a row are drawn log-normally (median 250, sigma 1, at most 4,096),
independent of its labels, so scores and lengths are unrelated here. Seconds are the best of three after compilation.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # scripts/

import numpy as np

from bench.options import make_parser
from bench.pool.arrays import draw_arrays
from bench.pool.rows import RowModel
from bench.results import describe_machine, print_figures, write_result
from bench.selection import make_graph
from bench.timing import fastest_of
from mig_selector.arrays import LabelledPool, RowLabels
from mig_selector.selection.greedy import measure_information, select_rows, select_within
from mig_selector.selection.objective import Objective


@dataclass(frozen=True)
class Result:
    """Results of one run of this script."""

    machine: dict[str, Any]
    rows: int
    budget_tokens: int
    chosen_by_rows: int
    chosen_by_tokens: int
    seconds_by_rows: float
    seconds_by_tokens: float
    ratio: float
    """Of the seconds."""
    information_by_rows: float
    information_by_tokens: float
    information_ratio: float


def main() -> None:
    """Run the benchmark."""
    parser = make_parser(__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--labels", type=int, default=4_531)
    parser.add_argument("--picks", type=int, default=1_000)
    options = parser.parse_args()

    objective = Objective()
    offsets, ids, scores = draw_arrays(RowModel(options.seed, options.labels), options.rows)
    pool = LabelledPool(RowLabels([str(label) for label in range(options.labels)], offsets, ids), scores)
    graph = make_graph(options.labels, options.seed)
    lengths = np.random.default_rng(options.seed).lognormal(np.log(250), 1.0, options.rows)
    tokens = np.clip(lengths, 8, 4096).astype(np.int64)

    select_rows(pool, graph, objective, 8)  # compiles
    select_within(pool, graph, objective, tokens, 10_000)
    by_rows, row_seconds = fastest_of(3, lambda: select_rows(pool, graph, objective, options.picks))
    budget = int(tokens[by_rows.rows].sum())
    by_tokens, token_seconds = fastest_of(3, lambda: select_within(pool, graph, objective, tokens, budget))
    information = [measure_information(pool, graph, objective, each.rows) for each in (by_rows, by_tokens)]
    result = Result(
        machine=describe_machine(),
        rows=options.rows,
        budget_tokens=budget,
        chosen_by_rows=len(by_rows.rows),
        chosen_by_tokens=len(by_tokens.rows),
        seconds_by_rows=row_seconds,
        seconds_by_tokens=token_seconds,
        ratio=token_seconds / row_seconds,
        information_by_rows=information[0],
        information_by_tokens=information[1],
        information_ratio=information[1] / information[0],
    )
    print_figures(asdict(result))
    write_result(options.json, asdict(result))


if __name__ == "__main__":
    main()
