"""How many tokens training is fed for a row: LLaMA-Factory's own converter, template and processor, asked row by row.

LLaMA-Factory itself tokenizes on one core unless `preprocessing_num_workers` is set; here workers use all of them.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mig_selector.errors import ArgumentError
from mig_selector.integration.config import HostArguments
from mig_selector.integration.host_settings import typed
from mig_selector.pool.entry import Layout
from mig_selector.ranks.workers import Workers


WITHOUT_LOSS = -100
"""Label of a token that has no loss, LLaMA-Factory's IGNORE_INDEX."""
_TASK_ROWS = 512
_PARALLEL_ROWS = 8 * _TASK_ROWS
"""Fewer rows are tokenized here before workers would have imported LLaMA-Factory."""


@dataclasses.dataclass(frozen=True)
class TokenizedRow:
    """What training is given for a row."""

    ids: list[int]
    """Empty if the host drops the row."""
    labels: list[int]
    """The tokens to predict, `WITHOUT_LOSS` where none is. As long as `ids`."""

    @property
    def supervised(self) -> int:
        """Number of tokens that have a loss: the first token is predicted from nothing."""
        return sum(label != WITHOUT_LOSS for label in self.labels[1:])


def tokenize_rows(
    rows: Iterable[tuple[int, Mapping[str, Any]]], layouts: Sequence[Layout], host: HostArguments
) -> Iterator[TokenizedRow]:
    """Tokenize rows for supervised fine-tuning, as the host does.

    Args:
        rows: For each row the index of its layout, and the columns that training reads. Streamed.
        layouts: How the host reads the rows of each entry.
        host: The host's keys.

    Raises:
        ArgumentError: The tokenizer cannot be loaded, or the host cannot tokenize a row.
    """
    tokenizer = _Host(_settings_of(host, None), host.stage)
    converters = [tokenizer.converter(layout) for layout in layouts]
    for index, record in rows:
        made = tokenizer.preprocess(converters[index](record))
        yield TokenizedRow(
            [token for row in made.get("input_ids", []) for token in row],
            [label for row in made.get("labels", []) for label in row],
        )


def count_tokens_of_rows(
    rows: Iterable[tuple[int, Mapping[str, Any]]],
    num_rows: int,
    layouts: Sequence[Layout],
    host: HostArguments,
    revision: str | None,
) -> Iterator[NDArray[np.int64]]:
    """Count what training is fed for each row.

    Args:
        rows: For each of the N rows the index of its layout, and the columns that training reads. Streamed.
        num_rows: N.
        layouts: How the host reads the rows of each entry.
        host: The host's keys.
        revision: Commit of the model on the hub; None for a folder.

    Yields:
        All tokens, and those of them that have a loss, of the next rows; 0 for a row that the host drops. Shape
        (m, 2).

    Raises:
        ArgumentError: The tokenizer cannot be loaded, or the host cannot tokenize a row.
    """
    task = {
        "settings": json.dumps(_settings_of(host, revision)),
        "stage": host.stage,
        "layouts": [layout.identity for layout in layouts],
    }
    blocks = _blocks(iter(rows))
    tasks = (msgspec.msgpack.encode({**task, "rows": block}) for block in blocks)
    cores = len(os.sched_getaffinity(0))
    if cores == 1 or num_rows < _PARALLEL_ROWS:
        yield from (_unpack(work(each)) for each in tasks)
        return
    with Workers(__name__, cores, ArgumentError) as workers:
        yield from map(_unpack, workers.map(tasks, "tokenized rows"))


def _settings_of(host: HostArguments, revision: str | None) -> dict[str, Any]:
    """Return the host's keys that decide the tokens of a row, and where its model and media are."""
    return {
        **host.tokenizing,
        "model_name_or_path": host.model_name_or_path,
        "model_revision": revision or "main",
        "trust_remote_code": host.trust_remote_code,
        "cache_dir": host.cache_dir,
        "hf_hub_token": host.hf_hub_token,
        "dataset_dir": host.dataset_dir,
        "media_dir": host.media_dir,
    }


def _blocks(rows: Iterator[tuple[int, Mapping[str, Any]]]) -> Iterator[list[tuple[int, Mapping[str, Any]]]]:
    while block := list(islice(rows, _TASK_ROWS)):
        yield block


def _unpack(answer: bytes) -> NDArray[np.int64]:
    return np.frombuffer(answer, np.int64).reshape(-1, 2)


def work(task: bytes) -> bytes:
    """Count the tokens of some rows; also called by workers."""
    asked = msgspec.msgpack.decode(task)
    host = _host(asked["settings"], asked["stage"])
    converters = [host.converter(Layout(**layout)) for layout in asked["layouts"]]
    return np.array([host.count(converters[index](record)) for index, record in asked["rows"]], np.int64).tobytes()


@functools.lru_cache(maxsize=1)
def _host(settings: str, stage: str) -> _Host:
    return _Host(json.loads(settings), stage)


class _Host:
    """LLaMA-Factory's tokenizer, template and processor, as it makes them for training."""

    def __init__(self, settings: Mapping[str, Any], stage: str) -> None:
        from llamafactory.data import get_template_and_fix_tokenizer
        from llamafactory.data.loader import _get_dataset_processor
        from llamafactory.hparams import DataArguments, ModelArguments
        from llamafactory.model import load_tokenizer

        # Without packing: it changes how rows are put together, not what a row is.
        self._data_args = _make(DataArguments, settings)
        try:
            tokens = load_tokenizer(_make(ModelArguments, settings))
            template = get_template_and_fix_tokenizer(tokens["tokenizer"], self._data_args)
        except Exception as error:  # the host raises anything
            model = settings.get("model_name_or_path")
            raise ArgumentError(f"model_name_or_path: the tokenizer of {model!r} cannot be used ({error}).") from error
        stage = "rm" if stage == "dpo" else stage
        self._processor = _get_dataset_processor(self._data_args, stage, template, **tokens)

    def converter(self, layout: Layout) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
        """Return a function that makes the host's example of a row."""
        from llamafactory.data.converter import get_dataset_converter
        from llamafactory.data.parser import DatasetAttr

        attributes = DatasetAttr("file", dataset_name="pool")
        attributes.join(layout.identity)
        convert = get_dataset_converter(layout.formatting, attributes, self._data_args)
        absent = dict.fromkeys(layout.columns.values())
        return lambda record: convert({**absent, **record})

    def preprocess(self, example: Mapping[str, Any]) -> dict[str, list[Any]]:
        """Return the host's features of an example; lists of one row, or of none if the host drops it."""
        try:
            made = self._processor.preprocess_dataset({key: [value] for key, value in example.items()})
        except Exception as error:  # the host raises anything
            raise ArgumentError(f"LLaMA-Factory cannot tokenize a row of the pool ({error}).") from error
        return dict(made)

    def count(self, example: Mapping[str, Any]) -> tuple[int, int]:
        """Return the tokens of a row, and how many of them have a loss."""
        made = self.preprocess(example)
        # In KTO rows, kl_* is the row before it.
        own = {key: rows for key, rows in made.items() if not key.startswith("kl_")}
        ids = sum(len(row) for key, rows in own.items() if key.endswith("input_ids") for row in rows)
        labels = [label for key, rows in own.items() if key.endswith("labels") for row in rows for label in row]
        return ids, sum(label != WITHOUT_LOSS for label in labels) if labels else ids


def _make(kind: type, settings: Mapping[str, Any]) -> Any:
    names = {field.name for field in dataclasses.fields(kind) if field.init}
    return kind(**{key: typed(value) for key, value in settings.items() if key in names})
