"""A comparison as a single self-contained HTML file: no script, no network, light and dark mode, print layout."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from mig_selector.console import printable
from mig_selector.report.comparison import COLUMNS, Comparison, describe_error, shorten
from mig_selector.report.picture import FAINT, INK, MOSTLY_BLUE, PAPER


_TEMPLATE = "comparison.html.jinja"
_QUESTION_COLUMNS = 160
"""Longer questions of examples are cut off."""
_SHOWN_SOURCES = 200
"""More are only counted: in some pools every row has a source of its own."""


def build_page(comparison: Comparison, svg: str) -> str:
    """Build the page of a comparison.

    Args:
        comparison: What to show. Its texts may contain anything, as they are escaped.
        svg: Its picture, an ``<svg>`` element, inserted unchanged.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        shown=printable, count="{:,}".format, percent=lambda share: f"{100 * share:.1f}", question=_on_one_line
    )
    return environment.get_template(_TEMPLATE).render(
        comparison=comparison,
        columns=COLUMNS,
        shown_sources=comparison.all_sources[:_SHOWN_SOURCES],
        more_sources=len(comparison.all_sources[_SHOWN_SOURCES:]),
        tokens_error=describe_error(comparison.all_rows),
        picture=Markup(svg),
        random_overlap=comparison.budget / comparison.kept_rows,
        settings_and_versions=list(_settings_and_versions(comparison)),
        ink=INK,
        faint=FAINT,
        paper=PAPER,
        mostly=MOSTLY_BLUE,
    )


def _on_one_line(text: str) -> str:
    return shorten(" ".join(text[: 10 * _QUESTION_COLUMNS].split()), _QUESTION_COLUMNS)


def _settings_and_versions(comparison: Comparison) -> Iterator[tuple[str, str]]:
    for name, value in (*comparison.settings.items(), *comparison.versions.items()):
        yield name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
