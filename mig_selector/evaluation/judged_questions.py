"""The questions of the judged benchmarks, with what their answers are judged by, from the published files.

A question is a dictionary of ``chat``, the turns up to the first answer; ``follow_ups``, what the user says after it;
``references``, other answers: by the name of the model that gave them, or MT-Bench's by turn; and for comparisons
``checklist``, the points that a judge is to look at.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from mig_selector.errors import EvaluationError
from mig_selector.evaluation.tasks import Row, convert_rows


_WILDBENCH_REFERENCES = ("gpt-4-turbo-2024-04-09", "claude-3-haiku-20240307", "Llama-2-70b-chat-hf")
_WITH_REFERENCE = frozenset({"math", "reasoning", "coding"})
"""Categories of MT-Bench that are judged with a reference answer."""


def _alpacaeval(data_dir: Path) -> list[Row]:
    """Read the instructions with GPT-4 Turbo's outputs: AlpacaEval's own baseline."""

    def to_doc(row: Row) -> Row:
        return {
            "chat": [{"role": "user", "content": row["instruction"]}],
            "follow_ups": [],
            "references": {row["generator"]: row["output"]},
            "checklist": [],
        }

    file = data_dir / "tatsu-lab" / "alpaca_eval" / "alpaca_eval_gpt4_baseline.json"
    return convert_rows("alpacaeval", str(file), _read_rows("alpacaeval", file), to_doc)


def _mtbench(data_dir: Path) -> list[Row]:
    """Read the questions with GPT-4's reference answers, as FastChat has them."""
    folder = data_dir / "mt_bench"
    file = folder / "reference_answer" / "gpt-4.jsonl"
    answers = convert_rows(
        "mtbench",
        str(file),
        _read_rows("mtbench", file),
        lambda row: {"id": row["question_id"], "turns": row["choices"][0]["turns"]},
    )
    references = {answer["id"]: answer["turns"] for answer in answers}

    def to_doc(row: Row) -> Row:
        first, second = row["turns"]
        return {
            "id": row["question_id"],
            "chat": [{"role": "user", "content": first}],
            "follow_ups": [second],
            "references": references[row["question_id"]] if row["category"] in _WITH_REFERENCE else [],
        }

    file = folder / "question.jsonl"
    return convert_rows("mtbench", str(file), _read_rows("mtbench", file), to_doc)


def _wildbench(data_dir: Path) -> list[Row]:
    """Read the conversations of version 2 with the outputs of its three baselines."""
    outputs: dict[str, dict[str, str]] = {}
    for model in _WILDBENCH_REFERENCES:
        folder = data_dir / "allenai" / "WildBench-V2-Model-Outputs" / model
        answers = convert_rows(
            "wildbench",
            str(folder),
            _read_rows("wildbench", folder),
            lambda row: {"id": row["session_id"], "output": row["output"][0]},
        )
        outputs[model] = {answer["id"]: answer["output"] for answer in answers}

    def to_doc(row: Row) -> Row:
        return {
            "id": row["session_id"],
            "chat": [{key: turn[key] for key in ("role", "content")} for turn in row["conversation_input"]],
            "follow_ups": [],
            "references": {model: outputs[model][row["session_id"]] for model in _WILDBENCH_REFERENCES},
            "checklist": list(row["checklist"]),
        }

    folder = data_dir / "allenai" / "WildBench" / "v2"
    return convert_rows("wildbench", str(folder), _read_rows("wildbench", folder), to_doc)


TO_DOCS: dict[str, Callable[[Path], list[Row]]] = {
    "alpacaeval": _alpacaeval,
    "mtbench": _mtbench,
    "wildbench": _wildbench,
}
"""By benchmark: its published files, as questions with references."""


def _read_rows(name: str, path: Path) -> list[Row]:
    """Read the rows of a JSON, JSON Lines or Parquet file, or of all such files in a folder."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    files = [file for file in files if file.suffix in (".json", ".jsonl", ".parquet") and file.is_file()]
    if not files:
        raise EvaluationError(
            f"--data-dir: {name} needs {path}, and there is no such file, or none in it. The manual says where to get "
            "it."
        )
    return [row for file in files for row in _read_file(name, file)]


def _read_file(name: str, file: Path) -> list[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if file.suffix == ".parquet":
            return list(pq.read_table(file).to_pylist())
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".json":
            return list(json.loads(text))
        return [json.loads(line) for line in text.split("\n") if line.strip()]
    except (OSError, ValueError, TypeError, pa.ArrowException) as error:
        raise EvaluationError(f"{name}: {file} cannot be read: {error}.") from error
