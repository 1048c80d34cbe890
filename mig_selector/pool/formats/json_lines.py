"""JSON Lines: one object a line."""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import IO, Any

import numpy as np

from mig_selector.pool.formats.json_text import BYTE_ORDER_MARK, WHITE, decode_whole, project
from mig_selector.pool.formats.row_source import OnBytes, Span, batched
from mig_selector.pool.leaves.batch import LeafBuilder, Leaves, Numbering, holds_utf8
from mig_selector.pool.leaves.decoder import MAX_ROW_BYTES, LeafDecoder


_BLOCK_BYTES = 1 << 18
"""Read at once: few enough to stay in the processor's cache while they are decoded."""


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
                yield project(decode_whole(line, f"{self.name}, row {row + 1}"), columns)


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
    if position == 0 and block.startswith(BYTE_ORDER_MARK):
        start = len(BYTE_ORDER_MARK)
    while start < len(block):
        end = block.find(b"\n", start)
        end = end if end >= 0 else len(block)
        number += 1
        is_clean = end > start and block[start] not in WHITE and block[end - 1] not in WHITE
        text = view[start:end] if is_clean else block[start:end].strip(WHITE)
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
