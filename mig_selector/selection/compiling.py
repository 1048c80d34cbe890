"""How the search is compiled: once per machine where a folder for machine code can be written."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from numba import config, njit

from mig_selector.store.folders import default_cache_dir


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile, and keep the machine code on disk; where no folder can be written, compile in every run.

    Numba's own choice, ``__pycache__`` beside the source, would outlast `pip uninstall`. `NUMBA_CACHE_DIR` wins.
    """
    folder = Path(config.CACHE_DIR) if config.CACHE_DIR else _default_folder()
    kept = _compile_into(folder, function) if folder is not None and _is_writable(folder) else None
    dispatcher: Callable[..., Any] = kept or njit(nogil=True, error_model="numpy")(function)
    return dispatcher


def inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile into the callers: a call that passes tuples of arrays would cost more than a gain."""
    dispatcher: Callable[..., Any] = njit(inline="always", nogil=True, error_model="numpy")(function)
    return dispatcher


def _compile_into(folder: Path, function: Callable[..., Any]) -> Any:
    """Compile and keep the code below `folder`; None where numba cannot make a folder of its own there."""
    with _numba_keeps_code_in(folder), contextlib.suppress(RuntimeError):  # "no locator available"
        dispatcher = njit(cache=True, nogil=True, error_model="numpy")(function)
        if Path(dispatcher.stats.cache_path).is_relative_to(folder):
            return dispatcher
    return None


def _default_folder() -> Path | None:
    try:
        return default_cache_dir() / "kernels"
    except RuntimeError:  # this user has no home
        return None


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _numba_keeps_code_in(folder: Path) -> Iterator[None]:
    """Name numba's folder while the block runs: other packages' functions are kept where they were."""
    before = config.CACHE_DIR
    config.CACHE_DIR = str(folder)
    try:
        yield
    finally:
        config.CACHE_DIR = before
