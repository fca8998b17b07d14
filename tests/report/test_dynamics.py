"""The dynamics sections: what is drawn is what the tables say, and nothing is made up."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.pages import Element, check_page, data_of, in_chromium, needs_chromium
from tests.report.dynamics_run import (
    BASELINE,
    LAYERS,
    Plan,
    build_study,
    manifest,
    run_row,
    write_runs,
)
from tests.report.synthetic import Design
from tests.report.test_browser import LOOK
from tests.report.test_report import EVIL, rows

from factlife.report import write_report
from factlife.report.dynamics import (
    ANY,
    FALLING,
    LEARNING,
    NUMBERS,
    PLATEAU,
    Study,
    label,
    replayed,
    spans,
    study,
)
from factlife.report.view import load_view
from factlife.runner.score import score_run
from factlife.store import RunStore, write_json

SECTIONS = (
    "dynamics", "dynamics-unseen", "dynamics-attention", "dynamics-patching", "dynamics-size",
    "dynamics-distribution", "dynamics-tuning", "dynamics-claims",
)  # fmt: skip


SMALL = Plan(sizes=(512, 4096), alphas=(0.6,))


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    return build_study(tmp_path_factory.mktemp("study") / "run", SMALL)


@pytest.fixture(scope="module")
def page(full: RunStore) -> Element:
    return check_page((full.root / "report.html").read_text("utf-8"))


@pytest.fixture(scope="module")
def charts(page: Element) -> dict[str, Any]:
    found: dict[str, Any] = data_of(page, "charts")
    return found


def page_of(run: RunStore) -> Element:
    return check_page((run.root / "report.html").read_text("utf-8"))


# ---- phases ----------------------------------------------------------------------------------


def _study(*moments: tuple[float | None, float | None]) -> Study:
    """Runs of one condition, a seed each, with these t1 and t2."""
    runs = [run_row("n512.uniform", seed, 512, 1000) for seed in range(len(moments))]
    summary = {
        (run["dynamics_run"], name): {"value": value, "reason": None}
        for run, pair in zip(runs, moments, strict=True)
        for name, value in zip(("t1", "t2"), pair, strict=True)
    }
    return Study({r["dynamics_run"]: r for r in runs}, (), (), summary, (), ())


@pytest.mark.parametrize(
    ("moments", "wanted"),
    [
        (
            [(40.0, 400.0)],
            [(FALLING, None, 40.0), (PLATEAU, 40.0, 400.0), (LEARNING, 400.0, 1000)],
        ),
        # Medians: t1 of 20, 40, 60 is 40; t2 of 300, 500 and never is 400.
        (
            [(20.0, 300.0), (40.0, 500.0), (60.0, None)],
            [(FALLING, None, 40.0), (PLATEAU, 40.0, 400.0), (LEARNING, 400.0, 1000)],
        ),
        # 70 < 2 x 40: no plateau, so what lies between is no phase.
        ([(40.0, 70.0)], [(FALLING, None, 40.0), (LEARNING, 70.0, 1000)]),
        ([(40.0, 80.0)], [(FALLING, None, 40.0), (PLATEAU, 40.0, 80.0), (LEARNING, 80.0, 1000)]),
        ([(40.0, None)], [(FALLING, None, 40.0), (PLATEAU, 40.0, 1000)]),
        ([(None, None)], [(FALLING, None, 1000)]),
        # Left at the last evaluation: there is nothing to shade after it.
        ([(40.0, 1000.0)], [(FALLING, None, 40.0), (PLATEAU, 40.0, 1000.0)]),
    ],
)
def test_phases_are_the_medians_over_seeds(
    moments: list[tuple[float | None, float | None]],
    wanted: list[tuple[str, float | None, float]],
) -> None:
    assert spans(_study(*moments), "n512.uniform", 1000) == wanted


def test_the_chart_shades_the_phases_of_the_summary(full: RunStore, charts: dict[str, Any]) -> None:
    summary = {
        (r["dynamics_run"], r["quantity"]): r["value"]
        for r in full.read("dynamics_summary").to_pylist()
    }
    middle = {  # of three seeds: the second
        q: sorted(summary[f"n4096.uniform.s{seed}", q] for seed in range(3))[1]
        for q in ("t1", "t2", "t_held")
    }
    drawn = [r for r in rows(charts["tables"]["dynamics_curves"]) if r["scope"] == "n4096.uniform"]
    marks = {r["series"]: r["step"] for r in drawn if r["kind"] == "mark"}
    assert marks == {"t1": middle["t1"], "t2": middle["t2"], "onset": middle["t_held"]}
    bands = {r["series"]: (r["x"], r["x2"]) for r in drawn if r["kind"] == "phase"}
    assert bands[FALLING][1] == bands[PLATEAU][0]
    assert bands[PLATEAU][1] == bands[LEARNING][0]
    assert 10 ** bands[PLATEAU][0] == pytest.approx(middle["t1"], rel=1e-4)
    assert 10 ** bands[PLATEAU][1] == pytest.approx(middle["t2"], rel=1e-4)
    (level,) = [r["value"] for r in drawn if r["kind"] == "baseline"]
    assert level == pytest.approx(BASELINE, rel=1e-5)


def test_a_run_that_never_leaves_the_plateau_says_so_and_gets_no_number(tmp_path: Path) -> None:
    run = build_study(
        tmp_path / "run", Plan(sizes=(512, 1024), never=(1024,), seeds=1, others=False)
    )
    found = page_of(run)
    drawn = rows(data_of(found, "charts")["tables"]["dynamics_curves"])
    own = [r for r in drawn if r["scope"] == "n1024.uniform"]
    assert {r["series"] for r in own if r["kind"] == "phase"} == {FALLING, PLATEAU}
    assert {r["series"] for r in own if r["kind"] == "mark"} == {"t1"}
    assert (
        "Not shown: n1024.uniform.s0 (not reached" in found.one("section", id="dynamics-size").text
    )
    assert "not reached" in found.one("section", id="dynamics").text


# ---- numbers ---------------------------------------------------------------------------------


def test_every_section_is_there(page: Element) -> None:
    for name in SECTIONS:
        page.one("section", id=name)


def test_curves_are_the_evaluations(full: RunStore, charts: dict[str, Any]) -> None:
    names = {"known": "known people", "held_out": "people never seen", "old": "old people",
             "taught": "new people"}  # fmt: skip
    wanted = {
        (r["dynamics_run"], r["step"], names[r["population"]], number): r[number]
        for r in full.read("biography_eval").to_pylist()
        for number in NUMBERS
        if r["restored"] == "none" and r[number] is not None
    }
    signed = {
        (r["dynamics_run"], r["step"], f"layer {r['layer'] + 1}", number): r[number]
        for r in full.read("attention_signatures").to_pylist()
        for number in ("grouping", "extraction", "sharpness")
    }
    found = {
        (r["dynamics_run"], r["step"], r["series"], r["number"]): r["value"]
        for r in rows(charts["tables"]["dynamics_curves"])
        if r["kind"] == "eval"
    }
    assert found == {k: pytest.approx(v, rel=1e-5) for k, v in (wanted | signed).items()}
    assert len(signed) == 3 * LAYERS * len({k[:2] for k in signed})


def test_no_curve_runs_into_step_0(charts: dict[str, Any]) -> None:
    for r in rows(charts["tables"]["dynamics_curves"]):
        if r["kind"] == "eval":
            assert r["apart"] is (r["step"] == 0)


def test_swap_bars_are_the_old_accuracy_before_after_and_put_back(
    full: RunStore, charts: dict[str, Any]
) -> None:
    old = {
        (r["dynamics_run"], r["step"], r["restored"]): r["accuracy"]
        for r in full.read("biography_eval").to_pylist()
        if r["population"] == "old"
    }
    bars = {
        (r["dynamics_run"], r["series"]): r["value"]
        for r in rows(charts["tables"]["dynamics_swap"])
    }
    run = "n512.new.w0.05.s1"
    for series, key in (
        ("before", (run, 0, "none")),
        ("after fine-tuning", (run, 100, "none")),
        ("old attention put back", (run, 100, "attention")),
        ("old feed-forward put back", (run, 100, "mlp")),
    ):
        assert bars[run, series] == pytest.approx(old[key], rel=1e-5)
    assert len(bars) == 4 * 9  # three weights of replay, three seeds


def test_estimates_are_the_scores(full: RunStore, charts: dict[str, Any]) -> None:
    scores = {(r["metric"], r["scope"]): r for r in full.read("scores").to_pylist()}
    drawn = rows(charts["tables"]["dynamics_estimates"])
    assert {r["scope"] for r in drawn} >= {"n4096.power_law.a0.6", "n512.patched.r20"}
    for r in drawn:
        own = scores[r["number"], r["scope"]]
        assert r["value"] == pytest.approx(own["value"], rel=1e-5)
        assert r["ci_high"] == pytest.approx(own["ci_high"], rel=1e-5)


def test_claims_show_verdicts_numbers_and_what_was_wanted(full: RunStore, page: Element) -> None:
    section = page.one("section", id="dynamics-claims")
    lines = section.one("tbody").all("tr")
    claims = full.read("dynamics_claims").to_pylist()
    order = list(dict.fromkeys(c["claim"] for c in claims))
    assert [line.one("th").text.split()[0] for line in lines] == order
    assert order == [f"C{i}" for i in range(1, 12)]
    for line, claim in zip(lines, order, strict=True):
        own = [c for c in claims if c["claim"] == claim]
        assert own[0]["statement"] in line.text
        assert line.all("span", class_="chip")[0].text == own[0]["verdict"]
        shown = [float(d.attributes["value"]) for d in line.all("data")]
        assert shown == [c["value"] for c in own if c["value"] is not None]
        for c in own:
            assert c["value"] is None or f"wanted {c['wanted']}" in line.text


def test_the_table_of_moments_has_every_condition_with_its_baseline(
    full: RunStore, page: Element
) -> None:
    table = page.one("section", id="dynamics").one("tbody")
    conditions = {
        r["condition"] for r in full.read("dynamics_runs").to_pylist() if r["kind"] != "fine_tuned"
    }
    assert len(table.all("tr")) == len(conditions)
    assert table.all("tr")[0].all("td")[0].text == "3.47 nats"  # ln 32 = 3.466


def test_a_study_has_headlines_of_its_own(page: Element) -> None:
    cards = page.one("section", id="headline").all("article")
    assert [c.attributes["data-metric"] for c in cards] == [
        "dynamics.plateau_end",
        "dynamics.plateau_ratio",
        "dynamics.final_accuracy",
        "dynamics.hallucination_onset",
        "dynamics.auroc",
        "dynamics.corruption",
    ]
    assert "33 runs on biographies" in page.text  # 3 x (2 sizes, 4 others, 2 patched, 3 tuned)


# ---- names -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({}, "4,096 people, uniform"),
        ({"distribution": "power_law", "alpha": 0.6}, "4,096 people, power law α = 0.6"),
        (
            {"distribution": "warm_up", "warm_up_people": 1024, "warm_up_steps": 900},
            "4,096 people, warm-up on 1,024 for 900 steps",
        ),
        (
            {"distribution": "celebrities", "celebrities": 512, "celebrity_weight": 8.0},
            "4,096 people, 512 celebrities × 8",
        ),
        ({"distribution": "groups", "groups": 4}, "4,096 people, 4 groups one after another"),
        (
            {"kind": "patched", "reference_step": 1600, "patch_from": 0},
            "4,096 people, attention of step 1,600",
        ),
        (
            {"kind": "patched", "reference_step": 20, "patch_from": 50},
            "4,096 people, attention of step 20 from step 50",
        ),
        (
            {"kind": "fine_tuned", "n_taught": 64, "material": "new", "replay_weight": 0.25},
            "64 new people after 4,096, replay weight 0.25",
        ),
        (
            {
                "kind": "fine_tuned",
                "n_taught": 64,
                "material": "rare",
                "replay_weight": 0.0,
                "distribution": "celebrities",
            },
            "64 rare people after 4,096 celebrities, no replay",
        ),
        (
            {
                "kind": "fine_tuned",
                "n_taught": 64,
                "material": "new",
                "replay_weight": 0.0,
                "condition": "series.new.w0",
            },
            "64 new people after 4,096 facts, no replay",
        ),
    ],
)
def test_a_condition_in_words(more: dict[str, Any], words: str) -> None:
    assert label({**run_row("c", 0, 4096, 100), **more}) == words


def test_conditions_that_sound_alike_keep_their_names() -> None:
    twins = [run_row(c, 0, 512, 100) for c in ("n512.uniform", "n512.again")]
    made = Study({r["dynamics_run"]: r for r in twins}, (), (), {}, (), ())
    assert set(made.labels.values()) == {
        "512 people, uniform (n512.uniform)",
        "512 people, uniform (n512.again)",
    }


def test_replay_compares_fine_tunings_of_one_model() -> None:
    more: dict[str, Any] = {"kind": "fine_tuned", "material": "new", "n_taught": 8}
    runs = [
        run_row(c, 0, 512, 100, replay_weight=0.0, **more)
        for c in ("n512.new.w0", "n512.new.w0.05", "n4096.rare_control.w0", "series.new.w0")
    ]
    made = Study({r["dynamics_run"]: r for r in runs}, (), (), {}, (), ())
    assert replayed(made) == ["n512.new.w0", "n512.new.w0.05"]


# ---- other run folders -----------------------------------------------------------------------


def test_a_run_without_dynamics_has_no_such_section(full_run: RunStore) -> None:
    found = page_of(full_run)
    ids = {s.attributes["id"] for s in found.all("section")}
    assert not {i for i in ids if i.startswith("dynamics")}
    assert study(load_view(full_run)) is None


def test_a_series_shows_its_attention_and_claims_beside_recall(
    make_run: Callable[[Design], RunStore],
) -> None:
    run = make_run(Design(subsets=True))
    with RunStore.writer(run.root, run.manifest()):
        for c in run.read("checkpoints").to_pylist():
            at = {"stage": "main", "step": c["step"]}
            own = {"revision": c["revision"], "stage": "main", "step": c["step"], "reason": None}
            run.write_part(
                "subject_attention",
                [
                    {**own, "layer": k, "mass": 0.1 + 0.02 * c["position"] * k, "sharpness": 0.5,
                     "n_facts": 30}
                    for k in range(2)
                ],
                at,
            )  # fmt: skip
        run.write_part("dynamics_claims", [_claim("C9", "C9 of the series", None)])
        scores = run.read("scores").to_pylist()
        extra = {**scores[0], "metric": "dynamics.corruption", "scope": "series.new.w0",
                 "revision": ""}  # fmt: skip
        run.write_part("scores", [*scores, extra])
    write_report(run)
    found = page_of(run)
    drawn = rows(data_of(found, "charts")["tables"]["dynamics_subject"])
    assert len(drawn) == 13 * 2 * 2
    assert {r["series"] for r in drawn} == {"layer 1", "layer 2"}
    claims = found.one("section", id="dynamics-claims")
    assert "The given checkpoints" in claims.text
    assert "not tested" in claims.text
    assert "nothing was fine-tuned" in claims.text
    # A condition of training is no set of facts.
    assert load_view(run).scopes.subsets == ("stated", "unstated")
    assert not any(s.attributes["id"] == "dynamics-size" for s in found.all("section"))


def _claim(claim: str, statement: str, value: float | None) -> dict[str, Any]:
    return {
        "claim": claim, "scope": "series", "number": "", "statement": statement,
        "verdict": "not tested", "holds": "open", "wanted": "above 0", "value": value,
        "ci_low": None, "ci_high": None, "n": 0, "unit": "ratio", "interval_method": None,
        "reason": "nothing was fine-tuned",
    }  # fmt: skip


def test_one_seed_of_one_size_is_enough(tmp_path: Path) -> None:
    plan = Plan(sizes=(512,), seeds=1, others=False, patched=False, tuned=False)
    found = page_of(build_study(tmp_path / "run", plan))
    ids = {s.attributes["id"] for s in found.all("section")}
    assert {"dynamics", "dynamics-unseen", "dynamics-attention", "dynamics-claims"} <= ids
    assert not {"dynamics-size", "dynamics-distribution", "dynamics-tuning"} & ids


def test_one_seed_has_no_interval_and_the_page_says_so(tmp_path: Path) -> None:
    plan = Plan(sizes=(512,), seeds=1, others=False, patched=False, tuned=False)
    found = page_of(build_study(tmp_path / "run", plan))
    cards = {c.attributes["data-metric"]: c.text for c in found.all("article")}
    assert "no interval: one seed" in cards["dynamics.plateau_end"]
    assert "95 % interval" not in cards["dynamics.plateau_end"]
    assert "no interval: one seed" in found.one("section", id="dynamics").text


def test_the_loss_axis_leaves_room_for_what_happens_at_the_baseline() -> None:
    run = run_row("n512.uniform", 0, 512, 100)
    late = run_row("n512.uniform", 1, 512, 100)
    losses = [(run, 0, 40.0), (run, 20, 3.6), (run, 100, 5.0), (late, 50, 9.0), (late, 100, 4.0)]
    rows_ = [
        {"dynamics_run": r["dynamics_run"], "step": step, "loss_nats": loss}
        for r, step, loss in losses
    ]
    moments = {(run["dynamics_run"], "t1"): {"value": 20.0, "reason": None}}
    made = Study({r["dynamics_run"]: r for r in (run, late)}, rows_, (), moments, (), ())
    # 40 is before t1, and 9 before the end of a run that has no t1.
    assert made.settled_loss() == 5.0


def test_names_from_the_tables_are_never_markup(tmp_path: Path) -> None:
    plan = dataclasses.replace(Plan(sizes=(512,), seeds=1, others=False), name=EVIL)
    run = RunStore(tmp_path / "run")
    with RunStore.writer(run.root, manifest(plan)) as run:
        write_runs(run, plan)
        row = {**run_row(EVIL, 0, 512, 1000), "distribution": "<img src=x onerror=alert(1)>",
               "dynamics_run": "evil"}  # fmt: skip
        evaluations = run.read("biography_eval").to_pylist()
        signs = run.read("attention_signatures").to_pylist()
        at = {"dynamics_run": "evil"}
        run.write_part("dynamics_runs", [row], at)
        for table, members in (("biography_eval", evaluations), ("attention_signatures", signs)):
            own = [r for r in members if r["dynamics_run"] == "n512.uniform.s0"]
            run.write_part(table, [{**r, "dynamics_run": "evil"} for r in own], at)
    score_run(run.root)
    write_report(run)
    found = page_of(run)
    options = [o.attributes["value"] for o in found.all("option")]
    assert EVIL in options
    assert not found.all("img")


def test_equal_tables_give_equal_pages(full: RunStore) -> None:
    before = (full.root / "report.html").read_bytes()
    result = json.loads((full.root / "result.json").read_text())
    write_json(full.root / "result.json", result)
    assert write_report(full).read_bytes() == before


# ---- in a browser ----------------------------------------------------------------------------


@needs_chromium
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_every_chart_is_drawn_and_fits_the_screen(full: RunStore, width: int, dark: bool) -> None:
    seen = in_chromium(full.root / "report.html", LOOK, width, dark)
    assert seen["dark"] is dark
    assert seen["charts"] == 18
    assert seen["empty"] == []
    assert seen["failed"] == []
    assert seen["holes"] == []
    assert seen["wider"] <= 0


@needs_chromium
def test_a_reader_can_choose_a_condition_and_sees_its_phases(full: RunStore) -> None:
    script = """
    const figure = document.getElementById("figure-dynamics-loss");
    const menu = figure.querySelector("select"), details = figure.querySelector("details.data");
    const look = () => ({
      lines: figure.querySelectorAll(".mark-line path").length,
      bands: figure.querySelectorAll(".mark-rect path").length,
      words: [...figure.querySelectorAll(".mark-text.role-mark text")].map((t) => t.textContent),
    });
    const before = look();
    menu.value = "n512.patched.r800";
    menu.dispatchEvent(new window.Event("change"));
    await wait(1500);
    details.open = true;
    await wait(300);
    const cells = [...details.querySelectorAll("tbody tr")].map((r) => r.cells[0].textContent);
    return { before, after: look(), label: figure.querySelector(".choice span").textContent,
             scopes: [...new Set(cells)] };
    """
    seen = in_chromium(full.root / "report.html", script)
    assert seen["label"] == "Runs shown"
    for state in (seen["before"], seen["after"]):
        assert state["lines"] == 6  # three seeds, known and never seen
        assert state["words"] == ["t1", "t2", "onset"]
    assert seen["before"]["bands"] == 3
    assert seen["after"]["bands"] == 2  # t2 is below 2 t1: no plateau
    assert seen["scopes"] == ["n512.patched.r800"]


def test_any_is_no_number() -> None:
    assert ANY not in NUMBERS
