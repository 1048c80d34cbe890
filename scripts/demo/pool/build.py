"""The rows of the pool, drawn from all generators without repeats."""

from random import Random
from typing import Any

from demo.pool import arithmetic, code, knowledge, languages, measures, numbers, reasoning, talk, text
from demo.pool.example import Generator, build_row


SUBJECTS: dict[str, dict[Generator, float]] = {
    "arithmetic": arithmetic.GENERATORS,
    "numbers": numbers.GENERATORS,
    "measures": measures.GENERATORS,
    "text": text.GENERATORS,
    "code": code.GENERATORS,
    "languages": languages.GENERATORS,
    "knowledge": knowledge.GENERATORS,
    "reasoning": reasoning.GENERATORS,
    "talk": talk.GENERATORS,
}
"""The generators of each subject, each with the weight by which it is drawn."""
PATIENCE = 30
"""Number of repeats in succession after which a generator is not drawn again."""


def build_pool(num_rows: int, seed: int) -> list[dict[str, Any]]:
    """Draw distinct rows.

    Args:
        num_rows: Number of rows; at least 0.
        seed: The same seed gives the same rows in the same order.

    Returns:
        The rows, no two with the same dialogue.

    Raises:
        ValueError: The generators cannot make that many distinct rows.
    """
    rng = Random(seed)
    weights = {(subject, draw): weight for subject, draws in SUBJECTS.items() for draw, weight in draws.items()}
    rows: dict[str, dict[str, Any]] = {}
    while len(rows) < num_rows:
        if not weights:
            raise ValueError(f"the generators can only make {len(rows)} distinct rows, but {num_rows} were requested")
        subject, draw = rng.choices(list(weights), weights=list(weights.values()))[0]
        row = _draw_new_row(rng, draw, f"demo_{subject}", rows)
        if row is None:
            del weights[subject, draw]
        else:
            rows[row["_id"]] = row
    return list(rows.values())


def _draw_new_row(
    rng: Random, draw: Generator, source: str, known: dict[str, dict[str, Any]]
) -> dict[str, Any] | None:
    for _ in range(PATIENCE):
        row = build_row(draw(rng), source)
        if row["_id"] not in known:
            return row
    return None
