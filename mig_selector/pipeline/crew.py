"""How all ranks run a model together, while rank 0 runs the recipe as ordinary code.

Rank 0 calls `Crew.run` with its work; the others follow. Where the work calls `embed_labels`, `embed_rows`,
`measure_ifd`, `score_texts` or `write_answers`, rank 0 tells the others what to do, does its share and goes on with
the result. What goes wrong anywhere is raised as an exception on every rank, out of the call in which it happened:
`with` blocks close as they always do.

To add a model that all ranks run, add a task here: what is told of it must be what JSON can hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from mig_selector.annotation.deita import DeitaModel
from mig_selector.annotation.generation import write_answers
from mig_selector.annotation.ifd import CausalModel, measure_losses, read_ifd
from mig_selector.annotation.reward import RewardModel
from mig_selector.annotation.text_scores import TextScorer, TextScores, read_scores, score_texts
from mig_selector.arguments import MigArguments
from mig_selector.console import progress
from mig_selector.embedding.encoder import Encoder, embed_labels, find_same_encoder
from mig_selector.embedding.rows import embed_rows
from mig_selector.errors import RegistrationError
from mig_selector.pool.conversation import Exchange
from mig_selector.ranks.world import Ranks
from mig_selector.store.hashing import ContentHashes


Result = TypeVar("Result")
KeepVectors = Callable[[Sequence[str], NDArray[np.float32]], object]


@dataclass(frozen=True)
class _LabelTask:
    """Embed labels."""

    key: str
    encoder: Encoder
    labels: Sequence[str]
    batch_size: int

    def run(self, encoder: Encoder, ranks: Ranks, keep: KeepVectors) -> None:
        with progress("embedding labels", len(self.labels), "labels", is_main=ranks.is_main) as bar:
            embed_labels(self.labels, encoder, self.batch_size, ranks, bar, keep, key=self.key)


@dataclass(frozen=True)
class _RowTask:
    """Embed a text of every kept row."""

    key: str
    encoder: Encoder
    count: int
    path: str
    pooling: Literal["mean", "lasttoken"]
    max_tokens: int | None

    def run(self, encoder: Encoder, ranks: Ranks, texts: Callable[[], Iterable[str]]) -> None:
        with progress("embedding rows", self.count, "rows", is_main=ranks.is_main) as bar:
            embed_rows(
                texts,
                self.count,
                encoder,
                Path(self.path),
                ranks,
                bar,
                key=self.key,
                pooling=self.pooling,
                max_tokens=self.max_tokens,
            )


@dataclass(frozen=True)
class _IfdTask:
    """Measure how hard every kept row's instruction is to follow."""

    key: ClassVar[str] = "mig_ifd_model"
    encoder: Encoder
    count: int
    path: str
    max_tokens: int

    def run(self, encoder: Encoder, ranks: Ranks, exchanges: Callable[[], Iterable[Exchange]]) -> None:
        model = CausalModel(self.key, encoder.model, encoder.revision, encoder.dtype, self.max_tokens)

        def rows() -> Iterable[tuple[str, str, str]]:
            return ((each.instruction, each.input, each.response) for each in exchanges())

        with progress("measuring IFD", 2 * self.count, "texts", is_main=ranks.is_main) as bar:
            measure_losses(rows, self.count, model, Path(self.path), ranks, bar)


@dataclass(frozen=True)
class _ScoreTask:
    """Score texts by a model that needs one pass over each."""

    key: str
    encoder: Encoder
    count: int
    path: str
    scorer: Literal["complexity", "quality", "reward"]

    def run(self, encoder: Encoder, ranks: Ranks, texts: Callable[[], Iterable[Any]]) -> None:
        def load(device: Any) -> TextScorer:
            if self.scorer == "reward":
                return RewardModel(encoder, self.key, device)
            return DeitaModel(encoder, self.key, self.scorer, device)

        with progress(f"scoring by {self.key}", self.count, "texts", is_main=ranks.is_main) as bar:
            score_texts(texts, self.count, load, Path(self.path), ranks, bar)


@dataclass(frozen=True)
class _AnswerTask:
    """Have a language model answer prompts."""

    key: str
    encoder: Encoder
    count: int
    path: str
    max_new_tokens: int

    def run(self, encoder: Encoder, ranks: Ranks, prompts: Callable[[], Iterable[str]]) -> None:
        limit = self.max_new_tokens
        with progress(f"writing answers by {self.key}", self.count, "answers", is_main=ranks.is_main) as bar:
            write_answers(
                prompts, self.count, encoder, Path(self.path), ranks, bar, key=self.key, max_new_tokens=limit
            )


_TASKS: dict[str, Callable[..., Any]] = {
    task.__name__: task for task in (_LabelTask, _RowTask, _IfdTask, _ScoreTask, _AnswerTask)
}


