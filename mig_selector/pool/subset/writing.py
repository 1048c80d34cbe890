"""Write the files of a selection: the chosen rows with the columns that the trainer reads, and the selection table."""

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
"""Roles whose columns the host copies to ``_<role>``."""
_TYPED_ROWS = 1_000
"""Number of rows from which `datasets` takes the type of a column that the host makes."""


@dataclass(frozen=True)
class Subset:
    """The files with the chosen rows of one pool entry."""

    json_lines: Path
    trainer_file: Path
    """The file to train on: the JSON Lines, or Parquet where `datasets` could not read them as JSON."""
    columns: dict[str, str]
    """The host's roles to the columns in the files."""
    row_ids: list[str | None]
    """Identifier of each row that has one, in the order of choice."""


def write_subset(
    pool: Pool, entry: PoolEntry, chosen: NDArray[np.int64], folder: Path, stem: str, on_rows: Any
) -> Subset:
    """Copy rows of one entry, in the order of choice.

    Args:
        pool: The pool; the chosen rows are read again from its files.
        entry: The entry whose columns are kept.
        chosen: Kept indices of rows of `entry`, in the order of choice. Shape (B,).
        folder: Where to write; a file appears under its final name only once it is complete.
        stem: File name without its ending.
        on_rows: Called with the number of rows copied since the last call.

    Returns:
        The files, and what is in them.

    Raises:
        PoolError: A row changed since it was scanned, no row has a value in any of the entry's columns, or a column
            has values of types that no file can hold together.
    """
    wanted = tuple(dict.fromkeys(entry.columns.values()))
    needed = (
        None if entry.formatting == "alpaca" else entry.columns.get("messages")
    )  # null breaks the host's converter
    folder.mkdir(parents=True, exist_ok=True)
    with _removed_if_empty(folder), tempfile.TemporaryFile(dir=folder) as stream:
        spool = Spool(stream, chosen)
        ids = _copy_rows(spool, pool, chosen, wanted, needed, on_rows)
        kept = spool.kept_columns()
        if not kept:
            raise PoolError(
                f"dataset {entry.name!r}: no chosen row has a value in {', '.join(wanted) or 'any column'}; "
                "check `columns` of the entry in dataset_info.json."
            )
        roles = {role: column for role, column in entry.columns.items() if column in kept}
        json_lines = folder / f"{stem}.jsonl"
        with whole_file(json_lines) as target:
            target.writelines(spool.lines(list(kept)))
        trainer_file = json_lines
        if not all(kind.is_uniform for kind in kept.values()):
            trainer_file = folder / f"{stem}.parquet"
            # Columns whose type the host could not find in the first rows of its copy.
            late = {role: column for role, column in roles.items() if spool.longest_gap(column) >= _TYPED_ROWS}
            _write_parquet(trainer_file, entry, kept, late, spool.rows(list(kept)))
    return Subset(json_lines, trainer_file, roles, ids)


@contextlib.contextmanager
def _removed_if_empty(folder: Path) -> Iterator[None]:
    """Remove the folder if the block raises and it is empty."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            folder.rmdir()
        raise


def _copy_rows(
    spool: Spool, pool: Pool, chosen: NDArray[np.int64], wanted: Sequence[str], needed: str | None, on_rows: Any
) -> list[str | None]:
    """Copy the chosen rows to the spool; return their identifiers in the order of choice."""
    ids: list[str | None] = [None] * len(chosen)
    for rank, where, record in _read_chosen(pool, chosen, (*wanted, *_ID_COLUMNS)):
        ids[rank] = _row_id(record)
        if needed is not None and record.get(needed) is None:
            raise PoolError(
                f"{where}: {needed!r} is missing or null, and LLaMA-Factory cannot train on a row without messages; "
                "remove the row from the pool, or its labels."
            )
        try:
            spool.put(rank, {column: record[column] for column in record if column in wanted})
        except (TypeError, ValueError) as error:
            raise PoolError(
                f"{where}: cannot be copied ({error}); remove the column from the entry, or fix the row."
            ) from error
        on_rows(1)
    return ids


def _read_chosen(
    pool: Pool, chosen: NDArray[np.int64], columns: Sequence[str]
) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Yield rank, location (for messages) and columns of the chosen rows, source by source."""
    # Where rows can be found by offset they come in the order of choice, so that the spool is often the file already.
    # Other sources are read from the beginning, and give rows in ascending order only.
    order = np.argsort(pool.locate(chosen)[0], kind="stable")
    if not all(source.can_seek for source in pool.sources):
        order = np.argsort(chosen)
    sources, source_rows = pool.locate(chosen[order])
    byte_offsets = pool.byte_offsets_of(chosen[order])
    for index in np.unique(sources):
        source, mine = pool.sources[index], sources == index
        rows = source_rows[mine].tolist()
        records = source.read(rows, byte_offsets[mine].tolist(), columns)
        for rank, row, record in zip(order[mine].tolist(), rows, records, strict=True):
            yield rank, f"{source.name}, row {row + 1}", record


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
    """Return columns without values, whose only use is to give the host's copies of late columns a type.

    The host copies the columns of some roles to ``_<role>``, and `datasets` takes the type of such a copy from its
    first 1,000 rows, unless the file has a column of that name. If those rows are all empty, the first value after
    them breaks the run. The host overwrites the column in every row.
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
    information: NDArray[np.float64] | None = None,
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
        }
    )
    with whole_file(path) as stream:
        pq.write_table(table, stream)
