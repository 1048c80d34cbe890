"""``evaluate``: models on the benchmarks of the paper's table."""

from __future__ import annotations

import argparse
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any


def add_commands(commands: Any) -> None:
    """Add the command to the parser."""
    text = "evaluate models on the benchmarks of the paper's table; stdout is the table, with an interval in each cell"
    parser = commands.add_parser("evaluate", help=text, description=text, allow_abbrev=False)
    parser.add_argument(
        "models", nargs="*", type=Path, metavar="MODEL", help="model folder, or a folder with model folders in it"
    )
    parser.add_argument("--model-url", metavar="URL", help="OpenAI-compatible address of a model, such as .../v1")
    parser.add_argument("--model-name", metavar="NAME", help="what the server at --model-url calls the model")
    parser.add_argument("--requests", type=int, default=4, metavar="N", help="requests at a time; default 4")
    parser.add_argument("--tasks", default="", metavar="NAME,...", help="benchmarks; default: all that can be run")
    parser.add_argument(
        "--data-dir", type=Path, metavar="DIR", help="copies of the hub's datasets, and files of the judged benchmarks"
    )
    parser.add_argument("--judge-url", metavar="URL", help="OpenAI-compatible address of the judge")
    parser.add_argument("--judge-model", metavar="NAME", help="what the server at --judge-url calls the judge")
    parser.add_argument("--judge-requests", type=int, default=8, metavar="N", help="requests at a time; default 8")
    parser.add_argument(
        "--judge-max-tokens", type=int, default=2048, metavar="N", help="tokens of a verdict; default 2048"
    )
    parser.add_argument(
        "--output-dir", type=Path, default=Path("evaluation"), metavar="DIR", help="results; default evaluation"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="ask the first N questions of each subset only")
    parser.add_argument("--batch-size", type=int, default=8, metavar="N", help="of model folders; default 8")
    parser.add_argument("--device", metavar="NAME", help="of model folders; default: the first GPU, or the CPU")
    parser.add_argument("--allow-code", action="store_true", help="run the programs that models write (humaneval)")
    parser.add_argument("--dry-run", action="store_true", help="print requests and tokens, and ask nothing")
    parser.set_defaults(run=_evaluate)


def _evaluate(options: argparse.Namespace) -> int:
    from mig_selector.console import show_log
    from mig_selector.errors import EvaluationError

    show_log(is_main=True)
    if (options.model_url is None) != (options.model_name is None):
        raise EvaluationError("--model-url and --model-name belong together: give both, or none")
    if options.model_name is not None and not options.model_name.strip():
        raise EvaluationError("--model-name is empty; give what the server at --model-url calls the model.")
    with redirect_stdout(sys.stderr):  # the libraries print
        from mig_selector.annotation.chat import read_address
        from mig_selector.evaluation.answers import ServedModel
        from mig_selector.evaluation.judge import find_judge
        from mig_selector.pipeline.evaluate_models import evaluate
        from mig_selector.pipeline.evaluation_cost import describe_cost
        from mig_selector.pipeline.evaluation_plan import plan_evaluation

        given = options.model_url
        url = None if given is None else read_address("--model-url", given, "OPENAI_API_KEY")
        judge = find_judge(options.judge_url, options.judge_model, options.judge_requests, options.judge_max_tokens)
        plan = plan_evaluation(
            options.models,
            output_dir=options.output_dir,
            tasks=[name.strip() for name in options.tasks.split(",") if name.strip()],
            data_dir=options.data_dir,
            limit=options.limit,
            served=ServedModel(url, options.model_name, options.requests) if url else None,
            device=options.device,
            batch_size=options.batch_size,
            allow_code=options.allow_code,
            judge=judge,
        )
        text, faults = (describe_cost(plan), ()) if options.dry_run else evaluate(plan)
    print(text)
    if faults:
        raise EvaluationError("\n".join(faults))
    return 0
