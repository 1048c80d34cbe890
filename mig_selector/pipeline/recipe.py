"""The recipe, top to bottom: pool, what the method needs to know of it, selection, subset, registration.

`run_selection` is called on every rank. Rank 0 goes through `_Job.steps`; where a model has to run it yields a task
that every rank does, and then goes on.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Generator, Iterator, Mapping
from dataclasses import asdict
from decimal import ROUND_FLOOR, Decimal
from pathlib import Path
from typing import Any

from mig_selector.arguments import MigArguments, parse_arguments, split_keys
from mig_selector.arrays import LabelledPool, Selection
from mig_selector.console import progress
from mig_selector.errors import ArgumentError, RegistrationError
from mig_selector.integration.config import HostArguments
from mig_selector.integration.handover import check_origin_markers, check_output_is_free
from mig_selector.pipeline.delivery import Finished, Outcome, deliver, settle, tell_of
from mig_selector.pipeline.material import Material, Seconds
from mig_selector.pipeline.plan import Plan, make_plan
from mig_selector.pipeline.tasks import Task, in_plain_words, run_steps
from mig_selector.pipeline.writing import Chosen, summarise, write_files, write_manifest
from mig_selector.ranks.group import all_threads
from mig_selector.ranks.memory import measured_peak
from mig_selector.ranks.world import Ranks
from mig_selector.selection.budgets import choose_for_budgets
from mig_selector.selection.greedy import measure_information
from mig_selector.selection.objective import Objective
from mig_selector.store.files import locked
from mig_selector.store.hashing import fingerprint_of
from mig_selector.store.subsets import copy_subset


logger = logging.getLogger(__name__)

_PLACES = (
    *("mig_output_dir", "mig_cache_dir", "mig_label_embeddings", "mig_label_vocabulary", "mig_row_embeddings"),
    *("mig_embedding_model", "mig_row_embedding_model", "mig_ifd_model", "mig_tokenizer"),
    *("mig_embedding_batch_size", "mig_report"),
)
"""Keys that may differ between nodes: where things stand, and what rank 0 tells the others anyway."""


def run_selection(
    settings: Mapping[str, Any],
    ranks: Ranks | None = None,
    *,
    training: bool = False,
    required: Collection[str] = (),
) -> list[Outcome]:
    """Select as a configuration says, register the subset, and say what training has to read.

    Args:
        settings: LLaMA-Factory's keys and the ``mig_*`` keys, as in a YAML.
        ranks: This process among those of the run; alone if None.
        training: Whether training follows: then there is one budget, and runs that would read other rows are refused.
        required: Where a row must have numbers to be kept, whatever the method: dotted paths.

    Returns:
        One outcome per budget, in the order given; the same on every rank.

    Raises:
        MigSelectorError: Something that the user can put right; on every rank, with the same message.
    """
    ranks = ranks or Ranks()
    host_settings, own_settings = split_keys(settings)
    arguments = parse_arguments(own_settings, training=training)
    host = HostArguments.read(host_settings)
    if not ranks.are_on_one_node:
        _check_same_settings(arguments, host, ranks)
    with contextlib.ExitStack() as held:
        job = _Job(arguments, host, training, required, held)
        answer = run_steps(job.steps(), lambda: job.material, arguments, ranks)
    finished = [Finished(**facts) for facts in answer["finished"]]
    outcomes = [Outcome(**facts) for facts in answer["outcomes"]]
    outcomes = in_plain_words(lambda: deliver(finished, outcomes, arguments, host, ranks, training=training))
    for outcome in outcomes:
        for line in outcome.summary:
            logger.info("%s", line)
    return outcomes


def _shared_settings(arguments: MigArguments, host: HostArguments) -> dict[str, Any]:
    """Return the settings that must be the same on every node; folders and files may stand elsewhere on each."""
    keys = {key: value for key, value in asdict(arguments).items() if key not in _PLACES}
    return {"dataset": list(host.dataset), **keys}


def _check_same_settings(arguments: MigArguments, host: HostArguments, ranks: Ranks) -> None:
    """Refuse a node that was started with other settings than rank 0's: one brain decides for all."""
    mine = _shared_settings(arguments, host)
    for key, value in ranks.decide(lambda: mine).items():
        if value != mine[key]:
            raise ArgumentError(
                f"{key}: {mine[key]!r} on this node, but {value!r} on that of rank 0; "
                "start every node with the same configuration."
            )


