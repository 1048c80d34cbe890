"""Time what the installed package costs a Python that does not use it: ``python -c pass`` with and without it.

    python scripts/bench/startup.py
    python scripts/bench/startup.py --pairs 1000 --json result.json

Two bare virtual environments are made, and the wheel of this checkout is installed into one of them, without its
dependencies. Then both interpreters are started in turn, in pairs whose order is drawn, and the differences of the
pairs are looked at: their median, with a confidence interval of 95 % from order statistics. A third environment,
without the package, is timed in the same pairs: its difference from the other one without it is what the measurement
itself gets wrong. Processor time is given beside wall time, as it suffers less from other work on the machine.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from dataclasses import asdict, dataclass, field
from pathlib import Path


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # scripts/

from bench.command import ROOT
from bench.workspace import describe_machine, write_result


TARGET_MS = 0.5

_WITH, _WITHOUT, _CONTROL = "with", "none", "same"
_UNCOUNTED = 5
"""Starts of each that only warm caches."""


@dataclass(frozen=True)
class Difference:
    """Of paired times, in milliseconds."""

    median: float
    low: float
    """Lower end of the confidence interval (95 %) of the median."""
    high: float


def make_environments(folder: Path) -> dict[str, Path]:
    """Make three bare environments with names of one length, one with the package; return their interpreters."""
    wheels = folder / "wheel"
    has_backend = importlib.util.find_spec("hatchling") is not None
    isolation = ["--no-build-isolation"] if has_backend else []
    _pip("wheel", "--no-deps", *isolation, "--wheel-dir", str(wheels), str(ROOT))
    pythons = {}
    for name in (_WITH, _WITHOUT, _CONTROL):
        venv.create(folder / name, with_pip=False, symlinks=True)
        pythons[name] = folder / name / "bin" / "python"
    [wheel] = wheels.glob("*.whl")
    _pip("--python", str(pythons[_WITH]), "install", "--no-deps", "--no-index", str(wheel))
    return pythons


def _pip(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "--quiet", *words], check=True, stdout=sys.stderr)


def is_hooked(python: Path) -> bool:
    """Say whether an interpreter has the hook in place when it has started."""
    code = "import sys; print(any(type(finder).__module__ == 'mig_selector._autoload' for finder in sys.meta_path))"
    done = subprocess.run([python, "-c", code], env=_environment(), capture_output=True, text=True, check=True)
    return done.stdout == "True\n"


def _environment() -> dict[str, str]:
    """Without variables that bring other packages in, or switch ours off."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "MIG_SELECTOR"))}


@dataclass
class Times:
    """Milliseconds of each start."""

    wall: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)


def time_in_turn(pythons: dict[str, Path], pairs: int, seed: int) -> dict[str, Times]:
    """Start each interpreter so often, in an order drawn anew each time."""
    order, environment = random.Random(seed), _environment()
    times = {name: Times() for name in pythons}
    for number in range(-_UNCOUNTED, pairs):
        for name in order.sample(list(pythons), len(pythons)):
            wall, processor = _start_once(pythons[name], environment)
            if number >= 0:
                times[name].wall.append(wall)
                times[name].processor.append(processor)
    return times


def _start_once(python: Path, environment: dict[str, str]) -> tuple[float, float]:
    start = time.perf_counter()
    process = os.posix_spawn(python, [str(python), "-c", "pass"], environment)
    _, status, used = os.wait4(process, 0)
    elapsed = time.perf_counter() - start
    if status != 0:
        raise RuntimeError(f"{python} -c pass ended with {status}")
    return elapsed * 1_000, (used.ru_utime + used.ru_stime) * 1_000


def median_difference(more: list[float], less: list[float]) -> Difference:
    """Return the median of the differences of pairs, and how far from it the true one may be."""
    differences = sorted(left - right for left, right in zip(more, less, strict=True))
    count = len(differences)
    reach = math.floor(count / 2 - 0.98 * math.sqrt(count))  # 1.96 standard deviations of a binomial count
    low = max(reach - 1, 0)
    return Difference(statistics.median(differences), differences[low], differences[count - 1 - low])


def compare(times: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Describe the times of the three environments, in milliseconds."""
    return {
        "medians": {name: statistics.median(each) for name, each in times.items()},
        "cost": asdict(median_difference(times[_WITH], times[_WITHOUT])),
        "control": asdict(median_difference(times[_CONTROL], times[_WITHOUT])),
    }


def _show(found: dict[str, dict[str, float]]) -> str:
    cost, control = found["cost"], found["control"]
    return (
        f"{found['medians'][_WITH]:.2f} ms with the package, {found['medians'][_WITHOUT]:.2f} ms without, "
        f"{cost['median']:.2f} ms more ({cost['low']:.2f} to {cost['high']:.2f}; two environments without it: "
        f"{control['median']:.2f}, {control['low']:.2f} to {control['high']:.2f})"
    )


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the result here, too")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory(prefix="mig-selector-bench-") as folder:
        pythons = make_environments(Path(folder))
        hooked = {name: is_hooked(python) for name, python in pythons.items()}
        if hooked != {_WITH: True, _WITHOUT: False, _CONTROL: False}:
            raise SystemExit(f"the hook is not where it should be: {hooked}")
        times = time_in_turn(pythons, options.pairs, options.seed)
    wall = compare({name: each.wall for name, each in times.items()})
    processor = compare({name: each.processor for name, each in times.items()})
    print(
        f"python -c pass, {options.pairs} pairs: {_show(wall)}, target {TARGET_MS} more; "
        f"processor time: {_show(processor)}"
    )
    found = wall["cost"]["median"]
    target = {"name": "ms at start", "limit": TARGET_MS, "found": found, "is_met": found <= TARGET_MS}
    result = {"pairs": options.pairs, "wall": wall, "processor": processor, "targets": [target]}
    write_result(options.json, {"machine": describe_machine(), **result})


if __name__ == "__main__":
    main()
