"""A comparison in all its forms: what is read back is what was given; text from data is shown, never interpreted."""

import csv
import json
import re
import struct
import subprocess
import sys
import unicodedata
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import matplotlib as mpl
import pytest
from support import ROOT

from mig_selector.report.comparison import COLUMNS, Comparison, Example, MethodFigures, format_table
from mig_selector.report.picture import FAINT, INK
from mig_selector.report.writing import _csv, write_comparison


pytestmark = pytest.mark.filterwarnings("error::UserWarning")  # matplotlib warns of letters that its font lacks

SVG = "{http://www.w3.org/2000/svg}"


def method_figures(method, **changes):
    figures = MethodFigures(
        method=method,
        rows=2000,
        seconds=1235.6,
        memory_bytes=3 * 2**30,
        information=5678.25,
        label_coverage=0.875,
        mean_score=4.5,
        tokens=1_200_300,
        sources={"code": 500, "math": 1500},
        folder=f"/data/{method}",
    )
    return replace(figures, **changes)


def compared(*figures, **changes):
    size = range(len(figures))
    comparison = Comparison(
        pool="tulu",
        budget=2000,
        kept_rows=8000,
        read_rows=8200,
        score="deita",
        tokenizer="llama",
        figures=figures,
        overlaps=[[1.0 if a == b else 1 / (2 + a + b) for b in size] for a in size],
        settings={"mig_num_samples": 2000, "mig_labels": "a.b"},
        versions={"numpy": "1.26.4"},
    )
    return replace(comparison, **changes)


NOTHING = {"memory_bytes": None, "information": None, "label_coverage": None, "mean_score": None, "tokens": None}
OF_NO_TRAINING = dict.fromkeys(("supervised_tokens", "supervised_tokens_error", "steps"))
MIG = method_figures("mig", note="1,203 rows filled up by score")
RANDOM = method_figures("random", seconds=0.02, sources={"math": 2000}, **NOTHING)
ONE, TWO = compared(MIG), compared(MIG, RANDOM)
FULL = compared(
    replace(MIG, usable_rows=8000, examples=[Example(1_234, "What is 2 + 2?\n\nExplain."), Example(7, "Why?" * 100)]),
    replace(RANDOM, usable_rows=8200, seconds=None),
    all_rows=method_figures(
        "all rows",
        rows=8000,
        seconds=None,
        memory_bytes=None,
        label_coverage=1.0,
        tokens=3_512_345,
        tokens_error=61_234,
        sources={"math": 5000, "code": 2000, "law": 1000},
        folder="",
    ),
)
"""With everything that a comparison of today has."""
BY_TOKENS = compared(
    method_figures("mig", supervised_tokens=499_900, steps=125),
    method_figures("longest", rows=300, tokens=700_300, supervised_tokens=499_990, steps=19),
    all_rows=method_figures(
        "all rows",
        **{"rows": 8000, "seconds": None, "memory_bytes": None, "tokens": 3_512_345, "supervised_tokens": 2_000_000},
        **{"steps": 500, "folder": ""},
    ),
    budget=500_000,
    unit="supervised tokens",
)
"""With a budget of tokens, from the configuration of a training."""
TEN = compared(*(method_figures(f"method_{n}", sources={f"s{i:02}": 100 - i for i in range(20)}) for n in range(10)))

