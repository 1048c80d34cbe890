"""From settings to a registered subset, top to bottom."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mig_selector.arguments import MigArguments, parse_arguments, split_keys
from mig_selector.errors import ArgumentError
from mig_selector.integration.config import HostArguments
from mig_selector.integration.handover import check_origin_markers, check_output_is_free
from mig_selector.pipeline.crew import Crew, in_plain_words
from mig_selector.pipeline.deliver import Finished, Outcome, deliver, describe_finished, settle
from mig_selector.pipeline.evaluation import rows_in_eval
from mig_selector.pipeline.request import Request, resolve
from mig_selector.pipeline.stages import (
    Clock,
    choose,
    compile_method,
    embed,
    finish_scores,
    label,
    link,
    log_reading,
    measure,
    read,
    resolve_budgets,
    restrict,
)
from mig_selector.pipeline.tokens import TokenTotals, describe_tokens, tokenizer_name
from mig_selector.pipeline.write import summarise, write_files, write_manifest
from mig_selector.ranks.world import Ranks
from mig_selector.store.subsets import copy_subset


logger = logging.getLogger(__name__)

_LOCAL_TO_A_NODE = (
    *("mig_output_dir", "mig_cache_dir", "mig_label_embeddings", "mig_label_vocabulary", "mig_row_embeddings"),
    *("mig_embedding_model", "mig_row_embedding_model", "mig_ifd_model", "mig_tokenizer"),
    *("mig_embedding_batch_size", "mig_report"),
)
"""Keys that may differ between nodes: paths, and what rank 0 tells the others anyway."""


def run_selection(
    settings: Mapping[str, Any],
    ranks: Ranks | None = None,
    *,
    training: bool = False,
    among: NDArray[np.int64] | None = None,
) -> list[Outcome]:
    """Select as a configuration says, register the subset, and say what training has to read.

    Args:
        settings: LLaMA-Factory's keys and the ``mig_*`` keys, as in a YAML.
        ranks: This process among those of the run; alone if None. Every rank must call this.
        training: Whether training follows: then there is one budget, and runs that would read other rows are refused.
        among: Pool indices of the rows to choose from, ascending, all of which the method can use; every row that it
            can use if None. Only rank 0's count.

    Returns:
        One outcome per budget, in the order given; the same on every rank.

    Raises:
        MigSelectorError: Something that the user can fix; on every rank, with the same message.
    """
    ranks = ranks or Ranks()
    host_settings, own_settings = split_keys(settings)
    arguments = parse_arguments(own_settings, training=training)
    host = HostArguments.read(host_settings)
    if not ranks.are_on_one_node:
        _check_same_settings(arguments, host, ranks)
    crew = Crew(ranks, arguments)
    answer = crew.run(lambda: _select_and_settle(arguments, host, crew, among, training=training))
    finished = [Finished(**fields) for fields in answer["finished"]]
    outcomes = [Outcome(**fields) for fields in answer["outcomes"]]
    outcomes = in_plain_words(lambda: deliver(finished, outcomes, arguments, host, ranks, training=training))
    for outcome in outcomes:
        for line in outcome.summary:
            logger.info("%s", line)
    return outcomes


def _select_and_settle(
    arguments: MigArguments, host: HostArguments, crew: Crew, among: NDArray[np.int64] | None, *, training: bool
) -> dict[str, Any]:
    """Do all that rank 0 does, and return what every rank is to know."""
    clock = Clock()
    with clock.stage("finding"):
        request = resolve(arguments, host, among)
    if training:
        check_output_is_free(host)
        check_origin_markers(host, request.fingerprints[0])
    with request.lock():
        finished = _select(request, crew, clock)
        outcomes = [settle(subset, request.site, training=training) for subset in finished]
    return {"finished": [asdict(each) for each in finished], "outcomes": [asdict(each) for each in outcomes]}


def _select(request: Request, crew: Crew, clock: Clock) -> list[Finished]:
    """Find the finished selections, one for each budget; else read, score, link, choose and write."""
    with clock.stage("finding"):
        found = [request.find(fingerprint) for fingerprint in request.fingerprints]
    if all(found):
        return [_reuse(request, *each) for each in zip(request.fingerprints, found, strict=True)]
    with clock.stage("reading"):
        pool = read(request)
    resolve_budgets(request, pool)  # a budget that is too large is known before a model runs
    with clock.stage("scoring"):
        measured = restrict(measure(pool, request, crew), request)
    pool, labels = measured.pool, label(measured.pool, request)
    log_reading(pool, labels)
    scores = finish_scores(measured, labels, request)
    graph = link(labels, request, crew, clock)
    with clock.stage("embedding rows"):
        vectors = embed(pool, request, crew)
    totals = TokenTotals(request)
    if request.needs.method.declaration.is_compiled:
        with clock.stage("compiling"):
            compile_method(request, labels, scores, graph)
    choices = choose(request, pool, labels, scores, graph, vectors, clock)
    finished = []
    for fingerprint, chosen in zip(request.fingerprints, choices, strict=True):
        folder = request.folder(fingerprint, chosen.budget)
        with clock.stage("writing"):
            written = write_files(request, pool, labels, scores, chosen, folder)
            tokens = totals.of(written["subsets"], folder)
        seconds = clock.seconds
        manifest = write_manifest(request, fingerprint, pool, labels, graph, chosen, written, tokens, seconds, folder)
        summary = [
            *summarise(request, pool, chosen, tokens, seconds),
            *_warn_of_eval(request, fingerprint, manifest, folder),
        ]
        finished.append(describe_finished(request, fingerprint, folder, manifest, summary))
    return finished


def _reuse(request: Request, fingerprint: str, found: Any) -> Finished:
    """Take a finished selection; copy it where another name or folder is wanted."""
    source, manifest = found
    folder = request.folder(fingerprint, manifest["budget"])
    if folder != source:
        copy_subset(source, folder)
    kept = manifest["rows"]["kept"]
    summary = [f"already selected: {manifest['budget']:,} of {kept:,} rows; nothing is computed"]
    tokens, named = manifest.get("tokens"), tokenizer_name(request)
    if tokens and named and tokens["tokenizer"] == named[1]:
        summary.append(f"tokens: {describe_tokens(tokens, manifest['budget'])}")
    summary += _warn_of_eval(request, fingerprint, manifest, folder)
    return describe_finished(request, fingerprint, folder, manifest, summary, is_reused=True)


def _warn_of_eval(request: Request, fingerprint: str, manifest: Mapping[str, Any], folder: Path) -> list[str]:
    """Say for the summary which datasets of `eval_dataset` have chosen rows."""
    counts = rows_in_eval(request, fingerprint, manifest["subsets"], folder)
    chosen = manifest["budget"]
    return [
        f"eval_dataset {name}: {count:,} of the {chosen:,} chosen rows are in it; the loss on it will look too good"
        for name, count in counts.items()
    ]


def _check_same_settings(arguments: MigArguments, host: HostArguments, ranks: Ranks) -> None:
    """Refuse a node that was started with other settings than rank 0's: one brain decides for all."""

    def shared() -> dict[str, Any]:
        keys = {key: value for key, value in arguments.values.items() if key not in _LOCAL_TO_A_NODE}
        return {"dataset": list(host.dataset), **keys}

    mine = shared()
    for key, value in ranks.decide(shared).items():
        if value != mine[key]:
            raise ArgumentError(
                f"{key}: {mine[key]!r} on this node, but {value!r} on that of rank 0; "
                "start every node with the same configuration."
            )
