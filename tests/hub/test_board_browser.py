"""The board in headless Chromium, as a reader uses it: from a disk and from `leaderboard serve`."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.hub.results import make_result
from tests.hub.synthetic import submission
from tests.pages import CHROMIUM, needs_chromium

from factlife.hub import build_board, serve
from factlife.hub.board import FIRST
from factlife.scores import BY_NAME
from factlife.store import write_json

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = needs_chromium

ACCURACY = "recall.whole_answer_accuracy"
METRICS = tuple(
    BY_NAME[m]
    for m in (
        ACCURACY, "recall.emergence50", "hallucination.excess_loss", "circuits.active_head_share",
        "circuits.head_share_general", "circuits.head_share_entity", "circuits.head_share_relation",
        "circuits.head_share_fact", "circuits.iou_last_general", "circuits.iou_last_general_null",
        "circuits.iou_last_entity", "circuits.iou_last_entity_null", "circuits.iou_last_active",
        "circuits.iou_last_fact", "circuits.iou_last_relation", "injection.retention",
        "dynamics.series_loss", "dynamics.series_loss_unseen", "dynamics.series_baseline",
    )
)  # fmt: skip
EVIL = "<img src=x onerror=alert(1)></script><script>alert(1)</script>"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight reference series, three of `standard`, an evil name, one without curves."""
    root = tmp_path_factory.mktemp("board")
    for i in range(8):
        submission(root / "in" / f"r{i}", f"org/reference-{i}", i, metrics=METRICS)
    for i, name in enumerate(("low", "middle", "top")):
        folder = root / "in" / name
        submission(folder, f"org/{name}", 20 + i, profile="standard", metrics=METRICS)
    for name, result in {
        "evil": make_result(EVIL, "demo"), "alone": make_result("../../alone", "demo"),
    }.items():  # fmt: skip
        write_json(root / "in" / name / "result.json", result)
    return build_board([root / "in"], root / "out").parent


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as play:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        opened = play.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield opened
        opened.close()


class Reader:
    """A page, and everything that it said or asked for."""

    def __init__(self, browser: Any, address: str, **settings: Any) -> None:
        self.context = browser.new_context(viewport={"width": 1280, "height": 900}, **settings)
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda m: self.said.append(m.text))
        self.page.on("pageerror", lambda e: self.said.append(str(e)))
        self.page.on("dialog", lambda d: self.said.append(d.message))
        self.page.on("request", lambda r: self.asked.append(r.url))
        self.address = address
        self.page.goto(address)
        self.drawn()

    def drawn(self) -> None:
        """Wait until the view is there and every chart in it is drawn."""
        self.page.wait_for_selector("html[data-drawn]", timeout=60_000)

    def go(self, route: str) -> None:
        self.page.evaluate("(to) => { location.hash = to; }", route)
        self.page.wait_for_timeout(50)
        self.drawn()

    def until(self, expression: str) -> None:
        """Wait until an expression holds. The page's policy forbids the library's own way."""
        for _ in range(300):
            if self.page.evaluate(expression):
                return
            self.page.wait_for_timeout(50)
        raise AssertionError(f"never: {expression}")

    def texts(self, selector: str) -> list[str]:
        found: list[str] = self.page.eval_on_selector_all(
            selector, "(all) => all.filter((n) => n.offsetParent).map((n) => n.textContent)"
        )
        return found

    def slug(self, name: str) -> str:
        found = self.page.evaluate(
            "(name) => factlife.plots.board.series.find((s) => s.name === name).slug", name
        )
        return str(found)

    @property
    def wider(self) -> int:
        """Pixels by which the page is wider than the screen."""
        page = "document.documentElement"
        return int(self.page.evaluate(f"{page}.scrollWidth - {page}.clientWidth"))


@pytest.fixture
def reader(browser: Any, site: Path) -> Iterator[Reader]:
    """The board from a disk; fails where the console says anything or something else is asked."""
    found = Reader(browser, (site / "index.html").as_uri())
    yield found
    found.context.close()
    assert found.said == []
    assert [a for a in found.asked if not a.startswith(("data:", "blob:", site.as_uri()))] == []


NAMES = "#standard tbody tr:not([hidden]) .name"


