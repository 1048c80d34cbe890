"""Options that several commands share."""

from __future__ import annotations

import argparse


def add_dataset_dir(parser: argparse.ArgumentParser) -> None:
    """Add the option that names the folder of dataset_info.json, with LLaMA-Factory's default."""
    parser.add_argument(
        "--dataset-dir", default="data", metavar="DIR", help="folder of dataset_info.json; data if not given"
    )
