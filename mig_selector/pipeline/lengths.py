"""Tokens of rows as training is fed them: what budgets of tokens are measured by, and what summaries say."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mig_selector.console import progress
from mig_selector.embedding.encoder import Encoder
from mig_selector.errors import ArgumentError, PoolError
from mig_selector.integration.tokenization import count_tokens_of_rows
from mig_selector.pipeline.request import Request
from mig_selector.pipeline.rows import KeptRows
from mig_selector.pool.reading import Pool
from mig_selector.store.matrix import MatrixFile


logger = logging.getLogger(__name__)

_ROWS_PER_WRITE = 8_192
_MEDIA = frozenset({"images", "videos", "audios"})
"""Roles of columns that take the host seconds to make tokens of."""


@dataclass(frozen=True)
class RowTokens:
    """Tokens of the N kept rows, after template and `cutoff_len`."""

    fed: NDArray[np.int64]
    """All that training is fed. Shape (N,)."""
    supervised: NDArray[np.int64]
    """Those of them that have a loss. Shape (N,)."""

    def counted(self, which: Literal["all", "supervised"]) -> NDArray[np.int64]:
        """Return what a budget counts of each row, as ``mig_count_tokens`` says: 1 or more. Shape (N,)."""
        return self.fed if which == "all" else np.maximum(self.supervised, 1)

    def take(self, rows: NDArray[np.int64]) -> RowTokens:
        """Return the tokens of some rows."""
        return RowTokens(self.fed[rows], self.supervised[rows])


def count_row_tokens(request: Request, pool: Pool) -> RowTokens | None:
    """Count the tokens of each row, or take what is kept; None if rows are counted and not tokens.

    Raises:
        ArgumentError: The tokenizer cannot be loaded; or a budget is larger than the pool, or smaller than any row.
        PoolError: LLaMA-Factory makes no tokens of a row.
    """
    if not request.arguments.counts_tokens:
        return None
    tokens = read_row_tokens(request, pool)
    _check_budgets(request, tokens)
    return tokens


def read_row_tokens(request: Request, pool: Pool) -> RowTokens:
    """Count the tokens of each row, or take what is kept, for a request whose budget is in tokens.

    Raises:
        ArgumentError: The tokenizer cannot be loaded.
        PoolError: LLaMA-Factory makes no tokens of a row.
    """
    model = request.models["model_name_or_path"]
    rows = KeptRows(request, pool)
    path = rows.cache_path("row_tokens", request.identity["tokens"], model)
    path.parent.mkdir(parents=True, exist_ok=True)
    matrix = MatrixFile(path, len(rows))
    with matrix.locked():
        if not matrix.is_complete():
            _fill(matrix, rows, request, model)
        counts = np.load(path, allow_pickle=False).astype(np.int64)
    if not counts[:, 0].all():
        row = int(pool.pool_indices[np.argmin(counts[:, 0])])
        raise PoolError(f"row {row} of the pool (0-based): LLaMA-Factory makes no tokens of it; remove it.")
    return RowTokens(counts[:, 0], counts[:, 1])


def count_tokens_if_known(
    request: Request, rows: Iterable[tuple[int, Mapping[str, Any]]], num_rows: int
) -> RowTokens | None:
    """Count the tokens of some rows for a summary; nothing is kept.

    Args:
        request: Says with which model and template the host trains.
        rows: For each of the N rows the index of its entry, and the columns that training reads.
        num_rows: N.

    Returns:
        None where the configuration names no model or template, or its tokens cannot be counted, or rows have media.
    """
    host = request.site.host
    if not (host.model_name_or_path and host.tokenizing.get("template")):
        if request.arguments.mig_count_tokens == "supervised":
            logger.warning("mig_count_tokens: tokens are not counted; set model_name_or_path and template.")
        return None
    if any(_MEDIA & entry.columns.keys() for entry in request.entries):
        return None
    layouts = [entry.layout for entry in request.entries]
    try:
        counts = np.concatenate([*count_tokens_of_rows(rows, num_rows, layouts, host, None)])
    except ArgumentError as error:
        logger.info("the tokens that training is fed are not counted: %s", error)
        return None
    return RowTokens(counts[:, 0], counts[:, 1])


def _check_budgets(request: Request, tokens: RowTokens) -> None:
    counted = tokens.counted(request.arguments.mig_count_tokens)
    total, shortest = int(counted.sum()), int(counted.min())
    for budget in request.arguments.budgets:
        if budget < shortest:
            raise ArgumentError(
                f"mig_num_tokens: {int(budget):,} is less than the shortest row to choose from has, {shortest:,} "
                "tokens; set at least that."
            )
        if budget > total:
            raise ArgumentError(
                f"mig_num_tokens: {int(budget):,} tokens are asked for, but all {len(counted):,} rows to choose from "
                f"have {total:,} together; set fewer."
            )


def _fill(matrix: MatrixFile, rows: KeptRows, request: Request, model: Encoder) -> None:
    done = matrix.begin(2)
    layouts = [entry.layout for entry in request.entries]
    waiting: list[NDArray[np.int64]] = []
    with progress("counting tokens", len(rows), "rows", is_main=True) as bar:
        bar(done)
        for counts in count_tokens_of_rows(
            islice(rows.trained(), done, None),
            len(rows) - done,
            layouts,
            request.site.host,
            model.revision,
        ):
            waiting.append(counts)
            bar(len(counts))
            if sum(map(len, waiting)) >= _ROWS_PER_WRITE:
                matrix.append(np.concatenate(waiting).astype(np.float32))  # exact up to 16 million tokens a row
                waiting = []
        if waiting:
            matrix.append(np.concatenate(waiting).astype(np.float32))
    matrix.finish()
