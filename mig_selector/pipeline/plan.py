"""All that is known of a selection before a row is read: names, files, model, fingerprint."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mig_selector.arguments import BUDGET_PLACEHOLDER, NAME_PATTERN, MigArguments
from mig_selector.embedding.encoder import Encoder, identify_encoder
from mig_selector.errors import ArgumentError
from mig_selector.integration.config import HostArguments
from mig_selector.integration.dataset_info import check_name_is_free, resolve_entry
from mig_selector.pipeline.needs import RESPONSE_TOKENS, Needs, resolve_needs
from mig_selector.pipeline.site import Site, find_site, pool_names
from mig_selector.pool.entry import HubSource, PoolEntry
from mig_selector.pool.formats.files import open_sources
from mig_selector.pool.formats.row_source import RowSource
from mig_selector.pool.index.cache import check_unchanged
from mig_selector.store.hashing import ContentHashes, fingerprint_of
from mig_selector.store.subsets import find_subset, read_manifest


ALGORITHM_VERSION = 1
"""Raised when the same settings would choose other rows than before."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Models:
    """The models that a selection may have to run; None where it needs none."""

    labels: Encoder | None = None
    rows: Encoder | None = None
    ifd: Encoder | None = None
    tokenizer: Encoder | None = None

    @property
    def facts(self) -> dict[str, Any]:
        """What decides what they yield."""
        named = {name: getattr(self, name) for name in ("labels", "rows", "ifd", "tokenizer")}
        return {name: encoder.identity for name, encoder in named.items() if encoder is not None}


@dataclass(frozen=True)
class Plan:
    """All that is known before a row is read."""

    site: Site
    entries: list[PoolEntry]
    sources: list[list[RowSource]]
    contents: list[list[list[str]]]
    """Hashes of the files of each source, as they were when the plan was made."""
    needs: Needs
    models: Models
    hashes: ContentHashes
    facts: dict[str, Any]
    """What decides the selection, but for the budget."""

    @property
    def arguments(self) -> MigArguments:
        """The ``mig_*`` keys."""
        return self.site.arguments

    @property
    def settings(self) -> dict[str, Any]:
        """The ``mig_*`` keys with every default filled in, for the manifest."""
        filled = {
            "mig_labels": self.needs.labels,
            "mig_score": self.needs.score,
            "mig_deita_turns": self.needs.turns,
            "mig_row_embedding_model": self.needs.embedding.model if self.needs.embedding else None,
            "mig_tokenizer": self.models.tokenizer.model if self.models.tokenizer else None,
        }
        return {**asdict(self.arguments), **filled}

    def mark(self, budget: float) -> str:
        """Return the fingerprint of the selection with a budget."""
        return fingerprint_of({**self.facts, "num_samples": budget})

    def find(self, mark: str) -> tuple[Path, dict[str, Any]] | None:
        """Look for a finished selection that may be used again."""
        if self.arguments.mig_overwrite:
            return None
        folder = find_subset(mark, self.site.output_dir, self.arguments.cache_dir, self.hashes)
        manifest = read_manifest(folder, mark, self.hashes) if folder else None
        if folder is None or manifest is None:
            return None
        if self.arguments.mig_on_bad_row == "error" and manifest["rows"]["unreadable"]:
            return None  # it was made by skipping rows that this run must stop at
        return folder, manifest

    def entry_name(self, budget: int) -> str:
        """Return the name of the selection: as configured, else made of pool, method and budget."""
        short = f"{budget // 1000}k" if budget % 1000 == 0 else str(budget)
        pools = "+".join(entry.name for entry in self.entries)
        name = self.arguments.mig_dataset_name or f"{pools}_{self.needs.method.short_name}_{short}"
        return name.replace(BUDGET_PLACEHOLDER, short)

    def subset_names(self, budget: int) -> list[str]:
        """Return the new entry for each name of the pool."""
        name = self.entry_name(budget)
        if len(self.entries) == 1:
            return [name]
        return [f"{name}__{entry.name}" for entry in self.entries]

    def describe_pool(self) -> list[dict[str, Any]]:
        """Name every pool file with size and hash."""
        return [
            {"dataset": entry.name, "file": str(file), "bytes": file.stat().st_size, "sha256": content}
            for entry, sources, contents in zip(self.entries, self.sources, self.contents, strict=True)
            for source, hashes in zip(sources, contents, strict=True)
            for file, content in zip(source.files, hashes, strict=True)
        ]

    def check_unchanged(self) -> None:
        """Refuse to go on with a pool file that was changed since the plan was made."""
        for sources, contents in zip(self.sources, self.contents, strict=True):
            for source, content in zip(sources, contents, strict=True):
                check_unchanged(source, content, self.hashes)


