"""Compiling with numba: once per machine if there is a private folder for the machine code, else in every run.

Whoever can write to that folder can run code as this user: numba's index files are pickles, and its data files are
machine code. So the folder must be one that only this user can write to.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import pickle
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from numba import config, njit
from numba.core.caching import FunctionCache, IndexDataCacheFile

from mig_selector.errors import ArgumentError
from mig_selector.store.folders import default_cache_dir, has_private_path


logger = logging.getLogger(__name__)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function, and keep its machine code on disk if there is a private folder for it.

    The folder is `NUMBA_CACHE_DIR` if the user has set it. Otherwise it is in this package's cache, as numba's
    default, ``__pycache__`` beside the source, would be left behind by `pip uninstall`.
    """
    folder = Path(config.CACHE_DIR) if config.CACHE_DIR else _default_folder()
    kept = _compile_into(folder, function) if folder is not None and _is_usable(folder) else None
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
            _check_sums_of(dispatcher)
            return dispatcher
    return None


def _check_sums_of(dispatcher: Any) -> None:
    """Let a dispatcher keep its code in files with checksums."""
    cache = getattr(dispatcher, "_cache", None)
    files = getattr(cache, "_cache_file", None)
    if isinstance(cache, FunctionCache) and type(files) is IndexDataCacheFile:
        files.__class__ = _CheckedFiles


class _CheckedFiles(IndexDataCacheFile):  # type: ignore[misc]  # numba has no types
    """Numba's files of one function with a checksum at the end of each; a damaged file counts as absent.

    Numba itself raises what unpickling a damaged file raises, in this run and all later ones, or runs damaged code.
    """

    def _dump(self, obj: Any) -> bytes:
        data: bytes = super()._dump(obj)  # of an index, or of compiled code; pickle ignores what follows it
        return data + hashlib.sha256(data).digest()

    def _load_index(self) -> Any:
        with contextlib.suppress(FileNotFoundError):
            content = Path(self._index_path).read_bytes()
            version = pickle.dumps(self._version, protocol=-1)
            if not _is_intact(content.removeprefix(version)):
                _say_damaged(self._index_path)
                Path(self._index_path).unlink(missing_ok=True)
                return {}
        return super()._load_index()

    def _load_data(self, name: str) -> Any:
        path = self._data_path(name)
        if not _is_intact(Path(path).read_bytes()):
            _say_damaged(path)
            raise FileNotFoundError(path)  # then numba compiles the function, and writes the file again
        return super()._load_data(name)


def _is_intact(content: bytes) -> bool:
    return hashlib.sha256(content[:-32]).digest() == content[-32:]


def _say_damaged(path: str) -> None:
    logger.warning("%s is damaged or has no checksum; the function is compiled again", path)


def _default_folder() -> Path | None:
    try:
        return default_cache_dir() / "kernels"
    except ArgumentError:  # this user has no home directory
        return None


@functools.cache
def _is_usable(folder: Path) -> bool:
    """Whether code can be kept in a folder and only this user can write to it; the answer is logged once if not."""
    try:
        folder.mkdir(0o700, parents=True, exist_ok=True)
        if not has_private_path(folder):
            logger.warning(
                "%s is not private: another user can write to it, to a folder above it, or owns one of them. Compiled "
                "code is neither read from there nor kept, so every run compiles it again; set NUMBA_CACHE_DIR to a "
                "folder that only you can write to.",
                folder,
            )
            return False
        if not config.CACHE_DIR:
            folder.chmod(0o700)
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
