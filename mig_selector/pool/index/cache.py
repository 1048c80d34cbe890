"""The cache of what was read of pool files: each file is read once, whoever asks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from mig_selector.errors import PoolError
from mig_selector.pool.formats.row_source import RowSource
from mig_selector.pool.index.file_index import Extract
from mig_selector.pool.index.parallel import Readers
from mig_selector.pool.index.serialization import read_extract, write_extract
from mig_selector.store.files import locked, remove_leftovers
from mig_selector.store.hashing import ContentHashes, fingerprint_of


_READER_VERSION = 2
"""Raised when the same bytes would be read as other rows, labels or scores than before."""


class IndexCache:
    """The indexes of pool files, each made once and kept in the cache."""

    def __init__(self, cache_dir: Path, hashes: ContentHashes) -> None:
        """Keep them below `cache_dir`."""
        self._folder = cache_dir / "pools"
        self._hashes = hashes

    def get(self, source: RowSource, content: Sequence[str], readers: Readers) -> Extract:
        """Return the extract of a file.

        Args:
            source: The file.
            content: Hashes that its files are known by.
            readers: Who reads it, if it was not read before.

        Raises:
            PoolError: A row is unreadable and `readers` stop at such, the file cannot be read, or it holds something
                else than `content` says.
        """
        facts = {"version": _READER_VERSION, "kind": source.kind, "content": content, **readers.judge.identity}
        mark = fingerprint_of(facts)
        path = self._folder / f"{mark[:32]}.parquet"
        with locked(path):
            known = read_extract(path, mark)
            if known is None:
                remove_leftovers(path)
                write_extract(path, self._make(source, content, readers), mark)
                known = read_extract(path, mark)
            else:
                readers.on_bytes(source.size)
        if known is None:
            raise PoolError(f"{path} cannot be read, although it was just written; is the disk sound?")
        if readers.stop_at_unreadable:
            _refuse_unreadable(source, known, 0)
        return known

    def _make(self, source: RowSource, content: Sequence[str], readers: Readers) -> Iterator[Extract]:
        places = rows = 0
        for part in readers.extract_parts(source):
            if readers.stop_at_unreadable:
                _refuse_unreadable(source, part, places)
            places, rows = places + part.tally.places, rows + part.tally.rows
            yield part
        check_unchanged(source, content, self._hashes)
        if rows == 0:
            raise PoolError(f"{source.name} holds no rows; a pool needs at least one.")


def check_unchanged(source: RowSource, content: Sequence[str], hashes: ContentHashes) -> None:
    """Refuse a file that no longer holds what it did when the run began; hashes of old files are looked up.

    Raises:
        PoolError: It was changed, or is gone.
    """
    for file, known in zip(source.files, content, strict=True):
        if not file.exists() or hashes.file(file) != known:
            raise PoolError(f"{source.name} was changed while it was in use; start again once it is complete.")


def _refuse_unreadable(source: RowSource, extract: Extract, places_before: int) -> None:
    for place, reason in extract.tally.listed[:1]:
        raise PoolError(
            f"{source.name}:{places_before + place}: {reason}. "
            "Mend the row, or set mig_on_bad_row: skip to count such rows and go on."
        )
