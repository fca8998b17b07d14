"""The leaderboard in headless Chromium: sorting, filtering, downloads, phone and dark."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.hub.results import make_result
from tests.pages import in_chromium, needs_chromium

from factlife.hub import build_board

pytestmark = needs_chromium
ACCURACY = "recall.whole_answer_accuracy"


@pytest.fixture
def page(folder: Callable[..., Path], tmp_path: Path) -> Path:
    results = [
        make_result("middle", metrics={ACCURACY: (0.4, 0.5, 0.6)}),
        make_result("best", metrics={ACCURACY: (0.8, 0.9, 0.95)}),
        make_result("none", metrics={ACCURACY: None}),
        make_result("worst", metrics={ACCURACY: (0.05, 0.1, 0.2)}),
        make_result("=cmd()</script><script>alert(1)</script>", "demo"),
    ]
    return build_board([folder(*results)], tmp_path / "out")


def test_sort_filter_and_download(page: Path) -> None:
    script = """
    const texts = (found) => [...found].map((n) => n.textContent);
    const table = document.querySelector("#standard table.board");
    const names = () => texts(table.querySelectorAll(".name"));
    const head = table.querySelectorAll("thead button")[4];
    const sorted = [];
    for (let i = 0; i < 2; i++) {
      head.focus(); head.click();
      const said = head.closest("th").getAttribute("aria-sort");
      sorted.push([names(), said, document.activeElement === head]);
    }
    const status = document.getElementById("status"), spoken = status.textContent;
    const filter = document.getElementById("filter");
    filter.value = "worst gptneox"; filter.dispatchEvent(new window.Event("input"));
    const kept = texts(document.querySelectorAll("tbody:not([hidden]) .name"));
    const files = [];
    window.URL.createObjectURL = (blob) => { files.push(blob); return "blob:x"; };
    window.HTMLAnchorElement.prototype.click = () => {};
    for (const button of document.querySelectorAll("[data-download]")) button.click();
    return { sorted, spoken, kept, counted: status.textContent,
             files: await Promise.all(files.map((f) => f.text())),
             scripts: document.scripts.length };
    """
    seen = in_chromium(page, script)
    down, up = seen["sorted"]
    assert down == [["best", "middle", "worst", "none"], "descending", True]
    assert up == [["worst", "middle", "best", "none"], "ascending", True]
    assert seen["spoken"] == "Sorted by Whole-answer accuracy, ascending."
    assert seen["kept"] == ["worst"]
    assert seen["counted"] == "1 of 5 rows match."
    as_json, as_csv = seen["files"]
    assert '"series": "best"' in as_json
    lines = as_csv.split("\r\n")
    assert lines[0].startswith("series,repo,architecture,parameters")
    assert len(lines) == 1 + 5 + 1
    assert lines[1].startswith("'=cmd()")  # no spreadsheet takes it for a formula
    assert seen["scripts"] == 3


@pytest.mark.parametrize(("width", "dark"), [(390, False), (1280, True)])
def test_it_fits_the_screen_in_both_schemes(page: Path, width: int, dark: bool) -> None:
    script = """
    for (const d of document.querySelectorAll("details")) d.open = true;
    const behind = document.querySelector(".behind").getBoundingClientRect();
    const wide = document.documentElement.clientWidth;
    return { wider: document.documentElement.scrollWidth - wide,
             dark: window.matchMedia("(prefers-color-scheme: dark)").matches,
             background: getComputedStyle(document.body).backgroundColor,
             behind: behind.right - wide };
    """
    seen = in_chromium(page, script, width, dark)
    assert seen["wider"] <= 0
    assert seen["behind"] <= 0
    assert seen["dark"] is dark
    assert seen["background"] == ("rgb(20, 23, 26)" if dark else "rgb(255, 255, 255)")
