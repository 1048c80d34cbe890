"""Atomic file writes, and file locks for what several runs share."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import json
import logging
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout

from mig_selector.store.folders import is_believed


logger = logging.getLogger(__name__)


_LOCK_MODE = 0o666
"""Writable for all: users who share a cache share its locks."""
_ABANDONED_SECONDS = 60.0
"""A temporary file that is unlocked and has not been written to for this long was left by a killed process."""


@contextlib.contextmanager
def whole_file(
    path: Path,
    *,
    follow_link: bool = False,
    is_private: bool = False,
    before_rename: Callable[[], object] | None = None,
) -> Iterator[IO[bytes]]:
    """Write a file atomically: under a temporary name beside `path`, renamed to `path` once it is on disk.

    If the block or `before_rename` raises, `path` stays as it was and the temporary file is removed. Temporary files
    that killed processes left for the same `path` are removed too. Mode, owner and group of an existing file are kept.

    Args:
        path: The final name. Its folder is created if necessary.
        follow_link: Write what a symbolic link at `path` leads to. By default the link is replaced by a file: a link
            that came with somebody's data must not choose which file is overwritten.
        is_private: Whether only this user can write to the file, whatever mode an older one had: later runs do not
            believe files that others can write to (see `folders.is_believed`).
        before_rename: Called once the new content is on disk, right before it takes the place of the old one.

    Yields:
        The temporary file, opened for writing.

    Raises:
        OSError: The file cannot be written; its `filename` is set.
    """
    target = path.resolve() if follow_link else path.absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(target)
    handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            # Locked while it is being written, so that no other process takes it for abandoned; see _remove_abandoned.
            with contextlib.suppress(OSError):  # not every file system has locks
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield stream
            if is_private:
                os.fchmod(stream.fileno(), 0o644 & ~_umask())
            else:
                _take_over_access(target, stream.fileno())
            # On disk before the rename: after a crash the name must not lead to an empty or incomplete file.
            stream.flush()
            os.fsync(stream.fileno())
            if before_rename is not None:
                before_rename()
            Path(temporary).replace(target)
    except OSError as error:
        # A failed write ("disk full") names no file, a failed rename the temporary one first.
        error.filename = error.filename2 or error.filename or str(target)
        raise
    finally:
        Path(temporary).unlink(missing_ok=True)


def _take_over_access(old: Path, handle: int) -> None:
    """Give a temporary file the mode, owner and group of the file that it replaces, or the mode of a new file."""
    # mkstemp creates files that only their owner can read.
    try:
        status = old.lstat()
    except FileNotFoundError:
        status = None
    if status is None or not stat.S_ISREG(status.st_mode):
        os.fchmod(handle, 0o666 & ~_umask())
        return
    # Only root may give a file away, and only to a group of theirs may others; some file systems have no owners.
    made = os.fstat(handle)
    if status.st_gid != made.st_gid:
        with contextlib.suppress(OSError):
            os.fchown(handle, -1, status.st_gid)
    if status.st_uid != made.st_uid:
        with contextlib.suppress(OSError):
            os.fchown(handle, status.st_uid, -1)
    os.fchmod(handle, status.st_mode & 0o777)


def remove_leftovers(path: Path) -> None:
    """Remove the temporary files that killed processes left for `path`; the caller must hold its lock."""
    for file in _temporary_files(path):
        file.unlink(missing_ok=True)


def _temporary_files(path: Path) -> Iterator[Path]:
    return path.parent.glob(f".{glob.escape(path.name)}.*.tmp")


def _remove_abandoned(path: Path) -> None:
    """Remove old temporary files of `path`, but not those that another process is writing right now."""
    for file in _temporary_files(path):
        with contextlib.suppress(OSError):
            # The age covers the moment between creating and locking a file, and file systems without locks.
            if time.time() - file.stat().st_mtime > _ABANDONED_SECONDS:
                with file.open("r+b") as stream:
                    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    file.unlink()


def _umask() -> int:
    """Return the process's umask."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        return int(next(line for line in lines if line.startswith("Umask:")).split()[1], 8)
    # It can only be read by setting it: what another thread creates just then gets a mode that is too wide.
    current = os.umask(0)
    os.umask(current)
    return current


def write_text(
    path: Path, text: str, *, follow_link: bool = True, before_rename: Callable[[], object] | None = None
) -> None:
    """Write `text` atomically, as UTF-8; see `whole_file`."""
    with whole_file(path, follow_link=follow_link, before_rename=before_rename) as stream:
        stream.write(text.encode("utf-8"))


def write_json(path: Path, value: Any, *, is_private: bool = False) -> None:
    """Write `value` atomically, as indented JSON; `is_private` as for `whole_file`."""
    text = json.dumps(value, ensure_ascii=False, indent=2) + "\n"
    with whole_file(path, is_private=is_private) as stream:
        # A path that is not valid UTF-8 contains lone surrogates; their backslash escape is also their JSON escape.
        stream.write(text.encode("utf-8", "backslashreplace"))


def read_json(path: Path) -> Any:
    """Read a JSON file that this package wrote; None if it is missing, unreadable or not valid JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def read_believed_json(path: Path) -> Any:
    """Read as `read_json` does; None as well if another user could have written it (see `folders.is_believed`)."""
    return read_json(path) if is_believed(path) else None


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of `path` (the file ``.<name>.lock`` beside it) while the block runs.

    Symbolic links are followed, so that all names of a file share one lock. There is no timeout. In a folder that
    cannot be written to there is no lock and no need for one: files there can only be read.
    """
    target = path.resolve()
    lock = _lock_of(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout:
        logger.info("waiting for another run to release %s", target)
        lock.acquire()
    except OSError:
        if is_writable(target.parent):
            raise
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def locked_if_free(path: Path) -> Iterator[bool]:
    """Hold the lock of `path` while the block runs, unless another process holds it; yield whether it is held here."""
    lock = _lock_of(path.resolve())
    try:
        lock.acquire(blocking=False)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


@contextlib.contextmanager
def in_use(path: Path) -> Iterator[None]:
    """Keep others from holding the lock of `path` while the block runs; any number of processes may do so at once."""
    lock = Path(_lock_of(path.resolve()).lock_file)
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # not every file system has locks, and not every folder can be written to
            lock.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(lock, os.O_RDWR | os.O_CREAT, _LOCK_MODE)
            stack.callback(os.close, handle)
            with contextlib.suppress(PermissionError):  # it is another user's
                os.fchmod(handle, _LOCK_MODE)
            fcntl.flock(handle, fcntl.LOCK_SH)
        yield


def _lock_of(target: Path) -> FileLock:
    return FileLock(target.with_name(f".{target.name}.lock"), mode=_LOCK_MODE)


def is_writable(folder: Path) -> bool:
    """Whether files can be created in a folder; if it does not exist, whether it can be created."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return os.access(folder, os.W_OK)
