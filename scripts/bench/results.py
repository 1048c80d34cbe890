"""What the scripts report: the machine, tables of figures, targets, and a JSON file."""

from __future__ import annotations

import contextlib
import json
import os
import platform
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.command import ROOT


@dataclass(frozen=True)
class Target:
    """A figure and its upper limit."""

    name: str
    limit: float
    found: float

    @property
    def is_met(self) -> bool:
        """Whether the figure is within the limit."""
        return self.found <= self.limit

    def report(self) -> dict[str, Any]:
        """Return the target for the JSON file."""
        return {**vars(self), "is_met": self.is_met}


def print_targets(targets: Iterable[Target], extrapolated: Collection[str] = ()) -> None:
    """Print a table of targets; `extrapolated` names those whose figure was not measured."""
    print(f"\n{'target':32} {'limit':>9} {'found':>9}")
    for target in targets:
        verdict = "met" if target.is_met else "missed"
        source = " (extrapolated)" if target.name in extrapolated else ""
        print(f"{target.name:32} {target.limit:9,.1f} {target.found:9,.2f}  {verdict}{source}", flush=True)


def print_figures(figures: Mapping[str, Any], indent: str = "") -> None:
    """Print one figure a line, its name before it."""
    width = max(map(len, figures))
    for name, value in figures.items():
        print(f"{indent}{name:{width}} {f'{value:,.4g}' if isinstance(value, float) else value}", flush=True)


def write_result(path: Path | None, result: dict[str, Any]) -> None:
    """Write a result as JSON if a path is given."""
    if path is not None:
        path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def describe_machine() -> dict[str, Any]:
    """Return the processor, the number of usable cores, the memory and the versions."""
    return {
        "processor": _first_value(Path("/proc/cpuinfo"), "model name") or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "python": platform.python_version(),
        "checkout": _commit(),
    }


def _first_value(path: Path, name: str) -> str | None:
    with contextlib.suppress(OSError):
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith(name):
                return line.partition(":")[2].strip()
    return None


def _commit() -> str | None:
    """Return the commit of the checkout, read without git; None if that needs more than two files."""
    with contextlib.suppress(OSError):
        head = (ROOT / ".git" / "HEAD").read_text(encoding="utf-8").strip()
        reference = head.removeprefix("ref: ")
        return head if reference == head else (ROOT / ".git" / reference).read_text(encoding="utf-8").strip()
    return None
