"""Annotate a pool with Ray Data on any number of machines, and write sidecars that ``mig_sidecar`` reads.

    pip install "ray[data]"
    python scripts/ray_annotate.py pool.jsonl annotations --model all-MiniLM-L6-v2 --labels labels.txt --workers 4

Each question gets the nearest labels by a sentence encoder: put your own model in its place.
"""

import argparse
import hashlib
import json
from pathlib import Path

import numpy as np
import ray


def row_hash(row: dict) -> str:
    """Hash a row as mig_selector does."""
    columns = {key: row[key] for key in ("instruction", "input", "output") if row.get(key) is not None}
    text = json.dumps(columns, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


class Annotator:
    """What each worker runs: put your own model here."""

    def __init__(self, model: str, labels: list[str]) -> None:
        """Load the model, once for each worker."""
        from sentence_transformers import SentenceTransformer

        self.encoder, self.labels = SentenceTransformer(model), labels
        self.vectors = self.encoder.encode(labels, normalize_embeddings=True)

    def __call__(self, columns: dict[str, np.ndarray]) -> dict[str, list]:
        """Annotate a batch."""
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        questions = [f"{row['instruction']}\n{row['input'] or ''}".strip() for row in rows]
        nearest = np.argsort(-self.encoder.encode(questions, normalize_embeddings=True) @ self.vectors.T)[:, :3]
        return {
            "row_hash": [row_hash(row) for row in rows],
            "labels": [[self.labels[label] for label in labels] for labels in nearest],
            "score": [1.0] * len(rows),
            "status": ["ok" if question else "the question is empty" for question in questions],
        }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pool", help="JSON Lines with instruction, input and output")
    parser.add_argument("sidecars", help="new folder for the sidecars")
    parser.add_argument("--model", required=True, help="sentence-transformers model: hub id or folder")
    parser.add_argument("--labels", required=True, type=Path, help="one label per line")
    parser.add_argument("--workers", type=int, default=1, help="processes that run the model")
    options = parser.parse_args()
    words = {"model": options.model, "labels": options.labels.read_text(encoding="utf-8").splitlines()}
    pool = ray.data.read_json(options.pool, lines=True).select_columns(["instruction", "input", "output"])
    workers = ray.data.ActorPoolStrategy(size=options.workers)
    num_gpus = min(ray.cluster_resources().get("GPU", 0) / options.workers, 1)
    annotated = pool.map_batches(Annotator, fn_constructor_kwargs=words, compute=workers, num_gpus=num_gpus)
    annotated.write_parquet(options.sidecars, mode="error")
