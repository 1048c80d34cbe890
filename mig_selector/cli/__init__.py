"""The command ``mig-selector``: arguments in, exit code out.

0 success, 1 an error that the user can fix, 2 wrong usage, 130 interrupted. Each module here adds its commands to the
parser; what they do is in the rooms below.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import version

from mig_selector.cli import doctor, evaluate, explain, inventory, report, select, study, verify
from mig_selector.cli.options import discard_stdout
from mig_selector.console import print_error, print_line, printable
from mig_selector.errors import MigSelectorError, UsageError


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: What follows the program's name; from the command line if None.

    Returns:
        The exit code.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["--version"]:
        print(f"mig_selector {version('mig_selector')}")
        return 0
    options = _parse(words)
    try:
        code: int = options.run(options)
        sys.stdout.flush()
    except MigSelectorError as error:
        print_error("mig-selector: error", error)
        return 2 if isinstance(error, UsageError) else 1
    except BrokenPipeError:  # whoever reads stdout, such as `head`, has had enough
        discard_stdout()
        return 1
    except OSError as error:  # such as a full disk that stdout goes to
        discard_stdout()
        print_line(printable(f"mig-selector: error: {error.filename or 'stdout'}: {error.strerror or error}"))
        return 1
    except KeyboardInterrupt:
        print_line("mig-selector: interrupted")
        return 130
    return code


def _parse(words: list[str]) -> argparse.Namespace:
    """Read the command line; words that argparse does not know are settings of the commands that take such."""
    parser = argparse.ArgumentParser(
        prog="mig-selector",
        description="Choose the part of an instruction pool worth training on.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in (select, study, report, explain, verify, evaluate, inventory, doctor):
        module.add_commands(commands)
    options, unknown = parser.parse_known_args(words)
    if hasattr(options, "settings"):
        options.settings = unknown
        if not unknown and options.command != "train":  # LLaMA-Factory says what it needs
            parser.error(f"{options.command}: give a YAML file, or --key value options")
    elif unknown:
        parser.error(f"{options.command}: unknown arguments: {' '.join(unknown)}")
    return options
