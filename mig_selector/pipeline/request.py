"""All that is known of a selection before a row is read: what it needs, its files and models, and its fingerprint."""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mig_selector.arguments import BUDGET_PLACEHOLDER, KEPT_COLUMNS, MigArguments, all_keys, own_keys, shorten_tokens
from mig_selector.embedding.encoder import Encoder, describe_plain_model, identify_encoder
from mig_selector.errors import ArgumentError, MigSelectorError, RegistrationError
from mig_selector.integration.config import HostArguments
from mig_selector.integration.dataset_info import OWN_KEY, check_name_is_free, resolve_entry
from mig_selector.pipeline.names import pool_part, selection_name, with_hash
from mig_selector.pipeline.needs import Needs, resolve_needs
from mig_selector.pipeline.site import Site, find_site, pool_names
from mig_selector.pipeline.validation import check_validation, validation_identity
from mig_selector.pool.entry import HubSource, PoolEntry
from mig_selector.pool.formats.files import open_sources
from mig_selector.pool.formats.row_source import RowSource
from mig_selector.pool.index.cache import check_unchanged
from mig_selector.pool.index.judge import RowJudge
from mig_selector.store.files import locked
from mig_selector.store.hashing import ContentHashes, fingerprint_of
from mig_selector.store.subsets import FOLDER_DIGITS, find_subset, read_manifest


ALGORITHM_VERSION = 2
"""Raised when the same settings would choose other rows than before, or when `_identity` changes."""

