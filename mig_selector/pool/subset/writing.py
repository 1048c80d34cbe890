"""Write the files of a selection: the chosen rows with the columns that the trainer reads, and the selection table."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mig_selector.errors import PoolError
from mig_selector.pool.entry import PoolEntry
from mig_selector.pool.leaves.json_values import survives_json
from mig_selector.pool.reading import Pool
from mig_selector.pool.subset.chosen import ChosenRows
from mig_selector.pool.subset.columns import JsonType
from mig_selector.pool.subset.json_types import is_read_alike, read_pool_types, with_floats_of_pandas
from mig_selector.pool.subset.spool import Spool
from mig_selector.pool.subset.tables import (
    conform,
    read_in_order,
    table_schema,
    with_columns,
    write_batches,
    write_table_file,
)
from mig_selector.store.files import whole_file


ID_COLUMNS = ("_id", "id")
_BATCH_ROWS = 1_000
_COPIED_ROLES = ("system", "tools", "images", "videos", "audios")
"""Roles whose columns the host copies to ``_<role>``."""
_TYPED_ROWS = 1_000
"""Number of rows from which `datasets` takes the type of a column that the host makes."""
_KEYED_ROLES = ("tools", "images", "videos", "audios")
"""Roles whose objects the host prints, or indexes by key."""


@dataclass(frozen=True)
class Subset:
    """The files with the chosen rows of one pool entry."""

    json_lines: Path
    trainer_file: Path
    """The file to train on: the JSON Lines, or a table where `datasets` would read them otherwise than the pool."""
    columns: dict[str, str]
    """The host's roles to the columns in the files."""
    lacking: list[str]
    """Columns with values that JSON cannot represent: null in the JSON Lines, complete in the table."""
    row_ids: list[str | None]
    """Identifier of each row that has one, in the order of choice."""


def write_subset(
    pool: Pool,
    entry: PoolEntry,
    chosen: NDArray[np.int64],
    folder: Path,
    stem: str,
    on_rows: Any,
    added: Mapping[str, Sequence[Any]] | None = None,
    id_column: str | None = None,
) -> Subset:
    """Copy rows of one entry, in the order of choice.

    Args:
        pool: The pool; the chosen rows are read again from its files.
        entry: The entry whose columns are kept.
        chosen: Kept indices of rows of `entry`, in the order of choice. Shape (B,).
        folder: Where to write; a file appears under its final name only once it is complete.
        stem: File name without its ending.
        on_rows: Called with the number of rows copied since the last call.
        added: Columns to write behind those of the entry, with their values in the order of choice.
        id_column: Column for the identifiers of the rows, behind those; None to leave them out.

    Returns:
        The files, and what is in them.

    Raises:
        PoolError: A row changed since it was scanned, no row has a value in any of the entry's columns, or a column
            has values of types that no file can hold together.
    """
    wanted = tuple(dict.fromkeys(entry.columns.values()))
    folder.mkdir(parents=True, exist_ok=True)
    with _removed_if_empty(folder), tempfile.TemporaryFile(dir=folder) as stream:
        rows, spool = ChosenRows(pool, chosen), Spool(stream, chosen)
        ids: list[str | None] = [None] * len(chosen)
        added = {**(added or {}), **({} if id_column is None else {id_column: ids})}
        _copy_rows(rows, spool, entry, ids, added, on_rows)
        # To openai rows an empty list of tools is not the same as none: the host prints it.
        kept = spool.kept_columns(also=[entry.columns.get("tools", "")] if entry.formatting == "openai" else [])
        kept = dict(sorted(kept.items(), key=lambda item: item[0] in added))  # the added ones last
        roles = {role: column for role, column in entry.columns.items() if column in kept}
        if not roles:
            raise PoolError(
                f"dataset {entry.name!r}: no chosen row has a value in {', '.join(wanted) or 'any column'}; "
                "check `columns` of the entry in dataset_info.json."
            )
        json_lines = folder / f"{stem}.jsonl"
        with whole_file(json_lines, is_private=True) as target:
            target.writelines(spool.lines(list(kept)))
        trainer_file = json_lines
        keyed = [] if rows.schemas else _keyed_columns(entry, kept)
        if keyed or not _survive_json(kept, rows.schemas, json_lines):
            # Columns whose type the host could not find in the first rows of its copy.
            late = {role: column for role, column in roles.items() if spool.longest_gap(column) >= _TYPED_ROWS}
            with _naming(entry):
                if rows.schemas:
                    trainer_file = _write_table(rows, kept, added, late, folder, stem)
                else:
                    trainer_file = _write_records(rows, spool.rows(list(kept)), kept, keyed, late, folder, stem)
    lacking = [column for column, kind in kept.items() if kind.is_beyond_json]
    return Subset(json_lines, trainer_file, roles, lacking, ids)


