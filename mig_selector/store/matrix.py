"""A matrix of rows that come one after the other over hours, kept in one file and never computed twice."""

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
    """An ``.npy`` file of float32, shape (N, W), with its name once it is whole.

    Until then it is ``<name>.partial``, and ``<name>.partial.json`` beside it says how many rows of it are on disk:
    written after them, so that whenever the process is killed, or the machine, those rows are there.
    """

    def __init__(self, path: Path, num_rows: int) -> None:
        """Keep N = `num_rows` rows at `path`, a name that stands for all that decides them."""
        self.path = path
        self._num_rows = num_rows
        self._width = self._done = 0
        self._partial = path.with_name(f"{path.name}.partial")
        self._note = path.with_name(f"{path.name}.partial.json")

    def locked(self) -> AbstractContextManager[None]:
        """Keep other runs from computing this matrix while the block runs."""
        return locked(self.path)

    def is_whole(self) -> bool:
        """Say whether all rows are there; what a killed run left beside them is then removed."""
        if self.path.exists():
            self._note.unlink(missing_ok=True)
        return self.path.exists()

    def begin(self, width: int) -> int:
        """Go on where an earlier run ended, if it made rows of the same width W; for those who hold the lock.

        Returns:
            How many rows are there already.

        Raises:
            ArgumentError: The disk has no room for the rest.
        """
        self._width = width
        self._done = self._rows_on_disk()
        self._check_room()
        if not self._done:
            self._note.unlink(missing_ok=True)
            self._partial.write_bytes(self._header())
        return self._done

    def append(self, rows: NDArray[np.float32]) -> None:
        """Put the next rows, shape (m, W), on disk."""
        if rows.dtype != np.float32 or rows.shape[1:] != (self._width,) or self._done + len(rows) > self._num_rows:
            raise ValueError(
                f"{rows.dtype} rows of shape {rows.shape} do not fit behind {self._done} of {self._num_rows} rows "
                f"of width {self._width}"
            )
        try:
            with self._partial.open("r+b") as stream:
                stream.seek(self._end(self._done))
                stream.write(np.ascontiguousarray(rows).data)
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            error.filename = error.filename or str(self._partial)  # a full disk does not say where it is full
            raise
        self._done += len(rows)
        write_json(self._note, self._state(self._done))

    def finish(self) -> None:
        """Give the matrix its name."""
        if self._done != self._num_rows:
            raise ValueError(f"{self.path} has {self._done} of {self._num_rows} rows")
        self._partial.replace(self.path)
        _sync_folder(self.path.parent)  # else a crash may bring the old name back, without the note
        self._note.unlink(missing_ok=True)

    def _rows_on_disk(self) -> int:
        remove_leftovers(self._note)
        note = read_json(self._note)
        done = note.get("rows") if isinstance(note, dict) else None
        if not isinstance(done, int) or note != self._state(done) or not self._partial.exists():
            return 0
        return done if self._partial.stat().st_size >= self._end(done) else 0

    def _state(self, rows: int) -> dict[str, int]:
        return {"rows": rows, "num_rows": self._num_rows, "width": self._width}

    def _check_room(self) -> None:
        held = self._partial.stat().st_blocks * 512 if self._partial.exists() else 0
        needed = self._end(self._num_rows) - held
        free = shutil.disk_usage(self.path.parent).free
        if needed > free:
            raise ArgumentError(
                f"mig_cache_dir: {self.path.parent} has {free:,} bytes free, but the {self._width} numbers for each "
                f"of {self._num_rows:,} rows need {needed:,} more; make room, or set mig_cache_dir to another folder."
            )

    def _end(self, rows: int) -> int:
        """Return where in the file that many rows end."""
        return len(self._header()) + rows * self._width * np.dtype(np.float32).itemsize

    def _header(self) -> bytes:
        buffer = BytesIO()
        shape = (self._num_rows, self._width)
        description = {"descr": np.dtype(np.float32).str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(buffer, description)
        return buffer.getvalue()


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
