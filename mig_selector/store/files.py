"""Files that are there whole or not at all, and locks around those that several runs share."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import json
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout


logger = logging.getLogger(__name__)


_ABANDONED_SECONDS = 60.0
"""A temporary file that nobody has written to for so long, and nobody holds, was left by a process that was killed."""


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """Write a file under a temporary name beside `path` and give it its name once it is on disk.

    Args:
        path: The final name, followed if it is a link; its folder is made if need be.

    Yields:
        The open temporary file. If the block raises, `path` stays as it was and nothing is left behind. What a
        process that was killed left of `path` is removed.
    """
    target = path.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(target)
    mode = target.stat().st_mode & 0o777 if target.exists() else 0o666 & ~_umask()
    handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
            Path(temporary).chmod(mode)
            Path(temporary).replace(target)
    except OSError as error:
        error.filename = error.filename or str(target)  # a full disk does not say where it is full
        raise
    finally:
        Path(temporary).unlink(missing_ok=True)


def remove_leftovers(path: Path) -> None:
    """Remove what processes that were killed left of `path`; only for those who hold its lock."""
    for file in _temporary_files(path):
        file.unlink(missing_ok=True)


def _temporary_files(path: Path) -> Iterator[Path]:
    return path.parent.glob(f".{glob.escape(path.name)}.*.tmp")


def _remove_abandoned(path: Path) -> None:
    """Remove old temporary files of `path` that no process holds; others may be writing the same file right now."""
    for file in _temporary_files(path):
        with contextlib.suppress(OSError):
            if time.time() - file.stat().st_mtime > _ABANDONED_SECONDS:
                with file.open("r+b") as stream:
                    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    file.unlink()


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all."""
    with whole_file(path) as stream:
        stream.write(text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    text = json.dumps(value, ensure_ascii=False, indent=2) + "\n"
    with whole_file(path) as stream:
        # A path that is not UTF-8 holds half surrogates; a backslash escape is how JSON writes them, too.
        stream.write(text.encode("utf-8", "backslashreplace"))


def read_json(path: Path) -> Any:
    """Read a JSON file of ours; None where it is absent or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock that belongs to `path`, links followed (``.<name>.lock`` beside it), while the block runs."""
    target = path.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(target.with_name(f".{target.name}.lock"), mode=0o666)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        logger.info("waiting for another run that holds %s", target)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
