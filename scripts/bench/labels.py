"""Measure how well the labels of an annotated pool agree with a column that says what kind of row each is.

    mig-selector annotate train.yaml --to annotated.jsonl
    python scripts/bench/labels.py annotated.jsonl --column source

For the first label of each row, the second and so on: normalised mutual information with the column, and purity (the
share of rows whose value is the most frequent one of their label), then both for as many different labels drawn at
random: more labels have a higher purity by chance.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sklearn.metrics import normalized_mutual_info_score


def agreement(labels: Sequence[str], kinds: Sequence[str]) -> tuple[float, float]:
    """Return normalised mutual information and purity of labels against kinds of rows."""
    by_label: dict[str, Counter[str]] = defaultdict(Counter)
    for label, kind in zip(labels, kinds, strict=True):
        by_label[label][kind] += 1
    purity = sum(max(counts.values()) for counts in by_label.values()) / len(kinds)
    return float(normalized_mutual_info_score(kinds, labels)), purity


def describe(rows: Sequence[tuple[list[str], str]], seed: int) -> list[str]:
    """Return the lines of the table, for rows of labels and kind."""
    rng = np.random.default_rng(seed)
    lines = ["label  rows      different  NMI    purity  at random"]
    for rank in range(max(len(labels) for labels, _ in rows)):
        pairs = [(labels[rank], kind) for labels, kind in rows if len(labels) > rank]
        labels, kinds = map(list, zip(*pairs, strict=True))
        drawn = rng.integers(0, len(set(labels)), len(labels)).astype(str).tolist()
        figures = "  ".join(f"{figure:.3f}" for figure in (*agreement(labels, kinds), *agreement(drawn, kinds)))
        lines.append(f"{rank + 1:<5}  {len(pairs):<8,}  {len(set(labels)):<9,}  {figures}")
    return lines


def read_rows(path: Path, column: str) -> list[tuple[list[str], str]]:
    """Read labels and kind of each row of an annotated pool; a kind may be a text or a list of one."""
    rows = []
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            kind = row[column]
            rows.append((row["mig_labels"], kind[0] if isinstance(kind, list) else str(kind)))
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pool", type=Path, help="what `mig-selector annotate --to` wrote")
    parser.add_argument("--column", default="source", help="column that says what kind of row it is (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random labels (%(default)s)")
    options = parser.parse_args()
    print(*describe(read_rows(options.pool, options.column), options.seed), sep="\n")


if __name__ == "__main__":
    main()
