"""What taggers and scorers are given: the rows, and the means to run models on them.

Dimension letters: N rows, D dimensions of a vector.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from mig_selector.annotation.text_scores import TextScores
from mig_selector.embedding.encoder import Encoder
from mig_selector.pool.conversation import Exchange, Turn


@dataclass(frozen=True)
class ModelName:
    """A model as the configuration names it."""

    key: str
    """The key that names it, for messages."""
    name: str
    """Hub id or folder."""
    needs_weights: bool = True
    """A tokenizer is the same whatever the weights are."""


class Rows(Protocol):
    """The kept rows of a pool, or some of them, read again where a model needs their texts."""

    def __len__(self) -> int:
        """Return N."""
        ...

    def exchanges(self) -> Iterator[Exchange]:
        """Read question and answer of each row."""
        ...

    def questions(self) -> Iterator[str]:
        """Read the question of each row, with its input on a line of its own."""
        ...

    def pairs(self) -> Iterator[list[Exchange]]:
        """Read each turn of the user with its reply, of each row."""
        ...

    def conversations(self) -> Iterator[list[Turn]]:
        """Read all turns of each row."""
        ...

    def take(self, keep: NDArray[np.bool_]) -> Rows:
        """Return the rows where `keep`, shape (N,), is true."""
        ...

    def cache_path(self, kind: str, identity: Mapping[str, object], model: Encoder) -> Path:
        """Name the file for what a model makes of these rows, by all that decides it."""
        ...


class Crew(Protocol):
    """All ranks, who run a model together."""

    def measure_ifd(
        self, exchanges: Callable[[], Iterator[Exchange]], count: int, model: Encoder, path: Path, max_tokens: int
    ) -> NDArray[np.float64]:
        """Return the IFD of each row, NaN where it has none; see `annotation.ifd`."""
        ...

    def score_texts(
        self,
        texts: Callable[[], Iterator[Any]],
        count: int,
        model: Encoder,
        path: Path,
        *,
        key: str,
        scorer: Literal["complexity", "quality", "reward"],
    ) -> TextScores:
        """Return the score of each text; see `annotation.text_scores`."""
        ...

    def write_answers(
        self,
        prompts: Callable[[], Iterator[str]],
        count: int,
        model: Encoder,
        path: Path,
        *,
        key: str,
        max_new_tokens: int,
    ) -> None:
        """Have a language model answer prompts; see `annotation.generation`."""
        ...


class Tools(Protocol):
    """What a tagger or a scorer may use beside the rows."""

    @property
    def crew(self) -> Crew:
        """All ranks, who run a model together."""
        ...

    def answers_path(self, identity: Mapping[str, object]) -> Path:
        """Name the file for the answers of a chat model, by all that decides them beside the prompts."""
        ...

    @property
    def most_failures(self) -> float:
        """Rows that may fail; one more stops the run, so that no more need be done."""
        ...

    def find(self, model: ModelName) -> Encoder:
        """Return one of the models that the tagger or scorer declares."""
        ...

    def embed_questions(self, rows: Rows, model: ModelName, max_tokens: int) -> NDArray[np.float32]:
        """Embed the question of each row, cut off after `max_tokens`. Shape (N, D)."""
        ...

    def embed_texts(self, texts: Sequence[str], model: ModelName) -> NDArray[np.float32]:
        """Embed texts as short as labels. Shape (number of texts, D)."""
        ...
