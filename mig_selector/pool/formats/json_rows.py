"""JSON Lines, and files that hold one JSON array of objects."""

from __future__ import annotations

import itertools
import json
import mmap
import os
import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import IO, Any

import msgspec
import numpy as np

from mig_selector.errors import PoolError
from mig_selector.pool.formats.row_source import OnBytes, Span, WholeFile, batched
from mig_selector.pool.leaves.batch import LeafBuilder, Leaves, Numbering, holds_utf8
from mig_selector.pool.leaves.decoder import MAX_ROW_BYTES, LeafDecoder, parse_json


_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_BLOCK_BYTES = 1 << 18
"""Read at once: few enough to stay in the processor's cache while they are decoded."""
_MAPPED_BYTES = 1 << 30
"""Arrays above this are not read into memory at once but mapped into it."""
_WHITE = b" \t\r\n"

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
        return not any(piece.strip(_WHITE) for piece in iter(lambda: stream.read(_BLOCK_BYTES), b""))


def _first_line(stream: IO[bytes]) -> bytes:
    """Return the first line that is not blank, without what is white around it; cut off where it is too long."""
    line = stream.readline(MAX_ROW_BYTES).removeprefix(_BYTE_ORDER_MARK)
    while line and not line.strip(_WHITE):
        line = stream.readline(MAX_ROW_BYTES)
    return line.strip(_WHITE)


class JsonLinesSource:
    """One JSON object a line."""

    kind = "json lines"
    can_seek = True

    def __init__(self, path: Path, name: str) -> None:
        """Read `path`, call it `name`."""
        self.files, self.name, self.size = [path], name, path.stat().st_size

    def spans(self, size: int) -> list[Span]:
        """Cut by bytes; a line belongs to the part in which it begins."""
        bounds = [*range(0, self.size, size), self.size]
        return [Span(start, stop, stop - start) for start, stop in itertools.pairwise(bounds)]

    def scan(self, span: Span, decoder: LeafDecoder, numbering: Numbering, on_bytes: OnBytes) -> Iterator[Leaves]:
        """Pass over the lines that begin in a part, decoding only what is wanted."""
        builder = LeafBuilder(decoder, numbering)
        line_number = 0
        with self.files[0].open("rb") as stream:
            for blocks, num_bytes in batched(_line_blocks(stream, span), attrgetter("size")):
                for block in blocks:
                    line_number += _add_lines(builder, block, line_number)
                yield builder.build(line_number)
                on_bytes(num_bytes)

    def read(
        self, rows: Sequence[int], positions: Sequence[int], columns: Sequence[str] | None
    ) -> Iterator[dict[str, Any]]:
        """Read whole rows by their byte offset."""
        with self.files[0].open("rb") as stream:
            for row, position in zip(rows, positions, strict=True):
                stream.seek(position)
                line = stream.readline(MAX_ROW_BYTES)
                yield project(_decode_whole(line, f"{self.name}, row {row + 1}"), columns)


@dataclass(frozen=True, slots=True)
class _Block:
    """Lines that follow each other."""

    position: int
    """Byte offset in the file."""
    size: int
    lines: bytes
    """Whole lines; empty for a single one that is too long to be read."""


def _add_lines(builder: LeafBuilder, block: _Block, lines_before: int) -> int:
    """Add the lines of a block, blank ones left out; return how many there were."""
    if not block.lines:
        builder.add_json([b""], np.array([lines_before + 1]), np.array([block.position]), is_utf8=False)
        return 1
    return _add_whole_lines(builder, block.lines, block.position, lines_before)


def _add_whole_lines(builder: LeafBuilder, block: bytes, position: int, lines_before: int) -> int:
    texts: list[bytes | memoryview] = []
    places, starts = array("q"), array("q")
    view = memoryview(block)  # lines are cut out without copying them, unless there is something to strip
    start, number = 0, lines_before
    if position == 0 and block.startswith(_BYTE_ORDER_MARK):
        start = len(_BYTE_ORDER_MARK)
    while start < len(block):
        end = block.find(b"\n", start)
        end = end if end >= 0 else len(block)
        number += 1
        is_clean = end > start and block[start] not in _WHITE and block[end - 1] not in _WHITE
        text = view[start:end] if is_clean else block[start:end].strip(_WHITE)
        if text:
            texts.append(text)
            places.append(number)
            starts.append(position + start)
        start = end + 1
    is_utf8 = holds_utf8(block)
    builder.add_json(texts, np.frombuffer(places, np.int64), np.frombuffer(starts, np.int64), is_utf8=is_utf8)
    return number - lines_before


def _line_blocks(stream: IO[bytes], span: Span) -> Iterator[_Block]:
    """Yield the lines that begin in a part."""
    position = _next_line(stream, span.start, span.stop)
    while position < span.stop:
        edge = min(position + _BLOCK_BYTES, span.stop)
        end = _next_line(stream, edge)
        if end - position > MAX_ROW_BYTES:  # only the last line can be so long
            last = _last_line(stream, position, edge)
            if last == position:
                yield _Block(position, end - position, b"")
                position = end
                continue
            end = last
        stream.seek(position)
        block = stream.read(end - position)
        if not block:  # the file was cut off meanwhile, which whoever asked finds out
            return
        yield _Block(position, len(block), block)
        position += len(block)


def _last_line(stream: IO[bytes], position: int, edge: int) -> int:
    """Return where the last line begins that begins before `edge`; one begins at `position`."""
    stream.seek(position)
    return position + stream.read(edge - position - 1).rfind(b"\n") + 1


def _next_line(stream: IO[bytes], position: int, limit: int | None = None) -> int:
    """Return where the first line begins that begins at `position` or behind it, or `limit` if that comes first."""
    if position == 0:
        return 0
    place = position - 1
    stream.seek(place)
    while limit is None or place < limit:
        piece = stream.readline(_BLOCK_BYTES if limit is None else min(_BLOCK_BYTES, limit - place))
        place += len(piece)
        if not piece or piece.endswith(b"\n"):
            break
    return place


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
        return project(_decode_whole(text, f"{self.name}:{line}"), columns)

    def _rows(self) -> Iterator[_Element]:
        data = self._content()
        begin = len(_BYTE_ORDER_MARK) if data[:3] == _BYTE_ORDER_MARK else 0
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


def _decode_whole(text: bytes, where: str) -> dict[str, Any]:
    try:
        record = _decode_any(text)
    except (ValueError, RecursionError) as error:
        raise PoolError(f"{where}: cannot be read any more ({error}); did the file change meanwhile?") from error
    if not isinstance(record, dict):
        raise PoolError(f"{where}: is no JSON object any more; did the file change meanwhile?")
    return record


def _decode_any(text: bytes) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.MsgspecError, RecursionError):
        return parse_json(text.decode("utf-8"))  # NaN, numbers out of range


def project(record: dict[str, Any], columns: Sequence[str] | None) -> dict[str, Any]:
    """Keep `columns`, all if None, in the record's own order."""
    return record if columns is None else {key: value for key, value in record.items() if key in columns}
