"""SIGTERM and Ctrl-C as exceptions, so that what they interrupt cleans up behind itself."""

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


class StopSignals:
    """While the block runs SIGTERM raises `Stopped` in it; once the block has cleaned up, it ends the process as ever.

    Ctrl-C raises KeyboardInterrupt as ever. What a library swallows (an import that is interrupted may end with any
    error) takes effect at the end of the block. In another thread than the main one, and where the program handles or
    ignores a signal, nothing changes.
    """

    def __init__(self) -> None:
        """Change nothing yet."""
        self._before: dict[signal.Signals, Any] = {}
        self._is_held = self._came_late = self._was_interrupted = self._was_stopped = False

    def __enter__(self) -> Self:
        """Take the signals over."""
        if threading.current_thread() is threading.main_thread():
            if signal.getsignal(signal.SIGTERM) not in (None, signal.SIG_IGN):
                self._before[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._stop)
            if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                self._before[signal.SIGINT] = signal.signal(signal.SIGINT, self._interrupt)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Give them back; if SIGTERM came, let it do what it ever did."""
        is_stopped = kind is Stopped or self.is_swallowed(error)
        if is_stopped:
            logger.error(STOPPED)
        before, self._before = self._before, {}
        for number, handler in before.items():
            signal.signal(number, handler)
        if is_stopped or (kind is None and self._came_late):
            signal.raise_signal(signal.SIGTERM)
        if self._was_interrupted and (kind is None or issubclass(kind, Exception)):
            raise KeyboardInterrupt from error

    def _stop(self, number: int, frame: Any) -> None:
        if self._is_held:
            self._came_late = True
            return
        self._is_held = self._was_stopped = True
        raise Stopped

    def is_swallowed(self, error: BaseException | None) -> bool:
        """Whether SIGTERM came and a library made something else, `error` or nothing, of the exception it raised."""
        return self._was_stopped and (error is None or isinstance(error, Exception))

    def _interrupt(self, number: int, frame: Any) -> None:
        self._was_interrupted = True
        raise KeyboardInterrupt

    def hold(self) -> None:
        """Let no SIGTERM interrupt what is done from now on: cleaning up, telling others."""
        self._is_held = True

    def settle(self) -> None:
        """Hold, and let the error that leaves the block speak for a SIGTERM that came before."""
        self._is_held, self._was_stopped = True, False

    def stop_main_thread(self) -> None:
        """Raise `Stopped` in the main thread, if that is where the block runs; for other threads."""
        if signal.SIGTERM in self._before:
            _thread.interrupt_main(signal.SIGTERM)
