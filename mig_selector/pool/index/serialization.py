"""Indexes as files: compact Parquet for each pool file, so that its text is read once; bytes between processes."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from xxhash import xxh3_64, xxh3_64_hexdigest

from mig_selector.pool.index.file_index import Extract, Tally
from mig_selector.pool.leaves.batch import Numbering
from mig_selector.store.files import whole_file


_FACTS, _FACTS_HASH = b"mig_selector", b"mig_selector_hash"
_SCHEMA = pa.schema(
    {
        "labels": pa.list_(pa.int32()),
        "scores": pa.float64(),
        "rows": pa.int64(),
        "positions": pa.int64(),
        "digests": pa.uint64(),
    }
)
_OPTIONAL = ("positions", "digests")
_ARRAYS = ("lengths", "label_ids", "scores", "rows", *_OPTIONAL)
_WRITING = {
    "compression": "zstd",
    "use_dictionary": ["labels.list.element"],
    "column_encoding": {"rows": "DELTA_BINARY_PACKED", "positions": "DELTA_BINARY_PACKED"},
}


def write_extract(path: Path, parts: Iterable[Extract], mark: str) -> None:
    """Write the extract of a pool file, part by part; nothing is there under its name before it is whole.

    Args:
        path: The file.
        parts: The parts in their order, of which at most one is held in memory.
        mark: Fingerprint of the pool file and of what is kept of it.
    """
    numbering, tally, num_ids = Numbering(), Tally(), 0
    hashes: dict[str, Any] = {}
    with whole_file(path) as stream, pq.ParquetWriter(stream, _SCHEMA, **_WRITING) as writer:
        for part in (_renumber(part, numbering, tally) for part in parts):
            writer.write_table(_to_table(part))
            num_ids += len(part.label_ids)
            for name, column in _columns(part).items():
                hashes.setdefault(name, xxh3_64()).update(column.data)
        facts = {
            "mark": mark,
            "label_names": list(numbering),
            "label_ids": num_ids,
            "tally": vars(tally),
            "hashes": {name: column.hexdigest() for name, column in hashes.items()},
        }
        text = json.dumps(facts).encode()
        writer.add_key_value_metadata({_FACTS: text, _FACTS_HASH: xxh3_64_hexdigest(text)})


def _columns(extract: Extract) -> dict[str, NDArray[Any]]:
    return {name: getattr(extract, name) for name in _ARRAYS if getattr(extract, name) is not None}


def _renumber(part: Extract, numbering: Numbering, tally: Tally) -> Extract:
    """Number the labels and rows of a part as those of the whole file, and count its rows."""
    ids = numbering.of_all(part.label_names)[part.label_ids] if part.label_names else part.label_ids
    rows = tally.rows + part.rows
    tally.add(part.tally)
    return replace(part, label_ids=ids, rows=rows)


def _to_table(part: Extract) -> pa.Table:
    offsets = np.concatenate((np.zeros(1, np.int64), np.cumsum(part.lengths)))
    optional = [
        pa.nulls(len(part.rows), kind) if column is None else pa.array(column, kind)
        for column, kind in ((part.positions, pa.int64()), (part.digests, pa.uint64()))
    ]
    columns = [
        pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(part.label_ids, pa.int32())),
        pa.array(part.scores, pa.float64()),
        pa.array(part.rows, pa.int64()),
        *optional,
    ]
    return pa.Table.from_arrays(columns, schema=_SCHEMA)


def read_extract(path: Path, mark: str) -> Extract | None:
    """Read an extract; None where there is none, or none that is whole and made of what `mark` stands for.

    Everything that is read is held against a hash.
    """
    try:
        with pq.ParquetFile(path) as file:
            notes = file.metadata.metadata or {}
            facts = json.loads(notes[_FACTS])
            if facts["mark"] != mark or notes[_FACTS_HASH].decode() != xxh3_64_hexdigest(notes[_FACTS]):
                return None
            extract = _fill(file, facts)
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError, IndexError, OverflowError, MemoryError):
        return None
    found = {name: xxh3_64_hexdigest(column.data) for name, column in _columns(extract).items()}
    return extract if all(facts["hashes"][name] == digest for name, digest in found.items()) else None


def _fill(file: pq.ParquetFile, facts: dict[str, Any]) -> Extract:
    """Read the columns into arrays, row group by row group."""
    count = file.metadata.num_rows
    label_ids = np.empty(facts["label_ids"], np.int32)
    done = 0
    lengths = np.empty(count, np.int32)
    for rows, labels in _column(file, "labels"):
        lengths[rows] = labels.value_lengths().to_numpy()
        values = labels.flatten().to_numpy()
        label_ids[done : done + len(values)] = values
        done += len(values)
    return Extract(
        label_names=facts["label_names"],
        lengths=lengths,
        label_ids=label_ids,
        scores=_numbers(file, "scores", np.float64, count),
        rows=_numbers(file, "rows", np.int64, count),
        positions=_numbers(file, "positions", np.int64, count) if "positions" in facts["hashes"] else None,
        digests=_numbers(file, "digests", np.uint64, count) if "digests" in facts["hashes"] else None,
        tally=_read_tally(facts["tally"]),
    )


def _read_tally(facts: dict[str, Any]) -> Tally:
    return Tally(
        rows=facts["rows"],
        places=facts["places"],
        dropped=Counter(facts["dropped"]),
        unreadable=Counter(facts["unreadable"]),
        listed=[(place, reason) for place, reason in facts["listed"]],
    )


def _column(file: pq.ParquetFile, name: str) -> Iterator[tuple[slice, pa.Array]]:
    """Yield a column in pieces, with the rows that each stands for."""
    start = 0
    for group in range(file.num_row_groups):
        for array in file.read_row_group(group, columns=[name]).column(0).chunks:
            yield slice(start, start + len(array)), array
            start += len(array)


def _numbers(file: pq.ParquetFile, name: str, kind: type[np.generic], count: int) -> NDArray[Any]:
    numbers = np.empty(count, kind)
    for rows, array in _column(file, name):
        numbers[rows] = array.to_numpy()
    return numbers


def pack_extract(extract: Extract) -> bytes:
    """Turn an extract into bytes for another process."""
    facts = json.dumps({"label_names": extract.label_names, "tally": vars(extract.tally)})
    arrays: dict[str, Any] = {"facts": np.frombuffer(facts.encode(), np.uint8), **_columns(extract)}
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def unpack_extract(content: bytes) -> Extract:
    """Return what `pack_extract` was given."""
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        facts = json.loads(arrays["facts"].tobytes())
        columns: dict[str, Any] = {name: arrays.get(name) for name in _ARRAYS}
    return Extract(label_names=facts["label_names"], tally=_read_tally(facts["tally"]), **columns)
