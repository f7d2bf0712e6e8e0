"""The report's page in a real browser: it asks for nothing, complains of nothing, and does what it offers.

Chromium is the system's (Debian's `chromium`; CHROMIUM names another).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from results_factory import Results, answered, big, cell, demo, scores

from harness.report import load, write_report

pytestmark = pytest.mark.process  # a browser
WAIT = 20_000  # milliseconds, for a busy machine


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    assert path, "no Chromium: `apt-get install chromium`, or set CHROMIUM to one"
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    return write_report(load(demo(folder / "results"), "demo"), folder / "demo").html


class Visit:
    """A page that is open, with what it said and asked for."""

    def __init__(self, browser: Any, path: Path, **context: Any):
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **context})
        self.page = self.context.new_page()
        self.page.set_default_timeout(WAIT)
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.said.append(f"error: {error}"))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("html[data-ready]", state="attached")

    def drawn(self) -> None:
        """Wait for every plot."""
        self.page.wait_for_function(
            "[...document.querySelectorAll('[data-chart]')].every((place) => place.dataset.drawn === 'done')"
        )

    def texts(self, selector: str) -> list[str]:
        return [str(text) for text in self.page.locator(selector).all_inner_texts()]

    def colour(self, selector: str, what: str = "background-color") -> str:
        return str(self.page.eval_on_selector(selector, f"(one) => getComputedStyle(one).getPropertyValue('{what}')"))


@pytest.fixture
def visit(browser: Any, written: Path) -> Iterator[Visit]:
    found = Visit(browser, written)
    yield found
    found.context.close()


def test_it_asks_for_nothing_and_complains_of_nothing(visit: Visit, written: Path) -> None:
    visit.drawn()
    assert visit.said == []
    assert [url for url in visit.asked if not url.startswith(("data:", "blob:"))] == [written.as_uri()]
    assert visit.page.locator("[data-chart] svg.marks").count() == visit.page.locator("[data-chart]").count() > 3


def shown(visit: Visit) -> list[str]:
    return [text.split(" (")[0] for text in visit.texts(".board tbody tr:visible > th")]


def test_the_leaderboard_sorts_both_ways(visit: Visit) -> None:
    assert shown(visit)[:3] == ["setfit", "full", "lora"]
    heads = visit.page.locator(".board thead th")
    place = visit.texts(".board thead th").index("method")
    heads.nth(place).locator("button").click()
    assert shown(visit) == sorted(shown(visit))
    assert heads.nth(place).get_attribute("aria-sort") == "ascending"
    heads.nth(place).locator("button").press("Enter")
    assert shown(visit) == sorted(shown(visit), reverse=True)
    seconds = next(at for at, text in enumerate(visit.texts(".board thead th")) if text.startswith("train s"))
    heads.nth(seconds).locator("button").click()
    assert shown(visit)[0] == "full"  # the largest first
    assert shown(visit)[-1] in ("base", "qlora", "late")  # what is not known comes last


def test_the_leaderboard_filters(visit: Visit) -> None:
    assert len(shown(visit)) == 8  # those of 128 examples, and the base
    visit.page.locator("[data-filter=n]").select_option("32")
    assert "late" in shown(visit)
    visit.page.locator("[data-filter=n]").select_option("")
    assert len(shown(visit)) > 12
    visit.page.locator("[data-filter=text]").fill("LORA")
    assert set(shown(visit)) == {"lora", "qlora"}
    visit.page.locator("[data-filter=n]").select_option("128")  # every row would say so: the column goes, head and all
    row = visit.page.locator(".board tbody tr:visible", has_text="lora").first
    assert row.locator("> :visible").count() == visit.page.locator(".board thead th:visible").count()
    visit.page.locator("[data-filter=n]").select_option("")
    visit.page.locator("[data-filter=text]").fill("")
    visit.page.locator("[data-filter=family]").select_option("few-shot")
    assert set(shown(visit)) == {"setfit", "base"}  # the base model stays in sight
    visit.page.locator("[data-filter=family]").select_option("")
    visit.page.locator("[data-filter=learned]").check()
    assert not {"prompt †", "qlora"} & set(shown(visit))
    assert visit.texts(".board output")[0].endswith("rows")


def test_any_two_labels_can_be_compared_down_to_their_items(visit: Visit) -> None:
    panel = visit.page.locator(".compare")
    panel.scroll_into_view_if_needed()
    panel.locator("[data-part=a]").select_option("lora")
    panel.locator("[data-part=b]").select_option("base")
    verdict = panel.locator(".verdict")
    assert "lora is better than base: acc +0.28" in verdict.inner_text()
    panel.locator("[data-part=a]").select_option("base")
    panel.locator("[data-part=b]").select_option("lora")
    assert "base is worse than lora: acc −0.28" in verdict.inner_text()
    counts = [int(text.split()[0]) for text in panel.locator(".counts button").all_inner_texts()]
    assert sum(counts) == 200
    assert counts[1] > counts[0]
    panel.locator(".counts button").nth(1).click()
    assert panel.locator("ol.items li").count() == 5
    assert "wrong" in panel.locator("ol.items li").first.inner_text()
    panel.get_by_role("button", name="Show more").click()
    assert panel.locator("ol.items li").count() == 25
    panel.locator("[data-part=search]").fill("no such word")
    assert panel.locator("ol.items li").all_inner_texts() == ["No such items."]
    panel.locator("table.matrix td.better").first.click()
    assert "is better than" in verdict.inner_text()


def test_the_theme_follows_the_system_until_one_is_chosen(browser: Any, written: Path) -> None:
    visit = Visit(browser, written, color_scheme="dark")
    dark = visit.colour("html")
    assert dark == "rgb(13, 17, 23)"
    visit.drawn()
    ink = visit.colour(".chart .marks text", "fill")
    button = visit.page.locator("#theme")
    button.click()
    assert button.inner_text() == "Theme: light"
    assert visit.colour("html") == "rgb(255, 255, 255)"
    assert visit.colour(".chart .marks text", "fill") != ink
    button.click()
    assert visit.colour("html") == dark
    visit.page.reload()
    visit.page.wait_for_selector("html[data-ready]", state="attached")
    assert visit.page.locator("#theme").inner_text() == "Theme: dark"
    visit.context.close()


def test_tabs_go_by_key(visit: Visit) -> None:
    tab = visit.page.get_by_role("tab", name="training time")
    tab.focus()
    tab.press("ArrowRight")
    assert visit.page.get_by_role("tab", name="trainable share").get_attribute("aria-selected") == "true"
    assert visit.page.locator("[role='tabpanel']:visible").count() == 1


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")])
def test_axe_finds_no_serious_fault(browser: Any, written: Path, width: int, scheme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    visit = Visit(browser, written, viewport={"width": width, "height": 900}, color_scheme=scheme)
    visit.drawn()
    visit.page.locator(".compare").scroll_into_view_if_needed()
    visit.page.wait_for_selector("table.matrix")
    found = Axe().run(visit.page).response["violations"]
    told = [(fault["id"], node["html"][:120]) for fault in found for node in fault["nodes"][:3]
            if fault["impact"] in ("serious", "critical")]  # fmt: skip
    assert told == []
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= width  # nothing sticks out
    visit.context.close()


def test_print_shows_every_plot_and_no_control(visit: Visit) -> None:
    visit.page.emulate_media(media="print")
    visit.page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    visit.drawn()
    assert visit.page.locator(".controls:visible, nav:visible").count() == 0
    assert visit.page.locator("[role='tabpanel']:visible").count() == 2
    assert visit.page.locator("table.matrix:visible").count() == 1
    visit.page.set_viewport_size({"width": 1030, "height": 700})  # A4 across, less its margins
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= 1030


def test_a_hostile_text_stays_text(browser: Any, tmp_path: Path) -> None:
    evil = "</script><script>document.title = 'taken'</script><img src=x onerror=alert(1)>"
    results = Results(tmp_path / "results", question=evil)
    base = cell("base")
    results.add(base, scores(0.6, 0.03, -5.0), items=answered(0.6, 1))
    for label in (evil, "lora"):
        for seed in (0, 1):
            one = cell(label, 32, seed, baseline=base.spec_digest)
            results.add(one, scores(0.8, 0.03, -5.1), items=answered(0.8, seed), train_seconds=5.0, losses=[2.0, 1.0])
    page = write_report(load(results.store(), "demo"), tmp_path / "out").html
    visit = Visit(browser, page)
    visit.drawn()
    visit.page.locator(".compare").scroll_into_view_if_needed()
    visit.page.wait_for_selector("table.matrix")
    assert visit.page.title() == "demo · tunebench"
    assert visit.page.locator("img").count() == 0
    assert visit.said == []
    visit.context.close()


@pytest.mark.slow
def test_two_thousand_cells_are_a_page_of_less_than_five_megabytes(browser: Any, tmp_path: Path) -> None:
    report = load(big(tmp_path / "results"), "demo")
    assert len(report.cells) == 2002
    page = write_report(report, tmp_path / "out").html
    assert page.stat().st_size < 5_000_000
    visit = Visit(browser, page)
    visit.drawn()
    assert visit.said == []
    visit.context.close()
