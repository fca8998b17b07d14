"""Quantities of runs from made-up curves, by hand; intervals over seeds; a given series."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats as sps
from tests.dynamics.made_up import BASE, TUNING, B, Tables, full_study, seeds, uniform

from factlife.config import Intervals
from factlife.dynamics.metrics import (
    METRICS,
    UNITS,
    exponents,
    given_curves,
    given_rows,
    given_series,
    measure_all,
    over_seeds,
    summary_rows,
)
from factlife.dynamics.phases import evaluation_steps
from factlife.schema import CANDIDATES, CHECKPOINTS, DYNAMICS_SUMMARY, SCORES, SUBJECT_ATTENTION
from factlife.scores import BY_NAME, DYNAMICS_METRICS, dynamics_rows

Row = dict[str, Any]


def quantities(t: Tables, run: str) -> dict[str, Row]:
    rows = summary_rows(t.arrow())
    DYNAMICS_SUMMARY.from_rows(rows)
    return {r["quantity"]: r for r in rows if r["dynamics_run"] == run}


def first(bound: float, steps: int = 4000) -> int:
    return next(s for s in evaluation_steps(steps, 60) if s >= bound)


# ---- from scratch ----------------------------------------------------------------------------


def test_a_run_from_scratch_by_hand() -> None:
    t = Tables()
    t.learned(BASE, 30, 400, accuracy=0.9, t_held=450, top=0.8)
    q = quantities(t, "n4096.uniform.s0")
    assert q["t1"]["value"] == first(30) and q["t2"]["value"] == first(400)
    assert q["t_held"]["value"] == first(450)
    assert q["plateau_ratio"]["value"] == first(400) / first(30)
    assert q["plateau_steps"]["value"] == first(400) - first(30)
    assert q["plateau_accuracy"]["value"] == 0.03
    # The second layer extracts 0.2, then 0.1 on the plateau, then 0.9: (0.9 - 0.1) / (0.9 - 0.2).
    assert q["circuit_share"]["value"] == pytest.approx(0.8 / 0.7)
    assert q["held_out_excess"]["value"] == pytest.approx(1.5 * B - B)
    assert q["confidence_gap"]["value"] == pytest.approx(0.8 - 0.1)
    assert [q[n]["value"] for n in ("final_loss", "final_accuracy", "auroc")] == [1.0, 0.9, 0.8]
    assert [q[n]["value"] for n in ("grouping", "extraction", "sharpness")] == [0.3, 0.9, 0.5]


def test_a_run_that_is_too_short_has_reasons_and_no_times() -> None:
    t = Tables()
    t.learned(BASE, 30, math.inf)
    q = quantities(t, "n4096.uniform.s0")
    for name in ("t2", "t2_twin", "t_held", "plateau_ratio", "plateau_steps", "circuit_share"):
        assert q[name]["value"] is None and q[name]["reason"].startswith("not reached: ")
    assert q["plateau_accuracy"]["reason"] == "no plateau"


def test_a_plateau_below_twice_t1_is_none() -> None:
    t = Tables()
    t.learned(BASE, 100, 150)
    q = quantities(t, "n4096.uniform.s0")
    assert q["plateau_steps"]["value"] is None
    assert q["plateau_steps"]["reason"].startswith("no plateau: t2 / t1 is 1.")
    assert q["plateau_ratio"]["value"] < 2


def test_attention_that_does_not_rise_has_no_share() -> None:
    t = Tables()
    t.learned(BASE, 30, 400, circuit=(0.2, 0.21))
    q = quantities(t, "n4096.uniform.s0")
    assert q["circuit_share"]["reason"] == "attention to the name does not rise"


# ---- fine-tuning -----------------------------------------------------------------------------


def test_a_fine_tuning_by_hand() -> None:
    t = Tables()
    old, taught = {0: 0.8, 10: 0.7, 20: 0.4, 100: 0.6}, {0: 0.1, 10: 0.2, 20: 0.3, 100: 0.7}
    t.tuned(TUNING, old, taught, attention=0.6, mlp=0.75)
    q = {k: r["value"] for k, r in quantities(t, TUNING.name).items()}
    # 10 % of 0.8 is lost at 0.72: 0.8 of the way from 0.8 to 0.7. Half is reached half way.
    assert q["t_lose10"] == pytest.approx(8.0) and q["t_gain50"] == pytest.approx(60.0)
    assert (q["old_before"], q["old_min"], q["old_after"], q["taught_after"]) == (
        0.8, 0.4, 0.6, 0.7,
    )  # fmt: skip
    assert q["corruption"] == pytest.approx(0.5)
    # 0.2 was lost: the old attention brings none of it back, the old FFNs 0.15.
    assert q["recovered_attention"] == pytest.approx(0.0)
    assert q["recovered_mlp"] == pytest.approx(0.75)


def test_what_a_fine_tuning_does_not_reach_is_no_number() -> None:
    t = Tables()
    t.tuned(TUNING, {0: 0.8, 100: 0.79}, {0: 0.1, 100: 0.4}, 0.8, 0.8)
    q = quantities(t, TUNING.name)
    for name in ("t_lose10", "t_gain50"):
        assert q[name]["value"] is None and "at step 100" in q[name]["reason"]
    assert q["recovered_mlp"]["reason"] == "no old accuracy was lost"


def test_nothing_known_before_cannot_be_corrupted() -> None:
    t = Tables()
    t.tuned(TUNING, {0: 0.0, 100: 0.0}, {0: 0.0, 100: 0.9}, 0.0, 0.0)
    q = quantities(t, TUNING.name)
    assert q["corruption"]["value"] is None
    assert q["t_lose10"]["reason"] == "nothing old is known before the fine-tuning"


# ---- over seeds ------------------------------------------------------------------------------


def test_a_t_interval_by_hand() -> None:
    # Mean 2, standard deviation 1, S = 3: 2 ± t(2) / sqrt(3), t(2) at 97.5 % is 4.302653.
    e = over_seeds([1.0, 2.0, 3.0], 0.95)
    half = 4.302653 / math.sqrt(3)
    assert (e.value, e.n) == (2.0, 3)
    assert e.ci_low == pytest.approx(2 - half, abs=1e-5)
    assert e.ci_high == pytest.approx(2 + half, abs=1e-5)
    assert e.method == "t over seeds, 2 degrees of freedom"


def test_ratios_are_averaged_as_logarithms() -> None:
    e = over_seeds([0.5, 2.0], 0.95, log=True)
    assert e.value == pytest.approx(1.0)
    half = sps.t.ppf(0.975, 1) * math.sqrt(2) * math.log(2) / math.sqrt(2)
    assert e.ci_high == pytest.approx(math.exp(half))


def test_one_seed_has_no_interval_and_says_so() -> None:
    e = over_seeds([0.4], 0.95)
    assert (e.value, e.ci_low, e.ci_high, e.method) == (0.4, 0.4, 0.4, "none: one seed")


def test_an_interval_of_shares_stays_between_0_and_1() -> None:
    e = over_seeds([0.9, 1.0], 0.95, support=(0, 1))
    assert e.ci_high == 1.0 and e.ci_low is not None and e.ci_low >= 0


def test_intervals_cover_as_they_say() -> None:
    rng = np.random.default_rng(0)
    draws = rng.normal(5, 2, (2000, 3))
    hits = 0
    for row in draws:
        e = over_seeds(row.tolist(), 0.95)
        assert e.ci_low is not None and e.ci_high is not None
        hits += e.ci_low <= 5 <= e.ci_high
    assert hits / 2000 == pytest.approx(0.95, abs=0.015)


def test_the_exponent_of_a_power_law_is_found() -> None:
    times = {(s, n): 0.43 * n**0.81 for s in range(2) for n in (4096, 16384, 65536)}
    assert exponents({**times}) == pytest.approx([0.81, 0.81])
    assert exponents({**times, (0, 4096): None}) == pytest.approx([0.81])


# ---- scores ----------------------------------------------------------------------------------


def scored(t: Tables) -> list[Row]:
    tables = t.arrow()
    return dynamics_rows(tables["dynamics_runs"], summary_rows(tables), intervals=Intervals())


def test_a_full_study_has_every_metric_of_the_registry_and_no_other() -> None:
    rows = scored(full_study())
    SCORES.from_rows(rows)
    assert {r["metric"] for r in rows} == {m.name for m in DYNAMICS_METRICS}
    assert {*METRICS.values(), "dynamics.plateau_exponent"} == {m.name for m in DYNAMICS_METRICS}
    overall = [r for r in rows if r["scope"] == "overall"]
    assert {r["metric"] for r in overall} == {m.name for m in DYNAMICS_METRICS}
    assert all(r["value"] is not None for r in overall)


def test_every_score_is_inside_its_interval_or_has_a_reason() -> None:
    for r in scored(full_study()):
        assert r["unit"] == BY_NAME[r["metric"]].unit and r["revision"] == ""
        if r["value"] is None:
            assert r["reason"] and r["ci_low"] is None
        else:
            assert r["ci_low"] <= r["value"] <= r["ci_high"] and r["n"] >= 1
            assert r["interval_method"] and not r["reason"]


def test_quantities_and_metrics_have_one_unit() -> None:
    for quantity, metric in METRICS.items():
        assert UNITS[quantity] == BY_NAME[metric].unit


def test_overall_is_the_largest_uniform_run_and_the_bare_fine_tuning() -> None:
    by_key = {(r["metric"], r["scope"]): r["value"] for r in scored(full_study())}
    t2, lost = "dynamics.plateau_end", "dynamics.corruption"
    assert by_key[t2, "overall"] == by_key[t2, "n4096.uniform"] != by_key[t2, "n512.uniform"]
    assert by_key[lost, "overall"] == by_key[lost, "n4096.new.w0"]


def test_a_time_missing_in_one_seed_is_missing_over_seeds() -> None:
    t = Tables()
    for s, t2 in zip(seeds(BASE), (400, 410, math.inf), strict=True):
        t.learned(s, 30, t2)
    found = list(measure_all(t.arrow()["dynamics_runs"], summary_rows(t.arrow()), level=0.95))
    (estimate,) = [
        m.estimate for m in found if (m.metric, m.scope) == ("dynamics.plateau_end", "overall")
    ]
    assert estimate.value is None and str(estimate.reason).endswith("in 1 of 3 seeds")


def test_two_sizes_give_no_exponent() -> None:
    t = Tables()
    for size in (512, 1024):
        t.learned(uniform(size), 30, 400)
    rows = [r for r in scored(t) if r["metric"] == "dynamics.plateau_exponent"]
    assert [r["value"] for r in rows] == [None]
    assert rows[0]["reason"] == "fewer than three sizes left the plateau"


# ---- a given series --------------------------------------------------------------------------


def series_tables(right: list[float], mass: list[float] | None = None) -> tuple[Any, Any, Any]:
    """Two facts with two candidates: the right one has this log-odds at each checkpoint."""
    checkpoints, candidates, attention = [], [], []
    for i, odds in enumerate(right):
        keys = {"revision": f"step{i}", "stage": "main", "step": i}
        checkpoints.append({
            "series": "s", "revision": f"step{i}", "position": i, "repo": "s", "stage": "main",
            "step": i, "tokens": 100 * i, "tokens_source": "user", "weights_sha256": [],
            "flags": [],
        })  # fmt: skip
        for subject, kind, answer in (("x", "known", 0), ("y", "known", 1), ("u", "unseen", None)):
            for c in (0, 1):
                sign = 0.0 if answer is None else odds / 2 * (1 if c == answer else -1)
                candidates.append({
                    **keys, "relation": "r", "subject": subject, "subject_kind": kind,
                    "fact_id": subject if answer is not None else None, "candidate": f"c{c}",
                    "is_answer": None if answer is None else c == answer,
                    "logprob_sum_nats": sign - 3,
                })  # fmt: skip
        for layer in (0, 1) if mass else ():
            value = mass[i] if layer and mass else 0.1
            attention.append({**keys, "layer": layer, "mass": value, "sharpness": 0.5,
                              "n_facts": 2})  # fmt: skip
    return (
        CHECKPOINTS.from_rows(checkpoints),
        CANDIDATES.from_rows(candidates),
        SUBJECT_ATTENTION.from_rows(attention),
    )


def test_a_given_series_by_hand() -> None:
    odds = [-2.0, 0.0, 0.0, 0.0, 4.0, 4.0, 4.0]
    g = given_series(*series_tables(odds, [0.1, 0.1, 0.1, 0.2, 0.5, 0.5, 0.5]))
    assert g is not None and g.unit == "tokens" and g.baseline == pytest.approx(math.log(2))
    # Softmax over two candidates with log-odds d: loss ln(1 + exp(-d)).
    assert g.loss[:, 0] == pytest.approx([math.log(1 + math.exp(-d)) for d in odds])
    assert g.unseen[:, 0] == pytest.approx([math.log(2)] * 7)
    rows = {r["quantity"]: r for r in given_rows(g)}
    # Smoothed: ln(1 + e^2) stays at the first checkpoint, then ln 2 from 100 tokens on.
    assert rows["t1"]["value"] == 100.0 and rows["t2"]["value"] == 400.0
    assert rows["t1"]["unit"] == "tokens" and rows["plateau_ratio"]["value"] == 4.0
    assert rows["final_accuracy"]["value"] == 1.0
    assert rows["confidence_gap"]["value"] == pytest.approx(1 / (1 + math.exp(-4)) - 0.5)
    assert rows["circuit_share"]["value"] == pytest.approx((0.5 - 0.1) / (0.5 - 0.1))
    assert rows["auroc"]["value"] == 1.0


def test_a_series_without_attention_or_candidates_says_so() -> None:
    g = given_series(*series_tables([0.0, 4.0, 4.0, 4.0]))
    assert g is not None and g.mass is None
    rows = {r["quantity"]: r for r in given_rows(g)}
    assert "attention was not measured" in rows["circuit_share"]["reason"]
    checkpoints, _, attention = series_tables([0.0])
    assert given_series(checkpoints, CANDIDATES.from_rows([]), attention) is None


def test_a_condition_is_that_of_its_name() -> None:
    assert replace(BASE, seed=2).name == "n4096.uniform.s2"


def test_the_losses_of_a_given_series_stand_at_every_checkpoint() -> None:
    g = given_series(*series_tables([0.0, 0.0, 4.0, 4.0], [0.1, 0.2, 0.3, 0.4]))
    assert g is not None
    rows = list(given_curves(g, draws=200, seed=0, level=0.95))
    loss = [m for m in rows if m.metric == "dynamics.series_loss"]
    assert [m.revision for m in loss] == list(g.revisions) and len(set(g.revisions)) == 4
    assert [m.estimate.value for m in loss] == pytest.approx(g.loss.mean(1).tolist())
    assert all(m.estimate.ci_low <= m.estimate.value <= m.estimate.ci_high for m in rows)
    (baseline,) = (m for m in rows if m.metric == "dynamics.series_baseline")
    assert baseline.estimate.value == pytest.approx(g.baseline)
    assert baseline.estimate.method.startswith("none: ")
    again = list(given_curves(g, draws=200, seed=0, level=0.95))
    assert again == rows
