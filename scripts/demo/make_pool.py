"""Write the demo pool: instruction rows that are correct, varied and the same on every machine.

Every answer is computed by the code that asks the question, or read from a small table of facts. Labels and scores
come from rules, not from a model: each generator names its labels in the style of InsTag, and the scores in the format
of Deita's follow ``score_complexity`` and ``score_quality`` in ``demo/pool/example.py``. Trivial sums and other easy
rows are too frequent on purpose, so that a selection has something to reject. The first 600 rows are written once more
as the pool demo_raw, without labels and scores.

Example:
    python scripts/demo/make_pool.py --output-dir demo/data --rows 3000 --seed 0
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # scripts/

from demo.pool.build import build_pool
from demo.pool.layout import LAYOUT


POOL_NAME = "demo_pool"
RAW_NAME, RAW_ROWS = "demo_raw", 600


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows as JSON Lines."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8", newline="\n")


def register_pools(path: Path) -> None:
    """Add the entries of both pools to a ``dataset_info.json``; other entries are kept."""
    entries = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    entries |= {name: {"file_name": f"{name}.jsonl", **LAYOUT} for name in (POOL_NAME, RAW_NAME)}
    path.write_text(json.dumps(entries, ensure_ascii=False, indent=2) + "\n", encoding="utf-8", newline="\n")


def main() -> None:
    """Write the pools and their entries."""
    parser = argparse.ArgumentParser(description="Write the demo pool and register it for LLaMA-Factory.")
    parser.add_argument("--output-dir", type=Path, default=Path("demo/data"), help="folder of the pools")
    parser.add_argument("--rows", type=int, default=3000, help="number of rows")
    parser.add_argument("--seed", type=int, default=0, help="random seed")
    arguments = parser.parse_args()

    rows = build_pool(arguments.rows, arguments.seed)
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    pool_path = arguments.output_dir / f"{POOL_NAME}.jsonl"
    write_rows(pool_path, rows)
    raw_rows = [{"dialogs": row["dialogs"]} for row in rows[:RAW_ROWS]]
    write_rows(arguments.output_dir / f"{RAW_NAME}.jsonl", raw_rows)
    register_pools(arguments.output_dir / "dataset_info.json")
    labels = {label for row in rows for label in row["annotation"]["instag"]["content"]}
    print(f"{pool_path}: {len(rows)} rows, {len(labels)} labels")


if __name__ == "__main__":
    main()
