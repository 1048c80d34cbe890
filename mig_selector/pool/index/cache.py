"""The cached pool index: each pool file is scanned once, whichever run needs it first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from mig_selector.errors import PoolError, RegistrationError
from mig_selector.pool.formats.row_source import RowSource
from mig_selector.pool.index.file_index import FileIndex
from mig_selector.pool.index.judge import RowJudge
from mig_selector.pool.index.parallel import Readers
from mig_selector.pool.index.serialization import read_index, write_index
from mig_selector.store.files import is_writable, locked, remove_leftovers
from mig_selector.store.folders import is_believed
from mig_selector.store.hashing import ContentHashes, fingerprint_of


_INDEX_VERSION = 5
"""Raised when the same bytes would give other rows, labels or scores than before, or are stored in another layout."""


class IndexCache:
    """The indexes of pool files below a cache folder."""

    def __init__(self, cache_dir: Path, hashes: ContentHashes) -> None:
        """Use the folder ``pools`` in `cache_dir`."""
        self._folder = cache_dir / "pools"
        self._hashes = hashes

    def get(self, source: RowSource, file_hashes: Sequence[str], judge: RowJudge, readers: Readers) -> FileIndex:
        """Return the index of a file: from the cache, or by a scan.

        Args:
            source: The file.
            file_hashes: Content hashes of its `files`, taken when the run began.
            judge: Decides what becomes of a row.
            readers: Scan the file if it is not in the cache.

        Raises:
            RegistrationError: The file has to be scanned, and the cache cannot be written.
            UnreadableRowError: A row is unreadable and `readers` stop at such rows.
            PoolError: The file cannot be read, or its content no longer has the given hashes.
        """
        identity = {
            "version": _INDEX_VERSION,
            "kind": source.kind,
            "content": file_hashes,
            **judge.identity,
        }
        key = fingerprint_of(identity)
        path = self._folder / f"{key[:32]}.parquet"
        with locked(path):
            index = read_index(path, key) if is_believed(path, is_array=True) else None
            if index is None:
                if not is_writable(self._folder):  # known before the pool is read
                    raise RegistrationError(
                        f"mig_cache_dir: {self._folder.parent} cannot be written to, and it has no index of "
                        f"{source.name}; give another folder."
                    )
                remove_leftovers(path)
                write_index(path, self._scan(source, file_hashes, judge, readers), key)
                index = read_index(path, key)
            else:
                readers.on_bytes(source.size)
        if index is None:
            raise PoolError(f"{path} cannot be read back although it was just written; check the disk.")
        if readers.stop_at_unreadable:  # the index may come from a run that skipped such rows
            _refuse_unreadable(source, index, 0)
        return index

    def _scan(
        self, source: RowSource, file_hashes: Sequence[str], judge: RowJudge, readers: Readers
    ) -> Iterator[FileIndex]:
        lines = rows = 0
        for part in readers.index_spans(source, judge):
            if readers.stop_at_unreadable:
                _refuse_unreadable(source, part, lines)
            lines, rows = lines + part.tally.lines, rows + part.tally.rows
            yield part
        check_unchanged(source, file_hashes, self._hashes)
        if rows == 0:
            raise PoolError(f"{source.name} holds no rows; a pool needs at least one.")


def check_unchanged(source: RowSource, file_hashes: Sequence[str], hashes: ContentHashes) -> None:
    """Check that a file still has the content that it had when the run began.

    Args:
        source: The file.
        file_hashes: Content hashes of its `files`, taken when the run began.
        hashes: Hashes the files again, if their time stamps leave any doubt.

    Raises:
        PoolError: The file was changed or removed, or another was in its place for a while.
    """
    for file, known in zip(source.files, file_hashes, strict=True):
        if not file.exists() or hashes.file(file) != known or not hashes.is_untouched(file):
            raise PoolError(f"{source.name} was changed while it was in use; run again once the file is complete.")


class UnreadableRowError(PoolError):
    """A row is unreadable, and such rows are not skipped."""


def _refuse_unreadable(source: RowSource, index: FileIndex, lines_before: int) -> None:
    for line, reason in index.tally.listed[:1]:
        raise UnreadableRowError(
            f"{source.name}:{lines_before + line}: {reason}. "
            "Fix the row, or set mig_on_bad_row: skip to count and skip such rows."
        )
