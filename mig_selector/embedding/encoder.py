"""Labels embedded by a sentence-transformers model, on every rank under accelerate.

A vector must not depend on the number of ranks, nor on which labels the cache already holds. So all labels of a batch
have the same length in tokens (nothing is padded), and every batch has the same number of rows (short ones are filled
up with copies). The model then sees the same shapes whichever rank embeds a label.

Dimension letters: M labels, D dimensions of a vector.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
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


_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".onnx", ".h5", ".msgpack")
"""Files with model weights, which do not matter to a tokenizer."""
_ROUND_SECONDS = 15.0
"""Target duration of a round. Vectors are stored after each round, so this is what a killed run loses at most."""
_ROUND_GROWTH = 8
"""A round may have at most this many times the batches of the previous one: a first fast round proves little."""


@dataclass(frozen=True)
class Encoder:
    """A sentence-transformers model, identified without loading it."""

    model: str
    """Absolute path of a folder, or hub id."""
    revision: str | None
    """Commit hash on the hub; None for a folder."""
    dtype: str
    """auto, float32, bfloat16 or float16."""
    content: str
    """Fingerprint of the files in the folder, or of hub id and commit."""

    @property
    def identity(self) -> dict[str, str]:
        """What decides the vectors, except for the device, on which the meaning of ``auto`` depends."""
        return {"content": self.content, "dtype": self.dtype}

    def resolve_dtype(self) -> str:
        """Return the precision to use on this machine: ``auto`` means bfloat16 with a GPU and float32 without."""
        return resolve_dtype(self.dtype)


def identify_encoder(
    model: str,
    dtype: str,
    hashes: ContentHashes,
    key: str = "mig_embedding_model",
    *,
    weights: bool = True,
    is_default: bool = False,
) -> Encoder:
    """Identify the files that `model` names, without loading them.

    Args:
        model: A folder, or the id of a model on the Hugging Face hub.
        dtype: The configured precision.
        hashes: Caches the hashes of files.
        key: The key of the configuration that names the model.
        weights: Whether the weights matter; for a tokenizer they do not.
        is_default: Whether the model is the key's default, which the user may never have seen.

    Returns:
        The encoder. For a hub id the revision is the commit in the local cache or, if there is none, the latest one.

    Raises:
        EmbeddingError: Neither a folder nor a model on the hub has that name.
    """
    if Path(os.path.expanduser(model)).is_dir():  # noqa: PTH111  Path's raises where there is no such home
        folder = Path(model).expanduser().absolute()
        if not any((folder / name).is_file() for name in ("config.json", "modules.json", "tokenizer.json")):
            raise EmbeddingError(f"{key}: {folder} holds no model: it has neither config.json nor modules.json.")
        files = hashes.folder(folder, without=() if weights else _WEIGHT_SUFFIXES)
        return Encoder(str(folder), None, dtype, fingerprint_of({"files": files}))
    try:
        revision = _cached_commit(model) or _hub_commit(model)
    except Exception as error:  # from an invalid name to a hub that does not answer
        reason = str(error).strip().splitlines()[0] if str(error).strip() else ""
        name = f"the default, {model!r}," if is_default else repr(model)
        raise EmbeddingError(
            f"{key}: {name} is not a folder on this machine and was not found on the hub ({type(error).__name__}: "
            f"{reason}). Give a folder{_alternatives(key)}."
        ) from error
    return Encoder(model, revision, dtype, fingerprint_of({"model": model, "revision": revision}))


def describe_plain_model(encoder: Encoder) -> str | None:
    """Say that a model is not a sentence encoder, where its files show it.

    sentence-transformers loads any model of transformers and pools its token vectors without a word.

    Returns:
        A sentence for people; None for a sentence encoder, or where the files are not on this machine yet.
    """
    folder = Path(encoder.model) if encoder.revision is None else _cached_snapshot(encoder)
    if folder is None or (folder / "modules.json").is_file() or not (folder / "config.json").is_file():
        return None
    return (
        f"{encoder.model} is not a sentence encoder (it has no modules.json): sentence-transformers takes the mean of "
        "its token vectors, or the last one of a causal language model. Vectors of models that were not trained for "
        "that are all alike, so the label graph means little; a sentence-transformers model is safer."
    )


def _cached_snapshot(encoder: Encoder) -> Path | None:
    """Return the folder of a hub model in the local cache, if its configuration is there."""
    from huggingface_hub import try_to_load_from_cache

    file = try_to_load_from_cache(encoder.model, "config.json", revision=encoder.revision)
    return Path(file).parent if isinstance(file, str) else None


def _alternatives(key: str) -> str:
    """Name the other ways to provide what `key` asks for, to complete a sentence."""
    given = {"mig_embedding_model": "mig_label_embeddings", "mig_row_embedding_model": "mig_row_embeddings"}
    reachable = "a hub id that this machine can reach"
    return f", {reachable}, or {given[key]}" if key in given else f" or {reachable}"


def _cached_commit(model: str) -> str | None:
    """Return the commit of a hub model in the local cache, so that a cached model needs no network."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    reference = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=model, repo_type="model") / "refs" / "main"
    return reference.read_text().strip() if reference.is_file() else None


