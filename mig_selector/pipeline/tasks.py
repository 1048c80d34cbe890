"""What every rank does together: models run on texts that rank 0 reads. A task is what rank 0 tells of it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from mig_selector.annotation.ifd import CausalModel, measure_losses
from mig_selector.arguments import MigArguments
from mig_selector.console import progress
from mig_selector.embedding.encoder import Encoder, embed_labels, find_same_encoder
from mig_selector.embedding.rows import embed_rows
from mig_selector.errors import RegistrationError
from mig_selector.pool.conversation import Exchange
from mig_selector.ranks.world import Ranks
from mig_selector.store.hashing import ContentHashes


Result = TypeVar("Result")


class Texts(Protocol):
    """What rank 0 alone reads and keeps."""

    def exchanges(self) -> Iterator[Exchange]:
        """Yield question and answer of each kept row."""
        ...

    def embedded_texts(self) -> Iterator[str]:
        """Yield the text of each kept row that is to be embedded."""
        ...

    def take_vectors(self, labels: Sequence[str], vectors: NDArray[np.float32]) -> None:
        """Keep the vectors of some labels."""
        ...


@dataclass(frozen=True)
class EmbedLabels:
    """Embed labels."""

    kind: ClassVar[str] = "labels"
    key: ClassVar[str] = "mig_embedding_model"
    encoder: Encoder
    labels: list[str]
    batch_size: int

    def run(self, encoder: Encoder, texts: Callable[[], Texts], ranks: Ranks) -> None:
        """Embed them on this rank and the others."""
        with progress("embedding labels", len(self.labels), "labels", is_main=ranks.is_main) as bar:
            for labels, vectors in embed_labels(self.labels, encoder, self.batch_size, ranks, bar):
                if ranks.is_main:
                    texts().take_vectors(labels, vectors)


@dataclass(frozen=True)
class EmbedRows:
    """Embed a text of every kept row."""

    kind: ClassVar[str] = "rows"
    key: ClassVar[str] = "mig_row_embedding_model"
    encoder: Encoder
    count: int
    path: str
    pooling: Literal["mean", "lasttoken"]
    max_tokens: int | None

    def run(self, encoder: Encoder, texts: Callable[[], Texts], ranks: Ranks) -> None:
        """Embed them on this rank and the others."""
        how = {"pooling": self.pooling, "max_tokens": self.max_tokens}
        with progress("embedding rows", self.count, "rows", is_main=ranks.is_main) as bar:
            embed_rows(lambda: texts().embedded_texts(), self.count, encoder, Path(self.path), ranks, bar, **how)  # type: ignore[arg-type]


@dataclass(frozen=True)
class MeasureIfd:
    """Measure how hard every kept row's instruction is to follow."""

    kind: ClassVar[str] = "ifd"
    key: ClassVar[str] = "mig_ifd_model"
    encoder: Encoder
    count: int
    path: str
    max_tokens: int

    def run(self, encoder: Encoder, texts: Callable[[], Texts], ranks: Ranks) -> None:
        """Measure it on this rank and the others."""
        model = CausalModel(self.key, encoder.model, encoder.revision, encoder.dtype, self.max_tokens)

        def rows() -> Iterable[tuple[str, str, str]]:
            return ((each.instruction, each.input, each.response) for each in texts().exchanges())

        with progress("measuring IFD", 2 * self.count, "texts", is_main=ranks.is_main) as bar:
            measure_losses(rows, self.count, model, Path(self.path), ranks, bar)


Task: TypeAlias = EmbedLabels | EmbedRows | MeasureIfd

_KINDS: dict[str, Callable[..., Task]] = {kind.kind: kind for kind in (EmbedLabels, EmbedRows, MeasureIfd)}


def run_steps(
    steps: Generator[Task, None, Result], texts: Callable[[], Texts], arguments: MigArguments, ranks: Ranks
) -> Result:
    """Go through steps on rank 0, and do the tasks that they yield on every rank; for every rank to call.

    Args:
        steps: Begun on rank 0 only; their result must be what JSON can hold.
        texts: Called on rank 0 only.
        arguments: The ``mig_*`` keys of this node.
        ranks: Who shares the work.

    Returns:
        The result of the steps, on every rank.

    Raises:
        MigSelectorError: Rank 0 found something that the user can put right, or a model fails on any rank.
    """

    def go_on() -> dict[str, Any]:
        try:
            task = next(steps)
        except StopIteration as end:
            return {"result": end.value}
        return {"task": {"kind": task.kind, **asdict(task)}}

    while True:
        told = ranks.decide(lambda: in_plain_words(go_on))
        if "task" not in told:
            return told["result"]  # type: ignore[no-any-return]
        in_plain_words(lambda: _do(told["task"], texts, arguments, ranks))  # noqa: B023


def in_plain_words(work: Callable[[], Result]) -> Result:
    """Do `work`; a file or folder that cannot be read or written is something that the user can put right."""
    try:
        return work()
    except OSError as error:
        raise RegistrationError(
            f"{error.filename or 'a file'} cannot be used: {error.strerror or error}. "
            "Make room or grant access there, or set mig_output_dir or mig_cache_dir to another folder."
        ) from error


def _do(told: dict[str, Any], texts: Callable[[], Texts], arguments: MigArguments, ranks: Ranks) -> None:
    facts = {**told, "encoder": Encoder(**told["encoder"])}
    task = _KINDS[facts.pop("kind")](**facts)
    task.run(_encoder_here(task, arguments, ranks), texts, ranks)


def _encoder_here(task: Task, arguments: MigArguments, ranks: Ranks) -> Encoder:
    """Find the model of rank 0 on this node; a folder may stand elsewhere, but must hold the same files."""
    encoder = task.encoder
    if ranks.are_on_one_node or encoder.revision is not None:
        return encoder

    def find() -> dict[str, Any]:
        folder = getattr(arguments, task.key) or encoder.model
        return asdict(find_same_encoder(encoder, folder, ContentHashes(arguments.cache_dir), task.key))

    # All or none go on: a rank that waits for others to join its process group hears of nothing else.
    return ranks.agree(lambda: Encoder(**ranks.decide_on_node(find)))
