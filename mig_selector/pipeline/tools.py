"""What taggers and scorers may use of a run: its models, and the ranks that run them.

Dimension letters: D dimensions of a vector.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mig_selector.annotation.tools import ModelName, Rows
from mig_selector.embedding.encoder import Encoder
from mig_selector.pipeline.crew import Crew
from mig_selector.pipeline.request import Request
from mig_selector.store.hashing import fingerprint_of
from mig_selector.store.vectors import VectorCache


@dataclass(frozen=True)
class RunTools:
    """The tools of one tagger or scorer; see `annotation.tools.Tools`."""

    request: Request
    crew: Crew
    most_failures: float = math.inf

    def find(self, model: ModelName) -> Encoder:
        """Return a model that the request has found."""
        return self.request.models[model.key]

    def answers_path(self, identity: Mapping[str, object]) -> Path:
        """Name the file for the answers of a chat model; any later run finds them, whatever else has changed."""
        return self.request.arguments.cache_dir / "chat_answers" / f"{fingerprint_of(identity)[:32]}.jsonl"

    def embed_questions(self, rows: Rows, model: ModelName, max_tokens: int) -> NDArray[np.float32]:
        """Have the questions embedded on all ranks, or take what is kept.

        Returns:
            Mapped from a file. Shape (number of rows, D).
        """
        encoder = self.find(model)
        path = rows.cache_path("row_embeddings", {"text": "question", "max_tokens": max_tokens}, encoder)
        return self.crew.embed_rows(
            rows.questions, len(rows), encoder, path, key=model.key, pooling="mean", max_tokens=max_tokens
        )

    def embed_texts(self, texts: Sequence[str], model: ModelName) -> NDArray[np.float32]:
        """Have short texts embedded, or take what is kept. Shape (number of texts, D)."""
        return embed_texts(texts, model.key, self.request, self.crew)


def embed_texts(names: Sequence[str], key: str, request: Request, crew: Crew) -> NDArray[np.float32]:
    """Return the vectors of labels, or texts as short, in their order: from the cache, or by the model of a key.

    Returns:
        Shape (number of texts, D).
    """
    encoder = request.models[key]
    identity = {**encoder.identity, "dtype": encoder.resolve_dtype()}
    cache = VectorCache(request.arguments.cache_dir, fingerprint_of(identity))
    with cache.locked():  # another run may be embedding the same labels just now
        vectors = cache.read(names)

        def keep(labels: Sequence[str], made: NDArray[np.float32]) -> None:
            vectors.update(zip(labels, made, strict=True))
            cache.write(labels, made)

        missing = [name for name in dict.fromkeys(names) if name not in vectors]
        if missing:
            crew.embed_labels(missing, encoder, request.arguments.mig_embedding_batch_size, keep, key=key)
    return np.stack([vectors[name] for name in names])
