"""Folders to work in, and the disk space that they need."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def benchmark_folder(given: Path | None) -> Iterator[Path]:
    """Yield the folder that was given, created if necessary, or a temporary one that is removed afterwards."""
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given.absolute()
        return
    with tempfile.TemporaryDirectory(prefix="mig-selector-bench-") as folder:
        yield Path(folder)


@contextlib.contextmanager
def scratch_folder(folder: Path) -> Iterator[Path]:
    """Yield a new folder below `folder` for files that no later run needs; it is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="work-", dir=folder) as scratch:
        yield Path(scratch)


def require_disk(folder: Path, needed: int) -> None:
    """Print how many bytes are needed and free; exit if there are too few."""
    free = shutil.disk_usage(folder).free
    print(f"disk: about {needed / 1e9:.1f} GB needed in {folder}, {free / 1e9:.1f} GB free", flush=True)
    if free < needed:
        raise SystemExit(
            f"not enough disk space in {folder}: {needed / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free; "
            "name a folder on another disk with --folder"
        )
