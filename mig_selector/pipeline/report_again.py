"""The report of a finished selection again, with more time: more texts are measured, and charts become pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mig_selector.arrays import Selection
from mig_selector.pipeline.crew import Crew
from mig_selector.pipeline.recipe import offer
from mig_selector.pipeline.report import ON_REQUEST, Selected, build_report
from mig_selector.pipeline.stages import Clock
from mig_selector.pipeline.stored import StoredSelection
from mig_selector.ranks.world import Ranks
from mig_selector.report.selection import Training
from mig_selector.report.writing import FIGURES, write_pictures, write_report
from mig_selector.store.files import read_json


def report_again(selection: StoredSelection, ranks: Ranks | None = None) -> list[Path]:
    """Write the report of a finished selection again, with more of its texts measured, and its charts as pictures.

    Args:
        selection: The selection.
        ranks: This process among those of the run; alone if None. Every rank must call this.

    Returns:
        The files; the same on every rank.

    Raises:
        ArgumentError: The manifest does not say how the selection was made.
        PoolError: The pool, a model or a setting is not what it was.
        MigSelectorError: A model failed, on any rank.
    """
    arguments, host = selection.arguments()
    crew = Crew(ranks or Ranks(), arguments)

    def report() -> list[str]:
        request = selection.unchanged_request(arguments, host, selection.manifest["files"])
        offered = offer(request, crew, Clock())
        table = selection.table
        rows = np.searchsorted(offered.pool.pool_indices, table["row_index"].to_numpy())
        chosen = Selection(rows, table["gain"].to_numpy().astype(np.float64))
        training = _known_training(selection)
        selected = Selected(request, offered, chosen, selection.folder, selection.manifest, training)
        made = build_report(selected, ON_REQUEST)
        return [str(path) for path in (*write_report(selection.folder, made), *write_pictures(selection.folder, made))]

    return [Path(path) for path in crew.run(report)]


def _known_training(selection: StoredSelection) -> Training | None:
    """Return what the report that the run wrote says of training; None if there is none."""
    earlier = read_json(selection.folder / FIGURES)
    try:
        return Training(**earlier["training"])
    except (TypeError, KeyError):
        return None
