"""Chosen rows that are also among those for evaluation: the host would measure what the model has memorised."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mig_selector.errors import MigSelectorError
from mig_selector.integration.dataset_info import resolve_entry
from mig_selector.pipeline.request import Request
from mig_selector.pool.conversation import read_turns
from mig_selector.pool.entry import LocalSource, PoolEntry
from mig_selector.pool.formats.files import open_sources
from mig_selector.pool.formats.row_source import RowSource
from mig_selector.pool.index.cache import IndexCache
from mig_selector.pool.index.judge import RowJudge
from mig_selector.pool.reading import read_pool
from mig_selector.store.files import read_json, write_json
from mig_selector.store.hashing import fingerprint_of


logger = logging.getLogger(__name__)

_MAX_BYTES = 256 << 20
"""A larger dataset is not read for this: it would take longer than the selection."""
_SPOKEN = frozenset({"prompt", "query", "response", "history", "messages", "system", "chosen"})
"""Roles of columns that a conversation is read from."""


def count_shared_rows(
    entries: Sequence[PoolEntry],
    chosen: Sequence[Mapping[str, Any]],
    validation: Sequence[Mapping[str, Any]],
    folder: Path,
) -> int:
    """Count the validation rows of which training reads the same as of a chosen row: the pool may have it twice."""
    if not validation:
        return 0
    seen = set(_digests(entries, chosen, folder))
    return sum(digest in seen for digest in _digests(entries, validation, folder))


def rows_in_eval(
    request: Request, fingerprint: str, subsets: Sequence[Mapping[str, Any]], folder: Path
) -> dict[str, int]:
    """Count the chosen rows that are in each dataset of `eval_dataset`, by what training reads of them.

    Datasets on a hub, very large ones and those that cannot be read are left out. The counts are kept in the cache.

    Args:
        request: Names the datasets.
        fingerprint: Of the selection.
        subsets: What the manifest says of each file of the subset.
        folder: Where the files are.

    Returns:
        The count by name, for datasets that have chosen rows.
    """
    counts = {}
    for name in dict.fromkeys(request.site.host.eval_dataset):
        own = [subset["rows"] for subset in subsets if subset["dataset"] == name]
        # A dataset of the pool has the rows that were chosen from it.
        found = sum(own) or _count_rows(name, request, fingerprint, subsets, folder)
        if found:
            counts[name] = found
            logger.warning("eval_dataset %s: %s of the chosen rows are in it", name, f"{found:,}")
    return counts


def _count_rows(
    name: str, request: Request, fingerprint: str, subsets: Sequence[Mapping[str, Any]], folder: Path
) -> int:
    try:
        entry = resolve_entry(name, request.site.info.entries[name], request.site.info.folder)
        if not isinstance(entry.source, LocalSource):
            return 0
        sources = open_sources(entry)
        if sum(source.size for source in sources) > _MAX_BYTES:
            logger.info("eval_dataset %s: too large to be compared with the chosen rows", name)
            return 0
        contents = [[request.hashes.file(file) for file in source.files] for source in sources]
        identity = {
            "selection": fingerprint,
            "entry": entry.identity,
            "split": entry.split,
            "files": contents,
        }
        record = request.arguments.cache_dir / "rows_in_eval" / f"{fingerprint_of(identity)[:32]}.json"
        known = read_json(record)
        if isinstance(known, int):
            return known
        held = set(_eval_digests(entry, sources, contents, request))
        chosen = _digests(request.entries, subsets, folder)
        found = sum(digest in held for digest in chosen)
        write_json(record, found)
    except (MigSelectorError, OSError) as error:
        logger.info("eval_dataset %s: not compared with the chosen rows: %s", name, error)
        return 0
    return found


def _eval_digests(
    entry: PoolEntry, sources: list[RowSource], contents: list[list[str]], request: Request
) -> Iterator[bytes]:
    cache = IndexCache(request.arguments.cache_dir, request.hashes)
    pool = read_pool([entry], [sources], [contents], [RowJudge(None)], "skip", lambda num_bytes: None, cache)
    return (_digest(row.record, entry) for row in pool.rows(list(entry.columns.values())))


def _digests(entries: Sequence[PoolEntry], subsets: Sequence[Mapping[str, Any]], folder: Path) -> Iterator[bytes]:
    for subset in subsets:
        with (folder / subset["json_lines"]).open("rb") as stream:
            for line in stream:
                yield _digest(json.loads(line), entries[subset["entry_index"]])


def _digest(record: Mapping[str, Any], entry: PoolEntry) -> bytes:
    """Hash what training reads of a row; the same conversation has one hash in all layouts and column names."""
    values = {role: record.get(column) for role, column in entry.columns.items()}
    try:
        spoken: Any = [[turn.role, turn.content] for turn in read_turns(record, entry)]
    except ValueError:
        spoken = {role: value for role, value in values.items() if role in _SPOKEN}
    others = {role: value for role, value in values.items() if role not in _SPOKEN and value not in (None, "", [])}
    text = json.dumps([spoken, others], sort_keys=True, default=str)
    return hashlib.sha256(text.encode("ascii")).digest()
