"""Verdicts on studies in which the claims hold, do not, or cannot be told."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.dynamics.made_up import BASE, TUNING, Tables, full_study, seeds, uniform
from tests.dynamics.test_metrics import series_tables

from factlife.dynamics.claims import (
    CONTRADICTED,
    STATEMENTS,
    SUPPORTED,
    UNDECIDED,
    UNTESTED,
    Number,
    above,
    given_claims,
    scratch_claims,
    verdict,
)
from factlife.dynamics.metrics import given_rows, given_series, over_seeds, summary_rows
from factlife.schema import DYNAMICS_CLAIMS
from factlife.stats import Estimate, missing

Row = dict[str, Any]


def judged(t: Tables) -> dict[str, list[Row]]:
    tables = t.arrow()
    rows = scratch_claims(tables["dynamics_runs"].to_pylist(), summary_rows(tables), 0.95)
    DYNAMICS_CLAIMS.from_rows(rows)
    return {c: [r for r in rows if r["claim"] == c] for c in STATEMENTS}


def verdicts(t: Tables) -> dict[str, str]:
    return {c: rows[0]["verdict"] for c, rows in judged(t).items()}


# ---- rules -----------------------------------------------------------------------------------


def number(low: float, high: float, method: str = "t") -> Number:
    return above("C1", "x", 1.0, "ratio", Estimate((low + high) / 2, low, high, 3, method))


@pytest.mark.parametrize(
    ("low", "high", "holds"),
    [(1.1, 2.0, "yes"), (0.2, 0.9, "no"), (0.9, 1.1, "open"), (1.0, 2.0, "open")],
)
def test_a_number_holds_with_its_whole_interval(low: float, high: float, holds: str) -> None:
    assert number(low, high).holds == holds


def test_a_number_in_a_range() -> None:
    def held(low: float, high: float) -> str:
        e = Estimate((low + high) / 2, low, high, 3, "t")
        return Number("C7", "x", "between", 0.5, 2.0, "ratio", e).holds

    assert [held(0.6, 1.9), held(2.1, 3), held(0.1, 0.4), held(0.4, 1)] == [
        "yes", "no", "no", "open",
    ]  # fmt: skip


def test_verdicts_from_numbers() -> None:
    yes, no, unclear = number(2, 3), number(0.1, 0.5), number(0.5, 2)
    absent = above("C1", "x", 1.0, "ratio", missing(0, "none"))
    assert verdict([yes, yes]) == SUPPORTED
    assert verdict([yes, no, unclear]) == CONTRADICTED
    assert verdict([yes, unclear]) == verdict([yes, absent]) == UNDECIDED
    assert verdict([absent]) == verdict([]) == UNTESTED


def test_one_seed_decides_nothing() -> None:
    one = above("C1", "x", 1.0, "ratio", over_seeds([50.0], 0.95))
    assert one.holds == "open"
    assert set(verdicts(full_study(count=1)).values()) <= {UNDECIDED, UNTESTED}


# ---- whole studies ---------------------------------------------------------------------------


def test_a_study_in_which_every_claim_holds() -> None:
    assert verdicts(full_study()) == dict.fromkeys(STATEMENTS, SUPPORTED)


def test_an_empty_study_has_eleven_claims_that_were_not_tested() -> None:
    rows = scratch_claims([], [], 0.95)
    assert [r["claim"] for r in rows] == [f"C{k}" for k in range(1, 12)]
    assert {r["verdict"] for r in rows} == {UNTESTED} and all(r["reason"] for r in rows)


def opposite() -> Tables:
    """A study in which the claims do not hold."""
    t = Tables()
    for size, t2 in ((1024, 59), (2048, 52), (4096, 45)):
        for s in seeds(uniform(size)):
            t.learned(s, 30, t2 + s.seed, t_held=3000, accuracy=0.9 - 0.01 * s.seed,
                      top=0.02, circuit=(0.9, 0.9))  # fmt: skip
    for alpha in (0.6, 1.0):
        spec = replace(
            BASE, condition=f"n4096.power_law.a{alpha}", distribution="power_law", alpha=alpha
        )
        for s in seeds(spec):
            t.learned(s, 30, 900 + s.seed, accuracy=0.3 + 0.01 * s.seed)
    for s in seeds(replace(BASE, condition="n4096.warm_up", distribution="warm_up")):
        t.learned(s, 30, 900, accuracy=0.2)
    for r in (10, 4000):
        spec = replace(
            BASE, condition=f"n4096.patched.r{r}", kind="patched", parent="n4096.uniform",
            reference_step=r,
        )  # fmt: skip
        for s in seeds(spec):
            t.learned(s, 30, 600 if r > 100 else 40)
    for s in seeds(TUNING):
        e = 0.01 * s.seed
        t.tuned(s, {0: 0.8, 10: 0.8, 100: 0.5}, {0: 0.3, 10: 0.9 + e, 100: 0.9}, 0.75 + e, 0.55)
    for s in seeds(replace(TUNING, condition="n4096.new.w1", replay_weight=1.0)):
        t.tuned(s, {0: 0.8, 100: 0.4 - 0.01 * s.seed}, {0: 0.0, 100: 0.9}, 0.5, 0.5)
    return t


def test_a_study_in_which_no_claim_holds() -> None:
    found = verdicts(opposite())
    assert {c for c, v in found.items() if v != CONTRADICTED} == {"C4"}
    # Early patterns left the final loss just as it was: neither better nor worse.
    assert found["C4"] == UNDECIDED


def test_phases_of_a_small_population_decide_nothing() -> None:
    t = Tables()
    for s in seeds(uniform(512)):
        t.learned(s, 30, 400 + s.seed)
    rows = judged(t)["C1"]
    assert rows[0]["verdict"] == UNDECIDED and rows[0]["value"] > 2
    assert "decided at 2048 people or more; this study has 512" in rows[0]["reason"]


def test_patches_beside_runs_that_reach_nothing_say_why() -> None:
    t = Tables()
    patched = replace(BASE, condition="n4096.patched.r10", kind="patched", reference_step=10)
    for s in (*seeds(BASE), *seeds(patched)):
        t.learned(s, 1e6, math.inf)
    row = judged(t)["C4"][0]
    assert row["verdict"] == UNDECIDED and "not reached" in row["reason"]


def test_runs_that_are_too_short_leave_the_claims_open_with_their_reason() -> None:
    t = Tables()
    for s in seeds(BASE):
        t.learned(s, 30, math.inf)
    rows = judged(t)
    for claim in ("C1", "C3", "C7"):
        assert rows[claim][0]["verdict"] == UNDECIDED
        assert rows[claim][0]["value"] is None and "not reached" in rows[claim][0]["reason"]


def test_a_patched_run_that_never_leaves_the_plateau_counts_against_patching() -> None:
    t = Tables()
    patched = replace(
        BASE, condition="n4096.patched.r4000", kind="patched", parent="n4096.uniform",
        reference_step=4000,
    )  # fmt: skip
    for s in seeds(BASE):
        t.learned(s, 30, 400 + s.seed)
    for s in seeds(patched):
        t.learned(s, 30, math.inf)
    (row,) = [r for r in judged(t)["C3"] if "patterns" in r["number"]]
    # 4000 steps, its length, over about 400.
    assert row["value"] == pytest.approx(4000 / 400, rel=0.1) and row["holds"] == "no"


@pytest.mark.parametrize(
    ("step", "counts"), [(10, {"C4"}), (100, set()), (1000, {"C3"})],
    ids=["before t1", "on the plateau", "after t2"],
)  # fmt: skip
def test_patterns_count_as_early_before_t1_and_as_late_after_t2(
    step: int, counts: set[str]
) -> None:
    t = Tables()
    patched = replace(
        BASE, condition=f"n4096.patched.r{step}", kind="patched", parent="n4096.uniform",
        reference_step=step,
    )  # fmt: skip
    for s in seeds(BASE):
        t.learned(s, 30, 400 + s.seed)
    for s in seeds(patched):
        t.learned(s, 30, 200)
    rows = judged(t)
    found = {c: next(r for r in rows[c] if "patterns" in r["number"]) for c in ("C3", "C4")}
    assert {c for c, r in found.items() if r["value"] is not None} == counts
    for claim, when in (("C3", "after t2"), ("C4", "before t1")):
        if claim not in counts:
            assert f"no patterns were taken from {when}" in found[claim]["reason"]
            assert found[claim]["verdict"] == UNDECIDED


def test_two_times_that_were_not_reached_make_no_ratio() -> None:
    """Uniform and power-law runs that all stay on the plateau: their lengths are no evidence."""
    t = Tables()
    power = replace(BASE, condition="n4096.power_law.a0.6", distribution="power_law", alpha=0.6)
    for s in (*seeds(BASE), *seeds(power)):
        t.learned(s, 30, math.inf)
    row = judged(t)["C5"][0]
    assert row["value"] is None and row["holds"] == "open" and row["n"] == 3
    assert row["reason"].startswith("neither time was reached: not reached: the loss has not")


def test_a_time_that_was_not_reached_is_the_runs_length_beside_one_that_was() -> None:
    t = Tables()
    power = replace(BASE, condition="n4096.power_law.a0.6", distribution="power_law", alpha=0.6)
    for s in seeds(BASE):
        t.learned(s, 30, math.inf if s.seed else 3000)
    for s in seeds(power):
        t.learned(s, 30, 400)
    row = judged(t)["C5"][0]
    assert row["value"] < 0.3 and row["holds"] == "yes"  # about 400 over 3000, 4000, 4000
    assert row["reason"] == "2 of 6 times were not reached; the run's length stands in"


def test_distributions_without_the_uniform_runs_are_not_compared_with_them() -> None:
    t = Tables()
    power = replace(BASE, condition="n4096.power_law.a0.6", distribution="power_law", alpha=0.6)
    warm = replace(BASE, condition="n4096.warm_up", distribution="warm_up")
    for i, spec in enumerate((power, warm)):
        for s in seeds(spec):
            t.learned(s, 30, 400, accuracy=0.5 + 0.2 * i + 0.01 * s.seed)
    rows = judged(t)
    assert rows["C5"][0]["verdict"] == UNTESTED
    assert rows["C6"][0]["number"].endswith("at the best alpha (0.6)")
    assert rows["C6"][0]["value"] == pytest.approx(0.2)


def test_growth_needs_three_sizes_that_were_left() -> None:
    t = Tables()
    for size in (1024, 2048, 4096):
        for s in seeds(uniform(size)):
            t.learned(s, 30, math.inf if size == 4096 else size / 4)
    for row in judged(t)["C2"]:
        assert row["value"] is None and row["n"] == 3 and row["verdict"] == UNDECIDED
        assert row["reason"] == "fewer than three sizes left the plateau in every seed"


def test_a_celebrity_study_without_rare_people_says_nothing_of_them() -> None:
    t = Tables()
    for s in seeds(TUNING):
        t.tuned(s, {0: 0.8, 100: 0.4}, {0: 0.0, 100: 0.9}, 0.5, 0.7)
    assert judged(t)["C10"][0]["verdict"] == UNTESTED


def test_confidence_is_judged_where_people_are_known() -> None:
    """Of the largest size little was learned; the one below it is known."""
    t = Tables()
    for size, accuracy, top in ((1024, 0.9, 0.5), (2048, 0.6, 0.4), (4096, 0.2, 0.06)):
        for s in seeds(uniform(size)):
            t.learned(s, 30, 900 + s.seed, accuracy=accuracy - 0.01 * s.seed, top=top)
    rows = judged(t)["C8"]
    assert all(r["number"].endswith("at N = 2048") for r in rows)
    assert rows[0]["holds"] == "yes"
    assert rows[0]["value"] == pytest.approx(0.4 - 0.1)


def test_confidence_is_undecided_where_nobody_is_known() -> None:
    t = Tables()
    for s in seeds(uniform(1024)):
        t.learned(s, 30, 900 + s.seed, accuracy=0.3 - 0.01 * s.seed, top=0.5)
    rows = judged(t)["C8"]
    assert {r["verdict"] for r in rows} == {UNDECIDED}
    assert rows[0]["reason"] == "the model knows 29% of what it was shown; 50% are asked"


# ---- a given series --------------------------------------------------------------------------


def given(odds: list[float], runs: Tables | None = None) -> dict[str, list[Row]]:
    g = given_series(*series_tables(odds, [0.1 + 0.05 * k for k in range(len(odds))]))
    tables = (runs or Tables()).arrow()
    summary = summary_rows(tables) + (given_rows(g) if g else [])
    rows = given_claims(
        g, summary, tables["dynamics_runs"].to_pylist(), level=0.95, draws=100, seed=0
    )
    DYNAMICS_CLAIMS.from_rows(rows)
    return {c: [r for r in rows if r["claim"] == c] for c in STATEMENTS}


def test_a_series_with_three_phases() -> None:
    rows = given([-2.0, 0.0, 0.0, 0.0, 4.0, 4.0, 4.0])
    assert rows["C1"][0]["verdict"] == SUPPORTED and rows["C1"][0]["value"] == 4.0
    assert rows["C8"][0]["value"] == pytest.approx(1 / (1 + np.exp(-4)) - 0.5)
    assert rows["C7"][0]["value"] is None and "stays at the baseline" in rows["C7"][0]["reason"]
    assert {rows[c][0]["reason"] for c in ("C2", "C4", "C5", "C6")} == {"needs models trained here"}
    assert "was not fine-tuned" in rows["C9"][0]["reason"]
    assert all(r[0]["scope"] == "series" for r in rows.values())


def test_fine_tunings_of_a_given_checkpoint_are_the_series_own() -> None:
    t = full_study()
    spec = replace(TUNING, condition="series.new.w0", parent="step9", n_people=80)
    for s in seeds(spec):
        e = 0.01 * s.seed
        t.tuned(s, {0: 1.0, 10: 0.5 + e, 100: 0.4}, {0: 0.0, 10: 0.1, 100: 0.9}, 0.5 + e, 0.8)
    rows = given([-2.0, 0.0, 0.0, 4.0, 4.0, 4.0], t)
    assert rows["C9"][0]["verdict"] == rows["C11"][0]["verdict"] == SUPPORTED
    # (0.8 - 0.4) / 0.6 - (0.5 + e - 0.4) / 0.6, e = 0, 0.01, 0.02.
    assert rows["C11"][0]["value"] == pytest.approx((0.4 - 0.11) / 0.6)
    assert verdicts(t) == dict.fromkeys(STATEMENTS, SUPPORTED)


def test_a_series_that_cannot_be_read_has_only_untested_claims() -> None:
    rows = given_claims(None, [], [], level=0.95, draws=100, seed=0)
    assert {r["verdict"] for r in rows} == {UNTESTED}