def _hub_commit(model: str) -> str:
    """Ask the hub for the latest commit of a model."""
    from huggingface_hub import HfApi

    return str(HfApi().model_info(model).sha)


def find_same_encoder(
    encoder: Encoder, model: str, hashes: ContentHashes, key: str = "mig_embedding_model"
) -> Encoder:
    """Find this node's copy of the encoder that rank 0 uses.

    Args:
        encoder: The encoder of rank 0, from a folder there.
        model: The folder as configured on this node.
        hashes: Caches the hashes of files.
        key: The key of the configuration that names the model.

    Returns:
        The encoder with the folder of this node.

    Raises:
        EmbeddingError: This node has no such folder, or its files differ from those on rank 0's node.
    """
    if not Path(os.path.expanduser(model)).is_dir():  # noqa: PTH111  Path's raises where there is no such home
        raise EmbeddingError(
            f"{key}: the folder {model} does not exist on this node, only on that of rank 0. Copy it to every node."
        )
    here = identify_encoder(model, encoder.dtype, hashes, key)
    if here.content != encoder.content:
        raise EmbeddingError(
            f"{key}: {here.model} on this node has other files than {encoder.model} on that of rank 0; "
            "vectors of different models cannot be compared. Copy the folder to every node."
        )
    return here


def embed_labels(
    labels: Sequence[str],
    encoder: Encoder,
    batch_size: int,
    ranks: Ranks,
    on_labels: Callable[[int], object],
    keep: Callable[[Sequence[str], NDArray[np.float32]], object],
    *,
    key: str = "mig_embedding_model",
) -> None:
    """Embed labels as plain text, without a prompt. Every rank must call this, with the same labels.

    The work is cut into rounds of some seconds, so that `keep` can store the vectors as they come. If it fails, the
    process group is closed before the error goes on.

    Args:
        labels: M distinct labels, at least one.
        encoder: The model.
        batch_size: Rows of every batch, on each rank.
        ranks: The ranks that share the work.
        on_labels: Called with the number of labels embedded since the last call, assuming equally fast ranks.
        keep: Called on every rank with m of the labels and their vectors, shape (m, D); every label comes exactly
            once.
        key: Names the model in the configuration, for messages.

    Raises:
        EmbeddingError: The model cannot be loaded, or computes a vector that is zero or not finite.
        RemoteError: Another rank failed.
    """
    with all_threads(ranks), process_group(ranks) as state:
        model = ranks.agree(lambda: _load_model(encoder, state.device, key))
        batches = _batches(labels, _token_counts(model, labels), batch_size)
        first, per_rank = 0, 1
        while first < len(batches):
            start = time.monotonic()
            round_ = batches[first : first + per_rank * ranks.world_size]
            share = _embed_own_batches(model, labels, round_, ranks, per_rank, batch_size, on_labels)
            vectors = _gather_vectors(share, state)
            _check_vectors(vectors, labels, encoder, key)
            keep([labels[index] for index in vectors], np.stack(list(vectors.values())))
            first += len(round_)
            # Decided by rank 0: clocks differ, but all ranks must cut the same rounds.
            per_rank = ranks.decide(lambda: _next_round(per_rank, time.monotonic() - start))  # noqa: B023
        del model
        free_memory()


