"""``doctor``: one screen on what is installed, and whether a configuration is sound."""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path
from typing import Any

from mig_selector.console import printable


def add_commands(commands: Any) -> None:
    """Add the command to the parser."""
    text = (
        "check versions, the hook, GPUs, the cache and, if a YAML is given, all of it that can be checked without "
        "work; exit code 1 if something is wrong"
    )
    parser = commands.add_parser("doctor", help=text, description=text, allow_abbrev=False)
    parser.add_argument("config", nargs="?", type=Path, metavar="FILE", help="a YAML or JSON configuration")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="overrides of its keys")
    parser.set_defaults(run=_doctor)


def _doctor(options: argparse.Namespace) -> int:
    from mig_selector.pipeline.checkup import (
        check_cache,
        check_config,
        check_gpus,
        check_hook,
        check_installation,
    )

    topics = {"installed": check_installation, "hook": check_hook, "GPUs": check_gpus, "cache": check_cache}
    if options.config is not None:
        topics[str(options.config)] = lambda: check_config(options.config, options.overrides)
    levels = set()
    for topic, check in topics.items():
        print(printable(topic))
        with contextlib.redirect_stdout(sys.stderr):  # what is imported on the way may print
            findings = list(check())
        for finding in findings:
            mark = "FAULT" if finding.level == "fault" else finding.level
            text = printable(finding.text, keep="\n").replace("\n", f"\n{' ' * 9}")
            print(f"  {mark:5}  {text}")
            levels.add(finding.level)
    return 1 if "fault" in levels else 0
