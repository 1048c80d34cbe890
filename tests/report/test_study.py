"""The page, the tables and the picture of a study."""

import csv
import json
from dataclasses import replace

import pytest
from report.pages import EVIL
from report.test_page import Page

from mig_selector.report.page import build_study_page
from mig_selector.report.study import ArmFigures, Difference, Group, Study, format_study
from mig_selector.report.writing import write_study


pytestmark = pytest.mark.filterwarnings("error::UserWarning")

BETTER, UNCLEAR = Difference(-0.02, -0.03, -0.01), Difference(0.004, -0.003, 0.011)
STUDY = Study(
    pool="pool",
    primary="loss per token",
    budget="1,200 supervised tokens",
    match="tokens",
    held_out="held out: 24 answers",
    confidence=0.975,
    arms=[
        ArmFigures("base", 1, 1, [2.5], effect=Difference(0.8, 0.7, 0.9), smallest=0.1),
        ArmFigures("random", 5, 5, [1.7, 1.71, 1.69, 1.7, 1.7], 40.2, 1200.0, 3000.0, 20, 3.0, 60.0),
        ArmFigures("mig", 3, 3, [1.68] * 3, 31, 1190, 2900, 20, 3.1, 40.0, BETTER, 0.012, "better"),
        ArmFigures("longest", 2, 3, [1.7, 1.71], 9, 1195, 1900, 20, 2.9, 40.0, UNCLEAR, 0.012, None),
    ],
    groups=[Group("source", "flan", 12, {"base": 2.6, "random": 1.8, "mig": 1.7}, {"mig": BETTER})],
    warnings=["longest has no row of flan"],
    settings={"--methods": ["mig", "longest"], "model_name_or_path": "tiny"},
    command="mig-selector study --methods mig,longest",
    versions={"numpy": "2.0"},
)


def test_the_table_has_a_line_for_each_arm_and_what_to_bear_in_mind():
    lines = format_study(STUDY).splitlines()
    assert lines[0] == (
        "pool: each training sees about 3,600 supervised tokens in 20 optimizer steps "
        "(at most 1,200 supervised tokens chosen)"
    )
    [mig] = [line for line in lines if line.startswith("mig ")]
    assert mig.split() == [
        *("mig", "3/3", "31", "1,190", "20", "3,689", "1.6800"),
        *("-0.0200", "(-0.0300", "to", "-0.0100)", "0.0120", "better"),
    ]
    assert lines[-1] == "longest has no row of flan"
    assert "intervals: 97.5 %" in lines


def test_the_headline_gives_a_range_where_trainings_see_different_amounts():
    arms = [replace(each, passes=3.6) if each.arm == "mig" else each for each in STUDY.arms]
    assert "each training sees 3,466 to 4,284 supervised tokens in 20 optimizer steps" in format_study(
        replace(STUDY, arms=arms)
    )


def test_files_hold_the_same_figures_and_the_plan_stays_as_it_was(tmp_path):
    record = {"fingerprint": "f", "fixed_at": "then", "plan": {"primary": "x"}, "settings": {}, "figures": None}
    files = write_study(tmp_path, STUDY, record)
    assert [file.name for file in files] == ["study.csv", "study.json", "study.png", "study.html"]
    known = json.loads((tmp_path / "study.json").read_text())
    assert {key: known[key] for key in ("fingerprint", "fixed_at", "plan")} == {
        key: record[key] for key in ("fingerprint", "fixed_at", "plan")
    }
    assert known["figures"]["arms"][2]["effect"] == {"difference": -0.02, "low": -0.03, "high": -0.01}
    rows = {row["arm"]: row for row in csv.DictReader((tmp_path / "study.csv").open())}
    assert (rows["mig"]["difference"], rows["mig"]["high"], rows["mig"]["verdict"]) == ("-0.02", "-0.01", "better")
    assert rows["random"]["low"] == ""
    before = [file.read_bytes() for file in files]
    assert [file.read_bytes() for file in write_study(tmp_path, STUDY, record)] == before


def test_the_page_gives_verdicts_warnings_and_parts():
    text = " ".join(Page(build_study_page(STUDY, "<svg></svg>")).text.split())
    assert "mig: better, -0.0200 (-0.0300 to -0.0100) Before you rely on it" in text
    assert "longest: " not in text  # no verdict before its last run
    assert "longest has no row of flan" in text
    assert "1.7000-0.0200 (-0.0300 to -0.0100)" in text
    assert (
        "each training sees about 3,600 supervised tokens in 20 optimizer steps (at most 1,200 supervised tok" in text
    )
    assert "repeats the study, or continues it, from the folder in which it was started: mig-selector study" in text
    assert "numpy 2.0" in text
    assert "No run is finished yet" not in text


def test_what_could_have_been_seen_is_said_where_no_difference_was():
    arms = [replace(each, verdict="no difference seen") if each.arm == "longest" else each for each in STUDY.arms]
    text = " ".join(Page(build_study_page(replace(STUDY, arms=arms), "<svg></svg>")).text.split())
    assert (
        "longest: no difference seen, +0.0040 (-0.0030 to +0.0110); a difference of 0.0120 or more would have been "
        "seen with a chance of 80 %"
    ) in text
    assert text.count("would have been seen") == 1


def test_a_page_before_the_first_run_says_what_is_planned():
    arms = [replace(each, runs=0, losses=[], effect=None, verdict=None) for each in STUDY.arms]
    by_rows = replace(STUDY, arms=arms, groups=[], match="rows", budget="40 rows")
    text = " ".join(Page(build_study_page(by_rows, "<svg></svg>")).text.split())
    assert "each training takes 20 optimizer steps on 40 rows chosen; the tokens that it sees differ" in text
    assert "No run is finished yet: this is the plan." in text
    assert "None yet: runs are missing, or a training diverged." in text


def test_hostile_names_stay_text(tmp_path):
    arms = [replace(each, arm=f"{each.arm}{evil}") for each, evil in zip(STUDY.arms, EVIL, strict=False)]
    arms[1] = STUDY.arms[1]
    group = Group("label", "".join(EVIL[:5]), 12, {}, {})
    evil = replace(STUDY, pool="".join(EVIL), arms=arms, groups=[group], warnings=EVIL, settings={EVIL[0]: EVIL[1]})
    page, plain = (Page(build_study_page(each, "<svg></svg>")) for each in (evil, STUDY))
    assert set(page.tags) <= set(plain.tags)
    assert "<script>alert(1)</script>" in page.text
    write_study(tmp_path, evil, {})
