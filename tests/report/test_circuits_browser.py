"""Circuits in the report, drawn in headless Chromium."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.pages import in_chromium, needs_chromium
from tests.report.circuit_run import LARGE, CircuitDesign, build_circuit_run
from tests.report.synthetic import Design

from factlife.report import write_report
from factlife.store import RunStore

pytestmark = needs_chromium
LOOK = """
const charts = [...document.querySelectorAll('.chart[data-figure^="circuit-"]')];
const map = document.getElementById("figure-circuit-map");
const fact = document.getElementById("figure-circuit-fact");
return {
  charts: charts.length,
  empty: charts.filter((c) => !c.querySelector(".mark-symbol path, .mark-rect path, .missing"))
    .map((c) => c.dataset.figure),
  failed: charts.map((c) => c.textContent).filter((t) => t.includes("could not be drawn")),
  holes: [...charts, map, fact].filter((c) => /NaN|undefined|Infinity/.test(c.textContent)).length,
  wider: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  cells: map.querySelectorAll(".cell").length,
  roles: [...new Set([...map.querySelectorAll(".cell")].map((c) => c.classList[1]))].sort(),
  fill: getComputedStyle(map.querySelector(".cell.general rect")).fill,
  edges: fact.querySelectorAll(".edge").length, nodes: fact.querySelectorAll(".node").length,
  broken: [...document.querySelectorAll(".drawing path, .drawing rect, .drawing text")]
    .filter((e) => /NaN|undefined|Infinity/.test(e.outerHTML)).length,
  tall: fact.querySelector(".drawing svg").getBoundingClientRect().height,
  scrolls: fact.querySelector(".drawing").scrollWidth - fact.querySelector(".drawing").clientWidth,
  stops: fact.querySelectorAll('.drawing [tabindex="0"]').length,
  scripts: document.scripts.length, images: document.images.length,
};
"""


@pytest.fixture(scope="module")
def page(circuit_run: RunStore) -> Path:
    return circuit_run.root / "report.html"


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_charts_and_drawings_are_drawn_and_fit_the_screen(
    page: Path, width: int, dark: bool
) -> None:
    seen = in_chromium(page, LOOK, width, dark)
    assert seen["charts"] > 35
    assert (seen["empty"], seen["failed"], seen["holes"], seen["broken"]) == ([], [], 0, 0)
    assert seen["wider"] <= 0
    assert seen["cells"] == 4 * 4 + 4
    assert seen["fill"] == ("rgb(143, 134, 240)" if dark else "rgb(47, 42, 133)")
    assert seen["edges"] > 60
    assert seen["nodes"] > 20
    assert seen["stops"] == 1  # one stop for the tab key, arrows inside


KEYS = """
const press = (key) => document.activeElement.dispatchEvent(
  new window.KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
"""


def test_slider_menu_and_keys_move_over_the_map(page: Path) -> None:
    script = (
        KEYS
        + """
    const map = document.getElementById("figure-circuit-map");
    const [menu, range] = ["scope", "place"].map((n) => map.querySelector(`[data-control=${n}]`));
    const data = JSON.parse(document.getElementById("drawings").textContent);
    const seen = () => [...map.querySelectorAll(".cell")]
      .map((c) => `${c.getAttribute("data-at")}=${c.classList[1]}`).sort();
    const wanted = (scope, place) => Object.entries(data.map).flatMap(([kind, m]) =>
      [...m.scopes[scope][place]].map((letter, i) =>
        `${kind} ${Math.floor(i / m.size)} ${i % m.size}=` +
        data.roles[data.letters.indexOf(letter)])).sort();
    const found = [[seen(), wanted("overall", 13)]];
    range.value = 5;
    range.dispatchEvent(new window.Event("input"));
    found.push([seen(), wanted("overall", 5)]);
    menu.value = "company_hq";
    menu.dispatchEvent(new window.Event("change"));
    found.push([seen(), wanted("company_hq", 5)]);
    const details = map.querySelector("details");
    details.open = true;
    await wait(200);
    map.querySelector('[data-at="head 0 3"]').dispatchEvent(new window.Event("click"));
    const at = () => document.activeElement.getAttribute("data-at");
    const path = [at()];
    for (const key of ["ArrowUp", "ArrowLeft", "ArrowLeft", "ArrowLeft", "ArrowLeft", "ArrowRight",
                       "ArrowDown", "ArrowDown"]) { press(key); path.push(at()); }
    return { path, readout: map.querySelector(".readout").textContent,
             name: document.activeElement.getAttribute("aria-label"),
             stops: map.querySelectorAll('.drawing svg [tabindex="0"]').length,
             found, type: range.type, said: range.getAttribute("aria-valuetext"),
             shown: map.querySelector("output").textContent,
             rows: details.querySelectorAll("tbody tr").length,
             last: details.querySelector("tbody tr:last-child").textContent };
    """
    )
    seen = in_chromium(page, script)
    for drawn, wanted in seen["found"]:
        assert drawn == wanted
    assert len({str(drawn) for drawn, _ in seen["found"]}) == 3  # each changed the map
    assert seen["type"] == "range"
    assert seen["said"] == seen["shown"]
    assert "tokens" in seen["shown"]
    assert seen["rows"] == 20
    assert "company_hq" in seen["last"]
    assert seen["path"] == [
        "head 0 3", "head 1 3", "head 1 2", "head 1 1", "head 1 0", "ffn 1 0", "head 1 0",
        "head 0 0", "head 0 0",
    ]  # fmt: skip
    assert seen["readout"].lower() == seen["name"].lower() + "."
    assert seen["name"].startswith("layer 0, head 0: ")
    assert seen["stops"] == 1


def test_an_edge_tells_its_contribution_to_pointer_keyboard_and_table(
    page: Path, circuit_run: RunStore
) -> None:
    script = (
        KEYS
        + """
    const figure = document.getElementById("figure-circuit-fact");
    const readout = () => figure.querySelector(".readout").textContent;
    const before = readout();
    const edges = [...figure.querySelectorAll(".edge")];
    edges.find((e) => e.classList.contains("attention"))
      .dispatchEvent(new window.Event("pointerenter"));
    const pointed = readout(), lit = figure.querySelectorAll(".edge.on").length;
    figure.querySelector(".drawing svg").dispatchEvent(new window.Event("pointerleave"));
    const left = [readout(), figure.querySelectorAll(".on").length];
    edges[0].dispatchEvent(new window.Event("click"));
    press("ArrowRight");
    const focused = readout();
    press("ArrowDown");
    const lower = readout();
    figure.querySelector(".node").dispatchEvent(new window.Event("pointerenter"));
    const node = readout();
    const details = figure.querySelector("details");
    details.open = true;
    await wait(200);
    const table = [...details.querySelectorAll("tbody tr")]
      .map((r) => [...r.cells].map((c) => c.textContent));
    const menu = figure.querySelector("[data-control=least]");
    menu.value = "0.2";
    menu.dispatchEvent(new window.Event("change"));
    const few = figure.querySelectorAll(".edge").length;
    const [facts, range] = ["fact", "place"]
      .map((n) => figure.querySelector(`[data-control=${n}]`));
    const tokens = () =>
      [...figure.querySelectorAll(".token")].map((t) => t.textContent).join(" ");
    const first = tokens();
    facts.value = "3";
    facts.dispatchEvent(new window.Event("change"));
    const second = tokens();
    range.value = 0;
    range.dispatchEvent(new window.Event("input"));
    const other = { first, second, readout: readout(), options: facts.options.length,
                    picked: facts.selectedOptions[0].textContent };
    return { other, before, pointed, lit, left, focused, lower, node, table, few,
             all: edges.length };
    """
    )
    seen = in_chromium(page, script)
    fact = "city_in_country.rio_de_janeiro"
    last = max(r["step"] for r in circuit_run.read("circuit_edges").to_pylist())
    edges = [e for e in circuit_run.read("circuit_edges").to_pylist()
             if e["fact_id"] == fact and e["step"] == last]  # fmt: skip
    assert seen["before"].endswith(f"{len(edges)} lines.")
    assert seen["all"] == len(edges) == len(seen["table"])
    attention = [e for e in edges if e["edge"] == "attention"]
    top = max(attention, key=lambda e: (e["layer"], e["contribution"]))
    assert seen["pointed"].startswith(f"Layer {top['layer']}, attention ")
    assert f"{100 * top['contribution']:.1f}" in seen["pointed"]
    assert all(str(h) in seen["pointed"].rpartition("head")[2] for h in top["heads"])
    assert seen["lit"] == 1
    assert seen["left"] == [seen["before"], 0]
    assert seen["focused"].startswith("Layer 3, ")
    assert seen["lower"].startswith("Layer 2, ")
    assert "attention" in seen["node"] or "residual stream" in seen["node"]
    shown = {(r[2], r[3], r[4], r[6]): (float(r[8]), r[9]) for r in seen["table"]}
    for e in edges:
        key = (str(e["layer"]), e["edge"], str(e["source_position"]), str(e["target_position"]))
        assert shown[key][0] == pytest.approx(e["contribution"], abs=1e-4)
        assert shown[key][1] == " ".join(map(str, e["heads"]))
    assert seen["few"] == sum(e["contribution"] >= 0.2 for e in edges)
    other = seen["other"]
    assert other["first"] != other["second"]
    assert other["options"] == 10
    assert other["picked"].partition(": ")[2] in other["readout"]
    assert "step0 (0 tokens)" in other["readout"]


def unusual(design: CircuitDesign, root: Path) -> Any:
    return in_chromium(write_report(build_circuit_run(root / "run", design)), LOOK, 390)


def test_a_large_model_is_drawn_and_scrolls(tmp_path: Path) -> None:
    recall = Design(tokens=(0, 2_000_000, 40_000_000), facts_per_relation=1, draws=20, templates=1)
    seen = unusual(CircuitDesign(recall, layers=LARGE.layers, heads=LARGE.heads), tmp_path)
    assert seen["cells"] == 32 * 33
    assert (seen["empty"], seen["failed"], seen["broken"]) == ([], [], 0)
    assert seen["wider"] <= 0
    assert seen["scrolls"] > 0  # inside its own box
    assert 1000 < seen["tall"] < 1400
    assert seen["edges"] > 500


SMALL: dict[str, Any] = {"facts_per_relation": 1, "draws": 20, "templates": 1}
EVIL = ("<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "</svg><b>x", "\n")
UNUSUAL = {
    "one checkpoint": CircuitDesign(Design(tokens=(3_000_000,), **SMALL)),
    "evil names, parallel with experts": CircuitDesign(
        Design(tokens=(0, 4_000, 80_000), names=(*EVIL[:2], "'\"`"), **SMALL),
        tokens=EVIL, experts=8, parallel=True,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", list(UNUSUAL))
def test_unusual_runs_are_drawn_too(tmp_path: Path, kind: str) -> None:
    seen = unusual(UNUSUAL[kind], tmp_path)
    assert (seen["empty"], seen["failed"], seen["holes"], seen["broken"]) == ([], [], 0, 0)
    assert seen["wider"] <= 0
    assert seen["cells"] == 20 + (32 if "experts" in kind else 0)
    assert (seen["scripts"], seen["images"]) == (7, 0)  # five of code, two of data
