"""What everything that runs a model shares: precision, errors on loading, and giving memory back."""

from __future__ import annotations

import contextlib
import gc
import logging
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

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
def loading(key: str, model: str, error_type: type[MigSelectorError]) -> Iterator[None]:
    """Log that a model is being loaded, and turn whatever prevents it into one error for the user.

    Args:
        key: The key of the configuration that names the model.
        model: Folder or hub id.
        error_type: The exception to raise.
    """
    logger.info("%s: loading %s", key, model)
    try:
        yield
    except Exception as error:  # loaders raise anything, from missing files to device errors
        raise error_type(f"{key}: {model!r} cannot be loaded ({type(error).__name__}: {error}).") from error


def free_memory() -> None:
    """Release the memory of models that are no longer referenced, so that training starts with an empty GPU."""
    import torch

    # Objects in reference cycles keep their GPU memory until collected; torch can only release what nothing holds.
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
