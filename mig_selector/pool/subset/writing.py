"""Chosen rows to the files that the trainer reads: the columns that it maps, and no others."""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mig_selector.errors import PoolError
from mig_selector.pool.entry import PoolEntry
from mig_selector.pool.reading import Pool
from mig_selector.pool.subset.columns import JsonType
from mig_selector.pool.subset.spool import Spool
from mig_selector.store.files import whole_file


_ID_COLUMNS = ("_id", "id")
_BATCH_ROWS = 1_000
_COPIED_ROLES = ("system", "tools", "images", "videos", "audios")
_GUESSED_ROWS = 1_000


@dataclass(frozen=True)
class Subset:
    """The chosen rows of one pool entry on disk."""

    json_lines: Path
    trainer_file: Path
    """The file for the entry: the JSON Lines, or Parquet where `datasets` could not read them as JSON."""
    columns: dict[str, str]
    """The host's roles to those columns that are in the file."""
    row_ids: list[str | None]
    """Identifier of each row in the order of choice, where the pool has one."""


def write_subset(
    pool: Pool, entry: PoolEntry, chosen: NDArray[np.int64], folder: Path, stem: str, on_rows: Any
) -> Subset:
    """Copy rows of one entry, in the order of choice.

    Args:
        pool: The pool that was read; its files are read again, at the chosen rows only.
        entry: The entry whose columns are kept.
        chosen: Kept rows of `pool` that belong to `entry`, in the order of choice. Shape (B,).
        folder: Where to write; nothing is there under its final name before it is whole.
        stem: File name without its ending.
        on_rows: Called with the number of rows copied since the last call.

    Returns:
        What was written.

    Raises:
        PoolError: A row changed since it was read, no row has any of the entry's columns, or a column's values are of
            kinds that no file type can hold.
    """
    wanted = tuple(dict.fromkeys(entry.columns.values()))
    folder.mkdir(parents=True, exist_ok=True)
    with _removed_if_empty(folder), tempfile.TemporaryFile(dir=folder) as stream:
        spool = Spool(stream, chosen)
        ids = _fill(spool, pool, chosen, wanted, _needed_column(entry), on_rows)
        kept = spool.kept_columns()
        if not kept:
            raise PoolError(
                f"dataset {entry.name!r}: no chosen row has anything in {', '.join(wanted) or 'any column'}; "
                "check `columns` of the entry in dataset_info.json."
            )
        roles = {role: column for role, column in entry.columns.items() if column in kept}
        json_lines = folder / f"{stem}.jsonl"
        with whole_file(json_lines) as target:
            target.writelines(spool.lines(list(kept)))
        trainer_file = json_lines
        if not all(kind.is_uniform for kind in kept.values()):
            trainer_file = folder / f"{stem}.parquet"
            late = {role: column for role, column in roles.items() if spool.longest_gap(column) >= _GUESSED_ROWS}
            _write_parquet(trainer_file, entry, kept, late, spool.rows(list(kept)))
    return Subset(json_lines, trainer_file, roles, ids)


@contextlib.contextmanager
def _removed_if_empty(folder: Path) -> Iterator[None]:
    """Leave no empty folder behind when the block raises."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            folder.rmdir()
        raise


def _needed_column(entry: PoolEntry) -> str | None:
    """Return the column without which the host ends with a traceback, where there is one."""
    return None if entry.formatting == "alpaca" else entry.columns.get("messages")


def _fill(
    spool: Spool, pool: Pool, chosen: NDArray[np.int64], wanted: Sequence[str], needed: str | None, on_rows: Any
) -> list[str | None]:
    """Copy the chosen rows, in the order of the pool; return their identifiers in the order of choice."""
    ids: list[str | None] = [None] * len(chosen)
    for rank, where, record in _read_chosen(pool, chosen, (*wanted, *_ID_COLUMNS)):
        ids[rank] = _row_id(record)
        if needed is not None and record.get(needed) is None:
            raise PoolError(
                f"{where}: has nothing in {needed!r}, and LLaMA-Factory cannot train on a row without messages; "
                "take the row out of the pool, or its labels."
            )
        try:
            spool.put(rank, {column: record[column] for column in record if column in wanted})
        except (TypeError, ValueError) as error:
            raise PoolError(
                f"{where}: cannot be copied ({error}); leave the column out of the entry, or mend the row."
            ) from error
        on_rows(1)
    return ids


def _read_chosen(
    pool: Pool, chosen: NDArray[np.int64], columns: Sequence[str]
) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Yield rank, place and columns of the chosen rows, in whatever order they are read fastest."""
    order = np.argsort(pool.locate(chosen)[0], kind="stable")  # in the order of choice, source by source
    if not all(source.can_seek for source in pool.sources):
        order = np.argsort(chosen)
    sources, rows = pool.locate(chosen[order])
    positions = pool.byte_offsets_of(chosen[order])
    for source in np.unique(sources):
        mine = sources == source
        places = rows[mine].tolist()
        records = pool.sources[source].read(places, positions[mine].tolist(), columns)
        for rank, row, record in zip(order[mine].tolist(), places, records, strict=True):
            yield rank, f"{pool.sources[source].name}, row {row + 1}", record


