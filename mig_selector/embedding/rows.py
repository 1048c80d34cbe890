"""Row vectors: computed by a model on every rank under accelerate, or read from a file (``mig_row_embeddings``).

Dimension letters: N rows, D dimensions of a vector.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
from numpy.typing import NDArray

from mig_selector.embedding.encoder import Encoder
from mig_selector.errors import EmbeddingError
from mig_selector.ranks.models import dtype_argument, loading, pad_tokens
from mig_selector.ranks.share import fill_matrix, tokens_per_batch
from mig_selector.ranks.world import Ranks
from mig_selector.store.matrix import MatrixFile


_TOKENIZED_TEXTS = 256
"""Number of texts tokenised at once. They are padded to the longest, so one long text must not inflate many."""
_CHARACTERS = 1 << 18
"""Characters per batch for models that do not read tokens: they do not pad, so small batches would gain nothing."""
_CHECKED_BYTES = 64 << 20
"""Vectors from a file are checked in blocks of this size, as the file may be larger than the memory."""


def embed_rows(
    texts: Callable[[], Iterable[str]],
    count: int,
    encoder: Encoder,
    path: Path,
    ranks: Ranks,
    on_rows: Callable[[int], object],
    *,
    key: str = "mig_row_embedding_model",
    pooling: Literal["mean", "lasttoken"] = "mean",
    max_tokens: int | None = None,
) -> Path:
    """Embed the text of each row; every rank must call this.

    Vectors are stored chunk by chunk. A run that was killed resumes there, and gets the same vectors.

    Args:
        texts: Called on rank 0 only; yields the N texts.
        count: N.
        encoder: The model.
        path: Where rank 0 stores the vectors; the name must contain a fingerprint of texts, model, pooling and limit.
        ranks: The ranks that share the work.
        on_rows: Called with the number of rows embedded since the last call, assuming equally fast ranks.
        key: Names the model in the configuration, for messages.
        pooling: How token vectors become one vector; a sentence-transformers model brings its own pooling.
        max_tokens: Longer texts are truncated; None, or more than the model's own limit, means that limit.

    Returns:
        `path`: an ``.npy`` file of float32, shape (N, D), on rank 0's node.

    Raises:
        ArgumentError: The disk is too small for the vectors.
        EmbeddingError: The model cannot be loaded, finds no token in a text, or computes a vector that is zero or not
            finite.
        RemoteError: Another rank failed.
    """

    def load(device: Any) -> _RowEmbedder:
        with loading(key, encoder.model, EmbeddingError):
            return _RowEmbedder(_load_model(encoder, pooling, max_tokens, device), encoder.model, key)

    fill_matrix(MatrixFile(path, count), lambda: enumerate(texts()), load, ranks, on_rows)
    return path


def _load_model(encoder: Encoder, pooling: str, max_tokens: int | None, device: Any) -> Any:
    """Load a sentence-transformers model as it is, and any other model with the given pooling."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling
    from sentence_transformers.util import is_sentence_transformer_model

    model = SentenceTransformer(
        encoder.model, revision=encoder.revision, device=str(device), model_kwargs=dtype_argument(encoder.dtype)
    )
    if not is_sentence_transformer_model(encoder.model, revision=encoder.revision):
        model[0].modality_config.pop("message", None)  # or the text would be put into the chat template
        model[1] = Pooling(model[0].get_embedding_dimension(), pooling)
        # Language models often have no padding token; any token will do, as padding is masked.
        if model.tokenizer.pad_token is None:
            model.tokenizer.pad_token = model.tokenizer.eos_token
    if max_tokens is not None and model.max_seq_length != math.inf:  # word vectors have no limit and need none
        model.max_seq_length = min(max_tokens, model.max_seq_length or max_tokens)
    return model


