"""Rows embedded by a model, on every rank under accelerate, or embedded elsewhere and given (``mig_row_embeddings``).

Dimension letters: N rows, D dimensions of a vector.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mig_selector.embedding.encoder import Encoder
from mig_selector.errors import EmbeddingError
from mig_selector.ranks.models import dtype_argument, loading
from mig_selector.ranks.share import fill_matrix, tokens_per_batch
from mig_selector.ranks.world import Ranks
from mig_selector.store.matrix import MatrixFile


_KEY = "mig_row_embedding_model"
_COUNTED_TEXTS = 256
"""Texts whose tokens are counted at once; they are padded to the longest."""
_CHECKED_BYTES = 64 << 20
"""Vectors that were given are checked in blocks of this size."""


def embed_rows(
    texts: Callable[[], Iterable[str]],
    count: int,
    encoder: Encoder,
    path: Path,
    ranks: Ranks,
    on_rows: Callable[[int], object],
    *,
    pooling: Literal["mean", "lasttoken"] = "mean",
    max_tokens: int | None = None,
) -> Path:
    """Embed the text of each row; every rank must call this.

    What is done is kept chunk by chunk: a run that was killed goes on where it was, and the vectors are the same.

    Args:
        texts: Called on rank 0 only, which streams them: N texts.
        count: N.
        encoder: The model.
        path: Where the vectors are kept, on rank 0: a name that stands for texts, model, pooling and limit.
        ranks: Who shares the work.
        on_rows: Called with the number of rows embedded since the last call, by all ranks if they keep step.
        pooling: How token vectors become one, if the model does not say so itself.
        max_tokens: Longer texts are cut off; the model's own limit if None, or if that is smaller.

    Returns:
        `path`: an ``.npy`` file of float32, shape (N, D), on rank 0's node.

    Raises:
        ArgumentError: The disk has no room for the vectors.
        EmbeddingError: The model cannot be loaded, or yields a vector that is zero or not finite.
        RemoteError: Another rank failed.
    """

    def load(device: Any) -> _Embedder:
        with loading(_KEY, encoder.model, EmbeddingError):
            return _Embedder(_load(encoder, pooling, max_tokens, device), encoder.model)

    fill_matrix(MatrixFile(path, count), lambda: enumerate(texts()), load, ranks, on_rows)
    return path


def _load(encoder: Encoder, pooling: str, max_tokens: int | None, device: Any) -> Any:
    """Load a sentence-transformers model as it is, and any other model with the pooling that is asked for."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling
    from sentence_transformers.util import is_sentence_transformer_model

    model = SentenceTransformer(
        encoder.model, revision=encoder.revision, device=str(device), model_kwargs=dtype_argument(encoder.dtype)
    )
    if not is_sentence_transformer_model(encoder.model, revision=encoder.revision):
        model[0].modality_config.pop("message", None)  # else a text is wrapped in the model's chat template
        model[1] = Pooling(model[0].get_embedding_dimension(), pooling)
        if model.tokenizer.pad_token is None:  # language models have none; what is padded is masked anyway
            model.tokenizer.pad_token = model.tokenizer.eos_token
    if max_tokens is not None:
        model.max_seq_length = min(max_tokens, model.max_seq_length or max_tokens)
    return model


class _Embedder:
    """Embeds items: a row's number and its text."""

    def __init__(self, model: Any, name: str) -> None:
        """Try `model` on texts of two lengths: one that cannot pad is known before the work begins."""
        self._model, self._name = model, name
        self.batch_tokens = tokens_per_batch(model.device)
        self.width = int(self._encode(["one", "one and two"]).shape[1])

    def _encode(self, texts: list[str]) -> Any:
        return self._model.encode(
            texts, prompt="", batch_size=len(texts), convert_to_tensor=True, show_progress_bar=False
        ).float()

    def count_tokens(self, items: Sequence[tuple[int, str]]) -> NDArray[np.int64]:
        """Count as the model does; 0 throughout for models that never pad."""
        counts = np.zeros(len(items), np.int64)
        for start in range(0, len(items), _COUNTED_TEXTS):
            span = slice(start, start + _COUNTED_TEXTS)
            features = self._model.preprocess([text for _, text in items[span]])
            if "attention_mask" in features:
                counts[span] = features["attention_mask"].sum(dim=1).cpu().numpy()
                self._refuse(counts[span] == 0, items[span], "finds no token in")
        return counts

    def compute(self, items: Sequence[tuple[int, str]]) -> Any:
        """Return their vectors, shape (m, D)."""
        vectors = self._encode([text for _, text in items])
        is_bad = ~vectors.isfinite().all(dim=1) | ~vectors.any(dim=1)
        self._refuse(is_bad.cpu().numpy(), items, "gives a vector that is zero or not finite to")
        return vectors

    def _refuse(self, is_bad: NDArray[np.bool_], items: Sequence[tuple[int, str]], fault: str) -> None:
        for place in np.flatnonzero(is_bad)[:1]:
            row, text = items[place]
            raise EmbeddingError(
                f"{_KEY}: {self._name!r} {fault} row {row} of those to choose from (counted from 0), {text[:60]!r}; "
                "leave the row out, or try another model or mig_embedding_dtype: float32."
            )


def read_given_rows(path: Path, num_rows: int) -> NDArray[np.floating[Any]]:
    """Map the vectors of all rows from a file that the user made.

    Args:
        path: An ``.npy`` file.
        num_rows: N, of the whole pool.

    Returns:
        The vectors as they are in the file, read when they are used. Shape (N, D).

    Raises:
        EmbeddingError: The file is not of that form.
    """
    where = f"mig_row_embeddings: {path}"
    try:
        vectors = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise EmbeddingError(
            f"{where} is no whole .npy file of floats; expected what numpy.save makes of an array of shape (N, D)."
        ) from error
    if not isinstance(vectors, np.ndarray):
        raise EmbeddingError(f"{where} must be an .npy file, not an archive of arrays.")
    if vectors.dtype.kind != "f" or vectors.ndim != 2 or len(vectors) != num_rows or not vectors.shape[1]:
        raise EmbeddingError(
            f"{where} must hold floats of shape ({num_rows}, D), a vector for each of the {num_rows} rows of the "
            f"pool, got {vectors.dtype} {vectors.shape}."
        )
    return vectors


def check_given_rows(path: Path, vectors: NDArray[np.floating[Any]], rows: NDArray[np.int64]) -> None:
    """Look at the vectors that will be used.

    Args:
        path: Where they are from.
        vectors: Shape (N, D).
        rows: Which rows of the pool are kept, in ascending order; the others may hold anything.

    Raises:
        EmbeddingError: One of them is zero or not finite; names the row.
    """
    size = max(_CHECKED_BYTES // (vectors.shape[1] * vectors.itemsize), 1)
    for start in range(0, len(rows), size):
        some = rows[start : start + size]
        block = vectors[some]
        is_bad = ~np.isfinite(block).all(axis=1) | ~block.any(axis=1)
        if is_bad.any():
            raise EmbeddingError(
                f"mig_row_embeddings: {path}: the vector of row {some[is_bad][0]} (counted from 0) is zero or not "
                "finite."
            )
