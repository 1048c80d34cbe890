"""From settings to a registered subset, top to bottom."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mig_selector.arguments import MigArguments, parse_arguments, split_keys
from mig_selector.console import plural
from mig_selector.errors import ArgumentError, HandoverError, MigSelectorError, RegistrationError
from mig_selector.integration.config import HostArguments
from mig_selector.integration.handover import check_origin_markers, check_output_is_free, has_tokenized_data
from mig_selector.pipeline.annotate import annotate
from mig_selector.pipeline.crew import Crew, in_plain_words
from mig_selector.pipeline.deliver import Finished, Outcome, deliver, describe_finished, settle
from mig_selector.pipeline.evaluation import rows_in_eval
from mig_selector.pipeline.lengths import count_row_tokens
from mig_selector.pipeline.report import Selected, plan_training
from mig_selector.pipeline.report_run import describe_report, report_selections
from mig_selector.pipeline.request import Request, resolve, warn_of_settings
from mig_selector.pipeline.stages import (
    Clock,
    Offered,
    choose,
    compile_method,
    describe_reading,
    embed,
    finish_scores,
    label,
    link,
    measure,
    read,
    resolve_budgets,
    restrict,
)
from mig_selector.pipeline.tokens import TokenTotals, tokenizer_name, tokenizing_settings, training_tokens
from mig_selector.pipeline.write import summarise, summarise_tokens, write_files, write_manifest
from mig_selector.ranks.world import Ranks
from mig_selector.report.writing import PAGE
from mig_selector.store.files import is_writable
from mig_selector.store.subsets import OLD_FOLDER_DIGITS, copy_subset, locked_subset, publish, staging_folder


logger = logging.getLogger(__name__)

FindFaults = Callable[[], list[str]]

LOCAL_TO_A_NODE = (
    *("mig_output_dir", "mig_cache_dir", "mig_label_embeddings", "mig_label_vocabulary", "mig_row_embeddings"),
    *("mig_embedding_model", "mig_row_embedding_model", "mig_ifd_model", "mig_tokenizer", "mig_tagger_model"),
    *("mig_deita_complexity_model", "mig_deita_quality_model", "mig_reward_model"),
    *("mig_embedding_batch_size", "mig_report", "mig_sidecar", "mig_annotator_url"),
)
"""Keys that may differ between nodes: paths, and what rank 0 tells the others anyway."""


def run_selection(
    settings: Mapping[str, Any],
    ranks: Ranks | None = None,
    *,
    training: bool = False,
    among: NDArray[np.int64] | None = None,
    register: bool = True,
    find_faults: FindFaults = list,
) -> list[Outcome]:
    """Select as a configuration says, register the subset, and say what training has to read.

    Args:
        settings: LLaMA-Factory's keys and the ``mig_*`` keys, as in a YAML.
        ranks: This process among those of the run; alone if None. Every rank must call this.
        training: Whether training follows: then there is one budget, and runs that would read other rows are refused.
        among: Pool indices of the rows to choose from, ascending, all of which the method can use; every row that it
            can use if None. Only rank 0's count.
        register: Whether the user's dataset_info.json gets the entries of the subsets.
        find_faults: Finds what is wrong with the host's keys. Called where training follows, or where there is a fault
            to report anyway, so that all faults are reported at once.

    Returns:
        One outcome per budget, in the order given; the same on every rank.

    Raises:
        MigSelectorError: Something that the user can fix; on every rank, with the same message.
    """
    ranks = ranks or Ranks()
    host_settings, own_settings = split_keys(settings)
    with _all_faults(find_faults):
        arguments = parse_arguments(own_settings, training=training)
        host = HostArguments.read(host_settings)
    if not ranks.are_on_one_node:
        _check_same_settings(arguments, host, ranks)
    crew = Crew(ranks, arguments)
    made: list[Selected] = []  # what is to be reported; stays empty on the other ranks
    answer = crew.run(
        lambda: _select_and_settle(
            arguments, host, crew, among, find_faults, made, training=training, register=register
        )
    )
    finished = [Finished(**fields) for fields in answer["finished"]]
    outcomes = [Outcome(**fields) for fields in answer["outcomes"]]
    outcomes = in_plain_words(
        lambda: deliver(finished, outcomes, arguments, host, ranks, training=training, register=register)
    )
    # Several budgets share lines, and the pool was described when it was read.
    lines = dict.fromkeys(line for outcome in outcomes for line in outcome.summary if not line.startswith("pool: "))
    for line in lines:
        logger.info("%s", line)
    report_selections(made, in_background=training)
    return outcomes


def _select_and_settle(
    arguments: MigArguments,
    host: HostArguments,
    crew: Crew,
    among: NDArray[np.int64] | None,
    find_faults: FindFaults,
    made: list[Selected],
    *,
    training: bool,
    register: bool,
) -> dict[str, Any]:
    """Do all that rank 0 does, add to `made` what is to be reported, and return what every rank is to know."""
    clock = Clock()
    with clock.stage("finding"), _all_faults(find_faults):
        request = resolve(arguments, host, among, is_registered=register)
    if training:
        is_found = request.find(request.fingerprints[0]) is not None
        if faults := find_faults():
            raise ArgumentError("\n".join(faults))
        check_output_is_free(host)
        check_origin_markers(host, request.fingerprints[0])
        if host.only_evaluates and not is_found:
            _refuse_to_select(host)
    with request.lock():
        finished = _select(request, crew, clock, made, processes=crew.size if training else None)
        outcomes = [settle(subset, request.site, register=register) for subset in finished]
    return {"finished": [asdict(each) for each in finished], "outcomes": [asdict(each) for each in outcomes]}


@contextlib.contextmanager
def _all_faults(find_faults: FindFaults) -> Iterator[None]:
    """Add the faults of the host's keys to an error that the block raises."""
    try:
        yield
    except MigSelectorError as error:
        faults = find_faults()
        if not faults:
            raise
        raise type(error)("\n".join([str(error), *faults])) from error


