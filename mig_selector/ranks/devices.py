"""The GPUs of this machine, as torch sees them."""

from __future__ import annotations

import os
import shutil


def describe_gpus() -> list[str]:
    """Return name and memory of each GPU.

    Raises:
        RuntimeError: The machine has GPUs that torch cannot use, or torch cannot be loaded.
    """
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a library of CUDA is missing
        raise RuntimeError(f"torch cannot be imported: {error}") from error
    if torch.cuda.is_available():
        found = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        return [f"{each.name}, {each.total_memory / 2**30:.0f} GiB" for each in found]
    is_hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")  # the user wants none
    if shutil.which("nvidia-smi") is not None and not is_hidden:
        reason = "is built without CUDA" if torch.version.cuda is None else "finds none; is the driver recent enough?"
        raise RuntimeError(f"nvidia-smi is installed, but torch {torch.__version__} {reason}")
    return []
