"""The reports of what a run has just selected: written last, so that nothing waits for them.

Where training follows, a thread writes the report while training starts. The thread gets values that nobody changes
any more, and talks to no other rank.
"""

from __future__ import annotations

import logging
import os
import shlex
import threading
from collections.abc import Sequence
from pathlib import Path

from mig_selector.pipeline.report import IN_RUN, Selected, build_report
from mig_selector.report.writing import PAGE, write_report


logger = logging.getLogger(__name__)

_LONGEST_WAIT = 60.0
"""Seconds that a fork waits for the report. It takes about one; if it hangs, training must not."""


def report_selections(made: Sequence[Selected], *, in_background: bool) -> None:
    """Write the reports of selections, or begin to; what goes wrong is logged and ends nothing.

    Args:
        made: The selections.
        in_background: Whether to return at once. The process does not end before the reports are written, and does
            not fork meanwhile: a child would inherit the locks that the thread holds, and wait for them forever.
            LLaMA-Factory forks to tokenize and to load data.
    """
    if not in_background:
        _write_reports(made)
    elif made:
        thread = threading.Thread(target=_write_reports, args=[made], name="mig_selector report", daemon=False)
        os.register_at_fork(before=lambda: _wait_for(thread))
        thread.start()


def describe_report(folder: Path) -> str:
    """Say where the report of a finished selection is, or how to make it."""
    page = folder / PAGE
    return f"report: {page}" if page.is_file() else f"report: none so far; to make it, run {_command(folder)}"


def _wait_for(thread: threading.Thread) -> None:
    if thread is not threading.current_thread():
        thread.join(_LONGEST_WAIT)


def _write_reports(made: Sequence[Selected]) -> None:
    for selected in made:
        folder = selected.folder
        try:
            write_report(folder, build_report(selected, IN_RUN))
        except Exception as error:  # noqa: BLE001  the rows are selected: whatever it is, it must not end a training
            reason = f"{type(error).__name__}: {error}"
            logger.warning("no report of %s was written (%s); to make it, run %s", folder, reason, _command(folder))


def _command(folder: Path) -> str:
    """Return the command that writes a report, from any working directory."""
    return shlex.join(["mig-selector", "report", str(folder)])
