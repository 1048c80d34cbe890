"""Datasets from a hub, as `datasets` prepared them on this machine."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from mig_selector.errors import PoolError
from mig_selector.pool.entry import HubSource
from mig_selector.pool.formats.row_source import BATCH_ROWS, Span
from mig_selector.pool.formats.tables import TableSource, names_among


_REPOSITORY = re.compile(r"[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+")
_CODE_SUFFIXES = (".py", ".pkl", ".pickle", ".pt", ".pth")
"""Files that `datasets` might run or unpickle."""


class HubTable(TableSource):
    """A dataset from a hub, as `datasets` prepared it on this machine."""

    title = "a dataset"

    def __init__(self, source: HubSource, split: str, name: str) -> None:
        """Load `source` as the host does; it is downloaded if this machine does not have it yet."""
        self.name, self.kind = name, f"hub, split {split}"
        self._table = _load_from_hub(source, split)
        if not self.files:
            raise PoolError(
                f"the dataset {source.repository!r} was loaded into memory, so that no file tells whether it has "
                "changed. Download it, and set file_name."
            )
        self.size = int(self._table.data.nbytes)

    @property
    def files(self) -> list[Path]:
        """The Arrow files that `datasets` prepared."""
        return [Path(file["filename"]) for file in self._table.cache_files]

    def _num_rows(self, span: Span) -> int:
        del span
        return len(self._table)

    def _batches(self, columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
        present = names_among(self._table.column_names, columns)
        # A table without columns loses its number of rows in `datasets`, so that one column is always read.
        arrow = self._table.select_columns(present or self._table.column_names[:1]).with_format("arrow")
        for table in arrow.iter(BATCH_ROWS):
            for batch in table.combine_chunks().to_batches():
                yield batch.select(present)


def _check_repository(source: HubSource) -> None:
    """Refuse names that `datasets` takes for code, or for a reader that unpickles files, rather than for a dataset.

    A name such as ``pandas`` or ``webdataset`` is one of its packaged modules: together with `folder` it would
    unpickle local files. A pool's entry is data, and must not run anything.

    Raises:
        PoolError: The name is neither ``organisation/name`` nor a folder of data files.
    """
    key, name = f"{source.hub}_hub_url", source.repository
    folder = Path(name)
    if folder.is_dir():
        from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES

        code = next((file for file in folder.rglob("*") if _is_code(file.name)), None)
        if name in _PACKAGED_DATASETS_MODULES or code is not None:
            fault = f"{code} is not a data file" if code else f"{name!r} is also the name of a module of `datasets`"
            raise PoolError(f"{key}: {fault}; expected a folder of JSON, CSV, Parquet or Arrow files.")
    elif (
        os.path.lexists(folder)
        or not _REPOSITORY.fullmatch(name)
        or {".", ".."} & set(name.split("/"))
        or _is_code(name)
    ):
        raise PoolError(
            f"{key}: {name!r} is not a dataset on a hub; expected organisation/name, or a local folder of data files. "
            "Use file_name for a local file."
        )


def _is_code(name: str) -> bool:
    return name.lower().endswith(_CODE_SUFFIXES)


def _load_from_hub(source: HubSource, split: str) -> Any:
    _check_repository(source)
    try:
        if source.hub == "ms":
            return _load_from_modelscope(source, split)
        from datasets import load_dataset

        return load_dataset(
            source.repository,
            name=source.subset,
            data_dir=source.folder,
            split=split,
            cache_dir=source.cache_dir,
            token=source.token,
            keep_in_memory=False,  # whatever HF_DATASETS_IN_MEMORY_MAX_SIZE says: its files identify the pool
        )
    except Exception as error:
        package = _missing_package(error)
        remedy = (
            f" The package {package} is missing: `pip install {package}`, or download the dataset and set file_name."
            if package
            else ""
        )
        raise PoolError(
            f"the dataset {source.repository!r} cannot be loaded from its hub ({type(error).__name__}: {error})."
            f"{remedy}"
        ) from error


def _missing_package(error: BaseException | None) -> str | None:
    """Return the package whose absence is behind an error; hubs import what they need late and wrap the failure."""
    while error is not None:
        if isinstance(error, ModuleNotFoundError):
            return error.name
        error = error.__cause__ or error.__context__
    return None


def _load_from_modelscope(source: HubSource, split: str) -> Any:
    from modelscope import MsDataset
    from modelscope.utils.config_ds import MS_DATASETS_CACHE

    table = MsDataset.load(
        dataset_name=source.repository,
        subset_name=source.subset,
        data_dir=source.folder,
        split=split,
        cache_dir=source.cache_dir or MS_DATASETS_CACHE,
        token=source.token,
    )
    return table.to_hf_dataset() if isinstance(table, MsDataset) else table
