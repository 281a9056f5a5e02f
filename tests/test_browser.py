"""The report in a real browser, from disk: on a desktop's and a phone's width, light, dark and printed."""

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from playwright.sync_api import sync_playwright
from test_leaderboard import board, made  # noqa: F401 (board is a fixture)
from test_report import AUDIT, CLASSES, FINETUNE, NASTY, edit, parameters, write_run

from stages import report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None and os.environ.get("CI") != "true", reason="no Chromium: apt-get install chromium"),
]
LONG = "Größe_äöü_" + "sehrlangerclipname" * 8 + ".mp4"
AWKWARD = {"pocus": [f"class {number} <i>of</i> thirty" for number in range(30)], "gallbladder": ["normal & fett", "bösartig"]}
VIEWS = [(width, scheme) for width in (1280, 390) for scheme in ("light", "dark")]
# The elements that stick out on the right of the page, but those in a box of their own that scrolls.
TOO_WIDE = """() => [...document.body.querySelectorAll("*")].filter((element) => {
  const box = element.getBoundingClientRect();
  return box.width && box.right + scrollX > document.documentElement.clientWidth + 1 && !element.closest(".scroll, nav, svg");
}).map((element) => element.outerHTML.slice(0, 120))"""
# Every text with its colour and background (red, green, blue, 0 to 255), size and weight. Colours that are mixed are painted
# on a canvas to have them as numbers; the background is that of all ancestors, one above the other; opacity thins the text.
TEXTS = """() => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const paint = (colours) => {
    canvas.clearRect(0, 0, 1, 1);
    for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), found = [];
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !element.checkVisibility() || element.closest("script, style")) continue;
    const style = getComputedStyle(element), backgrounds = [];
    let opacity = 1;
    for (let at = element; at; at = at.parentElement) {
      backgrounds.unshift(getComputedStyle(at).backgroundColor);
      opacity *= getComputedStyle(at).opacity;
    }
    const back = paint(["white", ...backgrounds]);
    const front = paint(["black", element.closest("svg") ? style.fill : style.color]);
    found.push({ text: walker.currentNode.data.trim(), size: parseFloat(style.fontSize), weight: Number(style.fontWeight),
                 back, front: front.map((value, place) => opacity * value + (1 - opacity) * back[place]) });
  }
  return found;
}"""


@pytest.fixture(scope="module")
def browser():
    assert CHROMIUM, "CI must have a browser: apt-get install chromium"
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The report of a run with long names, markup in names, and 30 classes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("run"))
        write_run(AWKWARD)
        like = ("clust", "left_out", "looks like an evaluation clip")
        copies = [(*like, f"{number}{LONG}", f"pocus/{NASTY}", distance, 1, 0, 0, "Rb1 1")
                  for number, distance in enumerate([0.2, 0.05, 0.2, 0.11])]
        edit("reports/us4_audit.csv", lambda table: pd.concat([table, pd.DataFrame(copies, columns=AUDIT)]))
        edit("data/folds/pocus.csv", lambda table: table.replace({"odd.mp4": LONG}))
        tasks = {name: {"classes": classes, "subsets": []} for name, classes in AWKWARD.items()}
        report.main(**parameters(tasks=tasks, finetune=FINETUNE | {"tasks": list(AWKWARD)}))
        yield Path("reports/report.html").resolve().as_uri()


@pytest.fixture
def show(browser, address):
    """Opens the report, or another page; afterwards nothing may have gone wrong, and nothing been asked of the network."""
    said, asked, contexts, pages = [], [], [], set()

    def opened(width: int = 1280, scheme: str = "light", at: str = address, **settings):
        contexts.append(browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme, **settings))
        page = contexts[-1].new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(at)
        pages.add(at)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not said
    assert all(url in pages or url.startswith("data:") for url in asked)


def where(page, selector: str, condition: str) -> list[str]:
    """The elements, of those that the selector finds, for which a condition in JavaScript holds of `one`."""
    return page.eval_on_selector_all(selector, f"(all) => all.filter((one) => {condition}).map((one) => one.outerHTML)")


def unfold(page) -> None:
    page.evaluate("document.querySelectorAll('details').forEach((details) => details.open = true)")


