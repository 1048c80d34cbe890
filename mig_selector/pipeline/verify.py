"""Is a selection what its manifest says, and does the same configuration choose the same rows today?"""

from __future__ import annotations

import math
import operator
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pyarrow as pa

from mig_selector.errors import MigSelectorError
from mig_selector.pipeline.crew import Crew
from mig_selector.pipeline.recipe import offer
from mig_selector.pipeline.request import Request
from mig_selector.pipeline.stages import Clock, choose, embed
from mig_selector.pipeline.stored import StoredSelection, describe_differences
from mig_selector.pipeline.write import describe_choice, write_files
from mig_selector.ranks.world import Ranks
from mig_selector.store.hashing import ContentHashes
from mig_selector.store.subsets import SELECTION_TABLE


_TOLERANCE = 1e-9
"""Relative difference of numbers that count as equal."""


@dataclass(frozen=True)
class Verification:
    """What became of a selection."""

    changes: list[str]
    """What is not as it was, for people; empty where the selection is identical."""
    versions: list[str]
    """Packages that are not the ones it was made with, for people; no change by themselves."""

    @property
    def is_identical(self) -> bool:
        """Whether the files are untouched, and the same rows are chosen again."""
        return not self.changes


def verify_selection(
    selection: StoredSelection, ranks: Ranks | None = None, *, use_cache: bool = False
) -> Verification:
    """Check the files of a selection and of its pool, select again into a temporary folder, and compare.

    Nothing is registered, and nothing but the cache is written to.

    Args:
        selection: The selection.
        ranks: This process among those of the run; alone if None. Every rank must call this.
        use_cache: Take the pool index, vectors and scores from the cache of the selection. Otherwise all of it is
            computed again.

    Raises:
        ArgumentError: The manifest does not say how to select again.
        MigSelectorError: A model failed, on any rank.
    """
    with tempfile.TemporaryDirectory(prefix="mig-selector-verify-") as folder:
        arguments, host = selection.arguments(None if use_cache else Path(folder) / "cache")
        crew = Crew(ranks or Ranks(), arguments)

        def verify() -> dict[str, Any]:
            hashes = ContentHashes(arguments.cache_dir)  # resolving the request hashes the pool, too
            changes = [*_changed_files(selection, hashes), *_changed_pool(selection.manifest, hashes)]
            try:
                request = selection.request(arguments, host)
                changes += describe_differences(selection.manifest["identity"], request.identities[0])
                changes += _changed_rows(selection, request, crew, Path(folder))
            except MigSelectorError as error:
                changes.append(f"it cannot be selected again: {error}")
            return asdict(Verification(changes, list(_changed_versions(selection.manifest))))

        return Verification(**crew.run(verify))


def _changed_files(selection: StoredSelection, hashes: ContentHashes) -> Iterator[str]:
    for name, digest in selection.manifest["files"].items():
        if (change := _change(selection.folder / name, digest, hashes)) is not None:
            yield f"{name}: {change} since the selection was written"


def _changed_pool(manifest: Mapping[str, Any], hashes: ContentHashes) -> Iterator[str]:
    for each in manifest.get("pool", []):
        if (change := _change(Path(each["file"]), each["sha256"], hashes)) is not None:
            yield f"pool file {each['file']} of {each['dataset']}: {change}"


def _change(file: Path, digest: str, hashes: ContentHashes) -> str | None:
    try:
        return None if hashes.file(file) == digest else "changed"
    except FileNotFoundError:
        return "missing"
    except OSError as error:
        return f"unreadable ({error.strerror or error})"


def _changed_versions(manifest: Mapping[str, Any]) -> Iterator[str]:
    for package, then in manifest["versions"].items():
        try:
            now = version(package)
        except PackageNotFoundError:
            now = "not installed"
        if now != then:
            yield f"{package} {then} then, {now} now"


def _changed_rows(selection: StoredSelection, request: Request, crew: Crew, folder: Path) -> list[str]:
    """Select again, and say what of the rows and files differs."""
    clock = Clock()
    offered = offer(request, crew, clock)
    [chosen] = choose(request, offered, embed(offered.pool, request, crew), clock)
    written = write_files(request, offered, chosen, folder)
    changes = _changed_columns(selection.table, StoredSelection(folder, {}).table)
    for name, now in describe_choice(offered, chosen).items():
        then = selection.manifest.get(name, now)  # earlier versions lack some
        if not _are_close(then, now):
            changes.append(f"selected again, {name} is {now}, but {then} in manifest.json")
    for name, digest in selection.manifest["files"].items():
        # The table has been compared by its values: another version of pyarrow may write them as other bytes.
        if name != SELECTION_TABLE and written["files"].get(name) != digest:
            changes.append(
                f"selected again, {name} has other content"
                if name in written["files"]
                else f"{name} is not written again"
            )
    return changes


def _changed_columns(then: pa.Table, now: pa.Table) -> list[str]:
    """Say from which rank on the rows differ; where they do not, which columns do."""
    if (rank := _first_difference(then, now, "row_index")) is not None:
        return [f"selected again, the rows differ from rank {rank} on: {_at(then, rank)} then, {_at(now, rank)} now"]
    found = []
    for column in then.column_names:
        rank = _first_difference(then, now, column) if column in now.column_names else 0
        if rank is not None:
            found.append(f"selected again, {column} of the same rows differs from rank {rank} on")
    return found


def _first_difference(then: pa.Table, now: pa.Table, column: str) -> int | None:
    """Return the first rank at which two tables have another value; None if they are equal.

    An encoder's vectors depend in their last digits on the number of threads, and so do gains.
    """
    if then[column].equals(now[column]):
        return None
    is_float = pa.types.is_floating(then[column].type)
    pairs = zip(then[column].to_pylist(), now[column].to_pylist(), strict=False)
    are_equal = _are_close if is_float else operator.eq
    rank = next((rank for rank, pair in enumerate(pairs) if not are_equal(*pair)), min(len(then), len(now)))
    return None if rank == len(then) == len(now) else rank


def _are_close(one: float | None, other: float | None) -> bool:
    return one == other or (one is not None and other is not None and math.isclose(one, other, rel_tol=_TOLERANCE))


def _at(table: pa.Table, rank: int) -> str:
    return f"row {table['row_index'][rank]}" if rank < len(table) else "none"
