"""``select``, ``train``, ``compare`` and ``annotate``: the commands that take a configuration."""

from __future__ import annotations

import argparse
import contextlib
import sys
from typing import Any

from mig_selector.cli.options import add_configuration, joined_ranks, print_result, read_settings


def add_commands(commands: Any) -> None:
    """Add the commands to the parser."""
    select = add_configuration(
        commands,
        "select",
        _select,
        "select a subset and register it in dataset_info.json; the last line of stdout is its folder",
        " [--dry-run]",
    )
    _add_dry_run(select)
    train = add_configuration(
        commands, "train", _train, "the same as `llamafactory-cli train`: select, then train", " [--dry-run]"
    )
    _add_dry_run(train)
    compare = add_configuration(
        commands,
        "compare",
        _compare,
        "select with several methods and write what they chose side by side: tables, a picture and a page; the last "
        "line of stdout is the folder, a dataset_dir with the subsets",
        " --methods NAME,NAME,... [--register] [--dry-run]",
    )
    compare.add_argument(
        "--methods", required=True, metavar="NAME,NAME,...", help="methods to compare, as mig_method takes them"
    )
    compare.add_argument("--register", action="store_true", help="name the subsets in your own dataset_info.json too")
    _add_dry_run(compare)

    annotate = add_configuration(
        commands,
        "annotate",
        _annotate,
        "give rows labels and scores without selecting; the last line of stdout is the sidecar that keeps them",
        " [--to FILE] [--dry-run]",
    )
    annotate.add_argument("--to", metavar="FILE", help="write the annotated rows as JSON Lines, too")
    _add_dry_run(annotate)


def _add_dry_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dry-run", action="store_true", help="say what it would take, from a few rows, and write nothing"
    )


def _select(options: argparse.Namespace) -> int:
    from mig_selector.pipeline.recipe import run_selection

    if options.dry_run:
        return _estimate(read_settings(options.settings), selects=True)
    with joined_ranks() as ranks:
        outcomes = run_selection(read_settings(options.settings), ranks)
    if ranks.is_local_main:
        print_result(*(outcome.folder for outcome in outcomes))
    return 0


def _estimate(settings: dict[str, Any], *, selects: bool, to: str | None = None) -> int:
    from mig_selector.console import show_log
    from mig_selector.pipeline.dry_run import estimate

    show_log(is_main=True)
    with contextlib.redirect_stdout(sys.stderr):
        lines = estimate(settings, selects=selects, to=to)
    print(*lines, sep="\n")
    return 0


def _compare(options: argparse.Namespace) -> int:
    from mig_selector.pipeline.comparison import compare_methods

    names = [name.strip() for name in options.methods.split(",")]
    if options.dry_run:
        settings = read_settings(options.settings)
        for name in names:
            print(f"== {name}")
            _estimate({**settings, "mig_method": name}, selects=True)
        return 0
    with joined_ranks() as ranks:
        compared = compare_methods(read_settings(options.settings), names, ranks, register=options.register)
    if ranks.is_main:
        print_result(compared.table, compared.folder)
    return 0


def _annotate(options: argparse.Namespace) -> int:
    from mig_selector.pipeline.annotate_pool import annotate_pool, settings_to_annotate

    if options.dry_run:
        return _estimate(settings_to_annotate(read_settings(options.settings)), selects=False, to=options.to)
    with joined_ranks() as ranks:
        sidecar = annotate_pool(read_settings(options.settings), ranks, to=options.to)
    if ranks.is_main:
        print_result(str(sidecar))
    return 0


def _train(options: argparse.Namespace) -> int:
    if options.dry_run:
        return _estimate(read_settings(options.settings), selects=True)
    from mig_selector import _autoload

    _autoload.start()
    from llamafactory.cli import main as host_main

    sys.argv = ["llamafactory-cli", "train", *options.settings]
    host_main()
    return 0
