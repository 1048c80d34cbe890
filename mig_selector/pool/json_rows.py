"""JSON Lines, and files that hold one JSON array of objects."""

from __future__ import annotations

import itertools
import json
import mmap
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mig_selector.errors import PoolError
from mig_selector.pool.decoder import LeafDecoder
from mig_selector.pool.leaves import LeafBuilder, Leaves, Numbering, holds_utf8
from mig_selector.pool.rows import BATCH_ROWS, OnBytes, Span, batched


_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_BLOCK_BYTES = 1 << 20
"""Read at once: few enough to stay in the processor's cache while they are decoded."""
_WHITE = b" \t\r\n"
_WHITE_CODES = np.frombuffer(_WHITE, np.uint8)

_OPENING = re.compile(rb"(?:\xef\xbb\xbf)?[ \t\r\n]*\[")
_REST_IS_WHITE = re.compile(rb"[ \t\r\n]*\Z")


def holds_array(path: Path) -> bool:
    """Whether a file is one JSON array; JSON Lines whose first row is a (wrong) array are none."""
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        opening = _OPENING.match(data)
        if opening is None:
            return False
        line_end = data.find(b"\n", opening.end())
        if line_end < 0 or _REST_IS_WHITE.match(data, line_end):
            return True
        try:
            msgspec.json.decode(data[opening.end() - 1 : line_end], type=msgspec.Raw)
        except (msgspec.MsgspecError, RecursionError):
            return True
        return False


class JsonLinesSource:
    """One JSON object a line."""

    kind = "json lines"

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
            for position, block in _line_blocks(stream, span):
                starts, ends = _line_bounds(block)
                if position == 0 and block.startswith(_BYTE_ORDER_MARK):
                    starts[0] += len(_BYTE_ORDER_MARK)
                texts = _strip_lines(block, starts, ends)
                filled = np.array([len(text) > 0 for text in texts])
                places = line_number + 1 + np.flatnonzero(filled)
                line_number += len(texts)
                yield builder.of_json(
                    [text for text in texts if text],
                    places,
                    line_number,
                    position + starts[filled],
                    is_utf8=holds_utf8(block),
                )
                on_bytes(len(block))

    def read(self, rows: Sequence[int], positions: Sequence[int], columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Read whole rows by their byte offset."""
        with self.files[0].open("rb") as stream:
            for row, position in zip(rows, positions, strict=True):
                stream.seek(position)
                yield project(_decode_whole(stream.readline(), f"{self.name}, row {row + 1}"), columns)


def _line_blocks(stream: IO[bytes], span: Span) -> Iterator[tuple[int, bytes]]:
    """Yield blocks of whole lines that begin in a part, each with its byte offset."""
    position = span.start
    if position:
        stream.seek(position - 1)
        position += len(stream.readline()) - 1
    while position < span.stop:
        block = stream.read(min(_BLOCK_BYTES, span.stop - position))
        if not block.endswith(b"\n"):
            block += stream.readline()
        if not block:
            return
        yield position, block
        position += len(block)


def _line_bounds(block: bytes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return where each line begins and ends, without its newline."""
    ends = np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n"))
    if not block.endswith(b"\n"):
        ends = np.append(ends, len(block))
    return np.concatenate((np.zeros(1, np.int64), ends[:-1] + 1)), ends


def _strip_lines(block: bytes, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> list[bytes | memoryview]:
    """Cut the lines out, without the blanks around them; only lines that have some are copied."""
    view = memoryview(block)
    lines: list[bytes | memoryview] = [
        view[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)
    ]
    codes = np.frombuffer(block + b"\n", np.uint8)
    has_blank = np.isin(codes[starts], _WHITE_CODES) | np.isin(codes[ends - 1], _WHITE_CODES)
    for place in np.flatnonzero(has_blank & (ends > starts)):
        lines[place] = bytes(lines[place]).strip(_WHITE)
    return lines


class JsonArraySource:
    """One JSON array of objects; the file is mapped into memory, not read into it."""

    kind = "json array"

    def __init__(self, path: Path, name: str) -> None:
        """Read `path`, call it `name`."""
        self.files, self.name, self.size = [path], name, path.stat().st_size

    def spans(self, size: int) -> list[Span]:
        """Take the array whole."""
        del size
        return [Span(size=self.size)]

    def scan(self, span: Span, decoder: LeafDecoder, numbering: Numbering, on_bytes: OnBytes) -> Iterator[Leaves]:
        """Pass over the elements."""
        del span
        builder = LeafBuilder(decoder, numbering)
        for batch in batched(self._elements(), BATCH_ROWS):
            lines, texts = zip(*batch, strict=True)
            yield builder.of_json(texts, np.array(lines, np.int64), lines[-1], is_utf8=False)
            on_bytes(sum(map(len, texts)))

    def read(self, rows: Sequence[int], positions: Sequence[int], columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Read whole rows by passing over the elements once more."""
        del positions
        wanted = iter(rows)
        target = next(wanted, None)
        for number, (line, text) in enumerate(self._elements()):
            if number == target:
                yield project(_decode_whole(text, f"{self.name}:{line}"), columns)
                target = next(wanted, None)

    def _elements(self) -> Iterator[tuple[int, bytes]]:
        """Yield line and text of each element."""
        with self.files[0].open("rb") as stream:
            data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        begin = len(_BYTE_ORDER_MARK) if data[:3] == _BYTE_ORDER_MARK else 0
        try:
            elements = msgspec.json.decode(memoryview(data)[begin:], type=list[msgspec.Raw])
        except (msgspec.MsgspecError, RecursionError):
            yield from self._elements_slowly(data[begin:])
            return
        line, end = 1, begin
        for element in elements:
            text = bytes(element)
            start = data.find(text[:1], end if end > begin else data.find(b"[", begin) + 1)
            line += data[end:start].count(b"\n")
            yield line, text
            line += text.count(b"\n")
            end = start + len(text)

    def _elements_slowly(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Read an array that holds NaN or is broken, and name the line where it breaks."""
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            raise PoolError(f"{self.name}:{line}: is not UTF-8 (byte {error.start + 1} of the file).") from error
        decoder = json.JSONDecoder()
        line, here, counted = 1, _after_white(text, text.index("[") + 1), 0
        while text[here : here + 1] != "]":
            line, counted = line + text.count("\n", counted, here), here
            try:
                _, end = decoder.raw_decode(text, here)
                yield line, text[here:end].encode()
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
        return json.loads(text.decode("utf-8"))  # NaN, numbers out of range


def project(record: dict[str, Any], columns: Sequence[str]) -> dict[str, Any]:
    """Keep `columns`, in the record's own order."""
    return {key: value for key, value in record.items() if key in columns}
