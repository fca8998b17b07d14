"""Circuits in report.html: every number from the tables, every hole with its reason."""

from __future__ import annotations

import base64
import dataclasses
import json
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.pages import Element, check_page, data_of
from tests.report.circuit_run import FOURTEEN, LARGE, CircuitDesign, build_circuit_run
from tests.report.synthetic import Design, build_run

from factlife.report import write_report
from factlife.report.circuit_roles import role_maps
from factlife.report.circuit_view import _log_spread, _shape, _spread, select
from factlife.report.view import load_view
from factlife.scores import METRICS
from factlife.store import RunStore

EVIL = "</script><script>alert(1)</script>"
SECTIONS = ("circuits", "role-map", "one-circuit", "circuit-changes", "ablation", "thresholds")
Rows = list[dict[str, Any]]
MakeRun = Callable[[CircuitDesign], RunStore]


@pytest.fixture(scope="module")
def run(circuit_run: RunStore) -> RunStore:
    return circuit_run


@pytest.fixture(scope="module")
def page(run: RunStore) -> Element:
    return check_page((run.root / "report.html").read_text("utf-8"))


@pytest.fixture(scope="module")
def charts(page: Element) -> dict[str, Any]:
    found: dict[str, Any] = data_of(page, "charts")
    return found


@pytest.fixture(scope="module")
def drawings(page: Element) -> dict[str, Any]:
    found: dict[str, Any] = data_of(page, "drawings")
    return found


@pytest.fixture
def make(tmp_path: Path) -> MakeRun:
    def build(design: CircuitDesign) -> RunStore:
        recall = dataclasses.replace(design.recall, facts_per_relation=2, templates=1, draws=20)
        return build_circuit_run(tmp_path / "run", dataclasses.replace(design, recall=recall))

    return build


def rows(charts: dict[str, Any], name: str) -> Rows:
    """Rows with their joins, as charts.js makes them."""

    def plain(c: Any) -> list[Any]:
        return c if isinstance(c, list) else [None if i is None else c["names"][i]
                                              for i in c["codes"]]  # fmt: skip

    table = charts["tables"][name]
    columns = [plain(c) for c in table.values()]
    found = [dict(zip(table, values, strict=True)) for values in zip(*columns, strict=True)]
    if "checkpoint" in table and name != "checkpoints":
        checkpoints = rows(charts, "checkpoints")
        found = [{**r, **checkpoints[r["checkpoint"]]} for r in found]
    return found


def page_of(run: RunStore) -> Element:
    return check_page(write_report(run).read_text("utf-8"))


# ---- numbers of the charts -------------------------------------------------------------------


def test_every_figure_has_rows_a_title_and_known_columns(
    page: Element, charts: dict[str, Any]
) -> None:
    found = {n: f for n, f in charts["figures"].items() if n.startswith("circuit-")}
    assert len(found) == 22
    for name, figure in found.items():
        table = rows(charts, figure["dataset"])
        for where in [p["where"] for p in figure["panels"]] or [{}]:
            chosen = {**figure["where"], **where}
            kept = [r for r in table if all(r[c] in allowed for c, allowed in chosen.items())]
            assert kept, f"{name} draws nothing for {where}"
            assert set(figure["columns"]) <= set(kept[0]), name
        drawn = page.one("figure", id=f"figure-{name}")
        assert drawn.one("h3").text
        assert len(drawn.one("figcaption").one("p").text.split()) > 5


def test_shares_count_the_table_of_roles(run: RunStore, charts: dict[str, Any]) -> None:
    counted: Counter[tuple[str, ...]] = Counter()
    sizes: Counter[tuple[str, ...]] = Counter()
    for r in run.read("roles").to_pylist():
        counted[r["kind"], r["scope"], r["revision"], r["role"]] += 1
        sizes[r["kind"], r["scope"], r["revision"]] += 1
    shown = rows(charts, "circuit_shares")
    assert len(shown) == 2 * 11 * 14 * 4  # kinds, scopes, checkpoints, active roles
    for r in shown:
        key = (r["kind"], r["scope"], r["revision"])
        assert (r["count"], r["of"]) == (counted[(*key, r["role"])], sizes[key])
        assert r["share"] == pytest.approx(r["count"] / r["of"], rel=1e-5)
        assert r["high"] - r["low"] == pytest.approx(r["share"], abs=1e-5)
    one = [r for r in shown if r["kind"] == "head" and r["scope"] == "overall" and not r["nth"]]
    assert [r["low"] for r in one[1:]] == [r["high"] for r in one[:-1]]  # bands touch
    assert one[0]["low"] == 0.0


