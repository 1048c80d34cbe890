"""The keys of taggers, scorers and sidecars, and the tagger that they name.

To add a tagger, write a class of `tagger.Tagger` (of `vectors.VectorTagger` if it needs vectors of the questions only)
and add a case to `find_tagger`; ``mig_tagger`` then knows its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from mig_selector.annotation.asking import find_prompting
from mig_selector.annotation.clusters import ClusterTagger
from mig_selector.annotation.distilled import DistilledTagger
from mig_selector.annotation.instagger import PROMPT, QUERY, InstaggerTagger
from mig_selector.annotation.llm import TAG_PROMPT, LlmTagger
from mig_selector.annotation.tagger import Tagger
from mig_selector.annotation.tools import ModelName
from mig_selector.annotation.vocabulary import VocabularyTagger, shipped_vocabulary
from mig_selector.graph.vocabulary import read_vocabulary
from mig_selector.settings import Range, Setting, at_least, between


_NUMBERS = Range(
    "one or several numbers of 1 or more, separated by commas",
    lambda value: all(part.strip().isdigit() and int(part) > 0 for part in value.split(",")),
)
_WITH_QUERY = Range(f"text with {QUERY} in it, once", lambda value: value.count(QUERY) == 1)
_MINILM = "sentence-transformers/all-MiniLM-L6-v2"
_INSTAGGER = "OFA-Sys/InsTagger"


@dataclass(frozen=True, kw_only=True)
class AnnotationSettings:
    """The keys of taggers, of scorers, and of what they write."""

    mig_tagger: Annotated[
        Literal["vocabulary", "clusters", "instagger", "llm", "distilled"] | None,
        Setting(
            "What gives labels to rows that have none: vocabulary (the nearest of mig_label_vocabulary, or of 400 "
            "labels that come with the package), clusters (of similar questions of the pool, named by their "
            "terms), instagger (a language model that writes tags), llm (the chat model of mig_annotator_url), or "
            "distilled (a small classifier learns from labels of mig_distill_rows rows by mig_distill_teacher). Not "
            "set: such rows are dropped.",
            decides=True,
        ),
    ] = None
    mig_scorer: Annotated[
        Literal["constant", "response_tokens", "ifd", "deita", "reward", "llm"] | None,
        Setting(
            "What scores all rows, in place of mig_score: constant (1), response_tokens, ifd (by mig_ifd_model), "
            "deita (complexity times quality by DEITA's two models), reward (by mig_reward_model; needs a "
            "mig_score_scale), or llm (1 to 5 by the chat model of mig_annotator_url); default constant if mig_tagger "
            "is used.",
            decides=True,
        ),
    ] = None
    mig_deita_complexity_model: Annotated[
        str, Setting("DEITA's scorer of questions, for mig_scorer: deita: hub id or folder.", decides=True)
    ] = "hkust-nlp/deita-complexity-scorer"
    mig_deita_quality_model: Annotated[
        str, Setting("DEITA's scorer of answers, for mig_scorer: deita: hub id or folder.", decides=True)
    ] = "hkust-nlp/deita-quality-scorer"
    mig_reward_model: Annotated[
        str,
        Setting(
            "Sequence classification model with one output and a chat template that scores whole conversations, for "
            "mig_scorer: reward: hub id or folder.",
            decides=True,
        ),
    ] = "Skywork/Skywork-Reward-V2-Qwen3-0.6B"
    mig_sidecar: Annotated[
        str | None,
        Setting(
            "A Parquet file, or a folder of them, with labels and scores of rows made elsewhere; rows that it lacks "
            "are an error, unless mig_tagger is set.",
            decides=True,
        ),
    ] = None
    mig_retag: Annotated[
        bool,
        Setting("Give all rows labels of mig_tagger or mig_sidecar, also those that have some.", decides=True),
    ] = False
    mig_tagger_model: Annotated[
        str | None,
        Setting(
            "Model of mig_tagger: hub id or folder. For vocabulary, clusters, llm and distilled a "
            "sentence-transformers model (default sentence-transformers/all-MiniLM-L6-v2), which also embeds labels "
            "unless mig_embedding_model is set; for instagger a causal language model (default OFA-Sys/InsTagger).",
            decides=True,
        ),
    ] = None
    mig_tagger_max_tokens: Annotated[
        int,
        Setting(
            "Tokens of a question that vocabulary, clusters and distilled read; the rest is cut off.",
            at_least(1),
            decides=True,
        ),
    ] = 128
    mig_instagger_template: Annotated[
        str | None,
        Setting(
            "Prompt of instagger, whole, as its model was trained with; the question takes the place of {query}. "
            "Default is that of InsTagger, in the template of Vicuna.",
            _WITH_QUERY,
            decides=True,
        ),
    ] = None
    mig_instagger_max_new_tokens: Annotated[
        int,
        Setting(
            "Tokens that an answer of instagger may have; one that is cut off is asked for again with twice as many.",
            at_least(1),
            decides=True,
        ),
    ] = 512
    mig_labels_per_row: Annotated[
        int, Setting("Most labels that the tagger vocabulary gives a row.", at_least(1), decides=True)
    ] = 4
    mig_label_min_similarity: Annotated[
        float,
        Setting(
            "Cosine similarity to the question from which the tagger vocabulary gives a row a label; a row without "
            "such a label is left out and counted.",
            between(-1, 1),
            decides=True,
        ),
    ] = 0.25
    mig_clusters: Annotated[
        str,
        Setting(
            "How many clusters the tagger clusters finds, at one or several granularities; at most one for 20 rows.",
            _NUMBERS,
            decides=True,
        ),
    ] = "16,64,256"
    mig_max_failed: Annotated[
        float,
        Setting(
            "Largest share of rows that may fail to be annotated; more stop the run.", between(0, 1), decides=False
        ),
    ] = 0.05


def find_tagger(settings: Mapping[str, Any], vocabulary: str | None) -> Tagger | None:
    """Return the tagger that ``mig_tagger`` names; None if it is not set.

    Args:
        settings: Values of the keys of `AnnotationSettings`, `ChatSettings` and `DistillationSettings`.
        vocabulary: ``mig_label_vocabulary``.

    Raises:
        ArgumentError: A key that it needs is not set.
        PoolError: The vocabulary cannot be read.
    """
    model = find_tagger_model(settings)
    max_tokens = settings["mig_tagger_max_tokens"]
    match settings["mig_tagger"]:
        case "instagger":
            return _instagger(model, settings)
        case "vocabulary":
            labels = dict.fromkeys(read_vocabulary(Path(vocabulary)), "") if vocabulary else shipped_vocabulary()
            per_row, least = settings["mig_labels_per_row"], settings["mig_label_min_similarity"]
            return VocabularyTagger(model, max_tokens, labels, per_row, least)
        case "clusters":
            numbers = sorted({int(number) for number in settings["mig_clusters"].split(",")})
            return ClusterTagger(model, max_tokens, tuple(numbers))
        case "llm":
            return LlmTagger(find_prompting("mig_tagger", settings, TAG_PROMPT))
        case "distilled":
            return DistilledTagger(
                _teacher(settings), model, max_tokens, settings["mig_distill_rows"], settings["mig_distill_min_f1"]
            )
        case _:
            return None


def _teacher(settings: Mapping[str, Any]) -> Tagger:
    """Return what labels the sample of the tagger ``distilled``."""
    if settings["mig_distill_teacher"] == "instagger":
        return _instagger(ModelName("mig_distill_model", settings["mig_distill_model"]), settings)
    return LlmTagger(find_prompting("mig_tagger", settings, TAG_PROMPT))


def _instagger(model: ModelName, settings: Mapping[str, Any]) -> InstaggerTagger:
    template, limit = settings["mig_instagger_template"], settings["mig_instagger_max_new_tokens"]
    return InstaggerTagger(model, template or PROMPT, limit)


def find_tagger_model(settings: Mapping[str, Any]) -> ModelName:
    """Return the model that ``mig_tagger_model`` names, or the default of the tagger."""
    default = _INSTAGGER if settings["mig_tagger"] == "instagger" else _MINILM
    return ModelName("mig_tagger_model", settings["mig_tagger_model"] or default)