EVIL = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "\"' onmouseover='alert(1)",
    "--> ]]> </style></svg></title><b>",
    "{{ 7 * 7 }}{% raw %}",
    "\x1b[2J\x00\r\n\u202egnp\u2066\x85",
    "$x^2$ \\frac{1}{2}",
    "_hidden in a legend",
    "答え 🙂 עברית العربية é",
    "half a pair \udcff",
    "e" + "\u0301" * 5000,
    "long" * 5000,
    "",
    "=HYPERLINK('http://evil')",
]
SOURCES = {text: 100 + index % 2 for index, text in enumerate(EVIL)}
"""Half of the texts name methods. The others name the larger sources, which the picture shows by name."""
HOSTILE = compared(
    *(
        method_figures(
            text, folder=f"/data/\udcff{text}", note=text, sources=SOURCES, usable_rows=1, examples=[Example(0, text)]
        )
        for text in EVIL[::2]
    ),
    **dict.fromkeys(("pool", "score", "tokenizer"), "".join(EVIL[:10])),
    settings={text: text for text in EVIL[:10]},
    all_rows=method_figures("all rows", sources=SOURCES, tokens_error=1),
)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Return a function that writes a comparison, once for all tests, and returns the folder."""
    folders = {}

    def write(comparison):
        if id(comparison) not in folders:
            folders[id(comparison)] = tmp_path_factory.mktemp("comparison")
            write_comparison(folders[id(comparison)], comparison)
        return folders[id(comparison)]

    return write


class Page(HTMLParser):
    """A page as a browser reads it: tags, which must be balanced, attributes, texts, and tables by class."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.attributes, self.texts, self.tables, self._open = [], [], [], {}, []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag != "meta":
            self._open.append(tag)
        if tag == "table":
            self._rows = self.tables[dict(attrs)["class"]] = []
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("th", "td"):
            self._rows[-1].append("")

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)
        if {"th", "td"} & set(self._open):
            self._rows[-1][-1] += data


def svg_of(folder):
    page = (folder / "comparison.html").read_text(encoding="utf-8")
    return ElementTree.fromstring(page[page.index("<svg") : page.index("</svg>") + len("</svg>")])


def panel(folder, number):
    return svg_of(folder).find(f".//*[@id='axes_{number}']")


def texts_in(element):
    return [text.text for text in element.iter(f"{SVG}text")]


def widths_of(element, colour):
    """Return the widths of the boxes of a colour, in drawing order."""
    boxes = [path.get("d") for path in element.iter(f"{SVG}path") if f"fill: {colour}" in path.get("style")]
    corners = [[float(x) for x in re.findall(r"[ML] (\S+)", box)] for box in boxes]
    return [max(xs) - min(xs) for xs in corners]


def csv_rows(path):
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.reader(stream))


def test_the_table_for_a_terminal_is_aligned_and_marks_unknown_figures():
    assert format_table(TWO).split("\n") == [
        "tulu: 2,000 of 8,000 rows (8,200 read)",
        "",
        "method   rows      E(D)  labels (%)  mean score     tokens  time (s)  memory (MiB)",
        "----------------------------------------------------------------------------------",
        "mig     2,000  5,678.25        87.5       4.500  1,200,300     1,236         3,072",
        "random  2,000         -           -           -          -    0.0200             -",
        "",
        "score: deita",
        "tokens: counted with llama, in the text of the rows",
        "mig: 1,203 rows filled up by score",
    ]


def test_the_table_for_a_terminal_ends_with_all_rows_and_says_what_is_estimated():
    lines = format_table(FULL).split("\n")
    assert lines[2:7] == [
        "method     rows      E(D)  labels (%)  mean score      tokens  time (s)  memory (MiB)",
        "-------------------------------------------------------------------------------------",
        "mig       2,000  5,678.25        87.5       4.500   1,200,300     1,236         3,072",
        "random    2,000         -           -           -           -         -             -",
        "all rows  8,000  5,678.25       100.0       4.500  ~3,510,000         -             -",
    ]
    assert lines[8:10] == [
        "rows: all methods choose from the 8,000 rows that every one of them can use (alone: mig 8,000, random 8,200)",
        "score: deita",
    ]
    counted = "tokens: counted with llama, in the text of the rows; all rows: +- 70,000, from a random sample"
    assert lines[10] == counted