def test_titles_say_what_is_seen(run: RunStore, page: Element) -> None:
    scores = {(s["metric"], s["revision"]): s["value"] for s in run.read("scores").to_pylist()
              if s["scope"] == "overall"}  # fmt: skip
    names = [c["revision"] for c in run.read("checkpoints").to_pylist()]
    last = max(names, key=lambda n: int(n.removeprefix("step")))
    final, first = (scores["circuits.active_head_share", r] for r in (last, "step0"))
    title = page.one("figure", id="figure-circuit-active").one("h3").text
    said = f"{100 * final:.1f} % of heads are active, {100 * first:.1f} % in an untrained model"
    assert title == said
    effect = scores["circuits.ablation_effect_general", last]
    title = page.one("figure", id="figure-circuit-ablation-share").one("h3").text
    assert f"Without general heads the model loses {100 * effect:.1f} pp more" in title


def test_iou_stands_beside_its_null(run: RunStore, charts: dict[str, Any]) -> None:
    shown = {(r["family"], r["line"], r["measure"], r["scope"], r["revision"]): r["value"]
             for r in rows(charts, "circuit_scores")}  # fmt: skip
    checked = 0
    for s in run.read("scores").to_pylist():
        name = s["metric"].removeprefix("circuits.iou_last_")
        if name == s["metric"] or "=" in s["scope"] or s["value"] is None:
            continue
        measure = "null" if name.endswith("_null") else "measured"
        line = name.removesuffix("_null")
        key = ("head_last", line, measure, s["scope"], s["revision"])
        assert shown[key] == pytest.approx(s["value"], rel=1e-5)
        checked += 1
    assert checked > 200


def test_transitions_hold_probability_null_and_rate(run: RunStore, charts: dict[str, Any]) -> None:
    table = {(r["kind"], r["scope"], r["role_before"], r["role_after"]): r
             for r in run.read("transitions").to_pylist()}  # fmt: skip
    shown = rows(charts, "circuit_transitions")
    assert len([r for r in shown if r["what"] == "probability"]) == len(table)
    for r in shown:
        wanted = table[r["kind"], r["scope"], r["before"], r["after"]]
        p, rate = wanted["probability"], wanted["rate"]
        if r["what"] == "probability":
            assert r["label"] == ("–" if p is None else f"{100 * p:.0f} %")
            assert r["shade"] == pytest.approx(p or 0.0, rel=1e-5)
            assert p is None or r["note"] == f"null {100 * wanted['null_mean']:.0f}"
        else:
            said = None if r["label"] == "–" else float(r["label"].replace("−", "-"))
            assert said == (rate if rate is None else pytest.approx(rate, abs=0.006))
            assert 0 <= r["shade"] <= 1
            assert r["before"] != r["after"] or r["shade"] == 0


def test_switches_by_layer_equal_a_plain_count(run: RunStore, charts: dict[str, Any]) -> None:
    order = [c["revision"] for c in sorted(run.read("checkpoints").to_pylist(),
                                           key=lambda c: c["position"])]  # fmt: skip
    role = {(r["revision"], r["layer"], r["index"]): r["role"]
            for r in run.read("roles").to_pylist()
            if r["kind"] == "head" and r["scope"] == "overall"}  # fmt: skip
    shown = {r["layer"]: r for r in rows(charts, "circuit_switches") if r["kind"] == "head"}
    for layer in range(4):
        n = 0
        for before, after in pairwise(order):
            for head in range(4):
                pair = (role[before, layer, head], role[after, layer, head])
                n += "inactive" not in pair and pair[0] != pair[1]
        assert shown[layer]["switches"] == n / 4
    # Layers 0 to 3 in thirds, as numpy.array_split cuts them and as n of the metric says.
    assert [shown[layer]["third"] for layer in range(4)] == ["early", "early", "middle", "late"]


