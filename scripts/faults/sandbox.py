"""Sandboxes for ``mig-selector select``, and what undisturbed runs write in them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.command import child_environment, option_words
from bench.pool.folder import MadePool, PoolSettings, make_pool
from demo.pool.layout import LAYOUT


POOL_NAME = "pool"
FOLDER_DIGITS = 16
"""Digits of the fingerprint at the end of the name of a subset's folder."""
MOVING_NAME = "moving"
"""Our own entry between entries of others; it is re-pointed to one subset after another."""

_HEAD = """{
\t"first" :  {"hf_hub_url":"someone/first",   "columns" : {"prompt":"q" , "response":"a"},"num":1.50e2 },

  "zw\\u00f6lf \u00e9" : { "file_name" : "not_there.json" ,
  "tags":{ } },"pool":%s"""
_MIDDLE = """"last":{"script_url":"a\\/b.py",
        "ranking" :true}"""
_END = "\n\n }\n "
_NUM_LABELS = 300


@dataclass(frozen=True)
class Selection:
    """One selection: its settings, as pairs of key and value, and its budget."""

    settings: tuple[tuple[str, str], ...]
    budget: int


@dataclass(frozen=True)
class Reference:
    """The subset that an undisturbed run wrote."""

    fingerprint: str
    folder: Path


