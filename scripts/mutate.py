"""Makes small changes (mutations) to the code, and counts how many of them the tests notice.

python -m pip install cosmic-ray
python scripts/mutate.py                                # every file of the list, 40 mutations each: many hours
python scripts/mutate.py --only store/matrix.py --limit 10

The repository is copied to a temporary folder, and cosmic-ray changes the copy: one operator, number or keyword at a
time, then it runs the tests of that file. A mutation that no test notices is printed with its line. The exit code is 1
if fewer than `--least` percent are noticed.

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
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any


ROOT = Path(__file__).parents[1]
TARGETS = {
    "selection/greedy.py": "tests/selection/test_greedy.py",
    "selection/rounds.py": "tests/selection/test_rounds.py tests/selection/test_greedy.py",
    "selection/kernel.py": "tests/selection/test_greedy.py tests/selection/test_rounds.py",
    "selection/passes.py": "tests/selection/methods/test_instag.py",
    "selection/twins.py": "tests/selection/test_twins.py tests/selection/test_greedy.py",
    "selection/coverage.py": "tests/selection/test_coverage.py tests/selection/methods/test_qdit.py",
    "selection/compiling.py": "tests/selection/test_compiling.py",
    "store/files.py": "tests/store/test_files.py",
    "store/folders.py": "tests/store/test_folders.py",
    "store/hashing.py": "tests/store/test_hashing.py",
    "store/matrix.py": "tests/store/test_matrix.py",
    "store/subsets.py": "tests/store/test_subsets.py",
    "store/vectors.py": "tests/store/test_vectors.py",
    "integration/config.py": "tests/integration/test_config.py",
    "integration/dataset_info.py": "tests/integration/test_dataset_info.py",
    "integration/handover.py": "tests/integration/test_handover.py",
    "pipeline/request.py": "tests/test_keys.py",
}
"""File of the package -> the tests that must notice a change to it."""
EQUIVALENT = ("ReplaceBinaryOperator_BitOr",)
"""Operators that mostly change type annotations (``int | None``), which nothing evaluates."""
SEED = 0


def main() -> int:
    """Mutate the files asked for, and print a table."""
    arguments = parse_arguments()
    targets = {name: tests for name, tests in TARGETS.items() if not arguments.only or name in arguments.only}
    if not targets:
        sys.exit(f"no such file; known: {', '.join(TARGETS)}")
    total: Counter[str] = Counter()
    print(f"{'file':32} {'mutations':>9} {'noticed':>8}")
    with tempfile.TemporaryDirectory(prefix="mutate-") as folder:
        copy = Path(folder) / "repository"
        shutil.copytree(
            ROOT, copy, ignore=shutil.ignore_patterns(".git", ".venv*", "__pycache__", ".*_cache", "shared")
        )
        for name, tests in targets.items():
            found = mutate(copy, f"mig_selector/{name}", tests, arguments)
            total += found
            print_row(name, found)
    print_row("all", total)
    return 0 if 100 * total["noticed"] >= arguments.least * total.total() else 1


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="FILE", help=f"some of: {', '.join(TARGETS)}")
    parser.add_argument("--limit", type=int, default=40, help="mutations per file, drawn at random (default 40)")
    parser.add_argument("--seed", type=int, default=SEED, help="which mutations are drawn")
    parser.add_argument("--least", type=float, default=85, help="percent that must be noticed (default 85)")
    parser.add_argument("--timeout", type=float, default=300, help="seconds after which a run counts as noticed")
    parser.add_argument("--python", default=sys.executable, help="interpreter that runs the tests")
    return parser.parse_args()


def print_row(name: str, found: Counter[str]) -> None:
    """Print the figure of a file."""
    print(f"{name:32} {found.total():9} {found['noticed'] / max(found.total(), 1):8.0%}", flush=True)


def mutate(copy: Path, module: str, tests: str, arguments: argparse.Namespace) -> Counter[str]:
    """Mutate one file of the copy; return how many mutations were noticed and not noticed."""
    from cosmic_ray.work_db import WorkDB, use_db

    environment = {**os.environ, "PYTHONPATH": str(copy), "MIG_SELECTOR_CACHE": str(copy.parent / "cache")}
    (copy / "mutate.toml").write_text(
        "[cosmic-ray]\n"
        f'module-path = "{module}"\n'
        f"timeout = {arguments.timeout}\n"
        "excluded-modules = []\n"
        f'test-command = "{arguments.python} -m pytest -x -q -p no:cacheprovider {tests}"\n'
        "[cosmic-ray.distributor]\n"
        'name = "local"\n',
        encoding="utf-8",
    )

    def cosmic_ray(*words: str) -> None:
        subprocess.run([sys.executable, "-m", "cosmic_ray.cli", *words], cwd=copy, env=environment, check=True)

    (copy / "mutate.sqlite").unlink(missing_ok=True)
    cosmic_ray("baseline", "mutate.toml")  # the tests must pass before anything is changed
    cosmic_ray("init", "mutate.toml", "mutate.sqlite")
    with use_db(str(copy / "mutate.sqlite"), WorkDB.Mode.open) as database:
        skip_all_but_some(database, arguments)
    cosmic_ray("exec", "mutate.toml", "mutate.sqlite")
    with use_db(str(copy / "mutate.sqlite"), WorkDB.Mode.open) as database:
        return count(database, module)


def skip_all_but_some(database: Any, arguments: argparse.Namespace) -> None:
    """Draw `--limit` mutations, and mark the others as skipped."""
    from cosmic_ray.work_item import WorkerOutcome, WorkResult

    items = list(database.work_items)
    candidates = [item for item in items if not any(name in operators(item) for name in EQUIVALENT)]
    drawn = random.Random(arguments.seed).sample(candidates, min(arguments.limit, len(candidates)))
    kept = {item.job_id for item in drawn}
    for item in items:
        if item.job_id not in kept:
            database.set_result(item.job_id, WorkResult(worker_outcome=WorkerOutcome.SKIPPED))


def operators(item: Any) -> str:
    """Name what a work item changes."""
    names: Sequence[str] = [mutation.operator_name for mutation in item.mutations]
    return " ".join(names)


def count(database: Any, module: str) -> Counter[str]:
    """Count the mutations that were noticed, and print the others."""
    from cosmic_ray.work_item import WorkerOutcome

    found: Counter[str] = Counter()
    items = {item.job_id: item for item in database.work_items}
    for job, result in database.results:
        if result.worker_outcome == WorkerOutcome.SKIPPED:
            continue
        found["noticed" if result.is_killed else "not noticed"] += 1
        if not result.is_killed:
            line = items[job].mutations[0].start_pos[0]
            print(f"  not noticed: {module}:{line}: {operators(items[job])}")
    return found


if __name__ == "__main__":
    sys.exit(main())
