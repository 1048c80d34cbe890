"""Options that several commands share."""

from __future__ import annotations

import argparse


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
