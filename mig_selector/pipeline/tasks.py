"""What every rank does together: models run on texts that rank 0 reads. A task is what rank 0 tells of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mig_selector.annotation.ifd import CausalModel, measure_losses
from mig_selector.arguments import MigArguments
from mig_selector.console import progress
from mig_selector.embedding.encoder import Encoder, embed_labels, find_same_encoder
from mig_selector.embedding.rows import embed_rows
from mig_selector.pool.conversation import Exchange
from mig_selector.ranks.world import Ranks
from mig_selector.store.hashing import ContentHashes


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


def pack_task(task: Task) -> dict[str, Any]:
    """Write a task so that the other ranks can be told of it."""
    return {"kind": task.kind, **asdict(task)}


def do_task(told: dict[str, Any], texts: Callable[[], Texts], arguments: MigArguments, ranks: Ranks) -> None:
    """Do what rank 0 told; for every rank to call.

    Args:
        told: A packed task.
        texts: Called on rank 0 only.
        arguments: The ``mig_*`` keys of this node.
        ranks: Who shares the work.

    Raises:
        MigSelectorError: A model is missing or fails, on any rank.
    """
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