@contextlib.contextmanager
def _removed_if_empty(folder: Path) -> Iterator[None]:
    """Remove the folder if the block raises and it is empty; a failed write to a temporary file gets its name."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, OSError) and error.filename is None:  # "disk full" names no file
            error.filename = str(folder)
        with contextlib.suppress(OSError):
            folder.rmdir()
        raise


def _copy_rows(
    rows: ChosenRows,
    spool: Spool,
    entry: PoolEntry,
    ids: list[str | None],
    added: Mapping[str, Sequence[Any]],
    on_rows: Any,
) -> None:
    """Copy the chosen rows to the spool with what is added to them; fill in `ids`, in the order of choice."""
    wanted = set(entry.columns.values())
    # Null messages break the host's converter.
    needed = None if entry.formatting == "alpaca" else entry.columns.get("messages")
    for rank, where, record in rows.records((*wanted, *ID_COLUMNS)):
        ids[rank] = read_row_id(record)
        if needed is not None and record.get(needed) is None:
            raise PoolError(
                f"{where}: {needed!r} is missing or null, and LLaMA-Factory cannot train on a row without messages; "
                "remove the row from the pool, or its labels."
            )
        row = {column: record[column] for column in record if column in wanted}
        row |= {column: values[rank] for column, values in added.items()}  # `ids` may be among them
        try:
            spool.put(rank, row)
        except (TypeError, ValueError) as error:
            raise PoolError(
                f"{where}: cannot be copied ({error}); remove the column from the entry, or fix the row."
            ) from error
        on_rows(1)


def read_row_id(record: Mapping[str, Any]) -> str | None:
    """Return the identifier that a row brings along, as text; None if it has none."""
    for column in ID_COLUMNS:
        value = record.get(column)
        if isinstance(value, str | int) and not isinstance(value, bool):
            return str(value)
    return None


def _keyed_columns(entry: PoolEntry, kinds: Mapping[str, JsonType]) -> list[str]:
    """Return the columns with objects that the host prints or indexes.

    What keys they have must not depend on which rows were chosen.
    """
    columns = [entry.columns[role] for role in _KEYED_ROLES if role in entry.columns]
    keyed = [column for column in dict.fromkeys(columns) if column in kinds and kinds[column].holds_objects]
    messages = kinds.get(entry.columns.get("messages", ""))
    calls = messages.items.keys.get("tool_calls") if messages is not None and messages.items is not None else None
    if entry.formatting == "openai" and calls is not None and calls.holds_objects:
        keyed.append(entry.columns["messages"])
    return keyed


def _survive_json(kinds: Mapping[str, JsonType], schemas: Sequence[pa.Schema], json_lines: Path) -> bool:
    """Whether `datasets` reads the JSON Lines as it reads the same rows of the pool.

    Args:
        kinds: What is in each column.
        schemas: Types of columnar files.
        json_lines: The file.
    """
    if not all(kind.is_uniform for kind in kinds.values()):
        return False
    if not all(survives_json(field.type) for schema in schemas for field in schema if field.name in kinds):
        return False
    return not any(kind.holds_timestamp for kind in kinds.values()) or is_read_alike(json_lines)


@contextlib.contextmanager
def _naming(entry: PoolEntry) -> Iterator[None]:
    """Name the entry where values have no type in common."""
    try:
        yield
    except (TypeError, pa.ArrowException, OverflowError) as error:
        raise PoolError(
            f"dataset {entry.name!r}: {error} among the chosen rows; `datasets` cannot read such a column. "
            "Give it one type in the pool."
        ) from error


def _write_table(
    rows: ChosenRows,
    kinds: Mapping[str, JsonType],
    added: Mapping[str, Sequence[Any]],
    late: Mapping[str, str],
    folder: Path,
    stem: str,
) -> Path:
    """Write rows of columnar files with the types that they have there, and what is added to them."""
    columns = [column for column in kinds if column not in added]
    beside = pa.table(
        {
            column: pa.array(added[column], kind.to_arrow(f"column {column}"))
            for column, kind in kinds.items()
            if column in added
        }
    )
    schema = _with_copies(table_schema(rows.schemas, columns), late)
    # They are read in the order of the pool, and may not fit into memory: a file holds them in between.
    with tempfile.NamedTemporaryFile(dir=folder, prefix=f".{stem}.parquet.", suffix=".tmp") as spool:
        path = Path(spool.name)
        write_batches(path, (conform(batch, schema) for batch in rows.batches(columns)), schema)
        tables = with_columns(read_in_order(path, rows.positions), beside)
        return write_table_file(folder, stem, tables, pa.schema([*schema, *beside.schema], schema.metadata))


def _write_records(
    rows: ChosenRows,
    records: Iterator[dict[str, Any]],
    kinds: Mapping[str, JsonType],
    keyed: Sequence[str],
    late: Mapping[str, str],
    folder: Path,
    stem: str,
) -> Path:
    """Write rows of JSON and CSV files with the types that `datasets` finds in the pool."""
    schema = _with_copies(pa.schema(_json_fields(kinds, read_pool_types(rows.sources, keyed))), late)
    if any(source.kind == "json array" for source in rows.sources):
        records = ({**row, **{column: with_floats_of_pandas(row[column]) for column in keyed}} for row in records)
    batches = iter(lambda: list(islice(records, _BATCH_ROWS)), [])
    return write_table_file(folder, stem, (pa.Table.from_pylist(batch, schema) for batch in batches), schema)


def _json_fields(kinds: Mapping[str, JsonType], pool_kinds: Mapping[str, JsonType]) -> list[tuple[str, pa.DataType]]:
    """Return the columns with types that hold the chosen rows and, for keyed columns, the rows of the pool."""
    fields = []
    for column, kind in kinds.items():
        whole = pool_kinds.get(column, JsonType())
        whole.merge(kind)
        try:
            fields.append((column, whole.to_arrow(f"column {column}")))
        except TypeError:  # the pool mixes types, the chosen rows may not
            fields.append((column, kind.to_arrow(f"column {column}")))
    return fields


def _with_copies(schema: pa.Schema, late: Mapping[str, str]) -> pa.Schema:
    """Add columns without values, whose only use is to give the host's copies of late columns a type.

    The host copies the columns of some roles to ``_<role>``, and `datasets` takes the type of such a copy from its
    first 1,000 rows, unless the file has a column of that name. If those rows are all empty, the first value after
    them breaks the run. The host overwrites the column in every row.
    """
    kinds = {role: schema.field(column).type for role, column in late.items() if role in _COPIED_ROLES}
    copies = {
        f"_{role}": pa.string() if role in ("system", "tools") else kind if pa.types.is_list(kind) else pa.list_(kind)
        for role, kind in kinds.items()
    }
    fields = {**copies, **{field.name: field.type for field in schema}}
    return pa.schema(list(fields.items()), schema.metadata)


def write_selection_table(
    path: Path,
    pool: Pool,
    datasets: Sequence[str],
    chosen: NDArray[np.int64],
    gains: NDArray[np.float64],
    labels: Sequence[Sequence[str]] | None,
    scores: NDArray[np.float64] | None,
    row_ids: Sequence[str | None],
    information: NDArray[np.float64] | None = None,
    tokens: NDArray[np.int64] | None = None,
) -> None:
    """Write selection.parquet: which rows were chosen, in which order, and their gains, scores and labels.

    Args:
        path: The file.
        pool: The pool.
        datasets: Name of each entry.
        chosen: Kept indices in the order of choice. Shape (B,).
        gains: Gain of each row when it was chosen; NaN where the method has none. Shape (B,).
        labels: Sorted distinct labels of each row, length B; None if no labels were read.
        scores: Score of each row before normalisation, shape (B,); None if there are no scores.
        row_ids: Identifier of each row that has one. Length B.
        information: What each row added to E(D), shape (B,); None if there is no label graph.
        tokens: What training is fed for each row, shape (B,); None if rows are counted: then there is no such column.
    """
    sources, source_rows = pool.locate(chosen)
    names = np.array([source.name for source in pool.sources], object)
    owners = np.array([datasets[entry_index] for entry_index in pool.source_entry_indices], object)
    table = pa.table(
        {
            "rank": pa.array(np.arange(len(chosen)), pa.int64()),
            "row_index": pa.array(pool.pool_indices[chosen], pa.int64()),
            "dataset": pa.array(owners[sources], pa.string()),
            "source_file": pa.array(names[sources], pa.string()),
            "source_row": pa.array(source_rows, pa.int64()),
            "row_id": pa.array(row_ids, pa.string()),
            "gain": pa.array(gains, pa.float64(), from_pandas=True),
            "score": pa.nulls(len(chosen), pa.float64()) if scores is None else pa.array(scores, pa.float64()),
            "labels": pa.array([None] * len(chosen) if labels is None else labels, pa.list_(pa.string())),
            "information": pa.nulls(len(chosen), pa.float64()) if information is None else pa.array(information),
            **({} if tokens is None else {"tokens": pa.array(tokens, pa.int64())}),
        }
    )
    with whole_file(path, is_private=True) as stream:
        pq.write_table(table, stream)


def write_candidates(path: Path, pool_indices: NDArray[np.int64]) -> None:
    """Write the rows that a selection was limited to: pool indices, ascending, so that only their distances count."""
    table = pa.table({"row_index": pool_indices})
    with whole_file(path, is_private=True) as stream:
        pq.write_table(table, stream, use_dictionary=False, column_encoding="DELTA_BINARY_PACKED")
