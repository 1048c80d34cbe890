"""Peak memory of this process while a block of code runs."""

from __future__ import annotations

import contextlib
import ctypes
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
    start_bytes: int | None = None
    """The resident memory when the block began; None where the system cannot measure it."""

    @property
    def added_bytes(self) -> int | None:
        """The peak above what the process held when the block began: comparable between blocks."""
        if self.num_bytes is None or self.start_bytes is None:
            return None
        return max(self.num_bytes - self.start_bytes, 0)


@contextlib.contextmanager
def measured_peak() -> Iterator[Peak]:
    """Measure the peak memory of the process while the block runs.

    Yields:
        The peak, filled in when the block ends without an exception.
    """
    peak = Peak()
    _release_free_memory()
    is_reset = _write_if_possible(Path("/proc/self/clear_refs"), _RESET_PEAK)
    if is_reset:
        peak.start_bytes = _read_status("VmRSS")
    yield peak
    # Without the reset, VmHWM would be the peak since the start of the process: report nothing instead.
    if is_reset:
        peak.num_bytes = _read_status("VmHWM")


def _release_free_memory() -> None:
    """Return memory that the process has freed to the system, where its C library can.

    A block that is given such memory again would seem to add nothing.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _read_status(name: str) -> int | None:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 if found else None


def _write_if_possible(path: Path, text: str) -> bool:
    """Write to a file that may be missing or read-only, as in some containers; return whether it worked."""
    try:
        path.write_text(text)
    except OSError:
        return False
    return True
