"""A matrix whose rows are computed over hours: stored in one file, resumable, never computed twice."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import struct
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_128

from mig_selector.errors import ArgumentError
from mig_selector.store.files import locked, read_json, remove_leftovers, write_json
from mig_selector.store.folders import is_believed


logger = logging.getLogger(__name__)

_BLOCK_BYTES = 16 << 20
"""Each block of this size has a checksum of its own, so that all cores can verify a file."""
_READ_BYTES = 1 << 20
_FOOTER_END = struct.Struct("<q8s")
"""Length of the footer before it, and `_MAGIC`."""
_MAGIC = b"MIGSUMS1"


class MatrixFile:
    """An ``.npy`` file of float32, shape (N, W), that gets its name when it is complete.

    Until then its name is ``<name>.partial``, and the state file ``<name>.partial.json`` beside it holds the number of
    finished rows. The state is written after the rows are on disk, so that it is true whenever the process or the
    machine fails.

    State and complete file have checksums of the rows, one for each 16 MiB; in the complete file they follow the rows,
    where numpy does not look. Rows that do not match theirs are never used.
    """

    def __init__(self, path: Path, num_rows: int) -> None:
        """Store `num_rows` (N) rows at `path`; its name must contain a fingerprint of everything that decides them."""
        self.path = path
        self._num_rows = num_rows
        self._width = self._done = 0
        self._checksums = _Checksums()
        self._partial = path.with_name(f"{path.name}.partial")
        self._state_path = path.with_name(f"{path.name}.partial.json")

    def locked(self) -> AbstractContextManager[None]:
        """Hold the lock of this matrix while the block runs; other runs wait."""
        return locked(self.path)

    def is_complete(self) -> bool:
        """Return whether all rows are there, and match their checksums; if they do not, remove them and say so.

        The caller must hold the lock.
        """
        if not self.path.exists() or not is_believed(self.path, is_array=True):
            return False
        if not self._is_intact():
            logger.warning("%s is damaged or has no checksums; what it held is computed again", self.path)
            self.path.unlink(missing_ok=True)
            return False
        # A run that was killed between the two steps of `finish` left its state file.
        with contextlib.suppress(OSError):  # a read-only cache
            self._state_path.unlink(missing_ok=True)
        return True

    def _is_intact(self) -> bool:
        """Compare the complete file with its footer; this reads all of it once, on all cores."""
        try:
            with self.path.open("rb") as stream:
                size = os.fstat(stream.fileno()).st_size
                stream.seek(size - _FOOTER_END.size)
                length, magic = _FOOTER_END.unpack(stream.read())
                end = size - _FOOTER_END.size - length
                if magic != _MAGIC or not 0 < length <= end:
                    return False
                stream.seek(end)
                footer = json.loads(stream.read(length))
                self._width = footer["width"]
                if footer != self._footer(footer["checksums"]) or end != self._offset_after(self._num_rows):
                    return False
                stream.seek(0)
                header = self._header()
                return stream.read(len(header)) == header and footer["checksums"] == _sums_of(stream, len(header), end)
        except (OSError, ValueError, TypeError, KeyError, struct.error, OverflowError):
            return False

    def _footer(self, checksums: list[str]) -> dict[str, Any]:
        """Return what follows the rows: the name is in it, so that no file can stand in for another."""
        return {"name": self.path.name, "num_rows": self._num_rows, "width": self._width, "checksums": checksums}

    def begin(self, width: int) -> int:
        """Open the matrix for rows of `width` numbers (W), resuming an earlier run if its rows had the same width.

        The caller must hold the lock.

        Returns:
            The number of rows that are already stored.

        Raises:
            ArgumentError: The disk is too small for the remaining rows.
        """
        self._width = width
        self._checksums = _Checksums()
        self._done = self._rows_on_disk()
        self._check_free_space()
        if not self._done:
            # The old state goes first: it must never describe the file that is started now.
            self._state_path.unlink(missing_ok=True)
            self._partial.unlink(missing_ok=True)  # a file of another user would stay theirs
            self._partial.write_bytes(self._header())
            self._partial.chmod(self._partial.stat().st_mode & ~0o022)
        return self._done

    def append(self, rows: NDArray[np.float32]) -> None:
        """Store the next rows, shape (m, W); they are on disk when this returns.

        Raises:
            ValueError: The rows do not fit the matrix; a wrong call.
            OSError: They cannot be written.
        """
        if rows.dtype != np.float32 or rows.shape[1:] != (self._width,) or self._done + len(rows) > self._num_rows:
            raise ValueError(
                f"{rows.dtype} rows of shape {rows.shape} cannot be appended to {self._done} of {self._num_rows} rows "
                f"of width {self._width}"
            )
        data = np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data
        try:
            with self._partial.open("r+b") as stream:
                # Not at the end of the file: a killed run may have written rows that its state does not count.
                stream.seek(self._offset_after(self._done))
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())  # before the state below, which promises that the rows are there
        except OSError as error:
            error.filename = error.filename or str(self._partial)  # a failed write ("disk full") names no file
            raise
        self._done += len(rows)
        self._checksums.add(data)
        write_json(self._state_path, self._state(self._done, self._checksums.all()), is_private=True)

    def finish(self) -> None:
        """Rename the complete matrix to its final name; ValueError if rows are missing."""
        if self._done != self._num_rows:
            raise ValueError(f"{self.path} has {self._done} of {self._num_rows} rows")
        footer = json.dumps(self._footer(self._checksums.all())).encode("ascii")
        with self._partial.open("r+b") as stream:
            stream.seek(self._offset_after(self._done))
            stream.truncate()  # a killed run may have written rows twice, or this footer
            stream.write(footer + _FOOTER_END.pack(len(footer), _MAGIC))
            stream.flush()
            os.fsync(stream.fileno())
        self._partial.replace(self.path)
        # The rename must be on disk before the state file is deleted: otherwise a crash could leave the partial file
        # without its state, and all rows would be computed again.
        _sync_folder(self.path.parent)
        self._state_path.unlink(missing_ok=True)

    def _rows_on_disk(self) -> int:
        """Return how many rows an earlier run finished; 0 if its files are missing, damaged or of another shape."""
        remove_leftovers(self._state_path)
        if not self._partial.exists() or not all(
            is_believed(path, is_array=True) for path in (self._state_path, self._partial)
        ):
            return 0
        state = read_json(self._state_path)
        done, checksums = (state.get("rows"), state.get("checksums")) if isinstance(state, dict) else (None, None)
        if not isinstance(done, int) or done < 1 or state != self._state(done, checksums):
            return 0
        begin, end = len(self._header()), self._offset_after(done)
        with self._partial.open("rb") as stream:
            if self._partial.stat().st_size < end or _sums_of(stream, begin, end) != checksums:
                logger.warning("%s is damaged; its rows are computed again", self._partial)
                return 0
            self._checksums = _Checksums.of(stream, begin, end, checksums)
        return done

    def _state(self, rows: int, checksums: Any) -> dict[str, Any]:
        """Return the content of the state file when `rows` rows are finished."""
        return {"rows": rows, "num_rows": self._num_rows, "width": self._width, "checksums": checksums}

    def _check_free_space(self) -> None:
        """Fail before hours of work rather than after them; ArgumentError if the remaining rows do not fit."""
        # Blocks rather than the size: they are what the partial file really occupies, even if it is sparse.
        occupied = self._partial.stat().st_blocks * 512 if self._partial.exists() else 0
        needed = self._offset_after(self._num_rows) - occupied
        free = shutil.disk_usage(self.path.parent).free
        if needed > free:
            raise ArgumentError(
                f"mig_cache_dir: {self.path.parent} has {free:,} bytes free, but {self._num_rows:,} rows of "
                f"{self._width} numbers need {needed:,} more; free some space, or set mig_cache_dir to another folder."
            )

    def _offset_after(self, rows: int) -> int:
        """Return the byte offset at which that many rows end."""
        return len(self._header()) + rows * self._width * np.dtype(np.float32).itemsize

    def _header(self) -> bytes:
        """Return the .npy header of the complete matrix; its length depends on the shape alone."""
        buffer = BytesIO()
        shape = (self._num_rows, self._width)
        description = {"descr": np.dtype(np.float32).str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(buffer, description)
        return buffer.getvalue()


class _Checksums:
    """The checksums of bytes that come in pieces of any size, one for each block."""

    def __init__(self) -> None:
        self._finished: list[str] = []
        self._last, self._last_bytes = xxh3_128(), 0

    @classmethod
    def of(cls, stream: Any, begin: int, end: int, checksums: list[str]) -> _Checksums:
        """Go on after the bytes of a file that have been verified: only the last block is read again."""
        found = cls()
        found._finished = checksums[: (end - begin) // _BLOCK_BYTES]
        stream.seek(begin + len(found._finished) * _BLOCK_BYTES)
        found.add(memoryview(stream.read(end - stream.tell())))
        return found

    def add(self, data: memoryview) -> None:
        """Add the next bytes."""
        start = 0
        while start < len(data):
            piece = data[start : start + _BLOCK_BYTES - self._last_bytes]
            self._last.update(piece)
            self._last_bytes += len(piece)
            start += len(piece)
            if self._last_bytes == _BLOCK_BYTES:
                self._finished.append(self._last.hexdigest())
                self._last, self._last_bytes = xxh3_128(), 0

    def all(self) -> list[str]:
        """Return the checksums so far, that of an unfinished block included."""
        return [*self._finished, *([self._last.hexdigest()] if self._last_bytes else [])]


def _sums_of(stream: Any, begin: int, end: int) -> list[str]:
    """Return the checksum of each block of a file from one byte offset to another, computed on all cores."""

    def block(start: int) -> str:
        # pread, as the threads share the stream; read and not mapped, as a file that is cut off meanwhile would end
        # this process.
        checksum, stop = xxh3_128(), min(start + _BLOCK_BYTES, end)
        buffer = memoryview(bytearray(min(_READ_BYTES, stop - start)))
        while start < stop and (count := os.preadv(stream.fileno(), [buffer[: stop - start]], start)):
            checksum.update(buffer[:count])
            start += count
        return checksum.hexdigest()

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        return list(threads.map(block, range(begin, end, _BLOCK_BYTES)))


def _sync_folder(folder: Path) -> None:
    """Put the names in a folder on disk; syncing a file does not include its name."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
