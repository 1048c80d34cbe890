"""Files that hold one JSON array of objects."""

from __future__ import annotations

import json
import mmap
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import msgspec
import numpy as np

from mig_selector.errors import PoolError
from mig_selector.pool.formats.json_text import BYTE_ORDER_MARK, WHITE, decode_whole, project
from mig_selector.pool.formats.row_source import OnBytes, Span, WholeFile, batched
from mig_selector.pool.leaves.batch import LeafBuilder, Leaves, Numbering
from mig_selector.pool.leaves.decoder import MAX_ROW_BYTES, LeafDecoder


_BLOCK_BYTES = 1 << 18
_MAPPED_BYTES = 1 << 30
"""Arrays above this are not read into memory at once but mapped into it."""

_Element = tuple[int, bytes]
"""Line and text; the text is empty where it is too long to be read."""


def holds_array(path: Path) -> bool:
    """Whether a file is one JSON array; JSON Lines whose first row is a (wrong) array are none."""
    with path.open("rb") as stream:
        line = _first_line(stream)
        if not line.startswith(b"["):
            return False
        try:
            msgspec.json.decode(line, type=msgspec.Raw)
        except (msgspec.MsgspecError, RecursionError):
            return True
        return not any(piece.strip(WHITE) for piece in iter(lambda: stream.read(_BLOCK_BYTES), b""))


def _first_line(stream: IO[bytes]) -> bytes:
    """Return the first line that is not blank, without what is white around it; cut off where it is too long."""
    line = stream.readline(MAX_ROW_BYTES).removeprefix(BYTE_ORDER_MARK)
    while line and not line.strip(WHITE):
        line = stream.readline(MAX_ROW_BYTES)
    return line.strip(WHITE)


class JsonArraySource(WholeFile[_Element]):
    """One JSON array of objects."""

    kind = "json array"

    def scan(self, span: Span, decoder: LeafDecoder, numbering: Numbering, on_bytes: OnBytes) -> Iterator[Leaves]:
        """Pass over the elements."""
        del span
        builder = LeafBuilder(decoder, numbering)
        for batch, num_bytes in batched(self._rows(), lambda row: len(row[1])):
            lines, texts = zip(*batch, strict=True)
            builder.add_json(texts, np.array(lines, np.int64), is_utf8=False)
            yield builder.build(lines[-1])
            on_bytes(num_bytes)

    def _project(self, row: _Element, columns: Sequence[str] | None) -> dict[str, Any]:
        line, text = row
        return project(decode_whole(text, f"{self.name}:{line}"), columns)

    def _rows(self) -> Iterator[_Element]:
        data = self._content()
        begin = len(BYTE_ORDER_MARK) if data[:3] == BYTE_ORDER_MARK else 0
        try:
            elements = msgspec.json.decode(memoryview(data)[begin:], type=list[msgspec.Raw])
        except (msgspec.MsgspecError, RecursionError):
            yield from self._rows_slowly(data[begin:])
            return
        line, end = 1, begin
        for element in elements:
            view = memoryview(element)
            start = data.find(view[:1], end if end > begin else data.find(b"[", begin) + 1)
            line += data[end:start].count(b"\n")
            text = bytes(view) if len(view) <= MAX_ROW_BYTES else b""
            yield line, text
            line += text.count(b"\n") if text else _count_line_ends(view)
            end = start + len(view)

    def _content(self) -> bytes | mmap.mmap:
        """Return what the file holds; a mapped file that another program cuts off would end this one."""
        with self.files[0].open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            if size > _MAPPED_BYTES:
                return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
            return stream.read()

    def _rows_slowly(self, data: bytes) -> Iterator[_Element]:
        """Read an array that holds NaN or is broken, and name the line where it breaks."""
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            raise PoolError(f"{self.name}:{line}: is not UTF-8 (byte {error.start + 1} of the file).") from error
        begin = _after_white(text, 0)
        if text[begin : begin + 1] != "[":  # it was one when it was opened as a source
            raise PoolError(f"{self.name}: is no JSON array any more; was it changed meanwhile?")
        decoder = json.JSONDecoder(parse_int=float)
        line, here, counted = 1, _after_white(text, begin + 1), 0
        while text[here : here + 1] != "]":
            line, counted = line + text.count("\n", counted, here), here
            try:
                _, end = decoder.raw_decode(text, here)
                element = text[here:end].encode()
                yield line, element if len(element) <= MAX_ROW_BYTES else b""
                here = _next_element(text, end)
            except (ValueError, RecursionError) as error:
                raise PoolError(
                    f"{self.name}:{line}: the element that begins here is not followed or made up as JSON asks "
                    f"({error}). {_ONLY_WHOLE}"
                ) from error
        rest = _after_white(text, here + 1)
        if rest < len(text):
            line += text.count("\n", counted, rest)
            raise PoolError(f"{self.name}:{line}: something follows the array's closing bracket. {_ONLY_WHOLE}")


_ONLY_WHOLE = "A JSON array can only be read whole; mend the file, or turn it into JSON Lines."
_TEXT_WHITE = re.compile(r"[ \t\r\n]*")
_BETWEEN = re.compile(r"[ \t\r\n]*(?:,[ \t\r\n]*(?=[^\], \t\r\n])|(?=\]))")


def _count_line_ends(view: memoryview) -> int:
    starts = range(0, len(view), _BLOCK_BYTES)
    return sum(bytes(view[start : start + _BLOCK_BYTES]).count(b"\n") for start in starts)


def _after_white(text: str, place: int) -> int:
    match = _TEXT_WHITE.match(text, place)
    return match.end() if match else place


def _next_element(text: str, end: int) -> int:
    """Return where the next element begins, or the closing bracket stands."""
    match = _BETWEEN.match(text, end)
    if match is None:
        raise ValueError("expected ',' or ']' after it")
    return match.end()
