"""Label vectors kept between runs, by encoder: a label is embedded once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mig_selector.store.files import locked, whole_file


class VectorCache:
    """The vectors of one encoder: a folder of Parquet files, each written whole, read together."""

    def __init__(self, cache_dir: Path, encoder: str) -> None:
        """Keep vectors below `cache_dir`; `encoder` is the hash of all that decides the vectors."""
        self._folder = cache_dir / "embeddings" / encoder[:32]

    def locked(self) -> AbstractContextManager[None]:
        """Keep other runs from embedding for this encoder while the block runs."""
        return locked(self._folder)

    def read(self, labels: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Return the vectors, each of shape (D,), of those `labels` that are kept."""
        wanted = set(labels)
        found: dict[str, NDArray[np.float32]] = {}
        for file in sorted(self._folder.glob("*.parquet")):
            table = pq.read_table(file)
            size = table.schema.field("embedding").type.list_size
            vectors = table["embedding"].combine_chunks().flatten().to_numpy().reshape(-1, size)
            for label, vector in zip(table["label"].to_pylist(), vectors, strict=True):
                if label in wanted:
                    found.setdefault(label, vector)
        return found

    def write(self, labels: Sequence[str], vectors: NDArray[np.float32]) -> None:
        """Keep the vectors, shape (M, D), of `labels`."""
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel(), pa.float32()), vectors.shape[1])
        table = pa.table({"label": pa.array(labels, pa.string()), "embedding": column})
        name = hashlib.sha256(json.dumps(list(labels)).encode("ascii")).hexdigest()[:32]
        with whole_file(self._folder / f"{name}.parquet") as stream:
            pq.write_table(table, stream)