def test_a_budget_of_tokens_is_said_in_tokens_with_the_rows_and_steps_of_each_method(written):
    lines = format_table(BY_TOKENS).split("\n")
    assert [lines[0], lines[2], *lines[4:7]] == [
        "tulu: 500,000 supervised tokens from 8,000 rows (8,200 read)",
        "method     rows      E(D)  labels (%)  mean score     tokens  supervised  steps  time (s)  memory (MiB)",
        "mig       2,000  5,678.25        87.5       4.500  1,200,300     499,900    125     1,236         3,072",
        "longest     300  5,678.25        87.5       4.500    700,300     499,990     19     1,236         3,072",
        "all rows  8,000  5,678.25        87.5       4.500  3,512,345   2,000,000    500         -             -",
    ]
    assert "tokens: counted with llama, as training is fed them, with its template and cutoff_len" in lines
    folder = written(BY_TOKENS)
    assert [row[-2:] for row in csv_rows(folder / "comparison.csv")][1:] == [["500000", "supervised tokens"]] * 2
    page = Page(folder / "comparison.html")
    assert [row[7] for row in page.tables["figures"]] == ["steps", "125", "19", "500"]
    text = " ".join(" ".join(page.texts).split())
    assert "asked for 500,000 supervised tokens from 8,000 eligible rows" in text
    assert "Two random selections would share about 25.0 of 100." in text
    assert page.tags.count("dt") == len(COLUMNS)
    assert "rows" in texts_in(svg_of(folder))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.00123, "0.00123"),
        (0.000012, "1.2e-05"),
        (9.996, "10.00"),
        (99.94, "99.9"),
        (432.1, "432"),
        (86400.0, "86,400"),
        (1e300, "1e+300"),
        (float("nan"), "-"),
        (float("inf"), "-"),
    ],
)
def test_seconds_are_shown_with_three_significant_digits(value, text):
    seconds = next(column for column in COLUMNS if column.key == "seconds")
    assert seconds.text(method_figures("mig", seconds=value)) == text


def test_no_name_makes_the_table_wider_or_adds_lines():
    def columns(line):
        marks = sum(unicodedata.category(char) == "Mn" for char in line)
        return len(line) + sum(unicodedata.east_asian_width(char) in "WF" for char in line) - marks

    lines = format_table(HOSTILE).split("\n")
    assert len({columns(line) for line in lines[2 : 4 + len(EVIL[::2])]}) == 1
    assert max(map(columns, lines[: 4 + len(EVIL[::2])])) <= 120
    assert all(char.isprintable() for line in lines for char in line)
    assert sum(map(len, lines)) < 10_000


def test_the_csv_tables_hold_every_figure_unrounded(written):
    folder = written(TWO)
    assert csv_rows(folder / "comparison.csv") == [
        ["method", *(column.key for column in COLUMNS), "folder", "note", "budget", "budget_unit"],
        [
            *("mig", "2000", "5678.25", "0.875", "4.5", "1200300", "", "", "1235.6", str(3 * 2**30), "/data/mig"),
            *(MIG.note, "2000", "rows"),
        ],
        ["random", "2000", "", "", "", "", "", "", "0.02", "", "/data/random", "", "2000", "rows"],
    ]
    assert csv_rows(folder / "overlaps.csv") == [
        ["method", "mig", "random"],
        ["mig", "1.0", repr(1 / 3)],
        ["random", repr(1 / 3), "1.0"],
    ]
    assert csv_rows(folder / "sources.csv") == [
        ["method", "source", "rows"],
        ["mig", "math", "1500"],
        ["mig", "code", "500"],
        ["random", "math", "2000"],
        ["random", "code", "0"],
    ]


def test_the_json_holds_everything(written):
    assert json.loads((written(TWO) / "comparison.json").read_text()) == {
        "pool": "tulu",
        "budget": 2000,
        "budget_unit": "rows",
        "kept_rows": 8000,
        "read_rows": 8200,
        "score": "deita",
        "tokenizer": "llama",
        "methods": [
            {
                "method": "mig",
                "rows": 2000,
                "information": 5678.25,
                "label_coverage": 0.875,
                "mean_score": 4.5,
                "tokens": 1200300,
                "seconds": 1235.6,
                "memory_bytes": 3 * 2**30,
                "tokens_error": None,
                **OF_NO_TRAINING,
                "sources": {"code": 500, "math": 1500},
                "usable_rows": None,
                "examples": [],
                "folder": "/data/mig",
                "note": "1,203 rows filled up by score",
            },
            {"method": "random", "rows": 2000, "seconds": 0.02, **NOTHING, "sources": {"math": 2000}}
            | OF_NO_TRAINING
            | {"tokens_error": None, "usable_rows": None, "examples": [], "folder": "/data/random", "note": None},
        ],
        "all_rows": None,
        "overlaps": [[1.0, 1 / 3], [1 / 3, 1.0]],
        "settings": {"mig_num_samples": 2000, "mig_labels": "a.b"},
        "versions": {"numpy": "1.26.4"},
    }


