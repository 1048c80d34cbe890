"""Files with one JSON array of objects."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import msgspec
import numpy as np

from mig_selector.errors import PoolError
from mig_selector.pool.formats.json_text import BYTE_ORDER_MARK, WHITESPACE, decode_row, project
from mig_selector.pool.formats.row_source import OnBytes, Span, WholeFile, batched
from mig_selector.pool.leaves.batch import LeafBuilder, Leaves, Numbering
from mig_selector.pool.leaves.decoder import MAX_ROW_BYTES, LeafDecoder


_BLOCK_BYTES = 1 << 18
_ONLY_WHOLE = "A JSON array can only be read as a whole; fix the file, or convert it to JSON Lines."
_LEADING_WHITESPACE = re.compile(r"[ \t\r\n]*")
_SEPARATOR = re.compile(r"[ \t\r\n]*(?:,[ \t\r\n]*(?=[^\], \t\r\n])|(?=\]))")
"""From the end of an element to the beginning of the next one, or to the closing bracket."""

_Element = tuple[int, bytes]
"""Line number and text; the text is empty where it is too long to be read."""


def holds_array(path: Path) -> bool:
    """Whether a file is one JSON array, and not JSON Lines whose first row happens to be an (invalid) array."""
    with path.open("rb") as stream:
        line = _first_line(stream)
        if not line.startswith(b"["):
            return False
        try:
            msgspec.json.decode(line, type=msgspec.Raw)
        except (msgspec.MsgspecError, RecursionError):
            return True  # the array goes on after this line, or is broken
        return not any(piece.strip(WHITESPACE) for piece in iter(lambda: stream.read(_BLOCK_BYTES), b""))


def _first_line(stream: IO[bytes]) -> bytes:
    """Return the first line that is not blank, stripped, and cut off where it is too long."""
    line = stream.readline(MAX_ROW_BYTES).removeprefix(BYTE_ORDER_MARK)
    while line and not line.strip(WHITESPACE):
        line = stream.readline(MAX_ROW_BYTES)
    return line.strip(WHITESPACE)


class JsonArraySource(WholeFile[_Element]):
    """A file with one JSON array of objects."""

    kind = "json array"

    def scan(self, span: Span, decoder: LeafDecoder, numbering: Numbering, on_bytes: OnBytes) -> Iterator[Leaves]:
        """Read the elements."""
        del span
        builder = LeafBuilder(decoder, numbering)
        for batch, num_bytes in batched(self._rows(), lambda row: len(row[1])):
            lines, texts = zip(*batch, strict=True)
            builder.add_json(texts, np.array(lines, np.int64), is_utf8=False)
            yield builder.build(lines[-1])
            on_bytes(num_bytes)

    def _project(self, row: _Element, columns: Sequence[str] | None) -> dict[str, Any]:
        line, text = row
        return project(decode_row(text, f"{self.name}:{line}"), columns)

    def _rows(self) -> Iterator[_Element]:
        data = self._content()
        begin = len(BYTE_ORDER_MARK) if data[:3] == BYTE_ORDER_MARK else 0
        try:
            # Raw elements are checked but not decoded: slices of the data, not Python objects.
            elements = msgspec.json.decode(memoryview(data)[begin:], type=list[msgspec.Raw])
        except (msgspec.MsgspecError, RecursionError):
            yield from self._rows_slowly(data[begin:])
            return
        line, end = 1, begin
        for element in elements:
            view = memoryview(element)
            # msgspec does not say where an element begins. Only whitespace and a comma come between two elements, and
            # no element begins with either, so the next occurrence of its first byte is its beginning.
            start = data.find(view[:1], end if end > begin else data.find(b"[", begin) + 1)
            line += data[end:start].count(b"\n")
            text = bytes(view) if len(view) <= MAX_ROW_BYTES else b""
            yield line, text
            line += text.count(b"\n") if text else _count_line_ends(view)
            end = start + len(view)

    def _content(self) -> bytes:
        """Read the file. It is not mapped: if another program cut off a mapped file, the system would kill this one.

        Raises:
            PoolError: It does not fit into memory.
        """
        try:
            return self.files[0].read_bytes()
        except MemoryError as error:
            raise PoolError(f"{self.name}: {self.size:,} bytes do not fit into memory. {_ONLY_WHOLE}") from error

    def _rows_slowly(self, data: bytes) -> Iterator[_Element]:
        """Read an array that contains NaN or is broken, element by element, and name the line where it breaks."""
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            raise PoolError(f"{self.name}:{line}: is not UTF-8 (byte {error.start + 1} of the file).") from error
        begin = _skip_whitespace(text, 0)
        if text[begin : begin + 1] != "[":  # `holds_array` saw one
            raise PoolError(f"{self.name}: is no longer a JSON array; did the file change during the run?")
        decoder = json.JSONDecoder(parse_int=float)  # Python refuses very long integers; the values are not used here
        line, offset, counted = 1, _skip_whitespace(text, begin + 1), 0
        while text[offset : offset + 1] != "]":
            line, counted = line + text.count("\n", counted, offset), offset
            try:
                _, end = decoder.raw_decode(text, offset)
                element = text[offset:end].encode()
                yield line, element if len(element) <= MAX_ROW_BYTES else b""
                offset = _next_element(text, end)
            except (ValueError, RecursionError) as error:
                raise PoolError(
                    f"{self.name}:{line}: the array element that begins here is not valid JSON, or not followed by "
                    f"',' or ']' ({error}). {_ONLY_WHOLE}"
                ) from error
        rest = _skip_whitespace(text, offset + 1)
        if rest < len(text):
            line += text.count("\n", counted, rest)
            raise PoolError(f"{self.name}:{line}: there is text after the closing bracket of the array. {_ONLY_WHOLE}")


def _count_line_ends(view: memoryview) -> int:
    """Count in blocks: the element is too long to be copied at once."""
    starts = range(0, len(view), _BLOCK_BYTES)
    return sum(bytes(view[start : start + _BLOCK_BYTES]).count(b"\n") for start in starts)


def _skip_whitespace(text: str, offset: int) -> int:
    match = _LEADING_WHITESPACE.match(text, offset)
    return match.end() if match else offset


def _next_element(text: str, end: int) -> int:
    """Return where the next element or the closing bracket is."""
    match = _SEPARATOR.match(text, end)
    if match is None:
        raise ValueError("expected ',' or ']' after it")
    return match.end()
