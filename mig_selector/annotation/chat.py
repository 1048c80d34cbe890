"""Ask a chat model behind an OpenAI-compatible address: many requests at once, each until it is answered.

The server may be vLLM, SGLang, an API on the internet: anything with ``/chat/completions``. What fails on the way is
tried again after a pause, each longer than the last. What stays unanswered is told to the caller, with the reason.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import random
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from mig_selector.console import printable
from mig_selector.errors import AnnotatorError, ArgumentError


if TYPE_CHECKING:
    import httpx


logger = logging.getLogger(__name__)

API_KEY = "MIG_ANNOTATOR_API_KEY"
"""Variable of the environment with the key of the annotator's API; it is never written or logged."""
_TRIES = 6
_FIRST_PAUSE_SECONDS = 1.0
"""Before a request is sent again; doubled each time."""
_LONGEST_PAUSE_SECONDS = 60.0
_LONGEST_WAIT_SECONDS = 3600.0
"""A server that wants a longer one has no quota left for today."""
_CONNECT_SECONDS = 10.0
_LARGEST_BODY = 4 * 2**20
_TEMPERATURES = (0.0, 0.7)
"""Of the first request and of the one after an answer that cannot be used: at 0 it would be the same again."""
_MESSAGE_LENGTH = 300
_WARNING_SECONDS = 60.0
"""Faults that pass are logged once in this time."""

Row = TypeVar("Row")
Value = TypeVar("Value")


@dataclass(frozen=True)
class SettingNames:
    """What users call the settings of a chat model, for messages; by default the keys of the annotator."""

    url: str = "mig_annotator_url"
    model: str = "mig_annotator_model"
    requests: str = "mig_annotator_requests"
    max_tokens: str = "mig_annotator_max_tokens"
    api_key: str = API_KEY
    """Variable of the environment."""


@dataclass(frozen=True)
class ChatModel:
    """A model and the address that serves it."""

    url: str
    """Up to ``/chat/completions``: ``http://localhost:8000/v1``."""
    name: str
    max_requests: int
    """Requests that are under way at the same time."""
    timeout_seconds: float
    """Of one request, from the last byte sent to the next one received."""
    max_tokens: int
    """Of an answer."""
    names: SettingNames = SettingNames()


class _UnansweredError(Exception):
    """A request failed in a way that may pass."""

    def __init__(
        self, reason: str, described: str = "", *, pause: float | None = None, is_told_to_wait: bool = False
    ) -> None:
        """Say why, for the row and, with what the server says of it, for people."""
        super().__init__(reason)
        self.described, self.pause, self.is_told_to_wait = described or reason, pause, is_told_to_wait


class _RefusedError(Exception):
    """The server does not accept this request; it may accept others."""


def ask(
    chat: ChatModel,
    prompts: Iterable[tuple[Row, str]],
    read: Callable[[str], Value],
    keep: Callable[[Row, Value | None, str], object],
) -> None:
    """Ask for each row, in any order, and hand over each answer as it comes.

    An answer that cannot be used is asked for once more.

    Args:
        chat: The model.
        prompts: Rows, each with its message to the model; taken one by one as requests become free.
        read: Turns the text of an answer into a value, or raises ValueError with the reason why it cannot be used.
        keep: Called once for each row, with a value, or with None and the reason why there is none. Called, as
            `prompts` is iterated, from another thread than this one.

    Raises:
        AnnotatorError: The server refuses all requests, or no longer answers.
    """
    from anyio.from_thread import start_blocking_portal

    # The loop has its own thread: a notebook already runs one in this thread. An interrupt here cancels it.
    with start_blocking_portal() as portal:
        portal.call(_Session(chat, read, keep).ask_all, iter(prompts))


