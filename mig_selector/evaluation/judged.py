"""The judged benchmarks: a model answers, turn by turn; a judge rates its answers, or compares them with others'."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import yaml

from mig_selector.annotation.journal import Journal
from mig_selector.errors import EvaluationError
from mig_selector.evaluation.answers import ask, chat_requests
from mig_selector.evaluation.judge import Judge, Verdict
from mig_selector.evaluation.judged_questions import TO_DOCS
from mig_selector.evaluation.tasks import SETTINGS, Row
from mig_selector.evaluation.verdicts import OTHER_SIDE, READERS
from mig_selector.store.hashing import fingerprint_of


if TYPE_CHECKING:
    from lm_eval.api.model import LM


JUDGED_NAMES = tuple(TO_DOCS)

_SEED = 666
"""Of the order of two answers: OpenCompass's, so that the same questions have the same order."""


@dataclass(frozen=True)
class JudgedBenchmark:
    """A benchmark whose answers a judge rates or compares."""

    name: str
    settings: dict[str, Any]
    docs: list[Row]
    """Questions as `judged_questions` describes them."""
    judge: Judge
    limit: int | None = None
    """Number of questions that were kept; None for all."""

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What decides a model's answers to it and the verdicts on them."""
        data = fingerprint_of({"docs": self.docs})
        return {"task": self.settings, "data": data, "judge": self.judge.identity, "lm_eval": version("lm_eval")}

    @property
    def answer_tokens(self) -> int:
        """The most tokens of an answer."""
        return int(self.settings["max_gen_toks"])


@dataclass(frozen=True)
class Query:
    """What the judge is asked about an answer."""

    about: str
    """Which turn it rates, or the model whose answer it compares with this one."""
    prompt: str
    is_second: bool = False
    """Whether the answer is the second of the two that are compared."""


def read_judged(name: str, data_dir: Path | None, limit: int | None, judge: Judge) -> JudgedBenchmark:
    """Read the settings, questions and references of a benchmark.

    Args:
        name: One of `JUDGED_NAMES`.
        data_dir: Folder with the published files; the manual says where in it.
        limit: Number of questions to keep; None for all.
        judge: Who judges the answers.

    Raises:
        EvaluationError: A file is missing, or not in the published format.
    """
    if data_dir is None:
        raise EvaluationError(
            f"{name}: --data-dir is missing. Its questions and reference answers are not fetched from the hub; the "
            "manual says which files to put there."
        )
    settings = yaml.safe_load((SETTINGS / f"{name}.yaml").read_text(encoding="utf-8"))
    docs = TO_DOCS[name](data_dir)
    if not docs:
        raise EvaluationError(f"{name}: the files in {data_dir} have no questions.")
    return JudgedBenchmark(name, settings, docs[:limit], judge, limit)


def answer_questions(model: LM, benchmark: JudgedBenchmark, journal: Journal) -> list[list[str]]:
    """Have a model answer each question, turn by turn; return its answers to each, one a turn."""
    chats = [list(doc["chat"]) for doc in benchmark.docs]
    answers: list[list[str]] = [[] for _ in chats]
    for turn in range(1 + len(benchmark.docs[0]["follow_ups"])):  # it is the same for all questions of a benchmark
        if turn:
            for doc, chat, replies in zip(benchmark.docs, chats, answers, strict=True):
                chat.append({"role": "assistant", "content": replies[-1]})
                chat.append({"role": "user", "content": doc["follow_ups"][turn - 1]})
        requests = chat_requests(chats, benchmark.answer_tokens, model.apply_chat_template)
        for replies, reply in zip(answers, ask(model, benchmark.name, requests, journal), strict=True):
            replies.append(reply)
    return answers


def judge_answers(
    benchmark: JudgedBenchmark, answers: Sequence[Sequence[str]], journal: Journal
) -> list[dict[str, Any]]:
    """Have the judge judge the answers to each question.

    Args:
        benchmark: The questions.
        answers: Of a model, to each question one a turn.
        journal: Keeps what the judge says.

    Returns:
        For each question its answers, the verdicts and their mean ``score``; None if a verdict is missing.

    Raises:
        EvaluationError: The judge cannot be asked, or too many of its verdicts cannot be used.
    """
    queries = write_queries(benchmark, answers)
    prompts = [query.prompt for asked in queries for query in asked]
    verdicts = iter(benchmark.judge.ask(benchmark.name, prompts, READERS[benchmark.name], journal))
    items = []
    for number, (doc, replies, asked) in enumerate(zip(benchmark.docs, answers, queries, strict=True)):
        records = [_make_record(benchmark.name, query, next(verdicts)) for query in asked]
        scores = [record["score"] for record in records]
        score = None if None in scores else sum(scores) / len(scores)
        item = {"id": doc.get("id", number), "subset": "", "answers": replies}
        items.append({**item, "verdicts": records, "score": score})
    return items


def _make_record(name: str, query: Query, verdict: Verdict) -> dict[str, Any]:
    """Return what is kept of a verdict; its score is that of the answer, whichever of two it is."""
    score = verdict.value
    if query.is_second and score is not None:
        score = OTHER_SIDE[name](score)
    seen = {"about": query.about, "is_second": query.is_second, "text": verdict.text}
    return {**seen, "score": score, "reason": verdict.reason}


def write_queries(benchmark: JudgedBenchmark, answers: Sequence[Sequence[str]]) -> list[list[Query]]:
    """Return what the judge is asked about the answers to each question."""
    generator = random.Random(_SEED)
    queries = []
    for doc, replies in zip(benchmark.docs, answers, strict=True):
        if benchmark.name == "mtbench":
            queries.append(_rate_turns(benchmark.settings, doc, replies))
        else:
            order = ["reference", "answer"]
            generator.shuffle(order)
            queries.append(_compare(benchmark.settings, doc, replies[0], is_second=order[1] == "answer"))
    return queries


def _rate_turns(settings: Row, doc: Row, answers: Sequence[str]) -> list[Query]:
    """Ask for a rating of each turn; the judge sees the conversation up to it, and references if there are any."""
    questions = [doc["chat"][0]["content"], *doc["follow_ups"]]
    criteria = settings["criteria_with_reference" if doc["references"] else "criteria"]
    template = Template(settings["prompt"])
    queries, conversation = [], []
    for number, turn in enumerate(("first", "second")):
        conversation.append(f"[The user's {turn} question]\n{questions[number]}")
        if doc["references"]:
            conversation.append(f"[Reference answer to the {turn} question]\n{doc['references'][number]}")
        conversation.append(f"[The assistant's answer to the {turn} question]\n{answers[number]}\n[End of the answer]")
        prompt = template.substitute(turn=turn, criteria=criteria, conversation="\n\n".join(conversation))
        queries.append(Query(f"turn {number + 1}", prompt))
    return queries


def _compare(settings: Row, doc: Row, answer: str, *, is_second: bool) -> list[Query]:
    """Ask for a comparison with the answer of each reference."""
    *history, query = doc["chat"]
    texts = {
        "history": "\n\n".join(f"{turn['role'].upper()}: {turn['content']}" for turn in history),
        "query": query["content"],
        "checklist": "\n".join(f"- {point}" for point in doc["checklist"]),
    }
    template = Template(settings["prompt"])
    queries = []
    for name, reference in doc["references"].items():
        first, second = (reference, answer) if is_second else (answer, reference)
        queries.append(Query(name, template.substitute(texts, first=first, second=second), is_second))
    return queries
