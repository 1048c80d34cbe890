"""``explain``: why a selection has a row, or what the row would have needed."""

from __future__ import annotations

import argparse
import contextlib
import sys
from typing import Any

from mig_selector.cli.options import add_selection
from mig_selector.console import printable


def add_commands(commands: Any) -> None:
    """Add the command to the parser."""
    text = (
        "say why a row was chosen (rank, gain, labels that earned it, nearest row that lost to it), or what it would "
        "have needed"
    )
    parser = commands.add_parser("explain", help=text, description=text, allow_abbrev=False)
    add_selection(parser)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--row", type=int, metavar="N", help="0-based row of the pool: row_index in selection.parquet")
    which.add_argument("--id", metavar="ID", help="_id or id of the row")
    parser.set_defaults(run=_explain)


def _explain(options: argparse.Namespace) -> int:
    from mig_selector.console import show_log
    from mig_selector.pipeline.explain import explain_row
    from mig_selector.pipeline.stored import find_selection

    show_log(is_main=False)
    with contextlib.redirect_stdout(sys.stderr):
        selection = find_selection(options.selection, options.dataset_dir)
        lines = explain_row(selection, row=options.row, row_id=options.id)
    for line in lines:
        print(printable(line))
    return 0
