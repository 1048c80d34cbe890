"""What every room that runs a model needs: its precision here, words for what goes wrong, the memory back."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

from mig_selector.errors import MigSelectorError


def resolve_dtype(dtype: str) -> str:
    """Return the precision on this machine: auto is bfloat16 on a GPU and float32 on a CPU."""
    import torch

    if dtype != "auto":
        return dtype
    return "bfloat16" if torch.cuda.is_available() else "float32"


def dtype_argument(dtype: str) -> dict[str, Any]:
    """Return the argument of `from_pretrained` that sets a model's precision; transformers 4.56 renamed it."""
    import torch
    from packaging.version import Version

    name = "dtype" if Version(version("transformers")) >= Version("4.56") else "torch_dtype"
    return {name: getattr(torch, resolve_dtype(dtype))}


@contextlib.contextmanager
def loading(key: str, model: str, error_type: type[MigSelectorError]) -> Iterator[None]:
    """Say in words what keeps a model from being loaded.

    Args:
        key: Names the model in the configuration.
        model: Folder or hub id.
        error_type: What to raise.
    """
    try:
        yield
    except Exception as error:  # loaders raise anything, from missing files to device errors
        raise error_type(f"{key}: {model!r} cannot be loaded ({type(error).__name__}: {error}).") from error


def free_memory() -> None:
    """Give back what a model held that nobody refers to any more: training starts with an empty GPU."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
