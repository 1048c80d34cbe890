"""Time how much the installed package delays a Python that does not use it: ``python -c pass`` with and without it.

    python scripts/bench/startup.py
    python scripts/bench/startup.py --pairs 1000 --json result.json

Two bare virtual environments are made, and the wheel of this checkout is installed into one of them, without its
dependencies. Then both interpreters are started in pairs, in random order, and the differences within the pairs are
reported: their median, with a 95 % confidence interval from order statistics. A third environment, also without the
package, is started along with each pair: its difference from the second one is the error of the measurement itself.
Processor time is reported beside wall time, because other work on the machine affects it less.
"""

from __future__ import annotations

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
from bench.options import make_parser
from bench.results import Target, describe_machine, write_result


TARGET_MS = 0.5

_WITH, _WITHOUT, _CONTROL = "with", "none", "same"
_UNCOUNTED = 5
"""Starts of each interpreter that are not counted, because they only warm caches."""


@dataclass(frozen=True)
class Difference:
    """The difference between paired times, in milliseconds."""

    median: float
    low: float
    """Lower end of the 95 % confidence interval of the median."""
    high: float
    """Upper end of the interval."""


def make_environments(folder: Path) -> dict[str, Path]:
    """Make three bare environments, one with the package; return their interpreters.

    Their names have equal lengths, so that paths do not differ in length.
    """
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
    """Return whether an interpreter has installed the hook when it has started."""
    code = "import sys; print(any(type(finder).__module__ == 'mig_selector._autoload' for finder in sys.meta_path))"
    done = subprocess.run([python, "-c", code], env=_environment(), capture_output=True, text=True, check=True)
    return done.stdout == "True\n"


def _environment() -> dict[str, str]:
    """Return the environment without variables that add other packages or disable ours."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "MIG_SELECTOR"))}


@dataclass
class Times:
    """Milliseconds of all starts of one interpreter."""

    wall: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)


def time_in_turn(pythons: dict[str, Path], pairs: int, seed: int) -> dict[str, Times]:
    """Start all interpreters `pairs` times, each time in a new random order."""
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
        raise RuntimeError(f"{python} -c pass exited with status {status}")
    return elapsed * 1_000, (used.ru_utime + used.ru_stime) * 1_000


def median_difference(more: list[float], less: list[float]) -> Difference:
    """Return the median of the differences within pairs, and its 95 % confidence interval."""
    differences = sorted(left - right for left, right in zip(more, less, strict=True))
    count = len(differences)
    # The number of differences below the true median is binomial: mean count / 2, standard deviation sqrt(count) / 2.
    rank = math.floor(count / 2 - 1.96 * math.sqrt(count) / 2)
    low = max(rank - 1, 0)
    return Difference(statistics.median(differences), differences[low], differences[count - 1 - low])


def compare(times: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Summarize the times of the three environments, in milliseconds."""
    return {
        "medians": {name: statistics.median(each) for name, each in times.items()},
        "cost": asdict(median_difference(times[_WITH], times[_WITHOUT])),
        "control": asdict(median_difference(times[_CONTROL], times[_WITHOUT])),
    }


def _show(found: dict[str, dict[str, float]]) -> str:
    cost, control = found["cost"], found["control"]
    return (
        f"{found['medians'][_WITH]:.2f} ms with the package, {found['medians'][_WITHOUT]:.2f} ms without, "
        f"{cost['median']:.2f} ms more ({cost['low']:.2f} to {cost['high']:.2f}; between two environments without it: "
        f"{control['median']:.2f}, {control['low']:.2f} to {control['high']:.2f})"
    )


def main() -> None:
    """Run the benchmark."""
    parser = make_parser(__doc__)
    parser.add_argument("--pairs", type=int, default=500)
    options = parser.parse_args()

    with tempfile.TemporaryDirectory(prefix="mig-selector-bench-") as folder:
        pythons = make_environments(Path(folder))
        hooked = {name: is_hooked(python) for name, python in pythons.items()}
        if hooked != {_WITH: True, _WITHOUT: False, _CONTROL: False}:
            raise SystemExit(f"the hook must be installed in the environment {_WITH!r} only, but found: {hooked}")
        times = time_in_turn(pythons, options.pairs, options.seed)
    wall = compare({name: each.wall for name, each in times.items()})
    processor = compare({name: each.processor for name, each in times.items()})
    print(
        f"python -c pass, {options.pairs} pairs: {_show(wall)}, target {TARGET_MS} ms more; "
        f"processor time: {_show(processor)}"
    )
    target = Target("ms at start", TARGET_MS, wall["cost"]["median"])
    result = {"pairs": options.pairs, "wall": wall, "processor": processor, "targets": [target.report()]}
    write_result(options.json, {"machine": describe_machine(), **result})


if __name__ == "__main__":
    main()
