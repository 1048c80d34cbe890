"""SIGTERM as an exception, so that what it interrupts cleans up behind itself."""

from __future__ import annotations

import _thread
import logging
import signal
import threading
from types import TracebackType
from typing import Any, Self


logger = logging.getLogger(__name__)

STOPPED = "stopped (SIGTERM)"


class Stopped(BaseException):
    """SIGTERM came; like KeyboardInterrupt, nothing but clean-up should hold it up."""


class Sigterm:
    """While the block runs SIGTERM raises `Stopped` in it; once the block has cleaned up, it ends the process as ever.

    In another thread than the main one, and where SIGTERM is ignored, nothing changes.
    """

    def __init__(self) -> None:
        """Change nothing yet."""
        self._before: Any = None
        self._is_on = self._is_held = self._came_late = False

    def __enter__(self) -> Self:
        """Take SIGTERM over."""
        self._before = signal.getsignal(signal.SIGTERM)
        is_ours = self._before not in (None, signal.SIG_IGN)
        if is_ours and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._stop)
            self._is_on = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Give it back; if it came, let it do what it ever did."""
        if not self._is_on:
            return
        self._is_on = False
        if kind is Stopped:
            logger.error(STOPPED)
        signal.signal(signal.SIGTERM, self._before)
        if kind is Stopped or (kind is None and self._came_late):
            signal.raise_signal(signal.SIGTERM)

    def _stop(self, number: int, frame: Any) -> None:
        if self._is_held:
            self._came_late = True
            return
        self._is_held = True
        raise Stopped

    def hold(self) -> None:
        """Let no SIGTERM interrupt what is done from now on: cleaning up, telling others."""
        self._is_held = True

    def interrupt(self) -> None:
        """Raise `Stopped` in the main thread, if that is where the block runs; for other threads."""
        if self._is_on:
            _thread.interrupt_main(signal.SIGTERM)
