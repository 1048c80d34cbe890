"""The rows that each of several methods can use: what they choose from when they are compared."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mig_selector.arguments import MigArguments, parse_arguments
from mig_selector.errors import ArgumentError, PoolError, UsageError
from mig_selector.integration.config import HostArguments
from mig_selector.pipeline.annotate import annotate
from mig_selector.pipeline.crew import Crew
from mig_selector.pipeline.lengths import count_row_tokens
from mig_selector.pipeline.needs import DEFAULT_LABELS, Needs, resolve_needs
from mig_selector.pipeline.request import Request, resolve
from mig_selector.pipeline.stages import describe_reading, measure, read
from mig_selector.pool.reading import Pool


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CommonRows:
    """The rows that every method can use."""

    pool_indices: NDArray[np.int64]
    """Ascending."""
    usable: list[int]
    """How many rows each method could use alone."""
    request: Request
    """For what is measured of the rows."""
    pool: Pool
    """The rows, with what is measured of them."""


def resolve_methods(own_settings: Mapping[str, Any], host: HostArguments, methods: Sequence[str]) -> list[Needs]:
    """Check all settings and methods before anything is read."""
    if len(set(methods)) != len(methods) or not all(methods):
        raise UsageError(f"--methods: expected different names with commas between them, got {','.join(methods)!r}.")
    found = []
    for method in methods:
        arguments = parse_arguments({**own_settings, "mig_method": method}, training=False)
        if len(arguments.budgets) > 1:
            key = "mig_num_tokens" if arguments.counts_tokens else "mig_num_samples"
            raise ArgumentError(f"{key}: {arguments[key]!r} is a list; a comparison takes one budget.")
        found.append(resolve_needs(arguments, host))
    return found


def measuring_keys(own_settings: Mapping[str, Any], needs: Sequence[Needs]) -> dict[str, Any]:
    """Return keys of a selection that needs exactly what is measured of the rows that the methods choose.

    Labels if a method needs them; the graph if mig is compared; a score only if somebody asks for it.
    """
    keys: dict[str, Any] = {"mig_method": "random", "mig_keep": None}
    if any(each.method.name == "mig" for each in needs):
        keys["mig_method"] = "mig"
    if any(each.labels for each in needs):
        keys["mig_labels"] = own_settings.get("mig_labels") or DEFAULT_LABELS
    ranked_by = [each.score for each in needs if each.score is not None and each.score.name == "deita"]
    if ranked_by and not own_settings.get("mig_score"):
        keys["mig_score"] = "deita"
        if all(score.stored.join == "sum of products" for score in ranked_by):
            keys["mig_deita_turns"] = "sum"
    return keys


def settle_common_rows(
    each: Sequence[MigArguments], measures: MigArguments, host: HostArguments, crew: Crew | None
) -> CommonRows:
    """Find the rows that every method can use and of which everything can be measured; for rank 0.

    A method can use a row that has what it needs, and a score if a model computes one. What the models compute is
    kept, so that it is not computed again when the methods choose.

    Args:
        each: The keys of each method.
        measures: The keys of a selection that needs what is measured of the rows.
        host: The host's keys.
        crew: Runs the models; None to run none, and to count the rows that a model might reject as usable.

    Raises:
        PoolError: There is no such row.
        ArgumentError: They are fewer, or have fewer tokens, than the methods are asked to choose.
    """
    found, dropped, unreadable = [], Counter[str](), Counter[str]()
    for arguments in (*each, measures):
        request = resolve(arguments, host)
        pool = read(request)
        if crew is not None:
            pool = measure(annotate(pool, request, crew).pool, request, crew).pool
        found.append(pool.pool_indices)
        dropped |= pool.report.dropped  # methods that need the same of a row drop the same rows
        unreadable |= pool.report.unreadable
    common = found[0]
    for pool_indices in found[1:]:
        common = np.intersect1d(common, pool_indices, assume_unique=True)
    usable = [len(pool_indices) for pool_indices in found[: len(each)]]
    by_method = ", ".join(f"{args.mig_method} {count:,}" for args, count in zip(each, usable, strict=True))
    report = replace(pool.report, kept=len(common), dropped=dropped, unreadable=unreadable)
    for line in describe_reading(replace(pool, report=report), None):
        logger.info("%s", line)
    logger.info("rows that a method can use: %s; that all can use: %s", by_method, f"{len(common):,}")
    if not len(common):
        raise PoolError(f"--methods: no row of the pool can be used by every method ({by_method}); compare fewer.")
    for budget in () if measures.counts_tokens else measures.budgets:
        if budget > len(common):
            raise ArgumentError(
                f"mig_num_samples: {budget} rows are asked for, but only {len(common)} rows can be used by every "
                f"method ({by_method}). Ask for fewer, or compare fewer methods."
            )
    is_common = np.isin(pool.pool_indices, common, assume_unique=True)
    pool = pool.without(~is_common, "not usable by every method compared")
    count_row_tokens(request, pool)  # refuses a budget of tokens that they do not have; counts are kept
    return CommonRows(common, usable, request, pool)
