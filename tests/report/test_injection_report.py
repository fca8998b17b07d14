"""The injection sections of the report: numbers from the tables, holes with their reasons."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.injection import made_up
from tests.injection.made_up import Truth, full_gain
from tests.pages import Element, check_page, data_of, in_chromium, needs_chromium
from tests.report.injection_run import add_injection, build_injection_run, main_design
from tests.report.synthetic import Design, build_run
from typer.testing import CliRunner

from factlife.cli import app
from factlife.report import write_report
from factlife.report.injection_data import Injection, load_injection
from factlife.report.injection_rows import (
    MOST_STEPS,
    curve_rows,
    old_rows,
    retention_rows,
    spacing_rows,
)
from factlife.report.text import number
from factlife.schema import INJECTION_TABLES
from factlife.store import RunStore, write_json

SECTIONS = ("injection", "forgetting", "spacing", "sweeps", "corruption", "claims")
Row = dict[str, Any]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    """Two starts with three seeds and a spacing study, with the report."""
    made = build_injection_run(tmp_path_factory.mktemp("injected") / "run")
    write_report(made)
    return made


@pytest.fixture(scope="module")
def page(run: RunStore) -> Element:
    return check_page((run.root / "report.html").read_text("utf-8"))


@pytest.fixture(scope="module")
def shown(run: RunStore) -> Injection:
    scores = {(r["metric"], r["scope"], r["revision"]): r for r in run.read("scores").to_pylist()}
    found = load_injection(run, scores)
    assert found is not None
    return found


def rows_of(table: dict[str, Any]) -> list[Row]:
    def plain(c: Any) -> list[Any]:
        if not isinstance(c, dict):
            return list(c)
        return [None if i is None else c["names"][i] for i in c["codes"]]

    columns = [plain(c) for c in table.values()]
    return [dict(zip(table, values, strict=True)) for values in zip(*columns, strict=True)]


def test_every_injection_figure_has_rows_in_each_of_its_panels(page: Element) -> None:
    charts = data_of(page, "charts")
    wanted = {"injection-curves", "injection-effectivity", "injection-published",
              "injection-retention", "spacing-slopes-spacing-late", "spacing-left-spacing-late",
              "corruption-facts-nats", "corruption-facts-share",
              "corruption-background"}  # fmt: skip
    figures = {k: f for k, f in charts["figures"].items() if k in wanted}
    assert set(figures) == wanted
    for name, figure in figures.items():
        table = rows_of(charts["tables"][figure["dataset"]])
        for where in [p["where"] for p in figure["panels"]] or [{}]:
            chosen = {**figure["where"], **where}
            kept = [r for r in table if all(r[c] in allowed for c, allowed in chosen.items())]
            assert kept, f"{name} draws nothing for {where}"
            assert set(figure["columns"]) <= set(kept[0]), name


def test_headline_cards_show_the_injection_track(run: RunStore, page: Element) -> None:
    metrics = json.loads((run.root / "result.json").read_text("utf-8"))["metrics"]
    # no background-only run in it: corruption has no number, and says so
    cards = page.one("section", id="headline")
    unknown = cards.one("article", data_metric="injection.corruption").all("p", class_="value")
    assert metrics["injection.corruption"]["value"] is None
    assert "missing" in unknown[0].attributes["class"]
    for name in ("effectivity", "decay_constant"):
        wanted = metrics[f"injection.{name}"]
        card = page.one("section", id="headline").one("article", data_metric=f"injection.{name}")
        assert (
            float(card.all("p", class_="value")[0].one("data").attributes["value"])
            == (wanted["value"])
        )
        assert wanted["unit"] in card.text


def test_scopes_of_injection_are_no_sets_of_facts(page: Element) -> None:
    assert "duplication" not in page.one("section", id="subsets").text
    head = page.one("section", id="numbers").one("thead").text
    assert head.startswith("metric all facts LOC NAME stated unstated")
    assert "paraphrase" not in head


def test_curves_are_means_over_probes_passages_and_seeds(run: RunStore, shown: Injection) -> None:
    wanted = ("early", "duplication", "semantic")
    found = [r for r in curve_rows(shown) if (r["scope"], r["arm"], r["depth"]) == wanted]
    probes = run.read("probes").to_pylist()

    def mean(step: int) -> float:
        values = [p["logprob_sum_nats"] for p in probes if p["step"] == step
                  and p["arm"] == "duplication" and p["depth"] == "semantic"
                  and p["injection_run"].startswith("early")]  # fmt: skip
        assert len(values) == 18  # 3 seeds of 6 passages with one probe
        return float(np.mean(values))

    for r in (found[0], found[len(found) // 2], found[-1]):
        assert r["value"] == pytest.approx(mean(r["step"]) - mean(40))  # first injection: 40
    marks = [r["step"] for r in curve_rows(shown) if r["kind"] == "injection"
             and (r["scope"], r["arm"]) == ("early", "once")]  # fmt: skip
    assert marks == [40]


def test_long_runs_are_thinned_out_but_keep_their_ends(shown: Injection) -> None:
    steps = sorted({r["step"] for r in curve_rows(shown) if r["kind"] == "curve"})
    assert len(shown.curves[0].steps) > MOST_STEPS + 20 > len(steps)
    assert (steps[0], steps[-1]) == (0, int(shown.curves[0].steps[-1]))
    assert {40, 41, 80, 81} <= set(steps)


def test_retention_comes_with_its_interval_and_three_laws(shown: Injection) -> None:
    rows = [r for r in retention_rows(shown) if (r["scope"], r["arm"]) == ("late", "once")]
    laws = {r["law"] for r in rows}
    assert laws == {"measured", "logarithmic", "power", "exponential"}
    measured = [r for r in rows if r["law"] == "measured"]
    assert all(r["ci_low"] <= r["value"] <= r["ci_high"] for r in measured)
    assert measured[0]["x"] == 0.0
    truth = 0.25  # of the made-up run, per decade
    assert shown.kept["late", "once"].fits.a[0] == pytest.approx(truth, rel=0.2)
    assert shown.kept["late", "once"].theil_sen == pytest.approx(truth, rel=0.25)


def test_the_table_of_laws_names_the_best_one(page: Element) -> None:
    table = page.one("section", id="forgetting").one("table")
    assert "logarithmic" in table.text
    assert len(table.one("tbody").all("tr")) == 6  # two starts of three arms


def test_spacing_rows_are_the_scores(run: RunStore, shown: Injection) -> None:
    scores = {r["scope"]: r for r in run.read("scores").to_pylist()
              if r["metric"] == "injection.accumulation"}  # fmt: skip
    slopes = [r for r in spacing_rows(shown) if r["kind"] == "slope"]
    assert [r["spacing"] for r in slopes] == [10, 30, 100]
    for r in slopes:
        assert r["value"] == scores[f"spacing-late.every-{r['spacing']}"]["value"]
    left = [r for r in spacing_rows(shown) if r["kind"] == "left" and r["spacing"] == 10]
    assert [r["k"] for r in left] == [1, 2, 3, 4]


def test_old_knowledge_is_shown_before_during_and_after(shown: Injection) -> None:
    rows = list(old_rows(shown))
    for measure in ("facts_nats", "facts_share", "background"):
        early = [r for r in rows if (r["scope"], r["measure"]) == ("early", measure)]
        assert [r["step"] for r in early][:2] == [0, 220]  # the last of 5 injections: 200, + 20
        assert all(r["ci_low"] <= r["value"] <= r["ci_high"] for r in early)
    fall = [r["value"] for r in rows if (r["scope"], r["measure"]) == ("early", "facts_nats")]
    assert fall[0] - fall[1] == pytest.approx(0.5, abs=0.05)


def test_the_claims_table_shows_all_fourteen_with_their_numbers(
    page: Element, shown: Injection
) -> None:
    lines = page.one("section", id="claims").one("tbody").all("tr")
    assert len(lines) == 14
    for line, claim in zip(lines, shown.claims, strict=True):
        assert line.one("span", class_="chip").text == claim.verdict
        values = [float(d.attributes["value"]) for d in line.all("data")]
        assert values == [
            p.row["value"] for p in claim.parts if p.row and p.row["value"] is not None
        ]
    first = shown.claims[0].parts[0].row
    assert first is not None
    assert number(first["value"], first["unit"]) in lines[0].text


def test_unbalanced_arms_are_announced(page: Element) -> None:
    banner = page.one("section", id="injection").one("p", class_="banner").text
    assert banner.startswith("Unbalanced (late)")  # two seeds of the spacing study


def test_sweeps_are_listed_with_their_slopes(tmp_path: Path) -> None:
    plain = Truth(full_gain(), own=0.05)
    swept = [main_design(truths={"late": plain}, seeds=(0,), study="batch", varied="batch_rows",
                         value=float(b)) for b in (8, 64)]  # fmt: skip
    times = {f"times-{n}": [40 + 20 * i for i in range(n)] for n in (1, 4)}
    gain = {(a, d): 0.5 for a in times for d in made_up.DEPTHS}
    rare = main_design(truths={"late": Truth(gain, own=0.05)}, seeds=(0,), study="frequency",
                       arms=times, tail=60)  # fmt: skip
    page = small_run(tmp_path, *swept, rare)
    section = page.one("section", id="sweeps")
    first = [t.one("tbody").all("th") for t in section.all("table")]
    assert [h.text for h in first[0]] == ["batch_rows=8-late", "batch_rows=64-late"]
    assert [h.text for h in first[1]] == ["frequency-late.times-1", "frequency-late.times-4"]
    assert {h.text for h in first[2]} == {"batch_rows-late", "frequency-late"}
    assert len(section.all("table")[0].all("data")) == 6  # three numbers of two settings
    assert not page.all("section", id="forgetting")  # no main run


# ---- unusual runs ----------------------------------------------------------------------------


def small_run(tmp_path: Path, *designs: made_up.Design, draws: int = 100) -> Element:
    run = build_run(tmp_path / "run", Design(tokens=(2000, 100_000), facts_per_relation=3))
    add_injection(run, *designs, draws=draws)
    return check_page(write_report(run).read_text("utf-8"))


def test_a_run_without_injection_has_none_of_the_sections(tmp_path: Path) -> None:
    run = build_run(tmp_path / "run", Design(tokens=(2000, 100_000), facts_per_relation=3))
    page = check_page(write_report(run).read_text("utf-8"))
    assert not {s.attributes["id"] for s in page.all("section")} & set(SECTIONS)
    assert "injection_curves" not in data_of(page, "charts")["tables"]


def test_nothing_learned_is_said_and_not_drawn(tmp_path: Path) -> None:
    page = small_run(tmp_path, main_design(truths={"late": Truth({}, own=0.3)}, seeds=(0,)))
    assert "No chart: no arm gained anything with certainty" in (
        page.one("section", id="forgetting").text
    )
    assert not page.all("section", id="spacing")
    assert not page.one("section", id="injection").all("select")  # one start only
    first = page.one("section", id="claims").one("tbody").all("tr")[0]
    assert first.one("span", class_="chip").text in ("undecided", "not supported")


def test_failed_runs_and_flags_are_in_the_table_of_runs(tmp_path: Path) -> None:
    run = build_run(tmp_path / "run", Design(tokens=(2000, 100_000), facts_per_relation=3))
    add_injection(run, main_design(truths={"late": Truth(full_gain())}, seeds=(0,)), draws=100)
    row = run.read("injection_runs").to_pylist()[0]
    evil = "</script><script>alert(1)</script>"
    row |= {"injection_run": "early-seed0", "position": "early", "flags": [evil],
            "revision": evil, "reason": "the loss is not finite at step 7"}  # fmt: skip
    run.write_part("injection_runs", [row], {"injection_run": "early-seed0"})
    page = check_page(write_report(run).read_text("utf-8"))
    text = page.one("section", id="injection").text
    assert "no: the loss is not finite at step 7" in text
    assert evil in text
    assert "did not finish: early-seed0" in page.one("section", id="claims").text


def test_only_failed_runs(tmp_path: Path) -> None:
    run = build_run(tmp_path / "run", Design(tokens=(2000, 100_000), facts_per_relation=3))
    add_injection(run, main_design(truths={"late": Truth(full_gain())}, seeds=(0,)), draws=100)
    row = run.read("injection_runs").to_pylist()[0] | {"reason": "the loss is not finite at step 7"}
    for spec in INJECTION_TABLES:
        shutil.rmtree(run.root / "tables" / spec.name)
    run.write_part("injection_runs", [row], {"injection_run": row["injection_run"]})
    page = check_page(write_report(run).read_text("utf-8"))
    assert "the loss is not finite at step 7" in page.one("section", id="injection").text


# ---- drawn -----------------------------------------------------------------------------------

LOOK = """
const ids = ["injection", "forgetting", "spacing", "corruption"];
const charts = ids.flatMap((i) => [...document.querySelectorAll(`#${i} .chart`)]);
const menu = document.querySelector("#injection select");
const lines = () => [...document.querySelectorAll("#figure-injection-curves .mark-line path")]
  .map((p) => p.getAttribute("d")).join();
