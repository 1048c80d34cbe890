"""``list`` and ``prune``: what selections have left on disk."""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mig_selector.cli.options import add_dataset_dir
from mig_selector.console import print_line, printable


if TYPE_CHECKING:
    from mig_selector.pipeline.inventory import Inventory

_SECONDS = {"h": 3_600, "d": 86_400, "w": 7 * 86_400}


def add_commands(commands: Any) -> None:
    """Add the commands to the parser."""
    text = "list subsets, comparisons, studies and what is cached: how large, from when, and what for"
    listing = commands.add_parser("list", help=text, description=text, allow_abbrev=False)
    listing.set_defaults(run=_list)
    text = (
        "remove subsets, comparisons, studies and cached files by name or age, never what an entry of a "
        "dataset_info.json names or another process has locked"
    )
    pruning = commands.add_parser("prune", help=text, description=text, allow_abbrev=False)
    pruning.add_argument(
        "names", nargs="*", metavar="NAME", help="name or folder as `list` shows it, cache, or cache/<kind>"
    )
    pruning.add_argument(
        "--older-than", type=_age, metavar="AGE", help="only what was written longer ago: 12h, 30d, 8w"
    )
    pruning.add_argument("--registered", action="store_true", help="also what an entry of a dataset_info.json names")
    pruning.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    pruning.set_defaults(run=_prune)
    for parser in (listing, pruning):
        add_dataset_dir(parser)
        parser.add_argument(
            "--output-dir", type=Path, action="append", default=[], metavar="DIR", help="another mig_output_dir"
        )
        parser.add_argument("--cache-dir", metavar="DIR", help="mig_cache_dir, if not the default")


def _age(text: str) -> float:
    """Read an age, in seconds."""
    match = re.fullmatch(r"(\d+)([hdw])", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"expected a number of hours, days or weeks such as 30d, got {text!r}")
    return float(match[1]) * _SECONDS[match[2]]


def _take_inventory(options: argparse.Namespace) -> Inventory:
    from mig_selector.pipeline.inventory import take_inventory
    from mig_selector.store.folders import absolute_path, default_cache_dir

    given = options.cache_dir
    cache_dir = absolute_path(given, "--cache-dir") if given else default_cache_dir()
    return take_inventory(Path(options.dataset_dir), options.output_dir, cache_dir)


def _list(options: argparse.Namespace) -> int:
    from mig_selector.store.inventory import describe_size

    inventory = _take_inventory(options)
    for line in inventory.unreadable:
        print_line(f"mig-selector: warning: {printable(line)}")
    rows = [("SUBSET", "ROWS", "SIZE", "WRITTEN", "POOL", "METHOD", "NAMED BY", "FOLDER")]
    for folder in inventory.folders:
        names = dict.fromkeys(entry.name for entry in inventory.entries[folder.path])
        rows_of_pool = "-" if folder.rows is None else "{:,} of {:,}".format(*folder.rows)
        figures = rows_of_pool, describe_size(folder.num_bytes), _day(folder.written)
        named_by = ", ".join(names) or "-"
        rows.append((folder.name, *figures, folder.pool, folder.method, named_by, str(folder.path)))
    _print_table(rows)
    print()
    rows_of_cache = [("CACHE", "FILES", "SIZE", "OLDEST", "NEWEST", f"IN {inventory.cache_dir}")]
    for kind in inventory.cached:
        times = [file.written for file in kind.files]
        size = describe_size(kind.num_bytes)
        days = _day(min(times)), _day(max(times))
        rows_of_cache.append((f"cache/{kind.name}", f"{len(times):,}", size, *days, kind.meaning))
    _print_table(rows_of_cache)
    sizes = [folder.num_bytes for folder in inventory.folders] + [kind.num_bytes for kind in inventory.cached]
    print(f"\n{describe_size(sum(sizes))} in all")
    return 0


def _prune(options: argparse.Namespace) -> int:
    from mig_selector.pipeline.inventory import prune
    from mig_selector.store.inventory import describe_size

    if not options.names and options.older_than is None:
        print("mig-selector prune: give names or folders, or --older-than 30d, or both", file=sys.stderr)
        return 2
    steps = prune(
        _take_inventory(options),
        options.names,
        written_before=None if options.older_than is None else time.time() - options.older_than,
        registered=options.registered,
        dry_run=options.dry_run,
    )
    num_bytes, has_kept = 0, False
    for step in steps:
        print(printable(step.line))
        num_bytes, has_kept = num_bytes + step.num_bytes, has_kept or step.is_kept
    print(f"{describe_size(num_bytes)} {'would be freed' if options.dry_run else 'freed'}")
    return 1 if options.names and has_kept else 0


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows with aligned columns; names may hold any text."""
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