def _next_round(per_rank: int, seconds: float) -> int:
    """Return how many batches each rank embeds in the next round, after one of `per_rank` that took `seconds`."""
    return max(min(int(per_rank * _ROUND_SECONDS / max(seconds, 1e-3)), _ROUND_GROWTH * per_rank), 1)


@dataclass(frozen=True)
class _Share:
    """What one rank embedded in a round; padded to the same number of rows on every rank."""

    indices: list[int]
    """Index of the label that each row belongs to; -1 for padding."""
    values: Any
    """Tensor of shape (rows, D), on the CPU."""


def _embed_own_batches(
    model: Any,
    labels: Sequence[str],
    batches: Sequence[Sequence[int]],
    ranks: Ranks,
    per_rank: int,
    batch_size: int,
    on_labels: Callable[[int], object],
) -> _Share:
    """Embed this rank's batches of a round.

    A rank without batches embeds the first one and marks all of it as padding, because it must know D for the gather.
    """
    import torch

    mine = batches[ranks.rank :: ranks.world_size]
    indices: list[int] = []
    parts = []
    for step, batch in enumerate(mine or batches[:1]):
        texts = [labels[index] for index in batch] + [labels[batch[0]]] * (batch_size - len(batch))
        parts.append(model.encode(texts, prompt="", batch_size=batch_size, convert_to_tensor=True).float().cpu())
        indices += [*batch, *[-1] * (batch_size - len(batch))] if mine else [-1] * batch_size
        on_labels(sum(map(len, batches[step * ranks.world_size : (step + 1) * ranks.world_size])))
    missing = per_rank * batch_size - len(indices)
    parts.append(torch.zeros((missing, parts[0].shape[1])))
    return _Share(indices + [-1] * missing, torch.cat(parts))


def _gather_vectors(share: _Share, state: Any) -> dict[int, NDArray[np.float32]]:
    """Return the vectors of all ranks, shape (D,) each, by the index of their label."""
    import torch
    from accelerate.utils import gather

    indices = gather(torch.tensor(share.indices, device=state.device)).cpu().tolist()
    values = gather(share.values.to(state.device)).cpu().numpy()
    return {index: row for index, row in zip(indices, values, strict=True) if index >= 0}


def _check_vectors(
    vectors: Mapping[int, NDArray[np.float32]], labels: Sequence[str], encoder: Encoder, key: str
) -> None:
    """Raise an EmbeddingError if a vector is zero or not finite."""
    bad = [index for index, vector in vectors.items() if not np.all(np.isfinite(vector)) or not np.any(vector)]
    if bad:
        raise EmbeddingError(
            f"{key}: {encoder.model!r} computes {len(bad)} vectors that are zero or not finite, "
            f"the first for the label {labels[min(bad)]!r}; try mig_embedding_dtype: float32."
        )


def _load_model(encoder: Encoder, device: Any, key: str) -> Any:
    """Load the model onto a torch device; EmbeddingError if that fails for any reason."""
    from sentence_transformers import SentenceTransformer

    with loading(key, encoder.model, EmbeddingError):
        return SentenceTransformer(
            encoder.model, revision=encoder.revision, device=str(device), model_kwargs=dtype_argument(encoder.dtype)
        )


def _token_counts(model: Any, labels: Sequence[str]) -> NDArray[np.int64]:
    """Return the length of each label in tokens, shape (M,); all 0 for models that never pad."""
    features = model.preprocess(list(labels))
    if "attention_mask" not in features:
        return np.zeros(len(labels), np.int64)
    return np.asarray(features["attention_mask"].sum(dim=1).cpu().numpy(), np.int64)


def _batches(labels: Sequence[str], token_counts: NDArray[np.int64], batch_size: int) -> list[list[int]]:
    """Group labels of equal length, in alphabetical order, into batches of at most `batch_size`.

    Returns:
        The indices of each batch's labels.
    """
    order = sorted(range(len(labels)), key=lambda index: (token_counts[index], labels[index]))
    batches: list[list[int]] = []
    for index in order:
        last = batches[-1] if batches else []
        if not last or len(last) == batch_size or token_counts[last[0]] != token_counts[index]:
            batches.append([index])
        else:
            last.append(index)
    return batches