class _Session:
    """The requests of one `ask`."""

    def __init__(
        self, chat: ChatModel, read: Callable[[str], Any], keep: Callable[[Any, Any | None, str], object]
    ) -> None:
        self._chat, self._read, self._keep = chat, read, keep
        self._failed_since_answer = 0
        self._next_warning = 0.0
        self._resume_at = 0.0
        """When the server wants to be asked again, by the monotonic clock."""

    async def ask_all(self, prompts: Iterator[tuple[Any, str]]) -> None:
        import httpx

        key = os.environ.get(self._chat.names.api_key, "").strip()
        if not (key.isascii() and key.isprintable()):
            raise AnnotatorError(
                f"{self._chat.names.api_key}: the key in the environment has characters that are not printable ASCII, "
                "such as a line break or a typographic quotation mark; set it again."
            )
        timeout = httpx.Timeout(self._chat.timeout_seconds, connect=_CONNECT_SECONDS, pool=None)
        limits = httpx.Limits(max_connections=self._chat.max_requests)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        async with httpx.AsyncClient(timeout=timeout, limits=limits, headers=headers) as self._client:
            workers = [asyncio.ensure_future(self._work(prompts)) for _ in range(self._chat.max_requests)]
            try:
                await asyncio.gather(*workers)
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)

    async def _work(self, prompts: Iterator[tuple[Any, str]]) -> None:
        """Take the next row until none is left; all workers share the iterator."""
        for row, prompt in prompts:
            value, reason = None, ""
            for temperature in _TEMPERATURES:
                try:
                    value, reason = self._read(await self._answer(prompt, temperature)), ""
                    break
                except ValueError as error:
                    reason = str(error)
                except (_RefusedError, _UnansweredError) as error:
                    reason = str(error)
                    break
            self._keep(row, value, reason)

    async def _answer(self, prompt: str, temperature: float) -> str:
        """Return the text of an answer.

        Raises:
            ValueError: The answer is not complete.
            _RefusedError: The server does not accept the request.
            _UnansweredError: All tries failed.
            AnnotatorError: The server refuses all requests, or no longer answers.
        """
        body = {
            "model": self._chat.name,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": temperature,
            "max_tokens": self._chat.max_tokens,
        }
        pause, tries = _FIRST_PAUSE_SECONDS, 0
        while True:
            # A pause that the server asks for is for all: whoever asked sooner would only prolong it.
            while (wait := self._resume_at - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            try:
                completion = await self._post(body)
            except _UnansweredError as fault:
                self._count_failure(fault)
                if fault.pause is not None:
                    self._resume_at = max(self._resume_at, time.monotonic() + fault.pause)
                tries += not fault.is_told_to_wait  # a full server is not the fault of a row
                if tries == _TRIES:
                    raise
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # not all at the same moment
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
            else:
                self._failed_since_answer = 0
                return _text_of(completion, self._chat.names)

    def _count_failure(self, fault: _UnansweredError) -> None:
        """Stop the run if every worker has failed often enough and none has got an answer meanwhile."""
        if fault.pause is not None and fault.pause > _LONGEST_WAIT_SECONDS:
            hours = f"{fault.pause / 3600:,.1f} hours"
            raise AnnotatorError(
                f"{self._chat.names.url}: {self._chat.url} wants to be asked again in {hours}: {fault.described}. The "
                "answers so far are kept; start again then to go on."
            )
        self._failed_since_answer += 1
        if time.monotonic() >= self._next_warning:
            pause = f" after {fault.pause:.1f} seconds, as the server asks" if fault.pause else ""
            logger.warning("%s: %s; asking again%s", self._chat.url, fault.described, pause)
            self._next_warning = time.monotonic() + _WARNING_SECONDS
        if self._failed_since_answer > _TRIES * self._chat.max_requests:
            names = self._chat.names
            raise AnnotatorError(
                f"{names.url}: {self._chat.url} no longer answers: {fault.described}. The answers so far are kept; "
                f"once the server is back, or {names.requests} is lower, start again to go on."
            )

    async def _post(self, body: dict[str, Any]) -> Any:
        """Send one request and return the JSON of its answer."""
        import httpx

        content = json.dumps(body).encode("ascii")
        headers = {"Content-Type": "application/json"}
        url = f"{self._chat.url}/chat/completions"
        answer = b""
        try:
            async with self._client.stream("POST", url, content=content, headers=headers) as response:
                async for part in response.aiter_bytes():
                    answer += part
                    if len(answer) > _LARGEST_BODY:
                        raise _RefusedError(f"an answer of more than {_LARGEST_BODY >> 20} MiB")
        except (httpx.TransportError, httpx.DecodingError) as error:
            raise _UnansweredError(f"no answer from the server ({type(error).__name__})") from error
        fault = f"the server answered {response.status_code}"
        if response.status_code == 200:
            try:
                completion = json.loads(answer)
            except (ValueError, RecursionError) as error:
                raise _UnansweredError("the answer of the server is not valid JSON") from error
            if isinstance(completion, dict) and completion.get("error") and not completion.get("choices"):
                described = f"{fault}: {_message_of(answer)}"  # by a router, of the server behind it
                raise _UnansweredError("the answer of the server is an error", described)
            return completion
        described = f"{fault}: {_message_of(answer)}"
        if response.status_code in (408, 409, 425, 429) or response.status_code >= 500:
            pause = _retry_after(response)
            raise _UnansweredError(fault, described, pause=pause, is_told_to_wait=response.status_code == 429)
        if response.status_code in (400, 413, 422):  # this row may be too long, or otherwise unfit
            logger.warning("%s: %s", self._chat.url, described)
            raise _RefusedError(fault)
        names = self._chat.names
        raise AnnotatorError(
            f"{names.url}: {self._chat.url} with {names.model}: {self._chat.name}: {described}. Check the address, "
            f"which ends with /v1 for most servers, the name of the model, and the key in {names.api_key}."
        )


def read_address(setting: str, url: str, api_key: str) -> str:
    """Return the address of a server up to ``/chat/completions``.

    Args:
        setting: Where it comes from, for messages.
        url: As the user gives it.
        api_key: Variable of the environment with the key of the API, for messages.

    Raises:
        ArgumentError: It is not an address, or holds more than one.
    """
    from httpx import URL, InvalidURL

    try:
        URL(url)
        parts = urlsplit(url)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except (ValueError, InvalidURL):
        is_address = False
    if not is_address or "@" in parts.netloc or parts.query or parts.fragment:
        # Not repeated here: it may hold a password, which belongs in no log.
        raise ArgumentError(
            f"{setting}: expected http:// or https://, a host, and a path up to /chat/completions, such as "
            f"http://localhost:8000/v1; no user, password or query. The key of an API goes into {api_key} in the "
            "environment."
        )
    return url.rstrip("/").removesuffix("/chat/completions")


def _text_of(completion: Any, names: SettingNames) -> str:
    """Return the text of a completion.

    Raises:
        ValueError: It was cut off, withheld, or is not a completion.
    """
    try:
        choice = completion["choices"][0]
        text, finish = choice["message"]["content"], choice.get("finish_reason")
    except (TypeError, KeyError, IndexError, AttributeError):
        text, finish = None, None
    if finish == "length":
        raise ValueError(f"the answer was cut off ({names.max_tokens})")
    if finish == "content_filter":
        raise ValueError("the answer was withheld by a content filter")
    if not isinstance(text, str):
        raise ValueError("the answer has no text (choices[0].message.content)")  # noqa: TRY004  it is data, and not an argument
    return text


def _message_of(answer: bytes) -> str:
    """Return what a server says of an error: OpenAI's ``error.message``, or the beginning of whatever it sent."""
    text = answer[: 4 * _MESSAGE_LENGTH].decode("utf-8", "replace")
    with contextlib.suppress(ValueError, RecursionError, TypeError, KeyError):
        text = str(json.loads(answer)["error"]["message"])
    return printable(" ".join(text.split()))[:_MESSAGE_LENGTH] or "without a message"


def _retry_after(response: httpx.Response) -> float | None:
    """Return the seconds after which the server wants to be asked again: a number, or until a date."""
    value = response.headers.get("Retry-After", "")
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return None
    return max(seconds, 0.0) if seconds < float("inf") else None
