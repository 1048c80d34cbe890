"""What a selection needs to know of each row: what the method needs and what the user asks for, defaults filled in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mig_selector.annotation.normalization import Normalization, find_normalization
from mig_selector.annotation.scorers import find_scorer
from mig_selector.annotation.scores import Score, find_score, signed_score
from mig_selector.annotation.sidecar import sidecar_files
from mig_selector.annotation.tagger import Tagger
from mig_selector.annotation.taggers import MINILM, find_tagger
from mig_selector.annotation.tools import ModelName
from mig_selector.arguments import MigArguments
from mig_selector.errors import ArgumentError
from mig_selector.integration.config import HostArguments
from mig_selector.pool.entry import PoolEntry
from mig_selector.pool.index.judge import RowJudge
from mig_selector.pool.index.numbers import StoredNumbers
from mig_selector.pool.leaves.labels import StoredLabels
from mig_selector.selection.method import Need, OwnScore, RowEmbedding
from mig_selector.selection.registry import Method, load_method
from mig_selector.settings import Part
from mig_selector.store.folders import absolute_path


DEFAULT_LABELS = "annotation.instag.content"
DEFAULT_LABEL_MODEL = "intfloat/e5-mistral-7b-instruct"


@dataclass(frozen=True)
class AnnotationNeeds:
    """What annotations the rows get beside what the pool stores of them."""

    tagger: Tagger | None
    """Labels the rows that have no labels; None where that is not wanted."""
    scorer: Score | None
    """Scores all rows; None where the pool or the sidecar has the scores."""
    sidecar: tuple[Path, ...]
    """Files of the user with annotations."""
    gives_labels: bool
    gives_scores: bool
    replaces_labels: bool
    """Whether also rows that have labels get others."""
    normalization: Normalization | None
    """How tags are brought together that mean the same; None where labels are taken as they are."""

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the annotations, beside models and the content of the sidecar."""
        return {
            "tagger": self.tagger.identity if self.tagger else None,
            "scorer": self.scorer.identity if self.scorer else None,
            "gives": [self.gives_labels, self.gives_scores, self.replaces_labels],
            "normalization": self.normalization.identity if self.normalization else None,
        }


@dataclass(frozen=True)
class Needs:
    """A method and what it needs to know of each row."""

    method: Method
    options: Mapping[str, Any]
    """What the method is called with."""
    labels: StoredLabels | None
    """Where a row's labels are; None where a row needs none."""
    score: Score | None
    """None where a row needs none."""
    required: StoredNumbers | None
    """Numbers that a row must also have: the user set ``mig_score``, but the method has its own score."""
    embedding: RowEmbedding | None
    """How rows are embedded; None where they are not, or where the user gives the vectors."""
    label_model: ModelName | None
    """The encoder of the labels; None where none are embedded."""
    annotation: AnnotationNeeds | None
    """None where the pool stores all that is needed."""
    training_model: str | None
    """The model whose tokenizer counts what training is fed; None where rows are counted."""

    def has(self, need: Need) -> bool:
        """Whether the method needs an attribute of its candidates."""
        return need in self.method.declaration.needs

    @property
    def has_texts(self) -> bool:
        """Whether question and answer of each row are read."""
        is_measured = any(score is not None and score.reads_texts for score in (self.score, self._scorer))
        return self.embedding is not None or is_measured or self._tagger is not None or self.has("texts")

    @property
    def _tagger(self) -> Tagger | None:
        return self.annotation.tagger if self.annotation else None

    @property
    def _scorer(self) -> Score | None:
        return self.annotation.scorer if self.annotation else None

    @property
    def models(self) -> list[ModelName]:
        """The models that have to be found, each under the key that names it."""
        names = []
        if self.label_model is not None:
            names.append(self.label_model)
        if self.embedding is not None:
            names.append(ModelName("mig_row_embedding_model", self.embedding.model))
        if self._tagger is not None:
            names += self._tagger.models
        if self.training_model is not None:
            names.append(ModelName("model_name_or_path", self.training_model, needs_weights=False))
        names += [model for score in (self.score, self._scorer) if score is not None for model in score.models]
        return names

    @property
    def parts(self) -> frozenset[Part]:
        """The parts that this selection has; settings of other parts have no effect on it."""
        has_part: dict[Part, bool] = {
            "labels": self.labels is not None,
            "graph": self.has("propagation"),
            "row vectors": self.has("embeddings"),
            "texts": self.has_texts,
            "models": any(model.needs_weights for model in self.models),
            "filling": self.method.declaration.may_fall_short,
        }
        return frozenset(part for part, is_there in has_part.items() if is_there)

    def judge(self, entry: PoolEntry, host: HostArguments) -> RowJudge:
        """Return the judge that decides which rows of an entry are kept.

        Raises:
            ArgumentError: The host does not train on such an entry at its stage.
        """
        stage = "rm" if host.stage == "dpo" else host.stage
        if entry.ranking != (stage == "rm"):
            stages = "rm or dpo" if entry.ranking else "sft, pt, ppo or kto"
            has = "has" if entry.ranking else "does not have"
            raise ArgumentError(
                f"dataset {entry.name!r} {has} ranking: true in dataset_info.json, so LLaMA-Factory does not train on "
                f"it in stage {host.stage}; set stage to {stages}, or change the entry."
            )
        stored = self.score.stored if self.score else None
        annotation = self.annotation
        return RowJudge(
            None if annotation is not None and annotation.replaces_labels else self.labels,
            stored,
            needs_labels=annotation is None or not annotation.gives_labels,
            required=self.required,
            layout=entry.layout,
            stage=stage,
        )


