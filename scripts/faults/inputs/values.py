"""Valid rows, and odd values to replace parts of them at any depth."""

from __future__ import annotations

import json
import math
from random import Random
from typing import Any


JUDGES = [
    *(("labels", "score"), ("meta.labels", "meta.score"), ("labels", "deita"), ("labels", "constant")),
    *(("meta.tags.tag", "meta.flat"), ("topic", "score")),
]
"""Settings of `mig_labels` and `mig_score`; a valid row has what each of them names."""

_DEPTHS = (1, 20, 150, 700, 3_000)
_TEXTS = (
    *("", "a", "b", "label", "é", "答え", "🙂", "\u2028", "\u202e", "\x1b[31m", "\0", "\x7f", "\ufeff", "\ufffe"),
    *("\ud800", "\udfff", "a\ud83d", "\U0010ffff", '"', "\\", "\\u0041", "a\nb", "\r\n", ",", "}", "]", "NaN"),
    *('["a", "b"]', "['a', \"b's\"]", "['a' 'b']", "[]", "[a]", '["\\ud800", "a"]', "x" * 5_000),
)
_NUMBERS = (
    *(0, 1, -1, 2.5, -0.0, 5e-324, 1e308, 1.7976931348623157e308, -1e308, math.nan, math.inf, -math.inf),
    *(2**31, 2**53 + 1, 2**63, 2**64, -(2**63) - 1, 10**30, 10**308, 10**309, 10**4000, 0.1 + 0.2, True, False),
)
_SPELLINGS = ("1E400", "-1e999", "1e-400", "00", "1.", ".5", "+1", "0x1", "1_0", "9" * 5_000, "-0", "Infinity", "nul")
"""Spellings of numbers, valid and not, that have to be written as raw text."""


class Raw(str):
    """Text that is written to JSON as it is, without quotes."""

    __slots__ = ()


def make_row(rng: Random, number: int) -> dict[str, Any]:
    """Return a row that is valid for each of `JUDGES`."""
    labels = rng.sample(("a", "b", "c", "dé", "答え"), rng.randint(1, 3))
    score = rng.choice((0, 1, 0.5, 2.25, 1e-3, 7))
    turns = rng.randint(1, 3)
    return {
        "instruction": f"question {number}",
        "output": rng.choice(("answer", "line\nline", "é 答え \u2028", "")),
        "labels": labels,
        "score": score,
        "meta": {"labels": labels, "score": [score, 1.5], "tags": [{"tag": label, "why": "x"} for label in labels]},
        "meta.flat": score,
        "topic": labels[0],
        "annotation": {"deita": {"quality_scores": [score] * turns, "complexity_scores": [0.7] * turns}},
    }


def odd_value(rng: Random) -> Any:
    """Return an unusual value of any type."""
    match rng.randrange(8):
        case 0 | 1:
            return rng.choice(_TEXTS)
        case 2 | 3:
            return rng.choice(_NUMBERS)
        case 4:
            return Raw(rng.choice(_SPELLINGS))
        case 5:
            return rng.choice((None, [], {}, [None], [[]], [1, "a"], ["a", 1], [[1.0]], {"": None}))
        case 6:
            return [odd_value(rng) for _ in range(rng.randint(0, 3))]
        case _:
            return _nested(rng.choice(_DEPTHS), rng.choice((("[", "]"), ('{"a":', "}"))))


def _nested(depth: int, brackets: tuple[str, str]) -> Raw:
    return Raw(f"{brackets[0] * depth}1{brackets[1] * depth}")


def disturb(rng: Random, value: Any) -> Any:
    """Change one thing somewhere in a value: replace, remove or add something."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        match rng.randrange(8):
            case 0:
                return {other: item for other, item in value.items() if other != key}
            case 1:
                return {**value, rng.choice(_TEXTS): odd_value(rng)}
            case _:
                return {**value, key: disturb(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.6:
        index = rng.randrange(len(value))
        match rng.randrange(4):
            case 0:
                return value[:index] + value[index + 1 :]
            case 1:
                return [*value[:index], odd_value(rng), *value[index:]]
            case _:
                return [*value[:index], disturb(rng, value[index]), *value[index + 1 :]]
    return odd_value(rng)


def to_json(rng: Random, value: Any) -> str:
    """Write a value as JSON in one of its spellings; sometimes a key occurs twice."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, dict):
        members = [f"{to_json(rng, key)}{rng.choice((':', ': '))}{to_json(rng, item)}" for key, item in value.items()]
        if members and rng.random() < 0.02:
            members.append(f"{to_json(rng, rng.choice(list(value)))}:{to_json(rng, odd_value(rng))}")
        return "{" + rng.choice((",", ", ")).join(members) + "}"
    if isinstance(value, list):
        return f"[{','.join(to_json(rng, item) for item in value)}]"
    if isinstance(value, str):
        is_ascii = rng.random() < 0.5 or any("\ud800" <= char <= "\udfff" for char in value)
        return json.dumps(value, ensure_ascii=is_ascii)
    return json.dumps(value)
