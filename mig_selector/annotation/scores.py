"""The kinds of score that a row can have, one class each: what it reads, the model it runs, and its arithmetic.

To add a kind, write a class here and add a line to `find_score`; ``mig_score`` then knows its name. A kind says

- `stored`: the numbers that it reads from the rows of the pool;
- `models`: the models that it runs, found before anything is read;
- `measure`: what they say of each kept row, or why they say nothing;
- `finish`: the score of each kept row, from the stored numbers, the measured ones or the labels that count;
- `scale`: the scale to which the finished scores are brought, once it is known which rows there are to choose from;
- `identity`: what else decides the scores, for the fingerprint.

N rows, L labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from mig_selector.annotation.scales import Scale
from mig_selector.annotation.tokens import count_tokens
from mig_selector.annotation.tools import ModelName, Rows, Tools
from mig_selector.arrays import RowLabels
from mig_selector.console import progress
from mig_selector.errors import ArgumentError
from mig_selector.pool.index.numbers import StoredNumbers
from mig_selector.settings import Setting, at_least
from mig_selector.store.matrix import MatrixFile


@dataclass(frozen=True, kw_only=True)
class ScoreSettings:
    """The keys that the kinds below declare."""

    mig_score_scale: Annotated[
        Scale,
        Setting(
            "none takes scores as they are, 0 or more. The others take scores of either sign, and bring them to "
            "[0, 1]: rank by their order among the rows to choose from, sigmoid as 1 / (1 + exp(-score)), minmax from "
            "the lowest to the highest of these rows.",
            decides=True,
        ),
    ] = "none"
    mig_deita_turns: Annotated[
        Literal["mean", "sum"] | None,
        Setting(
            "How deita, stored or by mig_scorer, or the product of several paths, joins the turns of a row; default "
            "sum for the method deita, mean for the others.",
            decides=True,
        ),
    ] = None
    mig_ifd_model: Annotated[
        str | None,
        Setting(
            "Causal language model that computes IFD (hub id or folder, such as gpt2); without it IFD is read from "
            "ifd_score.content.",
            decides=True,
        ),
    ] = None
    mig_ifd_max_tokens: Annotated[
        int, Setting("Tokens of a row that the IFD model reads.", at_least(2), decides=True)
    ] = 1024
    mig_tokenizer: Annotated[
        str | None,
        Setting(
            "Tokenizer that counts response_tokens, and the tokens of chosen rows for summaries: hub id or folder; "
            "default model_name_or_path.",
            decides=True,
        ),
    ] = None


@dataclass(frozen=True)
class Measurement:
    """What a model says of rows."""

    values: NDArray[np.float64]
    """One number a row, NaN where there is none. Shape (N,)."""
    failures: Mapping[int, str]
    """Why a row has none, by its index in [0, N): each row whose number is NaN is in here."""
    figures: Mapping[str, Any] | None = None
    """How good the numbers are, for the manifest; None where that was not measured."""


@dataclass(frozen=True)
class Score:
    """Base of all kinds: a score that is made of numbers stored in the pool."""

    name: str
    """As ``mig_score`` has it."""
    stored: StoredNumbers = field(default_factory=StoredNumbers)
    """Rows that lack one of these are dropped."""
    scale: Scale = "none"
    """What `finish` returns is rescaled to it."""

    may_succeed_later: ClassVar[bool] = False
    """Whether a row that failed may get a score in a later run, and so is tried again."""

    @property
    def models(self) -> tuple[ModelName, ...]:
        """The models that `measure` runs."""
        return ()

    @property
    def reads_texts(self) -> bool:
        """Whether `measure` reads the texts of rows."""
        return bool(self.models)

    @property
    def needs_labels(self) -> bool:
        """Whether `finish` takes the labels that count."""
        return False

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the scores, beside the models."""
        return {"kind": type(self).__name__, "scale": self.scale, **self.stored.identity}

    def measure(self, rows: Rows, tools: Tools) -> Measurement | None:
        """Run the models; None for kinds that measure nothing. For rank 0 to call."""
        return None

    def finish(
        self, stored: NDArray[np.float64], measured: NDArray[np.float64] | None, labels: RowLabels | None
    ) -> NDArray[np.float64]:
        """Return the score of each row before it is rescaled and normalised, never NaN.

        Args:
            stored: The stored numbers as joined; shape (N,).
            measured: What `measure` returned of these rows; shape (N,).
            labels: The labels that count, of these rows.
        """
        return stored


class ConstantScore(Score):
    """The same for every row: only the labels decide."""

    def finish(
        self, stored: NDArray[np.float64], measured: NDArray[np.float64] | None, labels: RowLabels | None
    ) -> NDArray[np.float64]:
        """Return 1.0 throughout."""
        return np.ones(len(stored))


class LabelCountScore(Score):
    """The number of distinct labels of a row that count."""

    @property
    def needs_labels(self) -> bool:
        """Counts them."""
        return True

    def finish(
        self, stored: NDArray[np.float64], measured: NDArray[np.float64] | None, labels: RowLabels | None
    ) -> NDArray[np.float64]:
        """Count them."""
        if labels is None:
            raise ValueError("num_labels needs the labels")
        return labels.counts.astype(np.float64)


