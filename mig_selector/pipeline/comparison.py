"""Several methods on one pool and one budget: the same rows to choose from, and the same measures for all."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mig_selector.annotation.tokens import count_tokens
from mig_selector.arguments import BUDGET_PLACEHOLDER, MigArguments, parse_arguments, split_keys
from mig_selector.arrays import Selection
from mig_selector.errors import ArgumentError
from mig_selector.integration.config import HostArguments
from mig_selector.pipeline.delivery import Outcome
from mig_selector.pipeline.material import Material, Seconds
from mig_selector.pipeline.needs import DEFAULT_LABELS, Needs, resolve_needs
from mig_selector.pipeline.plan import Plan, make_plan, tokenizer_key
from mig_selector.pipeline.recipe import information_of, run_selection
from mig_selector.pipeline.site import pool_names
from mig_selector.pipeline.tasks import Task, run_steps
from mig_selector.pipeline.texts import read_exchanges
from mig_selector.pool.reading import Pool
from mig_selector.ranks.world import Ranks
from mig_selector.report.comparison import Comparison, MethodFigures, format_table
from mig_selector.report.writing import write_comparison
from mig_selector.store.files import read_json
from mig_selector.store.hashing import fingerprint_of
from mig_selector.store.subsets import MANIFEST


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Compared:
    """A comparison on disk."""

    folder: str
    """Where its files are; absolute."""
    table: str
    """The figures, for a terminal."""


def compare_methods(settings: Mapping[str, Any], methods: Sequence[str], ranks: Ranks | None = None) -> Compared:
    """Select with each method as `run_selection` does, and write what they chose side by side.

    All choose from the rows that every one of them can use. E(D) is measured where ``mig`` is among the methods.

    Args:
        settings: LLaMA-Factory's keys and the ``mig_*`` keys, as in a YAML, with one budget.
        methods: Names as ``mig_method`` takes them; at least one, each once.
        ranks: This process among those of the run; alone if None. Every rank must call this.

    Returns:
        Where the comparison is; the same on every rank.

    Raises:
        MigSelectorError: Something that the user can put right; on every rank, with the same message.
    """
    ranks = ranks or Ranks()
    host_settings, own_settings = split_keys(settings)
    needs = _resolve_all(own_settings, methods)
    host = HostArguments.read(host_settings)
    common = {**settings, **_common_keys(own_settings, needs)}
    measure = "mig" if "mig" in methods else "top_score" if any(each.score for each in needs) else "random"
    arguments = parse_arguments({**split_keys(common)[1], "mig_method": measure}, training=False)
    outcomes: list[Outcome] = []
    required = sorted({path for each in needs for path in each.number_paths})
    for each in needs:
        logger.info("comparing: %s", each.method.name)
        # Of a name of their own: entries of plain selections keep pointing to theirs.
        name = f"{'+'.join(pool_names(arguments, host))}_compared_{each.method.short_name}_{BUDGET_PLACEHOLDER}"
        keys = {"mig_method": each.method.name, "mig_dataset_name": name}
        outcomes += run_selection({**common, **keys}, ranks, required=required)
    job = _Measuring(arguments, host, methods, outcomes, required)
    return Compared(**run_steps(job.steps(), lambda: job.material, arguments, ranks))


def _resolve_all(own_settings: Mapping[str, Any], methods: Sequence[str]) -> list[Needs]:
    """Check all settings and methods before anything is read."""
    if len(set(methods)) != len(methods) or not all(methods):
        raise ArgumentError(
            f"--methods: expected different names with commas between them, got {','.join(methods)!r}."
        )
    if own_settings.get("mig_dataset_name"):
        raise ArgumentError(
            "mig_dataset_name names one dataset, but a comparison makes one for each method; leave it out."
        )
    found = []
    for method in methods:
        arguments = parse_arguments({**own_settings, "mig_method": method}, training=False)
        if len(arguments.budgets) > 1:
            raise ArgumentError(
                f"mig_num_samples: {arguments.mig_num_samples!r} is a list; a comparison takes one budget."
            )
        found.append(resolve_needs(arguments))
    return found


def _common_keys(own_settings: Mapping[str, Any], needs: Sequence[Needs]) -> dict[str, Any]:
    """Have labels read for all methods if one needs them: then all keep the same rows."""
    if any(each.labels for each in needs):
        return {"mig_labels": own_settings.get("mig_labels") or DEFAULT_LABELS}
    return {}


class _Measuring:
    """The work of rank 0 after the methods have chosen."""

    material: Material

    def __init__(
        self,
        arguments: MigArguments,
        host: HostArguments,
        methods: Sequence[str],
        outcomes: Sequence[Outcome],
        required: Sequence[str],
    ) -> None:
        self.arguments, self.host, self.methods = arguments, host, methods
        self.outcomes, self.required = outcomes, required

    def steps(self) -> Generator[Task, None, dict[str, Any]]:
        """Read the pool again from the cache, measure each choice, and write the comparison."""
        plan = make_plan(self.arguments, self.host, self.required)
        self.material = material = Material(plan, Seconds())
        material.read()
        yield from material.score()
        material.label()
        yield from material.link_labels()
        comparison = self._compare(material)
        marks = fingerprint_of({"methods": list(self.methods), "marks": [one.fingerprint for one in self.outcomes]})
        folder = plan.site.output_dir / f"comparison-{marks[:8]}"
        write_comparison(folder, comparison)
        return asdict(Compared(str(folder), format_table(comparison)))

    def _compare(self, material: Material) -> Comparison:
        pool, report = material.pool, material.pool.report
        manifests = [read_json(Path(outcome.folder) / MANIFEST) for outcome in self.outcomes]
        chosen = [_read_choice(pool, Path(outcome.folder)) for outcome in self.outcomes]
        looks = _Looks(material, self.host, np.unique(np.concatenate(chosen)))
        return Comparison(
            pool="+".join(entry.name for entry in material.plan.entries),
            budget=self.outcomes[0].budget,
            kept_rows=report.kept,
            read_rows=report.read,
            score=material.plan.needs.score or "none",
            tokenizer=looks.tokenizer,
            figures=[
                _measure(method, rows, manifest, outcome.folder, material, looks)
                for method, rows, manifest, outcome in zip(self.methods, chosen, manifests, self.outcomes, strict=True)
            ],
            overlaps=[[len(np.intersect1d(one, other)) / len(one) for other in chosen] for one in chosen],
            settings=material.plan.settings,
            versions=manifests[0]["versions"],
        )


def _read_choice(pool: Pool, folder: Path) -> NDArray[np.int64]:
    """Return the chosen rows as places among the kept ones, in the order of choice."""
    import pyarrow.parquet as pq

    rows = pq.read_table(folder / "selection.parquet", columns=["row_index"])["row_index"].to_numpy()
    places: NDArray[np.int64] = np.searchsorted(pool.pool_indices, rows)
    return places


class _Looks:
    """What the rows that some method chose are like: length and source."""

    def __init__(self, material: Material, host: HostArguments, rows: NDArray[np.int64]) -> None:
        """Read `rows`, ascending places among the kept ones."""
        self._rows = rows
        is_left_out = np.ones(material.pool.report.kept, np.bool_)
        is_left_out[rows] = False
        pool = material.pool.without(is_left_out, "not chosen")
        self._sources = list(_sources(material, pool))
        self.tokenizer = material.arguments.mig_tokenizer or host.model_name_or_path
        self._tokens: NDArray[np.int64] | None = None
        if self.tokenizer is not None:
            plan = _with_all_turns(material.plan)
            texts = ("\n".join((each.instruction, each.input, each.response)) for each in read_exchanges(plan, pool))
            self._tokens = count_tokens(texts, self.tokenizer, tokenizer_key(material.arguments))

    def tokens(self, rows: NDArray[np.int64]) -> int | None:
        """Return the tokens of some rows together."""
        return None if self._tokens is None else int(self._tokens[np.searchsorted(self._rows, rows)].sum())

    def sources(self, rows: NDArray[np.int64]) -> dict[str, int]:
        """Count some rows by source."""
        return dict(Counter(self._sources[place] for place in np.searchsorted(self._rows, rows)))


def _with_all_turns(plan: Plan) -> Plan:
    arguments = replace(plan.arguments, mig_turns="all")
    return replace(plan, site=replace(plan.site, arguments=arguments))


def _sources(material: Material, pool: Pool) -> Iterator[str]:
    """Yield where each row is from: its own `source`, as the published pools name it, else the dataset."""
    for row in pool.rows(["source"]):
        source = row.record.get("source")
        names = source if isinstance(source, list) else [source]
        known = [name for name in names if isinstance(name, str) and name]
        yield "+".join(known) or material.plan.entries[row.entry_index].name


def _measure(
    method: str,
    rows: NDArray[np.int64],
    manifest: Mapping[str, Any],
    folder: str,
    material: Material,
    looks: _Looks,
) -> MethodFigures:
    filled = manifest["rows_filled_by_score"]
    return MethodFigures(
        method=method,
        rows=len(rows),
        seconds=manifest["seconds"]["selecting"],
        peak_memory_bytes=manifest["peak_memory_bytes"],
        information=information_of(material, Selection(rows, np.full(len(rows), np.nan))),
        label_coverage=_coverage(material, rows),
        mean_score=None if material.scores is None else float(np.mean(material.scores[rows])),
        tokens=looks.tokens(rows),
        sources=looks.sources(rows),
        folder=folder,
        note=f"{filled:,} rows filled up by score" if filled else None,
    )


def _coverage(material: Material, rows: NDArray[np.int64]) -> float | None:
    labels = material.labels
    if labels is None:
        return None
    has_label = np.zeros(len(labels.names), np.bool_)
    for row in rows:
        has_label[labels.ids[labels.offsets[row] : labels.offsets[row + 1]]] = True
    return float(np.mean(has_label))
