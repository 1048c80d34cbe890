"""What the readers of JSON files share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from mig_selector.errors import PoolError
from mig_selector.pool.leaves.decoder import parse_json


BYTE_ORDER_MARK = b"\xef\xbb\xbf"
WHITESPACE = b" \t\r\n"


def decode_row(text: bytes, where: str) -> dict[str, Any]:
    """Decode a row that the scan found valid; `where` names it in messages."""
    try:
        record = _decode_any(text)
    except (ValueError, RecursionError) as error:
        raise PoolError(f"{where}: can no longer be read ({error}); did the file change during the run?") from error
    if not isinstance(record, dict):
        raise PoolError(f"{where}: is no longer a JSON object; did the file change during the run?")
    return record


def _decode_any(text: bytes) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.MsgspecError, RecursionError):
        return parse_json(text.decode("utf-8"))  # NaN, numbers out of range


def project(record: dict[str, Any], columns: Sequence[str] | None) -> dict[str, Any]:
    """Keep `columns`, all if None, in the record's own order."""
    return record if columns is None else {key: value for key, value in record.items() if key in columns}
