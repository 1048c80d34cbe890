"""Show what a selection chose, compared with its pool.

Reads the entries of the pool and the selection in ``dataset_info.json``, the chosen rows, and ``selection.parquet``
beside them, the table of their ranks, gains and scores.

Example:
    python scripts/demo/show_selection.py --dataset-dir demo/data --pool demo_pool --entry demo_pool_mig_200
"""

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet


NUM_LABELS = 12
NUM_EXAMPLES = 3
MAX_TEXT = 160


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read a JSON Lines file."""
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def find_file(dataset_dir: Path, entry: str) -> Path:
    """Find the file of an entry in ``dataset_info.json``."""
    entries = json.loads((dataset_dir / "dataset_info.json").read_text(encoding="utf-8"))
    if entry not in entries:
        known = ", ".join(sorted(entries))
        raise SystemExit(f"{dataset_dir}/dataset_info.json has no entry {entry!r}; its entries are {known}")
    return dataset_dir / str(entries[entry]["file_name"])


def labels_of(row: dict[str, Any]) -> list[str]:
    """Return the labels of a row of the pool."""
    return list(row["annotation"]["instag"]["content"])


def compare_labels(pool: list[list[str]], chosen: list[list[str]]) -> str:
    """Return a table of the most frequent labels of the chosen rows, with their shares here and in the pool."""
    in_pool, in_chosen = (Counter(label for labels in rows for label in labels) for rows in (pool, chosen))
    lines = [f"{'label':<28} {'chosen':>8} {'pool':>8}"]
    for label, count in sorted(in_chosen.items(), key=lambda item: (-item[1], item[0]))[:NUM_LABELS]:
        lines.append(f"{label:<28} {count / len(chosen):>8.1%} {in_pool[label] / len(pool):>8.1%}")
    return "\n".join([*lines, f"{'different labels':<28} {len(in_chosen):>8,} {len(in_pool):>8,}"])


def first_line(text: str) -> str:
    """Return the beginning of a text on one line."""
    line = " ".join(text.split())
    return line if len(line) <= MAX_TEXT else line[: MAX_TEXT - 3] + "..."


def first_instruction(row: dict[str, Any]) -> str:
    """Return the first message of the user."""
    return next(str(message["content"]) for message in row["dialogs"] if message["role"] == "user")


def describe(dataset_dir: Path, pool_entry: str, entry: str) -> str:
    """Return a text: numbers of rows, labels compared with those of the pool, and the first chosen rows."""
    pool, chosen_path = read_rows(find_file(dataset_dir, pool_entry)), find_file(dataset_dir, entry)
    chosen = read_rows(chosen_path)
    table = pyarrow.parquet.read_table(chosen_path.with_name("selection.parquet")).sort_by("rank")
    lines = [
        f"{entry}: {len(pool):,} rows read, {len(chosen):,} chosen, in {chosen_path.parent}",
        "",
        compare_labels([labels_of(row) for row in pool], table["labels"].to_pylist()),
        "",
        "The first rows it chose:",
    ]
    for row, record in zip(chosen[:NUM_EXAMPLES], table.slice(0, NUM_EXAMPLES).to_pylist(), strict=True):
        numbers = f"gain {record['gain']:.4f}, score {record['score']:.2f}, {', '.join(record['labels'])}"
        lines += [f"{record['rank']:>4}. {first_line(first_instruction(row))}", f"      {numbers}"]
    return "\n".join(lines)


def main() -> None:
    """Print what a selection chose."""
    parser = argparse.ArgumentParser(description="Show what a selection chose, compared with its pool.")
    parser.add_argument("--dataset-dir", type=Path, default=Path("demo/data"), help="folder of dataset_info.json")
    parser.add_argument("--pool", default="demo_pool", help="name of the pool's entry")
    parser.add_argument("--entry", default="demo_pool_mig_200", help="name of the selection's entry")
    arguments = parser.parse_args()
    print(describe(arguments.dataset_dir, arguments.pool, arguments.entry))


if __name__ == "__main__":
    main()
