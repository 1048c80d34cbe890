"""What became of rows that were annotated, for log and manifest; warnings of what makes a selection mean little."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mig_selector.annotation.language import UNCLEAR, detect_languages
from mig_selector.arguments import MigArguments
from mig_selector.console import plural
from mig_selector.pipeline.request import Request
from mig_selector.pool.reading import Pool


logger = logging.getLogger(__name__)

_FOREIGN_SHARE = 0.1
"""Share of the questions whose language is clear from which labels in another language are warned of."""
_RARE_SHARE = 0.2
"""Warn where more rows than this have rare labels only."""
_FREQUENT_LABELS = 10
_COMMON_LABELS = {
    "vocabulary": "set mig_min_label_count: 1, or give a shorter list as mig_label_vocabulary",
    "clusters": "set mig_min_label_count: 1, or mig_clusters to fewer clusters",
}
"""What to do against rare labels, by tagger."""


def describe_languages(sample: Sequence[str]) -> dict[str, Any]:
    """Count the languages of a sample of questions, for the manifest."""
    return {"sampled": len(sample), "questions": dict(Counter(detect_languages(sample)).most_common())}


def log_languages(languages: Mapping[str, Any]) -> None:
    """Log what `describe_languages` returned."""
    found = _listed(languages["questions"])
    logger.info("annotations: languages of %s: %s", plural(languages["sampled"], "question"), found)


def warn_of_languages(languages: Mapping[str, Any], arguments: MigArguments) -> None:
    """Warn where the shipped labels, which are English, are given to many questions that are not.

    Args:
        languages: What `describe_languages` returned.
        arguments: Name the tagger and its vocabulary.
    """
    if arguments["mig_tagger"] != "vocabulary" or arguments.mig_label_vocabulary is not None:
        return
    clear = {language: count for language, count in languages["questions"].items() if language != UNCLEAR}
    foreign = {language: count for language, count in clear.items() if language != "en"}
    if sum(foreign.values()) > _FOREIGN_SHARE * sum(clear.values()):
        logger.warning(
            "%s of %s are not in English (%s), but the labels are, so they mean little there unless "
            "mig_tagger_model is multilingual; set mig_tagger: clusters with a multilingual mig_tagger_model, or a "
            "mig_label_vocabulary in that language",
            f"{sum(foreign.values()):,}",
            plural(languages["sampled"], "sampled question"),
            ", ".join(f"{language}: {count:,}" for language, count in foreign.items()),
        )


def describe_health(
    pool: Pool,
    request: Request,
    num_rows: int,
    num_made: int,
    failed: Counter[str],
    languages: Mapping[str, Any],
    is_scored: NDArray[np.bool_],
) -> dict[str, Any]:
    """Describe annotations, for the manifest.

    Args:
        pool: The rows that have labels and scores now.
        request: Says which labels are rare.
        num_rows: Rows that wanted annotations.
        num_made: Those of them that were not in a sidecar of the user.
        failed: How many got none, by reason.
        languages: What `describe_languages` returned.
        is_scored: Which of the rows got their score from ``mig_scorer``. Shape (N,).
    """
    labels, scores = pool.labels, pool.scores
    health: dict[str, Any] = {
        "rows": int(num_rows),
        "found_in_sidecar": int(num_rows - num_made),
        "failed": dict(failed),
        "languages": dict(languages),
    }
    if request.needs.labels is not None:
        counts = np.bincount(labels.ids, minlength=len(labels.names))
        # A vocabulary says which labels count, however rare they are.
        least = 1 if request.arguments.mig_label_vocabulary else request.arguments.mig_min_label_count
        is_common = counts[labels.ids] >= least
        has_common = np.bincount(np.repeat(np.arange(len(labels)), labels.counts), is_common, len(labels)) > 0
        frequent = np.argsort(-counts, kind="stable")[:_FREQUENT_LABELS].tolist()
        health["labels"] = {
            "distinct": int(np.count_nonzero(counts)),
            "per_row": round(float(np.mean(labels.counts)), 2),
            "most_frequent": {labels.names[label]: int(counts[label]) for label in frequent},
            "rows_with_rare_labels_only": int(np.count_nonzero(~has_common)),
        }
    if request.needs.score is not None and not np.isnan(scores).any():
        sources = {request.needs.score.name: scores}
        if request.needs.annotation is not None and request.needs.annotation.gives_scores:
            parts = {"mig_sidecar": scores[~is_scored], request.needs.score.name: scores[is_scored]}
            sources = {name: part for name, part in parts.items() if len(part)}
        health["scores"] = {
            "from": " and ".join(sources),
            "least": float(scores.min()),
            "mean": float(scores.mean()),
            "most": float(scores.max()),
        }
        if len(sources) > 1:
            health["scores"]["sources"] = {
                name: {"rows": len(part), "least": float(part.min()), "most": float(part.max())}
                for name, part in sources.items()
            }
    return health


def log_health(health: dict[str, Any], tagger: str | None) -> None:
    """Log what `describe_health` returned; `tagger` is ``mig_tagger``."""
    failed = sum(health["failed"].values())
    logger.info("annotated: %s of %s", f"{health['rows'] - failed:,}", plural(health["rows"], "row"))
    labels, scores = health.get("labels"), health.get("scores")
    if labels is not None:
        logger.info(
            "  %.2f labels a row, %s distinct; %s",
            labels["per_row"],
            f"{labels['distinct']:,}",
            _listed(labels["most_frequent"]),
        )
        if labels["rows_with_rare_labels_only"] > _RARE_SHARE * health["rows"]:
            logger.warning(
                "%s of %s: all labels are so rare that they do not count (mig_min_label_count), so these bring no "
                "information; %s",
                f"{labels['rows_with_rare_labels_only']:,}",
                plural(health["rows"], "row"),
                _COMMON_LABELS.get(tagger or "", "for common labels set mig_tagger: vocabulary and mig_retag: true"),
            )
    if scores is not None:
        logger.info("  scores (%s): %g to %g, mean %.4g", *(scores[key] for key in ("from", "least", "most", "mean")))
        if scores["from"] != "constant" and scores["least"] == scores["most"]:
            logger.warning("every row has the score %g: whatever made the scores tells no rows apart", scores["least"])
        if "sources" in scores:
            logger.warning(
                "%s; they are compared as they are, so make sure that they are on one scale",
                ", ".join(
                    f"{plural(part['rows'], 'score')} from {name} ({part['least']:g} to {part['most']:g})"
                    for name, part in scores["sources"].items()
                ),
            )


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({count:,})" for name, count in counts.items())