def make_plan(arguments: MigArguments, host: HostArguments, required: Collection[str] = ()) -> Plan:
    """Resolve names, files and models; nothing is loaded.

    Args:
        arguments: The ``mig_*`` keys.
        host: The host's keys.
        required: Where a row must have numbers, whatever the method.
    """
    needs = resolve_needs(arguments, required)
    names = pool_names(arguments, host)
    site = find_site(arguments, host, [*host.dataset, *host.eval_dataset])
    info = site.info
    entries = [
        resolve_entry(
            name,
            info.entries[name],
            info.folder,
            cache_dir=host.cache_dir,
            hf_hub_token=host.hf_hub_token,
            ms_hub_token=host.ms_hub_token,
        )
        for name in names
    ]
    hashes = ContentHashes(arguments.cache_dir)
    for key in ("mig_label_vocabulary", "mig_label_embeddings", "mig_row_embeddings"):
        _check_readable(key, getattr(arguments, key))
    sources = [open_sources(entry) for entry in entries]
    contents = [[[hashes.file(file) for file in source.files] for source in files] for files in sources]
    models = _identify_models(arguments, host, needs, hashes)
    for name in names:
        if info.entries[name].get("num_samples") is not None:
            logger.info("dataset %s: num_samples is left aside, the pool is all its rows", name)
    plan = Plan(
        site=site,
        entries=entries,
        sources=sources,
        contents=contents,
        needs=needs,
        models=models,
        hashes=hashes,
        facts=_selection_facts(arguments, needs, entries, contents, models, hashes),
    )
    _check_names(plan)
    return plan


def _identify_models(arguments: MigArguments, host: HostArguments, needs: Needs, hashes: ContentHashes) -> Models:
    dtype = arguments.mig_embedding_dtype
    labels = rows = ifd = tokenizer = None
    if needs.has("propagation") and arguments.mig_label_embeddings is None:
        labels = identify_encoder(arguments.mig_embedding_model, dtype, hashes)
    if needs.embedding is not None:
        rows = identify_encoder(needs.embedding.model, dtype, hashes, "mig_row_embedding_model")
    if needs.score == "ifd" and arguments.mig_ifd_model is not None:
        ifd = identify_encoder(arguments.mig_ifd_model, dtype, hashes, "mig_ifd_model")
    if needs.score == RESPONSE_TOKENS:
        name = arguments.mig_tokenizer or host.model_name_or_path
        if name is None:
            raise ArgumentError(
                "mig_tokenizer is missing; response_tokens are counted by a tokenizer (hub id or folder)."
            )
        tokenizer = identify_encoder(name, "auto", hashes, tokenizer_key(arguments), weights=False)
    return Models(labels, rows, ifd, tokenizer)


def tokenizer_key(arguments: MigArguments) -> str:
    """Return the key that names the tokenizer, for messages."""
    return "mig_tokenizer" if arguments.mig_tokenizer else "model_name_or_path"


def _check_readable(key: str, path: str | None) -> None:
    if path is not None and not Path(path).is_file():
        raise ArgumentError(f"{key}: {path} is no file.")


def _check_names(plan: Plan) -> None:
    """Refuse names that cannot be registered, as far as they are known before the pool is read."""
    whole = [budget for budget in plan.arguments.budgets if isinstance(budget, int)]
    for budget in whole or [1]:
        for name in plan.subset_names(budget):
            if not NAME_PATTERN.fullmatch(name):
                raise ArgumentError(
                    f"the entry would be named {name!r}, which is not allowed; set mig_dataset_name to 1 to 128 "
                    "letters, digits, '_', '.', '+' or '-'."
                )
            if whole or plan.arguments.mig_dataset_name:
                check_name_is_free(plan.site.info, name)


def _selection_facts(
    arguments: MigArguments,
    needs: Needs,
    entries: Sequence[PoolEntry],
    contents: Sequence[Sequence[Sequence[str]]],
    models: Models,
    hashes: ContentHashes,
) -> dict[str, Any]:
    """Gather what decides which rows are chosen and how they are written; no names, folders or batch sizes."""
    facts: dict[str, Any] = {
        "algorithm": ALGORITHM_VERSION,
        "method": needs.method.name,
        "settings": needs.method.facts(needs.settings),
        "pool": [
            {
                **entry.identity,
                "split": entry.split,
                "is_hub": isinstance(entry.source, HubSource),
                "files": [content for source in files for content in source],
            }
            for entry, files in zip(entries, contents, strict=True)
        ],
        "judge": needs.judge().identity,
        "score": needs.score,
        "models": models.facts,
    }
    if needs.method.declaration.may_fall_short:
        facts["fill"] = arguments.mig_fill
    if needs.labels is not None:
        vocabulary = arguments.mig_label_vocabulary
        facts["vocabulary"] = hashes.file(Path(vocabulary)) if vocabulary else arguments.mig_min_label_count
        facts["normalize"] = arguments.mig_normalize
    if needs.has("propagation"):
        facts["graph"] = [arguments.mig_edge_threshold, arguments.mig_propagation_weight]
        facts["label_vectors"] = _file_facts(arguments.mig_label_embeddings, hashes)
    if needs.has("embeddings"):
        facts["row_vectors"] = _file_facts(arguments.mig_row_embeddings, hashes)
        facts["row_text"] = asdict(replace(needs.embedding, model="")) if needs.embedding else None
    if needs.is_score_computed:
        facts["ifd_max_tokens"] = arguments.mig_ifd_max_tokens if models.ifd else None
    if needs.has_texts:
        facts["turns"] = arguments.mig_turns
    return facts


def _file_facts(path: str | None, hashes: ContentHashes) -> str | None:
    return hashes.file(Path(path)) if path else None
