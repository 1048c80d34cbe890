"""InsTagger (arXiv 2308.07074): a language model that was trained to write tags of a question, each with a reason.

Each turn is tagged on its own; a row has the tags of its turns, in their order. A row that lacks the tags of one turn
fails: with some of its tags it would seem simpler than it is.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import compress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mig_selector.annotation.generation import Answer, read_answers
from mig_selector.annotation.tagger import Tagger, Tags
from mig_selector.annotation.tools import ModelName, Rows, Tools
from mig_selector.arrays import RowLabels
from mig_selector.pool.leaves.batch import Numbering


QUERY = "{query}"
PROMPT = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions. USER: Please identify tags of user intentions in the following user "
    "query and provide an explanation for each tag. Please respond in the JSON format "
    '{"tag": str, "explanation": str}.\nUser query: {query} ASSISTANT:'
)
"""InsTagger was trained with FastChat's template of Vicuna, says its page."""
_TAG = re.compile(r'"tag"\s*:\s*"([^"]+)"')


@dataclass(frozen=True)
class InstaggerTagger(Tagger):
    """Labels rows by what a language model writes."""

    model: ModelName
    template: str
    """The prompt, with `QUERY` where the question belongs."""
    max_new_tokens: int
    """Tokens that an answer may have; twice as many where these are too few."""

    embeds_labels = False
    brings_vectors = False
    invents_labels = True

    @property
    def advice(self) -> str:
        """Prompt, model, limit."""
        return (
            "A model answers in the expected form only to the prompt that it was trained with: set "
            f"mig_instagger_template to that, or {self.model.key} to another model. Where answers are cut off, raise "
            "mig_instagger_max_new_tokens."
        )

    @property
    def models(self) -> tuple[ModelName, ...]:
        """The one that writes."""
        return (self.model,)

    @property
    def identity(self) -> dict[str, Any]:
        """Prompt and limit."""
        return {
            "kind": "instagger",
            "version": 1,
            "template": self.template,
            "max_new_tokens": self.max_new_tokens,
        }

    def tag(self, rows: Rows, tools: Tools) -> Tags:
        """Label rows; see `Tagger.tag`."""
        row_of_turn = np.fromiter((row for row, _ in self._prompts(rows)), np.int64)
        everything = np.ones(len(row_of_turn), np.bool_)
        answers = self._ask(rows, everything, self.max_new_tokens, tools)
        # The likeliest answer is always the same, so to ask again is of use only with more room for it.
        is_cut_off = np.array([answer.status == "cut off" for answer in answers], np.bool_)
        if is_cut_off.any():
            again = self._ask(rows, is_cut_off, 2 * self.max_new_tokens, tools)
            for turn, answer in zip(np.flatnonzero(is_cut_off).tolist(), again, strict=True):
                if answer.status != "too long":
                    answers[turn] = answer
        return self._join(answers, row_of_turn.tolist(), len(rows))

    def rehearse(self, rows: Rows, tools: Tools) -> None:
        """Answer once; see `Tagger.rehearse`."""
        self._ask(rows, np.ones(sum(1 for _ in self._prompts(rows)), np.bool_), self.max_new_tokens, tools)

    def _prompts(self, rows: Rows) -> Iterator[tuple[int, str]]:
        """Yield for each turn that says something the index of its row and its prompt."""
        for row, pairs in enumerate(rows.pairs()):
            for pair in pairs:
                if pair.instruction.strip():
                    yield row, self.template.replace(QUERY, pair.instruction)

    def _ask(self, rows: Rows, is_asked: NDArray[np.bool_], limit: int, tools: Tools) -> list[Answer]:
        """Have the model answer some of the prompts, or take what an earlier run kept."""
        model = tools.find(self.model)
        turns = hashlib.sha256(np.flatnonzero(is_asked).tobytes()).hexdigest()
        identity = {"template": self.template, "max_new_tokens": limit, "turns": turns}
        path = rows.cache_path("written_tokens", identity, model)

        def prompts() -> Iterator[str]:
            return compress((prompt for _, prompt in self._prompts(rows)), is_asked)

        count = int(np.count_nonzero(is_asked))
        tools.crew.write_answers(prompts, count, model, path, key=self.model.key, max_new_tokens=limit)
        return list(read_answers(path, model, self.model.key))

    def _join(self, answers: list[Answer], row_of_turn: list[int], num_rows: int) -> Tags:
        """Make the labels of rows of the answers to their turns."""
        tags_of_row: list[dict[str, None]] = [{} for _ in range(num_rows)]
        failures: dict[int, str] = {}
        for row, answer in zip(row_of_turn, answers, strict=True):
            tags = parse_tags(answer.text) if answer.status == "finished" else []
            tags_of_row[row] |= dict.fromkeys(tags)
            if not tags:
                failures.setdefault(row, f"{self.model.key}: {self._reason(answer)}")
        for row in range(num_rows):
            if row in failures:
                tags_of_row[row] = {}
            elif not tags_of_row[row]:
                failures[row] = "the question is empty"  # of the turns that count
        numbering = Numbering()
        ids = [numbering.of_all(list(tags)) for tags in tags_of_row]
        offsets = np.concatenate((np.zeros(1, np.int64), np.cumsum([len(each) for each in ids], dtype=np.int64)))
        return Tags(RowLabels(list(numbering), offsets, np.concatenate(ids).astype(np.int32)), failures=failures)

    def _reason(self, answer: Answer) -> str:
        match answer.status:
            case "finished":
                return "an answer has no tags in the expected form"
            case "cut off":
                return f"an answer was cut off at {2 * self.max_new_tokens:,} tokens, or where the model reads no more"
            case "too long":
                return "a question is longer than the model reads, with room for the answer"


def parse_tags(answer: str) -> list[str]:
    """Return the tags that an answer names, in lower case, each once.

    An answer is JSON: a list of objects with a key ``tag``, or one such object. Of one that is nearly so (a quotation
    mark or a comma is missing) what is written like a tag is taken.
    """
    try:
        parsed = json.loads(answer)
    except ValueError:
        found = _TAG.findall(answer)
    else:
        objects = parsed if isinstance(parsed, list) else [parsed]
        found = [each["tag"] for each in objects if isinstance(each, dict) and isinstance(each.get("tag"), str)]
    # JSON can spell half of a surrogate pair, which is not text.
    texts = (each.encode("utf-8", "ignore").decode().strip().lower() for each in found)
    return list(dict.fromkeys(filter(None, texts)))
