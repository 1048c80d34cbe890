"""What is wrong with a file as a whole, as its first bytes tell: found before the file is hashed or read."""

from __future__ import annotations

import codecs
import csv
import json
import os
import re
from collections.abc import Set as AbstractSet
from pathlib import Path

import msgspec

from mig_selector.errors import PoolError
from mig_selector.pool.formats.json_text import BYTE_ORDER_MARK, WHITESPACE


_HEAD_BYTES = 1 << 16
_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_UNPACK, _DOWNLOAD = "unpack it first", "download the file itself, not the page that shows it"
_FOREIGN = {
    b"\x1f\x8b": ("a gzip archive", _UNPACK),
    b"pk\x03\x04": ("a zip archive", _UNPACK),
    b"\xfd7zxz\0": ("an xz archive", _UNPACK),
    b"\x28\xb5\x2f\xfd": ("a zstd archive", _UNPACK),
    b"{'": ("text of Python dictionaries", "write the rows with json.dumps"),
    b"<!doctype html": ("a web page", _DOWNLOAD),
    b"<html": ("a web page", _DOWNLOAD),
    b"version https://git-lfs": ("a Git LFS pointer", "fetch the data with: git lfs pull"),
}
"""How files begin that are often taken for data, in lower case."""
_EXPECTED = "LLaMA-Factory reads a list of rows, or one row on each line"
_ROWS = re.compile(rb"\[\s*\{")
_LARGEST_OBJECT = 1 << 30
"""A larger file is not looked into."""


def check_content(path: Path, name: str) -> None:
    """Refuse a file whose content is not what its ending says.

    Raises:
        PoolError: It is an archive, a web page, or a pointer to the data.
    """
    with path.open("rb") as stream:
        head = stream.read(64).lstrip(WHITESPACE).lower()
    for beginning, (what, remedy) in _FOREIGN.items():
        if head.startswith(beginning):
            raise PoolError(f"{name} is {what} and not {path.suffix} data; {remedy}.")


def check_encoding(path: Path, name: str) -> None:
    """Refuse a text file in UTF-16 or UTF-32.

    Raises:
        PoolError: It is, by its byte-order mark or because every other byte of its beginning is zero.
    """
    with path.open("rb") as stream:
        head = stream.read(64)
    encoding = "UTF-16"
    if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        encoding = "UTF-32"
    elif not head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        zeros = [index % 2 for index, byte in enumerate(head) if byte == 0]
        if len(set(zeros)) != 1 or len(zeros) < len(head) // 4:
            return
        encoding += "LE" if zeros[0] else "BE"
    raise PoolError(
        f"{name} is in {encoding}, which LLaMA-Factory cannot read; convert it to UTF-8, for example with: "
        f"iconv -f {encoding} -t UTF-8 {path.name} > utf8-{path.name}"
    )


def check_rows_are_not_wrapped(path: Path, name: str, columns: AbstractSet[str]) -> None:
    """Refuse a file of JSON that is one object with the rows somewhere in it, or one object over several lines.

    Args:
        path: The file; it is not an array.
        name: The file's name for messages.
        columns: Columns that training reads.

    Raises:
        PoolError: It is.
    """
    with path.open("rb") as stream:
        size = min(os.fstat(stream.fileno()).st_size, _LARGEST_OBJECT)  # what is asked for is allocated
        line = stream.readline(size).removeprefix(BYTE_ORDER_MARK).strip(WHITESPACE)
        is_last = not stream.read(_HEAD_BYTES).strip(WHITESPACE)
        if not line.startswith(b"{"):
            return
        members = _members(line)
        if members is not None and not is_last:
            return  # one row a line
        stream.seek(0)
        # Only a file whose first line is not a row comes here: it may be one object, or a row may be broken.
        text = b"" if members is not None else stream.read(size).removeprefix(BYTE_ORDER_MARK)
    is_spread, members = members is None, members or _members(text)
    if members is not None and columns.isdisjoint(members):
        for key, value in members.items():
            if _ROWS.match(bytes(memoryview(value)[:_HEAD_BYTES])):
                raise PoolError(
                    f"{name} is one JSON object with the rows in {key!r}; {_EXPECTED}. Take the list out, for example "
                    f"""with: jq '.["{key}"]' {path.name} > rows-{path.name}"""
                )
    if is_spread and (members is not None or _begins_with_object_over_lines(text[:_HEAD_BYTES])):
        raise PoolError(
            f"{name} has JSON objects over several lines; {_EXPECTED}. Convert it, for example with: "
            f"jq -c . {path.name} > rows-{path.name}"
        )


def _members(text: bytes) -> dict[str, msgspec.Raw] | None:
    """Return the values of a JSON object as they are written; None if a text is not one."""
    try:
        return msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _begins_with_object_over_lines(text: bytes) -> bool:
    """Whether an object over several lines comes first, and no row on a line: else it is a broken row among others."""
    if any(line.startswith(b"{") and _members(line) is not None for line in text.split(b"\n")):
        return False
    head = text.decode("utf-8", "ignore").lstrip()
    try:
        record, end = json.JSONDecoder(parse_int=float).raw_decode(head)
    except (ValueError, RecursionError):
        return False
    return isinstance(record, dict) and "\n" in head[:end]


def check_separator(path: Path, name: str) -> None:
    """Refuse a CSV file whose cells are not separated by commas.

    Raises:
        PoolError: The header has one cell, and several with another separator.
    """
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as stream:
        header = stream.readline(_HEAD_BYTES).strip("\r\n")
    try:
        if len(next(csv.reader([header]), [])) != 1:
            return
        separators = [each for each in _SEPARATORS if len(next(csv.reader([header], delimiter=each), [])) > 1]
    except csv.Error:
        return
    if separators:
        code = (
            f"import pandas; pandas.read_csv('{path.name}', sep={separators[0]!r})"
            f".to_csv('commas-{path.name}', index=False)"
        )
        raise PoolError(
            f"{name}: the cells are separated by {_SEPARATORS[separators[0]]}, but LLaMA-Factory reads commas; "
            f'convert it, for example with: python -c "{code}"'
        )
