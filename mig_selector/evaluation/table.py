"""The table of models and benchmarks: as text, CSV and JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import zip_longest

from mig_selector.console import plural
from mig_selector.evaluation.columns import AVERAGES, BY_NAME, COLUMNS, averages
from mig_selector.evaluation.intervals import percentile_interval
from mig_selector.evaluation.results import Result


@dataclass(frozen=True)
class Cell:
    """A figure of the table."""

    model: str
    column: str
    score: float
    low: float
    high: float
    num_items: int | None
    """None for an average."""
    is_whole: bool
    num_failed: int = 0
    """Verdicts of the judge that could not be used."""


_ORDER = (
    *(column.name for column in COLUMNS if column.group == "objective"),
    "avg_obj",
    *(column.name for column in COLUMNS if column.group == "judged"),
    "avg_sub",
    "avg",
)
_TITLES = {**{name: column.title for name, column in BY_NAME.items()}, **AVERAGES}


def make_cells(model: str, results: Iterable[Result]) -> list[Cell]:
    """Return the figures of a model: its results, and those averages that nothing is missing from."""
    results = list(results)
    cells = {
        result.column: Cell(
            model=model,
            column=result.column,
            score=result.score,
            low=result.low,
            high=result.high,
            num_items=result.num_items,
            is_whole=result.is_whole,
            num_failed=result.num_failed,
        )
        for result in results
    }
    whole = [result for result in results if result.is_whole]
    draws = averages({result.column: result.draws for result in whole})
    for name, score in averages({result.column: result.score for result in whole}).items():
        cells[name] = Cell(model, name, score, *percentile_interval(draws[name]), None, is_whole=True)
    return [cells[name] for name in _ORDER if name in cells]


def render_text(rows: Mapping[str, list[Cell]]) -> str:
    """Return the table for a terminal: two lines a model, the scores and their 95 % intervals."""
    lines = [["model", *(_TITLES[name] for name in _ORDER)]]
    for model, cells in rows.items():
        by_name = {cell.column: cell for cell in cells}
        found = [by_name.get(name) for name in _ORDER]
        lines.append(
            [model, *("" if cell is None else f"{cell.score:.2f}{'' if cell.is_whole else '*'}" for cell in found)]
        )
        lines.append(["", *("" if cell is None else f"{cell.low:.1f}..{cell.high:.1f}" for cell in found)])
    widths = [max(map(len, column)) for column in zip_longest(*lines, fillvalue="")]
    padded = (
        [word.ljust(width) if position == 0 else word.rjust(width) for position, (word, width) in enumerate(cells)]
        for cells in (zip(line, widths, strict=True) for line in lines)
    )
    text = "\n".join("  ".join(words).rstrip() for words in padded)
    cells = [cell for row in rows.values() for cell in row]
    notes = ["* a part of the benchmark's questions; no average has it"] * any(not cell.is_whole for cell in cells)
    for cell in cells:
        if cell.num_failed:
            what = f"{_TITLES[cell.column]} of {cell.model}"
            notes.append(
                f"{what}: without the questions of {plural(cell.num_failed, 'verdict')} that could not be read"
            )
    return "\n".join([text, *notes])


def render_csv(rows: Mapping[str, list[Cell]]) -> str:
    """Return one line for each figure."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(Cell.__dataclass_fields__), lineterminator="\n")
    writer.writeheader()
    writer.writerows(as_records(rows))
    return stream.getvalue()


def as_records(rows: Mapping[str, list[Cell]]) -> list[dict[str, object]]:
    """Return the figures as JSON takes them."""
    return [asdict(cell) for cells in rows.values() for cell in cells]
