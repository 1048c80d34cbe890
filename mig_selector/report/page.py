"""Comparisons and reports as single self-contained HTML files: no network, light and dark mode, print layout."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mig_selector.console import plural, printable
from mig_selector.report.annotation import describe_annotation
from mig_selector.report.charts import chart_curve, chart_labels, chart_numbers
from mig_selector.report.comparison import (
    COLUMNS,
    MISSING,
    Comparison,
    round_to_error,
    shorten,
    significant,
)
from mig_selector.report.picture import FAINT, INK, MOSTLY_BLUE, PAPER
from mig_selector.report.selection import SelectionReport
from mig_selector.report.study import STUDY_COLUMNS, Study


if TYPE_CHECKING:
    from jinja2 import Environment

_HERE = Path(__file__).parent
_QUESTION_COLUMNS = 160
"""Longer questions of examples are cut off."""
_LABEL_COLUMNS, _SHORT_LABEL_COLUMNS = 60, 24
_SHOWN_SOURCES = 200
"""More are only counted: in some pools every row has a source of its own."""
_SHOWN_LABELS = 20
"""Of a chosen row, and of the labels that no chosen row has."""
_SHOWN_FILES = 100
_NAMED_SOURCES = 3
"""Sources that the first sentence of a report names."""
_BY_KEY = {column.key: column for column in COLUMNS}
_COSTS = frozenset({"seconds", "memory_bytes"})
"""Columns that only a comparison has."""
_FED_TOKENS = (
    "Total tokens that training is fed for the rows, after the chat template and cutoff_len. Training time is "
    "proportional to it."
)
"""What the column of tokens means in a report, which has it where the tokens of every row were counted."""


def build_comparison_page(comparison: Comparison, svg: str) -> str:
    """Build the page of a comparison, which has no script.

    Args:
        comparison: What to show. Its texts may contain anything, as they are escaped.
        svg: Its picture, an ``<svg>`` element, inserted unchanged.
    """
    from markupsafe import Markup

    return _render(
        "comparison.html.jinja",
        comparison=comparison,
        columns=comparison.columns,
        shown_sources=comparison.all_sources[:_SHOWN_SOURCES],
        more_sources=len(comparison.all_sources[_SHOWN_SOURCES:]),
        picture=Markup(svg),
        settings_and_versions=[*_pairs(comparison.settings), *_pairs(comparison.versions)],
        mostly=MOSTLY_BLUE,
    )


def build_report_page(report: SelectionReport) -> str:
    """Build the page of a selection. Texts of the report may contain anything, as they are escaped.

    Its script finds rows and reads the label map out. The page allows no other script, by its hash, and no request.
    """
    from markupsafe import Markup

    script = (_HERE / "selection.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    curve, labels, this = report.curve, report.labels, report.this
    compared = [this, *report.others, report.all_rows]
    return _render(
        "selection.html.jinja",
        script=Markup(script),
        script_hash=f"sha256-{digest}",
        report=report,
        shown_labels=_SHOWN_LABELS,
        columns=[
            replace(column, meaning=_FED_TOKENS) if column.key == "tokens" else column
            for column in COLUMNS
            if column.key not in _COSTS and all(column.value(each) is not None for each in compared)
        ],
        lacks_tokens=this.tokens is not None and report.all_rows.tokens is None,
        sources=list(_largest_sources(report)),
        information_share=curve and curve.at_shares["100%"].information / (curve.pool_information or 1),
        tokens=(this.tokens, 0) if not this.tokens_error else round_to_error(this.tokens or 0, this.tokens_error),
        supervised=None if this.supervised_tokens is None else _BY_KEY["supervised_tokens"].text(this),
        curves=chart_curve(curve) if curve else [],
        map=chart_labels(labels) if labels and labels.map else None,
        distributions=[(each, chart_numbers(each) if each.is_numeric else None) for each in report.distributions],
        annotation=list(describe_annotation(report.annotation)) if report.annotation else [],
        settings=[
            *_pairs(report.settings),
            *_files(report),
            *_pairs(report.versions),
        ],
    )


def build_study_page(study: Study, svg: str) -> str:
    """Build the page of a study. Texts of the study may contain anything; `svg` must be safe markup."""
    from markupsafe import Markup

    return _render(
        "study.html.jinja",
        study=study,
        columns=STUDY_COLUMNS,
        picture=Markup(svg),
        settings=[*_pairs(study.settings), *_pairs(study.versions)],
    )


def _render(template: str, **values: Any) -> str:
    colours = {"ink": INK, "faint": FAINT, "paper": PAPER}
    return str(_environment().get_template(template).render({"script": None, "colours": colours, **values}))


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        shown=printable,
        shown_lines=lambda text: printable(text, keep="\n\t"),
        count="{:,}".format,
        plural=plural,
        length1="{:.1f}".format,
        percent=lambda share: f"{100 * share:.1f}",
        number=lambda value: significant(value, 4) if math.isfinite(value) else MISSING,
        question=lambda text: _on_one_line(text, _QUESTION_COLUMNS),
        label=lambda text: _on_one_line(text, _LABEL_COLUMNS),
        short_label=lambda text: _on_one_line(text, _SHORT_LABEL_COLUMNS),
    )
    return environment


def _on_one_line(text: str, width: int) -> str:
    return shorten(" ".join(text[: 10 * width].split()), width)


def _pairs(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        yield name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _files(report: SelectionReport) -> Iterator[tuple[str, str]]:
    """Yield name and hash of each file of the pool, as far as there is room."""
    for file in report.files[:_SHOWN_FILES]:
        yield f"{file['dataset']}: {file['file']}", f"sha256 {file['sha256']}"
    if others := len(report.files[_SHOWN_FILES:]):
        yield f"{others:,} more files", "in manifest.json"


def _largest_sources(report: SelectionReport) -> Iterator[tuple[str, int]]:
    """Yield name and number of rows of the datasets that the rows came from; the largest first."""
    ordered = sorted(report.this.sources.items(), key=lambda item: (-item[1], item[0]))
    yield from ordered[:_NAMED_SOURCES]
    if others := ordered[_NAMED_SOURCES:]:
        yield f"{len(others)} others", sum(rows for _, rows in others)