def test_controls_of_an_ablation_are_averaged_over_draws_and_facts(make: MakeRun) -> None:
    run = make(CircuitDesign(Design(tokens=(0, 4_000))))
    (part,) = run.parts("ablations")
    base = run.read("ablations").to_pylist()[0]
    facts = [("a", "sights_in_city"), ("b", "sights_in_city")]
    table = []
    # intact: a right, b right; two draws of the control: a right then wrong, b wrong twice
    for fact, relation in facts:
        table.append({**base, "role": "none", "condition": "intact", "draw": 0, "fact_id": fact,
                      "relation": relation, "whole_answer": True,
                      "logprob_sum_nats": -1.0})  # fmt: skip
    for draw, right in enumerate([(True, False), (False, False)]):
        for (fact, relation), r in zip(facts, right, strict=True):
            table.append({**base, "role": "entity", "condition": "control", "draw": draw,
                          "fact_id": fact, "relation": relation, "whole_answer": r,
                          "logprob_sum_nats": -3.0 - draw})  # fmt: skip
    step = part.parent.name.removeprefix("step=")
    run.write_part("ablations", table, {"stage": "main", "step": step})
    charts = data_of(page_of(run), "charts")
    found = {r["unit"]: r for r in rows(charts, "circuit_ablations")
             if r["condition"] == "matched controls"}  # fmt: skip
    # drop of a: 1 - (1 + 0) / 2 = 0.5; of b: 1 - 0 = 1; mean 0.75. Nats: -1 - (-3 - 4) / 2 = 2.5
    assert found["share"]["value"] == 0.75
    assert found["nats"]["value"] == 2.5
    assert found["share"]["ci_low"] <= 0.75 <= found["share"]["ci_high"]
    assert found["share"]["n"] == 2


def test_sensitivity_holds_the_protocols_own_setting_too(
    run: RunStore, charts: dict[str, Any]
) -> None:
    result = json.loads((run.root / "result.json").read_text())
    own = result["protocol"]["params"]["circuits"]
    shown = rows(charts, "circuit_sensitivity")
    tau, theta = ({r["at"] for r in shown if r["threshold"] == t} for t in ("tau", "theta"))
    assert tau == {0.005, 0.02, 0.04, own["tau"]}
    assert theta == {0.05, 0.2, 0.4, own["theta"]}
    settings = {r["setting"] for r in shown if r["scope"] == "overall"}
    assert settings == {f"τ = {own['tau']:g}", f"θ = {own['theta']:g}"}


# ---- role map --------------------------------------------------------------------------------


def test_letters_of_the_map_are_the_roles(run: RunStore, drawings: dict[str, Any]) -> None:
    place = {c["revision"]: i for i, c in enumerate(drawings["checkpoints"])}
    letters = {"general": "g", "entity": "e", "relation": "r", "fact": "f", "inactive": "."}
    assert dict(zip(drawings["roles"], drawings["letters"], strict=True)) == letters
    table = run.read("roles").to_pylist()
    for r in table:
        m = drawings["map"][r["kind"]]
        at = r["layer"] * m["size"] + r["index"]
        assert m["scopes"][r["scope"]][place[r["revision"]]][at] == letters[r["role"]]
    m = drawings["map"]["head"]
    assert (m["layers"], m["size"], len(m["scopes"])) == (4, 4, 11)
    assert next(iter(m["scopes"])) == "overall"
    assert drawings["map"]["ffn"]["size"] == 1


def test_a_checkpoint_without_roles_has_no_letters(run: RunStore) -> None:
    table = run.read("roles")
    revisions = [c["revision"] for c in load_view(run).measured]
    m = role_maps(table, [*revisions[:2], "never measured"])["head"]
    assert m.letters("overall")[2] == ""
    assert m.checkpoints == [0, 1]
    assert role_maps(table.slice(0, 0), revisions) == {}


