"""One example of the pool, the rules that score it, and the notation for drawing its labels."""

import hashlib
import json
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any


REASON_WORDS = re.compile(r"\b(because|since|so|therefore|hence|means|gives|first|then|check)\b", re.IGNORECASE)
WORKING = re.compile(r"[=<>|]|```|->")
LOWEST_SCORE, HIGHEST_SCORE = 1.0, 6.0


@dataclass(frozen=True)
class Turn:
    """One question and its answer."""

    question: str
    answer: str
    steps: int = 1
    """Number of reasoning steps or constraints on the way to the answer; at least 1."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """A dialogue and its labels."""

    turns: tuple[Turn, ...]
    labels: tuple[str, ...]
    system: str = ""


Generator = Callable[[Random], Example]
"""Draws one example; equal states of the random generator give equal examples."""


def ask(question: str, answer: str, labels: tuple[str, ...], *, steps: int = 1, system: str = "") -> Example:
    """Make an example of one question and one answer."""
    return Example(turns=(Turn(question, answer, steps),), labels=labels, system=system)


def choose_labels(rng: Random, *choices: str) -> tuple[str, ...]:
    """Draw labels as human taggers choose them: the same idea does not always get the same word.

    Args:
        rng: Random generator.
        choices: Each gives one label. ``"mathematics|math"`` gives one of the two; each alternative is half as likely
            as the one before it. With a trailing ``?`` the label is left out half of the time.

    Returns:
        The labels in the order of `choices`, without repeats.
    """
    labels = []
    for choice in choices:
        if choice.endswith("?") and rng.random() < 0.5:
            continue
        names = choice.removesuffix("?").split("|")
        labels += rng.choices(names, weights=[0.5**number for number in range(len(names))])
    return tuple(dict.fromkeys(labels))


def join_words(parts: list[str]) -> str:
    """Join words as in a sentence: ``a, b and c``."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))


def split_words(text: str) -> list[str]:
    """Split a table that is written as one string into words."""
    return text.split()


def read_facts(kind: str) -> list[dict[str, Any]]:
    """Read one table of facts.toml: commands, explanations or tips."""
    facts = tomllib.loads(Path(__file__).with_name("facts.toml").read_text(encoding="utf-8"))
    return list(facts[kind])


def a_or_an(word: str) -> str:
    """Put ``a`` or ``an`` before a word, depending on its first letter."""
    return f"an {word}" if word[0].lower() in "aeiou" else f"a {word}"


def score_complexity(turn: Turn) -> float:
    """Score how demanding a turn is: 1, plus 0.6 for each further step, plus up to 1.0 for a question of 40 words."""
    length = len(turn.question.split())
    return _clamp(1.0 + 0.6 * (turn.steps - 1) + min(length, 40) / 40)


def score_quality(turn: Turn) -> float:
    """Score how well an answer explains itself.

    One point to begin with; one point each for a whole sentence, a word that gives a reason, visible working (an
    equation, a table, code) and more than one line; and up to one point for length, reached at 50 words.
    """
    answer = turn.answer.strip()
    length = len(answer.split())
    points = [
        length >= 4 and answer[-1] in ".!`",
        REASON_WORDS.search(answer) is not None,
        WORKING.search(answer) is not None,
        "\n" in answer,
    ]
    return _clamp(1.0 + sum(points) + min(length, 50) / 50)


def build_row(example: Example, source: str) -> dict[str, Any]:
    """Turn an example into a row of the pool: ShareGPT dialogue, source, content hash, labels and scores."""
    dialogs = [{"role": "system", "content": example.system}] if example.system else []
    for turn in example.turns:
        dialogs.append({"role": "user", "content": turn.question})
        dialogs.append({"role": "assistant", "content": turn.answer})
    content = json.dumps(dialogs, ensure_ascii=False)
    return {
        "dialogs": dialogs,
        "source": [source],
        "_id": hashlib.sha256(content.encode()).hexdigest()[:24],
        "annotation": {
            "instag": {"content": list(example.labels)},
            "dialog_round": len(example.turns),
            "deita": {
                "quality_scores": [score_quality(turn) for turn in example.turns],
                "complexity_scores": [score_complexity(turn) for turn in example.turns],
            },
        },
    }


def _clamp(score: float) -> float:
    return round(min(max(score, LOWEST_SCORE), HIGHEST_SCORE), 4)
