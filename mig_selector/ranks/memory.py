"""Peak memory of this process while a block of code runs."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


_RESET_PEAK = "5"
"""Written to /proc/self/clear_refs, this resets VmHWM, the peak resident size; see proc(5)."""


@dataclass
class Peak:
    """The peak resident memory of the process during a block."""

    num_bytes: int | None = None
    """Set when the block ends; None where the system cannot measure it. Includes resident pages of mapped files."""


@contextlib.contextmanager
def measured_peak() -> Iterator[Peak]:
    """Measure the peak memory of the process while the block runs.

    Yields:
        The peak, filled in when the block ends without an exception.
    """
    peak = Peak()
    is_reset = _write_if_possible(Path("/proc/self/clear_refs"), _RESET_PEAK)
    yield peak
    # Without the reset, VmHWM would be the peak since the start of the process: report nothing instead.
    if is_reset and (found := re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())):
        peak.num_bytes = int(found[1]) * 1024


def _write_if_possible(path: Path, text: str) -> bool:
    """Write to a file that may be missing or read-only, as in some containers; return whether it worked."""
    try:
        path.write_text(text)
    except OSError:
        return False
    return True
