"""Which leaves of a Parquet row group tell the shapes of its rows: as little text as possible.

The statistics of a row group say whether a leaf has nulls. A leaf of texts without any need not be read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq

from mig_selector.pool.leaves.arrow_shapes import is_list, is_text
from mig_selector.pool.leaves.shapes import Column, Shapes


@dataclass(frozen=True)
class ShapeLeaves:
    """What to read of a row group."""

    columns: list[str] = field(default_factory=list)
    """Dotted names, as pyarrow selects by them."""
    known_texts: set[str] = field(default_factory=set)
    """See `take_leaves`."""


def find_leaves(file: pq.ParquetFile, paths: Sequence[str]) -> list[str]:
    """Find the leaves that are at some dotted paths, or below.

    The name of a leaf has two more parts for each list on the way (``instag.list.element.tag`` for ``instag.tag``),
    and a column's own name may hold dots: all leaves are found that have the parts of a path in their order.
    """
    names = [file.schema.column(index).path for index in range(len(file.schema.names))]
    return [name for name in names if any(_is_below(name, path) for path in paths)]


def _is_below(name: str, path: str) -> bool:
    first, *keys = path.split(".")
    column, *parts = name.split(".")
    rest = iter(parts)
    return column == first and all(key in rest for key in keys)


def find_shape_leaves(file: pq.ParquetFile, group: int, shapes: Shapes) -> ShapeLeaves:
    """Find out which leaves of a row group must be read for the shapes of its rows."""
    leaves, schema = ShapeLeaves(), file.schema_arrow
    paths = {file.schema.column(index).path: index for index in range(len(file.schema.names))}
    for column in shapes.columns or []:
        if len(schema.get_all_field_indices(column.name)) != 1:  # absent; or twice, which is reported later
            continue
        kind = schema.field(column.name).type
        if column.kind in ("messages", "message"):
            _add_messages(leaves, column, kind, paths, file.metadata.row_group(group), shapes)
        elif (
            is_text(kind)
            and column.kind in ("text", "any text")
            and (column.kind == "any text" or _has_no_nulls(file.metadata.row_group(group), paths.get(column.name)))
        ):
            leaves.known_texts.add(column.name)
        else:
            leaves.columns.append(column.name)
    return leaves


def _add_messages(
    leaves: ShapeLeaves,
    column: Column,
    kind: pa.DataType,
    paths: dict[str, int],
    group: pq.RowGroupMetaData,
    shapes: Shapes,
) -> None:
    """Add the roles of messages, and their contents unless they are known to be texts without nulls."""
    message = kind.value_type if column.kind == "messages" and is_list(kind) else kind
    role = _leaf(column, shapes.role_tag, paths)
    content = _leaf(column, shapes.content_tag, paths)
    if role is None or content is None or not pa.types.is_struct(message):
        leaves.columns.append(column.name)  # of an unexpected type
        return
    leaves.columns.append(role)
    if shapes.has_tool_calls:
        leaves.columns.append(f"{role.removesuffix(shapes.role_tag)}tool_calls")
    texts = [field for field in message if field.name == shapes.content_tag]
    if len(texts) == 1 and is_text(texts[0].type) and _has_no_nulls(group, paths[content]):
        leaves.known_texts.add(column.name)
    else:
        leaves.columns.append(content)


def _leaf(column: Column, key: str, paths: dict[str, int]) -> str | None:
    """Return the path of a key of the column's messages; between the two are the levels of the list."""
    found = [path for path in paths if path.startswith(f"{column.name}.") and path.endswith(f".{key}")]
    return min(found, key=len, default=None)


def _has_no_nulls(group: pq.RowGroupMetaData, leaf: int | None) -> bool:
    if leaf is None:
        return False
    statistics = group.column(leaf).statistics
    return statistics is not None and statistics.has_null_count and statistics.null_count == 0