const before = lines();
menu.value = "early";
menu.dispatchEvent(new window.Event("change"));
await wait(2500);
return {
  charts: charts.length,
  empty: charts.filter((c) => !c.querySelector(".mark-line path, .mark-rect path"))
    .map((c) => c.dataset.figure),
  failed: charts.filter((c) => c.querySelector(".missing")).map((c) => c.textContent),
  holes: charts.map((c) => c.textContent).filter((t) => /NaN|undefined|null|Infinity/.test(t)),
  wider: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  changed: lines() !== before,
};
"""


@needs_chromium
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_every_chart_is_drawn_and_fits_the_screen(run: RunStore, width: int, dark: bool) -> None:
    seen = in_chromium(run.root / "report.html", LOOK, width, dark)
    assert seen["charts"] == 4 + 2 + 2 + 3 + 1 + 3 + 3
    assert seen["empty"] == []
    assert seen["failed"] == []
    assert seen["holes"] == []
    assert seen["wider"] <= 0
    assert seen["changed"]


# ---- factlife compare ------------------------------------------------------------------------


def test_the_command_compares_two_runs(run: RunStore, tmp_path: Path) -> None:
    shutil.copytree(run.root, tmp_path / "larger")
    path = tmp_path / "larger" / "result.json"
    result = json.loads(path.read_text("utf-8"))
    result["series_name"] = "larger"
    result["model"]["parameters"] *= 100
    write_json(path, result)
    both = ["compare", str(run.root), str(tmp_path / "larger")]
    done = CliRunner().invoke(app, [*both, "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert [c["number"] for c in found] == list(range(1, 15))
    assert found[5]["verdict"] == "undecided"  # the same effectivity at both sizes
    assert found[5]["parts"][0]["row"]["value"] == pytest.approx(0.0, abs=1e-12)
    shown = CliRunner().invoke(app, both)
    assert "Effectivity grows with model size" in shown.stdout
    one = CliRunner().invoke(app, ["compare", str(run.root)])
    assert one.exit_code == 2