_MEASURES = {"response_tokens": "the length of their responses", "ifd": "IFD"}
"""What methods are named for that rank by these scores."""
_FILES = ("mig_label_vocabulary", "mig_label_embeddings", "mig_row_embeddings")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """A selection that is asked for, resolved as far as is possible before a row is read."""

    site: Site
    needs: Needs
    entries: list[PoolEntry]
    judges: list[RowJudge]
    """What decides which rows of each entry are kept."""
    sources: list[list[RowSource]]
    """The files of each entry."""
    contents: list[list[list[str]]]
    """The hashes of the files of each source, as they were when the request was resolved."""
    models: Mapping[str, Encoder]
    """The models that may have to run, by the key that names them."""
    hashes: ContentHashes
    identity: Mapping[str, Any]
    """All that decides the selection, but for the budget."""
    among: NDArray[np.int64] | None = None
    """Pool indices of the rows to choose from, ascending; all kept rows if None."""
    is_registered: bool = True
    """Whether the subset becomes an entry of the user's dataset_info.json."""

    @property
    def arguments(self) -> MigArguments:
        """The ``mig_*`` keys."""
        return self.site.arguments

    @property
    def identities(self) -> list[dict[str, Any]]:
        """All that decides the selection with each of the budgets."""
        unit = "num_tokens" if self.arguments.counts_tokens else "num_samples"
        return [{**self.identity, unit: budget} for budget in self.arguments.budgets]

    @property
    def fingerprints(self) -> list[str]:
        """The fingerprint of the selection with each of the budgets."""
        return [fingerprint_of(identity) for identity in self.identities]

    @property
    def tokenizer(self) -> Encoder | None:
        """The model whose tokenizer counts response tokens."""
        return self.models.get("mig_tokenizer") or self.models.get("model_name_or_path")

    @property
    def settings(self) -> dict[str, Any]:
        """Every ``mig_*`` key with its value, defaults that depend on others filled in; for the manifest."""
        needs, score = self.needs, self.needs.score
        sums = score is not None and score.stored.join == "sum of products"
        scorer = needs.annotation.scorer if needs.annotation else None
        names = {model.key: model.name for model in needs.models}
        filled = {
            "mig_scorer": scorer.name if scorer else None,
            "mig_embedding_model": names.get("mig_embedding_model"),
            "mig_tagger_model": names.get("mig_tagger_model", self.arguments["mig_tagger_model"]),
            "mig_labels": ",".join(needs.labels.paths) if needs.labels else None,
            "mig_score": score.name if score else None,
            "mig_deita_turns": "sum" if sums else self.arguments["mig_deita_turns"] or needs.method.declaration.turns,
            "mig_row_embedding_model": needs.embedding.model if needs.embedding else None,
            "mig_tokenizer": self.tokenizer.model if self.tokenizer else None,
        }
        return {**self.arguments.values, **filled}

    def config(self, fingerprint: str) -> dict[str, Any]:
        """Return the keys that select the same again, from any working directory; for the manifest.

        The host's keys that decide a selection, and every ``mig_`` key that does, with its value; tokens are left out.
        """
        host, info, arguments = self.site.host, self.site.info, self.arguments
        trained = host.model_name_or_path
        decides = {key.name for key in all_keys().values() if key.setting.decides} | set(arguments.more)
        if arguments.mig_label_vocabulary is not None:
            decides.remove("mig_min_label_count")  # has no effect then, and is refused beside a vocabulary
        budget = str(arguments.budgets[self.fingerprints.index(fingerprint)])
        config = {
            "dataset": [entry.name for entry in self.entries],
            "dataset_dir": info.dataset_dir if info.folder is None else str(info.folder),
            "stage": host.stage,
            "cache_dir": host.cache_dir,
            "model_name_or_path": str(Path(trained).absolute()) if trained and Path(trained).is_dir() else trained,
            **{key: value for key, value in arguments.values.items() if key in decides},
            "mig_pool": None,  # all names are in `dataset`
            "mig_num_samples": None if arguments.counts_tokens else budget,
            "mig_num_tokens": budget if arguments.counts_tokens else None,
            **(host.tokenizing if arguments.counts_tokens else {}),
            "mig_on_bad_row": arguments.mig_on_bad_row,
            "mig_cache_dir": str(arguments.cache_dir),
        }
        absolute = {key: model.model for key, model in self.models.items()}
        absolute |= {key: str(Path(config[key]).absolute()) for key in _FILES if config[key]}
        return {key: absolute.get(key, value) for key, value in config.items() if value is not None}

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep equal requests that run at the same time from doing the same work twice.

        Raises:
            RegistrationError: The cache cannot be written.
        """
        cache_dir = self.arguments.cache_dir
        path = cache_dir / "locks" / fingerprint_of({"selections": self.fingerprints})[:32]
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(locked(path))
            except OSError as error:
                raise RegistrationError(
                    f"mig_cache_dir: {cache_dir} cannot be written ({error}); give another folder."
                ) from error
            yield

    def find(self, fingerprint: str) -> tuple[Path, dict[str, Any]] | None:
        """Look for a finished selection that may be used again; return its folder and manifest."""
        if self.arguments.mig_overwrite:
            return None
        folder = find_subset(fingerprint, self.site.output_dir, self.arguments.cache_dir, self.hashes)
        manifest = self.read_finished(folder, fingerprint) if folder else None
        return None if folder is None or manifest is None else (folder, manifest)

    def read_finished(self, folder: Path, fingerprint: str) -> dict[str, Any] | None:
        """Return the manifest of a folder if it holds a selection that may be used again."""
        manifest = None if self.arguments.mig_overwrite else read_manifest(folder, fingerprint, self.hashes)
        if manifest is None:
            return None
        parts = [*manifest["subsets"], *manifest.get("validation", [])]
        if any(part["entry_index"] >= len(self.entries) for part in parts):
            return None
        if self.arguments.mig_on_bad_row == "error" and manifest["rows"]["unreadable"]:
            return None  # it was made by skipping rows at which this run must stop
        return manifest

    def folder(self, fingerprint: str, budget: int, digits: int = FOLDER_DIGITS) -> Path:
        """Return where the subset with a budget belongs."""
        return self.site.output_dir / f"{self._plain_name(fingerprint, budget)}-{fingerprint[:digits]}"

    def entry_name(self, fingerprint: str, budget: int) -> str:
        """Return the name of the selection: as configured, else made of pool, method and budget.

        A default name that other settings have already gets a short hash, so that two of them never re-point one
        entry by turns. A configured name is re-pointed: that is what it is for.
        """
        name = self._plain_name(fingerprint, budget)
        if self.arguments.mig_dataset_name is None and self.is_registered:
            for each in self._names_by_pool(name):
                if self.site.info.entries.get(each, {}).get(OWN_KEY, fingerprint) != fingerprint:
                    return with_hash(name, fingerprint)
        return name

    def subset_names(self, fingerprint: str, budget: int) -> list[str]:
        """Return the new entry for each name of the pool."""
        return self._names_by_pool(self.entry_name(fingerprint, budget))

    def _plain_name(self, fingerprint: str, budget: int) -> str:
        short = f"{budget // 1000}k" if budget % 1000 == 0 else str(budget)
        if self.arguments.counts_tokens:
            short = f"{shorten_tokens(self.token_budget(fingerprint))}_tokens"
        if self.arguments.mig_dataset_name is not None:
            return self.arguments.mig_dataset_name.replace(BUDGET_PLACEHOLDER, short)
        return selection_name([entry.name for entry in self.entries], self.needs.method.short_name, short)

    def token_budget(self, fingerprint: str) -> int:
        """Return the budget of tokens of the selection with a fingerprint."""
        return int(self.arguments.budgets[self.fingerprints.index(fingerprint)])

    def _names_by_pool(self, name: str) -> list[str]:
        if len(self.entries) == 1:
            return [name]
        return [pool_part(name, entry.name) for entry in self.entries]

    def describe_pool(self) -> list[dict[str, Any]]:
        """Name every pool file with size and hash."""
        return [
            {"dataset": entry.name, "file": str(file), "bytes": file.stat().st_size, "sha256": content}
            for entry, sources, contents in zip(self.entries, self.sources, self.contents, strict=True)
            for source, hashes in zip(sources, contents, strict=True)
            for file, content in zip(source.files, hashes, strict=True)
        ]

    def check_unchanged(self) -> None:
        """Refuse to go on with a pool file that was changed since the request was resolved.

        Raises:
            PoolError: One was.
        """
        for sources, contents in zip(self.sources, self.contents, strict=True):
            for source, content in zip(sources, contents, strict=True):
                check_unchanged(source, content, self.hashes)


def resolve(
    arguments: MigArguments,
    host: HostArguments,
    among: NDArray[np.int64] | None = None,
    *,
    is_registered: bool = True,
    hashes: ContentHashes | None = None,
    open_pool: Callable[[PoolEntry], list[RowSource]] = open_sources,
) -> Request:
    """Find names, files and models; nothing is loaded.

    Args:
        arguments: The ``mig_*`` keys.
        host: The host's keys.
        among: Pool indices of the rows to choose from, ascending; all that the method can use if None.
        is_registered: Whether the subset becomes an entry of the user's dataset_info.json.
        hashes: Hashes pool and models; with the cache of `arguments` if None.
        open_pool: Finds the files of an entry.

    Raises:
        MigSelectorError: A key, a name, a file or a model cannot be resolved.
    """
    needs = resolve_needs(arguments, host)
    check_validation(arguments, host)
    names = pool_names(arguments, host)
    hashes = hashes or ContentHashes(arguments.cache_dir)
    files = {key: Path(path) for key in _FILES if (path := arguments[key]) is not None}
    faults: list[MigSelectorError] = [
        ArgumentError(f"{key}: {path} is not a file.") for key, path in files.items() if not path.is_file()
    ]
    entries, judges, sources = [], [], []
    site: Site | None = None
    with _collecting(faults):
        site = find_site(arguments, host, host.dataset)
    for name in names if site is not None else ():
        with _collecting(faults):
            entries.append(_resolve_entry(name, site, host))
            judges.append(needs.judge(entries[-1], host))
            _check_kept_columns(entries[-1], arguments)
            sources.append(open_pool(entries[-1]))
    models = {}
    for model in needs.models:
        with _collecting(faults):
            models[model.key] = identify_encoder(
                model.name,
                arguments.mig_embedding_dtype if model.needs_weights else "auto",
                hashes,
                model.key,
                weights=model.needs_weights,
                is_default=model.key in all_keys() and arguments[model.key] in (None, all_keys()[model.key].default),
            )
    if site is None or faults:  # all at once
        raise type(faults[0])("\n".join(map(str, faults))) from faults[0]
    contents = [[[hashes.file(file) for file in source.files] for source in each] for each in sources]
    parts_files = {key: hashes.file(path) for key, path in files.items()}
    sidecar = [hashes.file(path) for path in needs.annotation.sidecar] if needs.annotation else []
    identity = _identity(arguments, needs, judges, _pool_identity(entries, contents), models, parts_files, sidecar)
    identity["mig_val_from"] = validation_identity(arguments, host)
    if arguments.counts_tokens:
        identity["tokens"] = {"stage": host.stage, **host.tokenizing}
    if among is not None:
        identity["among"] = hashlib.sha256(among.tobytes()).hexdigest()
    request = Request(site, needs, entries, judges, sources, contents, models, hashes, identity, among, is_registered)
    _check_names(request)
    return request


@contextlib.contextmanager
def _collecting(faults: list[MigSelectorError]) -> Iterator[None]:
    """Keep an error that the block raises, so that the next fault can be found too."""
    try:
        yield
    except MigSelectorError as error:
        faults.append(error)


def warn_of_settings(request: Request) -> None:
    """Say what is odd about scores, and about models that may have to run, before the pool is read."""
    declared, score = request.needs.method.declaration.score, request.needs.score
    if declared in _MEASURES and score is not None and score.name not in (declared, "constant"):
        logger.warning(
            "mig_score: %s ranks rows by %s and not by %s; leave mig_score out, or set mig_method: top_score",
            request.needs.method.name,
            score.name,
            _MEASURES[declared],
        )
    tagger = request.needs.annotation.tagger if request.needs.annotation else None
    for key in ("mig_embedding_model", *(["mig_tagger_model"] if tagger is not None and tagger.embeds_labels else [])):
        encoder = request.models.get(key)
        if encoder is not None and (odd := describe_plain_model(encoder)):
            logger.warning("%s: %s", key, odd)


def _resolve_entry(name: str, site: Site, host: HostArguments) -> PoolEntry:
    raw = site.info.entries[name]
    if raw.get("num_samples") is not None:
        logger.info("dataset %s: num_samples is ignored, the pool is all its rows", name)
    return resolve_entry(
        name,
        raw,
        site.info.folder,
        cache_dir=host.cache_dir,
        hf_hub_token=host.hf_hub_token,
        ms_hub_token=host.ms_hub_token,
    )


def _check_kept_columns(entry: PoolEntry, arguments: MigArguments) -> None:
    """Refuse to keep something in a column that training reads."""
    for each in arguments.kept:
        if (column := KEPT_COLUMNS[each]) in entry.columns.values():
            raise ArgumentError(
                f"mig_keep: {each} would be kept in a column {column!r}, but training reads a column of that name of "
                f"dataset {entry.name!r}; leave {each} out of mig_keep, or rename the column in the pool."
            )


def _pool_identity(entries: Sequence[PoolEntry], contents: Sequence[Sequence[Sequence[str]]]) -> list[dict[str, Any]]:
    """Return what decides the rows of the pool and how the host reads them; names do not."""
    return [
        {
            **entry.identity,
            "split": entry.split,
            "is_hub": isinstance(entry.source, HubSource),
            "files": [content for source in files for content in source],
        }
        for entry, files in zip(entries, contents, strict=True)
    ]


def _identity(
    arguments: MigArguments,
    needs: Needs,
    judges: Sequence[RowJudge],
    pool: list[dict[str, Any]],
    models: Mapping[str, Encoder],
    files: Mapping[str, str],
    sidecar: Sequence[str],
) -> dict[str, Any]:
    """Gather all that decides which rows are chosen and how they are written.

    Every deciding key is in it unless it belongs to a part that this selection does not have: a key that somebody adds
    and forgets here can make a selection be made again, but never an old one be taken for a new one. Values that only
    name something are replaced by what they name.
    """
    named: dict[str, Any] = {
        "mig_num_samples": None,  # added for each budget, and so are tokens
        "mig_num_tokens": None,
        "mig_pool": pool,
        "mig_method": needs.method.identity(needs.options),
        "mig_labels": needs.labels.identity if needs.labels else None,
        "mig_score": needs.score.identity if needs.score else None,
        "mig_embedding_model": None,  # models are added below, by their content
        "mig_row_embedding_model": asdict(replace(needs.embedding, model="")) if needs.embedding else None,
        "mig_keep": list(arguments.kept),  # in whatever order it was written
        **{key: files.get(key) for key in _FILES},
    }
    if arguments.mig_label_vocabulary is not None:
        named["mig_min_label_count"] = None  # has no effect then
    deciding = {
        key.name: named.get(key.name, arguments[key.name])
        for key in own_keys().values()
        if key.setting.decides and (key.setting.part is None or key.setting.part in needs.parts)
    }
    return {
        "algorithm": ALGORITHM_VERSION,
        "judges": [judge.identity for judge in judges],
        "models": {key: model.identity for key, model in models.items()},
        "annotation": None if needs.annotation is None else {**needs.annotation.identity, "sidecar": sidecar},
        **deciding,
    }


def _check_names(request: Request) -> None:
    """Refuse names of entries that are not ours, or that this run reads, as far as names are known by now."""
    if not request.is_registered:
        return
    info, host = request.site.info, request.site.host
    for fingerprint, budget in zip(request.fingerprints, request.arguments.budgets, strict=True):
        if isinstance(budget, int) or request.arguments.mig_dataset_name:
            for name in request.subset_names(fingerprint, int(budget) or 1):
                check_name_is_free(info, name)
                made_of = info.entries.get(name, {}).get(OWN_KEY, fingerprint)
                if name in (*host.dataset, *host.eval_dataset) and made_of != fingerprint:
                    raise RegistrationError(
                        f"mig_dataset_name: {name!r} is also a dataset that this run reads; it would be pointed to "
                        "the new subset. Set another name."
                    )
