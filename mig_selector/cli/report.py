"""``report``: the report of a finished selection, written again with more time than a run has for it."""

from __future__ import annotations

import argparse
from typing import Any

from mig_selector.cli.options import add_selection, joined_ranks


def add_commands(commands: Any) -> None:
    """Add the command to the parser."""
    text = (
        "write the report of a selection again, measuring more rows than the run did, and its charts as PNG and SVG; "
        "the last line of stdout is the page"
    )
    parser = commands.add_parser("report", help=text, description=text, allow_abbrev=False)
    add_selection(parser)
    parser.set_defaults(run=_report)


def _report(options: argparse.Namespace) -> int:
    from mig_selector.pipeline.report_again import report_again
    from mig_selector.pipeline.stored import find_selection
    from mig_selector.report.writing import PAGE

    with joined_ranks() as ranks:
        selection = find_selection(options.selection, options.dataset_dir)
        files = report_again(selection, ranks)
    if ranks.is_main:
        for file in sorted(files, key=lambda file: file.name == PAGE):
            print(file)
    return 0
