"""Compiling with numba: once per machine if a folder for the machine code is writable, else in every run."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from numba import config, njit

from mig_selector.store.folders import default_cache_dir


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function, and keep its machine code on disk if a folder is writable.

    The folder is `NUMBA_CACHE_DIR` if the user has set it. Otherwise it is in this package's cache, as numba's
    default, ``__pycache__`` beside the source, would be left behind by `pip uninstall`.
    """
    folder = Path(config.CACHE_DIR) if config.CACHE_DIR else _default_folder()
    kept = _compile_into(folder, function) if folder is not None and _is_writable(folder) else None
    dispatcher: Callable[..., Any] = kept or njit(nogil=True, error_model="numpy")(function)
    return dispatcher


def inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """Inline a function into its compiled callers: passing tuples of arrays in a call would cost more than a gain."""
    dispatcher: Callable[..., Any] = njit(inline="always", nogil=True, error_model="numpy")(function)
    return dispatcher


def _compile_into(folder: Path, function: Callable[..., Any]) -> Any:
    """Compile, and keep the code below `folder`; return None if numba cannot create its own folder there."""
    with _numba_keeps_code_in(folder), contextlib.suppress(RuntimeError):  # "no locator available"
        dispatcher = njit(cache=True, nogil=True, error_model="numpy")(function)
        if Path(dispatcher.stats.cache_path).is_relative_to(folder):
            return dispatcher
    return None


def _default_folder() -> Path | None:
    try:
        return default_cache_dir() / "kernels"
    except RuntimeError:  # this user has no home directory
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
    """Set numba's folder while the block runs only, so that other packages' functions stay where they were.

    Numba reads the setting when a function is decorated, not when it is compiled.
    """
    before = config.CACHE_DIR
    config.CACHE_DIR = str(folder)
    try:
        yield
    finally:
        config.CACHE_DIR = before
