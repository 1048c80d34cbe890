"""Ask a judge, a chat model behind an OpenAI-compatible address; what it says is kept as it comes."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mig_selector.annotation.chat import ChatModel, SettingNames, ask, read_address
from mig_selector.annotation.journal import Journal
from mig_selector.console import progress
from mig_selector.errors import AnnotatorError, EvaluationError
from mig_selector.store.hashing import fingerprint_of


JUDGE_OPTIONS = SettingNames(
    url="--judge-url",
    model="--judge-model",
    requests="--judge-requests",
    max_tokens="--judge-max-tokens",
    api_key="MIG_JUDGE_API_KEY",
)
MOST_FAILED = 0.05
"""Share of a benchmark's verdicts that may be missing; with more of them, it has no score."""
_TIMEOUT_SECONDS = 600.0
"""Servers send nothing before an answer is complete."""
_ALWAYS_TRIED = 20
"""Requests that may fail before the others are given up."""


@dataclass(frozen=True)
class Verdict:
    """What a judge said."""

    text: str | None
    value: float | None
    """None if there is no verdict that can be used."""
    reason: str = ""
    """Why there is none."""


@dataclass(frozen=True)
class Judge:
    """A chat model that judges answers."""

    chat: ChatModel

    @property
    def identity(self) -> dict[str, Any]:
        """What decides its verdicts: not its address, and not how fast it is asked."""
        return {"model": self.chat.name, "max_tokens": self.chat.max_tokens}

    def check(self) -> None:
        """Make sure that it answers at all, before a model is asked thousands of questions.

        Raises:
            EvaluationError: It does not.
        """
        faults: list[str] = []
        try:
            ask(self.chat, [("", "Reply with the word yes.")], str, lambda _, text, reason: faults.append(reason))
        except AnnotatorError as error:
            raise EvaluationError(str(error)) from error
        if reason := faults[0]:
            raise EvaluationError(f"{JUDGE_OPTIONS.url}: {self.chat.url} does not answer a simple question: {reason}.")

    def ask(
        self, column: str, prompts: Sequence[str], read: Callable[[str], float], journal: Journal
    ) -> list[Verdict]:
        """Return the verdict on each prompt; one that cannot be read is asked for once more.

        Args:
            column: The benchmark, for messages.
            prompts: What the judge is asked; of equal prompts, one.
            read: Turns what it says into a number, or raises ValueError.
            journal: Verdicts of earlier runs are taken from here, new ones added.

        Raises:
            EvaluationError: The judge cannot be asked, or too many of its verdicts cannot be used.
        """
        keys = [fingerprint_of({"judge": self.identity, "prompt": prompt}) for prompt in prompts]
        verdicts: dict[str, Verdict] = {}
        for key, text in journal.read().items():
            with contextlib.suppress(ValueError):  # an earlier version may have read it otherwise
                verdicts[key] = Verdict(text, read(text))
        missing = {key: prompt for key, prompt in zip(keys, prompts, strict=True) if key not in verdicts}
        failures: list[str] = []

        def check(text: str) -> Verdict:
            return Verdict(text, read(text))

        with progress(
            f"{column}: asking {self.chat.name} for verdicts", len(missing), "verdicts", is_main=True
        ) as bar:

            def keep(key: str, verdict: Verdict | None, reason: str) -> None:
                bar(1)
                if verdict is not None:
                    journal.add(key, verdict.text)
                else:
                    failures.append(reason)
                    if len(failures) > max(_ALWAYS_TRIED, MOST_FAILED * len(prompts)):
                        raise too_many_failures(column, failures, len(prompts))
                verdicts[key] = verdict or Verdict(None, None, reason)

            try:
                ask(self.chat, missing.items(), check, keep)
            except AnnotatorError as error:
                raise EvaluationError(str(error)) from error
        return [verdicts[key] for key in keys]


def find_judge(url: str | None, name: str | None, max_requests: int, max_tokens: int) -> Judge | None:
    """Return the judge that the options describe; None if they describe none.

    Raises:
        EvaluationError: An option is missing, or out of its range.
        ArgumentError: The address is not one.
    """
    if url is None and name is None:
        return None
    if url is None or name is None:
        raise EvaluationError("--judge-url and --judge-model belong together: give both, or none.")
    if not name.strip():
        raise EvaluationError("--judge-model is empty; give what the server at --judge-url calls the judge.")
    for option, value in {"--judge-requests": max_requests, "--judge-max-tokens": max_tokens}.items():
        if value < 1:
            raise EvaluationError(f"{option} must be 1 or more, but is {value}.")
    address = read_address(JUDGE_OPTIONS.url, url, JUDGE_OPTIONS.api_key)
    return Judge(ChatModel(address, name, max_requests, _TIMEOUT_SECONDS, max_tokens, JUDGE_OPTIONS))


def too_many_failures(column: str, reasons: Iterable[str], num_asked: int) -> EvaluationError:
    """Return the error for a benchmark that has no score because its judge failed too often."""
    counts = Counter(reasons)
    found = "; ".join(f"{reason}: {count:,}" for reason, count in counts.most_common())
    return EvaluationError(
        f"{column} has no score: the judge gave no usable verdict on {counts.total():,} of {num_asked:,} requests "
        f"({found}), and at most {MOST_FAILED:.0%} may fail. The same command asks for these again; a larger judge or "
        f"more {JUDGE_OPTIONS.max_tokens} may help."
    )