def resolve_needs(arguments: MigArguments, host: HostArguments) -> Needs:
    """Find the method and fill in what it needs.

    Args:
        arguments: The ``mig_*`` keys.
        host: The host's keys.

    Raises:
        ArgumentError: There is no such method, nothing says where something it needs comes from, or ``mig_keep``
            names what is not read.
    """
    method = load_method(arguments.function or arguments.mig_method)
    score, asked = _scores(arguments, host, method)
    needs_labels = (
        bool({"labels", "propagation"} & method.declaration.needs)
        or arguments.mig_labels is not None
        or (score is not None and (score.needs_labels or arguments.mig_normalize))
    )
    annotation = _annotation(arguments, host, method, score, needs_labels=needs_labels)
    if annotation is not None and annotation.gives_scores:
        name = annotation.scorer.name if annotation.scorer else "sidecar"
        score = Score(name, scale=arguments["mig_score_scale"])
    normalizes = annotation is not None and annotation.normalization is not None
    embeds_labels = "propagation" in method.declaration.needs and arguments.mig_label_embeddings is None
    is_known = {"labels": needs_labels, "score": score is not None, "id": True}
    for each in arguments.kept:
        if not is_known[each]:
            raise ArgumentError(
                f"mig_keep: {each} cannot be kept, because {method.name} reads none; set mig_{each} to where the pool "
                f"has it, or leave {each} out of mig_keep."
            )
    return Needs(
        method=method,
        options=method.options(arguments.options),
        labels=_labels(arguments) if needs_labels else None,
        score=score,
        required=asked.stored if asked else None,
        embedding=_row_embedding(arguments, method),
        label_model=_label_model(arguments, annotation) if embeds_labels or normalizes else None,
        annotation=annotation,
        training_model=_training_model(arguments, host),
    )


def _training_model(arguments: MigArguments, host: HostArguments) -> str | None:
    if not arguments.counts_tokens:
        return None
    needed = {"model_name_or_path": host.model_name_or_path, "template": host.tokenizing.get("template")}
    missing = [key for key, value in needed.items() if not value]
    if missing:
        raise ArgumentError(
            f"mig_num_tokens: tokens are those that training is fed, so {' and '.join(missing)} must be set."
        )
    return host.model_name_or_path


def _labels(arguments: MigArguments) -> StoredLabels:
    return StoredLabels(arguments.label_paths or (DEFAULT_LABELS,), arguments.mig_label_separator)


def _scores(arguments: MigArguments, host: HostArguments, method: Method) -> tuple[Score | None, Score | None]:
    """Return the score that the method ranks by, and another one that rows must have because the user set it."""
    declared, asked = method.declaration, arguments.mig_score
    ranks_by_score = "scores" in declared.needs or (declared.may_fall_short and arguments.mig_fill == "top_score")

    def find(name: str) -> Score:
        return find_score(name, arguments.more, turns=declared.turns, default_tokenizer=host.model_name_or_path)

    if ranks_by_score and isinstance(declared.score, OwnScore):
        own = signed_score(arguments[f"mig_{declared.score.option}"])
        return own, find(asked) if asked is not None else None
    default = declared.score if isinstance(declared.score, str) and ranks_by_score else None
    name = asked or default
    return find(name) if name is not None else None, None


def _annotation(
    arguments: MigArguments, host: HostArguments, method: Method, score: Score | None, *, needs_labels: bool
) -> AnnotationNeeds | None:
    """Return what annotations rows get; labels and scores that the method does not need are not made."""
    settings, name, declared = arguments.more, arguments["mig_scorer"], method.declaration
    given = settings["mig_sidecar"]
    gives_labels = needs_labels and (settings["mig_tagger"] is not None or given is not None)
    takes_default = score is not None and arguments.mig_score is None and isinstance(declared.score, str)
    # The default score of a method, unless it is computed, is something that a pool without labels does not store.
    gives_scores = takes_default and (name is not None or (gives_labels and declared.score == "deita"))
    if not gives_labels and not gives_scores:
        return None
    scorer = None
    if gives_scores and (name is not None or given is None):
        scorer = find_scorer(
            name or "constant", settings, turns=declared.turns, default_tokenizer=host.model_name_or_path
        )
    tagger = find_tagger(settings, arguments.mig_label_vocabulary) if gives_labels else None
    # A vocabulary says which labels count: one must not be renamed to another that is not in it.
    normalizes = tagger is not None and tagger.invents_labels and arguments.mig_label_vocabulary is None
    return AnnotationNeeds(
        tagger=tagger,
        scorer=scorer,
        sidecar=sidecar_files(absolute_path(given, "mig_sidecar")) if given else (),
        gives_labels=gives_labels,
        gives_scores=gives_scores,
        replaces_labels=gives_labels and settings["mig_retag"],
        normalization=find_normalization(settings) if normalizes else None,
    )


def _label_model(arguments: MigArguments, annotation: AnnotationNeeds | None) -> ModelName:
    tagger = annotation.tagger if annotation else None
    if arguments.mig_embedding_model is None and tagger is not None and tagger.embeds_labels:
        return ModelName("mig_tagger_model", arguments["mig_tagger_model"] or MINILM)
    return ModelName("mig_embedding_model", arguments.mig_embedding_model or DEFAULT_LABEL_MODEL)


def _row_embedding(arguments: MigArguments, method: Method) -> RowEmbedding | None:
    declared = method.declaration
    if "embeddings" not in declared.needs or arguments.mig_row_embeddings:
        return None
    if declared.embedding is None:
        raise ArgumentError(f"mig_method: {method.name} takes given vectors only; set mig_row_embeddings.")
    model = arguments.mig_row_embedding_model
    return replace(declared.embedding, model=model) if model else declared.embedding
