"""Meaningless words, label names and sentences, drawn from a seed."""

from __future__ import annotations

import json

import numpy as np


NUM_SENTENCES = 8_192

_ONSETS = ("b", "br", "c", "d", "f", "g", "gr", "h", "k", "l", "m", "n", "p", "pl", "r", "s", "st", "t", "tr", "v")
_NUCLEI = ("a", "e", "i", "o", "u", "ai", "ea", "ou")
_CODAS = ("", "", "n", "r", "s", "l", "nd", "ck")
_FOREIGN = ("naïve", "Größe", "café", "señal", "Ωmega", "数据", "文本生成", "данные", "データ", "→", "≤", "🙂")
_NUM_WORDS = 4_000
_STREAM_WORDS, _STREAM_SENTENCES = 11, 12


def draw_words(seed: int) -> list[str]:
    """Draw distinct words of one to three syllables, the shortest first."""
    generator = np.random.default_rng([seed, _STREAM_WORDS])
    words: dict[str, None] = {}
    while len(words) < _NUM_WORDS:
        parts = [
            _ONSETS[onset] + _NUCLEI[nucleus] + _CODAS[coda]
            for onset, nucleus, coda in generator.integers(0, [len(_ONSETS), len(_NUCLEI), len(_CODAS)], (3, 3))
        ]
        words["".join(parts[: 1 + int(generator.integers(0, 3))])] = None
    return sorted(words, key=len)


def name_labels(seed: int, count: int) -> list[str]:
    """Make distinct names of two words; in one of a hundred, the first word is not ASCII."""
    words = draw_words(seed)
    return [
        f"{_FOREIGN[label // 100 % len(_FOREIGN)] if label % 100 == 99 else words[label % len(words)]} "
        f"{words[(7 * label + 1 + label // len(words)) % len(words)]}"
        for label in range(count)
    ]


def json_sentences(seed: int) -> list[bytes]:
    """Write sentences as they appear inside a JSON string; some hold quotes, line breaks, code or non-ASCII text.

    Most sentences write non-ASCII characters as UTF-8; one in sixteen escapes them, as some writers of JSON do.
    """
    return [
        json.dumps(sentence, ensure_ascii=number % 16 == 0)[1:-1].encode("utf-8")
        for number, sentence in enumerate(_sentences(seed))
    ]


def short_texts(seed: int, count: int) -> list[str]:
    """Make texts of three words."""
    words = draw_words(seed)
    picks = np.random.default_rng([seed, _STREAM_SENTENCES]).integers(0, len(words), (count, 3))
    return [" ".join(words[pick] for pick in row) for row in picks.tolist()]


def _sentences(seed: int) -> list[str]:
    """Draw sentences of 4 to 26 words; short words are more frequent."""
    generator, words = np.random.default_rng([seed, _STREAM_SENTENCES]), draw_words(seed)
    lengths = generator.integers(4, 27, NUM_SENTENCES)
    picks = (len(words) * generator.random(int(lengths.sum())) ** 3).astype(np.int64).tolist()
    ends = np.cumsum(lengths).tolist()
    return [
        _dress([words[pick] for pick in picks[end - length : end]], number)
        for number, (end, length) in enumerate(zip(ends, lengths.tolist(), strict=True))
    ]


def _dress(words: list[str], number: int) -> str:
    """Make a sentence of words; some numbers give quotes, code, formulas or list items instead."""
    match number % 24:
        case 0 | 8:
            words[1:2] = [_FOREIGN[number // 8 % len(_FOREIGN)]]
        case 3:
            return f'"{" ".join(words).capitalize()}", {words[0]} said. '
        case 5:
            return f"```python\ndef {words[0]}({words[1]}):\n\treturn {words[2]}[\"{words[3]}\"] + '\\n'\n```\n"
        case 11:
            return f"$\\frac{{{words[0]}}}{{{words[1]}}} \\leq {number}$, " + " ".join(words) + ".\n"
        case 14 | 22:
            return f"- {' '.join(words)}\n"
    ending = ".\n\n" if number % 6 == 1 else ". "
    return " ".join(words).capitalize() + ending
