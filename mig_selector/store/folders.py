"""Where things are kept that last between runs, and whose files there are believed."""

from __future__ import annotations

import functools
import logging
import os
import stat
from pathlib import Path

from mig_selector.errors import ArgumentError


logger = logging.getLogger(__name__)

_SHARED = "MIG_SELECTOR_SHARED_CACHE"


def default_cache_dir() -> Path:
    """Return the absolute path of the cache where no key names another: ``$MIG_SELECTOR_CACHE``, else in the home.

    Raises:
        ArgumentError: It would be in a home folder, and this user has none.
    """
    return absolute_path(os.environ.get("MIG_SELECTOR_CACHE") or "~/.cache/mig_selector", "mig_cache_dir")


def absolute_path(path: str, key: str) -> Path:
    """Return the absolute path of what a key names; ``~`` is a home folder.

    Raises:
        ArgumentError: There is no such home folder.
    """
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError as error:
        raise ArgumentError(
            f"{key}: {path} would be in a home folder, but there is none; set {key} to a folder."
        ) from error


def is_believed(path: Path, *, is_array: bool = False) -> bool:
    """Whether what a file in the cache or the output folder says may be used; a file that does not exist says nothing.

    It must belong to this user or root, and nobody else may write to it: otherwise another user could have chosen what
    it says. The log names a folder with such files once.

    Args:
        path: The file.
        is_array: Whether the file holds nothing but arrays with checksums (labels, scores, vectors, losses): those are
            believed as well where ``MIG_SELECTOR_SHARED_CACHE=1`` says that users share the cache on purpose.
    """
    try:
        found = path.stat()
    except OSError:
        return True
    if is_private(found) or (is_array and os.environ.get(_SHARED) == "1"):
        return True
    _say_not_believed(path.parent, path.name)
    return False


def is_private(found: os.stat_result) -> bool:
    """Whether a file or folder belongs to this user or root, and no other user may write to it."""
    if found.st_uid not in (os.geteuid(), 0) or found.st_mode & stat.S_IWOTH:
        return False
    return not found.st_mode & stat.S_IWGRP or _is_own_group(found.st_gid)


def has_private_path(folder: Path) -> bool:
    """Whether no other user can write to a folder, or put another one in its place."""
    real = Path(os.path.realpath(folder))
    if not is_private(real.stat()):
        return False
    # In a sticky folder, such as /tmp, others may add names but not replace those of this user.
    return all(is_private(found) or found.st_mode & stat.S_ISVTX for found in map(os.stat, real.parents))


@functools.cache
def _is_own_group(group: int) -> bool:
    """Whether a group is this user alone: many systems give each user one, and let it write by default."""
    import grp
    import pwd

    try:
        user, found = pwd.getpwuid(os.geteuid()), grp.getgrgid(group)
    except KeyError:
        return False
    return found.gr_name == user.pw_name and set(found.gr_mem) <= {user.pw_name}


_not_believed: set[Path] = set()
"""Folders that the log has named."""


def _say_not_believed(folder: Path, name: str) -> None:
    if folder not in _not_believed:
        _not_believed.add(folder)
        logger.warning(
            "%s is not used, nor are other files beside it, where they belong to another user or others may write to "
            "them; what they hold is made again (see Caching in mig_selector/README.md)",
            folder / name,
        )
