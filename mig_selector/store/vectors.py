"""Cache of label vectors, by encoder: no label is embedded twice."""

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
    """The label vectors of one encoder: a folder of Parquet files, each written atomically, read together.

    Columns: `label` (string) and `embedding` (fixed-size list of D float32).
    """

    def __init__(self, cache_dir: Path, encoder: str) -> None:
        """Store vectors below `cache_dir`; `encoder` is the fingerprint of everything that decides a vector."""
        self._folder = cache_dir / "embeddings" / encoder[:32]

    def locked(self) -> AbstractContextManager[None]:
        """Hold the lock of this encoder while the block runs; other runs that would embed with it wait."""
        return locked(self._folder)

    def read(self, labels: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Return the vector, shape (D,), of each label that is in the cache; other labels are left out."""
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
        """Store the vectors, shape (M, D), of M labels in a file of their own."""
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel(), pa.float32()), vectors.shape[1])
        table = pa.table({"label": pa.array(labels, pa.string()), "embedding": column})
        name = hashlib.sha256(json.dumps(list(labels)).encode("ascii")).hexdigest()[:32]
        with whole_file(self._folder / f"{name}.parquet") as stream:
            pq.write_table(table, stream)