def test_sort(reader: Reader) -> None:
    head = reader.page.locator("#standard thead button").nth(4)
    values = "#standard tbody data"
    head.click()
    column = "#standard tbody tr td:nth-child(5) data"
    down = [
        float(v) for v in reader.page.eval_on_selector_all(column, "(a) => a.map((n) => n.value)")
    ]
    assert down == sorted(down, reverse=True)
    assert (
        reader.page.locator("#standard thead th").nth(4).get_attribute("aria-sort") == "descending"
    )
    head.click()
    up = [
        float(v) for v in reader.page.eval_on_selector_all(column, "(a) => a.map((n) => n.value)")
    ]
    assert up == down[::-1]
    assert len(reader.texts(values)) == 3 * 4
    assert reader.page.inner_text("#status") == "Sorted by Whole-answer accuracy, ascending."


def test_filter_and_columns(reader: Reader) -> None:
    reader.page.fill("#filter", "top llama")
    reader.until("document.getElementById('status').textContent !== ''")
    shown = reader.texts("tbody tr:not([hidden]) .name")
    assert set(shown) <= {"org/top"}
    assert reader.page.inner_text("#status") == f"{len(shown)} of 13 rows match."
    reader.page.fill("#filter", "reference-3")
    assert reader.texts("tbody tr:not([hidden]) .name") == ["org/reference-3"]
    before = len(reader.texts("#reference thead th"))
    reader.page.select_option("#columns", "circuits")
    after = reader.texts("#reference thead th")
    assert len(after) < before
    assert any("Active heads" in t for t in after)
    assert not any("Hallucination" in t for t in after)


def test_compare_eight_over_tokens_or_steps(reader: Reader) -> None:
    reader.page.click("#reference >> text=Compare these 8 over training")
    reader.page.wait_for_selector("#view-compare figure")
    reader.drawn()
    assert reader.page.is_hidden("#view-table")
    lines = "#figure-compare .mark-line path"
    tones = reader.page.eval_on_selector_all(lines, "(a) => a.map((n) => n.getAttribute('stroke'))")
    assert len(tones) == len(set(tones)) == 8
    assert len(reader.texts("#figure-compare .legend li")) == 8
    assert "training tokens (log scale, step 0 apart)" in reader.page.inner_text(
        "#figure-compare .chart"
    )
    menus = reader.page.locator("#view-compare .board-controls select")
    menus.nth(0).select_option("circuits.active_head_share")
    reader.until("location.hash.includes('active_head_share')")
    reader.drawn()
    assert reader.page.inner_text("#figure-compare h3") == "Active heads"
    menus = reader.page.locator("#view-compare .board-controls select")
    menus.nth(2).select_option("step")
    reader.until("location.hash.includes('axis=step')")
    reader.page.wait_for_selector("text=optimiser steps (log scale, step 0 apart)")
    reader.drawn()
    reader.page.locator("#view-compare .board-controls select").nth(3).select_option("no")
    reader.until("location.hash.includes('log=no')")
    reader.drawn()
    assert "log scale" not in reader.page.inner_text("#figure-compare .chart")
    reader.page.click("button[aria-label='take out org/reference-3']")
    reader.until("document.querySelectorAll('.chips li').length === 7")
    reader.drawn()
    assert len(reader.texts("#figure-compare .legend li")) == 7
    reader.page.locator("#view-compare .board-controls select").nth(4).select_option(
        label="org/top"
    )
    reader.until("document.querySelectorAll('.chips li').length === 8")
    reader.page.wait_for_selector("text=measured with different profiles")
    reader.drawn()
    reader.page.go_back()
    reader.until("document.querySelectorAll('.chips li').length === 7")
    reader.drawn()


def test_a_metric_of_the_whole_series_is_compared_by_intervals(reader: Reader) -> None:
    slugs = "+".join(reader.slug(f"org/{n}") for n in ("low", "middle", "top"))
    reader.go(f"compare/{slugs}?metric=recall.emergence50")
    assert len(reader.page.query_selector_all("#figure-compare .mark-symbol path")) == 3
    assert len(reader.texts("#view-compare .board-controls select")) == 3  # no axis to choose


def test_the_page_of_a_series(reader: Reader) -> None:
    reader.page.click("text=top >> nth=0")
    reader.page.wait_for_selector("#view-series figure")
    reader.drawn()
    assert reader.page.title() == "org/top: factlife leaderboard"
    assert reader.texts("#view-series .section-title") == [
        "Recall", "Hallucination", "Circuits", "Injection", "Dynamics", "Provenance",
    ]  # fmt: skip
    titles = reader.texts("#view-series figure h3")
    assert titles == [
        "Whole-answer accuracy", "Hallucination X", "Active heads", "Share of heads in each role",
        "IoU with the last, heads", "Changes of role: heads", "Share of the gain that is kept",
        "Phases of learning",
    ]  # fmt: skip
    charts = reader.page.query_selector_all("#view-series .chart")
    # the family with a null has a small chart for each of five sets, retention one for each start
    assert len(charts) == 5 + 5 + 3 + 1
    assert all(c.query_selector(".mark-symbol path, .mark-rect path") for c in charts)
    assert "all factsLOCNAME" in "".join(
        reader.texts("#view-series figure:first-of-type .legend li")
    )
    assert "factlife run EleutherAI/org/top --profile standard" in reader.page.inner_text(
        "#view-series pre"
    )
    reader.page.click("text=All numbers of this track >> nth=0")
    assert "Emergence, 50 %" in reader.page.inner_text("#view-series table.metrics >> nth=0")
    reader.page.click("text=← All series")
    reader.page.wait_for_selector("#view-table:not([hidden])")
    reader.drawn()


