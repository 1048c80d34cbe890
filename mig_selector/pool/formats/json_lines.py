"""JSON Lines: one object on each line. Blank lines, a byte-order mark and CRLF are allowed."""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import IO, Any

import numpy as np

from mig_selector.pool.formats.json_text import BYTE_ORDER_MARK, WHITESPACE, decode_row, project
from mig_selector.pool.formats.row_source import OnBytes, Span, batched
from mig_selector.pool.leaves.batch import LeafBuilder, Leaves, Numbering, holds_utf8
from mig_selector.pool.leaves.decoder import MAX_ROW_BYTES, LeafDecoder


_BLOCK_BYTES = 1 << 18
"""Read at a time: little enough to stay in the processor's cache until it is decoded."""


class JsonLinesSource:
    """A file of JSON Lines."""

    kind = "json lines"
    can_seek = True

    def __init__(self, path: Path, name: str) -> None:
        """Read `path`; messages say `name`."""
        self.files, self.name, self.size = [path], name, path.stat().st_size

    def spans(self, size: int) -> list[Span]:
        """Divide by bytes; a line belongs to the span in which it begins."""
        bounds = [*range(0, self.size, size), self.size]
        return [Span(start, stop, stop - start) for start, stop in itertools.pairwise(bounds)]

    def scan(self, span: Span, decoder: LeafDecoder, numbering: Numbering, on_bytes: OnBytes) -> Iterator[Leaves]:
        """Read the lines that begin in a span."""
        builder = LeafBuilder(decoder, numbering)
        line = 0
        with self.files[0].open("rb") as stream:
            for blocks, num_bytes in batched(_line_blocks(stream, span), attrgetter("size")):
                for block in blocks:
                    line += _add_lines(builder, block, line)
                yield builder.build(line)
                on_bytes(num_bytes)

    def read(
        self, source_rows: Sequence[int], byte_offsets: Sequence[int], columns: Sequence[str] | None
    ) -> Iterator[dict[str, Any]]:
        """Read rows at their byte offsets."""
        with self.files[0].open("rb") as stream:
            for source_row, byte_offset in zip(source_rows, byte_offsets, strict=True):
                stream.seek(byte_offset)
                line = stream.readline(MAX_ROW_BYTES)
                yield project(decode_row(line, f"{self.name}, row {source_row + 1}"), columns)


@dataclass(frozen=True, slots=True)
class _Block:
    """Consecutive whole lines."""

    byte_offset: int
    size: int
    text: bytes
    """Empty for a single line that is too long to be read."""


def _add_lines(builder: LeafBuilder, block: _Block, lines_before: int) -> int:
    """Add the lines of a block, except blank ones; return the number of lines."""
    if not block.text:
        builder.add_json([b""], np.array([lines_before + 1]), np.array([block.byte_offset]), is_utf8=False)
        return 1
    data = block.text
    texts: list[bytes | memoryview] = []
    lines, byte_offsets = array("q"), array("q")  # numpy uses the buffer of an array without copying
    view = memoryview(data)
    start, line = 0, lines_before
    if block.byte_offset == 0 and data.startswith(BYTE_ORDER_MARK):
        start = len(BYTE_ORDER_MARK)
    while start < len(data):
        end = data.find(b"\n", start)
        end = end if end >= 0 else len(data)
        line += 1
        # A line is a slice of the block and is decoded there; it is only copied where there is something to strip.
        is_clean = end > start and data[start] not in WHITESPACE and data[end - 1] not in WHITESPACE
        text = view[start:end] if is_clean else data[start:end].strip(WHITESPACE)
        if text:
            texts.append(text)
            lines.append(line)
            byte_offsets.append(block.byte_offset + start)
        start = end + 1
    # One check for the whole block; only if it fails is each line checked, to find the bad ones.
    is_utf8 = holds_utf8(data)
    builder.add_json(texts, np.frombuffer(lines, np.int64), np.frombuffer(byte_offsets, np.int64), is_utf8=is_utf8)
    return line - lines_before


def _line_blocks(stream: IO[bytes], span: Span) -> Iterator[_Block]:
    """Yield the lines that begin in a span, in blocks of about `_BLOCK_BYTES`."""
    start = _next_line(stream, span.start, span.stop)
    while start < span.stop:
        edge = min(start + _BLOCK_BYTES, span.stop)
        end = _next_line(stream, edge)
        if end - start > MAX_ROW_BYTES:  # the last line of the block is too long: all others end before `edge`
            stream.seek(start)
            last_line = start + stream.read(edge - start - 1).rfind(b"\n") + 1
            if last_line == start:
                yield _Block(start, end - start, b"")
                start = end
                continue
            end = last_line  # the lines before it first; it is alone in the next block
        stream.seek(start)
        text = stream.read(end - start)
        if not text:  # the file was truncated; `check_unchanged` reports it after the scan
            return
        yield _Block(start, len(text), text)
        start += len(text)


def _next_line(stream: IO[bytes], offset: int, limit: int | None = None) -> int:
    """Return the offset of the first line that begins at `offset` or later, or `limit` if that comes first.

    The limit keeps a line that is longer than many spans from being read to its end once for each of them.
    """
    if offset == 0:
        return 0
    end = offset - 1  # if the byte before is a line end, a line begins at `offset`
    stream.seek(end)
    while limit is None or end < limit:
        piece = stream.readline(_BLOCK_BYTES if limit is None else min(_BLOCK_BYTES, limit - end))
        end += len(piece)
        if not piece or piece.endswith(b"\n"):
            break
    return end