class _RowEmbedder:
    """The `RowModel` of row texts; an item is a pair of the row's index among the kept rows and its text.

    An encoded item is that index and the tokens of the text. For models that read something else than tokens and their
    mask (word vectors, bags of words) it is the index and the characters; they tokenize when they compute.
    """

    def __init__(self, model: Any, name: str, key: str) -> None:
        """Try the model on texts of two lengths, so that one that cannot pad fails before the work begins."""
        self._model, self._name, self._key = model.eval(), name, key
        features = self._tokenize(["one", "one and two"])
        self._modality = {key: features[key] for key in ("modality",) if key in features}
        read = {name for name in features if name not in self._modality}
        if "token_type_ids" in read and not features["token_type_ids"].any():
            read.remove("token_type_ids")  # zeros are what models take where there are none
        self._reads_tokens = read == {"input_ids", "attention_mask"}
        if self._reads_tokens:
            is_padding = features["attention_mask"] == 0
            self._padding = int(features["input_ids"][is_padding][0]) if is_padding.any() else 0
            self._pads_left = bool(is_padding[:, 0].any())
        self.batch_tokens = tokens_per_batch(model.device) if self._reads_tokens else _CHARACTERS
        self.width = int(self._embed(features).shape[1])

    def encode(self, items: Sequence[tuple[int, str]]) -> list[NDArray[np.int32]]:
        """Return the index of each row and its tokens after truncation; EmbeddingError if a text has none."""
        if not self._reads_tokens:
            return [np.array([index, *map(ord, text)], np.int32) for index, text in items]
        encoded = []
        for start in range(0, len(items), _TOKENIZED_TEXTS):
            span = items[start : start + _TOKENIZED_TEXTS]
            features = self._tokenize([text for _, text in span])
            are_tokens = features["attention_mask"].bool()
            for (index, text), ids, is_token in zip(span, features["input_ids"], are_tokens, strict=True):
                if not is_token.any():
                    self._fail("finds no token in", index, text)
                encoded.append(np.array([index, *ids[is_token].tolist()], np.int32))
        return encoded

    def compute(self, batch: Sequence[NDArray[np.int32]]) -> Any:
        """Return the vectors, a float32 tensor of shape (m, D); EmbeddingError if one is zero or not finite."""
        vectors = self._embed(self._features([row[1:] for row in batch]))
        is_bad = ~vectors.isfinite().all(dim=1) | ~vectors.any(dim=1)
        for row in is_bad.nonzero().flatten().tolist()[:1]:
            fault = "computes a vector that is zero or not finite for"
            self._fail(fault, int(batch[row][0]), self._text(batch[row][1:]))
        return vectors

    def _tokenize(self, texts: list[str]) -> Any:
        """Return what the model reads of one batch of texts."""
        return self._model.preprocess(texts, prompt="")

    def _features(self, encoded: Sequence[NDArray[np.int32]]) -> Any:
        """Return what the model reads of one batch of encoded texts, as `_tokenize` would."""
        if not self._reads_tokens:
            return self._tokenize([self._text(characters) for characters in encoded])
        ids, mask = pad_tokens(encoded, self._model.device, self._padding, on_left=self._pads_left)
        return {"input_ids": ids, "attention_mask": mask, **self._modality}

    def _embed(self, features: Any) -> Any:
        """Return the vectors of one batch of texts, a float32 tensor of shape (m, D)."""
        import torch
        from sentence_transformers.util import batch_to_device

        # What the model's `encode` does with a batch; it would also tokenize it, which another thread has done.
        with torch.inference_mode():
            vectors = self._model(batch_to_device(features, self._model.device))["sentence_embedding"]
        return vectors[:, : self._model.truncate_dim].float()

    def _text(self, encoded: NDArray[np.int32]) -> str:
        """Return an encoded text, or what its tokens mean."""
        if not self._reads_tokens:
            return "".join(map(chr, encoded.tolist()))
        return str(self._model.tokenizer.decode(encoded.tolist(), skip_special_tokens=True))

    def _fail(self, fault: str, index: int, text: str) -> NoReturn:
        raise EmbeddingError(
            f"{self._key}: {self._name!r} {fault} row {index} of the kept rows (0-based), {text[:60]!r}; "
            "remove the row, or try another model or mig_embedding_dtype: float32."
        )


def read_given_rows(path: Path, num_rows: int) -> NDArray[np.floating[Any]]:
    """Map the vectors of all rows of the pool from a file of the user.

    Args:
        path: An ``.npy`` file.
        num_rows: Number of rows of the whole pool (N).

    Returns:
        The vectors in the file's precision, memory-mapped. Shape (N, D).

    Raises:
        EmbeddingError: The file cannot be read, or does not hold floats of that shape.
    """
    where = f"mig_row_embeddings: {path}"
    try:
        vectors = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise EmbeddingError(
            f"{where} is not a complete .npy file of floats; expected what numpy.save writes for an array of shape "
            "(N, D)."
        ) from error
    if not isinstance(vectors, np.ndarray):
        raise EmbeddingError(f"{where} must be an .npy file, not an .npz archive of arrays.")
    if vectors.dtype.kind != "f" or vectors.ndim != 2 or len(vectors) != num_rows or not vectors.shape[1]:
        raise EmbeddingError(
            f"{where} must hold floats of shape ({num_rows}, D), one vector for each of the {num_rows} rows of the "
            f"pool, got {vectors.dtype} {vectors.shape}."
        )
    return vectors


def check_given_rows(path: Path, vectors: NDArray[np.floating[Any]], rows: NDArray[np.int64]) -> None:
    """Check the vectors of the kept rows.

    Args:
        path: The file that the vectors come from, for messages.
        vectors: Vectors of all rows of the pool. Shape (N, D).
        rows: Pool indices of the kept rows, ascending; the vectors of other rows may hold anything.

    Raises:
        EmbeddingError: A vector is zero or not finite; names its row.
    """
    size = max(_CHECKED_BYTES // (vectors.shape[1] * vectors.itemsize), 1)
    for start in range(0, len(rows), size):
        indices = rows[start : start + size]
        block = vectors[indices]
        is_bad = ~np.isfinite(block).all(axis=1) | ~block.any(axis=1)
        if is_bad.any():
            raise EmbeddingError(
                f"mig_row_embeddings: {path}: the vector of row {indices[is_bad][0]} of the pool (0-based) is zero or "
                "not finite."
            )
