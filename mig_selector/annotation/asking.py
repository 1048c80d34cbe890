"""Ask a chat model about rows: its keys, prompts, the answers on disk, and when to give up.

N rows.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Protocol, runtime_checkable

import numpy as np

from mig_selector.annotation.chat import API_KEY, ChatModel, ask, read_address
from mig_selector.annotation.journal import Journal
from mig_selector.annotation.tools import Rows, Tools
from mig_selector.console import progress
from mig_selector.errors import AnnotatorError, ArgumentError
from mig_selector.settings import Setting, above, at_least


logger = logging.getLogger(__name__)

_TRIED_PROMPTS = 20
"""If fewer than half of the first answers can be used, no more are asked for."""
_SHOWN_ANSWERS = 3
_SHOWN_CHARS = 200
_CHARS_A_TOKEN = 4
"""Of English text, about; for estimates only."""
_ADVICE = (
    "Look at what the model answers: small models seldom keep to a format. Serve a larger or better one, check that "
    "the server uses the model's chat template, or choose a mig_tagger or mig_scorer that needs no such model."
)
_SERVER_ADVICE = (
    "Check that mig_annotator_url is an OpenAI-compatible server that is running, and that it serves this model."
)


@dataclass(frozen=True, kw_only=True)
class ChatSettings:
    """The keys of the chat model that labels or scores rows."""

    mig_annotator_url: Annotated[
        str | None,
        Setting(
            "Address of the chat model of mig_tagger: llm and mig_scorer: llm, up to /chat/completions: "
            f"http://localhost:8000/v1, for example. The key of an API is read from {API_KEY} in the environment.",
            decides=False,
        ),
    ] = None
    mig_annotator_model: Annotated[
        str | None, Setting("Name of the chat model, as the server knows it.", decides=True)
    ] = None
    mig_annotator_requests: Annotated[
        int, Setting("Requests that the chat model is sent at the same time.", at_least(1), decides=False)
    ] = 32
    mig_annotator_timeout: Annotated[
        float,
        Setting("Seconds without a byte of the answer after which a request is sent again.", above(0), decides=False),
    ] = 120.0
    mig_annotator_max_tokens: Annotated[
        int, Setting("Tokens that an answer of the chat model may have.", at_least(1), decides=True)
    ] = 512
    mig_annotator_max_chars: Annotated[
        int,
        Setting(
            "Characters of a question, and of an answer to be scored, that the chat model is shown.",
            at_least(1),
            decides=True,
        ),
    ] = 8_000


@dataclass(frozen=True)
class Prompting:
    """How a chat model is asked about rows."""

    chat: ChatModel
    template: str
    max_chars: int
    """Of each text that is put into the template."""

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the answers: not the address, and not how fast it is asked."""
        return {
            "model": self.chat.name,
            "prompt": hashlib.sha256(self.template.encode("utf-8")).hexdigest(),
            "max_tokens": self.chat.max_tokens,
            "max_chars": self.max_chars,
        }

    def fill(self, **texts: str) -> str:
        """Return the prompt for some texts, cut off where they are too long."""
        return self.template.format(**{name: text[: self.max_chars] for name, text in texts.items()})


def find_prompting(key: str, settings: Mapping[str, Any], template: str) -> Prompting:
    """Return how the chat model that the keys of `ChatSettings` describe is asked.

    Args:
        key: The key that asks for it, for messages.
        settings: Values of the keys.
        template: The prompt, with a field for each text.

    Raises:
        ArgumentError: A key is missing, or the address holds more than an address.
    """
    url, name = settings["mig_annotator_url"], settings["mig_annotator_model"]
    if url is None or name is None:
        missing = " and ".join(each for each in ("mig_annotator_url", "mig_annotator_model") if not settings[each])
        raise ArgumentError(f"{key} asks a chat model behind an OpenAI-compatible address; set {missing}.")
    chat = ChatModel(
        url=read_address("mig_annotator_url", url, API_KEY),
        name=name,
        max_requests=settings["mig_annotator_requests"],
        timeout_seconds=settings["mig_annotator_timeout"],
        max_tokens=settings["mig_annotator_max_tokens"],
    )
    return Prompting(chat, template, settings["mig_annotator_max_chars"])


@runtime_checkable
class Asking(Protocol):
    """A tagger or scorer that asks a chat model about each row."""

    @property
    def prompting(self) -> Prompting:
        """How it asks."""
        ...

    def prompts(self, rows: Rows) -> Iterator[str]:
        """Write the prompt of each row."""
        ...


