"""The report, drawn in headless Chromium."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.pages import in_chromium, needs_chromium
from tests.report.synthetic import Design

from factlife.report import write_report
from factlife.store import RunStore

pytestmark = needs_chromium
LOOK = """
const charts = [...document.querySelectorAll(".chart")];
return {
  dark: window.matchMedia("(prefers-color-scheme: dark)").matches,
  charts: charts.length,
  empty: charts.filter((c) => !c.querySelector(".mark-symbol path, .mark-rect path"))
    .map((c) => c.dataset.figure),
  failed: charts.filter((c) => c.querySelector(".missing")).map((c) => c.textContent),
  holes: charts.map((c) => c.textContent).filter((t) => /NaN|undefined|null|Infinity/.test(t)),
  wider: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  loc: getComputedStyle(document.documentElement).getPropertyValue("--loc"),
  strokes: [...document.querySelectorAll("#figure-accuracy .mark-line path")]
    .map((p) => p.getAttribute("stroke")),
  scripts: document.scripts.length, images: document.images.length,
};
"""


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_every_chart_is_drawn_in_its_colours_and_fits_the_screen(
    full_run: RunStore, width: int, dark: bool
) -> None:
    seen = in_chromium(full_run.root / "report.html", LOOK, width, dark)
    assert seen["dark"] is dark
    assert seen["charts"] > 35
    assert seen["empty"] == []
    assert seen["failed"] == []
    assert seen["holes"] == []
    assert seen["wider"] <= 0
    assert seen["loc"] in seen["strokes"]


def test_a_reader_can_choose_facts_and_read_the_data(full_run: RunStore) -> None:
    script = """
    const figure = document.getElementById("figure-generation");
    const menu = figure.querySelector("select"), details = figure.querySelector("details.data");
    const stroke = () => figure.querySelector(".mark-line path").getAttribute("stroke");
    details.open = true;
    await wait(300);
    const before = stroke();
    menu.value = "stated";
    menu.dispatchEvent(new window.Event("change"));
    await wait(1500);
    const rows = [...details.querySelectorAll("tbody tr")].map((r) => r.cells[1].textContent);
    return { before, after: stroke(), rows: rows.length, scopes: [...new Set(rows)],
             head: details.querySelector("thead").textContent,
             button: details.querySelector("button").textContent };
    """
    seen = in_chromium(full_run.root / "report.html", script)
    assert seen["before"] != seen["after"]
    assert seen["rows"] == 26  # two numbers at 13 checkpoints
    assert seen["scopes"] == ["stated"]
    assert seen["head"].startswith("metricscoperevision")
    assert seen["button"] == "Download as CSV"


@pytest.mark.parametrize(
    "design",
    [
        Design(tokens=(3_000_000,), subsets=False),
        Design(
            tokens=[None] * 3, steps=[None] * 3, candidates=False, generation=False, templates=1
        ),
        Design(
            tokens=(0, 2000, 4_000_000), series="</script><script>alert(1)</script>",
            names=("<img src=x onerror=alert(1)>", '"onmouseover="alert(1)', "var(--loc)"),
            subset_names=("<svg onload=alert(1)>", "'];alert(1);['"),
        ),
    ],
    ids=["one checkpoint", "little known", "evil names"],
)  # fmt: skip
def test_unusual_runs_are_drawn_too(make_run: Callable[[Design], RunStore], design: Design) -> None:
    seen = in_chromium(write_report(make_run(design)), LOOK)
    assert seen["empty"] == []
    assert seen["failed"] == []
    assert seen["holes"] == []
    assert seen["wider"] <= 0
    assert (seen["scripts"], seen["images"]) == (5, 0)
