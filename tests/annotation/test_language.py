"""Languages, by the model that comes with the detector: no network, any text."""

from mig_selector.annotation.language import UNCLEAR, detect_languages


TEXTS = {
    "en": "What is the capital of France, and how many people live there?",
    "fr": "Quelle est la capitale de la France ?\nCombien d'habitants compte-t-elle ?",
    "ru": "Напиши короткий рассказ про море, корабли и людей.",
    "zh": "请用中文解释一下什么是机器学习。",
}


def test_languages_are_told_apart():
    assert detect_languages(TEXTS.values()) == list(TEXTS)


def test_what_is_no_language_is_unclear():
    assert detect_languages(["", "2 + 2 =", "x" * 10_000]) == [UNCLEAR] * 3


def test_only_the_beginning_counts():
    assert detect_languages([TEXTS["fr"] * 10 + TEXTS["ru"] * 100]) == ["fr"]