class Inquiry:
    """The questions of one tagger or scorer about some rows, and the answers as far as they are known."""

    def __init__(self, asking: Asking, tools: Tools, read: Callable[[str], Any], title: str) -> None:
        """Find the answers to earlier runs: none is asked for, and paid for, twice.

        Args:
            asking: Writes the prompts.
            tools: Say where answers are kept, and how many rows may fail.
            read: Checks an answer; see `chat.ask`.
            title: What is asked for.
        """
        self._asking, self._read, self._title = asking, read, title
        self._chat = asking.prompting.chat
        self._most_failures = max(tools.most_failures, _TRIED_PROMPTS)
        self._journal = Journal(tools.answers_path(asking.prompting.identity))
        self._answers = self._journal.read()
        self._failures: dict[str, str] = {}
        self._num_shown, self._num_unusable = 0, 0

    def ask_rows(self, rows: Rows) -> tuple[list[Any], dict[int, str]]:
        """Ask about rows; of equal prompts once.

        Args:
            rows: N rows.

        Returns:
            The answer to each row, None where there is none, length N; and why there is none, by row.

        Raises:
            AnnotatorError: The first answers are poor, too many rows failed, or the server cannot be used.
        """
        has_been_tried = len(self._answers) >= _TRIED_PROMPTS
        digests: list[str] = []
        with progress(f"asking {self._chat.name} for {self._title}", len(rows), "rows", is_main=True) as bar:

            def keep(digest: str, answer: Any, reason: str) -> None:
                bar(1)
                self._keep(digest, answer, reason)

            prompts = self._unanswered(rows, digests, bar)
            first = list(itertools.islice(prompts, _TRIED_PROMPTS))
            ask(self._chat, first, self._check, keep)
            is_poor = len(first) == _TRIED_PROMPTS and 2 * len(self._failures) > _TRIED_PROMPTS
            if is_poor and not has_been_tried:
                raise self._error(f"of the first {_TRIED_PROMPTS} requests")
            ask(self._chat, prompts, self._check, keep)
        reasons = {row: self._failures[digest] for row, digest in enumerate(digests) if digest in self._failures}
        return [self._answers.get(digest) for digest in digests], reasons

    def _unanswered(
        self, rows: Rows, digests: list[str], on_known: Callable[[int], object]
    ) -> Iterator[tuple[str, str]]:
        """Yield the prompts that are to be sent, each with its digest; append the digest of each row to `digests`."""
        seen = set(self._answers)
        for prompt in self._asking.prompts(rows):
            digest = hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()[:32]
            digests.append(digest)
            if digest in seen:
                on_known(1)
                continue
            seen.add(digest)
            yield digest, prompt

    def _check(self, text: str) -> Any:
        try:
            return self._read(text)
        except ValueError as error:
            self._num_unusable += 1
            if self._num_shown < _SHOWN_ANSWERS:  # so that people see what the model does
                self._num_shown += 1
                logger.warning("%s: %s: %r", self._chat.name, error, text[:_SHOWN_CHARS])
            raise

    def _keep(self, digest: str, answer: Any, reason: str) -> None:
        if answer is not None:
            self._answers[digest] = answer
            self._journal.add(digest, answer)
            return
        self._failures[digest] = reason
        if len(self._failures) > self._most_failures:
            raise self._error("more rows failed than mig_max_failed allows:")

    def _error(self, what: str) -> AnnotatorError:
        reasons = "; ".join(f"{reason}: {n:,}" for reason, n in Counter(self._failures.values()).most_common())
        advice = _ADVICE if self._num_unusable else _SERVER_ADVICE
        if "mig_annotator_max_tokens" in reasons:
            advice = f"Where answers are cut off, raise mig_annotator_max_tokens. {advice}"
        if any(f"answered {status}" in reasons for status in (400, 413, 422)):
            advice = f"Where the server refuses long questions, lower mig_annotator_max_chars. {advice}"
        return AnnotatorError(
            f"mig_annotator_model: {self._chat.name}: asked for {self._title}, {what} {len(self._failures):,} failed "
            f"({reasons}). Good answers are kept ({len(self._answers):,} so far). {advice}"
        )


def estimate_tokens(asking: Asking, rows: Rows) -> float:
    """Return about how many tokens the prompt of a row has, on average; nothing is asked."""
    return float(np.mean([len(prompt) / _CHARS_A_TOKEN for prompt in asking.prompts(rows)]))