def _row_id(record: Mapping[str, Any]) -> str | None:
    for column in _ID_COLUMNS:
        value = record.get(column)
        if isinstance(value, str | int) and not isinstance(value, bool):
            return str(value)
    return None


def _write_parquet(
    path: Path,
    entry: PoolEntry,
    types: dict[str, JsonType],
    late: Mapping[str, str],
    rows: Iterator[dict[str, Any]],
) -> None:
    try:
        fields = {column: kind.to_arrow(f"column {column}") for column, kind in types.items()}
        schema = pa.schema(list({**_typed_copies(late, fields), **fields}.items()))
        with whole_file(path) as stream, pq.ParquetWriter(stream, schema) as writer:
            while batch := list(itertools.islice(rows, _BATCH_ROWS)):
                writer.write_table(pa.Table.from_pylist(batch, schema))
    except (TypeError, pa.ArrowException, OverflowError) as error:
        raise PoolError(
            f"dataset {entry.name!r}: {error} among the chosen rows; `datasets` cannot read such a column. "
            "Give it one type in the pool."
        ) from error


def _typed_copies(late: Mapping[str, str], fields: Mapping[str, pa.DataType]) -> dict[str, pa.DataType]:
    """Return columns without values that tell the host the types of its own copies of late columns.

    The host copies the columns of some roles to ``_<role>``, and `datasets` takes the type of such a copy from its
    first 1,000 rows, unless the file has a column of that name: where those rows hold nothing, the first value
    that comes later breaks the run. The host overwrites the column in every row.
    """
    kinds = {role: fields[column] for role, column in late.items() if role in _COPIED_ROLES}
    return {
        f"_{role}": kind if pa.types.is_list(kind) or role in ("system", "tools") else pa.list_(kind)
        for role, kind in kinds.items()
    }


def write_selection_table(
    path: Path,
    pool: Pool,
    datasets: Sequence[str],
    chosen: NDArray[np.int64],
    gains: NDArray[np.float64],
    labels: Sequence[Sequence[str]] | None,
    scores: NDArray[np.float64] | None,
    row_ids: Sequence[str | None],
) -> None:
    """Write selection.parquet: which rows were chosen, in which order, and what they were worth.

    Args:
        path: The file.
        pool: The pool that was read.
        datasets: Name of each entry.
        chosen: Kept rows in the order of choice. Shape (B,).
        gains: Gain at the moment of choice, NaN where there is none. Shape (B,).
        labels: Sorted distinct labels of each chosen row, length B; None where none were read.
        scores: Score before normalisation of each chosen row, shape (B,); None where there are none.
        row_ids: Identifier of each chosen row. Length B.
    """
    sources, rows = pool.locate(chosen)
    names = np.array([source.name for source in pool.sources], object)
    owners = np.array([datasets[entry] for entry in pool.source_entry_indices], object)
    table = pa.table(
        {
            "rank": pa.array(np.arange(len(chosen)), pa.int64()),
            "row_index": pa.array(pool.pool_indices[chosen], pa.int64()),
            "dataset": pa.array(owners[sources], pa.string()),
            "source_file": pa.array(names[sources], pa.string()),
            "source_row": pa.array(rows, pa.int64()),
            "row_id": pa.array(row_ids, pa.string()),
            "gain": pa.array(gains, pa.float64(), from_pandas=True),
            "score": pa.nulls(len(chosen), pa.float64()) if scores is None else pa.array(scores, pa.float64()),
            "labels": pa.array([None] * len(chosen) if labels is None else labels, pa.list_(pa.string())),
        }
    )
    with whole_file(path) as stream:
        pq.write_table(table, stream)
