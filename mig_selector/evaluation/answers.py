"""Ask a model the questions of a benchmark, through lm_eval; answers are kept as they come."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mig_selector.annotation.journal import Journal
from mig_selector.errors import EvaluationError, ModelError
from mig_selector.evaluation.tasks import Benchmark
from mig_selector.ranks.models import free_memory
from mig_selector.store.files import read_json
from mig_selector.store.hashing import ContentHashes, fingerprint_of


if TYPE_CHECKING:
    from lm_eval.api.model import LM


logger = logging.getLogger(__name__)

_WEIGHTS = ("*.safetensors", "*.bin")
_DECIDING = (*_WEIGHTS, "*config.json", "tokenizer*", "*tokens*.json", "vocab*", "merges.txt", "*.model", "*.jinja")
"""Files of a model folder that decide what the model answers; what training leaves beside them does not."""
_NOT_OF_THE_MODEL = frozenset({"training_args.bin", "optimizer.bin", "scheduler.bin"})
_TRIES = 5
"""Of a request to a server."""


@dataclass(frozen=True)
class LocalModel:
    """A folder with weights and a tokenizer, or with a LoRA adapter, as training leaves it."""

    path: Path
    name: str
    """What it is called in the table."""
    device: str | None = None
    batch_size: int = 8

    def identity(self, hashes: ContentHashes) -> dict[str, Any]:
        """What decides its answers: the content of its files."""
        files = {file for pattern in _DECIDING for file in self.path.glob(pattern)}
        content = {file.name: hashes.file(file) for file in files if file.name not in _NOT_OF_THE_MODEL}
        return {"files": fingerprint_of(content)}

    def check(self) -> None:
        """Make sure that it can be asked as a chat.

        Raises:
            EvaluationError: Its tokenizer has no chat template.
        """
        config = read_json(self.path / "tokenizer_config.json") or {}
        if not (config.get("chat_template") or any(self.path.glob("chat_template.*"))):
            raise EvaluationError(
                f"{self.path}: its tokenizer has no chat template, and benchmarks are asked as chats. Serve it with "
                "the template that it was trained with (llamafactory-cli api), and give its address as --model-url."
            )

    def check_room(self, column: str, answer_tokens: int) -> None:
        """Make sure that the longest answer to a benchmark leaves room for the question.

        Raises:
            EvaluationError: It does not.
        """
        config = Path(self._base or self.path) / "config.json"
        reads = (read_json(config) or {}).get("max_position_embeddings")
        if isinstance(reads, int) and reads <= answer_tokens:
            raise EvaluationError(
                f"{column}: {self.name} reads at most {reads:,} tokens (max_position_embeddings in {config}), and an "
                f"answer may have {answer_tokens:,}, which leaves no room for the question. Evaluate a model that "
                "reads more."
            )

    @property
    def _base(self) -> str | None:
        """The model that it is an adapter of."""
        adapter = self.path / "adapter_config.json"
        if not adapter.exists():
            return None
        return str(json.loads(adapter.read_text(encoding="utf-8"))["base_model_name_or_path"])

    def load(self) -> LM:
        """Load it; its own chat template is applied."""
        import torch
        from lm_eval.models.huggingface import HFLM

        base = self._base
        free_memory()  # the model before this one is in reference cycles, and a GPU may have no room for two
        try:
            return HFLM(
                pretrained=base or str(self.path),
                peft=str(self.path) if base else None,
                tokenizer=str(self.path),
                device=self.device or ("cuda" if torch.cuda.is_available() else "cpu"),
                batch_size=self.batch_size,
            )
        except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
            raise ModelError(f"{self.path}: the model cannot be loaded: {error}") from error


@dataclass(frozen=True)
class ServedModel:
    """A model behind an OpenAI-compatible address, which applies the chat template."""

    url: str
    """Up to ``/chat/completions``: ``http://localhost:8000/v1``."""
    name: str
    max_requests: int = 4

    def identity(self, hashes: ContentHashes) -> dict[str, Any]:
        """What is known of it: its address and its name."""
        return {"url": self.url, "name": self.name}

    def load(self) -> LM:
        """Return the client; nothing is sent yet."""
        from lm_eval.models.openai_completions import LocalChatCompletion

        return LocalChatCompletion(
            base_url=f"{self.url}/chat/completions",
            model=self.name,
            num_concurrent=self.max_requests,
            max_retries=_TRIES,
            batch_size=1,
        )


Model = LocalModel | ServedModel


def find_models(path: Path) -> dict[Path, str]:
    """Return the model folders that a path stands for, with a name each: itself, or those below it.

    Checkpoints of a run are left out, and what is in hidden folders: a study trains there.

    Raises:
        EvaluationError: There is none.
    """
    if not path.is_dir():
        raise EvaluationError(f"{path} is not a folder. Name a model folder, or a folder with model folders in it.")
    path = path.resolve()
    if _is_model(path):
        return {path: _model_name((path.parent.name, path.name))}
    models = {}
    for folder in sorted({config.parent for config in path.rglob("*config.json")}):
        parts = folder.relative_to(path).parts
        if _is_model(folder) and not any(part.startswith((".", "checkpoint-")) for part in parts):
            models[folder] = _model_name(parts)
    if not models:
        raise EvaluationError(
            f"{path} has no model in it: no folder with weights and config.json, or adapter_config.json."
        )
    return models


def _model_name(parts: tuple[str, ...]) -> str:
    """Return the name for some folders, one in the other.

    A study keeps its models in folders called ``model``; those have the name of the folder above.
    """
    return "_".join(parts[:-1] if len(parts) > 1 and parts[-1] == "model" else parts)


