"""Cache of label vectors, by encoder: no label is embedded twice."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from xxhash import xxh3_128

from mig_selector.store.files import locked, whole_file
from mig_selector.store.folders import is_believed


logger = logging.getLogger(__name__)

_CHECKSUM_KEY = b"mig_selector_checksum"


class VectorCache:
    """The label vectors of one encoder: a folder of Parquet files, each written atomically, read together.

    Columns: `label` (string) and `embedding` (fixed-size list of D float32). A checksum of both and of the encoder is
    in the metadata of the schema.
    """

    def __init__(self, cache_dir: Path, encoder: str) -> None:
        """Store vectors below `cache_dir`; `encoder` is the fingerprint of everything that decides a vector."""
        self._folder, self._encoder = cache_dir / "embeddings" / encoder[:32], encoder

    def locked(self) -> AbstractContextManager[None]:
        """Hold the lock of this encoder while the block runs; other runs that would embed with it wait."""
        return locked(self._folder)

    def read(self, labels: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Return the vector, shape (D,), of each label that is in the cache; other labels are left out.

        A damaged file counts as absent and is removed, so the caller must hold the lock.
        """
        wanted = set(labels)
        found: dict[str, NDArray[np.float32]] = {}
        for file in sorted(self._folder.glob("*.parquet")):
            if not is_believed(file, is_array=True):
                continue
            content = self._read_file(file)
            if content is None:
                logger.warning("%s is damaged or has no checksum; its label vectors are computed again", file)
                with contextlib.suppress(OSError):
                    file.unlink()
                continue
            for label, vector in zip(*content, strict=True):
                if label in wanted:
                    found.setdefault(label, vector)
        return found

    def _read_file(self, file: Path) -> tuple[list[str], NDArray[np.float32]] | None:
        """Return the labels of a file and their vectors, shape (M, D); None if its checksum is wrong."""
        try:
            table = pq.read_table(file, memory_map=False)
            labels: list[str] = table["label"].to_pylist()
            size = table.schema.field("embedding").type.list_size
            vectors = table["embedding"].combine_chunks().flatten().to_numpy().reshape(len(labels), size)
            expected = (table.schema.metadata or {}).get(_CHECKSUM_KEY)
            return (labels, vectors) if expected == self._checksum(labels, vectors) else None
        except (OSError, pa.ArrowException, KeyError, ValueError, TypeError, AttributeError, MemoryError):
            return None

    def _checksum(self, labels: Sequence[str], vectors: NDArray[np.float32]) -> bytes:
        checksum = xxh3_128(json.dumps([self._encoder, list(labels), vectors.shape]).encode())
        checksum.update(np.ascontiguousarray(vectors).data)
        return checksum.hexdigest().encode()

    def write(self, labels: Sequence[str], vectors: NDArray[np.float32]) -> None:
        """Store the vectors, shape (M, D), of M labels in a file of their own."""
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel(), pa.float32()), vectors.shape[1])
        table = pa.table(
            {"label": pa.array(labels, pa.string()), "embedding": column},
            metadata={_CHECKSUM_KEY: self._checksum(labels, vectors)},
        )
        name = hashlib.sha256(json.dumps(list(labels)).encode("ascii")).hexdigest()[:32]
        with whole_file(self._folder / f"{name}.parquet", is_private=True) as stream:
            pq.write_table(table, stream)
