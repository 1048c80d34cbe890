"""A dataset_info.json entry with the host's defaults filled in: all that reading and writing a pool need of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Layout:
    """How the host reads the rows of an entry: all of the entry but its name and where the rows are."""

    formatting: str
    """alpaca, sharegpt or openai."""
    columns: Mapping[str, str]
    """The host's role (prompt, messages, system, images, ...) to the pool's column, for roles that have one."""
    tags: Mapping[str, str | None]
    """Role and content tags of a message."""
    ranking: bool

    @property
    def identity(self) -> dict[str, object]:
        """What decides how the host reads a row, for fingerprints: the arguments of an equal layout."""
        return {
            "formatting": self.formatting,
            "columns": dict(self.columns),
            "tags": dict(self.tags),
            "ranking": self.ranking,
        }


@dataclass(frozen=True)
class LocalSource:
    """A file or a folder of files."""

    file_name: str
    """The entry's `file_name`."""
    path: Path
    """Absolute path."""


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
    """The entry of one name in `dataset`."""

    name: str
    formatting: str
    """alpaca, sharegpt or openai."""
    columns: Mapping[str, str]
    """The host's role (prompt, messages, system, images, ...) to the pool's column, for roles that have one."""
    tags: Mapping[str, str | None]
    """Role and content tags of a message."""
    ranking: bool
    source: LocalSource | HubSource
    split: str
    """As `datasets` understands it: train, train[:50%], ..."""

    @property
    def layout(self) -> Layout:
        """How the host reads the rows."""
        return Layout(self.formatting, self.columns, self.tags, self.ranking)

    @property
    def identity(self) -> dict[str, object]:
        """What decides how the host reads a row, for fingerprints; not the name, nor where the rows are."""
        return self.layout.identity
