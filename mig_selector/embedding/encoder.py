"""Labels embedded by a sentence-transformers model, on every rank under accelerate.

A vector must not depend on how many ranks there are, nor on which labels the cache already holds. So a batch holds
labels of one length in tokens (nothing is padded) and always has the same number of rows (a short one is filled up
with copies): the model sees the same shapes, whoever does the work.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mig_selector.errors import EmbeddingError
from mig_selector.ranks.group import all_threads, process_group
from mig_selector.ranks.models import dtype_argument, free_memory, loading, resolve_dtype
from mig_selector.ranks.world import Ranks
from mig_selector.store.hashing import ContentHashes, fingerprint_of


_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".onnx", ".h5", ".msgpack")
"""Endings of files that hold them."""
_ROUND_SECONDS = 15.0
"""What is embedded in about this time is kept; so much can be lost."""
_ROUND_GROWTH = 8
"""A round may hold so many times the batches of the one before."""


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
    def identity(self) -> dict[str, str]:
        """What decides the vectors, but for the device that auto depends on."""
        return {"content": self.content, "dtype": self.dtype}

    def resolve_dtype(self) -> str:
        """Return the precision on this machine: auto is bfloat16 on a GPU and float32 on a CPU."""
        return resolve_dtype(self.dtype)


def identify_encoder(
    model: str, dtype: str, hashes: ContentHashes, key: str = "mig_embedding_model", *, weights: bool = True
) -> Encoder:
    """Find out which weights `model` stands for, without loading them.

    Args:
        model: A folder, or the id of a model on the Hugging Face hub.
        dtype: Precision asked for.
        hashes: Remembers the content of folders.
        key: Names the model in the configuration.
        weights: Whether the weights matter; for a tokenizer they do not.

    Returns:
        The encoder; for a hub id the commit that the local cache holds, else the one that the hub names now.

    Raises:
        EmbeddingError: There is neither such a folder nor such a model.
    """
    if Path(model).expanduser().is_dir():
        folder = Path(model).expanduser().absolute()
        files = hashes.folder(folder, without=() if weights else _WEIGHTS)
        return Encoder(str(folder), None, dtype, fingerprint_of({"files": files}))
    try:
        revision = _cached_commit(model) or _hub_commit(model)
    except Exception as error:  # from a name that is none, to a hub that does not answer
        reason = str(error).strip().splitlines()[0] if str(error).strip() else ""
        raise EmbeddingError(
            f"{key}: {model!r} is no folder here and cannot be found on the hub ({type(error).__name__}: {reason}). "
            f"Give a folder{_alternatives(key)}."
        ) from error
    return Encoder(model, revision, dtype, fingerprint_of({"model": model, "revision": revision}))


def _alternatives(key: str) -> str:
    given = {"mig_embedding_model": "mig_label_embeddings", "mig_row_embedding_model": "mig_row_embeddings"}
    reachable = "a hub id that this machine can reach"
    return f", {reachable}, or {given[key]}" if key in given else f" or {reachable}"


def _cached_commit(model: str) -> str | None:
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    reference = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=model, repo_type="model") / "refs" / "main"
    return reference.read_text().strip() if reference.is_file() else None


def _hub_commit(model: str) -> str:
    from huggingface_hub import HfApi

    return str(HfApi().model_info(model).sha)


def find_same_encoder(
    encoder: Encoder, model: str, hashes: ContentHashes, key: str = "mig_embedding_model"
) -> Encoder:
    """Find on this node the encoder that rank 0 uses.

    Args:
        encoder: That of rank 0, from a folder there.
        model: The folder here.
        hashes: Remembers the content of folders.
        key: Names the model in the configuration.

    Raises:
        EmbeddingError: There is no such folder, or it holds other files.
    """
    if not Path(model).expanduser().is_dir():
        raise EmbeddingError(f"{key}: there is no folder {model} on this node, as there is on rank 0's.")
    here = identify_encoder(model, encoder.dtype, hashes, key)
    if here.content != encoder.content:
        raise EmbeddingError(
            f"{key}: {here.model} on this node holds other files than {encoder.model} on rank 0's; "
            "vectors of different models cannot be compared. Copy the folder to every node."
        )
    return here


def embed_labels(
    labels: Sequence[str], encoder: Encoder, batch_size: int, ranks: Ranks, on_labels: Callable[[int], object]
) -> Iterator[tuple[list[str], NDArray[np.float32]]]:
    """Embed labels as plain text, without any instruction; every rank must iterate over this with the same labels.

    The work is cut into rounds of some seconds, so that what is done can be kept before all is done.

    Args:
        labels: M distinct texts, at least one.
        encoder: The model.
        batch_size: Rows of every batch, on each rank.
        ranks: Who shares the work.
        on_labels: Called with the number of labels embedded since the last call, by all ranks if they keep step.

    Yields:
        Some of the labels and their vectors, shape (m, D), on every rank; together every label once.

    Raises:
        EmbeddingError: The model cannot be loaded, or yields a vector that is zero or not finite.
        RemoteError: Another rank failed.
    """
    with all_threads(ranks), process_group(ranks) as state:
        model = ranks.agree(lambda: _load(encoder, state.device))
        batches = _batches(labels, _token_counts(model, labels), batch_size)
        first, per_rank = 0, 1
        while first < len(batches):
            start = time.monotonic()
            round_ = batches[first : first + per_rank * ranks.world_size]
            share = _embed_share(model, labels, round_, ranks, per_rank, batch_size, on_labels)
            vectors = _gather(share, state)
            _check_vectors(vectors, labels, encoder)
            yield [labels[place] for place in vectors], np.stack(list(vectors.values()))
            first += len(round_)
            per_rank = ranks.decide(lambda: _next_round(per_rank, time.monotonic() - start))  # noqa: B023
        del model
        free_memory()


def _next_round(per_rank: int, seconds: float) -> int:
    """Return how many batches each rank is to embed in the next round, after one that took `seconds`."""
    return max(min(int(per_rank * _ROUND_SECONDS / max(seconds, 1e-3)), _ROUND_GROWTH * per_rank), 1)


@dataclass(frozen=True)
class _Share:
    """What one rank embedded in a round; as many rows on every rank."""

    places: list[int]
    """Which label each row belongs to; -1 for rows that only fill up."""
    values: Any
    """Tensor of shape (rows, D), on the CPU."""


def _embed_share(
    model: Any,
    labels: Sequence[str],
    batches: Sequence[Sequence[int]],
    ranks: Ranks,
    per_rank: int,
    batch_size: int,
    on_labels: Callable[[int], object],
) -> _Share:
    """Embed this rank's batches of a round; a rank that has none embeds one for nothing, to know the rows' shape."""
    import torch

    mine = batches[ranks.rank :: ranks.world_size]
    places: list[int] = []
    parts = []
    for step, batch in enumerate(mine or batches[:1]):
        texts = [labels[place] for place in batch] + [labels[batch[0]]] * (batch_size - len(batch))
        parts.append(model.encode(texts, prompt="", batch_size=batch_size, convert_to_tensor=True).float().cpu())
        places += [*batch, *[-1] * (batch_size - len(batch))] if mine else [-1] * batch_size
        on_labels(sum(map(len, batches[step * ranks.world_size : (step + 1) * ranks.world_size])))
    missing = per_rank * batch_size - len(places)
    parts.append(torch.zeros((missing, parts[0].shape[1])))
    return _Share(places + [-1] * missing, torch.cat(parts))


def _gather(share: _Share, state: Any) -> dict[int, NDArray[np.float32]]:
    """Give every rank the rows of all, by label."""
    import torch
    from accelerate.utils import gather

    places = gather(torch.tensor(share.places, device=state.device)).cpu().tolist()
    values = gather(share.values.to(state.device)).cpu().numpy()
    return {place: row for place, row in zip(places, values, strict=True) if place >= 0}


def _check_vectors(vectors: Mapping[int, NDArray[np.float32]], labels: Sequence[str], encoder: Encoder) -> None:
    bad = [place for place, vector in vectors.items() if not np.all(np.isfinite(vector)) or not np.any(vector)]
    if bad:
        raise EmbeddingError(
            f"mig_embedding_model: {encoder.model!r} gives {len(bad)} vectors that are zero or not finite, "
            f"the first that of {labels[min(bad)]!r}; try mig_embedding_dtype: float32."
        )


def _load(encoder: Encoder, device: Any) -> Any:
    from sentence_transformers import SentenceTransformer

    with loading("mig_embedding_model", encoder.model, EmbeddingError):
        return SentenceTransformer(
            encoder.model, revision=encoder.revision, device=str(device), model_kwargs=dtype_argument(encoder.dtype)
        )


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
