"""File indexes as compact Parquet files in the cache, and as bytes between processes."""

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

from mig_selector.pool.index.file_index import FileIndex, Tally
from mig_selector.pool.leaves.batch import Numbering
from mig_selector.store.files import whole_file


_HEADER_KEY, _HEADER_CHECKSUM_KEY = b"mig_selector", b"mig_selector_checksum"
_SCHEMA = pa.schema(
    {
        "labels": pa.list_(pa.int32()),
        "scores": pa.float64(),
        "source_rows": pa.int64(),
        "byte_offsets": pa.int64(),
        "digests": pa.uint64(),
    }
)
_OPTIONAL = ("byte_offsets", "digests")
_ARRAYS = ("label_counts", "label_ids", "scores", "source_rows", *_OPTIONAL)
_WRITER_OPTIONS = {
    "compression": "zstd",
    "use_dictionary": ["labels.list.element"],
    "column_encoding": {"source_rows": "DELTA_BINARY_PACKED", "byte_offsets": "DELTA_BINARY_PACKED"},  # both ascend
}


def write_index(path: Path, parts: Iterable[FileIndex], fingerprint: str) -> None:
    """Write the index of a pool file; `path` appears only once the file is complete.

    Args:
        path: The file.
        parts: The indexes of its spans, in order; one of them is in memory at a time.
        fingerprint: Of the pool file and of everything else that decides the index.
    """
    numbering, tally, num_label_ids = Numbering(), Tally(), 0
    checksums: dict[str, Any] = {}
    with whole_file(path, is_private=True) as stream, pq.ParquetWriter(stream, _SCHEMA, **_WRITER_OPTIONS) as writer:
        for part in (_renumber(part, numbering, tally) for part in parts):
            writer.write_table(_to_table(part))
            num_label_ids += len(part.label_ids)
            for name, array in _arrays(part).items():
                checksums.setdefault(name, xxh3_64()).update(array.data)
        header = {
            "fingerprint": fingerprint,
            "label_names": list(numbering),
            "num_label_ids": num_label_ids,
            "tally": vars(tally),
            "checksums": {name: checksum.hexdigest() for name, checksum in checksums.items()},
        }
        text = json.dumps(header).encode()
        writer.add_key_value_metadata({_HEADER_KEY: text, _HEADER_CHECKSUM_KEY: xxh3_64_hexdigest(text)})


def _arrays(index: FileIndex) -> dict[str, NDArray[Any]]:
    return {name: getattr(index, name) for name in _ARRAYS if getattr(index, name) is not None}


def _renumber(part: FileIndex, numbering: Numbering, tally: Tally) -> FileIndex:
    """Number the labels and rows of a span as those of the whole file, and add its rows to `tally`."""
    ids = numbering.of_all(part.label_names)[part.label_ids] if part.label_names else part.label_ids
    source_rows = tally.rows + part.source_rows
    tally.add(part.tally)
    return replace(part, label_ids=ids, source_rows=source_rows)


def _to_table(part: FileIndex) -> pa.Table:
    offsets = np.concatenate((np.zeros(1, np.int64), np.cumsum(part.label_counts)))
    optional = [
        pa.nulls(len(part.source_rows), kind) if array is None else pa.array(array, kind)
        for array, kind in ((part.byte_offsets, pa.int64()), (part.digests, pa.uint64()))
    ]
    columns = [
        pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(part.label_ids, pa.int32())),
        pa.array(part.scores, pa.float64()),
        pa.array(part.source_rows, pa.int64()),
        *optional,
    ]
    return pa.Table.from_arrays(columns, schema=_SCHEMA)


def read_index(path: Path, fingerprint: str) -> FileIndex | None:
    """Read an index; None if the file is absent or damaged, or was made under another fingerprint.

    Everything that is read is compared with a checksum.
    """
    try:
        with pq.ParquetFile(path) as file:
            metadata = file.metadata.metadata or {}
            header = json.loads(metadata[_HEADER_KEY])
            if header["fingerprint"] != fingerprint or metadata[_HEADER_CHECKSUM_KEY].decode() != xxh3_64_hexdigest(
                metadata[_HEADER_KEY]
            ):
                return None
            index = _read_arrays(file, header)
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError, IndexError, OverflowError, MemoryError):
        return None
    found = {name: xxh3_64_hexdigest(array.data) for name, array in _arrays(index).items()}
    return index if all(header["checksums"][name] == checksum for name, checksum in found.items()) else None


def _read_arrays(file: pq.ParquetFile, header: dict[str, Any]) -> FileIndex:
    """Read the columns into arrays of their final size, row group by row group: nothing is in memory twice."""
    num_rows = file.metadata.num_rows
    label_ids = np.empty(header["num_label_ids"], np.int32)
    done = 0
    label_counts = np.empty(num_rows, np.int32)
    for rows, labels in _column(file, "labels"):
        label_counts[rows] = labels.value_lengths().to_numpy()
        values = labels.flatten().to_numpy()
        label_ids[done : done + len(values)] = values
        done += len(values)
    has = header["checksums"]
    return FileIndex(
        label_names=header["label_names"],
        label_counts=label_counts,
        label_ids=label_ids,
        scores=_numbers(file, "scores", np.float64, num_rows),
        source_rows=_numbers(file, "source_rows", np.int64, num_rows),
        byte_offsets=_numbers(file, "byte_offsets", np.int64, num_rows) if "byte_offsets" in has else None,
        digests=_numbers(file, "digests", np.uint64, num_rows) if "digests" in has else None,
        tally=_read_tally(header["tally"]),
    )


def _read_tally(values: dict[str, Any]) -> Tally:
    return Tally(
        rows=values["rows"],
        lines=values["lines"],
        dropped=Counter(values["dropped"]),
        unreadable=Counter(values["unreadable"]),
        listed=[(line, reason) for line, reason in values["listed"]],
    )


def _column(file: pq.ParquetFile, name: str) -> Iterator[tuple[slice, pa.Array]]:
    """Yield a column in pieces, with the rows that each covers."""
    start = 0
    for group in range(file.num_row_groups):
        for array in file.read_row_group(group, columns=[name]).column(0).chunks:
            yield slice(start, start + len(array)), array
            start += len(array)


def _numbers(file: pq.ParquetFile, name: str, kind: type[np.generic], num_rows: int) -> NDArray[Any]:
    numbers = np.empty(num_rows, kind)
    for rows, array in _column(file, name):
        numbers[rows] = array.to_numpy()
    return numbers


def pack_index(index: FileIndex) -> bytes:
    """Turn an index into bytes for another process."""
    header = json.dumps({"label_names": index.label_names, "tally": vars(index.tally)})
    arrays: dict[str, Any] = {"header": np.frombuffer(header.encode(), np.uint8), **_arrays(index)}
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def unpack_index(content: bytes) -> FileIndex:
    """Return the index that `pack_index` was given."""
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        header = json.loads(arrays["header"].tobytes())
        columns: dict[str, Any] = {name: arrays.get(name) for name in _ARRAYS}
    return FileIndex(label_names=header["label_names"], tally=_read_tally(header["tally"]), **columns)
