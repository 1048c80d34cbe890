"""Run programs that a model wrote: each in a process with limits, without network where the system allows that."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path


SECONDS = 3
"""Of processor time, as in the published evaluation; twice as many pass before the process is killed."""
_MEMORY_BYTES = 1 << 30
_JAIL = Path(__file__).with_name("jail.py")


@dataclass(frozen=True)
class Outcome:
    """What became of a program."""

    has_passed: bool
    reason: str
    """``passed``, ``timed out``, ``died (...)``, or the exception that ended it."""
    is_offline: bool = False
    """Whether it had no network."""
    is_confined: bool = False
    """Whether it could write to its own folder only, and start no program."""


def run_program(program: str, seconds: int = SECONDS) -> Outcome:
    """Run a program in a folder of its own, which is removed afterwards."""
    environment = {
        "PATH": os.defpath,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "OMP_NUM_THREADS": "1",  # threads count as processes, and there may be none
        "OPENBLAS_NUM_THREADS": "1",
        "MIG_SELECTOR_DISABLE": "1",
    }
    with tempfile.TemporaryDirectory(prefix="mig-selector-answer-") as folder:
        process = subprocess.Popen(
            [sys.executable, "-P", "-B", str(_JAIL), str(seconds), str(_MEMORY_BYTES)],
            cwd=folder,
            env={**environment, "HOME": folder, "TMPDIR": folder},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            text=True,
            errors="replace",
        )
        try:
            said, _ = process.communicate(program, timeout=2 * seconds + 5)
        except subprocess.TimeoutExpired:
            return Outcome(has_passed=False, reason="timed out")
        finally:
            # The whole session, should something have been started after all.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if process.returncode in (-signal.SIGXCPU, -signal.SIGKILL) and not said:
        return Outcome(has_passed=False, reason="timed out")
    if not said:
        return Outcome(has_passed=False, reason=f"died (exit code {process.returncode})")
    rights, _, reason = said.partition(" ")
    return Outcome(reason == "passed", reason, rights[0] == "1", rights[1] == "1")


def run_programs(programs: Sequence[str]) -> list[Outcome]:
    """Run programs, as many at a time as this process may use cores: with more, right ones would run out of time."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return list(pool.map(run_program, programs))
