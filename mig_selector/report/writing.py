"""Comparisons and reports as files: tables and JSON for programs, a picture and a page for people."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mig_selector.console import printable
from mig_selector.report.comparison import COLUMNS, Comparison, MethodFigures
from mig_selector.report.page import build_comparison_page, build_report_page, build_study_page
from mig_selector.report.picture import draw_png, draw_svg
from mig_selector.report.selection import SelectionReport
from mig_selector.report.selection_picture import draw_pictures
from mig_selector.report.study import STUDY_COLUMNS, Study
from mig_selector.report.study_picture import draw_study_png, draw_study_svg
from mig_selector.store.files import whole_file, write_json, write_text


PAGE, FIGURES = "report.html", "report.json"
"""Names of the report's files in the folder of a subset."""
_QUESTION_CHARACTERS = 1_000
"""Longer questions are cut off in the JSON."""


def write_comparison(folder: Path, comparison: Comparison) -> list[Path]:
    """Write a comparison; the same comparison gives the same bytes.

    Args:
        folder: Created if missing; existing files of the names below are replaced.
        comparison: What to write.

    Returns:
        The files: ``comparison.csv`` (one row per method), ``overlaps.csv`` (the matrix), ``sources.csv`` (one row per
        method and source), ``comparison.json`` (everything, texts unchanged), ``comparison.png``, ``comparison.html``.
    """
    tables = {"comparison.csv": _figures, "overlaps.csv": _overlaps, "sources.csv": _sources}
    for name, rows in tables.items():
        write_text(folder / name, _csv(rows(comparison)), follow_link=False)
    write_json(folder / "comparison.json", _everything(comparison))
    with whole_file(folder / "comparison.png") as stream:
        stream.write(draw_png(comparison))
    write_text(folder / "comparison.html", build_comparison_page(comparison, draw_svg(comparison)), follow_link=False)
    return [folder / name for name in (*tables, "comparison.json", "comparison.png", "comparison.html")]


def write_study(folder: Path, study: Study, record: Mapping[str, Any]) -> list[Path]:
    """Write a study; the same study gives the same bytes.

    Args:
        folder: Existing files of the names below are replaced.
        study: What to write.
        record: What study.json has of the plan; it stays as it is.

    Returns:
        The files: ``study.csv`` (one row per arm), ``study.json`` (the plan, then everything), ``study.png``,
        ``study.html``.
    """
    figures = {key: value for key, value in asdict(study).items() if key != "settings"}
    write_json(folder / "study.json", _finite({**record, "figures": figures}))
    write_text(folder / "study.csv", _csv(_arms(study)), follow_link=False)
    with whole_file(folder / "study.png") as stream:
        stream.write(draw_study_png(study))
    write_text(folder / "study.html", build_study_page(study, draw_study_svg(study)), follow_link=False)
    return [folder / f"study.{kind}" for kind in ("csv", "json", "png", "html")]


def _arms(study: Study) -> Iterator[list[Any]]:
    yield ["arm", *(column.key for column in STUDY_COLUMNS), "low", "high"]
    for each in study.arms:
        effect = each.effect
        values = {column.key: column.value(each) for column in STUDY_COLUMNS} | {
            "difference": effect.difference if effect else None
        }
        yield [each.arm, *values.values(), *((effect.low, effect.high) if effect else (None, None))]


def write_report(folder: Path, report: SelectionReport) -> list[Path]:
    """Write the report of a selection; the same report gives the same bytes.

    Args:
        folder: The folder of the subset; existing files of the names below are replaced.
        report: What to write.

    Returns:
        The files: ``report.json`` (every figure, texts unchanged) and ``report.html``.
    """
    write_json(folder / FIGURES, _finite(asdict(report)))
    write_text(folder / PAGE, build_report_page(report), follow_link=False)
    return [folder / FIGURES, folder / PAGE]


def write_pictures(folder: Path, report: SelectionReport) -> list[Path]:
    """Write the charts of a report as PNG and SVG; the same report gives the same bytes.

    Args:
        folder: The folder of the subset.
        report: What to draw.

    Returns:
        The files: ``report_information``, ``report_labels`` and ``report_distributions``, as far as these are known.
    """
    files = []
    for name, content in draw_pictures(report):
        files.append(folder / f"report_{name}")
        with whole_file(files[-1]) as stream:
            stream.write(content)
    return files


def _finite(value: Any) -> Any:
    """Return a value that JSON can hold: it has neither NaN nor infinity."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _figures(comparison: Comparison) -> Iterator[list[Any]]:
    yield ["method", *(column.key for column in COLUMNS), "folder", "note", "budget", "budget_unit"]
    asked = comparison.budget, comparison.unit
    for each in comparison.figures:
        yield [each.method, *(column.value(each) for column in COLUMNS), each.folder, each.note, *asked]


def _overlaps(comparison: Comparison) -> Iterator[list[Any]]:
    yield ["method", *comparison.methods]
    for method, shares in zip(comparison.methods, comparison.overlaps, strict=True):
        yield [method, *map(float, shares)]


def _sources(comparison: Comparison) -> Iterator[list[Any]]:
    yield ["method", "source", "rows"]
    for each in comparison.figures:
        for source in comparison.sources:
            yield [each.method, source, each.sources.get(source, 0)]


def _csv(rows: Iterable[list[Any]]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    for row in rows:
        writer.writerow([_escape_cell(cell) if isinstance(cell, str) else cell for cell in row])
    return stream.getvalue()


_FORMULA = re.compile(r"(^|[;,|])(\s*[=+\-@\uff1d\uff0b\uff0d\uff20])")
"""The beginning of a formula, in half or full width."""


def _escape_cell(text: str) -> str:
    """Escape control characters, and put an apostrophe where a spreadsheet would begin a formula.

    That is at the beginning, and after what a spreadsheet of another country takes for the end of a cell (``;``,
    ``|``); blanks before the sign do not matter, nor does its width.
    """
    return _FORMULA.sub(r"\1'\2", printable(text))


def _everything(comparison: Comparison) -> dict[str, Any]:
    return {
        "pool": comparison.pool,
        "budget": comparison.budget,
        "budget_unit": comparison.unit,
        "kept_rows": comparison.kept_rows,
        "read_rows": comparison.read_rows,
        "score": comparison.score,
        "tokenizer": comparison.tokenizer,
        "methods": [_method(figures) for figures in comparison.figures],
        "all_rows": None if comparison.all_rows is None else _measured(comparison.all_rows),
        "overlaps": [[float(share) for share in shares] for shares in comparison.overlaps],
        "settings": dict(comparison.settings),
        "versions": dict(comparison.versions),
    }


def _method(figures: MethodFigures) -> dict[str, Any]:
    return {
        "method": figures.method,
        **_measured(figures),
        "usable_rows": figures.usable_rows,
        "examples": [
            {"row_index": each.row_index, "question": each.question[:_QUESTION_CHARACTERS]}
            for each in figures.examples
        ],
        "folder": figures.folder,
        "note": figures.note,
    }


def _measured(figures: MethodFigures) -> dict[str, Any]:
    return {
        **{column.key: column.value(figures) for column in COLUMNS},
        "tokens_error": figures.tokens_error,
        "supervised_tokens_error": figures.supervised_tokens_error,
        "sources": dict(figures.sources),
    }
