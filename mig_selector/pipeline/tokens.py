"""Tokens of chosen rows, from a sample: cheap enough for every selection."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mig_selector.annotation.tokens import LocalTokenizer, estimate_total, find_tokenizer_file
from mig_selector.errors import ArgumentError
from mig_selector.pipeline.lengths import RowTokens, count_tokens_if_known
from mig_selector.pipeline.request import Request
from mig_selector.pool.conversation import read_turns
from mig_selector.pool.entry import PoolEntry
from mig_selector.report.comparison import round_to_error


logger = logging.getLogger(__name__)

SAMPLED_ROWS = 512
"""Most rows of which tokens are counted."""
_FEWEST_ROWS, _SAMPLED_BYTES = 64, 400_000
"""Where rows are long, fewer are counted: tokenizing this much takes about 0.1 seconds."""
_SEED = 0
_BLOCK_BYTES = 1 << 24


def tokenizer_name(request: Request) -> tuple[str, str] | None:
    """Return the key that names a tokenizer, and the name; None if none is configured."""
    for key, name in (
        ("mig_tokenizer", request.arguments["mig_tokenizer"]),
        ("model_name_or_path", request.site.host.model_name_or_path),
    ):
        if name:
            return key, str(name)
    return None


def text_of(record: Mapping[str, Any], entry: PoolEntry) -> str:
    """Return all that is said in a row, its system message included, for counting tokens.

    Of a ranked pair the chosen reply counts. A row that is not a conversation, on which training fails or which it
    drops, is empty.
    """
    try:
        text = "\n".join(turn.content for turn in read_turns(record, entry))
    except ValueError:
        return ""
    return text.encode("utf-8", "replace").decode()  # half of a surrogate pair is not text to a tokenizer


class TokenTotals:
    """Estimates the tokens of finished subsets with the tokenizer at hand, if there is one.

    Its tokenizer.json, which can be of 10 MB, is read in a thread while other stages run.
    """

    def __init__(self, request: Request) -> None:
        """Begin to read the tokenizer that the configuration names, if it is on this machine."""
        self._entries = request.entries
        self._name, file = None, None
        named = tokenizer_name(request)
        if named is not None:
            self._name = named[1]
            file = find_tokenizer_file(self._name)
        self._tokenizer: Future[LocalTokenizer] | None = None
        if file is not None:
            thread = ThreadPoolExecutor(1)
            self._tokenizer = thread.submit(LocalTokenizer, file)
            thread.shutdown(wait=False)

    def of(self, subsets: Sequence[Mapping[str, Any]], folder: Path) -> dict[str, Any] | None:
        """Estimate the tokens of the rows in the files of a subset.

        Args:
            subsets: What the manifest says of each file.
            folder: Where the files are.

        Returns:
            ``estimate``, ``error`` (half of the 95 % interval; 0 if all rows were counted), ``rows_sampled`` and
            ``tokenizer``, for the manifest; None if no tokenizer is at hand.
        """
        if self._tokenizer is None:
            return None
        try:
            tokenizer = self._tokenizer.result()
        except ArgumentError as error:
            logger.info("tokens are not counted: %s", error)
            return None
        sample = _Sample.read(subsets, folder)
        counts = tokenizer.count([text_of(record, self._entries[entry]) for entry, record in sample.rows])
        estimate, error_size = sample.estimate(counts)
        return {
            "estimate": estimate,
            "error": error_size,
            "rows_sampled": len(sample.rows),
            "tokenizer": self._name,
        }


@dataclass(frozen=True)
class _Sample:
    """Some rows of a finished subset."""

    rows: list[tuple[int, dict[str, Any]]]
    """The index of the entry of each, and its record."""
    sizes: NDArray[np.int64]
    """The bytes of each."""
    num_rows: int
    """Of the subset."""
    num_bytes: int
    """Of the subset."""

    @classmethod
    def read(cls, subsets: Sequence[Mapping[str, Any]], folder: Path) -> _Sample:
        """Read a sample of the files that a manifest describes."""
        files = [folder / subset["json_lines"] for subset in subsets]
        bounds = [line_bounds(file) for file in files]
        sizes = np.concatenate([np.diff(each) for each in bounds])
        sample = draw_sample(len(sizes), int(sizes.sum()))
        rows: list[tuple[int, dict[str, Any]]] = []
        first = 0
        for file, each, subset in zip(files, bounds, subsets, strict=True):
            mine = sample[(sample >= first) & (sample < first + len(each) - 1)] - first
            rows += [(subset["entry_index"], record) for record in read_lines(file, each, mine)]
            first += len(each) - 1
        return cls(rows, sizes[sample], len(sizes), int(sizes.sum()))

    def estimate(self, counts: NDArray[np.int64]) -> tuple[int, int]:
        """Return the tokens of the subset from those of each row, and half of the 95 % interval."""
        return estimate_total(counts, self.sizes, self.num_bytes, self.num_rows)


def training_tokens(
    request: Request, subsets: Sequence[Mapping[str, Any]], folder: Path, known: RowTokens | None
) -> dict[str, Any] | None:
    """Return what training is fed for the rows in the files of a subset, and how much of that has a loss.

    Args:
        request: Says with which model and template the host trains.
        subsets: What the manifest says of each file.
        folder: Where the files are.
        known: The tokens of all its rows, if they were counted; else those of a sample are.

    Returns:
        ``fed``, ``fed_error`` (half of the 95 % interval; 0 if all rows were counted), ``supervised``,
        ``supervised_error``, ``rows_sampled`` and the ``settings`` that decide them, for the manifest; None if they
        cannot be counted.
    """
    settings = tokenizing_settings(request)
    if known is not None:
        exact = {"fed": int(known.fed.sum()), "supervised": int(known.supervised.sum())}
        errors = {"fed_error": 0, "supervised_error": 0}
        return {**exact, **errors, "rows_sampled": len(known.fed), "settings": settings}
    sample = _Sample.read(subsets, folder)
    columns = [list(dict.fromkeys(entry.columns.values())) for entry in request.entries]
    rows = [(entry, {column: record.get(column) for column in columns[entry]}) for entry, record in sample.rows]
    counted = count_tokens_if_known(request, rows, len(rows))
    if counted is None:
        return None
    (fed, fed_error), (supervised, supervised_error) = map(sample.estimate, (counted.fed, counted.supervised))
    return {
        "fed": fed,
        "fed_error": fed_error,
        "supervised": supervised,
        "supervised_error": supervised_error,
        "rows_sampled": len(rows),
        "settings": settings,
    }


def tokenizing_settings(request: Request) -> dict[str, Any]:
    """Return the host's keys that decide what training is fed for a row."""
    host = request.site.host
    return {"model_name_or_path": host.model_name_or_path, "stage": host.stage, **host.tokenizing}