def test_the_page_shows_every_table_and_explains_every_column(written):
    page = Page(written(TWO) / "comparison.html")
    assert page.tables == {
        "figures": [
            ["method", "rows", "E(D)", "labels (%)", "mean score", "tokens", "time (s)", "memory (MiB)"],
            ["mig1,203 rows filled up by score", "2,000", "5,678.25", "87.5", "4.500", "1,200,300", "1,236", "3,072"],
            ["random", "2,000", "-", "-", "-", "-", "0.0200", "-"],
        ],
        "overlaps": [["method", "mig", "random"], ["mig", "", "33.3"], ["random", "33.3", ""]],
        "sources": [
            ["source", "mig", "random"],
            ["math", "1,50075.0%", "2,000100.0%"],
            ["code", "50025.0%", "00.0%"],
        ],
        "subsets": [["method", "folder"], ["mig", "/data/mig"], ["random", "/data/random"]],
        "settings": [["mig_num_samples", "2000"], ["mig_labels", "a.b"], ["numpy", "1.26.4"]],
    }
    text = " ".join(" ".join(page.texts).split())
    assert "asked for 2,000 of 8,000 eligible rows (8,200 rows read). Score: deita ." in text
    assert "Two random selections would share about 25.0 of 100." in text
    assert page.tags.count("dt") == len(TWO.columns) == len(COLUMNS) - 2
    assert all(f"{column.head} {column.meaning}" in text for column in TWO.columns)


def test_the_page_shows_all_rows_beside_the_methods_and_examples_of_each(written):
    page = Page(written(FULL) / "comparison.html")
    assert page.tables["figures"][-1] == ["all rows", "8,000", "5,678.25", "100.0", "4.500", "~3,510,000", "-", "-"]
    assert page.tables["sources"] == [
        ["source", "all rows", "mig", "random"],
        ["math", "5,00062.5%", "1,50075.0%", "2,000100.0%"],
        ["code", "2,00025.0%", "50025.0%", "00.0%"],
        ["law", "1,00012.5%", "00.0%", "00.0%"],
    ]
    long = ("Why?" * 100)[:159] + "…"
    assert page.tables["examples"] == [
        ["method", "row", "question"],
        ["mig", "1,234", "What is 2 + 2? Explain."],
        ["mig", "7", long],
    ]
    text = " ".join(" ".join(page.texts).split())
    assert "rows that every one of them can use (alone: mig 8,000, random 8,200)" in text
    assert "counted with llama, in the text of the rows; all rows: +- 70,000, from a random sample ." in text
    found = json.loads((written(FULL) / "comparison.json").read_text())
    assert found["methods"][0]["examples"][0] == {"row_index": 1234, "question": "What is 2 + 2?\n\nExplain."}
    assert [found["all_rows"][key] for key in ("rows", "tokens", "tokens_error")] == [8000, 3_512_345, 61_234]
    assert found["all_rows"]["sources"] == {"math": 5000, "code": 2000, "law": 1000}


def test_sources_beyond_two_hundred_are_counted(tmp_path):
    many = method_figures("all rows", sources={f"s{index:03}": 1 for index in range(250)})
    write_comparison(tmp_path, compared(MIG, all_rows=many))
    page = Page(tmp_path / "comparison.html")
    assert len(page.tables["sources"]) == 201
    assert "52 smaller sources are left out." in " ".join(" ".join(page.texts).split())


@pytest.mark.parametrize("comparison", [FULL, HOSTILE], ids=["plain", "hostile"])
def test_the_page_loads_nothing_and_runs_nothing(written, comparison):
    page = Page(written(comparison) / "comparison.html")
    plain = Page(written(FULL) / "comparison.html")
    assert set(page.tags) == set(plain.tags)
    assert {name for name, _ in page.attributes} == {name for name, _ in plain.attributes}
    assert {"script", "img", "link", "iframe", "b"}.isdisjoint(page.tags)
    for name, value in page.attributes:
        assert not name.startswith("on")
        assert name not in {"href", "xlink:href", "src"} or value.startswith("#")
        assert "http" not in value or name.startswith("xmlns") or value == "Content-Security-Policy"
    styles = " ".join(text for text in page.texts if "{" in text and "}" in text and "7 * 7" not in text)
    assert "url(" not in styles
    assert "@import" not in styles


