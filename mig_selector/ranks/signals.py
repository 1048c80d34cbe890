"""SIGTERM and Ctrl-C as exceptions, so that the code they interrupt can clean up."""

from __future__ import annotations

import _thread
import logging
import signal
import threading
from types import TracebackType
from typing import Any, Self


logger = logging.getLogger(__name__)

STOPPED = "stopped (SIGTERM)"
"""Logged, and sent to the other ranks, when SIGTERM ends a run."""


class Stopped(BaseException):
    """SIGTERM was received. A BaseException, like KeyboardInterrupt, so that no ``except Exception`` swallows it."""


class StopSignals:
    """Raise `Stopped` on SIGTERM while the block runs; then pass the signal on to the previous handler.

    The block can clean up first; with the default handler SIGTERM still ends the process.

    Ctrl-C raises KeyboardInterrupt, as usual. A library may swallow either exception (an interrupted import can end
    with any error, or none); the signal then takes effect at the end of the block.

    Nothing changes outside the main thread, where Python cannot install handlers, nor for a signal that the program
    ignores. SIGINT is also left alone if the program has its own handler for it.
    """

    def __init__(self) -> None:
        """Install no handler yet; `__enter__` does."""
        self._previous_handlers: dict[signal.Signals, Any] = {}
        self._is_held = self._came_while_held = self._was_interrupted = self._was_stopped = False

    def __enter__(self) -> Self:
        """Install the handlers."""
        if threading.current_thread() is threading.main_thread():
            if signal.getsignal(signal.SIGTERM) not in (None, signal.SIG_IGN):
                self._previous_handlers[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._on_sigterm)
            if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                self._previous_handlers[signal.SIGINT] = signal.signal(signal.SIGINT, self._on_sigint)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Restore the previous handlers, then deliver what was received meanwhile.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed and the block swallowed it.
        """
        is_stopped = kind is Stopped or self.is_swallowed(error)
        if is_stopped:
            logger.error(STOPPED)
        previous, self._previous_handlers = self._previous_handlers, {}
        for number, handler in previous.items():
            signal.signal(number, handler)
        # Sent again rather than exiting here: the exit status must show the signal, and a program that had its own
        # handler must get to run it.
        # A program without a handler of its own ends by the error that leaves the block, and with its message.
        ends_by_error = kind is not None and previous.get(signal.SIGTERM) is signal.SIG_DFL
        if is_stopped or (self._came_while_held and not ends_by_error):
            signal.raise_signal(signal.SIGTERM)
        if self._was_interrupted and (kind is None or issubclass(kind, Exception)):
            raise KeyboardInterrupt from error

    def _on_sigterm(self, number: int, frame: Any) -> None:
        if self._is_held or self._is_in_exit(frame):
            self._came_while_held = True
            return
        # Raise only once: a second SIGTERM must not interrupt the clean-up that the first one started.
        self._is_held = self._was_stopped = True
        raise Stopped

    def is_swallowed(self, error: BaseException | None) -> bool:
        """Whether SIGTERM came and a library turned `Stopped` into another exception, `error`, or into none."""
        return self._was_stopped and (error is None or isinstance(error, Exception))

    def _on_sigint(self, number: int, frame: Any) -> None:
        self._was_interrupted = True
        if not self._is_in_exit(frame):
            raise KeyboardInterrupt

    def _is_in_exit(self, frame: Any) -> bool:
        """Whether a signal interrupts `__exit__`: an exception there would leave these handlers installed.

        The stack is searched because a flag comes too late: a signal can be handled before the first line.
        """
        while frame is not None:
            if frame.f_code is StopSignals.__exit__.__code__ and frame.f_locals["self"] is self:
                return True
            frame = frame.f_back
        return False

    def hold(self) -> None:
        """Let no SIGTERM interrupt what follows (cleaning up, telling other ranks); it is delivered on exit."""
        self._is_held = True

    def settle(self) -> None:
        """Hold further signals, and forget an earlier SIGTERM: the exception that leaves the block accounts for it."""
        self._is_held, self._was_stopped = True, False

    def stop_main_thread(self) -> None:
        """Raise `Stopped` in the main thread, if that thread entered the block; to be called from other threads."""
        if signal.SIGTERM in self._previous_handlers:
            _thread.interrupt_main(signal.SIGTERM)
