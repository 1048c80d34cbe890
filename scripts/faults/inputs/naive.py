"""A naive reader of pool files: row by row, with plain modules. Slow, and shares no code with the package."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pandas._libs.parsers import STR_NA_VALUES

from faults.inputs.files import Input


_WHITE = b" \t\r\n"
_BAD = object()
_QUOTED = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""


@dataclass
class Reading:
    """What became of every row of a file."""

    kept: list[tuple[int, list[str], float]] = field(default_factory=list)
    """Row index, labels and score of each kept row."""
    dropped: Counter[str] = field(default_factory=Counter)
    bad: list[tuple[int, int]] = field(default_factory=list)
    """Row index and line number of each bad row; 0 if the format has no lines."""
    records: list[Any] = field(default_factory=list)
    """Every row with all its columns."""


def read_naively(made: Input) -> Reading | None:
    """Read a file; None if it is broken as a whole, or so odd that plain modules cannot decide what is right."""
    try:
        rows = list(_ROWS[made.kind](made.content))
    except (ValueError, RecursionError, OSError, OverflowError, KeyError, csv.Error, pa.ArrowException):
        return None
    return _judge(rows, made)


def _judge(rows: Iterable[tuple[int, Any]], made: Input) -> Reading:
    reading = Reading()
    for row, (line, record) in enumerate(rows):
        reading.records.append(record)
        verdict = _verdict(record, made.labels, made.score)
        if verdict is _BAD:
            reading.bad.append((row, line))
        elif isinstance(verdict, str):
            reading.dropped[verdict] += 1
        else:
            reading.kept.append((row, *verdict))
    return reading


def _verdict(record: Any, labels_path: str, score: str) -> Any:
    """Return labels and score, the reason to drop the row, or `_BAD`."""
    paths = [labels_path, *score_paths(score)]
    if not isinstance(record, dict):
        return _BAD
    labels, *scores = [walk(record, path) for path in paths]
    if _has_lone_surrogate([labels, *scores]):
        return _BAD
    labels = _labels_in(labels) if isinstance(labels, str) else labels
    if not (labels is None or _are_labels(labels)) or not all(map(_is_score, scores)):
        return _BAD
    for path, value in zip(paths, (labels, *scores), strict=True):
        if value is None or value == []:
            return f"no {'labels' if path == labels_path else 'score'} at {path}"
    numbers = [value if isinstance(value, list) else [value] for value in scores]
    if not numbers:
        return labels, 1.0
    if len({len(column) for column in numbers}) > 1:
        return _BAD
    total = 0.0
    for turn in zip(*numbers, strict=True):
        total += math.prod(map(float, turn))
    mean = total / len(numbers[0])
    return (labels, mean) if math.isfinite(mean) else _BAD


def _are_labels(value: Any) -> bool:
    return isinstance(value, list) and all(type(label) is str for label in value)


def _labels_in(text: str) -> list[str]:
    """Return the labels in a string: those of a list that is written in it, or one label."""
    with contextlib.suppress(ValueError, RecursionError):
        labels = json.loads(text)
        if _are_labels(labels) and not _has_lone_surrogate(labels):
            return list(labels)
    rest = re.sub(_QUOTED, "", text.strip(), flags=re.DOTALL)
    if not (rest.startswith("[") and rest.endswith("]") and len(rest) > 1 and not rest[1:-1].strip(" \t\r\n,")):
        return [text.strip()] if text.strip() else []
    return [re.sub(r"\\(.)", r"\1", quoted[1:-1], flags=re.DOTALL) for quoted in re.findall(_QUOTED, text, re.DOTALL)]


def score_paths(score: str) -> list[str]:
    """Return the paths of the numbers that make a score."""
    if score == "deita":
        return ["annotation.deita.quality_scores", "annotation.deita.complexity_scores"]
    return [] if score == "constant" else [score]


def walk(record: dict[str, Any], *paths: str) -> Any:
    """Return what is at the first path that leads to something; the first keys of a path may name one column."""
    for path in paths:
        keys = path.split(".")
        for level in range(1, len(keys) + 1):
            value = record.get(".".join(keys[:level]))
            for key in keys[level:]:
                value = _below(value, key)
            if value is not None:
                return value
    return None


def _below(value: Any, key: str) -> Any:
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        return [item.get(key) for item in value]
    return value.get(key) if isinstance(value, dict) else None


def _is_score(value: Any) -> bool:
    numbers = value if isinstance(value, list) else [value] if value is not None else []
    return all(type(number) in (int, float) and 0 <= number <= sys.float_info.max for number in numbers)


def _loads(text: str) -> Any:
    return json.loads(text, parse_int=_parse_int)


def _parse_int(digits: str) -> float:
    return int(digits) if len(digits.lstrip("-")) <= sys.int_info.default_max_str_digits else float(digits)


def _has_lone_surrogate(value: Any) -> bool:
    return any("\ud800" <= char <= "\udfff" for char in json.dumps(value, ensure_ascii=False, default=str))


def _line_rows(content: bytes) -> Iterator[tuple[int, Any]]:
    content = content.removeprefix(b"\xef\xbb\xbf")
    if content.lstrip(_WHITE).startswith(b"["):
        yield from _array_rows(content)
        return
    for number, line in enumerate(content.split(b"\n"), 1):
        if line.strip(_WHITE):
            yield number, _line_record(line.strip(_WHITE))


def _line_record(line: bytes) -> Any:
    try:
        record = _loads(line.decode("utf-8"))
        return _BAD if _has_lone_surrogate(record) else record
    except (ValueError, RecursionError):
        return _BAD


def _array_rows(content: bytes) -> Iterator[tuple[int, Any]]:
    text = content.removeprefix(b"\xef\xbb\xbf").decode("utf-8")
    if not text.lstrip(" \t\r\n").startswith("["):
        yield from _line_rows(content)
        return
    for record in _loads(text):
        yield 0, _BAD if _has_lone_surrogate(record) else record


def _csv_rows(content: bytes) -> Iterator[tuple[int, Any]]:
    reader = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
    header: list[str] = []
    for cells in reader:
        is_blank = not cells or (len(cells) == 1 < len(header) and cells[0] and not cells[0].strip(" \t"))
        if header and not is_blank:
            yield 0, _csv_record(header, cells)
        header = header or cells


def _csv_record(header: list[str], cells: list[str]) -> Any:
    if len(cells) != len(header):
        return _BAD
    record: dict[str, Any] = {}
    for name, cell in zip(header, cells, strict=True):
        if name not in record:
            record[name] = _cell(cell)
    return record


def _cell(cell: str) -> Any:
    if cell in STR_NA_VALUES:
        return None
    try:
        return _loads(cell)
    except (ValueError, RecursionError):
        is_number = re.fullmatch(r" *[+-]?(\d+[.]?\d*|[.]\d+)([eE][+-]?\d+)? *", cell, re.ASCII)
        return float(cell) if is_number else cell


def _parquet_rows(content: bytes) -> Iterator[tuple[int, Any]]:
    schema = pq.ParquetFile(io.BytesIO(content)).schema
    for index in range(len(schema)):
        schema.column(index).path.encode()  # raises a ValueError if a name is not valid text
    yield from _table_rows(pq.read_table(io.BytesIO(content)))


def _arrow_rows(content: bytes) -> Iterator[tuple[int, Any]]:
    try:
        table = pa.ipc.open_file(content).read_all()
    except pa.ArrowInvalid:
        table = pa.ipc.open_stream(content).read_all()
    yield from _table_rows(table)


def _table_rows(table: pa.Table) -> Iterator[tuple[int, Any]]:
    table.validate(full=True)
    if len(set(table.column_names)) < table.num_columns:
        raise ValueError("two columns have the same name")
    yield from enumerate(table.to_pylist(), 1)


_ROWS = {"jsonl": _line_rows, "json": _array_rows, "csv": _csv_rows, "parquet": _parquet_rows, "arrow": _arrow_rows}