# ---- circuits of single facts ----------------------------------------------------------------


def unpacked(drawings: dict[str, Any], text: str) -> Rows:
    """The packing, read as its docstring says."""
    facts, data = drawings["facts"], base64.b64decode(text)
    found, at = [], 0
    while at < len(data):
        layer, kind, source, target, high, low = data[at : at + 6]
        at += 6
        heads = []
        if kind == 0:
            mask = int.from_bytes(data[at : at + facts["mask"]], "little")
            heads = [h for h in range(8 * facts["mask"]) if mask >> h & 1]
            at += facts["mask"]
        found.append({"layer": layer, "edge": facts["edges"][kind], "source_position": source,
                      "target_position": target, "contribution": (256 * high + low) / 65535,
                      "heads": heads})  # fmt: skip
    return found


KEY = ("layer", "edge", "source_position", "target_position")


def check_circuits(run: RunStore, drawings: dict[str, Any]) -> int:
    """Every embedded edge is in the table and the other way round; returns their number."""
    wanted: dict[tuple[str, str], dict[Any, Any]] = {}
    for e in run.read("circuit_edges").to_pylist():
        wanted.setdefault((e["fact_id"], e["revision"]), {})[tuple(e[k] for k in KEY)] = e
    total = 0
    for item in drawings["facts"]["items"]:
        for place, text in zip(drawings["facts"]["places"], item["circuits"], strict=True):
            mine = wanted[item["fact"], drawings["checkpoints"][place]["revision"]]
            found = {tuple(e[k] for k in KEY): e for e in unpacked(drawings, text)}
            assert found.keys() == mine.keys()
            for key, e in found.items():
                assert e["contribution"] == pytest.approx(mine[key]["contribution"], abs=1e-5)
                assert e["heads"] == mine[key]["heads"]
            total += len(found)
    return total


def test_edges_come_back_from_their_bytes(run: RunStore, drawings: dict[str, Any]) -> None:
    facts = drawings["facts"]
    assert (len(facts["items"]), facts["places"]) == (10, list(range(14)))  # all of them
    assert check_circuits(run, drawings) == run.read("circuit_edges").num_rows
    assert facts["parallel"] is False
    circuits = {(r["fact_id"], r["position"]): r for r in run.read("circuits").to_pylist()
                if r["step"] == 0}  # fmt: skip
    for item in facts["items"]:
        mine = [circuits[item["fact"], i] for i in range(len(item["tokens"]))]
        assert item["tokens"] == [r["token"] for r in mine]
        assert item["predicts"] == [r["position"] for r in mine if r["predicts_answer"]]
        assert item["subject_at"] == [r["position"] for r in mine if r["in_subject"]]


def test_a_large_run_keeps_some_circuits_and_stays_small(tmp_path: Path) -> None:
    run = build_circuit_run(tmp_path / "run", LARGE)
    path = write_report(run)
    assert path.stat().st_size < 5_000_000
    page = check_page(path.read_text("utf-8"))
    drawings = data_of(page, "drawings")
    facts = drawings["facts"]
    characters = sum(len(c) for item in facts["items"] for c in item["circuits"])
    assert 300_000 < characters <= 700_000
    assert {0, 19} <= set(facts["places"])
    n, c = len(facts["items"]), len(facts["places"])
    assert 1 < n < 10
    assert 2 < c < 20
    said = page.one("section", id="one-circuit").text
    assert f"Of 10 facts at 20 checkpoints in the run's table of edges, {n} at {c} are here" in said
    assert check_circuits(run, drawings) > 20_000


def test_the_budget_decides_how_many_circuits_are_kept(run: RunStore) -> None:
    view = load_view(run)
    whole = select(view)
    assert whole is not None
    assert whole.whole
    tight = select(view, budget=20_000)
    assert tight is not None
    assert 1 <= len(tight.facts) < 10
    assert tight.places[-1] == 13
    least = select(view, budget=1)
    assert least is not None
    assert (len(least.facts), least.places) == (1, (13,))


