"""What a selection method is: a function from the rows to choose from to the rows chosen, in order.

    @method(needs={"labels", "scores"})
    def my_method(
        pool: Candidates,
        budget: int,
        *,
        depth: Annotated[int, Setting("How deep to look.", at_least(1), decides=True)] = 3,
        seed: Seed = 42,
    ) -> list[int]: ...

It says what it needs to know of a pool, and only that is read or computed. An annotated keyword-only parameter is a
key of the YAML (``mig_depth``): parser, help, fingerprint and reference know it from here. `on_progress` gets a
function to call with the number of rows chosen since the last call.

Dimension letters: N rows to choose from, L labels, D dimensions of a row's vector, B chosen rows.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from mig_selector.arrays import Propagation, RowLabels, Selection
from mig_selector.errors import ArgumentError
from mig_selector.settings import Setting, at_least


Need = Literal["labels", "propagation", "scores", "embeddings", "records", "texts"]
OnProgress = Callable[[int], object]
Choice = Selection | Sequence[int] | NDArray[np.integer[Any]]
Choose = TypeVar("Choose", bound=Callable[..., Choice])

Seed = Annotated[int, Setting("Seed of the methods that draw.", at_least(0), decides=True)]
"""A setting that several methods share; its default is 42."""


@dataclass(frozen=True)
class RowEmbedding:
    """How a method wants rows embedded where the user gives no vectors (``mig_row_embeddings``)."""

    model: str
    """Default of ``mig_row_embedding_model``: hub id or folder."""
    template: str
    """The text of a row: `str.format` with ``{instruction}``, ``{input}``, ``{response}`` or ``{conversation}``."""
    pooling: Literal["mean", "lasttoken"] = "mean"
    """How token vectors become one, for models that are not sentence-transformers models and so do not say it."""
    max_tokens: int | None = None
    """Longer texts are cut off; the model's own limit if None."""


@dataclass(frozen=True)
class OwnScore:
    """A score that a method reads from a key of its own instead of ``mig_score``; it may be negative."""

    option: str
    """The key without its prefix."""
    default: str
    """A dotted path."""
    setting: Setting


@dataclass(frozen=True)
class Declaration:
    """What a method says of itself; see `method`."""

    needs: frozenset[Need]
    score: str | OwnScore
    turns: Literal["mean", "sum"]
    embedding: RowEmbedding | None
    is_nested: bool
    may_fall_short: bool
    is_compiled: bool
    unused: Mapping[tuple[str, Any], Collection[str]]
    version: int
    keeps_to_tokens: bool
    is_ordered: bool


def method(
    *,
    needs: Collection[Need],
    score: str | OwnScore = "deita",
    turns: Literal["mean", "sum"] = "mean",
    embedding: RowEmbedding | None = None,
    nested: bool = False,
    may_fall_short: bool = False,
    compiled: bool = False,
    unused: Mapping[tuple[str, Any], Collection[str]] | None = None,
    version: int = 1,
    keeps_to_tokens: bool = False,
    ordered: bool = False,
) -> Callable[[Choose], Choose]:
    """Make a function a selection method.

    Args:
        needs: What it needs to know of the rows: attributes of `Candidates`.
        score: Default of ``mig_score`` for this method, or a key of its own that says where its score is.
        turns: Default of ``mig_deita_turns`` for this method.
        embedding: How rows are embedded; needed with ``embeddings``, unless the user must always give the vectors.
        nested: Whether its choice for a smaller budget is always the beginning of that for a larger one.
        may_fall_short: Whether it may choose fewer rows than it is asked for; ``mig_fill`` says what happens then.
        compiled: Whether numba compiles it: then it is first called with a few made-up rows, so that the time of the
            choice does not include compiling. Not for methods that need embeddings, records or texts.
        unused: By name and value of a setting, those that have no effect then; changing them selects nothing again.
        version: Part of the fingerprint. Raise it when the method comes to choose other rows by the same settings:
            subsets that an earlier version chose are then not reused.
        keeps_to_tokens: Whether it takes a budget of tokens where the candidates have `tokens`. Of other methods rows
            are then taken in their order, as long as they fit.
        ordered: Whether, asked for all rows, it returns them in the order in which it would take them. Nested methods
            do, too.

    Raises:
        ValueError: `needs` names something other than an attribute of `Candidates`.
    """
    unknown = sorted(set(needs) - set(get_args(Need)))
    if unknown:
        raise ValueError(f"needs: {', '.join(map(repr, unknown))} unknown; expected {', '.join(get_args(Need))}")
    declaration = Declaration(
        frozenset(needs),
        score,
        turns,
        embedding,
        nested,
        may_fall_short,
        compiled,
        unused or {},
        version,
        keeps_to_tokens,
        ordered,
    )

    def declare(choose: Choose) -> Choose:
        choose.declaration = declaration  # type: ignore[attr-defined]
        return choose

    return declare


class Candidates:
    """The N rows to choose from, in the order of the pool, and what the method asked to know of them."""

    def __init__(
        self,
        num_rows: int,
        *,
        labels: RowLabels | None = None,
        propagation: Propagation | None = None,
        scores: NDArray[np.float64] | None = None,
        embeddings: NDArray[np.floating[Any]] | None = None,
        records: Callable[[], Iterator[dict[str, Any]]] | None = None,
        texts: Callable[[], Iterator[tuple[str, str]]] | None = None,
        tokens: NDArray[np.int64] | None = None,
    ) -> None:
        """Offer `num_rows` rows; what a method does not need is None."""
        self._num_rows = num_rows
        self._labels, self._propagation, self._scores = labels, propagation, scores
        self._embeddings, self._records, self._texts = embeddings, records, texts
        self.tokens = tokens
        """What training is fed for each row, 1 or more, shape (N,); None where the budget is a number of rows."""

    def __len__(self) -> int:
        """Return N."""
        return self._num_rows

    @property
    def labels(self) -> RowLabels:
        """The labels of each row."""
        return _given(self._labels, "labels")

    @property
    def propagation(self) -> Propagation:
        """How information spreads among the L labels."""
        return _given(self._propagation, "propagation")

    @property
    def scores(self) -> NDArray[np.float64]:
        """Quality of each row; never NaN, 0 or more unless the method reads a score of its own. Shape (N,)."""
        return _given(self._scores, "scores")

    @property
    def embeddings(self) -> NDArray[np.floating[Any]]:
        """One vector a row, of any length above 0; may be mapped from a file, so take it in blocks. Shape (N, D)."""
        return _given(self._embeddings, "embeddings")

    def records(self) -> Iterator[dict[str, Any]]:
        """Read the rows whole, as `json.loads` gives them, in the order of the pool."""
        return _given(self._records, "records")()

    def texts(self) -> Iterator[tuple[str, str]]:
        """Read question and answer of each row (``mig_turns``), in the order of the pool."""
        return _given(self._texts, "texts")()


Given = TypeVar("Given")


def _given(value: Given | None, need: str) -> Given:
    if value is None:
        raise ArgumentError(f"mig_method: it did not say that it needs {need!r}; add that to @method(needs=...).")
    return value


def best_first(values: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """Return the rows from the highest value to the lowest; equal values in the order of the pool. Shape (N,)."""
    order: NDArray[np.int64] = np.argsort(-values, kind="stable")
    return order
