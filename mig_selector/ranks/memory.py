"""How much memory this process held at most while something ran."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


_RESET_PEAK = "5"
"""Written to clear_refs it makes the kernel forget the peak so far; see proc(5)."""


@dataclass
class Peak:
    """The most memory that the process held."""

    num_bytes: int | None = None
    """Once the block has ended; None where the system does not tell. Mapped files count as far as they were read."""


@contextlib.contextmanager
def measured_peak() -> Iterator[Peak]:
    """Measure while the block runs."""
    peak = Peak()
    is_measured = _write(Path("/proc/self/clear_refs"), _RESET_PEAK)
    yield peak
    if is_measured and (found := re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())):
        peak.num_bytes = int(found[1]) * 1024


def _write(path: Path, text: str) -> bool:
    try:
        path.write_text(text)
    except OSError:
        return False
    return True
