"""What everything that runs a model shares: precision, errors on loading, padding, and giving memory back."""

from __future__ import annotations

import contextlib
import gc
import logging
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mig_selector.errors import MigSelectorError


logger = logging.getLogger(__name__)


def resolve_dtype(dtype: str) -> str:
    """Return the precision to use on this machine: ``auto`` means bfloat16 with a GPU and float32 without."""
    import torch

    if dtype != "auto":
        return dtype
    return "bfloat16" if torch.cuda.is_available() else "float32"


def dtype_argument(dtype: str) -> dict[str, Any]:
    """Return the keyword argument of `from_pretrained` that sets the precision; transformers 4.56 renamed it."""
    import torch
    from packaging.version import Version

    name = "dtype" if Version(version("transformers")) >= Version("4.56") else "torch_dtype"
    return {name: getattr(torch, resolve_dtype(dtype))}


@contextlib.contextmanager
def loading(key: str, model: str, error_type: type[MigSelectorError], *, is_logged: bool = True) -> Iterator[None]:
    """Log that a model is being loaded, and turn whatever prevents it into one error for the user.

    Args:
        key: The key of the configuration that names the model.
        model: Folder or hub id.
        error_type: The exception to raise.
        is_logged: False for its tokenizer, which is loaded in no time.
    """
    if is_logged:
        logger.info("%s: loading %s", key, model)
    try:
        yield
    except Exception as error:  # loaders raise anything, from missing files to device errors
        raise error_type(f"{key}: {model!r} cannot be loaded ({type(error).__name__}: {error}).") from error


def pad_tokens(
    texts: Sequence[NDArray[np.int32]], device: Any, padding: int = 0, *, on_left: bool = False
) -> tuple[Any, Any]:
    """Make a batch of texts of different lengths.

    Args:
        texts: The token ids of m texts, the longest of which has T.
        device: A torch device.
        padding: The token that fills up shorter texts.
        on_left: Whether it goes before a text rather than behind it.

    Returns:
        The ids, and a mask that is 1 at tokens of a text; two tensors of int64, shape (m, T).
    """
    import torch

    longest = max(map(len, texts))
    ids = np.full((len(texts), longest), padding, np.int64)
    mask = np.zeros_like(ids)
    for row, text in enumerate(texts):
        span = slice(longest - len(text), longest) if on_left else slice(len(text))
        ids[row, span], mask[row, span] = text, 1
    return torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)


def free_memory() -> None:
    """Release the memory of models that are no longer referenced, so that training starts with an empty GPU."""
    import torch

    # Objects in reference cycles keep their GPU memory until collected; torch can only release what nothing holds.
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