def test_text_from_data_appears_on_the_page_as_text(written):
    page = Page(written(HOSTILE) / "comparison.html")
    sources = {row[0] for row in page.tables["sources"]}
    assert sources == {
        "source",
        *(EVIL[:5] + EVIL[6:9] + EVIL[10:]),
        "\\x1b[2J\\x00\\r\\n\\u202egnp\\u2066\\x85",
        "half a pair \\udcff",
    }
    assert {row[2] for row in page.tables["examples"]} == {
        "question",
        *(EVIL[:5:2] + EVIL[6:9:2] + EVIL[12:13]),
        "e" + "\u0301" * 160 + "…",
    }
    assert all(char.isprintable() or char == "\n" for text in page.texts for char in text)


def test_text_from_data_is_unchanged_in_json(written):
    everything = json.loads((written(HOSTILE) / "comparison.json").read_text(encoding="utf-8"))
    assert [method["method"] for method in everything["methods"]] == EVIL[::2]
    assert everything["methods"][0]["sources"] == SOURCES


def test_no_cell_of_a_csv_is_a_formula_or_breaks_a_line(written):
    for name in ("comparison.csv", "overlaps.csv", "sources.csv"):
        cells = [cell for row in csv_rows(written(HOSTILE) / name) for cell in row]
        assert all(cell.isprintable() and cell[:1] not in {"=", "+", "-", "@"} for cell in cells)
    assert ["", "'=HYPERLINK('http://evil')", "101"] in csv_rows(written(HOSTILE) / "sources.csv")


@pytest.mark.parametrize(("comparison", "lines"), [(ONE, 1), (TWO, 2), (TEN, 10), (HOSTILE, 7)])
def test_the_picture_is_a_png_with_room_for_each_method_in_both_rows_of_panels(written, comparison, lines):
    png = (written(comparison) / "comparison.png").read_bytes()
    width, height = struct.unpack(">II", png[16:24])
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    assert png[12:16] == b"IHDR"
    assert width == 2000
    assert 2 * lines * 0.25 < height / 160 < 2 * lines * 0.3 + 4


SCALES = compared(
    *(
        method_figures(str(index), information=information, seconds=seconds)
        for index, (information, seconds) in enumerate([(40.0, 0.1), (10.0, 1.0), (None, 1000.0), (-20.0, 0.0)])
    )
)


def test_bar_lengths_are_proportional_to_the_figures(written):
    longest, *others = widths_of(panel(written(SCALES), 1), "#0072b2")
    assert [width / longest for width in others] == pytest.approx([0.25, 0.0, 0.5], abs=1e-3)
    assert texts_in(panel(written(SCALES), 1)) == ["0", "1", "2", "3", "40.00", "10.00", "-", "-20.00", "E(D)"]


def test_times_are_on_a_logarithmic_scale(written):
    dots = panel(written(SCALES), 5).findall(".//*[@id='PathCollection_1']//*[@x]")
    first, *others = (float(dot.get("x")) for dot in dots)
    assert len(others) == 2
    assert (others[1] - first) / (others[0] - first) == pytest.approx(4, abs=1e-3)
    scale, values = ["0.1", "1", "10", "100", "1,000"], ["0.100", "1.00", "1,000", "0"]
    assert texts_in(panel(written(SCALES), 5)) == [*scale, *values, "time (s)"]


def test_a_figure_that_no_method_has_gets_no_panel(tmp_path):
    write_comparison(tmp_path, compared(method_figures("zip", **NOTHING), RANDOM))
    titles = [texts_in(panel(tmp_path, number))[-1] for number in (1, 2)]
    assert titles == ["time (s)", "rows in common (%)"]


def test_overlaps_are_drawn_in_both_directions(tmp_path):
    three = [method_figures(name, sources={}) for name in "abc"]
    write_comparison(tmp_path, compared(*three, overlaps=[[1, 0.5, 0.25], [0.75, 1, 0.9], [0, 0.1, 1]]))
    cells = ["50", "25", "75", "90", "0", "10"]
    assert texts_in(panel(tmp_path, 6)) == ["a", "b", "c", "a", "b", "c", *cells, "rows in common (%)"]
    assert "sources" not in Page(tmp_path / "comparison.html").tables


