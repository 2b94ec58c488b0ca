"""The page as a reader meets it: Chromium, no network, both colour schemes, keyboard, and no scripts at all."""

from __future__ import annotations

import csv
import importlib.resources
import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from genqual.analysis.published.prices import prices
from genqual.analysis.report.page import page as make_page
from genqual.analysis.report.rows import rows
from genqual.records.record import Record
from tests.results.make import record

WAIT_MS = 90_000


class Seen:
    """What went wrong while a page was open."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.requests: list[str] = []


@contextmanager
def opened(browser: Browser, path: Path, *, ready: bool = True, **options: Any) -> Iterator[tuple[Page, Seen]]:
    context = browser.new_context(offline=True, viewport={"width": 1280, "height": 900}, **options)
    context.set_default_timeout(WAIT_MS)
    seen = Seen()
    tab = context.new_page()
    tab.on(
        "console", lambda message: seen.errors.append(message.text) if message.type in ("error", "warning") else None
    )
    tab.on("pageerror", lambda error: seen.errors.append(str(error)))
    tab.on("request", lambda request: seen.requests.append(request.url))
    try:
        tab.goto(path.as_uri())
        if ready:
            tab.wait_for_selector("html[data-ready=yes]", state="attached")
        yield tab, seen
    finally:
        context.close()


@pytest.fixture(scope="module")
def shared(browser: Browser, place: Path) -> Iterator[tuple[Page, Seen]]:
    with opened(browser, place) as both:
        yield both


@pytest.fixture
def tab(shared: tuple[Page, Seen]) -> Iterator[Page]:
    """The open page as it was at first."""
    page, seen = shared
    page.click("#ask button[type=reset]")
    page.evaluate(
        "for (const input of document.querySelectorAll('#price-rows input[step=any]')) {"
        " input.value = ''; input.dispatchEvent(new Event('input')); }"
    )
    yield page
    assert seen.errors == []


LINES = """page => [...page.querySelectorAll("#decision-rows tr")]
    .map(line => [...line.cells].map(cell => cell.textContent.trim()))"""


def decision(page: Page) -> list[list[str]]:
    found: list[list[str]] = page.evaluate(f"({LINES})(document)")
    return found


def of(page: Page, model: str, platform: str) -> list[str]:
    (line,) = [line for line in decision(page) if line[:2] == [model, platform]]
    return line


def test_it_asks_no_network_and_says_no_error(shared: tuple[Page, Seen], place: Path) -> None:
    _, seen = shared
    outside = [url for url in seen.requests if not url.startswith(("data:", "blob:")) and url != place.as_uri()]
    assert outside == []
    assert seen.errors == []


def test_every_chart_is_drawn(tab: Page) -> None:
    figures = tab.query_selector_all("figure[data-chart]")
    assert [figure.get_attribute("data-chart") for figure in figures] == [
        "pareto", "lengths", "scaling", "phases", "roofline", "cost"
    ]  # fmt: skip
    for figure in figures:
        assert int(figure.get_attribute("data-drawn") or 0) > 0
        assert figure.query_selector_all(".live svg path"), figure.get_attribute("data-chart")
        assert figure.query_selector(".still:visible") is None


def test_the_script_decides_as_the_page_without_scripts(browser: Browser, place: Path, tab: Page) -> None:
    with opened(browser, place, ready=False, java_script_enabled=False) as (still, _):
        lines = still.locator("#decision-rows tr")
        said = [lines.nth(n).locator("th, td").all_inner_texts() for n in range(lines.count())]
    assert [[" ".join(cell.split()) for cell in line] for line in said] == decision(tab)


def test_measured_stands_beside_cited(tab: Page) -> None:
    assert of(tab, "llama-30m", "xeon-6-2c")[-1] == "measured"
    assert of(tab, "bloomz-176b", "gaudi2")[-1].startswith("cited, ")
    assert of(tab, "bloomz-176b", "a100-80gb")[3] == "44.0 *"
    assert of(tab, "bloomz-176b", "gaudi1")[2] == "none of 2 qualifies: 2 skipped"


def test_limits_change_the_decision(tab: Page) -> None:
    before = decision(tab)
    tab.fill("#tpot", "40")
    assert of(tab, "bloomz-176b", "a100-80gb")[2] == "none of 2 qualifies: 2 TPOT over the limit"
    assert of(tab, "bloomz-176b", "gaudi2")[3] == "31.0 *"
    tab.fill("#ttft", "50")
    assert "TTFT unknown" in of(tab, "bloomz-176b", "gaudi2")[2]
    assert of(tab, "llama-30m", "xeon-6-2c")[4] == "48.0"
    tab.click("#ask button[type=reset]")
    # The page decides again after the form has its old values, not at the same time.
    tab.wait_for_function(f"want => JSON.stringify(({LINES})(document)) === JSON.stringify(want)", arg=before)
    assert tab.input_value("#tpot") == "100"
    assert decision(tab) == before
    tab.select_option("#bits", "16")
    assert "below the precision floor" in of(tab, "llama2-13b", "xeon-4th-gen-socket")[2]


def test_filters_change_rows_and_charts(tab: Page, records: list[Record]) -> None:
    drawn = tab.get_attribute("figure[data-chart=pareto]", "data-drawn")
    tab.select_option("#model", "bloomz-7b")
    tab.wait_for_function(f"document.querySelector('figure[data-chart=pareto]').dataset.drawn !== '{drawn}'")
    assert {line[0] for line in decision(tab)} == {"bloomz-7b"}
    assert tab.inner_text("#rows-said") == f"12 of {len(rows(records, prices()))} rows."
    assert tab.locator("#row-lines tr:visible").count() == 12
    tab.uncheck("#cited")
    assert decision(tab) == []
    assert tab.locator("#row-lines tr:visible").count() == 0
    assert tab.locator("figure[data-chart=pareto] .empty").is_visible()


def test_prices_and_utilisation_change_the_cost(tab: Page) -> None:
    assert of(tab, "bloomz-7b", "gaudi2")[7] == "no price"
    assert of(tab, "bloomz-7b", "gaudi1")[7] == "≈ $10.8"
    line = tab.locator('#price-rows tr[data-platform="gaudi2"]')
    line.locator("input").nth(0).fill("36")
    line.locator("input").nth(1).fill("8")
    # 36 $/h for 8 is 4.5 $/h for one: 4.5 / 3600 / (100 / 0.772) x 1e6
    assert of(tab, "bloomz-7b", "gaudi2")[7] == "$9.65"
    tab.fill("#utilisation", "50")
    assert of(tab, "bloomz-7b", "gaudi2")[7] == "$19.3"
    assert of(tab, "bloomz-7b", "gaudi1")[7] == "≈ $21.5"
    line.locator("input").nth(0).fill("-3")
    assert line.locator("input").nth(0).get_attribute("aria-invalid") == "true"
    assert of(tab, "bloomz-7b", "gaudi2")[7] == "no price"


def test_the_rows_have_the_cost_below_its_head_and_every_other_cell_stays(tab: Page) -> None:
    table = "document.querySelector('#rows table')"
    heads = tab.evaluate(f"[...{table}.tHead.rows[0].cells].map(c => c.textContent)")
    lines = f"[...{table}.tBodies[0].rows].map(r => [...r.cells].map(c => c.textContent.trim()))"
    before = tab.evaluate(lines)
    assert {len(line) for line in before} == {len(heads)}
    tab.fill("#utilisation", "50")
    place = heads.index("$ per M tokens")
    after = tab.evaluate(lines)
    assert [line[place] for line in after] != [line[place] for line in before]
    assert {line[place] for line in after if "gaudi1" in line[1]} >= {"≈ $21.5"}
    for line in (*before, *after):
        line.pop(place)
    assert after == before


def test_the_keyboard_reaches_everything(browser: Browser, place: Path) -> None:
    wanted = [
        "theme",
        "model",
        "input",
        "ttft",
        "tpot",
        "bits",
        "utilisation",
        "cited",
        "Decision",
        "Rows",
    ]
    with opened(browser, place) as (page, _):
        reached: list[str] = []
        while len(reached) < 140 and "Rows" not in reached:
            page.keyboard.press("Tab")
            name = "(e => e.id || e.getAttribute('aria-label') || e.getAttribute('href'))(document.activeElement)"
            reached.append(page.evaluate(name))
        assert [name for name in reached if name in wanted] == wanted
        assert "$ an hour for gaudi2" in reached
        assert reached[0] == "#decision"
        page.focus("#model")
        page.keyboard.type("llama-30m")
        page.wait_for_function("document.querySelectorAll('#decision-rows tr').length === 1")
        assert of(page, "llama-30m", "xeon-6-2c")[-1] == "measured"


def axe(page: Page) -> list[str]:
    source = importlib.resources.files("axe_core_python").joinpath("axe.min.js").read_text(encoding="utf-8")
    page.evaluate(source)
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{one['impact']} {one['id']}: {[node['target'] for node in one['nodes'][:3]]}"
        for one in found["violations"]
        if one["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(browser: Browser, place: Path, scheme: Any) -> None:
    with opened(browser, place, color_scheme=scheme) as (page, _):
        assert axe(page) == []


def test_axe_would_find_what_is_wrong(browser: Browser, html: str, tmp_path: Path) -> None:
    bad = html.replace("--soft: #57606a", "--soft: #d0d4d8").replace(
        "<label>Model<select", "<label></label><div><select"
    )
    (tmp_path / "bad.html").write_text(bad, encoding="utf-8")
    with opened(browser, tmp_path / "bad.html") as (page, _):
        found = " ".join(axe(page))
    assert "color-contrast" in found
    assert "select-name" in found


def test_the_theme_button_turns_the_page(tab: Page) -> None:
    paper: Callable[[], str] = lambda: tab.evaluate("getComputedStyle(document.body).backgroundColor")  # noqa: E731 - read twice
    before = paper()
    tab.click("#theme")
    assert paper() != before
    tab.click("#theme")
    assert paper() == before


def test_without_scripts_it_is_a_document(browser: Browser, place: Path) -> None:
    with opened(browser, place, ready=False, java_script_enabled=False) as (page, _):
        assert page.locator("#ask").is_hidden()
        assert page.locator("figure .still svg").count() == 6
        assert page.locator("figure .still svg").first.is_visible()
        assert page.locator("#matrix td.oom").count() > 5
        assert page.locator("#row-lines tr").count() > 80


def test_where_a_policy_forbids_eval_the_still_charts_stay(browser: Browser, html: str, tmp_path: Path) -> None:
    (tmp_path / "strict.html").write_text(html.replace(" 'unsafe-eval'", ""), encoding="utf-8")
    with opened(browser, tmp_path / "strict.html") as (page, _):
        assert page.locator("figure .still svg").first.is_visible()
        page.fill("#tpot", "40")
        assert "TPOT over the limit" in of(page, "bloomz-176b", "a100-80gb")[2]


def test_it_prints(browser: Browser, place: Path) -> None:
    with opened(browser, place) as (page, _):
        page.emulate_media(media="print")
        assert page.locator("#ask").is_hidden()
        assert page.locator("nav").is_hidden()
        assert page.locator("figure .still svg").first.is_visible()
        assert page.pdf().startswith(b"%PDF")


HOSTILE = '<img src=x onerror="window.hit=1"><script>window.hit=1</script>'


def test_a_hostile_name_is_shown_and_never_run(browser: Browser, tmp_path: Path) -> None:
    ends = "</script><script>window.hit=2</script><!--"
    made = [
        record(model=HOSTILE, class_id=ends, engine='"><b>x', run="=cmd", command=HOSTILE),
        record(model="=HYPERLINK(1)", class_id="@SUM(1)", engine="{{ 7 * 7 }}"),
    ]
    (tmp_path / "h.html").write_text(make_page(made, prices(), sources=[HOSTILE], title=HOSTILE), encoding="utf-8")
    with opened(browser, tmp_path / "h.html", accept_downloads=True) as (page, seen):
        assert page.evaluate("window.hit") is None
        assert seen.errors == []
        assert of(page, HOSTILE, ends)[0] == HOSTILE
        assert "{{ 7 * 7 }}" in page.inner_text("#row-lines")
        with page.expect_download() as download:
            page.click("#save-csv")
        lines = list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text(encoding="utf-8"))))
    assert {line["model"] for line in lines} == {HOSTILE, "'=HYPERLINK(1)"}
    assert {line["platform"] for line in lines} == {ends, "'@SUM(1)"}


def test_what_is_saved_are_the_rows_shown(browser: Browser, place: Path) -> None:
    with opened(browser, place, accept_downloads=True) as (page, _):
        page.select_option("#model", "bloomz-7b")
        with page.expect_download() as download:
            page.click("#save-json")
        found = json.loads(Path(download.value.path()).read_text(encoding="utf-8"))
    assert len(found) == 12
    assert {one["dollars_per_million"] is None for one in found if one["platform"] == "gaudi1"} == {False}
