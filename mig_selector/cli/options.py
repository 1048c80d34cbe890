"""What several commands share: options, the ranks that do the work, and how a result is printed."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mig_selector.errors import RegistrationError


if TYPE_CHECKING:
    from mig_selector.ranks.world import Ranks


def add_dataset_dir(parser: argparse.ArgumentParser) -> None:
    """Add the option that names the folder of dataset_info.json, with LLaMA-Factory's default."""
    parser.add_argument(
        "--dataset-dir", default="data", metavar="DIR", help="folder of dataset_info.json; default data"
    )


def add_selection(parser: argparse.ArgumentParser) -> None:
    """Add the argument that names a finished selection; `pipeline.stored.find_selection` finds it."""
    parser.add_argument(
        "selection", metavar="SELECTION", help="folder of a selection, or its name in dataset_info.json"
    )
    add_dataset_dir(parser)


class _HelpWithKeys(argparse.Action):
    """Prints the help with all keys, which are imported only for that."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from mig_selector.reference import render_help

        parser.epilog = f"keys, as in the YAML:\n\n{render_help()}"
        parser.print_help()
        parser.exit()


def add_configuration(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int], text: str, usage: str = ""
) -> argparse.ArgumentParser:
    """Add a command that takes a configuration; `read_settings` reads it."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=text,
        description=text,
        usage=f"mig-selector {name} (FILE [key=value ...] | --key value ...){usage}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
        allow_abbrev=False,
    )
    parser.add_argument("-h", "--help", action=_HelpWithKeys, nargs=0, help="show this help and the keys")
    parser.set_defaults(run=run, settings=[])
    return parser


def read_settings(words: Sequence[str]) -> dict[str, Any]:
    """Read the configuration of a command from its words."""
    from mig_selector.integration.config import read_config, read_options

    if words and not words[0].startswith("--"):
        return read_config(Path(words[0]), words[1:])
    return read_options(words)


@contextlib.contextmanager
def joined_ranks() -> Iterator[Ranks]:
    """Log on rank 0, and yield all ranks; what the block prints goes to stderr, as stdout is for the result."""
    from mig_selector.console import show_log
    from mig_selector.ranks.world import connect

    show_log(is_main=os.environ.get("RANK", "0") == "0")
    with contextlib.redirect_stdout(sys.stderr), connect() as ranks:
        yield ranks


def print_result(*lines: str) -> None:
    """Print what another program may read; where that is impossible, say on stderr where the result is."""
    try:
        print(*lines, sep="\n", flush=True)
    except OSError as error:
        discard_stdout()
        raise RegistrationError(
            f"stdout cannot be written ({error.strerror}). The selection is complete, in {lines[-1]}."
        ) from error


def discard_stdout() -> None:
    """Keep Python from trying again to write what could not be written, which would end in a traceback."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
