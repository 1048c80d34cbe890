"""What a selection needs to know of a pool: the method's own needs and what the user asks for, defaults filled in."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from mig_selector.arguments import PREFIX, MigArguments
from mig_selector.errors import ArgumentError
from mig_selector.pool.index.judge import SCORE_PATHS, RowJudge
from mig_selector.selection.method import RowEmbedding
from mig_selector.selection.registry import Method, load_method


DEFAULT_LABELS = "annotation.instag.content"
RESPONSE_TOKENS = "response_tokens"
"""Name of the score that a tokenizer counts."""


@dataclass(frozen=True)
class Needs:
    """A method and what it is to know of each row."""

    method: Method
    settings: Mapping[str, Any]
    """What the method is called with."""
    labels: str | None
    """Where the labels stand; None where a row needs none."""
    score: str | None
    """A name or a dotted path; None where a row needs none."""
    is_signed: bool
    """Whether scores may be negative."""
    turns: str
    """How the score of several turns is joined: mean or sum."""
    required: tuple[str, ...]
    """Where a row must have further numbers: what the user or a comparison asks for."""
    embedding: RowEmbedding | None
    """How rows are embedded; None where they are not, or where the user gives the vectors."""
    has_ifd_model: bool

    def has(self, need: str) -> bool:
        """Whether the method needs an attribute of its candidates."""
        return need in self.method.declaration.needs

    @property
    def is_score_computed(self) -> bool:
        """Whether a model or a tokenizer makes the scores: they do not stand in the pool."""
        return self.score == RESPONSE_TOKENS or (self.score == "ifd" and self.has_ifd_model)

    @property
    def has_texts(self) -> bool:
        """Whether question and answer of each row are read."""
        return self.embedding is not None or self.is_score_computed or self.has("texts")

    @property
    def number_paths(self) -> tuple[str, ...]:
        """Where a row must have numbers."""
        if self.score is None or self.is_score_computed:
            return self.required
        return (*SCORE_PATHS.get(self.score, (self.score,)), *self.required)

    def judge(self) -> RowJudge:
        """Return what decides which rows are kept."""
        score = "constant" if self.score is None or self.is_score_computed else self.score
        return RowJudge(self.labels, score, turns=self.turns, is_signed=self.is_signed, required=self.required)


def resolve_needs(arguments: MigArguments, required: Collection[str] = ()) -> Needs:
    """Find the method and fill in what it needs.

    Args:
        arguments: The ``mig_*`` keys.
        required: Where a row must have numbers, whatever the method.

    Raises:
        ArgumentError: There is no such method, or nothing says where what it needs comes from.
    """
    method = load_method(arguments.mig_method)
    declared = method.declaration
    values = {key.removeprefix(PREFIX): value for key, value in asdict(arguments).items()}
    score, more = _score(arguments, method)
    embedding = declared.embedding
    if "embeddings" not in declared.needs or arguments.mig_row_embeddings:
        embedding = None
    elif embedding is None:
        raise ArgumentError(f"mig_method: {method.name} takes given vectors only; set mig_row_embeddings.")
    elif arguments.mig_row_embedding_model:
        embedding = replace(embedding, model=arguments.mig_row_embedding_model)
    needs_labels = (
        bool({"labels", "propagation"} & declared.needs)
        or arguments.mig_labels is not None
        or score == "num_labels"
        or (arguments.mig_normalize and score is not None)
    )
    return Needs(
        method=method,
        settings=method.settings(values),
        labels=(arguments.mig_labels or DEFAULT_LABELS) if needs_labels else None,
        score=score,
        is_signed=declared.score_key == "mig_iqs" and score == arguments.mig_iqs,
        turns=arguments.mig_deita_turns or declared.turns,
        required=tuple(dict.fromkeys((*more, *required))),
        embedding=embedding,
        has_ifd_model=arguments.mig_ifd_model is not None,
    )


def _score(arguments: MigArguments, method: Method) -> tuple[str | None, tuple[str, ...]]:
    """Return the score that the method ranks by, and where else a row must have one because the user says so."""
    declared, asked = method.declaration, arguments.mig_score
    is_needed = "scores" in declared.needs or (declared.may_fall_short and arguments.mig_fill == "top_score")
    if not is_needed or declared.score_key == "mig_score":
        return asked or (declared.score if is_needed else None), ()
    own = getattr(arguments, declared.score_key)
    return own, SCORE_PATHS.get(asked, (asked,)) if asked is not None and asked != RESPONSE_TOKENS else ()
