"""A dataset_info.json entry after the host's defaults were filled in: all that reading and writing need to know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class LocalSource:
    """A file or a folder of files."""

    file_name: str
    """As the entry names it."""
    path: Path
    """Absolute."""


@dataclass(frozen=True)
class HubSource:
    """A dataset on a hub, read as the host reads it."""

    hub: Literal["hf", "ms"]
    repository: str
    subset: str | None
    folder: str | None
    cache_dir: str | None = None
    """The host's `cache_dir`."""
    token: str | None = field(default=None, repr=False)
    """The host's `hf_hub_token` or `ms_hub_token`."""


@dataclass(frozen=True)
class PoolEntry:
    """One name of `dataset`."""

    name: str
    formatting: str
    """alpaca, sharegpt or openai."""
    columns: Mapping[str, str]
    """The host's role (prompt, messages, system, images, ...) to the pool's column; only roles that have one."""
    tags: Mapping[str, str | None]
    """Role and content tags of a message."""
    ranking: bool
    source: LocalSource | HubSource
    split: str
    """As `datasets` understands it: train, train[:50%], ..."""

    @property
    def identity(self) -> dict[str, object]:
        """What decides how the host reads a row, as plain facts."""
        return {
            "formatting": self.formatting,
            "columns": dict(self.columns),
            "tags": dict(self.tags),
            "ranking": self.ranking,
        }