def test_choosing_facts_and_checkpoints(run: RunStore) -> None:
    # 100 edges of 10 characters a circuit, budget for 9 circuits: 3 facts x 3 checkpoints
    assert _shape(10, 20, {("f", i): 100 for i in range(200)}, 10, 9_000) == (3, 3)
    # 2 facts only: more checkpoints instead, 9 // 2
    assert _shape(2, 20, {("f", i): 100 for i in range(40)}, 10, 9_000) == (2, 4)
    # 2 checkpoints only: 4 facts
    assert _shape(10, 2, {("f", i): 100 for i in range(20)}, 10, 9_000) == (4, 2)
    assert _spread(list("abcdefghij"), 3) == ["a", "e", "j"]  # places 0, 4.5 -> 4, 9
    view = load_view(run)  # the axis has step 0 apart, then even steps in log tokens
    chosen = _log_spread(view, list(range(14)), 4)
    assert chosen[0] == 0
    assert chosen[-1] == 13
    assert len(chosen) == 4
    gaps = np.diff([view.axis.place(view.axis.values[c]) for c in chosen])
    assert gaps.max() / gaps.min() < 1.6


# ---- unusual runs ----------------------------------------------------------------------------


def test_a_run_without_circuits_has_no_such_sections(full_run: RunStore) -> None:
    page = check_page((full_run.root / "report.html").read_text("utf-8"))
    assert not [s for s in page.all("section") if s.attributes["id"] in SECTIONS]
    assert not page.all("script", id="drawings")


def test_all_sections_are_there_and_in_the_navigation(page: Element) -> None:
    links = [a.attributes["href"] for a in page.one("nav").all("a")]
    for name in SECTIONS:
        assert page.one("section", id=name)
        assert f"#{name}" in links


def test_only_metrics_that_the_run_has_are_listed(run: RunStore, page: Element) -> None:
    found = {s["metric"] for s in run.read("scores").to_pylist()}
    heads = page.one("section", id="headline").all("article")
    shown = [c.attributes["data-metric"] for c in heads]
    assert "circuits.active_head_share" in shown
    assert not {m for m in shown if m.startswith("circuits.")} - found
    text = page.one("section", id="numbers").text
    for m in METRICS:
        if m.name.startswith("circuits."):
            assert (f" {m.name} " in text) is (m.name in found), m.name


def test_thresholds_are_no_sets_of_facts(run: RunStore) -> None:
    scopes = load_view(run).scopes
    assert not [s for s in (*scopes.wide, *scopes.relations) if "=" in s]
    assert "stated" in scopes.subsets


def test_one_checkpoint_has_no_evolution_and_says_why(make: MakeRun) -> None:
    page = page_of(make(CircuitDesign(Design(tokens=(3_000_000,)))))
    changes = page.one("section", id="circuit-changes")
    reasons = [f.one("p", class_="missing").text for f in changes.all("figure")]
    assert set(reasons) == {"No chart: only one checkpoint was measured."}
    assert len(reasons) == 7
    assert "No untrained model was measured" in page.one("section", id="circuits").text
    assert not page.one("section", id="role-map").all("input")


def test_without_step_0_the_level_is_that_of_a_random_initialisation(make: MakeRun) -> None:
    run = make(CircuitDesign(Design(tokens=(2_000, 4_000, 80_000))))
    scores = {(s["metric"], s["revision"]): s for s in run.read("scores").to_pylist()
              if s["scope"] == "overall"}  # fmt: skip
    n, beyond = (scores[f"circuits.active_heads{e}", "step40"] for e in ("", "_excess"))
    level = 100 * (n["value"] - beyond["value"]) / 16  # 4 layers x 4 heads
    text = page_of(run).one("figure", id="figure-circuit-active").text
    assert f"random initialisation ({level:.1f} %)" in text


