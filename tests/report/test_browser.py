"""Pages in a real browser, opened from disk: what they show and ask for, on a phone, in the dark, by keyboard."""

from dataclasses import replace

import pytest
from report.pages import EVIL, REPORT, figures, hostile

from mig_selector.report.comparison import Comparison
from mig_selector.report.page import build_comparison_page, build_report_page
from mig_selector.report.picture import draw_svg


pytestmark = [pytest.mark.browser, pytest.mark.slow]

COMPARISON = Comparison(
    pool="pool",
    budget=40,
    kept_rows=200,
    read_rows=210,
    score="deita",
    tokenizer="llama",
    figures=[figures("mig", report="../mig/report.html"), figures("random")],
    overlaps=[[1.0, 0.5], [0.5, 1.0]],
    settings={"mig_num_samples": 40},
    versions={"numpy": "2.0"},
    all_rows=figures("all rows"),
)
PAGES = {
    "report": build_report_page(REPORT),
    "hostile": build_report_page(hostile()),
    "bare": build_report_page(replace(REPORT, curve=None, labels=None)),
    "comparison": build_comparison_page(COMPARISON, draw_svg(COMPARISON)),
}


@pytest.fixture(scope="module")
def chromium(chromium_path):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def show(chromium, tmp_path):
    """A function that opens a page, and fails if it says something to the console or asks for anything."""
    pages, said, asked = [], [], []

    def open_page(name, **options):
        file = tmp_path / f"{name}.html"
        file.write_text(PAGES[name], encoding="utf-8")
        page = chromium.new_page(**options)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(file.as_uri())
        assert asked.pop() == file.as_uri()
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        page.close()
    assert (said, asked) == ([], [])


def test_curve_map_and_distributions_are_drawn(show):
    page = show("report", viewport={"width": 1280, "height": 900})
    boxes = page.evaluate(
        "[...document.querySelectorAll('polyline, circle, rect')].map(each => each.getBoundingClientRect().toJSON())"
    )
    assert len(boxes) > 10
    assert all(box["left"] >= 0 and box["right"] <= 1280 for box in boxes)
    assert page.evaluate("document.querySelector('polyline.curve').getTotalLength()") > 100
    assert page.locator("circle[aria-label]").count() == len(REPORT.labels.map)


def test_the_search_finds_rows_by_any_of_their_words(show):
    page = show("report")
    page.fill("input[type=search]", "what ID20")
    assert page.inner_text("#found") == "1 of 5 rows"
    assert page.locator("#row-list details:visible").count() == 1
    page.fill("input[type=search]", "")
    assert page.locator("#row-list details:visible").count() == 5


def test_the_map_can_be_read_by_pointer_and_by_keyboard(show):
    page = show("report")
    page.locator("circle[aria-label^=logic]").hover()
    assert page.inner_text("#readout").startswith("logic: 16 of 90 rows chosen")
    page.locator("circle[aria-label^=algebra]").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#readout").startswith("x: 12 of 80 rows chosen")
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')").startswith("logic")
    assert page.locator("circle[tabindex='0']").count() == 1


def test_hostile_text_stays_text(show):
    page = show("hostile")
    assert page.evaluate("[document.scripts.length, document.images.length, document.links.length]") == [1, 0, 7]
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert "<script>alert(1)</script>" in page.inner_text("#row-list")
    page.fill("input[type=search]", "onerror=alert(1)")
    assert page.inner_text("#found").startswith("2 of")
    assert len(EVIL) * 2 == page.locator("#row-list details").count()


@pytest.mark.parametrize("name", ["report", "hostile", "comparison"])
def test_a_phone_does_not_scroll_sideways(show, name):
    page = show(name, viewport={"width": 390, "height": 800})
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert page.evaluate("[document.documentElement.scrollWidth, document.body.scrollWidth]") == [390, 390]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["report", "comparison"])
def test_axe_finds_no_serious_fault(show, name, scheme):
    from axe_playwright_python.sync_playwright import Axe

    page = show(name, color_scheme=scheme, bypass_csp=True)
    paper = {"light": "rgb(255, 255, 255)", "dark": "rgb(13, 17, 23)"}[scheme]
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == paper
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    found = Axe().run(page).response["violations"]
    faults = {
        each["id"]: each["nodes"][0]["html"] for each in found if each["impact"] in ("serious", "critical", "moderate")
    }
    assert faults == {}


def test_without_a_graph_there_is_no_map_and_no_error(show):
    page = show("bare")
    page.fill("input[type=search]", "logic")
    assert page.inner_text("#found") == "5 of 5 rows"
