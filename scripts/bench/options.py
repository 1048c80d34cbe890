"""Command-line options that the scripts share."""

from __future__ import annotations

import argparse
from pathlib import Path


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """Make the parser of a script: its docstring as the help text, and the options ``--seed`` and ``--json``."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="seed of everything that is drawn")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    return parser


def parse_sizes(text: str) -> list[int]:
    """Read ``200000,939_000`` as row counts in ascending order."""
    return sorted({int(size) for size in text.split(",")})