def _is_model(folder: Path) -> bool:
    has_config = any((folder / name).is_file() for name in ("config.json", "adapter_config.json"))
    return has_config and any(
        file.name not in _NOT_OF_THE_MODEL for pattern in _WEIGHTS for file in folder.glob(pattern)
    )


class _KeptAnswers:
    """The answers in a journal; lm_eval hands over each new one as it comes, as to its own cache."""

    def __init__(self, journal: Journal) -> None:
        self._journal, self.by_request = journal, journal.read()

    def add_partial(self, _kind: str, request: Any, answer: str) -> None:
        key = _key(request)
        if answer and key not in self.by_request:  # without text is also what a server that failed returns
            self.by_request[key] = answer
            self._journal.add(key, answer)


def _key(request: Any) -> str:
    return fingerprint_of({"request": list(request)})


def ask(model: LM, column: str, requests: Sequence[Any], journal: Journal) -> list[str]:
    """Return the answer to each request, in their order.

    Args:
        model: Of lm_eval.
        column: The benchmark, for messages.
        requests: Of lm_eval.
        journal: Answers of earlier runs are taken from here, new ones added.

    Raises:
        ModelError: A server did not answer.
        EvaluationError: The model cannot take the requests.
    """
    import aiohttp
    import requests as http

    kept = _KeptAnswers(journal)
    model.set_cache_hook(kept)
    missing = [request for request in requests if _key(request.args) not in kept.by_request]
    if missing:
        try:
            answers = model.generate_until(missing)
        except (http.RequestException, aiohttp.ClientError, TimeoutError, json.JSONDecodeError) as error:
            raise server_fault(column, error) from error
        except AssertionError as error:  # of lm_eval: an answer leaves no room for the question
            raise EvaluationError(f"{column}: use a model that reads more tokens: {error}") from error
        for request, answer in zip(missing, answers, strict=True):
            kept.add_partial("generate_until", request.args, answer)
        if num_empty := answers.count(""):
            counts = f"{num_empty} of {len(answers)}"
            logger.warning("%s: %s answers have no text; they are graded as empty", column, counts)
    return [kept.by_request.get(_key(request.args), "") for request in requests]


def server_fault(column: str, error: Exception) -> EvaluationError:
    """Return the error for a server that did not answer; the libraries tried often enough."""
    import aiohttp
    import requests as http

    if isinstance(error, http.ConnectionError | aiohttp.ClientConnectorError):
        return ModelError(
            f"the server of the model cannot be reached: {error}. Check --model-url, and that the server runs. "
            "The same command continues."
        )
    status = getattr(error, "status", None) or getattr(getattr(error, "response", None), "status_code", None)
    goes_on = "Answers so far are kept; the same command continues."
    match status:
        case None | 200:
            return ModelError(
                f"the server of the model does not answer as OpenAI's: {error}. Check --model-url, --model-name and "
                f"the key in OPENAI_API_KEY. {goes_on}"
            )
        case 401 | 403:
            return ModelError(f"the server of the model refuses the key ({status}). Put it into OPENAI_API_KEY.")
        case 404:
            return ModelError(
                "the server of the model does not know the address or the model (404). Check --model-url, which ends "
                "with /v1 for most servers, and --model-name."
            )
        case 400 | 413 | 422:
            return EvaluationError(
                f"{column}: the server of the model refuses a question ({status}); its log may say why. The question "
                f"and the longest answer may not fit into what the model reads. {goes_on}"
            )
        case _:
            return ModelError(
                f"the server of the model failed {_TRIES} times in a row ({status}). Its log says why; if it has too "
                f"much to do, lower --requests. {goes_on}"
            )


def chat_requests(
    chats: Iterable[list[dict[str, str]]], max_tokens: int, chat_template: Callable[..., Any]
) -> list[Any]:
    """Return one request of lm_eval for the next turn of each chat, with greedy decoding."""
    from lm_eval.api.instance import Instance

    settings = {"until": [], "do_sample": False, "max_gen_toks": max_tokens}
    return [Instance("generate_until", {}, (chat_template(chat), dict(settings)), idx=0) for chat in chats]


def build_requests(benchmark: Benchmark, chat_template: Callable[..., Any]) -> list[Any]:
    """Return one request of lm_eval for each question."""
    from datasets import Dataset
    from lm_eval.api.instance import Instance
    from lm_eval.api.task import ConfigurableTask

    # It would say the same of each of 57 subjects, and of every try of a request; the last error is raised.
    for name in ("lm_eval", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    test, few_shot = benchmark.config["test_split"], benchmark.config.get("fewshot_split")
    requests = []
    for subset, docs in benchmark.subsets():
        examples = [doc for doc in benchmark.examples if doc.get("subset", "") == subset]
        splits = {test: Dataset.from_list(docs), few_shot: Dataset.from_list(examples)}
        task = ConfigurableTask(
            config={
                **benchmark.config,
                "custom_dataset": lambda splits=splits, **_: splits,
                "metric_list": [{"metric": "bypass"}],  # answers are graded here
            }
        )
        for doc in docs:
            prompt = task.fewshot_context(
                doc,
                task.config.num_fewshot,
                apply_chat_template=True,
                fewshot_as_multiturn=True,
                chat_template=chat_template,
            )
            requests.append(Instance("generate_until", doc, (prompt, dict(task.config.generation_kwargs)), idx=0))
    return requests