class Crew:
    """All ranks of the run, this one included."""

    def __init__(self, ranks: Ranks, arguments: MigArguments) -> None:
        """Work together with `ranks`; `arguments` are the keys of this node, where folders may have other names."""
        self._ranks, self._arguments = ranks, arguments

    @property
    def size(self) -> int:
        """Number of ranks."""
        return self._ranks.world_size

    def run(self, work: Callable[[], Result]) -> Result:
        """Do `work` on rank 0 while the others follow; every rank must call this.

        Args:
            work: Called on rank 0 only; its result must be what JSON can hold.

        Returns:
            The result, on every rank.

        Raises:
            MigSelectorError: The work failed with something that the user can fix, or a model failed on any rank.
        """
        return in_plain_words(lambda: self._lead(work) if self._ranks.is_main else self.follow())

    def _lead(self, work: Callable[[], Result]) -> Result:
        result = work()
        self._ranks.decide(lambda: {"result": result})
        return result

    def follow(self) -> Any:
        """Do what rank 0 says until its work is done, and return its result."""
        while True:
            told: dict[str, Any] = self._ranks.decide(dict)
            if "result" in told:
                return told["result"]
            fields = told["fields"]
            task = _TASKS[told["task"]](**{**fields, "encoder": Encoder(**fields["encoder"])})
            task.run(self._encoder_here(task), self._ranks, _only_on_rank_0)

    def embed_labels(
        self, labels: Sequence[str], encoder: Encoder, batch_size: int, keep: KeepVectors, *, key: str
    ) -> None:
        """Embed labels on every rank.

        Args:
            labels: M distinct texts, at least one.
            encoder: The model.
            batch_size: Labels embedded at once on each rank.
            keep: Called now and then with labels and their vectors, shape (m, D); together it gets every label once.
            key: The key that names the model.

        Raises:
            MigSelectorError: See `embedding.encoder.embed_labels`.
        """
        self._do(_LabelTask(key, encoder, list(labels), batch_size), keep)

    def embed_rows(
        self,
        texts: Callable[[], Iterable[str]],
        count: int,
        encoder: Encoder,
        path: Path,
        *,
        key: str,
        pooling: Literal["mean", "lasttoken"],
        max_tokens: int | None,
    ) -> NDArray[np.float32]:
        """Embed the text of each row on every rank, or take what is kept; see `embedding.rows.embed_rows`.

        Returns:
            The vectors, mapped from `path`. Shape (count, D).
        """
        self._do(_RowTask(key, encoder, count, str(path), pooling, max_tokens), texts)
        vectors: NDArray[np.float32] = np.load(path, mmap_mode="r", allow_pickle=False)
        return vectors

    def measure_ifd(
        self, exchanges: Callable[[], Iterator[Exchange]], count: int, model: Encoder, path: Path, max_tokens: int
    ) -> NDArray[np.float64]:
        """Measure IFD on every rank, or take what is kept; see `annotation.ifd.measure_losses`.

        Returns:
            One number a row, NaN where there is none. Shape (count,).
        """
        self._do(_IfdTask(model, count, str(path), max_tokens), exchanges)
        return read_ifd(path)

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
        """Score texts on every rank, or take what is kept; see `annotation.text_scores.score_texts`."""
        self._do(_ScoreTask(key, model, count, str(path), scorer), texts)
        return read_scores(path)

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
        """Have a language model answer prompts on every rank; see `annotation.generation.write_answers`."""
        self._do(_AnswerTask(key, model, count, str(path), max_new_tokens), prompts)

    def _do(self, task: Any, given: Callable[..., Any]) -> None:
        """Have every rank do a task; `given` is what only rank 0 has: the texts, or where the results go."""
        self._ranks.decide(lambda: {"task": type(task).__name__, "fields": asdict(task)})
        task.run(self._encoder_here(task), self._ranks, given)

    def _encoder_here(self, task: Any) -> Encoder:
        """Find the model of rank 0 on this node; a folder may have another name, but must hold the same files."""
        encoder: Encoder = task.encoder
        if self._ranks.are_on_one_node or encoder.revision is not None:
            return encoder

        def find() -> dict[str, Any]:
            folder = self._arguments[task.key] or encoder.model
            return asdict(find_same_encoder(encoder, folder, ContentHashes(self._arguments.cache_dir), task.key))

        # All or none go on: a rank that waits for others to join its process group hears of nothing else.
        return self._ranks.agree(lambda: Encoder(**self._ranks.decide_on_node(find)))


def _only_on_rank_0(*_: Any) -> list[Any]:
    """Stand for what the other ranks do not have: they keep no results and read no texts."""
    return []


def in_plain_words(work: Callable[[], Result]) -> Result:
    """Do `work`; a file or folder that cannot be read or written is something that the user can fix.

    Raises:
        RegistrationError: An OSError was raised.
    """
    try:
        return work()
    except IsADirectoryError as error:
        raise RegistrationError(f"{error.filename} is a directory, not a file; move it away.") from error
    except OSError as error:
        raise RegistrationError(
            f"{error.filename or 'a file'} cannot be used: {error.strerror or error}. Grant access to it; if it is in "
            "the output folder or the cache, free some space, or give another one by mig_output_dir or mig_cache_dir."
        ) from error
