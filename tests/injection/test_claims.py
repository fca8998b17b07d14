"""The fourteen claims: verdicts from intervals, within a run and across runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factlife.errors import UsageError
from factlife.injection import claims
from factlife.injection.claims import (
    CLAIMS,
    NOT_SUPPORTED,
    NOT_TESTED,
    SUPPORTED,
    UNDECIDED,
    Claim,
    Evidence,
    evaluate,
)
from factlife.injection.compare import Run, compare, difference, read_runs, slope
from factlife.store import RunStore

EXACT = settings(derandomize=True, database=None, deadline=None, max_examples=40)
Row = dict[str, Any]
UP, DOWN, OPEN = (0.5, 0.4, 0.6), (-0.5, -0.6, -0.4), (0.1, -0.1, 0.3)


def row(metric: str, scope: str, span: Sequence[float] | None, unit: str = "nats") -> Row:
    value, low, high = span if span is not None else (None, None, None)
    return {"metric": f"injection.{metric}", "scope": scope, "revision": "", "value": value,
            "ci_low": low, "ci_high": high, "n": 3, "unit": unit, "direction": "neither",
            "interval_method": "t", "reason": None if span else "not probed"}  # fmt: skip


def rows(**changed: Any) -> list[Row]:
    """Evidence that supports every claim that one run can test."""
    e, d = "effectivity_difference", "decay_difference"
    found = {
        ("effectivity", "early"): UP, ("effectivity", "late"): UP, ("decay_constant", "late"): UP,
        ("accumulation", "late"): UP, (e, "late.memorization-semantic"): UP,
        (e, "late.semantic-compositional"): UP, (e, "late.gap_duplication-gap_paraphrase"): UP,
        (e, "late.duplication-paraphrase"): UP, (d, "late.duplication-paraphrase"): UP,
        (e, "early-late"): UP, (e, "late.first-later"): UP, ("log_fit_advantage", "late"): UP,
        (d, "late.memorization-compositional"): UP, (d, "late.semantic-compositional"): UP,
        (d, "early-late"): (0.01, -0.05, 0.05), ("effectivity_slope", "batch_rows-late"): DOWN,
        ("decay_slope", "batch_rows-late"): DOWN, ("threshold_slope", "batch_rows-late"): UP,
        ("spacing_threshold", "spacing-late"): (30, 20, 40),
        ("threshold_steps", "late"): (1.5, 1.4, 1.6),  # 31.6 steps
        ("accumulation", "spacing-late.every-10"): UP,
        ("accumulation", "spacing-late.every-100"): (0.0, -0.02, 0.02),
        ("fluctuation_difference", "early-late"): UP,
    }  # fmt: skip
    found |= {tuple(k.split("@")): v for k, v in changed.items()}  # type: ignore[misc]
    return [row(metric, scope, span) for (metric, scope), span in found.items()]


def verdicts(found: Sequence[Claim]) -> dict[int, str]:
    return {c.number: c.verdict for c in found}


def test_fourteen_claims_in_the_order_of_the_specification() -> None:
    found = evaluate(Evidence.make(rows()))
    assert [c.number for c in found] == list(range(1, 15))
    assert len({text for text, _ in CLAIMS}) == 14
    wanted = dict.fromkeys(range(1, 15), SUPPORTED) | {6: NOT_TESTED}
    assert verdicts(found) == wanted


def test_nothing_measured_is_nothing_tested() -> None:
    found = evaluate(Evidence.make([]))
    assert set(verdicts(found).values()) == {NOT_TESTED}
    nulls = evaluate(Evidence.make([{**r, **row("x", "y", None)} | {k: r[k] for k in
                                    ("metric", "scope")} for r in rows()]))  # fmt: skip
    assert set(verdicts(nulls).values()) == {NOT_TESTED}


E, D = "effectivity_difference", "decay_difference"
REFUTED = {
    "effectivity@late": (1,), "decay_constant@late": (1,), "accumulation@late": (1,),
    f"{E}@late.memorization-semantic": (2,), f"{E}@late.semantic-compositional": (2,),
    f"{E}@late.gap_duplication-gap_paraphrase": (3,), f"{E}@late.duplication-paraphrase": (4,),
    f"{D}@late.duplication-paraphrase": (4, 10), f"{E}@early-late": (5,),
    f"{E}@late.first-later": (7,), "log_fit_advantage@late": (8,),
    f"{D}@late.memorization-compositional": (9,), f"{D}@late.semantic-compositional": (9,),
    f"{D}@early-late": (11,), "threshold_slope@batch_rows-late": (12,),
    "fluctuation_difference@early-late": (14,),
}  # fmt: skip


@pytest.mark.parametrize("key", REFUTED)
def test_a_contradicting_interval_refutes_its_claims_and_an_open_one_leaves_them(key: str) -> None:
    contrary = verdicts(evaluate(Evidence.make(rows(**{key: DOWN}))))
    for number in REFUTED[key]:
        assert contrary[number] == NOT_SUPPORTED
    undecided = verdicts(evaluate(Evidence.make(rows(**{key: OPEN}))))
    for number in REFUTED[key]:
        assert undecided[number] == UNDECIDED
    gone = verdicts(evaluate(Evidence.make(rows(**{key: None}))))
    for number in REFUTED[key]:
        assert gone[number] in (UNDECIDED, NOT_TESTED)


@EXACT
@given(st.tuples(st.floats(-2, 2), st.floats(0, 2), st.floats(0, 2)))
def test_a_verdict_never_contradicts_its_interval(span: tuple[float, float, float]) -> None:
    value, down, up = span
    got = evaluate(
        Evidence.make(rows(**{f"{E}@late.first-later": (value, value - down, value + up)}))
    )
    wanted = SUPPORTED if value - down > 0 else NOT_SUPPORTED if value + up < 0 else UNDECIDED
    assert verdicts(got)[7] == wanted


def test_effectivity_that_rises_from_early_to_late_refutes_claim_5() -> None:
    assert (
        verdicts(evaluate(Evidence.make(rows(**{f"{E}@early-late": (0.0, 0.0, 0.2)}))))[5]
        == SUPPORTED
    )
    rising = evaluate(Evidence.make(rows(**{f"{E}@early-late": DOWN})))
    assert verdicts(rising)[5] == NOT_SUPPORTED


@pytest.mark.parametrize(
    ("span", "verdict"),
    [
        # A quarter of a decay constant of 0.5 is 0.125.
        ((0.0, -0.12, 0.12), SUPPORTED),
        ((0.0, -0.12, 0.13), UNDECIDED),
        ((0.2, 0.05, 0.35), UNDECIDED),
        ((0.2, 0.13, 0.27), NOT_SUPPORTED),
        ((-0.2, -0.27, -0.13), NOT_SUPPORTED),
    ],
)
def test_stable_is_an_equivalence_not_a_missing_difference(span: Any, verdict: str) -> None:
    assert verdicts(evaluate(Evidence.make(rows(**{f"{D}@early-late": span}))))[11] == verdict


@pytest.mark.parametrize(
    ("span", "verdict"),
    [
        # A tenth of the accumulation every 10 steps, 0.5, is 0.05.
        ((0.0, -0.02, 0.05), SUPPORTED),
        ((0.02, -0.01, 0.06), UNDECIDED),
        ((0.02, 0.01, 0.03), NOT_SUPPORTED),
    ],
)
def test_beyond_the_threshold_nothing_accumulates(span: Any, verdict: str) -> None:
    changed = {"accumulation@spacing-late.every-100": span}
    found = evaluate(Evidence.make(rows(**changed)))[12]
    assert found.verdict == verdict
    assert "extrapolated threshold 31.6 steps, longest spacing 100" in found.note


def test_a_threshold_beyond_every_spacing_leaves_claim_13_untested() -> None:
    found = evaluate(Evidence.make(rows(**{"threshold_steps@late": (3.0, 2.9, 3.1)})))[12]
    assert (found.verdict, found.parts) == (NOT_TESTED, ())
    assert "no spacing beyond it was tested" in found.note


def test_runs_that_did_not_finish_are_named_with_early_starts() -> None:
    run = {"injection_run": "early-seed1", "study": "main", "position": "early",
           "reason": "the loss is NaN at step 7"}  # fmt: skip
    found = evaluate(Evidence.make(rows(), [run]))[13]
    assert found.note == "did not finish: early-seed1: the loss is NaN at step 7"


def test_a_comparison_in_plain_text() -> None:
    (part,) = evaluate(Evidence.make(rows()))[6].parts
    assert part.line() == "first encounter above the later ones: 0.5 [0.4, 0.6] nats, supported"
    gone = claims.above(
        Evidence.make([row("effectivity", "late", None)]), "w", "effectivity", "late"
    )
    assert gone.line() == "w: not probed"


# ---- across runs -----------------------------------------------------------------------------


def run(
    name: str, parameters: int = 100, effect: Any = UP, *, batch: int = 32, lr: float = 1e-4,
    model: str = "m", decay: Any = UP, scores: Sequence[Row] = (),
) -> Run:  # fmt: skip
    at = 9 + batch / 1000
    own = [row("effectivity", "overall", effect), row("decay_constant", "overall", decay),
           row("threshold_tokens", "overall", (at, at - 0.1, at + 0.1)), *scores]  # fmt: skip
    about = [{"injection_run": f"{name}-0", "study": "main", "position": "late", "reason": None,
              "batch_rows": batch, "peak_lr": lr, "context": 256}]  # fmt: skip
    return Run(name, model, parameters, own, about)


def test_slopes_over_runs_by_hand() -> None:
    # Values 1 and 3 at 10 and 1000: slope 1 a decade; weights -1/2 and 1/2.
    a, b = row("x", "s", (1.0, 0.8, 1.4)), row("x", "s", (3.0, 2.7, 3.4))
    found = slope([(10, a), (1000, b)])
    assert found["value"] == pytest.approx(1.0)
    # Down: half of a's way up (0.4) and of b's way down (0.3): sqrt(0.04 + 0.0225) = 0.25
    assert found["ci_low"] == pytest.approx(0.75)
    # Up: half of a's way down (0.2) and of b's way up (0.4): sqrt(0.01 + 0.04) = 0.2236
    assert found["ci_high"] == pytest.approx(1.2236, abs=1e-4)
    apart = difference(b, a)
    # 2; down sqrt(0.3² + 0.4²) = 0.5; up sqrt(0.4² + 0.2²) = 0.4472
    assert (apart["value"], apart["ci_low"]) == pytest.approx((2.0, 1.5))
    assert apart["ci_high"] == pytest.approx(2.4472, abs=1e-4)


@pytest.mark.parametrize(
    ("spans", "verdict"),
    [((DOWN, UP), SUPPORTED), ((UP, DOWN), NOT_SUPPORTED), ((UP, UP), UNDECIDED)],
)
def test_claim_6_compares_sizes(spans: Any, verdict: str) -> None:
    found = compare([run("a", 10**8, spans[0]), run("b", 10**9, spans[1], model="n")])[5]
    assert found.verdict == verdict
    assert "2 runs at one learning rate and batch" in found.note


def test_claim_6_needs_sizes_and_one_learning_rate() -> None:
    same = compare([run("a"), run("b")])[5]
    assert (same.verdict, same.note) == (NOT_TESTED, "needs runs of at least two model sizes")
    apart = compare([run("a", 10), run("b", 20, lr=1e-3, model="n")])[5]
    assert apart.verdict == NOT_TESTED
    assert "runs differ in peak_lr, not in size alone" in apart.note


def test_claim_12_compares_batches_of_one_model() -> None:
    small = run("small", batch=8, effect=(2.0, 1.9, 2.1), decay=(0.3, 0.29, 0.31))
    large = run("large", batch=800, effect=(1.0, 0.9, 1.1), decay=(0.1, 0.09, 0.11))
    found = compare([small, large])[11]
    assert found.verdict == SUPPORTED
    assert [p.verdict for p in found.parts] == [SUPPORTED] * 3
    turned = compare([run("a", batch=800, effect=(2.0, 1.9, 2.1)), run("b", batch=8)])[11]
    assert turned.verdict == NOT_SUPPORTED
    other = compare([small, run("x", batch=800, model="n")])[11]
    assert (other.verdict, other.note) == (NOT_TESTED, "runs differ in more than their batch")


def test_stages_from_different_runs_of_one_model_are_put_together() -> None:
    early = run("a", scores=[row("decay_constant", "early", (0.2, 0.19, 0.21)),
                             row("effectivity", "early", UP),
                             row("fluctuation", "early", (0.4, 0.39, 0.41))])  # fmt: skip
    late = run("b", scores=[row("decay_constant", "late", (0.2, 0.19, 0.21)),
                            row("effectivity", "late", UP),
                            row("fluctuation", "late", (0.1, 0.09, 0.11))])  # fmt: skip
    found = compare([early, late])
    assert found[10].verdict == SUPPORTED  # 0 ± 0.0141 lies within 0.05
    assert found[13].verdict == SUPPORTED  # 0.3 ± 0.0141
    assert found[10].parts[0].row is not None
    assert found[10].parts[0].row["ci_high"] == pytest.approx(0.0141421, abs=1e-6)


def test_other_claims_are_listed_run_by_run() -> None:
    found = compare(
        [run("a", scores=rows()), run("b", scores=rows(**{f"{E}@late.first-later": DOWN}))]
    )
    assert found[6].verdict == NOT_SUPPORTED
    assert [p.what.partition(":")[0] for p in found[6].parts] == ["a", "b"]
    assert found[1].verdict == SUPPORTED
    untested = compare([run("a", scores=rows()), run("b", model="n")])
    assert untested[1].verdict == SUPPORTED  # what b did not measure is not listed


def test_folders_that_cannot_be_compared(tmp_path: Path) -> None:
    made: Mapping[str, Any] = {"identity": {}}
    for name in ("a", "b"):
        with RunStore.writer(tmp_path / name, dict(made)):
            pass
    with pytest.raises(UsageError, match="two or more different"):
        read_runs([tmp_path / "a", tmp_path / "." / "a"])
    with pytest.raises(UsageError, match="factlife score"):
        read_runs([tmp_path / "a", tmp_path / "b"])
    (tmp_path / "a" / "result.json").write_text("{}")
    with pytest.raises(UsageError, match="no injection runs"):
        read_runs([tmp_path / "a", tmp_path / "b"])