def _refuse_to_select(host: HostArguments) -> None:
    """Raise an error for a run that trains nothing and whose subset does not exist yet.

    A run that fills an empty tokenized_path prepares a training, so it is let through.
    """
    path = host.tokenized_path
    if path is not None and not has_tokenized_data(path):
        return
    raise HandoverError(
        "do_train is not set: nothing is trained, so nothing is selected, and the subset of these settings does not "
        "exist yet. Run `mig-selector select` with this configuration first, set do_train: true, or set "
        "mig_enabled: false to go on without the subset."
    )


def _select(request: Request, crew: Crew, clock: Clock, made: list[Selected], processes: int | None) -> list[Finished]:
    """Find the finished selections, one for each budget; else read, score, link, choose and write.

    `processes` train on the rows; None if no training follows. What is to be reported is added to `made`.
    """
    with clock.stage("finding"):
        found = [request.find(fingerprint) for fingerprint in request.fingerprints]
    if all(found):
        return [_reuse(request, *each, processes) for each in zip(request.fingerprints, found, strict=True)]
    if not is_writable(request.site.output_dir):  # known before the pool is read
        raise RegistrationError(
            f"mig_output_dir: {request.site.output_dir} cannot be written to; grant access to it, or give another."
        )
    offered = offer(request, crew, clock)
    with clock.stage("embedding rows"):
        vectors = embed(offered.pool, request, crew)
    totals, counts_fed = TokenTotals(request), _counts_fed_tokens(request, processes)
    if request.needs.method.declaration.is_compiled:
        with clock.stage("compiling"):
            compile_method(request, offered)
    choices = choose(request, offered, vectors, clock)
    finished = []
    for fingerprint, chosen in zip(request.fingerprints, choices, strict=True):
        folder = request.folder(fingerprint, chosen.budget)
        with locked_subset(folder, fingerprint):
            # A run with another cache may have finished the same subset meanwhile, and be training on it.
            manifest = request.read_finished(folder, fingerprint)
            if manifest is None:
                with staging_folder(folder) as staging:
                    with clock.stage("writing"):
                        written = write_files(request, offered, chosen, staging)
                        estimate = totals.of(written["subsets"], staging)
                    fed = None
                    if counts_fed:
                        with clock.stage("counting tokens"):
                            fed = training_tokens(request, written["subsets"], staging, chosen.tokens)
                    manifest = write_manifest(
                        request, fingerprint, offered, chosen, written, estimate, fed, clock.seconds, staging
                    )
                    publish(staging, folder)
        training = plan_training(request, chosen.budget, processes)
        summary = [
            *summarise(request, offered.pool, chosen, manifest, clock.seconds),
            *_describe_training(request, chosen.budget, processes),
            *_describe_evaluation(request, fingerprint, manifest, folder),
        ]
        if request.arguments.mig_report == "html":
            made.append(Selected(request, offered, chosen.selection, folder, manifest, training))
            summary.append(f"report: {folder / PAGE}{'' if processes is None else ' (being written)'}")
        finished.append(describe_finished(request, fingerprint, folder, manifest, summary))
    return finished


def offer(request: Request, crew: Crew, clock: Clock) -> Offered:
    """Read, score, label and link the rows: all that comes before their vectors and the choice."""
    warn_of_settings(request)
    with clock.stage("reading"):
        pool = read(request)
    resolve_budgets(request, pool)  # a budget that is too large is known before a model runs
    with clock.stage("annotating"):
        annotated = annotate(pool, request, crew)
    with clock.stage("scoring"):
        measured = restrict(measure(annotated.pool, request, crew), request)
    pool, labels = measured.pool, label(measured.pool, request)
    if request.among is None:  # a comparison has described the pool, once for all methods
        for line in describe_reading(pool, labels):
            logger.info("%s", line)
    with clock.stage("counting tokens"):
        tokens = count_row_tokens(request, pool)
    scores = finish_scores(measured, labels, request)
    graph = link(labels, annotated.label_vectors, request, crew, clock)
    return Offered(pool, labels, scores, graph, tokens, annotated.health)


