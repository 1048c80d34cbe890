"""What an evaluation will ask, and what of it earlier runs have finished."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mig_selector.evaluation.answers import build_requests
from mig_selector.evaluation.judged import JudgedBenchmark, write_queries
from mig_selector.pipeline.evaluate_models import answers_of, find_results, read_finished, verdicts_of
from mig_selector.pipeline.evaluation_plan import AnyBenchmark, EvaluationPlan


_CHARACTERS_PER_TOKEN = 4


def describe_cost(plan: EvaluationPlan) -> str:
    """Say how many requests and tokens each benchmark takes for each model, and for which models it is finished."""
    # Without results, no weights need to be hashed to find them.
    models = find_results(plan) if plan.output_dir.is_dir() else []
    lines = [f"models: {len(plan.models)} ({', '.join(model.name for model in plan.models)}); for each of them:"]
    for benchmark in plan.benchmarks:
        is_finished = {folder: bool(read_finished(benchmark, folder, identity)) for _, identity, folder in models}
        finished = [model.name for model, _, folder in models if is_finished[folder]]
        if len(finished) == len(plan.models):
            lines.append(f"{benchmark.name:<10} finished")
            continue
        lines += _describe_benchmark(benchmark)
        if finished:
            lines.append(f"{'':<10} finished for {', '.join(finished)}")
        lines += _describe_kept(benchmark, [folder for folder in is_finished if not is_finished[folder]])
    return "\n".join([*lines, *plan.why_blank])


def _describe_kept(benchmark: AnyBenchmark, folders: Sequence[Path]) -> list[str]:
    """Describe what runs that were cut off have left; it is not asked for again."""
    journals = {"answers": answers_of, "verdicts": verdicts_of}
    counts = {what: sum(len(find(benchmark, folder).read()) for folder in folders) for what, find in journals.items()}
    kept = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
    return [f"{'':<10} kept of runs that were cut off, all models together: {kept}"] if kept else []


def _describe_benchmark(benchmark: AnyBenchmark) -> list[str]:
    if isinstance(benchmark, JudgedBenchmark):
        return _describe_judged(benchmark)
    requests = build_requests(benchmark, lambda messages, **_: "".join(turn["content"] for turn in messages))
    prompts = sum(len(request.args[0]) for request in requests)
    return [_describe_requests(benchmark.name, len(requests), prompts, len(requests) * benchmark.answer_tokens)]


def _describe_judged(benchmark: JudgedBenchmark) -> list[str]:
    """Describe what the model is asked, and what the judge is: the answers that it reads are not known yet."""
    turns = [[*(turn["content"] for turn in doc["chat"]), *doc["follow_ups"]] for doc in benchmark.docs]
    num_answers = [1 + len(doc["follow_ups"]) for doc in benchmark.docs]
    unanswered = [[""] * count for count in num_answers]
    prompts = [query.prompt for queries in write_queries(benchmark, unanswered) for query in queries]
    verdicts = len(prompts) * benchmark.judge.chat.max_tokens
    questions = sum(len(text) for texts in turns for text in texts)
    judging = _describe_requests("  judge", len(prompts), sum(map(len, prompts)), verdicts)
    return [
        _describe_requests(benchmark.name, sum(num_answers), questions, sum(num_answers) * benchmark.answer_tokens),
        f"{judging}, plus the answers, which it reads too",
    ]


def _describe_requests(name: str, num_requests: int, num_characters: int, answer_tokens: int) -> str:
    return (
        f"{name:<10} {num_requests:>6,} requests, about {num_characters // _CHARACTERS_PER_TOKEN:>11,} tokens of "
        f"questions, at most {answer_tokens:>11,} of answers"
    )