@pytest.mark.parametrize(("width", "scheme"), VIEWS)
def test_nothing_sticks_out_and_every_picture_is_drawn(show, width, scheme):
    page = show(width, scheme)
    unfold(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(TOO_WIDE) == []
    for selector, wrong in (("img", "!one.naturalWidth || !one.alt"), ("svg", "!one.getBoundingClientRect().height")):
        assert where(page, selector, wrong) == []


@pytest.mark.parametrize(("width", "scheme"), VIEWS)
def test_the_leaderboard_fits_and_sorts(show, board, tmp_path, width, scheme):  # noqa: F811
    found = [made(LONG, tasks=("pocus", "breast")), made("uscl", "uscl", value=0.9, tasks=("pocus", "breast")),
             made("epochs", pretrain__epochs=7, value=0.8), made("other", finetune__folds=3), made("gone", state="failed")]
    board(found, {})
    page = show(width, scheme, at=(tmp_path / "leaderboard.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(TOO_WIDE) == []
    page.locator("table.sortable").first.locator("text=Initial weights").click()
    names = page.eval_on_selector_all(
        "table.sortable", "(all) => [...all[0].tBodies[0].rows].map((row) => row.cells[0].textContent)")
    assert len(names) == 3 and names == sorted(names)


def luminance(colour) -> float:
    """Relative luminance of WCAG 2.2."""
    parts = np.array(colour[:3]) / 255
    return float(np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_the_contrast_of_wcag_aa(show, scheme):
    page = show(scheme=scheme)
    unfold(page)
    texts = page.evaluate(TEXTS)
    assert len(texts) > 300
    for text in texts:
        dark, light = sorted([luminance(text["front"]), luminance(text["back"])])
        large = text["size"] >= 24 or text["size"] >= 18.66 and text["weight"] >= 700
        assert (light + 0.05) / (dark + 0.05) >= (3 if large else 4.5), text


def test_the_theme_follows_the_system_and_the_button(show):
    def paper(page):
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    light, dark = show(scheme="light"), show(scheme="dark")
    before = paper(light), paper(dark)
    assert before[0] != before[1]
    light.click("text=Dark page")
    dark.click("text=Light page")
    assert (paper(dark), paper(light)) == before
    light.emulate_media(media="print")
    assert paper(light) == before[0]


def test_headings_regions_and_tables_have_names_and_order(show):
    page = show()
    levels = [int(level) for level in page.evaluate("[...document.querySelectorAll('h1,h2,h3,h4')].map((h) => h.tagName[1])")]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))
    named = """(element) => element.ariaLabel || document.getElementById(element.getAttribute("aria-labelledby"))?.innerText"""
    for selector in ("nav", "section", "[role=region]", "[role=img]"):
        names = page.eval_on_selector_all(selector, f"(all) => all.map({named})")
        assert names and all(names), selector
    assert where(page, "table", "!one.caption && !one.closest('[role=region]')") == []
    assert where(page, "th", "!one.scope") == where(page, "nav a", "!document.getElementById(one.hash.slice(1))") == []
    assert page.locator("main").count() == page.locator("header").count() == page.locator("footer").count() == 1


def test_the_keyboard_goes_through_the_page_from_top_to_bottom(show):
    """What takes the focus stands in the order of the page; the first are the theme and the sections; the focus is seen."""
    page = show(390)
    unfold(page)
    assert page.locator("[tabindex]:not([tabindex='0'])").count() == 0
    places = []
    for _ in range(page.locator("a, button, summary, [tabindex='0']").count()):
        page.keyboard.press("Tab")
        places.append(page.evaluate("""() => {
          const all = [...document.querySelectorAll("*")], style = getComputedStyle(document.activeElement);
          return [all.indexOf(document.activeElement), document.activeElement.tagName, style.outlineStyle];
        }"""))
    order = [place for place, _, _ in places]
    assert order == sorted(set(order))
    assert [tag for _, tag, _ in places[:3]] == ["BUTTON", "A", "A"]
    assert {outline for _, _, outline in places} <= {"auto", "solid"}


def test_an_anchor_leaves_its_title_below_the_bar(show):
    for width in (1280, 390):
        page = show(width)
        page.click("nav a[href='#us4']")
        title, bar = page.locator("#us4-title").bounding_box(), page.locator("nav").bounding_box()
        assert bar["y"] == 0 and bar["height"] <= title["y"] <= 200


TABLE = """<table class="sortable"><thead>
<tr><td></td><th scope="colgroup" colspan="2">Scores</th></tr>
<tr><th data-sort="text">Name</th><th>Left <b>alone</b></th><th data-sort="number">Value</th></tr></thead>
<tbody>{}</tbody><tfoot><tr><td>all</td><td></td><td>0</td></tr></tfoot></table>"""
CELLS = [("clip 10", "9.5 ± 2"), ("clip 9", "–"), ("Ähre", "1,234"), ("–", "−3"), ("clip 1", "9.5"), ("b", ""),
         ("Zebra", "80.1–90")]


def shown(page, table: str, column: int) -> list[str]:
    return page.eval_on_selector_all(f"{table} tbody tr", f"(rows) => rows.map((row) => row.cells[{column}].textContent)")


def test_a_table_is_sorted_by_numbers_and_by_text(browser):
    """Either way, by mouse and keyboard: missing values last, equal ones as they were, heads and foot where they were."""
    page = browser.new_page()
    rows = "".join(f"<tr><td>{name}</td><td>x</td><td>{value}</td></tr>" for name, value in CELLS)
    page.set_content(TABLE.format(rows + "<tr><td>last</td><td>x</td><td data-value='2'>same file</td></tr>"))
    page.add_script_tag(path=Path(report.__file__).parent / "lib/report/page/sort.js")
    states = "(heads) => heads.map((head) => head.getAttribute('aria-sort'))"
    assert page.locator("th button").count() == 2
    page.click("text=Value")
    assert shown(page, "table", 2) == ["1,234", "80.1–90", "9.5 ± 2", "9.5", "same file", "−3", "–", ""]
    assert page.eval_on_selector_all("thead th", states) == [None, None, None, "descending"]
    page.keyboard.press("Enter")
    assert shown(page, "table", 2) == ["−3", "same file", "9.5 ± 2", "9.5", "80.1–90", "1,234", "–", ""]
    assert page.eval_on_selector_all("thead th", states) == [None, None, None, "ascending"]
    page.focus("text=Name")
    page.keyboard.press("Space")
    assert shown(page, "table", 0) == ["Ähre", "b", "clip 1", "clip 9", "clip 10", "last", "Zebra", "–"]
    assert page.eval_on_selector_all("thead th", states) == [None, "ascending", None, None]
    page.click("text=Name")
    assert shown(page, "table", 0) == ["Zebra", "last", "clip 10", "clip 9", "clip 1", "b", "Ähre", "–"]
    assert page.locator("tfoot tr").inner_text().startswith("all") and page.locator("thead tr").count() == 2
    page.close()


def test_the_tables_of_the_report_sort(show):
    page = show()
    unfold(page)
    table = "[aria-label='Scores per task'] table"
    numbers = [float(text.split()[0]) for text in shown(page, table, 1)]
    page.click(f"{table} >> text=Balanced >> nth=0")
    assert [float(text.split()[0]) for text in shown(page, table, 1)] == sorted(numbers, reverse=True)
    table = "[aria-label='Clips that the leak guard left out'] table"
    page.click(f"{table} >> text=Distance >> nth=-1")
    assert shown(page, table, 2) == ["0.2", "0.2", "0.11", "0.05"]
    assert [name[6] for name in shown(page, table, 0)] == ["0", "2", "3", "1"]
    assert where(page, "table.sortable", "!one.querySelector('th[data-sort]')") == []


def test_without_script_the_page_is_whole(show):
    plain, page = show(java_script_enabled=False), show()
    words = [re.sub(r"\s+", " ", text) for text in (plain.locator("main").inner_text(), page.locator("main").inner_text())]
    assert words[0] == words[1] and plain.locator("button").count() == 0


def test_print_opens_everything_and_cuts_nothing(show):
    """On A4 between margins of 1 cm: 718 pixels."""
    page = show(718)
    page.emulate_media(media="print")
    assert where(page, "details li, details td", "!one.checkVisibility()") == []
    assert page.locator("details td").count() > 10
    assert not page.locator("nav").is_visible() and not page.locator(".theme").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 718
    assert where(page, "table, figure", "one.getBoundingClientRect().right > 719") == []
    assert page.pdf(format="A4").startswith(b"%PDF")


def test_the_usual_report_passes_too(browser, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_run(CLASSES)
    report.main(**parameters())
    page = browser.new_page(viewport={"width": 390, "height": 800})
    page.goto(Path("reports/report.html").resolve().as_uri())
    assert page.evaluate(TOO_WIDE) == []
    page.close()
