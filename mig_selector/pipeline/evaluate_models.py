"""Evaluate models on benchmarks: what ``mig-selector evaluate`` does."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from mig_selector.annotation.journal import Journal
from mig_selector.console import plural
from mig_selector.errors import EvaluationError, ModelError
from mig_selector.evaluation.answers import Model, ask, build_requests
from mig_selector.evaluation.grading import GRADERS, humaneval_program
from mig_selector.evaluation.judged import JudgedBenchmark, answer_questions, judge_answers
from mig_selector.evaluation.results import Result, read_result, write_result
from mig_selector.evaluation.sandbox import run_programs
from mig_selector.evaluation.table import Cell, as_records, make_cells, render_csv, render_text
from mig_selector.evaluation.tasks import Benchmark
from mig_selector.pipeline.evaluation_plan import AnyBenchmark, EvaluationPlan
from mig_selector.store.files import write_json, write_text
from mig_selector.store.folders import default_cache_dir
from mig_selector.store.hashing import ContentHashes, fingerprint_of


logger = logging.getLogger(__name__)


class Evaluation(NamedTuple):
    """What came out."""

    text: str
    """The table."""
    faults: tuple[str, ...]
    """Why cells of it are blank."""


def evaluate(plan: EvaluationPlan) -> Evaluation:
    """Evaluate every model on every benchmark, keep the results, and write the table.

    What an earlier run has finished is read; answers and verdicts that it already has are not asked for again. The
    table, also in ``table.csv`` and ``table.json``, has the other models of the output folder as well, as far as they
    were asked the same: the questions, settings, judge and versions of this run.

    Raises:
        EvaluationError: There is no score at all, or the output folder cannot be used.
    """
    try:
        return _evaluate(plan)
    except OSError as error:
        raise EvaluationError(
            f"{error.filename or plan.output_dir} cannot be used: {error.strerror or error}. Grant access to it, free "
            "some space, or give another folder by --output-dir. Answers so far are kept."
        ) from error


def _evaluate(plan: EvaluationPlan) -> Evaluation:
    models = find_results(plan)
    _check_judge(plan.benchmarks, [(folder, identity) for _, identity, folder in models])
    rows: dict[str, list[Cell]] = {}
    faults: list[str] = []
    for model, identity, folder in models:
        results, why_blank = _evaluate_model(model, identity, plan.benchmarks, folder)
        rows[folder.name] = make_cells(folder.name, results)
        faults += why_blank
    if not any(rows.values()):
        raise EvaluationError("\n".join(faults))
    for folder in sorted(plan.output_dir.iterdir()):
        if folder.is_dir() and folder.name not in rows:
            earlier = [result for each in plan.benchmarks if (result := _read_result(each, folder, {}))]
            if earlier:
                rows[folder.name] = make_cells(folder.name, earlier)
    write_text(plan.output_dir / "table.csv", render_csv(rows))
    write_json(plan.output_dir / "table.json", as_records(rows))
    return Evaluation("\n".join([render_text(rows), *plan.why_blank]), tuple(faults))


def find_results(plan: EvaluationPlan) -> list[tuple[Model, dict[str, Any], Path]]:
    """Return each model with its identity and the folder of its results, which need not exist."""
    hashes = ContentHashes(default_cache_dir())
    found = []
    for model in plan.models:
        identity = model.identity(hashes)
        name = f"{re.sub(r'[^A-Za-z0-9_.+-]', '_', model.name)}-{fingerprint_of(identity)[:8]}"
        found.append((model, identity, plan.output_dir / name))
    return found


def _check_judge(benchmarks: Sequence[AnyBenchmark], models: Sequence[tuple[Path, dict[str, Any]]]) -> None:
    """Make sure that the judge answers, if any model has yet to be judged."""
    judged = [benchmark for benchmark in benchmarks if isinstance(benchmark, JudgedBenchmark)]
    if any(read_finished(each, folder, identity) is None for each in judged for folder, identity in models):
        judged[0].judge.check()


def _evaluate_model(
    model: Model, identity: dict[str, Any], benchmarks: Sequence[AnyBenchmark], folder: Path
) -> tuple[list[Result], list[str]]:
    """Return the results of a model, and why there are not more: the fault of a benchmark is not that of others."""
    lm = None
    results, faults = [], []
    for benchmark in benchmarks:
        try:
            result = read_finished(benchmark, folder, identity)
            if result is None:
                lm = lm or model.load()
                logger.info("%s: %s, %s", model.name, benchmark.name, plural(len(benchmark.docs), "question"))
                items = _ask_and_grade(lm, benchmark, folder)
                whole_identity = {"model": identity, **_settings_identity(benchmark)}
                result = write_result(_result_path(benchmark, folder), benchmark.name, whole_identity, items)
            results.append(result)
        except EvaluationError as error:
            faults.append(f"{model.name}: {error}")
            if isinstance(error, ModelError):
                break
    return results, faults


def _settings_identity(benchmark: AnyBenchmark) -> dict[str, Any]:
    return {**benchmark.identity, "mig_selector": version("mig_selector")}


def _result_path(benchmark: AnyBenchmark, folder: Path) -> Path:
    part = "" if benchmark.limit is None else f"-first-{benchmark.limit}"
    return folder / f"{benchmark.name}{part}.json"


def read_finished(benchmark: AnyBenchmark, folder: Path, model_identity: dict[str, Any]) -> Result | None:
    """Read the result of a model on a benchmark; None if it is not finished."""
    return _read_result(benchmark, folder, {"model": model_identity})


def answers_of(benchmark: AnyBenchmark, folder: Path) -> Journal:
    """Return the answers of a model to a benchmark, as they come."""
    return Journal(folder / f"{benchmark.name}.answers.jsonl")


def verdicts_of(benchmark: AnyBenchmark, folder: Path) -> Journal:
    """Return the verdicts of the judge on them."""
    return Journal(folder / f"{benchmark.name}.verdicts.jsonl")


def _read_result(benchmark: AnyBenchmark, folder: Path, known: dict[str, Any]) -> Result | None:
    identity = {**known, **_settings_identity(benchmark)}
    return read_result(_result_path(benchmark, folder), benchmark.name, identity)


def _ask_and_grade(lm: Any, benchmark: AnyBenchmark, folder: Path) -> list[dict[str, Any]]:
    journal = answers_of(benchmark, folder)
    if isinstance(benchmark, JudgedBenchmark):
        answers = answer_questions(lm, benchmark, journal)
        return judge_answers(benchmark, answers, verdicts_of(benchmark, folder))
    requests = build_requests(benchmark, lm.apply_chat_template)
    return _grade(benchmark, ask(lm, benchmark.name, requests, journal))


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
