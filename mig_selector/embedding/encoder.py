"""Labels embedded by a sentence-transformers model, on every rank under accelerate.

A vector must not depend on how many ranks there are, nor on which labels the cache already holds. So a batch holds
labels of one length in tokens (nothing is padded) and always has the same number of rows (a short one is filled up
with copies): the model sees the same shapes, whoever does the work.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mig_selector.errors import EmbeddingError
from mig_selector.ranks import Ranks, all_threads
from mig_selector.store.hashing import ContentHashes, fingerprint


@dataclass(frozen=True)
class Encoder:
    """A sentence-transformers model, known before it is loaded."""

    model: str
    """Folder or hub id."""
    revision: str | None
    """Commit on the hub; None for a folder."""
    dtype: str
    """auto, float32, bfloat16 or float16."""
    content: str
    """Hash of the weights, or of id and commit."""

    @property
    def facts(self) -> dict[str, str]:
        """What decides the vectors, but for the device that auto depends on."""
        return {"content": self.content, "dtype": self.dtype}

    def resolve_dtype(self) -> str:
        """Return the precision on this machine: auto is bfloat16 on a GPU and float32 on a CPU."""
        import torch

        if self.dtype != "auto":
            return self.dtype
        return "bfloat16" if torch.cuda.is_available() else "float32"


def identify_encoder(model: str, dtype: str, hashes: ContentHashes) -> Encoder:
    """Find out which weights `model` stands for, without loading them.

    Args:
        model: A folder, or the id of a model on the Hugging Face hub.
        dtype: Precision asked for.
        hashes: Remembers the content of folders.

    Returns:
        The encoder; for a hub id the commit that the local cache holds, else the one that the hub names now.

    Raises:
        EmbeddingError: There is neither such a folder nor such a model.
    """
    if Path(model).expanduser().is_dir():
        folder = Path(model).expanduser().absolute()
        return Encoder(str(folder), None, dtype, fingerprint({"files": hashes.folder(folder)}))
    revision = _cached_commit(model) or _hub_commit(model)
    return Encoder(model, revision, dtype, fingerprint({"model": model, "revision": revision}))


def _cached_commit(model: str) -> str | None:
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    reference = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=model, repo_type="model") / "refs" / "main"
    return reference.read_text().strip() if reference.is_file() else None


def _hub_commit(model: str) -> str:
    from huggingface_hub import HfApi

    try:
        commit = HfApi().model_info(model).sha
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else ""
        raise EmbeddingError(
            f"mig_embedding_model: {model!r} is no folder here and cannot be found on the hub "
            f"({type(error).__name__}: {reason}). Give a folder, a hub id that this machine can reach, or "
            "mig_label_embeddings."
        ) from error
    return str(commit)


def embed_labels(
    labels: Sequence[str], encoder: Encoder, batch_size: int, ranks: Ranks, on_labels: Callable[[int], object]
) -> NDArray[np.float32]:
    """Embed labels as plain text, without any instruction; every rank must call this with the same labels.

    Args:
        labels: M distinct texts, at least one.
        encoder: The model.
        batch_size: Rows of every batch, on each rank.
        ranks: Who shares the work.
        on_labels: Called with the number of labels embedded since the last call, by all ranks if they keep step.

    Returns:
        One vector per label, in the order of `labels`, on every rank. Shape (M, D).

    Raises:
        EmbeddingError: The model cannot be loaded, or yields a vector that is zero or not finite.
        RemoteError: Another rank failed.
    """
    import torch
    from accelerate.utils import gather

    with all_threads(ranks), ranks.process_group() as state:
        vectors = ranks.agree(lambda: _embed_share(labels, encoder, batch_size, state, on_labels))
        # Copies that fill up a batch, and batches that fill up a rank's share, carry the place -1.
        places = gather(torch.tensor(vectors.places, device=state.device)).cpu().numpy()
        gathered = gather(vectors.values.to(state.device)).float().cpu().numpy()
        del vectors
        _free_memory()
    result = np.empty((len(labels), gathered.shape[1]), np.float32)
    result[places[places >= 0]] = gathered[places >= 0]
    is_bad = ~np.all(np.isfinite(result), axis=1) | ~np.any(result, axis=1)
    if is_bad.any():
        raise EmbeddingError(
            f"mig_embedding_model: {encoder.model!r} gives {int(is_bad.sum())} vectors that are zero or not finite, "
            f"the first that of {labels[int(np.argmax(is_bad))]!r}; try mig_embedding_dtype: float32."
        )
    return result


@dataclass(frozen=True)
class _Share:
    """What one rank embedded."""

    values: Any
    """Tensor of shape (rows, D), on the CPU."""
    places: list[int]
    """Which label each row belongs to, or -1. Length rows."""


def _embed_share(
    labels: Sequence[str], encoder: Encoder, batch_size: int, state: Any, on_labels: Callable[[int], object]
) -> _Share:
    import torch

    model = _load(encoder, state.device)
    batches = _batches(labels, _token_counts(model, labels), batch_size)
    places: list[int] = []
    parts = []
    seen: set[int] = set()
    with state.split_between_processes(list(range(len(batches))), apply_padding=True) as mine:
        for done, number in enumerate(mine, 1):
            batch = batches[number]
            texts = [labels[place] for place in batch] + [labels[batch[0]]] * (batch_size - len(batch))
            parts.append(model.encode(texts, prompt="", batch_size=batch_size, convert_to_tensor=True).cpu())
            fill = [-1] * (batch_size - len(batch))
            places += [*batch, *fill] if number not in seen else [-1] * batch_size
            seen.add(number)
            on_labels(len(labels) * done // len(mine) - len(labels) * (done - 1) // len(mine))
    return _Share(torch.cat(parts), places)


def _load(encoder: Encoder, device: Any) -> Any:
    import torch
    from sentence_transformers import SentenceTransformer

    dtype = getattr(torch, encoder.resolve_dtype())
    try:
        return SentenceTransformer(
            encoder.model, revision=encoder.revision, device=str(device), model_kwargs={_dtype_key(): dtype}
        )
    except Exception as error:  # loaders raise anything, from missing files to device errors
        raise EmbeddingError(
            f"mig_embedding_model: {encoder.model!r} cannot be loaded ({type(error).__name__}: {error})."
        ) from error


def _dtype_key() -> str:
    """Name of the argument that sets a model's precision; transformers 4.56 renamed it."""
    import transformers
    from packaging.version import Version

    return "dtype" if Version(transformers.__version__) >= Version("4.56") else "torch_dtype"


def _token_counts(model: Any, labels: Sequence[str]) -> NDArray[np.int64]:
    """Length of each label in tokens; 0 throughout for models that never pad. Shape (M,)."""
    features = model.preprocess(list(labels))
    if "attention_mask" not in features:
        return np.zeros(len(labels), np.int64)
    return np.asarray(features["attention_mask"].sum(dim=1).cpu().numpy(), np.int64)


def _batches(labels: Sequence[str], token_counts: NDArray[np.int64], batch_size: int) -> list[list[int]]:
    """Group labels of equal length, in the order of their text, into batches of at most `batch_size`."""
    order = sorted(range(len(labels)), key=lambda place: (token_counts[place], labels[place]))
    batches: list[list[int]] = []
    for place in order:
        last = batches[-1] if batches else []
        if not last or len(last) == batch_size or token_counts[last[0]] != token_counts[place]:
            batches.append([place])
        else:
            last.append(place)
    return batches


def _free_memory() -> None:
    """Give back what the model held: training starts with an empty GPU."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