def test_sources_are_stacked_with_the_largest_first(written):
    math, code = (widths_of(panel(written(TWO), 7), colour) for colour in ("#0072b2", "#e69f00"))
    assert [width / math[1] for width in (*math[:2], *code[:2])] == pytest.approx([0.75, 1, 0.25, 0], abs=1e-3)
    assert [text for text in texts_in(panel(written(TWO), 7)) if text.strip() in ("math", "code")] == [
        " math",
        " code",
    ]


def test_the_picture_names_seven_sources_and_the_page_all(written):
    legend = texts_in(panel(written(TEN), 7))[-8:]
    assert [text.strip() for text in legend] == ["s00", "s01", "s02", "s03", "s04", "s05", "s06", "other (13)"]
    assert [row[0] for row in Page(written(TEN) / "comparison.html").tables["sources"][1:]] == [
        f"s{i:02}" for i in range(20)
    ]


def test_a_single_method_has_no_overlaps(written):
    assert "overlaps" not in Page(written(ONE) / "comparison.html").tables
    assert "rows in common (%)" not in texts_in(svg_of(written(ONE)))


def test_a_dark_page_can_recolour_the_picture_which_has_no_background(written):
    svg, page = svg_of(written(TWO)), (written(TWO) / "comparison.html").read_text()
    inks = {re.search("fill: (.*)", text.get("style")).group(1) for text in svg.iter(f"{SVG}text")}
    assert inks == {INK, FAINT}
    assert all(f'[style*="fill: {ink}"] {{ fill: var(--' in page for ink in inks)
    assert svg.find(".//*[@id='patch_1']")[0].get("style") == "fill: none"


def test_texts_are_drawn_unchanged(written):
    texts = texts_in(svg_of(written(HOSTILE)))
    assert {"$x^2$ \\frac{1}{2}", " _hidden in a legend", "<script>alert(1)</s…", "{{ 7 * 7 }}{% raw %}"} <= set(texts)


@pytest.mark.parametrize("overlaps", [[], [[1.0]], [[1.0, 0.5], [0.5]]])
def test_overlaps_must_be_of_each_method_with_each(overlaps):
    with pytest.raises(ValueError, match=r"one row and one column per method \(2\), got rows of lengths \["):
        compared(MIG, RANDOM, overlaps=overlaps)


def test_the_same_comparison_gives_the_same_bytes_whatever_style_is_set(written, tmp_path):
    with mpl.rc_context({"font.size": 30, "text.usetex": True, "axes.facecolor": "red", "svg.hashsalt": "other"}):
        before = dict(mpl.rcParams)
        paths = write_comparison(tmp_path / "new" / "folder", TWO)
        assert dict(mpl.rcParams) == before
    assert sorted(paths) == sorted((tmp_path / "new" / "folder").iterdir())
    for path in paths:
        assert path.read_bytes() == (written(TWO) / path.name).read_bytes(), path.name


def test_nothing_heavy_is_imported_before_drawing_and_pyplot_never(tmp_path):
    program = """
import sys
from pathlib import Path
from mig_selector.report.comparison import Comparison, MethodFigures
from mig_selector.report.picture import FAINT, INK
from mig_selector.report.writing import write_comparison

print(*({"numpy", "matplotlib", "jinja2"} & set(sys.modules)))
mig = MethodFigures("mig", 1, 1.0, None, None, None, None, None, {}, "folder")
write_comparison(Path(sys.argv[1]), Comparison("pool", 1, 1, 1, "score", None, [mig], [[1.0]], {}, {}))
print("matplotlib.pyplot" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "\nFalse\n"


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=cmd", "'=cmd"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("  =cmd", "'  =cmd"),
        ("\u3000=cmd", "'\u3000=cmd"),
        ("\uff1dcmd", "'\uff1dcmd"),
        ("\uff20cmd", "'\uff20cmd"),
        ("x;=cmd", "x;'=cmd"),
        ("x; @cmd;y|+1", "x;' @cmd;y|'+1"),
        ('x","=cmd', 'x","=cmd'),
        ("x,=cmd", "x,'=cmd"),
        ("a-b, c=d (e@f)", "a-b, c=d (e@f)"),
        ("x\n=cmd", "x\\n=cmd"),
    ],
)
def test_a_formula_never_begins_in_a_cell(text, cell):
    assert next(csv.reader([_csv([[text]])])) == [cell]
