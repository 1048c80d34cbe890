"""The answers that no arm is trained on: drawn from the pool by source, or read from `eval_dataset`.

N answers are held out. Pool rows that ask the question of one of them are no candidates; answers that share much of
their text with the candidates are flagged.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mig_selector.console import plural, progress
from mig_selector.errors import ArgumentError
from mig_selector.integration.dataset_info import resolve_entry
from mig_selector.integration.tokenization import TokenizedRow, tokenize_rows
from mig_selector.pipeline.common_rows import CommonRows, settle_common_rows
from mig_selector.pipeline.crew import Crew
from mig_selector.pipeline.request import Request
from mig_selector.pipeline.texts import SOURCE, source_of
from mig_selector.pipeline.tokens import text_of
from mig_selector.pool.conversation import as_exchange, read_turns
from mig_selector.pool.entry import PoolEntry
from mig_selector.pool.formats.files import open_sources
from mig_selector.pool.index.cache import IndexCache
from mig_selector.pool.index.judge import RowJudge
from mig_selector.pool.reading import Pool, PoolRow, read_pool
from mig_selector.store.hashing import fingerprint_of
from mig_selector.study.overlap import FLAGGED_SHARE, GRAM, question_key, shared_shares
from mig_selector.study.setup import Setup


logger = logging.getLogger(__name__)

FEWEST_ANSWERS = 10
"""Sources with fewer held-out answers are taken together: each would weigh as much as a large one."""
OTHER_SOURCES = "other sources"


@dataclass(frozen=True)
class HeldOut:
    """The held-out answers."""

    described: str
    """Where they are from."""
    indices: NDArray[np.int64]
    """0-based index of each among all rows of the pool, or of `eval_dataset`. Shape (N,)."""
    rows: Sequence[TokenizedRow]
    """What the model is given of each, and the tokens that have a loss."""
    sources: NDArray[np.object_]
    """Where each is from, as the macro average takes it. Shape (N,)."""
    labels: Sequence[frozenset[str]]
    """The labels of each; empty where they are not known."""
    shares: NDArray[np.float64]
    """Share of the runs of 13 words of each that candidates have too. Shape (N,)."""
    digest: str
    """Hash of their tokens and sources."""

    @property
    def tokens(self) -> NDArray[np.int64]:
        """Number of tokens that have a loss. Shape (N,)."""
        return np.array([row.supervised for row in self.rows], np.int64)

    @property
    def is_flagged(self) -> NDArray[np.bool_]:
        """Which of them share at least half of their text with the candidates. Shape (N,)."""
        return self.shares >= FLAGGED_SHARE

    @property
    def is_one_group(self) -> bool:
        """Whether all sources were taken together, as they have too few answers."""
        return set(self.sources) == {OTHER_SOURCES}


@dataclass(frozen=True)
class Split:
    """Held-out answers, and the rows that arms choose from: M candidates."""

    heldout: HeldOut
    candidates: NDArray[np.int64]
    """Pool indices, ascending. Shape (M,)."""
    sources: NDArray[np.object_]
    """Where each candidate is from. Shape (M,)."""
    same_question: int
    """Rows of the pool that are no candidates because a held-out row asks the same."""
    left_out: int
    """Rows that were to be held out, but of whose answer no token has a loss."""
    digest: str
    """Hash of the candidates: of the content of the pool, and which of its rows they are."""


@dataclass(frozen=True)
class _Rows:
    """Rows with the texts that are compared."""

    keys: NDArray[np.bytes_]
    """Hash of each question."""
    sources: NDArray[np.object_]
    has_column: bool
    """Whether any of them has the column of sources."""


def hold_out(setup: Setup, crew: Crew | None) -> Split:
    """Find the rows that every method can use, hold answers out, and find the candidates.

    Args:
        setup: The study.
        crew: Runs the models that score or label rows; None to run none, and to count all their rows as usable.

    Raises:
        ArgumentError: Too few answers, or rows to choose from, are left.
        PoolError: The pool or `eval_dataset` cannot be read.
    """
    methods = [setup.arguments(mig_num_samples=1, mig_method=each.method.name) for each in setup.needs]
    common = settle_common_rows(methods, setup.measuring_arguments(), setup.host, crew)
    if max(common.usable) > len(common.pool_indices):
        logger.info(
            "not every method can use all rows, so held-out rows and candidates depend on the methods: with other "
            "methods it may be another study, which trains every arm"
        )
    return split_pool(common, setup.holdout, setup.options.source_column)


def split_pool(common: CommonRows, share: float | None, column: str) -> Split:
    """Hold out answers, and find the candidates.

    Args:
        common: The rows that every arm can use.
        share: Share of them to hold out, by source; None to take the rows of `eval_dataset`.
        column: Column that names the source of a row; where a row lacks it, its dataset is its source.

    Raises:
        ArgumentError: Too few answers, or rows to choose from, are left.
        PoolError: `eval_dataset` cannot be read.
    """
    request, pool = common.request, common.pool
    known = _read(pool, request.entries, column)
    if not known.has_column and column != SOURCE:
        raise ArgumentError(f"--source: no row of the pool has a column {column!r}.")
    if share is None:
        entries, drawn = _read_eval(request)
        described = f"eval_dataset {', '.join(entry.name for entry in entries)}"
        asked = _read(drawn, entries, column)
        is_candidate = np.ones(len(known.keys), np.bool_)
        labels: list[frozenset[str]] = [frozenset()] * len(asked.keys)
    else:
        indices = _draw(known.sources, share, request.site.host.seed)
        described = f"{share:g} of the pool, drawn by source (seed {request.site.host.seed})"
        is_drawn = np.zeros(len(known.keys), np.bool_)
        is_drawn[indices] = True
        entries, drawn = request.entries, pool.without(~is_drawn, "")
        asked = _Rows(known.keys[indices], known.sources[indices], known.has_column)
        is_candidate = ~is_drawn
        labels = [frozenset(drawn.labels.of_row(row)) for row in range(len(indices))]
    repeats = is_candidate & np.isin(known.keys, asked.keys)
    is_candidate &= ~repeats
    tokenized = _tokenize(drawn, entries, request)
    shares = _measure_overlap(drawn, entries, pool, is_candidate, request)
    has_answer = np.array([row.supervised > 0 for row in tokenized], np.bool_)
    rows = [row for row in tokenized if row.supervised]
    sources = merge_small(asked.sources[has_answer])
    heldout = HeldOut(
        described,
        drawn.pool_indices[has_answer],
        rows,
        sources,
        [each for each, keep in zip(labels, has_answer, strict=True) if keep],
        shares[has_answer],
        fingerprint_of({"rows": [[row.ids, row.labels] for row in rows], "sources": sources.tolist()}),
    )
    split = Split(
        heldout,
        pool.pool_indices[is_candidate],
        known.sources[is_candidate],
        int(np.count_nonzero(repeats)),
        int(np.count_nonzero(~has_answer)),
        fingerprint_of(
            {
                "pool": request.identity["mig_pool"],
                "rows": hashlib.sha256(pool.pool_indices[is_candidate].tobytes()).hexdigest(),
            }
        ),
    )
    _check(split, share)
    return split


def describe_split(split: Split) -> list[str]:
    """Say what was held out, and what is left to choose from."""
    heldout = split.heldout
    repeats, flagged = split.same_question, int(np.count_nonzero(heldout.is_flagged))
    lines = [
        f"held out: {plural(len(heldout.rows), 'answer')} from {_describe_sources(heldout)}, "
        f"{int(heldout.tokens.sum()):,} tokens with a loss ({heldout.described})",
        f"candidates: {plural(len(split.candidates), 'row')}; left out because they ask the question of a held-out "
        f"row: {repeats:,}",
        f"overlap: held-out rows that share at least half of their runs of {GRAM} words with candidates: {flagged:,}",
    ]
    if split.left_out:
        lines.append(f"  left out {split.left_out:,}: no token of the answer has a loss within cutoff_len")
    return lines


def _describe_sources(heldout: HeldOut) -> str:
    names = set(heldout.sources)
    if heldout.is_one_group:
        return "several sources, all taken together"
    if OTHER_SOURCES in names:
        return f"{plural(len(names) - 1, 'source')} and others taken together"
    return plural(len(names), "source")


def describe_one_group(heldout: HeldOut, share: float | None) -> str | None:
    """Warn if the measure cannot be an average over sources.

    Args:
        heldout: The held-out answers.
        share: Share of the pool that is held out; None if `eval_dataset` is.
    """
    if not heldout.is_one_group:
        return None
    return (
        f"too few sources have {FEWEST_ANSWERS} held-out answers, so all {len(heldout.rows):,} are one group: the "
        "measure is their plain average, and there are no figures by source. "
        f"{'Give a larger eval_dataset.' if share is None else f'Raise --holdout (now {share:g}).'}"
    )


def _read(pool: Pool, entries: Sequence[PoolEntry], column: str) -> _Rows:
    """Read the question and the source of each row."""
    keys, sources, has_column = [], [], False
    with progress("reading questions", len(pool.pool_indices), "rows", is_main=True) as bar:
        for row in _rows(pool, entries, column):
            keys.append(question_key(_question(row, entries)))
            sources.append(source_of(row.record, entries[row.entry_index], column))
            has_column |= column in row.record
            bar(1)
    return _Rows(np.array(keys, "V16"), np.array(sources, np.object_), has_column)


def _rows(pool: Pool, entries: Sequence[PoolEntry], *more: str) -> Iterator[PoolRow]:
    return pool.rows(sorted({*more, *(column for entry in entries for column in entry.columns.values())}))


def _question(row: PoolRow, entries: Sequence[PoolEntry]) -> str:
    entry = entries[row.entry_index]
    try:
        exchange = as_exchange(row.record, read_turns(row.record, entry), entry, "all")
    except ValueError:  # not a conversation, as in stage pt: all of it counts
        return text_of(row.record, entry)
    return f"{exchange.instruction}\n{exchange.input}"


def _draw(sources: NDArray[np.object_], share: float, seed: int) -> NDArray[np.int64]:
    """Draw a share of the rows of each source, at least one. Ascending."""
    members: defaultdict[str, list[int]] = defaultdict(list)
    for row, source in enumerate(sources):
        members[source].append(row)
    rng = random.Random(seed)
    drawn = [rng.sample(members[source], max(round(share * len(members[source])), 1)) for source in sorted(members)]
    return np.array(sorted(itertools.chain.from_iterable(drawn)), np.int64)


def _read_eval(request: Request) -> tuple[list[PoolEntry], Pool]:
    """Read the rows of `eval_dataset` on which training could be done; unreadable ones are skipped."""
    host, info = request.site.host, request.site.info
    entries = [resolve_entry(name, info.entries[name], info.folder) for name in dict.fromkeys(host.eval_dataset)]
    judges = [RowJudge(layout=entry.layout) for entry in entries]
    sources = [open_sources(entry) for entry in entries]
    contents = [[[request.hashes.file(file) for file in source.files] for source in each] for each in sources]
    cache = IndexCache(request.arguments.cache_dir, request.hashes)
    return entries, read_pool(entries, sources, contents, judges, "skip", lambda num_bytes: None, cache)


def _tokenize(pool: Pool, entries: Sequence[PoolEntry], request: Request) -> list[TokenizedRow]:
    columns = [list(dict.fromkeys(entry.columns.values())) for entry in entries]

    def trained() -> Iterator[tuple[int, Mapping[str, Any]]]:
        for row in _rows(pool, entries):
            yield row.entry_index, {column: row.record.get(column) for column in columns[row.entry_index]}

    return list(tokenize_rows(trained(), [entry.layout for entry in entries], request.site.host))


def _measure_overlap(
    drawn: Pool, entries: Sequence[PoolEntry], pool: Pool, is_candidate: NDArray[np.bool_], request: Request
) -> NDArray[np.float64]:
    texts = [text_of(row.record, entries[row.entry_index]) for row in _rows(drawn, entries)]
    candidates = pool.without(~is_candidate, "")
    with progress("comparing texts", len(candidates.pool_indices), "rows", is_main=True) as bar:

        def offered() -> Iterator[str]:
            for row in _rows(candidates, request.entries):
                yield text_of(row.record, request.entries[row.entry_index])
                bar(1)

        return shared_shares(texts, offered())


def merge_small(sources: NDArray[np.object_]) -> NDArray[np.object_]:
    """Take the sources with few answers together; with the smallest of the others, if even together they are few."""
    names, counts = np.unique(sources.astype(str), return_counts=True)
    ordered = sorted(zip(counts.tolist(), names.tolist(), strict=True))
    merged, total = set[str](), 0
    for count, name in ordered:
        if count >= FEWEST_ANSWERS and (total == 0 or total >= FEWEST_ANSWERS):
            break
        merged.add(name)
        total += count
    if len(merged) < 2:
        return sources
    return np.array([OTHER_SOURCES if source in merged else source for source in sources], np.object_)


def _check(split: Split, share: float | None) -> None:
    where = "eval_dataset" if share is None else "--holdout"
    if len(split.heldout.rows) < FEWEST_ANSWERS:
        raise ArgumentError(
            f"{where}: only {len(split.heldout.rows)} answers are held out, and a study needs {FEWEST_ANSWERS}; "
            f"{'give a larger dataset' if share is None else 'hold out a larger share'}."
        )
    if not len(split.candidates):
        raise ArgumentError(f"{where}: every row of the pool asks the question of a held-out row; none is left.")