class _Job:
    """The work of rank 0."""

    plan: Plan
    material: Material
    """What is known of the pool once it is read; only on rank 0, as all else."""

    def __init__(
        self,
        arguments: MigArguments,
        host: HostArguments,
        training: bool,
        required: Collection[str],
        held: contextlib.ExitStack,
    ) -> None:
        self.arguments, self.host, self.training, self.required = arguments, host, training, required
        self.held = held
        self.seconds = Seconds()

    def steps(self) -> Generator[Task, None, dict[str, Any]]:
        """Select and register; return what every rank is to know."""
        finished = yield from self._select()
        outcomes = [settle(subset, self.plan.site, training=self.training) for subset in finished]
        return {
            "finished": [asdict(subset) for subset in finished],
            "outcomes": [asdict(outcome) for outcome in outcomes],
        }

    def _select(self) -> Generator[Task, None, list[Finished]]:
        """Find the finished selections; else read, learn what the method needs to know, choose and write."""
        with self.seconds.timed("finding"):
            self.plan = plan = make_plan(self.arguments, self.host, self.required)
            marks = [plan.mark(budget) for budget in self.arguments.budgets]
            if self.training:
                check_output_is_free(self.host)
                check_origin_markers(self.host, marks[0])
            self.held.enter_context(_lock(self.arguments.cache_dir, fingerprint_of({"marks": marks})))
            found = [plan.find(mark) for mark in marks]
        if all(found):
            return [self._reuse(mark, *hit) for mark, hit in zip(marks, found, strict=True) if hit]
        self.material = material = Material(plan, self.seconds)
        material.read()
        self._resolve_budgets(material)
        yield from material.score()
        material.label()
        yield from material.link_labels()
        yield from material.embed()
        return [
            self._write(mark, material, chosen) for mark, chosen in zip(marks, self._choose(material), strict=True)
        ]

    def _resolve_budgets(self, material: Material) -> list[int]:
        return [_resolve_budget(budget, material.pool.report.kept) for budget in self.arguments.budgets]

    def _choose(self, material: Material) -> list[Chosen]:
        """Choose rows for each budget."""
        needs, budgets = self.plan.needs, self._resolve_budgets(material)
        with (
            self.seconds.timed("selecting"),
            measured_peak() as peak,
            all_threads(Ranks()),
            progress("selecting", max(budgets), "rows", is_main=True) as bar,
        ):
            selections, filled = choose_for_budgets(
                needs.method, material.candidates(), budgets, needs.settings, self.arguments.mig_fill, bar
            )
        return [
            Chosen(selection, number, information_of(material, selection), material.num_edges, peak.num_bytes)
            for selection, number in zip(selections, filled, strict=True)
        ]

    def _write(self, mark: str, material: Material, chosen: Chosen) -> Finished:
        """Write one subset, its table and its manifest."""
        plan = self.plan
        folder = plan.site.output_dir / f"{plan.entry_name(chosen.budget)}-{mark[:8]}"
        with self.seconds.timed("writing"):
            written = write_files(plan, material, chosen, folder)
        manifest = write_manifest(plan, mark, material, chosen, folder, written)
        return tell_of(plan, mark, folder, manifest, summarise(material, chosen))

    def _reuse(self, mark: str, found: Path, manifest: dict[str, Any]) -> Finished:
        """Take a finished selection; copy it where another name or folder is wanted."""
        folder = self.plan.site.output_dir / f"{self.plan.entry_name(manifest['budget'])}-{mark[:8]}"
        if folder != found:
            copy_subset(found, folder)
        summary = [
            f"already selected: {manifest['budget']:,} of {manifest['rows']['kept']:,} rows; nothing is computed"
        ]
        return tell_of(self.plan, mark, folder, manifest, summary)


def information_of(material: Material, selection: Selection) -> float | None:
    """Return E(D) of chosen rows (Eq. 8); None where there is no label graph, or no scores."""
    if material.propagation is None or material.scores is None:
        return None
    arguments, pool = material.arguments, material.candidates()
    objective = Objective(
        phi=arguments.mig_phi,
        exponent=arguments.mig_phi_exponent,
        offset=arguments.mig_phi_offset,
        rate=arguments.mig_phi_rate,
        gain=arguments.mig_gain,
    )
    return measure_information(LabelledPool(pool.labels, pool.scores), material.propagation, objective, selection.rows)


def _resolve_budget(budget: float, kept: int) -> int:
    """Turn a share of the kept rows into a number, rounded down; refuse more rows than there are."""
    if isinstance(budget, float):
        return max(int((Decimal(str(budget)) * kept).to_integral_value(ROUND_FLOOR)), 1)
    if budget > kept:
        raise ArgumentError(
            f"mig_num_samples: {budget} rows are asked for, but the pool has {kept} rows to choose from."
        )
    return int(budget)


@contextlib.contextmanager
def _lock(cache_dir: Path, name: str) -> Iterator[None]:
    """Keep equal selections that run at the same time from doing the same work twice."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(cache_dir / "locks" / name[:32]))
        except OSError as error:
            raise RegistrationError(
                f"mig_cache_dir: {cache_dir} cannot be written ({error}); give another folder."
            ) from error
        yield
