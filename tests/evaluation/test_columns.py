"""The arithmetic of the paper's table, and the intervals of its cells."""

import numpy as np
import pytest

from mig_selector.evaluation.columns import COLUMNS, averages
from mig_selector.evaluation.intervals import bootstrap, percentile_interval, wilson
from mig_selector.evaluation.results import write_result
from mig_selector.evaluation.table import make_cells, render_csv, render_text


PAPER = """
Pool    69.15 63.88 83.40 63.41 65.77 67.10 68.79  8.94 6.86 -24.66 38.40 53.59
Random  74.24 64.80 70.36 51.22 63.86 61.00 64.25  8.57 7.06 -22.15 39.36 51.81
ZIP     77.63 63.00 52.54 35.98 65.00 61.00 59.19  6.71 6.64 -32.10 35.69 47.44
IFD     75.93 63.56 61.03 49.39 64.39 53.60 61.32 12.30 7.03 -20.20 40.83 51.08
#InsTag 72.54 64.80 69.83 48.17 63.50 65.99 64.14  6.58 6.84 -20.70 38.21 51.17
DEITA   78.98 66.11 74.07 49.39 64.00 64.33 66.15 10.19 6.83 -19.95 39.50 52.83
CaR     78.98 69.04 71.42 52.44 65.15 56.75 65.63 12.55 6.95 -20.67 40.57 53.10
QDIT    79.66 65.42 70.74 53.05 65.06 57.30 65.21 15.78 6.76 -20.56 41.03 53.12
MIG     80.00 66.39 72.02 57.93 64.44 65.06 67.64 14.66 7.32 -17.77 42.99 55.32
"""
"""The published table: six objective columns and their average, three judged ones and theirs, and the mean of both."""


@pytest.mark.parametrize("row", PAPER.strip().splitlines(), ids=lambda row: row.split()[0])
def test_the_averages_of_the_paper_come_out(row):
    cells = [float(cell) for cell in row.split()[1:]]
    scores = dict(zip([column.name for column in COLUMNS], [*cells[:6], *cells[7:10]], strict=True))
    means = averages(scores)
    # The published averages are rounded, some of them from scores with more digits than the table shows.
    assert means == {
        "avg_obj": pytest.approx(cells[6], abs=0.0051),
        "avg_sub": pytest.approx(cells[10], abs=0.0051),
        "avg": pytest.approx(cells[11], abs=0.0051),
    }


def test_no_average_is_made_of_a_part_of_its_columns():
    objective = {column.name: 50.0 for column in COLUMNS if column.group == "objective"}
    assert averages({}) == {}
    assert averages(objective) == {"avg_obj": 50.0}
    assert averages({name: 50.0 for name in list(objective)[:5]}) == {}


def test_the_interval_of_a_share_is_wilsons():
    # Worked by hand from the formula; the values are those of R's prop.test(correct = FALSE).
    assert wilson(8, 10) == pytest.approx((0.4901625, 0.9433178), abs=1e-6)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611252), abs=1e-6)
    assert wilson(236, 295)[0] == pytest.approx(0.7506, abs=1e-4)  # ARC's 80.00


def test_bootstrap_draws_within_subsets_and_weighs_them_equally():
    always, half = np.ones(400), np.array([0.0, 1.0] * 50)
    draws = bootstrap([always, half], seed=0)
    assert draws.mean() == pytest.approx(0.75, abs=0.005)
    # Only the second subset varies: the standard error of its mean, 0.05, is halved.
    assert draws.std() == pytest.approx(0.025, abs=0.002)
    low, high = percentile_interval(draws)
    assert (low, high) == pytest.approx((0.70, 0.80), abs=0.01)
    assert (bootstrap([half], seed=3) == bootstrap([half], seed=3)).all()


def test_the_interval_of_an_average_takes_columns_for_independent(tmp_path):
    results = []
    for column in COLUMNS[:6]:
        items = [{"subset": "", "id": number, "answer": "", "score": number % 2} for number in range(column.num_items)]
        results.append(write_result(tmp_path / "result.json", column.name, {"model": 1}, items))
    cells = {cell.column: cell for cell in make_cells("m", results)}
    assert set(cells) == {"arc", "bbh", "gsm8k", "humaneval", "mmlu", "ifeval", "avg_obj"}
    # Of a share of a half the standard error is 50 / sqrt(n) percent; that of the mean of six is a sixth of the root
    # of the sum of squares, 0.91.
    half_width = 1.96 * 50 / 6 * sum(1 / column.num_items for column in COLUMNS[:6]) ** 0.5
    average = cells["avg_obj"]
    assert (average.high - average.low) / 2 == pytest.approx(half_width, rel=0.06)
    assert average.score == pytest.approx(50, abs=0.1)
    text = render_text({"m": list(cells.values())})
    titles = " ".join(text.splitlines()[0].split())
    assert titles == "model ARC BBH GSM HE MMLU IFEval Avg_obj AE MT Wild Avg_sub Avg"
    assert "*" not in text
    assert render_csv({"m": list(cells.values())}).splitlines()[-1].startswith("m,avg_obj,")


def test_the_whole_table_has_all_averages_with_intervals(tmp_path):
    """Constant items: AE 100, MT 6, Wild -50 make Avg_sub (100 + 60 + 25) / 3."""
    values = {"alpacaeval": 1.0, "mtbench": 6.0, "wildbench": -0.5}
    results = []
    for column in COLUMNS:
        score = values.get(column.name, 1.0)
        items = [{"subset": "", "id": n, "answer": "", "score": score} for n in range(column.num_items)]
        results.append(write_result(tmp_path / "result.json", column.name, {"model": 1}, items))
    cells = {cell.column: cell for cell in make_cells("m", results)}
    assert (cells["mtbench"].score, cells["wildbench"].score) == (6.0, -50.0)
    assert (cells["wildbench"].low, cells["wildbench"].high) == (-50.0, -50.0)
    assert cells["avg_sub"].score == pytest.approx(185 / 3)
    assert cells["avg"].score == pytest.approx((100 + 185 / 3) / 2)
    assert cells["avg"].low == pytest.approx(cells["avg"].high)
    assert "*" not in render_text({"m": list(cells.values())})
