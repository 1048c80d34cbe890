"""Annotations beside the pool: Parquet files that say, by content of a row, which labels and which score it has.

The format is a contract (see the manual): anybody may write such files. Columns are those of `SCHEMA`; the key
``mig_selector`` of the file's metadata holds JSON that says what made them. A row's annotation is found by `hash_row`,
never by position.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mig_selector.console import plural
from mig_selector.errors import ArgumentError
from mig_selector.store.files import whole_file
from mig_selector.store.folders import is_believed


TEXT = pa.large_string()
"""The hashes of 34 million rows do not fit into one array of `pa.string`; in a Parquet file both are the same."""
SCHEMA = pa.schema({"row_hash": TEXT, "labels": pa.list_(TEXT), "score": pa.float64(), "status": TEXT})
OK = "ok"
"""The status of a row that was annotated; any other is the reason why it was not."""
_METADATA_KEY = "mig_selector"


def hash_row(row: Mapping[str, Any], columns: Sequence[str]) -> str:
    """Hash the columns that training reads: SHA-256, in hexadecimal, of their canonical JSON.

    Canonical JSON is UTF-8 with sorted keys, ``,`` and ``:`` as separators without blanks, and only such escapes as
    JSON requires. Keys whose value is null are left out at every depth: a file of Parquet has them in every row.

    Args:
        row: Columns to values.
        columns: The columns that training reads.
    """
    text = json.dumps(
        _without_nulls({column: row.get(column) for column in columns}),
        ensure_ascii=False,
        sort_keys=True,
        separators=(",", ":"),
        default=lambda value: value.hex() if isinstance(value, bytes) else str(value),
    )
    # Half of a surrogate pair has no UTF-8; its backslash escape is its JSON escape.
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(part) for key, part in value.items() if part is not None}
    return [_without_nulls(part) for part in value] if isinstance(value, list) else value


def look_up(table: pa.Table, hashes: pa.Array) -> NDArray[np.int64]:
    """Return the row of a sidecar that has each hash; -1 where none has it. Shape (N,)."""
    found = pc.index_in(hashes.cast(TEXT), value_set=table["row_hash"].combine_chunks())
    return found.fill_null(-1).to_numpy().astype(np.int64)  # type: ignore[no-any-return]


def merge(table: pa.Table, newer: pa.Table) -> pa.Table:
    """Return the rows of both, those of `newer` in place of older ones, sorted by hash."""
    is_replaced = pc.is_in(table["row_hash"], value_set=newer["row_hash"].combine_chunks())
    return pa.concat_tables([table.filter(pc.invert(is_replaced)), newer]).sort_by("row_hash")


def write_sidecar(path: Path, table: pa.Table, made_by: Mapping[str, Any]) -> None:
    """Write a sidecar atomically.

    Args:
        path: The file.
        table: Rows with the columns of `SCHEMA`.
        made_by: What made them, as JSON can hold it.
    """
    # Without Arrow's own schema, whose large strings are a matter of memory: the contract says string.
    how = {"store_schema": False, "compression": "zstd", "write_page_checksum": True}
    with whole_file(path, is_private=True) as stream, pq.ParquetWriter(stream, table.schema, **how) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({_METADATA_KEY: json.dumps(made_by)})


def read_own_sidecar(path: Path) -> pa.Table:
    """Read a sidecar of the cache; without rows if the file is absent or damaged, or others could have written it."""
    if path.exists() and is_believed(path):
        try:
            return pq.read_table(path, schema=SCHEMA, page_checksum_verification=True)
        except (OSError, pa.ArrowException):
            pass
    return SCHEMA.empty_table()


def sidecar_files(path: Path) -> tuple[Path, ...]:
    """Return the files that ``mig_sidecar`` names: one, or all Parquet files of a folder, by name.

    Raises:
        ArgumentError: There is none.
    """
    files = tuple(sorted(path.glob("*.parquet"))) if path.is_dir() else (path,)
    if not files or not all(file.is_file() for file in files):
        raise ArgumentError(f"mig_sidecar: {path} is neither a Parquet file nor a folder with files *.parquet.")
    return files


def read_sidecars(files: Sequence[Path], *, is_signed: bool = False) -> pa.Table:
    """Read and check sidecars that anybody may have made.

    Args:
        files: The sidecars.
        is_signed: Whether scores may be negative.

    Raises:
        ArgumentError: A file is not a sidecar, or two different rows have the same hash.
    """
    table = pa.concat_tables([SCHEMA.empty_table(), *(_read_given(file, is_signed=is_signed) for file in files)])
    codes = table["row_hash"].combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False)
    _, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    repeats = np.flatnonzero(first[inverse] != np.arange(len(codes)))  # of rows that a pool has several times
    repeated, original = table.take(repeats), table.take(first[inverse[repeats]])
    if not repeated.equals(original):
        pairs = zip(repeated.to_pylist(), original.to_pylist(), strict=True)
        row_hash = next(one["row_hash"] for one, other in pairs if one != other)
        raise ArgumentError(
            f"mig_sidecar: row_hash {row_hash} is in {', '.join(map(str, files[:3]))} more than once, with different "
            "annotations; keep one of them."
        )
    return table.take(np.sort(first))


def _read_given(file: Path, *, is_signed: bool) -> pa.Table:
    try:
        table = pq.read_table(file)
    except (OSError, pa.ArrowException) as error:
        raise ArgumentError(f"mig_sidecar: {file} cannot be read as Parquet: {error}") from error
    if sorted(table.column_names) != sorted(SCHEMA.names):
        raise ArgumentError(
            f"mig_sidecar: {file} has the columns {', '.join(table.column_names) or 'none'}; expected exactly "
            f"{', '.join(SCHEMA.names)} (null where a value is not known)."
        )
    try:
        table = table.select(SCHEMA.names).cast(SCHEMA)
    except pa.ArrowException as error:
        types = ", ".join(f"{field.name} {field.type}" for field in SCHEMA).replace(str(TEXT), "string")
        raise ArgumentError(f"mig_sidecar: {file}: expected the types {types}: {error}") from error
    for fault, is_faulty in _faults(table, is_signed=is_signed):
        rows = np.flatnonzero(is_faulty.fill_null(False).to_numpy(zero_copy_only=False))
        if len(rows):
            have = "has" if len(rows) == 1 else "have"
            raise ArgumentError(
                f"mig_sidecar: {file}: {plural(len(rows), 'row')} {have} {fault}; first row {rows[0]} (0-based)."
            )
    return table


def _faults(table: pa.Table, *, is_signed: bool) -> list[tuple[str, pa.Array]]:
    """Return what may be wrong with a row, and for each row whether it is."""
    columns = {name: table[name].combine_chunks() for name in SCHEMA.names}
    score, labels = columns["score"], columns["labels"]
    has_null_label = pa.array(np.zeros(len(table), np.bool_))
    if labels.flatten().null_count:
        owners = pc.list_parent_indices(labels).filter(pc.is_null(labels.flatten()))
        has_null_label = pc.is_in(pa.array(np.arange(len(table))), value_set=owners)
    is_hash = pc.match_substring_regex(columns["row_hash"], "^[0-9a-f]{64}$")
    return [
        ("a row_hash that is not 64 lower-case hexadecimal digits", pc.invert(is_hash.fill_null(False))),
        ("no status", pc.is_null(columns["status"])),
        ("null in its labels", has_null_label),
        (
            "a score that is not a finite number" + ("" if is_signed else " of 0 or more (see mig_score_scale)"),
            pc.invert(pc.and_(pc.is_finite(score), pc.or_(is_signed, pc.greater_equal(score, 0)))),
        ),
    ]
