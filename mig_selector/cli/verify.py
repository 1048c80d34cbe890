"""``verify``: is a selection what its manifest says, and would the same rows be chosen today?"""

from __future__ import annotations

import argparse
from typing import Any

from mig_selector.cli.options import add_selection, joined_ranks
from mig_selector.console import printable


def add_commands(commands: Any) -> None:
    """Add the command to the parser."""
    text = "select again from the manifest of a selection, and say identical, or what changed; exit code 1 if so"
    parser = commands.add_parser("verify", help=text, description=text, allow_abbrev=False)
    add_selection(parser)
    parser.add_argument(
        "--use-cache", action="store_true", help="trust cached vectors and scores, so that no model runs again"
    )
    parser.set_defaults(run=_verify)


def _verify(options: argparse.Namespace) -> int:
    from mig_selector.pipeline.stored import find_selection
    from mig_selector.pipeline.verify import verify_selection

    with joined_ranks() as ranks:
        selection = find_selection(options.selection, options.dataset_dir)
        found = verify_selection(selection, ranks, use_cache=options.use_cache)
    if ranks.is_main:
        print("identical" if found.is_identical else "changed")
        for line in found.changes:
            print(f"- {printable(line)}")
        for line in found.versions:
            print(f"({printable(line)})")
    return 0 if found.is_identical else 1
