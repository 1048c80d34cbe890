"""``study``: does selection help on this pool and this model?"""

from __future__ import annotations

import argparse
import contextlib
import sys
from typing import Any

from mig_selector.cli.options import add_configuration, print_result, read_settings
from mig_selector.console import print_line, printable


def add_commands(commands: Any) -> None:
    """Add the command to the parser."""
    parser = add_configuration(
        commands,
        "study",
        _study,
        "train on what several methods choose and on random rows, with equal budgets and steps, and compare the loss "
        "of held-out answers; the last line of stdout is the folder with study.html",
        " [--methods NAME,NAME,...] [--seeds N] ...",
    )
    parser.add_argument(
        "--methods",
        type=_names,
        metavar="NAME,NAME,...",
        help="methods to study beside base, random and stratified; default mig_method, longest and top_score",
    )
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="trainings of each method; default 3")
    parser.add_argument(
        "--learning-rates",
        type=_numbers,
        default=(),
        metavar="RATE,RATE,...",
        help="train with each of them; default the configuration's",
    )
    parser.add_argument(
        "--match",
        choices=("tokens", "rows"),
        default="tokens",
        help="what is equal beside the steps: supervised tokens (default), or rows",
    )
    parser.add_argument(
        "--holdout", type=float, metavar="SHARE", help="share of the pool to hold out, by source; default 0.05"
    )
    parser.add_argument(
        "--source", default="source", metavar="COLUMN", help="column that says where a row is from; default source"
    )
    parser.add_argument(
        "--train-command",
        default="llamafactory-cli train",
        metavar="COMMAND",
        help="what trains, given a YAML as its last word; default llamafactory-cli train",
    )
    parser.add_argument("--only", type=_names, default=(), metavar="ARM,ARM,...", help="do only these arms here")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--report", action="store_true", help="train nothing; write the page of the runs that are there")
    what.add_argument(
        "--dry-run", action="store_true", help="say what is left to train and how long it takes, and write nothing"
    )


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected numbers with commas between them, got {text!r}") from None


def _study(options: argparse.Namespace) -> int:
    from mig_selector.console import show_log
    from mig_selector.study.estimate import estimate_study
    from mig_selector.study.run import run_study
    from mig_selector.study.setup import Options

    show_log(is_main=True)
    asked = Options(
        methods=options.methods,
        seeds=options.seeds,
        learning_rates=options.learning_rates,
        match=options.match,
        holdout=options.holdout,
        source_column=options.source,
        train_command=options.train_command,
    )
    with contextlib.redirect_stdout(sys.stderr):
        settings = read_settings(options.settings)
        if options.dry_run:
            lines = estimate_study(settings, asked, options.only)
        else:
            try:
                studied = run_study(settings, asked, only=options.only, trains=not options.report)
            except KeyboardInterrupt:
                print_line("mig-selector: interrupted; the same command continues from here")
                return 130
            lines = [studied.table, studied.folder]
    print_result(*(printable(line, keep="\n") for line in lines))
    return 0