def test_retention_has_fitted_laws_and_phases_are_shaded(reader: Reader, tmp_path: Path) -> None:
    reader.go(f"series/{reader.slug('org/top')}")
    assert reader.texts("#figure-retention h4") == ["early start", "mid start", "late start"]
    assert reader.texts("#figure-retention .legend li") == [
        "measured, with its interval", "logarithmic", "power", "exponential",
    ]  # fmt: skip
    lines = "#figure-retention .panel:first-child .mark-line path"
    assert len(reader.page.query_selector_all(lines)) == 3
    bands = "#figure-phases .mark-rect path"
    fills = reader.page.eval_on_selector_all(bands, "(a) => a.map((n) => n.getAttribute('fill'))")
    assert len(fills) == len(set(fills)) == 3  # falling, plateau, learning
    said = reader.page.inner_text("#figure-phases .chart")
    assert all(mark in said for mark in ("t1", "t2", "onset"))
    for figure in ("retention", "phases"):
        for kind in ("SVG", "PNG"):
            with reader.page.expect_download() as given:
                reader.page.click(f"#figure-{figure} button:has-text('{kind}')")
            given.value.save_as(tmp_path / kind)
            assert (tmp_path / kind).stat().st_size > 5000
    reader.page.click("#figure-retention summary")
    reader.page.wait_for_selector("#figure-retention table")


def test_a_result_without_curves_has_a_page_too(reader: Reader) -> None:
    reader.go(f"series/{reader.slug('../../alone')}")
    assert "only its last checkpoint is known here" in reader.page.inner_text("#view-series")
    reader.go(f"compare/{reader.slug('../../alone')}+{reader.slug('org/top')}")
    assert len(reader.texts("#figure-compare .legend li")) == 2


@pytest.mark.parametrize(
    "route", ["series/../../x", "series/nobody", "compare/", "series/__proto__"]
)
def test_an_address_that_is_not_there_shows_the_table(reader: Reader, route: str) -> None:
    reader.page.evaluate("(to) => { location.hash = to; }", route)
    reader.page.wait_for_timeout(100)
    reader.drawn()
    assert reader.page.is_visible("#view-table")


def test_evil_names_stay_text_in_every_view(reader: Reader) -> None:
    slug = reader.slug(EVIL)
    for route in (f"series/{slug}", f"compare/{slug}+{reader.slug('org/top')}"):
        reader.go(route)
        assert EVIL in reader.page.inner_text("main")
        assert reader.page.evaluate("document.images.length") == 0
    scripts = reader.page.evaluate("[...document.scripts].map((s) => s.src).filter(Boolean)")
    assert all(s.startswith(reader.address.rpartition("/")[0]) for s in scripts)


def test_keyboard_only(reader: Reader) -> None:
    """Tab to a sorting button, two boxes and the button that compares; then to a menu and back."""
    press = reader.page.keyboard.press

    def tab_to(selector: str, most: int = 80) -> None:
        for _ in range(most):
            press("Tab")
            if reader.page.evaluate("(s) => document.activeElement.matches(s)", selector):
                return
        raise AssertionError(f"the keyboard does not reach {selector}")

    tab_to("#standard thead button[data-column='4']")
    press("Enter")
    reader.until("document.getElementById('status').textContent.startsWith('Sorted')")
    for _ in range(2):
        tab_to("#standard .pick")
        press("Space")
    assert reader.page.inner_text("#status") == "2 of at most 8 series picked."
    reader.page.evaluate("document.getElementById('filter').focus()")
    tab_to("#compare")
    press("Enter")
    reader.page.wait_for_selector("#view-compare h2")
    reader.drawn()
    assert reader.page.evaluate("document.activeElement.textContent") == "Compare 2 series"
    tab_to("#view-compare select")
    press("ArrowDown")
    reader.until("location.hash.includes('metric=')")
    reader.drawn()
    tab_to("#view-compare details.data summary")
    press("Enter")
    reader.page.wait_for_selector("details.data[open] table")
    while not reader.page.evaluate("document.activeElement.matches('.back a')"):
        press("Shift+Tab")
    press("Enter")
    reader.page.wait_for_selector("#view-table:not([hidden])")
    reader.drawn()
    assert reader.page.evaluate("document.activeElement.id") == "compare"


