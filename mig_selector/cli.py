"""The command ``mig-selector``: arguments in, exit code out.

0 success, 1 an error that the user can fix, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mig_selector.console import print_error, print_line
from mig_selector.errors import MigSelectorError


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: What follows the program's name; from the command line if None.

    Returns:
        The exit code.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    # Settings are no options of ours: argparse sees the command, and whether help is wanted.
    if words[:1] == ["--version"]:
        print(f"mig_selector {version('mig_selector')}")
        return 0
    helps = [word for word in words[1:] if word in {"-h", "--help"}]
    command = _parser(with_keys=bool(helps)).parse_args([*words[:1], *helps]).command
    try:
        return {"select": _select, "train": _train, "compare": _compare, "annotate": _annotate}[command](words[1:])
    except MigSelectorError as error:
        print_error("mig-selector: error", error)
        return 1
    except KeyboardInterrupt:
        print_line("mig-selector: interrupted")
        return 130


_DRY_RUN = "--dry-run"
_USAGE = {
    "select": f" [{_DRY_RUN}]",
    "compare": " --methods NAME,NAME,... [--register]",
    "annotate": f" [--to FILE] [{_DRY_RUN}]",
}


def _describe_keys() -> str:
    from mig_selector.reference import render_help

    return f"keys, as in the YAML:\n\n{render_help()}"


def _parser(*, with_keys: bool) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mig-selector",
        description="Choose the part of an instruction pool worth training on.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    commands = parser.add_subparsers(dest="command", required=True, metavar="{select,train,compare,annotate}")
    texts = {
        "select": "select a subset and register it in dataset_info.json; the last line of stdout is its folder; "
        f"{_DRY_RUN} says what it would take, from a few rows, and writes nothing",
        "train": "the same as `llamafactory-cli train`: select, then train",
        "compare": "select with several methods and write what they chose side by side: tables, a picture and a page; "
        "the last line of stdout is the folder, a dataset_dir with the subsets; --register names them in your own "
        "dataset_info.json too",
        "annotate": "give rows labels and scores without selecting; the last line of stdout is the sidecar that keeps "
        "them; --to writes the annotated rows as JSON Lines, too; "
        f"{_DRY_RUN} says what it would take, from a few rows, and writes nothing",
    }
    epilog = _describe_keys() if with_keys else None
    for name, text in texts.items():
        commands.add_parser(
            name,
            help=text,
            description=text,
            usage=f"mig-selector {name} (FILE [key=value ...] | --key value ...){_USAGE.get(name, '')}",
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
    return parser


def _read_settings(words: Sequence[str]) -> dict[str, Any]:
    from mig_selector.integration.config import read_config, read_options

    if words and not words[0].startswith("--"):
        return read_config(Path(words[0]), words[1:])
    return read_options(words)


def _select(words: Sequence[str]) -> int:
    from mig_selector.console import show_log
    from mig_selector.pipeline.recipe import run_selection
    from mig_selector.ranks.world import connect

    settings = [word for word in words if word != _DRY_RUN]
    if not settings:
        print("mig-selector select: give a YAML file, or --key value options", file=sys.stderr)
        return 2
    show_log(is_main=os.environ.get("RANK", "0") == "0")
    if _DRY_RUN in words:
        return _estimate(_read_settings(settings), selects=True)
    with contextlib.redirect_stdout(sys.stderr), connect() as ranks:
        outcomes = run_selection(_read_settings(settings), ranks)
    if ranks.is_local_main:
        for outcome in outcomes:
            print(outcome.folder)
    return 0


def _estimate(settings: dict[str, Any], *, selects: bool) -> int:
    from mig_selector.pipeline.dry_run import estimate

    with contextlib.redirect_stdout(sys.stderr):
        lines = estimate(settings, selects=selects)
    print(*lines, sep="\n")
    return 0


def _compare(words: Sequence[str]) -> int:
    from mig_selector.console import show_log
    from mig_selector.pipeline.comparison import compare_methods
    from mig_selector.ranks.world import connect

    is_registered = "--register" in words
    methods, rest = _take_option("--methods", [word for word in words if word != "--register"])
    if methods is None or not rest:
        print("mig-selector compare: give a YAML file and --methods mig,random,...", file=sys.stderr)
        return 2
    show_log(is_main=os.environ.get("RANK", "0") == "0")
    with contextlib.redirect_stdout(sys.stderr), connect() as ranks:
        names = [name.strip() for name in methods.split(",")]
        compared = compare_methods(_read_settings(rest), names, ranks, register=is_registered)
    if ranks.is_main:
        print(compared.table, compared.folder, sep="\n")
    return 0


def _annotate(words: Sequence[str]) -> int:
    from mig_selector.console import show_log
    from mig_selector.pipeline.annotate_pool import annotate_pool, settings_to_annotate
    from mig_selector.ranks.world import connect

    to, rest = _take_option("--to", [word for word in words if word != _DRY_RUN])
    if not rest:
        print("mig-selector annotate: give a YAML file, or --key value options", file=sys.stderr)
        return 2
    show_log(is_main=os.environ.get("RANK", "0") == "0")
    if _DRY_RUN in words:
        return _estimate(settings_to_annotate(_read_settings(rest)), selects=False)
    with contextlib.redirect_stdout(sys.stderr), connect() as ranks:
        sidecar = annotate_pool(_read_settings(rest), ranks, to=to)
    if ranks.is_main:
        print(sidecar)
    return 0


def _take_option(name: str, words: Sequence[str]) -> tuple[str | None, list[str]]:
    """Return the value of an option, None where it is not given, and the other words."""
    rest = list(words)
    for index, word in enumerate(rest):
        if word.startswith(f"{name}="):
            del rest[index]
            return word.removeprefix(f"{name}="), rest
        if word == name and index + 1 < len(rest):
            value = rest[index + 1]
            del rest[index : index + 2]
            return value, rest
    return None, rest


def _train(words: Sequence[str]) -> int:
    from mig_selector import _autoload

    _autoload.start()
    from llamafactory.cli import main as host_main

    sys.argv = ["llamafactory-cli", "train", *words]
    host_main()
    return 0
