"""What became of rows that were annotated, for log and manifest; warnings of what makes a selection mean little."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mig_selector.annotation.language import detect_languages
from mig_selector.pipeline.request import Request
from mig_selector.pool.reading import Pool


logger = logging.getLogger(__name__)

_RARE_SHARE = 0.2
"""Warn where more rows than this have rare labels only."""
_FREQUENT_LABELS = 10
_COMMON_LABELS = {
    "vocabulary": "set mig_min_label_count: 1, or give a shorter list as mig_label_vocabulary",
    "clusters": "set mig_min_label_count: 1, or mig_clusters to fewer clusters",
}
"""What to do against rare labels, by tagger."""


def describe_health(
    pool: Pool, request: Request, num_rows: int, num_made: int, failed: Counter[str], sample: Sequence[str]
) -> dict[str, Any]:
    """Describe annotations, for the manifest.

    Args:
        pool: The rows that have labels and scores now.
        request: Says which labels are rare.
        num_rows: Rows that wanted annotations.
        num_made: Those of them that were not in a sidecar of the user.
        failed: How many got none, by reason.
        sample: Questions, whose languages are found.
    """
    labels, scores = pool.labels, pool.scores
    health: dict[str, Any] = {
        "rows": int(num_rows),
        "found_in_sidecar": int(num_rows - num_made),
        "failed": dict(failed),
        "languages": {"sampled": len(sample), "questions": dict(Counter(detect_languages(sample)).most_common())},
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
        health["scores"] = {
            "from": request.needs.score.name,
            "least": float(scores.min()),
            "mean": float(scores.mean()),
            "most": float(scores.max()),
        }
    return health


def log_health(health: dict[str, Any], tagger: str | None) -> None:
    """Log what `describe_health` returned; `tagger` is ``mig_tagger``."""
    failed = sum(health["failed"].values())
    logger.info("annotated: %s of %s rows", f"{health['rows'] - failed:,}", f"{health['rows']:,}")
    labels, scores, languages = health.get("labels"), health.get("scores"), health["languages"]
    logger.info("  languages of %s questions: %s", f"{languages['sampled']:,}", _listed(languages["questions"]))
    if labels is not None:
        logger.info(
            "  %.2f labels a row, %s different ones; %s",
            labels["per_row"],
            f"{labels['distinct']:,}",
            _listed(labels["most_frequent"]),
        )
        if labels["rows_with_rare_labels_only"] > _RARE_SHARE * health["rows"]:
            logger.warning(
                "%s rows have only labels that fewer than mig_min_label_count rows have, so they bring no "
                "information; %s",
                f"{labels['rows_with_rare_labels_only']:,}",
                _COMMON_LABELS.get(tagger or "", "for common labels set mig_tagger: vocabulary and mig_retag: true"),
            )
    if scores is not None:
        logger.info("  scores (%s): %g to %g, mean %.4g", *(scores[key] for key in ("from", "least", "most", "mean")))
        if scores["from"] != "constant" and scores["least"] == scores["most"]:
            logger.warning("every row has the score %g: whatever made the scores tells no rows apart", scores["least"])


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({count:,})" for name, count in counts.items())
