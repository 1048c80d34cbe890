"""Read the verdict in what a judge writes; a text without one raises ValueError, and is never given a score."""

from __future__ import annotations

import re
from collections.abc import Callable


_CHOICES = {"A++": 1.0, "A+": 0.5, "A=B": 0.0, "B+": -0.5, "B++": -1.0}


def read_rating(text: str) -> float:
    """Return the rating of MT-Bench, 1 to 10: ``[[5]]``. The last one counts, as a judge may quote others before."""
    found = re.findall(r"\[\[\s*(\d+(?:\.\d+)?)\s*\]\]", _conclusion(text))
    if not found or not 1 <= float(found[-1]) <= 10:
        raise ValueError("no rating from 1 to 10, such as [[5]]")
    return float(found[-1])


def read_winner(text: str) -> float:
    """Return 1 if the first of two answers of AlpacaEval wins (``m``), and 0 if the second one does (``M``).

    The identifier must be the first word, or all there is in the last line.
    """
    text = _conclusion(text)
    found = re.match(r"\W*([mM])\b", text) or re.search(r"(?:^|\n)\W*([mM])\W*$", text)
    if not found:
        raise ValueError("the verdict was neither 'm' nor 'M'")
    return float(found.group(1) == "m")


def read_choice(text: str) -> float:
    """Return how much better the first of two answers of WildBench is, -1 to 1: the last ``"choice": "A+"``."""
    found = re.findall(r'"choice"\s*:\s*"\s*(A\+\+|A\+|A=B|B\+\+|B\+)\s*"', _conclusion(text))
    if not found:
        raise ValueError('no "choice" of A++, A+, A=B, B+ or B++')
    return _CHOICES[found[-1]]


def _conclusion(text: str) -> str:
    """Return what comes after a train of thought."""
    return text.rpartition("</think>")[2]


READERS: dict[str, Callable[[str], float]] = {
    "alpacaeval": read_winner,
    "mtbench": read_rating,
    "wildbench": read_choice,
}
"""By column: a judge's text as a number."""
OTHER_SIDE: dict[str, Callable[[float], float]] = {
    "alpacaeval": lambda verdict: 1 - verdict,
    "wildbench": lambda verdict: -verdict,
}
"""By column: the verdict on two answers, as a verdict on the same answers in the other order."""
