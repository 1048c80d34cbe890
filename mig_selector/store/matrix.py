"""A matrix whose rows are computed over hours: stored in one file, resumable, never computed twice."""

from __future__ import annotations

import os
import shutil
from contextlib import AbstractContextManager
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mig_selector.errors import ArgumentError
from mig_selector.store.files import locked, read_json, remove_leftovers, write_json


class MatrixFile:
    """An ``.npy`` file of float32, shape (N, W), that gets its name when it is complete.

    Until then its name is ``<name>.partial``, and the state file ``<name>.partial.json`` beside it holds the number of
    finished rows. The state is written after the rows are on disk, so that it is true whenever the process or the
    machine fails.
    """

    def __init__(self, path: Path, num_rows: int) -> None:
        """Store `num_rows` (N) rows at `path`; its name must contain a fingerprint of everything that decides them."""
        self.path = path
        self._num_rows = num_rows
        self._width = self._done = 0
        self._partial = path.with_name(f"{path.name}.partial")
        self._state_path = path.with_name(f"{path.name}.partial.json")

    def locked(self) -> AbstractContextManager[None]:
        """Hold the lock of this matrix while the block runs; other runs wait."""
        return locked(self.path)

    def is_complete(self) -> bool:
        """Return whether all rows are there."""
        if self.path.exists():
            # A run that was killed between the two steps of `finish` left its state file.
            self._state_path.unlink(missing_ok=True)
        return self.path.exists()

    def begin(self, width: int) -> int:
        """Open the matrix for rows of `width` numbers (W), resuming an earlier run if its rows had the same width.

        The caller must hold the lock.

        Returns:
            The number of rows that are already stored.

        Raises:
            ArgumentError: The disk is too small for the remaining rows.
        """
        self._width = width
        self._done = self._rows_on_disk()
        self._check_free_space()
        if not self._done:
            # The old state goes first: it must never describe the file that is started now.
            self._state_path.unlink(missing_ok=True)
            self._partial.write_bytes(self._header())
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
        try:
            with self._partial.open("r+b") as stream:
                # Not at the end of the file: a killed run may have written rows that its state does not count.
                stream.seek(self._offset_after(self._done))
                stream.write(np.ascontiguousarray(rows).data)
                stream.flush()
                os.fsync(stream.fileno())  # before the state below, which promises that the rows are there
        except OSError as error:
            error.filename = error.filename or str(self._partial)  # a failed write ("disk full") names no file
            raise
        self._done += len(rows)
        write_json(self._state_path, self._state(self._done))

    def finish(self) -> None:
        """Rename the complete matrix to its final name; ValueError if rows are missing."""
        if self._done != self._num_rows:
            raise ValueError(f"{self.path} has {self._done} of {self._num_rows} rows")
        self._partial.replace(self.path)
        # The rename must be on disk before the state file is deleted: otherwise a crash could leave the partial file
        # without its state, and all rows would be computed again.
        _sync_folder(self.path.parent)
        self._state_path.unlink(missing_ok=True)

    def _rows_on_disk(self) -> int:
        """Return how many rows an earlier run finished; 0 if its files are missing, damaged or of another shape."""
        remove_leftovers(self._state_path)
        state = read_json(self._state_path)
        done = state.get("rows") if isinstance(state, dict) else None
        if not isinstance(done, int) or state != self._state(done) or not self._partial.exists():
            return 0
        return done if self._partial.stat().st_size >= self._offset_after(done) else 0

    def _state(self, rows: int) -> dict[str, int]:
        """Return the content of the state file when `rows` rows are finished."""
        return {"rows": rows, "num_rows": self._num_rows, "width": self._width}

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


def _sync_folder(folder: Path) -> None:
    """Put the names in a folder on disk; syncing a file does not include its name."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
