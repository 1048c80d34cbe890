"""Makes small changes (mutations) to the code, and counts how many of them the tests notice.

python -m pip install cosmic-ray
python scripts/mutate.py                                # 40 mutations of each folder, drawn with seed 0: an hour
python scripts/mutate.py --only store --sample 200 --seed 1
python scripts/mutate.py --only store/matrix.py --sample 10

The repository is copied to a temporary folder, and cosmic-ray changes the copy: one operator, number or keyword at a
time, then it runs the tests of that file. A mutation that no test notices is printed with its line. The exit code is 1
if fewer than `--least` percent of a folder's are noticed.

``--python`` names the interpreter that runs the tests, if the package is not installed in the one that has cosmic-ray.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any


ROOT = Path(__file__).parents[1]
TESTS = {
    "selection/budgets.py": "tests/test_methods.py -k falls_short",
    "selection/clusters.py": "tests/selection/test_clusters.py",
    "selection/compiling.py": "tests/selection/test_compiling.py",
    "selection/coverage.py": "tests/selection/test_coverage.py tests/selection/methods/test_qdit.py",
    "selection/greedy.py": "tests/selection/test_greedy.py tests/selection/test_rounds.py",
    "selection/kernel.py": "tests/selection/test_greedy.py tests/selection/test_rounds.py",
    "selection/method.py": "tests/selection/test_registry.py tests/test_keys.py",
    "selection/methods/car.py": "tests/selection/methods/test_car.py",
    "selection/methods/deita.py": "tests/selection/methods/test_deita.py",
    "selection/methods/instag.py": "tests/selection/methods/test_instag.py",
    "selection/methods/mig.py": "tests/test_keys.py tests/test_arguments.py",
    "selection/methods/qdit.py": "tests/selection/methods/test_qdit.py",
    "selection/methods/random.py": "tests/selection/methods/test_random.py",
    "selection/methods/top.py": "tests/selection/methods/test_top.py",
    "selection/methods/zip.py": "tests/selection/methods/test_zip.py",
    "selection/objective.py": "tests/selection/test_rounds.py tests/selection/test_greedy.py",
    "selection/passes.py": "tests/selection/methods/test_instag.py",
    "selection/registry.py": "tests/selection/test_registry.py tests/test_keys.py tests/test_arguments.py",
    "selection/rounds.py": "tests/selection/test_rounds.py tests/selection/test_greedy.py",
    "selection/twins.py": "tests/selection/test_twins.py tests/selection/test_greedy.py",
    "selection/unit_rows.py": "tests/selection/test_unit_rows.py",
    "store/files.py": "tests/store/test_files.py",
    "store/folders.py": "tests/store/test_folders.py",
    "store/hashing.py": "tests/store/test_hashing.py",
    "store/matrix.py": "tests/store/test_matrix.py",
    "store/subsets.py": "tests/store/test_subsets.py",
    "store/vectors.py": "tests/store/test_vectors.py",
    "integration/callback.py": "tests/integration/test_callback.py",
    "integration/config.py": "tests/integration/test_config.py",
    "integration/dataset_info.py": "tests/integration/test_dataset_info.py",
    "integration/handover.py": "tests/integration/test_handover.py",
    "integration/host.py": "tests/integration/test_host.py",
    "integration/host_settings.py": "tests/integration/test_host_settings.py",
    "integration/mixing.py": "tests/integration/test_mixing.py",
}
"""File of the package -> the tests that must notice a change to it."""
UNEVALUATED = "ReplaceBinaryOperator_BitOr"
"""Operators that mostly change type annotations (``int | None``), which nothing evaluates."""


def main() -> int:
    """Mutate the files asked for, and print a table."""
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory(prefix="mutate-") as folder:
        copy = Path(folder) / "repository"
        shutil.copytree(
            ROOT, copy, ignore=shutil.ignore_patterns(".git", ".venv*", "__pycache__", ".*_cache", "shared")
        )
        sessions = [Session(copy, name, arguments) for name in TESTS if name.startswith(tuple(arguments.only))]
        if not sessions:
            sys.exit(f"--only: no such folder or file; known: {', '.join(TESTS)}")
        draw(sessions, arguments.sample, arguments.seed)
        figures: dict[str, Counter[str]] = defaultdict(Counter)
        for session in sessions:
            figures[session.folder] += session.run()
    for name, figure in figures.items():
        print(f"{name}: {figure['noticed']} of {figure.total()} mutations noticed ({share(figure):.0f} %)")
    return 0 if all(share(figure) >= arguments.least for figure in figures.values()) else 1


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[""], metavar="NAME", help="folders or files, such as store")
    parser.add_argument("--sample", type=int, default=40, help="mutations per folder, drawn at random (default 40)")
    parser.add_argument("--seed", type=int, default=0, help="which mutations are drawn (default 0)")
    parser.add_argument("--least", type=float, default=85, help="percent that must be noticed (default 85)")
    parser.add_argument("--timeout", type=float, default=300, help="seconds after which a run counts as noticed")
    parser.add_argument("--python", default=sys.executable, help="interpreter that runs the tests")
    return parser.parse_args()


class Session:
    """The mutations of one file, and cosmic-ray's record of them."""

    def __init__(self, copy: Path, name: str, arguments: argparse.Namespace) -> None:
        """List the mutations of a file of the copy."""
        self.name, self.folder = name, name.partition("/")[0]
        self._copy = copy
        stem = name.removesuffix(".py").replace("/", "-")
        self._config, self._database = f"mutate-{stem}.toml", f"mutate-{stem}.sqlite"
        (copy / self._config).write_text(
            "[cosmic-ray]\n"
            f'module-path = "mig_selector/{name}"\n'
            f"timeout = {arguments.timeout}\n"
            "excluded-modules = []\n"
            f'test-command = "{arguments.python} -m pytest -x -q -p no:cacheprovider {TESTS[name]}"\n'
            "[cosmic-ray.distributor]\n"
            'name = "local"\n',
            encoding="utf-8",
        )
        self._cosmic_ray("init", self._config, self._database)
        with self._opened() as database:
            self._changes = {item.job_id: item.mutations[0] for item in database.work_items}
        # Sorted, because a job's name is random: a seed must draw the same mutations each time.
        self.candidates = sorted(
            (job for job, change in self._changes.items() if UNEVALUATED not in change.operator_name),
            key=lambda job: describe(self._changes[job]),
        )
        self.drawn: set[str] = set()

    def run(self) -> Counter[str]:
        """Run the tests on each mutation that was drawn; count those noticed, and print the others."""
        from cosmic_ray.work_item import WorkerOutcome, WorkResult

        found: Counter[str] = Counter()
        if not self.drawn:
            return found
        with self._opened() as database:
            for job in self._changes.keys() - self.drawn:
                database.set_result(job, WorkResult(worker_outcome=WorkerOutcome.SKIPPED))
        self._cosmic_ray("baseline", self._config)  # the tests must pass before anything is changed
        self._cosmic_ray("exec", self._config, self._database)
        with self._opened() as database:
            results = dict(database.results)
        for job in sorted(self.drawn, key=lambda job: self._changes[job].start_pos):
            found["noticed" if results[job].is_killed else "missed"] += 1
            if not results[job].is_killed:
                print(f"  not noticed: {self.name}:{describe(self._changes[job])}", flush=True)
        print(f"{self.name}: {found['noticed']} of {found.total()}", flush=True)
        return found

    def _cosmic_ray(self, *words: str) -> None:
        environment = {
            **os.environ,
            "PYTHONPATH": str(self._copy),
            "MIG_SELECTOR_CACHE": str(self._copy.parent / "cache"),
        }
        subprocess.run([sys.executable, "-m", "cosmic_ray.cli", *words], cwd=self._copy, env=environment, check=True)

    def _opened(self) -> Any:
        from cosmic_ray.work_db import WorkDB, use_db

        return use_db(str(self._copy / self._database), WorkDB.Mode.open)


def draw(sessions: list[Session], size: int, seed: int) -> None:
    """Draw mutations from all files of each folder together, so that a long file has many."""
    for folder in {session.folder: None for session in sessions}:
        candidates = [(session, job) for session in sessions if session.folder == folder for job in session.candidates]
        for session, job in random.Random(seed).sample(candidates, min(size, len(candidates))):
            session.drawn.add(job)


def describe(change: Any) -> str:
    """Say where and what a mutation is."""
    (line, column), (_, end) = change.start_pos, change.end_pos
    return f"{line}:{column}-{end} {change.operator_name.partition('/')[2]} {change.occurrence} {change.operator_args}"


def share(figure: Counter[str]) -> float:
    """Return the percentage noticed."""
    return 100 * figure["noticed"] / max(figure.total(), 1)


if __name__ == "__main__":
    sys.exit(main())