def draw_sample(num_rows: int, num_bytes: int | None = None, most: int = SAMPLED_ROWS) -> NDArray[np.int64]:
    """Draw rows, always the same: all if they are few. Ascending.

    Args:
        num_rows: Rows to draw from.
        num_bytes: Their size, if it is known: of long rows fewer are drawn.
        most: Most rows to draw.
    """
    wanted = most
    if num_bytes:
        wanted = min(wanted, max(_FEWEST_ROWS, _SAMPLED_BYTES * num_rows // num_bytes))
    if num_rows <= wanted:
        return np.arange(num_rows)
    return np.sort(np.random.default_rng(_SEED).choice(num_rows, wanted, replace=False))


def line_bounds(file: Path) -> NDArray[np.int64]:
    """Return the byte offset of each line of JSON Lines, and of the end of the file."""
    bounds, offset = [np.zeros(1, np.int64)], 0
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            bounds.append(np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n")) + (offset + 1))
            offset += len(block)
    return np.concatenate(bounds)


def read_lines(file: Path, bounds: NDArray[np.int64], lines: NDArray[np.int64]) -> list[dict[str, Any]]:
    """Read some lines of JSON Lines; `bounds` are those that `line_bounds` returned."""
    with file.open("rb") as stream:
        records = []
        for line in lines.tolist():
            stream.seek(bounds[line])
            records.append(json.loads(stream.read(int(bounds[line + 1] - bounds[line]))))
        return records


def describe_tokens(tokens: Mapping[str, Any], num_rows: int) -> str:
    """Say the total, and its error where it is estimated: ``about 249,000 +- 6,000 (512 rows sampled)``."""
    if tokens["rows_sampled"] == num_rows:
        return f"{tokens['estimate']:,}"
    return f"{_about(tokens['estimate'], tokens['error'])} ({tokens['rows_sampled']:,} rows sampled)"


def describe_training_tokens(tokens: Mapping[str, Any], num_rows: int) -> str:
    """Say what training is fed, and how much of it has a loss."""
    if tokens["rows_sampled"] == num_rows:
        return f"training is fed {tokens['fed']:,} tokens, {tokens['supervised']:,} of them with a loss"
    fed, supervised = (_about(tokens[kind], tokens[f"{kind}_error"]) for kind in ("fed", "supervised"))
    return f"training is fed {fed} tokens, {supervised} of them with a loss ({tokens['rows_sampled']:,} rows sampled)"


def _about(value: int, error: int) -> str:
    estimate, rounded = round_to_error(value, error)
    return f"about {estimate:,} +- {rounded:,}"
