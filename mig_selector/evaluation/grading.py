"""Grade answers: what an answer chooses is read from its text, much as OpenCompass does, and compared."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any


_LETTER_PATTERNS = (
    r"(?i:answer)\s*:\s*\W*([A-D])\b",
    r"(?i:answer|option)\s+is:?\s+(?:(?i:option)\s+)?\W*([A-D])\b",
    r"\\boxed\{\s*(?:\\text\{)?\W*([A-D])\b",
)
"""An answer that is announced; the last one counts, as a model may correct itself."""


def choice_letter(answer: str) -> str | None:
    """Return the letter A to D that an answer chooses: announced, else at its beginning, else the first on its own."""
    for pattern in _LETTER_PATTERNS:
        if found := re.findall(pattern, answer):
            return str(found[-1])
    # A sentence that begins with the article is not a choice.
    found = re.findall(r"^\W*([A-D])(?:\W|$)(?!\s*[a-z])", answer) or re.findall(r"\b([B-D]|A(?=[).:,]|$))", answer)
    return str(found[0]) if found else None


def bbh_choice(text: str) -> str:
    """Return the letter of a BBH answer, or of its target: the first after "answer is", in parentheses if any is."""
    text = text.split("answer is ")[1].strip() if "answer is " in text else text
    found = re.search(r"\(([A-Z])\)", text) or re.search(r"([A-Z])", text)
    return found.group(1) if found else text


def bbh_text(text: str) -> str:
    """Return the words of a BBH answer, or of its target: the line after the last "answer is", without decoration."""
    parts = re.split(r"answer is\s*:?\s*", text, flags=re.IGNORECASE)
    line = parts[-1].strip().split("\n")[0].strip().removesuffix(".").strip()
    if bold := re.search(r"\*\*(.*?)\*\*", line):
        line = bold.group(1).strip()
    if word := re.match(r"(yes|no|true|false)\b", line, flags=re.IGNORECASE):
        return word.group(1).lower()
    return re.sub(r"[\s,]+", " ", line).strip().casefold()


def boxed(text: str) -> str | None:
    r"""Return what is in the last ``\boxed{...}`` of a text, with balanced braces; None if there is none."""
    start = text.rfind(r"\boxed{")
    if start < 0:
        return None
    begin = position = start + len(r"\boxed{")
    depth = 1
    while position < len(text) and depth:
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        position += 1
    return None if depth else text[begin : position - 1]


def final_number(answer: str) -> Decimal | None:
    """Return the number in the last box; without a box, that of the last sentence with "answer is" or "####"."""
    text = boxed(answer)
    if text is None:
        announced = re.findall(r"(?i:answer is|####)\s*:?([^\n]*)", answer)
        text = announced[-1] if announced else ""
    numbers = re.findall(r"-?\d[\d,]*(?:\.\d+)?|-?\.\d+", text.replace("{,}", ","))
    try:
        return Decimal(numbers[-1].replace(",", "")) if numbers else None
    except InvalidOperation:
        return None


def humaneval_program(doc: Mapping[str, Any], answer: str) -> str:
    """Return the program that checks an answer: the first block of code in it, or all of it, before the tests.

    A block that lacks the function is taken for its body.
    """
    blocks = re.findall(r"```\w*\n(.*?)(?:```|\Z)", answer, re.DOTALL)
    code = blocks[0] if blocks else answer
    if not re.search(rf"^\s*def\s+{re.escape(doc['entry_point'])}\b", code, re.MULTILINE):
        lines = code.strip("\n").splitlines()
        is_indented = not lines or lines[0].startswith((" ", "\t"))
        code = "\n".join(lines if is_indented else [f"    {line}" for line in lines])
    return f"{doc['prompt']}{code}\n\n{doc['test']}\n\ncheck({doc['entry_point']})\n"


def follows_instructions(doc: Mapping[str, Any], answer: str) -> bool:
    """Whether an answer follows every instruction of an IFEval prompt, by the checks that lm_eval carries."""
    import langdetect
    from lm_eval.tasks.ifeval.utils import InputExample, test_instruction_following_strict

    langdetect.DetectorFactory.seed = 0  # the language of a short text is otherwise a matter of chance
    prompt = InputExample(doc["key"], doc["instruction_id_list"], doc["prompt"], doc["kwargs"])
    return bool(test_instruction_following_strict(prompt, answer).follow_all_instructions)


def _grade_bbh(doc: Mapping[str, Any], answer: str) -> bool:
    read = bbh_choice if re.fullmatch(r"\([A-Z]\)", doc["target"].strip()) else bbh_text
    return read(answer) == read(doc["target"])


GRADERS: dict[str, Callable[[Mapping[str, Any], str], bool]] = {
    "arc": lambda doc, answer: choice_letter(answer) == doc["target"],
    "bbh": _grade_bbh,
    "gsm8k": lambda doc, answer: final_number(answer) == Decimal(doc["target"]),
    "mmlu": lambda doc, answer: choice_letter(answer) == doc["target"],
    "ifeval": follows_instructions,
}
"""By column: whether an answer to a question is right. HumanEval's answers are programs: see `sandbox`."""
