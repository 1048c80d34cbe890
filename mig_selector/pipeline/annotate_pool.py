"""Annotate a pool without selecting from it: what ``mig-selector annotate`` does."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mig_selector.arguments import MigArguments, all_keys, check_names, parse_arguments, split_keys
from mig_selector.console import plural, progress
from mig_selector.errors import ArgumentError
from mig_selector.integration.config import HostArguments
from mig_selector.pipeline.annotate import annotate
from mig_selector.pipeline.crew import Crew
from mig_selector.pipeline.needs import DEFAULT_LABELS
from mig_selector.pipeline.request import Request, resolve, warn_of_settings
from mig_selector.pipeline.rows import KeptRows
from mig_selector.pipeline.stages import read
from mig_selector.pool.reading import Pool
from mig_selector.ranks.world import Ranks
from mig_selector.settings import PREFIX
from mig_selector.store.files import whole_file
from mig_selector.store.folders import absolute_path


logger = logging.getLogger(__name__)

LABELS_COLUMN, SCORE_COLUMN = "mig_labels", "mig_score"
"""Columns of an annotated copy, named as the keys that read them."""


def annotate_pool(settings: Mapping[str, Any], ranks: Ranks | None = None, *, to: str | None = None) -> Path:
    """Give the rows of a pool labels and scores, and keep them in sidecars.

    Args:
        settings: LLaMA-Factory's keys and the ``mig_*`` keys, as in a YAML; what is to be selected has no effect.
        ranks: This process among those of the run; alone if None. Every rank must call this.
        to: A JSON Lines file to write as well: the rows that are annotated, with all their columns and two more.

    Returns:
        The sidecar or, of several pool files, the folder of the sidecars; on rank 0's node.

    Raises:
        MigSelectorError: Something that the user can fix; on every rank, with the same message.
    """
    host_settings, own_settings = split_keys(settings_to_annotate(settings))
    arguments = parse_arguments(own_settings, training=False)
    host = HostArguments.read(host_settings)
    crew = Crew(ranks or Ranks(), arguments)
    return Path(crew.run(lambda: _annotate(arguments, host, crew, to)))


def settings_to_annotate(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a selection that needs the annotations and no other models.

    Raises:
        ArgumentError: A key is unknown, or none says how rows are annotated.
    """
    check_names(settings)
    gives_labels = any(settings.get(key) is not None for key in ("mig_tagger", "mig_sidecar"))
    if not gives_labels and settings.get("mig_scorer") is None:
        raise ArgumentError("nothing says how rows are annotated; set mig_tagger or mig_scorer.")
    keys_of_all = all_keys()  # those of a custom method mean nothing to another one
    needed = {key: value for key, value in settings.items() if key in keys_of_all or not key.startswith(PREFIX)}
    needed |= {"mig_method": "top_score", "mig_num_samples": 1, "mig_num_tokens": None}
    needed["mig_tag_normalization"] = "none"  # sidecars keep tags as they were given
    if settings.get("mig_scorer") == "reward" and settings.get("mig_score_scale") is None:
        needed["mig_score_scale"] = "rank"  # sidecars have the scores as they are
    if gives_labels:
        needed["mig_labels"] = settings.get("mig_labels") or DEFAULT_LABELS
    return needed


def _annotate(arguments: MigArguments, host: HostArguments, crew: Crew, to: str | None) -> str:
    request = resolve(arguments, host, is_registered=False)
    copy = copy_path(to, request) if to is not None else None
    warn_of_settings(request)
    annotated = annotate(read(request), request, crew)
    if annotated.sidecar is None:
        raise ArgumentError(
            "every row of the pool has labels, and its score is read by mig_score: there is nothing to annotate. "
            "Set mig_retag: true to label the rows again."
        )
    for reason, count in (annotated.health or {}).get("failed", {}).items():
        logger.info("  not annotated, %s: %s", reason, plural(count, "row"))
    if copy is not None:
        _write_copy(request, annotated.pool, copy)
    return str(annotated.sidecar)


def copy_path(to: str, request: Request) -> Path:
    """Return the path for a copy with the annotations.

    Raises:
        ArgumentError: It cannot be written there, or not in one file.
    """
    path = absolute_path(to, "--to")
    if path.suffix != ".jsonl":
        raise ArgumentError(f"--to: {path} must end with .jsonl: JSON Lines are written.")
    if path.exists():
        raise ArgumentError(f"--to: {path} exists, and is not overwritten; remove it, or give another name.")
    first, *others = request.entries
    for other in others:
        if other.layout != first.layout:
            raise ArgumentError(
                f"--to: {first.name} and {other.name} have different layouts (formatting, columns or tags in "
                "dataset_info.json), so no entry could describe a file with the rows of both. Annotate one after the "
                f"other (mig_pool: {first.name}), each into a file of its own."
            )
    return path


def _write_copy(request: Request, pool: Pool, path: Path) -> None:
    """Write the annotated rows as JSON Lines."""
    records = KeptRows(request, pool).records()
    count = len(pool.scores)
    with whole_file(path) as stream, progress("writing annotated rows", count, "rows", is_main=True) as bar:
        for index, (record, score) in enumerate(zip(records, pool.scores.tolist(), strict=True)):
            line = {**record, LABELS_COLUMN: pool.labels.of_row(index), SCORE_COLUMN: score}
            text = json.dumps(line, ensure_ascii=False, separators=(",", ":"), default=str)
            stream.write(text.encode("utf-8", "backslashreplace") + b"\n")
            bar(1)
    logger.info("%s: %s", plural(count, "annotated row"), path)