@dataclass(frozen=True)
class MeasuredScore(Score):
    """A score that models compute from the texts of the rows."""

    models: tuple[ModelName, ...] = ()

    def finish(
        self, stored: NDArray[np.float64], measured: NDArray[np.float64] | None, labels: RowLabels | None
    ) -> NDArray[np.float64]:
        """Return what was measured."""
        if measured is None:
            raise ValueError(f"{self.name} was not measured")
        return measured


class ResponseTokensScore(MeasuredScore):
    """Length of the response in tokens."""

    def measure(self, rows: Rows, tools: Tools) -> Measurement:
        """Count them on rank 0, whose tokenizer uses all cores, or take what an earlier run kept."""
        [name] = self.models
        model = tools.find(name)
        kept = MatrixFile(rows.cache_path("response_tokens", {}, model), len(rows))
        with kept.locked():
            if not kept.is_complete():
                with progress("counting tokens", len(rows), "rows", is_main=True) as bar:
                    responses = _reported((exchange.response for exchange in rows.exchanges()), bar)
                    counts = count_tokens(responses, model.model, name.key, model.revision)
                # As float32, which is exact up to 2**24 tokens.
                kept.append(counts.astype(np.float32)[kept.begin(width=1) :, np.newaxis])
                kept.finish()
            return Measurement(np.load(kept.path, allow_pickle=False).astype(np.float64).ravel(), {})


@dataclass(frozen=True)
class IfdScore(MeasuredScore):
    """Instruction-following difficulty; see `annotation.ifd`."""

    max_tokens: int = 1024

    @property
    def identity(self) -> dict[str, Any]:
        """The limit too."""
        return {**super().identity, "max_tokens": self.max_tokens}

    def measure(self, rows: Rows, tools: Tools) -> Measurement:
        """Run the language model on all ranks, or take what an earlier run kept."""
        model = tools.find(*self.models)
        path = rows.cache_path("ifd", {"max_tokens": self.max_tokens}, model)
        values = tools.crew.measure_ifd(rows.exchanges, len(rows), model, path, self.max_tokens)
        return Measurement(values, dict.fromkeys(np.flatnonzero(np.isnan(values)).tolist(), _NO_IFD))


_NO_IFD = "no IFD: no answer, one of a single token, or none of it within mig_ifd_max_tokens"
_DEITA = ("annotation.deita.quality_scores", "annotation.deita.complexity_scores")
_DEITA_PIPELINE = ("quality_scores", "complexity_scores")
"""Where DEITA's own `score_pipeline` writes them."""
_KINDS = {"deita", "ifd", "response_tokens", "num_labels", "constant"}


def find_score(
    name: str, settings: Mapping[str, Any], *, turns: Literal["mean", "sum"], default_tokenizer: str | None
) -> Score:
    """Return the kind of score with a name.

    Args:
        name: As ``mig_score`` has it; what is none of the kinds is a dotted path to a number or a list of numbers, or
            several paths, separated by commas.
        settings: Values of the keys of `ScoreSettings`.
        turns: How turns are joined where ``mig_deita_turns`` is not set.
        default_tokenizer: What counts response tokens where ``mig_tokenizer`` is not set.

    Raises:
        ArgumentError: Nothing says which tokenizer counts tokens, or a score that is computed is to be multiplied.
    """
    scale: Scale = settings["mig_score_scale"]
    is_sum = (settings["mig_deita_turns"] or turns) == "sum"
    join: Literal["sum of products", "mean of products"] = "sum of products" if is_sum else "mean of products"
    match name.split(","):
        case ["deita"]:
            return Score(name, StoredNumbers(_DEITA, join, elsewhere=_DEITA_PIPELINE), scale)
        case ["ifd"]:
            if settings["mig_ifd_model"] is None:
                return Score(name, StoredNumbers(("ifd_score.content",), is_signed=scale != "none"), scale)
            model = ModelName("mig_ifd_model", settings["mig_ifd_model"])
            return IfdScore(name, scale=scale, models=(model,), max_tokens=settings["mig_ifd_max_tokens"])
        case ["response_tokens"]:
            tokenizer = _tokenizer(settings["mig_tokenizer"], default_tokenizer)
            return ResponseTokensScore(name, scale=scale, models=(tokenizer,))
        case ["num_labels"]:
            return LabelCountScore(name, scale=scale)
        case ["constant"]:
            return ConstantScore(name, scale=scale)
        case [path]:
            return Score(name, StoredNumbers((path,), is_signed=scale != "none"), scale)
        case paths:
            kinds = [path for path in paths if path in _KINDS]
            if kinds:
                raise ArgumentError(
                    f"mig_score: {name!r}: several scores are multiplied, which takes dotted paths to numbers; "
                    f"{kinds[0]} is a kind of score."
                )
            return Score(name, StoredNumbers(tuple(paths), join), scale)


def signed_score(path: str) -> Score:
    """Return the score that a method reads from a key of its own; it may be negative.

    Args:
        path: A dotted path to a number or a list of numbers.
    """
    return Score(path, StoredNumbers((path,), is_signed=True))


def _tokenizer(name: str | None, default: str | None) -> ModelName:
    if name is None and default is None:
        raise ArgumentError("mig_tokenizer is missing; response_tokens are counted by a tokenizer (hub id or folder).")
    return ModelName("mig_tokenizer" if name else "model_name_or_path", str(name or default), needs_weights=False)


def _reported(items: Iterator[str], on_item: Callable[[int], object]) -> Iterator[str]:
    for item in items:
        on_item(1)
        yield item
