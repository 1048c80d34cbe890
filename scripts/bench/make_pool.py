"""Make a pool for benchmarks, with labels and scores like those of annotated pools, and print its statistics.

    python scripts/bench/make_pool.py --rows 200000 --kind jsonl --folder pools/200k
    python scripts/bench/make_pool.py --rows 100000000 --kind parquet --files 8 --folder pools/100m

The folder gets the pool (JSON Lines with about 3 KB a row, or Parquet with about 22 bytes a row),
``dataset_info.json`` with the entry ``bench_pool``, ``label_vectors.npz`` for the key ``mig_label_embeddings``, and
``pool.json`` with settings, speed and statistics. The same settings give the same bytes, a smaller pool is the
beginning of a larger one, and both kinds hold the same labels and scores. Everything is drawn at random; nothing is
taken from a data set.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # scripts/

from bench.pool.folder import PoolSettings, make_pool


REFERENCE = {
    "labels_per_row": "4.04",
    "share_by_number_of_labels": "0.08 0.15 0.16 0.15 0.14 0.31",
    "labels_used": "about 4,500",
    "share_of_top_10_labels": "0.19 to 0.30",
    "distinct_label_sets": "0.61 at 1M, 0.49 at 10M",
}
"""The same statistics of annotated pools."""


def print_report(report: dict[str, Any]) -> None:
    """Print size, speed and statistics, in parentheses the statistics of annotated pools."""
    for name in ("bytes", "bytes_per_row", "seconds", "rows_per_second", "megabytes_per_second"):
        print(f"{name:28} {report[name]:,}")
    for name, value in report["statistics"].items():
        known = REFERENCE.get(name)
        print(f"{name:28} {_show(value)}{f'   ({known})' if known else ''}")


def _show(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{share} at {int(size):,}" for size, share in value.items())
    return " ".join(map(str, value)) if isinstance(value, list) else f"{value:,}"


def main() -> None:
    """Make the pool."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--kind", choices=["jsonl", "parquet"], default="jsonl")
    parser.add_argument("--folder", type=Path, required=True, help="created if necessary")
    parser.add_argument("--files", type=int, default=1, help="number of Parquet files; above 1, in their own folder")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    settings = PoolSettings(rows=options.rows, kind=options.kind, seed=options.seed, files=options.files)
    print_report(make_pool(options.folder, settings).report)


if __name__ == "__main__":
    main()
