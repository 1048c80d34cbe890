"""Selection from Python, in a script or a notebook: a pool in, a dataset out."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mig_selector.arguments import parse_arguments
from mig_selector.errors import ArgumentError, PoolError
from mig_selector.integration.config import TOKENIZING_KEYS
from mig_selector.integration.dataset_info import resolve_entry
from mig_selector.pipeline.deliver import Outcome
from mig_selector.pipeline.recipe import run_selection
from mig_selector.pool.formats.files import open_sources
from mig_selector.settings import PREFIX
from mig_selector.store.files import read_json, whole_file, write_json
from mig_selector.store.folders import is_believed
from mig_selector.store.subsets import MANIFEST


_HOST_KEYS = frozenset({"model_name_or_path", "media_dir", "stage", "hf_hub_token", "ms_hub_token", *TOKENIZING_KEYS})
_ROLE_TAGS = {
    "role_tag": "role",
    "content_tag": "content",
    "user_tag": "user",
    "assistant_tag": "assistant",
    "system_tag": "system",
}
_NAME = "pool"


@dataclass(frozen=True, repr=False)
class Subset:
    """A finished selection."""

    outcome: Outcome
    """Folder, fingerprint and registered entries."""
    indices: NDArray[np.int64]
    """0-based rows of the pool in the order of choice. Shape (B,)."""
    gains: NDArray[np.float64]
    """What each row was worth to the method when it was chosen; NaN where the method weighs nothing. Shape (B,)."""
    _load: Callable[[], Any] = field(compare=False)

    @property
    def folder(self) -> Path:
        """Where selected.jsonl, selection.parquet and manifest.json are."""
        return Path(self.outcome.folder)

    @functools.cached_property
    def manifest(self) -> dict[str, Any]:
        """All that is needed to repeat the selection: files and hashes, row counts by reason, settings, versions."""
        manifest: dict[str, Any] = read_json(self.folder / MANIFEST)
        return manifest

    @functools.cached_property
    def dataset(self) -> Any:
        """The chosen rows as a `datasets.Dataset`, in the order of choice.

        Of a list or a Dataset the rows have all their columns, else those that training reads.
        """
        return self._load()

    def __len__(self) -> int:
        """Return B, the number of chosen rows."""
        return len(self.indices)

    def __repr__(self) -> str:
        """Show how many rows of how many were chosen, how, and where they are."""
        kept, information = self.manifest["rows"]["kept"], self.manifest["information"]
        value = "" if information is None else f", E(D) {information:.6g}"
        return (
            f"Subset({len(self):,} of {kept:,} rows by {self.manifest['method']}{value}, folder={str(self.folder)!r})"
        )


def select(
    pool: str | Path | Iterable[Mapping[str, Any]],
    *,
    num_samples: int | float | None = None,
    method: str | Callable[..., Any] = "mig",
    dataset_dir: str | Path | None = None,
    formatting: str | None = None,
    columns: Mapping[str, str] | None = None,
    tags: Mapping[str, str] | None = None,
    **settings: Any,
) -> Subset:
    """Choose the rows of a pool that are worth training on.

    Args:
        pool: A file or a folder of files, a list of dictionaries, or a `datasets.Dataset`; or the name of a dataset in
            the ``dataset_info.json`` of `dataset_dir`.
        num_samples: Rows to choose, or a share of the pool in (0, 1); or set ``num_tokens``.
        method: A name as ``mig_method`` takes it, or a function with the decorator `mig_selector.method`.
        dataset_dir: The folder of ``dataset_info.json``, where `pool` is a name.
        formatting: As in dataset_info.json (alpaca, sharegpt, openai), where `pool` is not a name; guessed from the
            columns if None.
        columns: As in dataset_info.json.
        tags: As in dataset_info.json.
        settings: Any other ``mig_*`` key, with or without its prefix: ``embedding_model=...``, ``score="rating"``; and
            LLaMA-Factory's ``stage``, ``model_name_or_path``, ``template``, ``cutoff_len``, ``media_dir`` and others
            that decide how rows are tokenized.

    Returns:
        The chosen rows. A second call with the same pool and settings computes nothing.

    Raises:
        MigSelectorError: Something that the caller can fix; the message says what.
    """
    keys: dict[str, Any] = {"mig_num_samples": _plain(num_samples), "mig_method": method}
    for name, value in settings.items():
        key = name if name in _HOST_KEYS or name.startswith(PREFIX) else f"{PREFIX}{name}"
        if key == "mig_num_samples" and num_samples is not None:
            raise ArgumentError("num_samples and mig_num_samples are both given; leave one of the two out.")
        keys[key] = _plain(value)
    arguments = parse_arguments({key: value for key, value in keys.items() if key.startswith(PREFIX)}, training=True)
    if dataset_dir is not None:
        if not isinstance(pool, str):
            raise ArgumentError(f"pool: expected the name of a dataset in {dataset_dir}, got {type(pool).__name__}.")
        outcome = run_selection({"dataset": pool, "dataset_dir": str(dataset_dir), **keys})[0]
        return _subset(outcome, lambda: _load_rows(outcome))
    path = pool if isinstance(pool, str | Path) else None
    folder = arguments.cache_dir / "notebook"
    if path is not None:
        file = Path(path).expanduser().absolute()
        if not file.exists():
            raise PoolError(
                f"pool: {path} does not exist; give a file, a folder, or the name of a dataset with dataset_dir."
            )
    else:
        file = _write_rows(pool, folder)
    entry = _entry(file, formatting, columns, tags)
    home = folder / hashlib.sha256(json.dumps(entry, sort_keys=True).encode()).hexdigest()[:16]
    write_json(home / "dataset_info.json", {_name(file): entry})
    outcome = run_selection({"dataset": _name(file), "dataset_dir": str(home), **keys})[0]
    if path is not None:
        return _subset(outcome, lambda: _load_rows(outcome))
    return _subset(outcome, lambda: _take_rows(pool, _read_table(outcome)["row_index"]))


def _plain(value: Any) -> Any:
    """Return a path as text, and a number of numpy as one of Python."""
    return str(value) if isinstance(value, Path) else value.item() if isinstance(value, np.generic) else value


def _name(file: Path) -> str:
    """Return a name for the pool that an entry may have."""
    return re.sub(r"[^A-Za-z0-9_.+-]", "_", file.stem)[:64] if file.parent.name != "notebook" else _NAME


def _write_rows(rows: Any, folder: Path) -> Path:
    """Write rows that are in memory to a file that is named by its content, so that they are indexed once."""
    if not (isinstance(rows, Sequence) or hasattr(rows, "_fingerprint")) or isinstance(rows, str | bytes):
        raise ArgumentError(
            f"pool: {type(rows).__name__} is not supported; give a path, a list of dictionaries or a datasets.Dataset "
            "(datasets.Dataset.from_pandas makes one of a data frame)."
        )
    if hasattr(rows, "to_parquet"):  # a datasets.Dataset keeps its own types
        file = folder / f"{hashlib.sha256(str(rows._fingerprint).encode()).hexdigest()[:32]}.parquet"
        if not (file.exists() and is_believed(file)):
            with whole_file(file) as stream:
                rows.to_parquet(stream)
        return file
    lines = []
    for index, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise ArgumentError(f"pool: row {index} must be a dictionary, got {type(row).__name__}.")
        try:
            lines.append(json.dumps(row, ensure_ascii=False, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise ArgumentError(f"pool: row {index} cannot be written as JSON ({error}).") from error
    data = "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogatepass")
    file = folder / f"{hashlib.sha256(data).hexdigest()[:32]}.jsonl"
    if not (file.exists() and is_believed(file)):
        with whole_file(file) as stream:
            stream.write(data)
    return file


def _entry(
    file: Path, formatting: str | None, columns: Mapping[str, str] | None, tags: Mapping[str, str] | None
) -> dict[str, Any]:
    """Describe a file as an entry of dataset_info.json does; what is not given is guessed from the first row."""
    given = {"formatting": formatting, "columns": columns, "tags": tags}
    entry = {"file_name": str(file), **{key: value for key, value in given.items() if value is not None}}
    return entry if len(entry) > 1 else {**entry, **_guess_layout(_first_row(file))}


def _first_row(file: Path) -> Mapping[str, Any]:
    sources = open_sources(resolve_entry(_NAME, {"file_name": str(file)}, file.parent))
    return next(iter(sources[0].read([0], [0], None)), {})


def _guess_layout(row: Mapping[str, Any]) -> dict[str, Any]:
    for column in ("messages", "dialogs", "conversations"):
        messages = row.get(column)
        if isinstance(messages, list) and messages and isinstance(messages[0], Mapping):
            layout: dict[str, Any] = {"formatting": "sharegpt", "columns": {"messages": column}}
            return {**layout, "tags": _ROLE_TAGS} if "role" in messages[0] else layout
    return {}


def _subset(outcome: Outcome, load: Callable[[], Any]) -> Subset:
    table = _read_table(outcome)
    return Subset(outcome, table["row_index"], table["gain"].astype(np.float64), load)


def _read_table(outcome: Outcome) -> dict[str, NDArray[Any]]:
    import pyarrow.parquet as pq

    table = pq.read_table(Path(outcome.folder) / "selection.parquet", columns=["row_index", "gain", "dataset"])
    return {name: table[name].to_numpy() for name in table.column_names}


def _load_rows(outcome: Outcome) -> Any:
    from datasets import concatenate_datasets, load_dataset

    manifest = read_json(Path(outcome.folder) / MANIFEST)
    kinds = {".jsonl": "json", ".parquet": "parquet", ".arrow": "arrow"}
    names = _read_table(outcome)["dataset"]
    parts, ranks = [], []
    for subset in manifest["subsets"]:  # one for each name of the pool
        file = Path(outcome.folder) / subset["file"]
        parts.append(load_dataset(kinds[file.suffix], data_files=[str(file)], split="train"))
        ranks.append(np.flatnonzero(names == subset["dataset"]))
    rows = concatenate_datasets(parts)
    return rows if len(parts) == 1 else rows.select(np.argsort(np.concatenate(ranks)))


def _take_rows(rows: Any, indices: NDArray[np.int64]) -> Any:
    from datasets import Dataset

    if isinstance(rows, Dataset):
        return rows.select(indices)
    chosen = [rows[index] for index in indices.tolist()]
    names = dict.fromkeys(name for row in chosen for name in row)
    # Not `from_list`: it takes only the columns that the first row has.
    return Dataset.from_dict({name: [row.get(name) for row in chosen] for name in names})
