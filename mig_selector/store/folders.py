"""Where things are kept that last between runs."""

from __future__ import annotations

import os
from pathlib import Path


def default_cache_dir() -> Path:
    """Return the absolute path of the cache where no key names another: ``$MIG_SELECTOR_CACHE``, else in the home.

    Raises:
        RuntimeError: It would be in a home folder, and this user has none.
    """
    return Path(os.environ.get("MIG_SELECTOR_CACHE") or "~/.cache/mig_selector").expanduser().absolute()
