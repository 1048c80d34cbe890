"""The scorer that ``mig_scorer`` names: what gives a score to rows of which the pool stores none.

To add a scorer, write a class as `deita.py` has and add a case to `find_scorer`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from mig_selector.annotation.asking import find_prompting
from mig_selector.annotation.deita import DeitaScorer
from mig_selector.annotation.llm import SCORE_PROMPT, LlmScore
from mig_selector.annotation.reward import RewardScorer
from mig_selector.annotation.scores import Score, find_score
from mig_selector.annotation.tools import ModelName
from mig_selector.errors import ArgumentError


def find_scorer(
    name: str, settings: Mapping[str, Any], *, turns: Literal["mean", "sum"], default_tokenizer: str | None
) -> Score:
    """Return the scorer with a name; its scores are kept as they are, and scaled when rows are chosen.

    Args:
        name: As ``mig_scorer`` has it.
        settings: Values of the keys of `AnnotationSettings`, `ChatSettings` and `ScoreSettings`.
        turns: How turns are joined where ``mig_deita_turns`` is not set.
        default_tokenizer: What counts response tokens where ``mig_tokenizer`` is not set.

    Raises:
        ArgumentError: No model computes the score, or a key that it needs is not set.
    """
    match name:
        case "deita":
            keys = ("mig_deita_complexity_model", "mig_deita_quality_model")
            models = tuple(ModelName(key, settings[key]) for key in keys)
            return DeitaScorer(name, models=models, turns=settings["mig_deita_turns"] or turns)
        case "reward":
            return RewardScorer(name, models=(ModelName("mig_reward_model", settings["mig_reward_model"]),))
        case "llm":
            return LlmScore(name, prompting=find_prompting("mig_scorer", settings, SCORE_PROMPT))
        case _:
            scorer = find_score(name, settings, turns=turns, default_tokenizer=default_tokenizer)
            if scorer.stored.paths:
                raise ArgumentError(
                    f"mig_scorer: {name} is computed by a language model; set mig_ifd_model (gpt2, for example)."
                )
            return replace(scorer, scale="none")
