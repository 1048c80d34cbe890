"""From an entry of the pool to the files that hold its rows."""

from __future__ import annotations

import os
from pathlib import Path

from mig_selector.errors import PoolError
from mig_selector.pool.entry import HubSource, PoolEntry
from mig_selector.pool.formats.arrow import ArrowSource
from mig_selector.pool.formats.csv_rows import CsvSource
from mig_selector.pool.formats.hub import HubTable
from mig_selector.pool.formats.json_array import JsonArraySource, holds_array
from mig_selector.pool.formats.json_lines import JsonLinesSource
from mig_selector.pool.formats.parquet import ParquetSource
from mig_selector.pool.formats.row_source import RowSource
from mig_selector.pool.formats.whole_faults import (
    check_content,
    check_encoding,
    check_rows_are_not_wrapped,
    check_separator,
)


_FORMATS = {"jsonl": "json", "json": "json", "parquet": "parquet", "arrow": "arrow", "csv": "csv"}


def open_sources(entry: PoolEntry) -> list[RowSource]:
    """Find the files of an entry.

    Args:
        entry: A file, a folder of files of one type (taken in the order of their names), or a dataset on a hub.

    Returns:
        At least one source; no rows are read yet, but a dataset on a hub is downloaded.

    Raises:
        PoolError: A file is missing, empty, wrong as a whole (see `whole_faults`), or of a type that the host or this
            plugin cannot read.
    """
    if isinstance(entry.source, HubSource):
        return [HubTable(entry.source, entry.split, entry.source.repository)]
    path, name = entry.source.path, entry.source.file_name
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if not file.name.startswith("."))  # lock files, for example
        if not files:
            raise PoolError(f"dataset {entry.name!r}: the folder {path} is empty.")
        formats = {_format(entry, file) for file in files}
        if len(formats) > 1:
            raise PoolError(
                f"dataset {entry.name!r}: the folder {path} contains files of several types "
                f"({', '.join(sorted(formats))}); "
                "LLaMA-Factory reads a folder only if all its files are of one type."
            )
        return [_open(entry, file, f"{name.rstrip('/')}/{file.name}") for file in files]
    if not os.path.lexists(path):
        raise PoolError(f"dataset {entry.name!r}: the file {path} does not exist.")
    return [_open(entry, path, name)]


def _format(entry: PoolEntry, path: Path) -> str:
    ending = path.suffix.removeprefix(".")
    if ending not in _FORMATS:
        hint = " Unpack it first: LLaMA-Factory cannot read it either." if ending in {"gz", "zip", "zst", "xz"} else ""
        raise PoolError(
            f"dataset {entry.name!r}: {path} has an unsupported file type; "
            f"expected one of .{', .'.join(_FORMATS)}.{hint}"
        )
    return _FORMATS[ending]


def _open(entry: PoolEntry, path: Path, name: str) -> RowSource:
    file_format = _format(entry, path)
    if not path.is_file():
        raise PoolError(f"{path} is not a readable file but a folder, a pipe, a device or a broken link.")
    if path.stat().st_size == 0:
        raise PoolError(f"{path} is empty; a pool needs at least one row.")
    name = name.encode("utf-8", "backslashreplace").decode()  # a file name need not be valid UTF-8
    check_content(path, name)
    if file_format in ("json", "csv"):
        check_encoding(path, name)
    match file_format:
        case "json":  # by content, not by ending: the host reads either from both endings
            if holds_array(path):
                return JsonArraySource(path, name)
            check_rows_are_not_wrapped(path, name, set(entry.columns.values()))
            return JsonLinesSource(path, name)
        case "parquet":
            return ParquetSource(path, name)
        case "arrow":
            return ArrowSource(path, name)
        case _:
            check_separator(path, name)
            return CsvSource(path, name)