def test_figures_are_downloaded_as_svg_and_png(reader: Reader, tmp_path: Path) -> None:
    reader.go(f"series/{reader.slug('org/top')}")
    for kind, start in (("SVG", b"<svg xmlns"), ("PNG", b"\x89PNG\r\n\x1a\n")):
        with reader.page.expect_download() as given:
            reader.page.locator(f"figure >> nth=3 >> button:has-text('{kind}')").click()
        given.value.save_as(tmp_path / kind)
        data = (tmp_path / kind).read_bytes()
        assert data.startswith(start)
        assert given.value.suggested_filename == f"circuits-1.{kind.lower()}"
    drawing = (tmp_path / "SVG").read_text("utf-8")
    for word in ("Share of heads in each role", "general", "training tokens (log scale"):
        assert word in drawing
    assert "var(--" not in drawing
    width = int.from_bytes((tmp_path / "PNG").read_bytes()[16:20], "big")
    assert width > 1000  # two pixels for each of the page


@pytest.mark.parametrize("view", ["", "series/{}", "compare/{}"])
@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (390, "dark"), (1280, "dark")])
def test_every_view_fits_a_phone_and_follows_the_scheme(
    browser: Any, site: Path, view: str, width: int, scheme: str
) -> None:
    seen = Reader(browser, (site / "index.html").as_uri(), color_scheme=scheme)
    seen.page.set_viewport_size({"width": width, "height": 800})
    seen.go(view.format(seen.slug("org/top")))
    ground = seen.page.evaluate("getComputedStyle(document.body).backgroundColor")
    inks = seen.page.eval_on_selector_all(
        ".chart text", "(all) => [...new Set(all.map((n) => n.getAttribute('fill')))]"
    )
    wider = seen.wider
    seen.context.close()
    assert seen.said == []
    assert wider <= 0
    assert ground == ("rgb(20, 23, 26)" if scheme == "dark" else "rgb(255, 255, 255)")
    assert ("#a3adb8" if scheme == "dark" else "#5a636e") in inks or not view


def test_served_it_asks_for_its_own_files_only_and_for_plots_on_demand(
    browser: Any, site: Path
) -> None:
    with serve(site) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        home = f"http://127.0.0.1:{server.server_address[1]}/"
        seen = Reader(browser, home)
        first = list(seen.asked)
        seen.go(f"series/{seen.slug('org/top')}")
        later = seen.asked[len(first) :]
        seen.context.close()
        server.shutdown()
        thread.join()
    assert first == [home]
    assert seen.said == []
    assert all(a.startswith((home, "data:")) for a in later)
    assert {a.rpartition("/")[2].partition("-")[0] for a in later} == {"vega.js", "top"}


def test_of_a_thousand_rows_the_first_are_shown_and_the_others_on_demand(
    browser: Any, tmp_path: Path
) -> None:
    for i in range(FIRST + 30):
        result = make_result(f"org/model-{i:03d}", metrics={ACCURACY: (0.0, i / 100, 1.0)})
        write_json(tmp_path / "in" / str(i) / "result.json", result)
    page = build_board([tmp_path / "in"], tmp_path / "out")
    seen = Reader(browser, page.as_uri())
    shown = "#standard tbody tr:not([hidden]) .name"
    assert len(seen.texts(shown)) == FIRST
    seen.page.locator("#standard thead button").nth(4).click()
    seen.until("document.getElementById('status').textContent !== ''")
    assert seen.texts(shown)[:2] == ["org/model-069", "org/model-068"]
    assert len(seen.texts(shown)) == FIRST
    seen.page.fill("#filter", "model-06")
    seen.until("document.getElementById('status').textContent.includes('match')")
    assert len(seen.texts(shown)) == 10
    seen.page.fill("#filter", "")
    seen.until("document.getElementById('status').textContent === ''")
    seen.page.click("text=Show all 70 rows")
    seen.until("document.querySelectorAll('#standard tbody tr:not([hidden])').length === 70")
    asked = [a.rpartition("/")[2] for a in seen.asked]
    seen.context.close()
    assert asked == ["index.html", "rows.js"]
    assert seen.said == []
