"""The page and the pictures of a report: all figures are in them, and text from data is shown, never interpreted."""

import base64
import hashlib
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from report.pages import EVIL, REPORT, chosen_row, hostile

from mig_selector.report.comparison import MethodFigures
from mig_selector.report.page import build_report_page
from mig_selector.report.selection import LabelCount, Labels
from mig_selector.report.selection_picture import draw_pictures
from mig_selector.report.writing import write_pictures, write_report


pytestmark = pytest.mark.filterwarnings("error::UserWarning")  # matplotlib warns of letters that its font lacks

VOID = {"meta", "input"}
SHAPES = {"line", "circle", "polyline", "rect"}


class Page(HTMLParser):
    """A page as a browser reads it: its tags must be balanced."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.attributes, self.text, self._open = [], [], "", []
        self.script = ""
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        assert tag in SHAPES
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self._open.pop() == tag
        if tag in ("th", "td"):
            self.text += " "

    def handle_data(self, data):
        if self._open and self._open[-1] == "script":
            self.script += data
        elif not self._open or self._open[-1] != "style":
            self.text += data

    def values(self, attribute):
        return [value for name, value in self.attributes if name == attribute]


def page_of(report):
    return Page(build_report_page(report))


def words(text):
    return " ".join(text.split())


def test_the_sentence_comes_first_and_says_how_many_from_where_and_how_good():
    text = words(page_of(REPORT).text)
    sentence = (
        "40 of 200 rows (20.0%), selected by mig from alpha (30) and beta (10). They cover 5 of 6 labels and hold "
        "50.0% of the information of the whole pool. Their mean score (deita) is 4.500, against 3.000 in the pool. "
        "Their texts have about 12,300 tokens (\u00b1 300). Training takes 10 steps of 8 rows, 2 epochs, as planned "
        "when the rows were selected, on 2026-01-31."
    )
    assert sentence in text
    fed = replace(REPORT, this=replace(REPORT.this, supervised_tokens=6_123, supervised_tokens_error=120))
    assert (
        "With the template and cutoff_len of the run that selected them, training is fed about 12,300 tokens "
        "(\u00b1 300), ~6,100 of them with a loss. Training takes" in words(page_of(fed).text)
    )
    assert text.index(sentence) < 100


def test_what_says_nothing_is_left_out_of_the_sentence_and_one_is_singular():
    once = replace(REPORT.training, steps=1, rows_per_step=1)
    text = words(page_of(replace(REPORT, score="constant", training=once)).text)
    assert "of the whole pool. Their texts have" in text
    assert "Training takes 1 step of 1 row," in text


def test_long_lists_of_labels_are_cut_on_the_page_and_reasons_are_not():
    missing = [LabelCount(f"lost{number}", 1, 0, 0.0) for number in range(23)]
    reason = "not annotated: no label of the vocabulary is near (mig_label_min_similarity)"
    report = replace(REPORT, labels=replace(REPORT.labels, in_use=3, missing=missing), dropped={reason: 2})
    text = words(page_of(report).text)
    assert "lost19 1 and 3 more, in report.json" in text
    assert f"{reason} (2)." in text
    assert "All 3 labels; those of similar meaning" in text
    assert "The 3 most frequent of 6 labels;" in words(page_of(REPORT).text)


def test_every_part_is_on_the_page():
    page = page_of(REPORT)
    text = words(page.text)
    for heading in ("Information", "Labels", "Pool against selection", "Against other choices", "Rows", "How it was"):
        assert heading in text
    for figure in ("knee: 9", "80% 60 1.50", "99% more", "wanted 12 20 3.00", "unwanted 0 40 0.00", "lost 7"):
        assert figure in text
    for row in (*REPORT.first_rows, *REPORT.sampled_rows):
        assert words(row.question) in text
        assert words(row.answer) in text
    assert "Earned by: algebra 75.0% logic 25.0%" in text
    assert "0 What is 0 + 0? Row 1,000 of the pool: pool.jsonl:1, id id0." in text
    assert "3 labels of the pool do not count" in text
    assert "Nearest row that lost to it: row 1,017 of the pool, with a gain of 0.4000." in text
    health = (
        "1,200 rows needed labels or scores; mig_sidecar had those of 200.",
        "3 of these got none and could not be chosen: no question (3).",
        "Languages of 294 questions drawn at random: en (290), fr (4).",
        "A row has 2.5 labels on average, of 40 different ones. The most frequent: algebra (100), logic (90).",
        "Rows with rare labels only, which do not count (mig_min_label_count): 1.",
        "Of 900 different tags that the tagger wrote, there are 80 once rare ones are left out, 60 once",
        "500 rows went to the teacher, of which 2 failed; the other rows got the 38 labels learnt from these.",
        "Labels that stand for the most tags: algebra (also for algebras, linear equations).",
        "On 50 held-out rows, the F1 is 0.71 over all labels (micro; 0.20 if every row got the most frequent ones)",
        "Scores (deita) are from 11.72 to 30.00, 15.20 on average.",
        "For 40 of 40 texts the complexity model would rather write something else than a score from 1 to 6.",
    )
    assert "the quality model" not in text
    for annotated in (*health, "7 Solve x + 1 = 2. algebra 3.500", "11 And now?"):
        assert annotated in text
    assert REPORT.command in text
    assert all(note in text for note in REPORT.notes)


def test_what_is_not_known_is_left_out():
    nothing = MethodFigures("random", 40, None, None, None, None, None, None, {"alpha": 40}, "")
    bare = replace(
        REPORT, score=None, tokenizer=None, training=None, annotation=None, annotated_rows=[], curve=None, labels=None,
        distributions=[], this=nothing, others=[], all_rows=nothing, sampled_rows=[],
        first_rows=[chosen_row(0, earned=(), gain=None, score=None)],
    )  # fmt: skip
    text = words(page_of(bare).text)
    assert "40 of 200 rows (20.0%), selected by mig from alpha. Information" not in text
    assert "selected by mig from alpha." in text
    for absent in ("tokens (", "knee", "Ratio", "Pool against selection", "steps", "None", "nan"):
        assert absent not in text


def test_the_page_asks_for_nothing_and_allows_no_script_but_its_own():
    html = build_report_page(REPORT)
    page = Page(html)
    assert not {"link", "img", "iframe", "object", "base", "embed"} & set(page.tags)
    assert not {name for name, _ in page.attributes} & {"src", "srcset", "xlink:href", "data"}
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert all(target.startswith("#") for target in page.values("href"))
    assert not re.search(r"url\(|@import|https?://", html)
    policy = page.values("content")[0]
    digest = base64.b64encode(hashlib.sha256(page.script.encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


def test_names_within_the_page_are_unique_and_lead_somewhere():
    page = page_of(REPORT)
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    assert {target[1:] for target in page.values("href")} <= set(ids)
    assert set(page.values("aria-labelledby")) <= set(ids)


def test_hostile_text_stays_text():
    plain, evil = page_of(REPORT), page_of(hostile())
    assert evil.script == plain.script
    assert set(evil.tags) == set(plain.tags) | {"small"}  # the note of a method
    assert {name for name, _ in evil.attributes} == {name for name, _ in plain.attributes}
    assert "<script>alert(1)</script>" in evil.text
    assert "{{ 7 * 7 }}" in evil.text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", evil.text)
    assert r"\u202e" in evil.text


def test_a_page_with_as_much_as_there_can_be_is_below_3_mb():
    earned = [("'\u202e" * 10_000, 1e-3)] * 1_000
    rows = [
        chosen_row(rank, question="&'\u202e" * 166, answer="\U0001f642" * 500, earned=earned) for rank in range(100)
    ]
    label = replace(REPORT.labels.map[0], count=replace(REPORT.labels.map[0].count, name="'\u202e" * 10_000))
    labels = replace(REPORT.labels, map=[label] * 400, edges=[(0, 1)] * 5_000)
    html = build_report_page(
        replace(REPORT, first_rows=rows, sampled_rows=rows, labels=labels, files=REPORT.files * 9_999)
    )
    assert 500_000 < len(html.encode()) < 3_000_000
    assert "and 980 more" in html
    assert "9,899 more files" in html


def test_the_files_say_the_same_as_the_report_and_are_the_same_again(tmp_path):
    write_report(tmp_path, replace(REPORT, this=replace(REPORT.this, mean_score=math.nan)))
    found = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert found["this"]["mean_score"] is None
    assert found["curve"]["rows_needed"] == {"80%": 60, "90%": 100, "95%": 150, "99%": None}
    assert found["labels"]["map"][0]["count"] == {"name": "algebra", "pool": 100, "chosen": 20, "ratio": 1.0}
    assert found["first_rows"][0]["earned"] == [["algebra", 0.75], ["logic", 0.25]]
    before = [file.read_bytes() for file in write_report(tmp_path, REPORT)]
    assert [file.read_bytes() for file in write_report(tmp_path, REPORT)] == before


@pytest.mark.parametrize("report", [REPORT, hostile()], ids=["plain", "hostile"])
def test_pictures_are_png_and_svg_and_the_same_again(tmp_path, report):
    files = write_pictures(tmp_path, report)
    names = [f"report_{name}.{kind}" for name in ("information", "labels", "distributions") for kind in ("png", "svg")]
    assert [file.name for file in files] == names
    for file in files:
        if file.suffix == ".png":
            assert file.read_bytes().startswith(b"\x89PNG")
        else:
            ElementTree.parse(file)
    if report is REPORT:
        assert [content for _, content in draw_pictures(report)] == [file.read_bytes() for file in files]


def test_the_pictures_of_a_report_without_a_graph_are_those_of_its_distributions(tmp_path):
    flat = Labels(in_use=1, covered=1, not_counted=0, over=[], under=[], missing=[], map=[], edges=[])
    files = write_pictures(tmp_path, replace(REPORT, curve=None, labels=flat))
    assert [file.name for file in files] == ["report_distributions.png", "report_distributions.svg"]


def test_a_map_and_its_names_stay_within_the_picture():
    page = page_of(REPORT)
    dots = [dict(attributes) for attributes in _tags(REPORT, "circle") if "aria-label" in dict(attributes)]
    assert len(dots) == len(REPORT.labels.map)
    assert sorted(dot["tabindex"] for dot in dots) == ["-1"] * (len(dots) - 1) + ["0"]
    assert all(0 < float(dot["cx"]) < 900 and 0 < float(dot["cy"]) < 520 for dot in dots)
    assert "algebra: 20 of 100 rows chosen, 1.00 times as many as at random" in page.values("aria-label")
    assert EVIL


def _tags(report, wanted):
    found = []

    class Tags(HTMLParser):
        def handle_starttag(self, tag, attrs):
            found.extend([attrs] if tag == wanted else [])

    Tags().feed(build_report_page(report))
    return found