def _reuse(request: Request, fingerprint: str, found: Any, processes: int | None) -> Finished:
    """Take a finished selection; copy it where another name or folder is wanted."""
    source, manifest = found
    folder = request.folder(fingerprint, manifest["budget"])
    if source == request.folder(fingerprint, manifest["budget"], OLD_FOLDER_DIGITS):
        folder = source
    elif request.read_finished(folder, fingerprint) is None:
        _copy(request, fingerprint, source, folder)
    kept = manifest["rows"]["kept"]
    summary = [f"already selected: {manifest['budget']:,} of {kept:,} rows; nothing is computed"]
    manifest = {**manifest, **_tokens_of_reused(request, manifest, folder, processes)}
    summary += summarise_tokens(manifest)
    summary += _describe_training(request, manifest["budget"], processes)
    summary += _describe_evaluation(request, fingerprint, manifest, folder)
    if request.arguments.mig_report == "html":
        summary.append(describe_report(folder))
    return describe_finished(request, fingerprint, folder, manifest, summary, is_reused=True)


def _counts_fed_tokens(request: Request, processes: int | None) -> bool:
    """Whether to count what training is fed for chosen rows, which takes LLaMA-Factory: seconds to import it.

    A budget of tokens has counted it, a training imports LLaMA-Factory anyway, and mig_count_tokens: supervised asks
    for it.
    """
    arguments = request.arguments
    return arguments.counts_tokens or processes is not None or arguments.mig_count_tokens == "supervised"


def _tokens_of_reused(
    request: Request, manifest: Mapping[str, Any], folder: Path, processes: int | None
) -> dict[str, Any]:
    """Return the tokens of a finished selection under this configuration, which may have another tokenizer."""
    fed, texts, named = manifest.get("training_tokens"), manifest.get("tokens"), tokenizer_name(request)
    if fed is not None and fed["settings"] != tokenizing_settings(request):
        fed = None
    if fed is None and _counts_fed_tokens(request, processes):
        fed = training_tokens(request, manifest["subsets"], folder, None)
    if texts is not None and (named is None or texts["tokenizer"] != named[1]):
        texts = None
    return {"training_tokens": fed, "tokens": texts}


def _describe_training(request: Request, num_rows: int, processes: int | None) -> list[str]:
    """Say what training on the rows takes; where none follows, what it would take on one process."""
    if processes is None and request.among is not None:  # whoever compares methods says it for all of them
        return []
    if (training := plan_training(request, num_rows, processes or 1)) is None:
        return []
    where = " on one process" if processes is None else ""
    steps, rows = plural(training.steps, "optimizer step"), plural(training.rows_per_step, "row")
    return [f"training{where}: {steps} of up to {rows}"]


def _describe_evaluation(request: Request, fingerprint: str, manifest: Mapping[str, Any], folder: Path) -> list[str]:
    """Say for the summary how many rows are for validation, and which datasets of `eval_dataset` have chosen rows."""
    counts = rows_in_eval(request, fingerprint, manifest["subsets"], folder)
    chosen = manifest["budget"]
    lines = []
    if held_out := sum(part["rows"] for part in manifest.get("validation", [])):
        again = manifest.get("validation_rows_chosen", 0)
        equal = f", {again:,} of them equal to a chosen one" if again else ""
        lines.append(f"validation: {plural(held_out, 'row')} not chosen{equal}")
    return lines + [
        f"eval_dataset {name}: {count:,} of the {chosen:,} chosen rows are in it; the loss on it will look too good"
        for name, count in counts.items()
    ]


def _copy(request: Request, fingerprint: str, source: Path, folder: Path) -> None:
    """Copy a finished selection to the folder where this run wants it."""
    with locked_subset(folder, fingerprint), staging_folder(folder) as staging:
        copy_subset(source, staging)
        if request.read_finished(staging, fingerprint) is None:
            raise RegistrationError(f"{source} was changed while it was copied; start again.")
        publish(staging, folder)


def _check_same_settings(arguments: MigArguments, host: HostArguments, ranks: Ranks) -> None:
    """Refuse a node that was started with other settings than rank 0's: one brain decides for all."""

    def shared() -> dict[str, Any]:
        keys = {key: value for key, value in arguments.values.items() if key not in LOCAL_TO_A_NODE}
        return {"dataset": list(host.dataset), **keys}

    mine = shared()
    for key, value in ranks.decide(shared).items():
        if value != mine[key]:
            raise ArgumentError(
                f"{key}: {mine[key]!r} on this node, but {value!r} on that of rank 0; "
                "start every node with the same configuration."
            )