@dataclass(frozen=True)
class Sandbox:
    """A dataset_dir with oddly formatted entries of others, a subset folder and a cache; the pool is elsewhere."""

    folder: Path
    pool: MadePool
    kernels: Path
    """Folder of compiled kernels; shared among sandboxes."""

    @property
    def data(self) -> Path:
        """The dataset_dir."""
        return self.folder / "data"

    @property
    def info(self) -> Path:
        """The dataset_info.json."""
        return self.data / "dataset_info.json"

    @property
    def subsets(self) -> Path:
        """The default folder of subsets."""
        return self.data / "mig_selections"

    @property
    def cache(self) -> Path:
        """The cache."""
        return self.folder / "cache"

    @property
    def foreign_text(self) -> tuple[str, str, str]:
        """The pieces of dataset_info.json that are not ours; our entries are between them."""
        pool = json.dumps({"file_name": str(self.pool.data), **LAYOUT}, separators=(" ,", " :  "))
        return _HEAD % pool, _MIDDLE, _END

    def create(self) -> None:
        """Create the dataset_dir and a dataset_info.json without any entry of ours."""
        head, _, end = self.foreign_text
        self.data.mkdir(parents=True)
        self.info.write_bytes((head + end).encode())

    def create_with_entry(self, selection: Selection) -> None:
        """Create the dataset_dir, and make a selection whose entry is between entries of others."""
        _, middle, end = self.foreign_text
        self.create()
        finish(self.start(selection, MOVING_NAME))
        text = self.info.read_bytes().decode()
        self.info.write_bytes(f"{text.removesuffix(end)},\n{middle}{end}".encode())

    def clear_cache(self) -> None:
        """Remove what is cached of pools, models and labels; temporary files of killed processes stay."""
        for name in ("pools", "content_hashes", "embeddings"):
            for file in (self.cache / name).rglob("*"):
                if file.is_file() and not file.name.startswith("."):
                    file.unlink()

    def command(self, budgets: Iterable[int], settings: Mapping[str, object]) -> list[str]:
        """Return what follows the interpreter in the command that selects with some budgets and settings."""
        everything = {
            "dataset": POOL_NAME,
            "dataset_dir": self.data,
            "mig_num_samples": ",".join(map(str, budgets)),
            "mig_cache_dir": self.cache,
            **settings,
        }
        return ["-m", "mig_selector", "select", *option_words(everything)]

    def environment(self, kernels: Path | None = None) -> dict[str, str]:
        """Return the environment of a selection; `kernels` replaces the folder of compiled kernels."""
        return child_environment(NUMBA_CACHE_DIR=str(kernels or self.kernels), HF_HUB_OFFLINE="1")

    def start(
        self, selection: Selection, name: str | None = None, *, kernels: Path | None = None
    ) -> subprocess.Popen[str]:
        """Start a selection in its own process group; its stdout and stderr can be read once it has exited."""
        return self.start_all([selection], name, kernels=kernels)

    def start_all(
        self, selections: Iterable[Selection], name: str | None = None, *, kernels: Path | None = None
    ) -> subprocess.Popen[str]:
        """Start one process for selections that differ only in their budgets."""
        several = list(selections)
        settings = {**dict(several[0].settings), **({"mig_dataset_name": name} if name else {})}
        return subprocess.Popen(
            [sys.executable, *self.command([each.budget for each in several], settings)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environment(kernels),
            text=True,
            start_new_session=True,
            preexec_fn=restore_interrupts,
        )

    def entry_name(self, selection: Selection, name: str | None = None) -> str:
        """Return the name of a selection's entry: the given one, or the default."""
        return name or f"{POOL_NAME}_mig_{selection.budget}"

    def find_entry(
        self, selection: Selection, fingerprint: str, name: str | None = None
    ) -> tuple[str, dict[str, str]]:
        """Return the name of a selection's entry in dataset_info.json, and the entry; an empty one if it has none.

        A default name that other settings have already gets a hash.
        """
        plain, known = self.entry_name(selection, name), json.loads(self.info.read_bytes())
        hashed = f"{plain}-{fingerprint[:6]}"
        found = hashed if name is None and hashed in known else plain
        return found, known.get(found, {})

    def subset_folder(self, selection: Selection, fingerprint: str, name: str | None = None) -> Path:
        """Return the folder in which the subset of a selection belongs."""
        return self.subsets / f"{self.entry_name(selection, name)}-{fingerprint[:FOLDER_DIGITS]}"


def restore_interrupts() -> None:
    """Handle SIGINT by default: background jobs of a shell ignore it, and their child processes inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def finish(process: subprocess.Popen[str]) -> str:
    """Wait for a selection; return its stdout.

    Raises:
        RuntimeError: It failed.
    """
    stdout, log = process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"an undisturbed selection exited with {process.returncode}:\n{log[-4_000:]}")
    return stdout


def make_settled_pool(folder: Path, rows: int, seed: int) -> MadePool:
    """Make a pool, and wait until the package will remember the content hashes of its files."""
    pool = make_pool(folder, PoolSettings(rows=rows, kind="jsonl", seed=seed, num_labels=_NUM_LABELS))
    pool.settle()
    return pool


def kernel_folder(folder: Path) -> Path:
    """Return the folder of compiled kernels: NUMBA_CACHE_DIR if it is set, else one below `folder`."""
    return Path(os.environ.get("NUMBA_CACHE_DIR") or folder / "kernels").absolute()


def given_vectors(pool: MadePool, **settings: object) -> tuple[tuple[str, str], ...]:
    """Return settings with the pool's label vectors."""
    return _settings({"mig_label_embeddings": pool.vectors.absolute(), **settings})


def encoded(encoder: Path, **settings: object) -> tuple[tuple[str, str], ...]:
    """Return settings with an encoder."""
    return _settings({"mig_embedding_model": encoder, **settings})


def _settings(values: Mapping[str, object]) -> tuple[tuple[str, str], ...]:
    return tuple((key, str(value)) for key, value in values.items())


def make_references(
    folder: Path, pool: MadePool, kernels: Path, selections: Iterable[Selection]
) -> dict[Selection, Reference]:
    """Make each selection in a new sandbox; those that differ only in their budgets share a process."""
    groups: dict[tuple[tuple[str, str], ...], list[Selection]] = {}
    for selection in dict.fromkeys(selections):
        groups.setdefault(selection.settings, []).append(selection)
    references = {}
    for number, several in enumerate(groups.values()):
        sandbox = Sandbox(folder / str(number), pool, kernels)
        sandbox.create()
        lines = finish(sandbox.start_all(several)).splitlines()
        for selection, line in zip(several, lines, strict=True):
            manifest = json.loads((Path(line) / "manifest.json").read_text(encoding="utf-8"))
            references[selection] = Reference(manifest["fingerprint"], Path(line))
    return references