def test_a_chain_is_held_against_the_end_of_pretraining(make: MakeRun) -> None:
    run = make(CircuitDesign(Design(tokens=(2_000, 80_000, 4_000), names=("a", "b", "c"))))
    table = run.read("checkpoints").to_pylist()
    for row in table:
        at = {"stage": "main", "step": row["step"]}
        if row["revision"] == "c":
            row["stage"] = "tuned"
        run.write_part("checkpoints", [row], at)
    page = page_of(run)
    assert "overlap with the end of pretraining" in page.one("section", id="circuit-changes").text
    # Only b follows a; the tokens go back from b to c.
    role = {(r["revision"], r["layer"], r["index"]): r["role"]
            for r in run.read("roles").to_pylist()
            if r["kind"] == "head" and r["scope"] == "overall"}  # fmt: skip
    for r in rows(data_of(page, "charts"), "circuit_switches"):
        if r["kind"] == "head":
            pairs = [(role["a", r["layer"], h], role["b", r["layer"], h]) for h in range(4)]
            assert r["switches"] == sum("inactive" not in p and p[0] != p[1] for p in pairs) / 4


def test_a_run_of_this_track_alone_has_a_report(make: MakeRun) -> None:
    run = make(CircuitDesign(Design(tokens=(0, 4_000, 80_000))))
    for name in ("recall", "candidates"):
        run.remove_table(name)
    kept = [s for s in run.read("scores").to_pylist() if s["metric"].startswith("circuits.")]
    run.write_part("scores", kept)
    page = page_of(run)
    for name in SECTIONS:
        assert page.one("section", id=name)
    assert not page.all("section", id="accuracy")
    assert "3 checkpoints" in page.one("header").text
    assert "20 facts" in page.one("header").text
    options = page.one("section", id="role-map").all("option")
    assert len(options) == 11  # all facts and ten relations
    assert [o.text for o in options][:2] == ["all facts", "books written"]


def test_no_ablations_and_no_edges(make: MakeRun) -> None:
    run = make(CircuitDesign(Design(tokens=(0, 4_000)), ablated=False, shown=0))
    page = page_of(run)
    assert not page.all("section", id="ablation")
    assert not page.all("section", id="one-circuit")
    assert data_of(page, "drawings")["facts"] is None


def test_empty_roles_are_named_with_their_reason(page: Element) -> None:
    text = page.one("figure", id="figure-circuit-ablation-share").text
    assert "Not measured: relation heads (no head has this role)." in text


def test_experts_and_parallel_blocks(make: MakeRun) -> None:
    design = CircuitDesign(Design(tokens=(0, 4_000, 8_000)), experts=8, parallel=True)
    page = page_of(make(design))
    drawings = data_of(page, "drawings")
    assert drawings["map"]["expert"]["size"] == 8
    assert drawings["facts"]["parallel"] is True
    assert page.one("figure", id="figure-circuit-shares-expert")


def test_names_stay_text_wherever_they_stand(make: MakeRun) -> None:
    design = CircuitDesign(
        Design(tokens=(0, 4_000, 80_000), names=(EVIL, '"onmouseover="alert(1)', "<img src=x>")),
        tokens=(EVIL, "<img src=x onerror=alert(1)>", "\n", " "),
    )
    run = make(design)
    page = page_of(run)
    drawings = data_of(page, "drawings")
    assert drawings["facts"]["items"][0]["tokens"][:2] == [EVIL, "<img src=x onerror=alert(1)>"]
    specs = json.dumps([f["spec"] for f in data_of(page, "charts")["figures"].values()])
    assert "alert(1)" not in specs


def test_equal_runs_give_equal_bytes(tmp_path: Path) -> None:
    design = CircuitDesign(Design(tokens=(0, 4_000, 80_000), facts_per_relation=1, draws=20))
    a, b = (write_report(build_circuit_run(tmp_path / n, design)).read_bytes() for n in "ab")
    assert a == b


def test_the_circuits_part_of_a_small_series_is_small(tmp_path: Path, run: RunStore) -> None:
    design = Design(tokens=FOURTEEN, facts_per_relation=3, draws=40)
    without = write_report(build_run(tmp_path / "run", design)).stat().st_size
    assert (run.root / "report.html").stat().st_size - without < 1_500_000
