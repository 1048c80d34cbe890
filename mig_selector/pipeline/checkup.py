"""What ``mig-selector doctor`` looks at: the installation, the hook, GPUs, the cache, and a configuration.

Nothing is computed or downloaded, and no check stops another: each yields what it finds.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from mig_selector.arguments import MigArguments, is_switched_off, parse_arguments, split_keys
from mig_selector.errors import MigSelectorError
from mig_selector.integration.config import HostArguments, read_config
from mig_selector.integration.handover import check_output_is_free
from mig_selector.integration.host import check_host
from mig_selector.integration.host_settings import find_host_faults
from mig_selector.integration.packages import find_clashes
from mig_selector.pipeline.needs import resolve_needs
from mig_selector.pipeline.request import resolve
from mig_selector.pool.diagnosis import explain_entry, explain_first_rows
from mig_selector.pool.entry import HubSource, PoolEntry
from mig_selector.pool.formats.files import open_sources
from mig_selector.pool.formats.row_source import RowSource
from mig_selector.pool.index.judge import RowJudge
from mig_selector.ranks.devices import describe_gpus
from mig_selector.settings import is_own_key
from mig_selector.store.files import is_writable
from mig_selector.store.folders import absolute_path, default_cache_dir, has_private_path, is_private
from mig_selector.store.hashing import ContentHashes
from mig_selector.store.inventory import describe_size, find_cached


_SHOWN = (
    *("mig_selector", "llamafactory", "torch", "transformers", "accelerate", "deepspeed", "datasets"),
    *("sentence-transformers", "numba", "numpy", "pyarrow"),
)
_LAUNCHERS = ("torchrun", "llamafactory-cli")
_ASK_FOR_HOOK = (
    "import pathlib, sys, sysconfig; file = pathlib.Path(sysconfig.get_path('purelib')) / 'mig_selector.pth'; "
    "print('mig_selector._autoload' in sys.modules, file.is_file(), file)"
)
"""What an interpreter says of the hook when it has started."""


@dataclass(frozen=True)
class Finding:
    """What a check has found."""

    text: str
    level: Literal["ok", "note", "fault"] = "ok"


def check_installation() -> Iterator[Finding]:
    """Look at the packages and their versions."""
    found = []
    for name in _SHOWN:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} -")
    yield Finding(f"Python {'.'.join(map(str, sys.version_info[:3]))} ({sys.executable}), {', '.join(found)}")
    if found[0] == f"{_SHOWN[0]} -":
        yield Finding("mig_selector is on the path, but not installed: pip install .", level="fault")
    for clash in find_clashes("mig_selector"):
        yield Finding(clash, level="fault")


def check_hook() -> Iterator[Finding]:
    """Ask each interpreter that may train whether it registers the hook when it starts."""
    interpreters: dict[Path, list[str]] = {Path(sys.executable): ["this interpreter"]}
    for name in _LAUNCHERS:
        script = shutil.which(name)
        if script is None:
            yield Finding(f"{name} is not on PATH; activate the environment", level="note")
        else:
            interpreters.setdefault(_interpreter_of(Path(script)), []).append(f"{name} ({script})")
    for interpreter, users in interpreters.items():
        yield _ask_for_hook(interpreter, " and ".join(users))
    if os.environ.get("MIG_SELECTOR_DISABLE"):
        yield Finding("MIG_SELECTOR_DISABLE is set: training uses the whole pool", level="note")
    if os.environ.get("USE_V1", "0").lower() in {"true", "y", "1"}:
        yield Finding("USE_V1 is set: LLaMA-Factory's v1 trainer cannot be used; unset it", level="fault")


def _interpreter_of(script: Path) -> Path:
    """Return the Python that runs a script, by its first line; else the one beside it."""
    with script.open("rb") as stream:
        words = stream.readline(512).decode("utf-8", "replace").removeprefix("#!").split()
    is_python = bool(words) and Path(words[0]).is_absolute() and "python" in Path(words[0]).name
    return Path(words[0]) if is_python else script.with_name("python")


def _ask_for_hook(interpreter: Path, users: str) -> Finding:
    try:
        done = subprocess.run(
            [interpreter, "-c", _ASK_FOR_HOOK], capture_output=True, text=True, timeout=60, check=True
        )
        is_live, has_file, file = done.stdout.strip().splitlines()[-1].split(" ", 2)
    except (OSError, ValueError, IndexError, subprocess.SubprocessError) as error:
        return Finding(f"not live: {users}; {interpreter} does not answer ({error})", level="fault")
    if is_live == "True":
        return Finding(f"live: {users}")
    reason = f"{file} is there, but not read (python -S or -I?)" if has_file == "True" else f"{file} is missing"
    fix = f"{interpreter} -m pip install --force-reinstall --no-deps mig_selector"
    return Finding(f"not live: {users}; {reason}: {fix}", level="fault")


def check_gpus() -> Iterator[Finding]:
    """List the GPUs."""
    try:
        yield Finding("; ".join(describe_gpus()) or "none: models run on the CPU")
    except RuntimeError as error:
        yield Finding(str(error), level="fault")


def check_cache(configured: str | None = None) -> Iterator[Finding]:
    """Look at the cache: how large it is, and whether it can be used.

    Args:
        configured: ``mig_cache_dir``; the default if None.
    """
    try:
        folder = absolute_path(configured, "mig_cache_dir") if configured else default_cache_dir()
        cached = find_cached(folder)
        num_files = sum(len(kind.files) for kind in cached)
        size = describe_size(sum(kind.num_bytes for kind in cached))
        yield Finding(f"{folder}: {size} in {num_files:,} files")
        if not is_writable(folder):
            yield Finding(f"{folder} cannot be written to; set mig_cache_dir or MIG_SELECTOR_CACHE", level="fault")
        for path in (folder, *(kind.path for kind in cached)):
            if path.exists() and not is_private(path.stat()):
                yield Finding(
                    f"{path} belongs to another user, or others can write to it: what they put there is not used, and "
                    "made again; chown and chmod go-w it, or set MIG_SELECTOR_SHARED_CACHE=1 for a team's cache",
                    level="note" if os.environ.get("MIG_SELECTOR_SHARED_CACHE") == "1" else "fault",
                )
        # Compiled code is in the default cache, whatever mig_cache_dir says.
        kernels = Path(os.environ.get("NUMBA_CACHE_DIR") or folder / "kernels")
        if configured is None and kernels.exists() and not has_private_path(kernels):
            yield Finding(f"{kernels} is not private, so every run compiles again; set NUMBA_CACHE_DIR", level="fault")
    except (MigSelectorError, OSError) as error:
        yield Finding(str(error), level="fault")


def check_config(path: Path, overrides: Sequence[str] = ()) -> Iterator[Finding]:
    """Make every check of a configuration that needs no work.

    Args:
        path: The file.
        overrides: Words such as ``key=value``.
    """
    try:
        settings = read_config(path, overrides)
    except MigSelectorError as error:
        yield Finding(str(error), level="fault")
        return
    host_settings, own_settings = split_keys(settings)
    is_selecting = bool(own_settings) and not is_switched_off(settings)
    is_training = not {"model_name_or_path", "do_train"}.isdisjoint(host_settings)
    faults = [
        *(_selection_faults(own_settings, host_settings) if is_selecting else []),
        *(_training_faults(host_settings) if is_training else []),
    ]
    for line in dict.fromkeys(line for fault in faults for line in fault.splitlines()):
        yield Finding(line, level="fault")
    if not is_selecting:
        yield Finding("no mig_ key is set, or mig_enabled is false: training uses the whole pool", level="note")
    if not is_training:
        yield Finding(
            "neither model_name_or_path nor do_train is set: checked for `mig-selector select`, not for training",
            level="note",
        )
    if not faults:
        yield Finding("sound, as far as can be told before the pool is read")
    if isinstance(folder := own_settings.get("mig_cache_dir"), str):
        yield from check_cache(folder)


class _Unhashed(ContentHashes):
    """Finds files, but does not read them."""

    def file(self, path: Path) -> str:
        """Return nothing for a file that is there."""
        path.stat()
        return ""

    def folder(self, path: Path, without: tuple[str, ...] = ()) -> str:
        """Return nothing for a folder that is there."""
        path.stat()
        return ""


def _selection_faults(own_settings: dict[str, Any], host_settings: dict[str, Any]) -> list[str]:
    """Return what is wrong with the ``mig_`` keys, and with the pool, files and models that they name."""
    faults, host, arguments = [], None, None
    try:
        host = HostArguments.read(host_settings)
    except MigSelectorError as error:
        faults.append(str(error))
    try:
        arguments = parse_arguments(own_settings, training=host is not None and host.do_train)
    except MigSelectorError as error:
        faults.append(str(error))
    if host is None:
        return faults
    if arguments is not None:
        return faults + _pool_faults(arguments, host)
    found = "\n".join(_pool_faults(_read_sound_keys(own_settings), host, has_all_keys=False)).splitlines()
    # A key that could not be read seems not to be set, and what is wrong with its default is not the user's fault.
    return faults + [line for line in found if not is_own_key(line) or line.split(":")[0] in own_settings]


def _read_sound_keys(own_settings: dict[str, Any]) -> MigArguments:
    """Read the ``mig_`` keys without those that are wrong, so that what the others name can be checked."""
    sound: dict[str, Any] = {"mig_num_samples": 1}
    for key, value in own_settings.items():
        with contextlib.suppress(MigSelectorError):
            parse_arguments({**sound, key: value}, training=False)
            sound[key] = value
    return parse_arguments(sound, training=False)


def _pool_faults(arguments: MigArguments, host: HostArguments, *, has_all_keys: bool = True) -> list[str]:
    """Return what is wrong with the pool, files and models; what rows lack is known only with all keys."""
    faults: list[str] = []
    opened: list[tuple[PoolEntry, RowJudge, list[RowSource]]] = []  # also where another file or a model is missing

    def open_local(entry: PoolEntry) -> list[RowSource]:
        """Open the files of an entry; of a hub's dataset none, as it would be downloaded."""
        sources = [] if isinstance(entry.source, HubSource) else open_sources(entry)
        opened.append((entry, resolve_needs(arguments, host).judge(entry, host), sources))
        return sources

    try:
        resolve(arguments, host, hashes=_Unhashed(arguments.cache_dir), open_pool=open_local)
    except (MigSelectorError, OSError) as error:
        faults.append(str(error))
    try:
        for entry, judge, sources in opened:
            if (stage := judge.stage) is not None:
                faults += filter(None, (explain_entry(entry, source, stage) for source in sources))
        # The rows of a hub's dataset may have what those of the other files lack.
        if has_all_keys and all(sources for _, _, sources in opened):
            judged = [(source, judge) for _, judge, sources in opened for source in sources]
            faults += filter(None, [explain_first_rows(judged)])
    except (MigSelectorError, OSError) as error:
        faults.append(str(error))
    return faults


def _training_faults(settings: dict[str, Any]) -> list[str]:
    """Return what LLaMA-Factory would refuse."""
    faults = []
    try:
        check_output_is_free(HostArguments.read(settings))
        check_host()
    except MigSelectorError as error:
        faults.append(str(error))
    except Exception as error:  # noqa: BLE001  packages that do not fit each other raise anything when imported
        return [*faults, f"LLaMA-Factory cannot be imported: {type(error).__name__}: {error}"]
    return [*faults, *find_host_faults(settings, is_launched=False)]
