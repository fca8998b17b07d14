"""Evolution, transitions and the whole track, worked by hand on tables small enough to read."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.circuits.tables import Prompt, Row, Shape, checkpoints, circuits, random_parts, rows
from tests.circuits.tables import sweep as swept

from factlife import stats
from factlife.circuits.metrics import RANDOM_INIT, REGISTRY, Found, measure_all
from factlife.circuits.metrics.evolution import thirds
from factlife.circuits.metrics.series import Checkpoint, Series
from factlife.config import Circuits, Intervals
from factlife.schema import ABLATIONS, CIRCUITS, CIRCUITS_SWEEP, ROLES, TRANSITIONS
from factlife.stats import Estimate, Resampler

EXACT = settings(derandomize=True, database=None, deadline=None, max_examples=8)
INTERVALS = Intervals(draws=100)
PLAIN = Circuits(theta_sweep=(), null_draws=40)
NOTHING = CIRCUITS_SWEEP.from_rows([]), ABLATIONS.from_rows([])

# Two relations of two facts; every prompt is BOS, subject, answer, so T_a = T_e = {1}.
FOUR = {f: Prompt(r, 3, (1,), (2,)) for f, r in zip("wxyz", "aabb", strict=True)}
SHAPE = Shape(3, 2)  # heads 0 and 1 in layer 0, 2 and 3 in layer 1, 4 and 5 in layer 2


def placed(
    general: Sequence[int] = (),
    entity: Sequence[int] = (),
    relation: Sequence[int] = (),
    fact: Sequence[int] = (),
) -> dict[tuple[str, int], list[int]]:
    """Activity that gives these heads these roles at theta .6 (relation: of `a`; fact: of `w`).

    general: every token (1). entity: T_e of all facts (c^g 1/3). relation: T_a of w and x (c^e
    .5, c^r 1). fact: T_a of w alone (c^r .5, c^f 1).
    """
    active: dict[tuple[str, int], list[int]] = {(f, t): [] for f in FOUR for t in range(3)}
    for f, t in active:
        active[f, t] += general
        if t == 1:
            active[f, t] += entity
            active[f, t] += relation if f in "wx" else ()
            active[f, t] += fact if f == "w" else ()
    return active


def run(
    heads: Mapping[str, Mapping[tuple[str, int], Sequence[int]]],
    tokens: Mapping[str, int | None] | None = None,
    settings: Circuits = PLAIN,
    stages: Mapping[str, str] | None = None,
    more: Sequence[Sequence[Row]] = (),
    sweep: pa.Table = NOTHING[0],
) -> Found:
    """Measure checkpoints of hand-placed heads at theta .6."""
    parts = [rows(r, FOUR, SHAPE, h) for r, h in heads.items()]
    at = tokens or {r: 1000 * 10**i for i, r in enumerate(heads)}
    return measure_all(
        circuits([*parts, *more]), sweep, NOTHING[1], checkpoints(at, stages),
        settings=at_theta(settings, 0.6), intervals=INTERVALS,
    )  # fmt: skip


def at_theta(settings: Circuits, theta: float) -> Circuits:
    return Circuits(**{**vars(settings), "theta": theta, "theta_ffn": theta})


def get(found: Found, metric: str, revision: str = "", scope: str = "overall") -> Estimate:
    (estimate,) = (
        m.estimate
        for m in found.measured
        if (m.metric, m.revision, m.scope) == (f"circuits.{metric}", revision, scope)
    )
    return estimate


THREE = {
    "s1": placed(general=[0], relation=[2], fact=[4]),
    "s2": placed(general=[0, 1], entity=[2], fact=[4]),
    "s3": placed(general=[1], entity=[2], relation=[4]),
}


def test_shares_and_counts() -> None:
    found = run(THREE)
    assert get(found, "head_share_general", "s2").value == pytest.approx(2 / 6)
    assert get(found, "head_share_entity", "s2").value == pytest.approx(1 / 6)
    assert get(found, "head_share_relation", "s2").value == 0
    assert get(found, "head_share_fact", "s2").value == pytest.approx(1 / 6)
    assert get(found, "active_head_share", "s2").value == pytest.approx(4 / 6)
    assert get(found, "active_heads", "s2").value == 4
    assert get(found, "active_head_share", "s2").n == 6
    # relation b has no relation or fact head; its general and entity heads stay active
    assert get(found, "head_share_relation", "s1", "a").value == pytest.approx(1 / 6)
    assert get(found, "head_share_relation", "s1", "b").value == 0
    assert get(found, "active_head_share", "s1", "b").value == pytest.approx(1 / 6)
    # |H_f| is 1 for w and 0 for x, y, z
    assert get(found, "fact_heads_per_fact", "s1").value == 0.25
    assert get(found, "fact_heads_per_fact", "s1", "a").value == 0.5
    assert get(found, "active_ffn_share", "s1").value == 0


def test_overlaps_with_the_last_and_the_previous() -> None:
    found = run(THREE)
    # general: {0}, {0, 1}, {1}
    last = [get(found, "iou_last_general", r).value for r in THREE]
    assert last == [0, 0.5, 1]
    previous = [get(found, "iou_previous_general", r) for r in THREE]
    assert [e.value for e in previous] == [None, 0.5, 0.5]
    assert previous[0].reason == "no checkpoint before this one"
    assert previous[1].n == 2  # the union
    # active: {0, 2, 4}, {0, 1, 2, 4}, {1, 2, 4}: intersection 2 of a union of 4, 3 of 4
    assert get(found, "iou_last_active", "s1").value == 0.5
    assert get(found, "iou_last_active", "s2").value == 0.75
    # null of {0} and {1} in a layer of two: they meet with p 1/2, IoU 1 or 0
    null = get(found, "iou_last_general_null", "s1")
    assert (null.value, null.ci_low, null.ci_high) == (0.5, 0, 1)
    assert null.method == "null quantiles (identities permuted within layer)"


def test_empty_unions_are_null_or_zero() -> None:
    both = {"s1": placed(general=[0]), "s2": placed(general=[0])}
    e = get(run(both), "iou_last_fact", "s1")
    assert e.value is None
    assert e.reason == "no component holds this role at either checkpoint"
    published = run(both, settings=Circuits(theta_sweep=(), empty_union="zero"))
    assert get(published, "iou_last_fact", "s1").value == 0


def test_switches_are_between_active_roles() -> None:
    # Head 2 (middle layer) goes relation, entity, entity: one switch. Head 4 (late) fact, fact,
    # relation: one. Head 0 leaves general for inactive and head 1 takes it up: no switches.
    found = run(THREE)
    values = [get(found, f"switches_{t}").value for t in ("early", "middle", "late")]
    assert values == [0, 0.5, 0.5]
    # Null, middle layer of two: s1 -> s2: 1 relation x 1 entity / 2 = .5 expected; s2 -> s3
    # entity stays entity. Late: s2 -> s3 fact x relation / 2 = .5. Per head: .25 each.
    assert get(found, "switches_middle_null").value == 0.25
    assert get(found, "switches_late_excess").value == 0.25
    assert get(found, "switches_early").n == 2


def test_layers_fall_into_thirds() -> None:
    assert thirds(7) == {"early": [0, 1, 2], "middle": [3, 4], "late": [5, 6]}
    assert thirds(2) == {"early": [0], "middle": [1], "late": []}


def test_one_checkpoint_has_no_evolution() -> None:
    found = run({"s1": THREE["s1"]})
    for name in ("iou_last_general", "iou_previous_fact", "iou_last_active_null"):
        e = get(found, name, "s1")
        assert (e.value, e.reason) == (None, "only one checkpoint was measured")
    for name in ("iou_general_excess", "switches_early", "switches_late_excess"):
        assert get(found, name).reason == "only one checkpoint was measured"
    assert {t["reason"] for t in found.transitions} == {"only one checkpoint was measured"}
    assert len(TRANSITIONS.from_rows(found.transitions)) == 2 * 3 * 25  # kinds x scopes x pairs
    assert get(found, "head_share_general", "s1").value == pytest.approx(1 / 6)


def test_stability_over_log_tokens() -> None:
    # Heads of layer 0: {0}, {0}, {1}, {1} against the last {1}: IoU 0, 0, 1; null mean 1/2.
    # Excess -.5, -.5, .5 at 10^3, 10^4, 10^6 tokens: trapezoids over ln: (-.5 x 1 + 0 x 2)/3.
    four = {f"s{i}": placed(general=[h]) for i, h in enumerate((0, 0, 1, 1), start=1)}
    tokens = dict(zip(four, (10**3, 10**4, 10**6, 10**7), strict=True))
    e = get(run(four, tokens), "iou_general_excess")
    assert e.value == pytest.approx(-0.5 / 3)
    assert e.n == 3
    assert e.ci_low is not None and e.ci_high is not None and e.ci_low < 0 < e.ci_high
    # Step 0 has no logarithm, and what is left is one checkpoint.
    e = get(run(THREE, {"s1": 0, "s2": 10, "s3": 100}), "iou_general_excess")
    assert e.reason == "fewer than two checkpoints before the last to compare"
    e = get(run(THREE, {"s1": 1, "s2": None, "s3": 100}), "iou_general_excess")
    assert e.reason is not None and "tokens are unknown" in e.reason


def test_a_chained_series_is_compared_with_the_end_of_pretraining() -> None:
    stages = {"s1": "main", "s2": "main", "s3": "sft"}
    found = run(THREE, {"s1": 10, "s2": 100, "s3": None}, stages=stages)
    # the reference is s2: {0, 1}; general sets {0}, {0, 1}, {1}
    assert [get(found, "iou_last_general", r).value for r in THREE] == [0.5, 1, 0.5]
    assert get(found, "iou_previous_general", "s3").value == 0.5


def test_where_tokens_go_back_nothing_follows() -> None:
    found = run(THREE, {"s1": 10, "s2": 100, "s3": 50})
    e = get(found, "iou_previous_general", "s3")
    assert e.value is None and e.reason is not None and "tokens go back" in e.reason
    assert get(found, "iou_previous_general", "s2").value == 0.5
    assert get(found, "switches_late").value == 0  # s2 -> s3 is no step of training
    reason = get(found, "iou_general_excess").reason
    assert reason is not None and "tokens go back" in reason


def test_series_gaps() -> None:
    tokens = (0, 100, None, 200, 400, 400)
    s = Series(tuple(Checkpoint(f"s{i}", "main", i, t) for i, t in enumerate(tokens)))
    gaps = [s.log_gap(i) for i in range(1, 6)]
    assert gaps == [None, None, None, pytest.approx(math.log(2)), None]
    assert s.pairs == (1, 2, 3, 4, 5)
    assert s.no_gaps == ""
    early = Series(s.checkpoints[:2])
    assert early.no_gaps == "fewer than two checkpoints after step 0"
    assert "unknown" in Series(s.checkpoints[:3]).no_gaps
    assert early.untrained == 0 and Series(s.checkpoints[1:]).untrained is None


# ---- transitions -----------------------------------------------------------------------------


def transition(found: Found, before: str, after: str, scope: str = "overall") -> Row:
    (row,) = (
        t for t in found.transitions
        if (t["kind"], t["scope"], t["role_before"], t["role_after"])
        == ("head", scope, before, after)
    )  # fmt: skip
    return row


def test_transitions_worked_by_hand() -> None:
    found = run(THREE)  # tokens 10^3, 10^4, 10^5: two gaps of ln 10
    # Before a checkpoint, general was held 1 + 2 times: head 0 stayed once and left once,
    # head 1 stayed once.
    stay, leave = (transition(found, "general", b) for b in ("general", "inactive"))
    assert (stay["count"], leave["count"]) == (2, 1)
    assert stay["probability"] == pytest.approx(2 / 3)
    assert leave["probability"] == pytest.approx(1 / 3)
    assert leave["per_log_token"] == pytest.approx(1 / (3 * math.log(10)))
    assert stay["per_log_token"] is None
    # null, layer 0: s1 -> s2: 1 x 2 / 2; s2 -> s3: 2 x 1 / 2: 2 of 3 in general
    assert stay["null_mean"] == pytest.approx(2 / 3)
    assert stay["ci_low"] <= stay["probability"] <= stay["ci_high"]
    relation = transition(found, "relation", "entity")
    assert (relation["count"], relation["probability"]) == (1, 1)
    assert relation["ci_low"] == pytest.approx(stats.wilson(1, 1)[0])  # no resample differs
    # in relation b nothing ever held the fact role
    absent = transition(found, "fact", "fact", "b")
    assert absent["count"] == 0 and "probability" not in absent
    assert absent["reason"] == "no component held this role before another checkpoint"
    table = TRANSITIONS.from_rows(found.transitions)
    assert len(table) == 2 * 3 * 25
    sums: dict[str, float] = {}
    for t in found.transitions:
        if (t["kind"], t["scope"]) == ("head", "overall") and "probability" in t:
            sums[t["role_before"]] = sums.get(t["role_before"], 0) + t["probability"]
    assert list(sums.values()) == pytest.approx([1] * len(sums))


def test_rates_need_tokens() -> None:
    found = run(THREE, dict.fromkeys(THREE))
    row = transition(found, "general", "inactive")
    assert row["probability"] == pytest.approx(1 / 3)
    assert row["rate"] is None and row["per_log_token"] is None
    assert "tokens are unknown" in row["reason"]


def test_rates_are_those_of_the_generator() -> None:
    """Heads that leave a role at a constant rate per ln(tokens), over uneven gaps."""
    shape, one = Shape(4, 50), {"w": Prompt("a", 3, (1,), (2,)), "x": Prompt("a", 3, (1,), (2,))}
    rng = np.random.default_rng(0)
    tokens = (1.0, 1.3, 2.0, 2.2, 4.0)
    held, parts = np.ones(200, dtype=bool), []
    for i, t in enumerate(tokens):
        if i:  # rate 0.7 from general to inactive
            held = held & (rng.random(200) < math.exp(-0.7 * math.log(t / tokens[i - 1])))
        active = np.flatnonzero(held).tolist()
        parts.append(rows(f"s{i}", one, shape, {(f, p): active for f in one for p in range(3)}))
    at = checkpoints({f"s{i}": int(1000 * t) for i, t in enumerate(tokens)})
    found = measure_all(circuits(parts), *NOTHING, at, settings=PLAIN, intervals=INTERVALS)
    # about 120 of 200 leave: standard error of the rate .7/sqrt(120) = .06
    assert transition(found, "general", "inactive")["rate"] == pytest.approx(0.7, abs=0.18)
    assert transition(found, "general", "general")["rate"] == pytest.approx(-0.7, abs=0.18)
    assert transition(found, "inactive", "general")["rate"] == 0


# ---- the untrained model, halves, thresholds -------------------------------------------------


def test_active_heads_beyond_an_untrained_model() -> None:
    e = get(run(THREE), "active_heads_excess", "s2")
    assert e.value is None and e.reason is not None and RANDOM_INIT in e.reason
    random = rows(RANDOM_INIT, FOUR, SHAPE, placed(general=[0, 1, 3]))
    assert get(run(THREE, more=[random]), "active_heads_excess", "s2").value == 4 - 3
    short = [r for r in random if r["fact_id"] != "w"]
    assert get(run(THREE, more=[short]), "active_heads_excess", "s2").value is None
    zero = {"s0": placed(general=[5])} | THREE
    found = run(zero, {"s0": 0, "s1": 10, "s2": 100, "s3": 1000}, more=[random])
    assert get(found, "active_heads_excess", "s2").value == 4 - 1  # step 0 where it is published


def test_relation_heads_against_permuted_labels() -> None:
    # s1: head 2 is active for w and x. Of the 3 ways to pair four facts, one pairs w with x (c^r
    # 1 > .6); else each relation has c^r .5. So the null has 1/3 of a head; found is 1.
    found = run(THREE, settings=Circuits(theta_sweep=(), null_draws=400))
    null = get(found, "relation_heads_null", "s1")
    assert null.value == pytest.approx(1 / 3, abs=0.08)
    assert null.value is not None
    assert get(found, "relation_heads_excess", "s1").value == pytest.approx(1 - null.value)


def test_split_half_agreement() -> None:
    found = run(THREE)
    # every half of the facts shows head 0 as general
    e = get(found, "split_half_general", "s1")
    assert (e.value, e.ci_low, e.ci_high, e.n) == (1, 1, 1, 50)
    # Head 4 serves w. Only the half that holds w shows it, so no halves overlap; and there w is the
    # only fact of its relation, whose head it therefore is.
    assert get(found, "split_half_relation", "s2").value == 0
    assert get(found, "split_half_fact", "s2").value is None


def test_other_thresholds_have_scopes_of_their_own() -> None:
    other = [rows(r, FOUR, SHAPE, placed(general=[0, 3])) for r in THREE]
    settings = Circuits(theta_sweep=(0.9, 0.2), null_draws=40)
    found = run(THREE, settings=settings, sweep=swept(other, 0.02))
    assert get(found, "head_share_general", "s1", "tau=0.02").value == pytest.approx(2 / 6)
    assert get(found, "iou_last_general", "s1", "tau=0.02").value == 1
    # theta .2: c^g of an entity head is 1/3, of a relation head 1/6: entity heads become general
    assert get(found, "head_share_general", "s2", "theta=0.2").value == pytest.approx(3 / 6)
    assert get(found, "head_share_general", "s2", "theta=0.9").value == pytest.approx(2 / 6)
    assert get(found, "iou_last_active", "s3", "theta=0.9").value == 1


# ---- the whole track -------------------------------------------------------------------------


def test_everything_measured_is_registered_and_inside_its_interval() -> None:
    revisions = [f"step{i}" for i in range(4)]
    _, parts = random_parts(7, revisions, Shape(3, 4, 2))
    _, others = random_parts(7, revisions, Shape(3, 4, 2))
    ablations = ablation_rows(revisions[-1])
    found = measure_all(
        circuits(parts), swept(others, 0.02), ABLATIONS.from_rows(ablations),
        checkpoints({r: 1000 * i for i, r in enumerate(revisions)}),
        settings=Circuits(null_draws=40), intervals=INTERVALS,
    )  # fmt: skip
    names = {e.name for e in REGISTRY}
    assert len(names) == len(REGISTRY)
    series_level = {e.name for e in REGISTRY if not e.per_revision}
    assert {m.metric for m in found.measured} == names
    keys = [(m.metric, m.scope, m.revision) for m in found.measured]
    assert len(set(keys)) == len(keys)
    for m in found.measured:
        e = m.estimate
        assert (m.revision == "") == (m.metric in series_level)
        if e.value is None:
            assert e.reason
        else:
            assert e.ci_low is not None and e.ci_high is not None and e.method
            assert e.ci_low <= e.value <= e.ci_high, m
            assert np.isfinite([e.value, e.ci_low, e.ci_high]).all()
    ROLES.check(found.roles)
    kinds = set(TRANSITIONS.from_rows(found.transitions)["kind"].to_pylist())
    assert kinds == {"head", "ffn", "expert"}
    # shares of roles add up to the share of active components
    for kind in ("head", "ffn", "expert"):
        active = get(found, f"active_{kind}_share", "step3").value
        roles = [get(found, f"{kind}_share_{r}", "step3").value for r in
                 ("general", "entity", "relation", "fact")]  # fmt: skip
        assert sum(v for v in roles if v is not None) == pytest.approx(active)


@EXACT
@given(seed=st.integers(0, 10_000), kind=st.sampled_from(["head", "ffn", "expert"]))
def test_evolution_equals_its_definition_on_the_roles(seed: int, kind: str) -> None:
    """IoU, transitions and switches from plain sets and loops over the rows of `roles`."""
    revisions = ["s1", "s2", "s3"]
    _, parts = random_parts(seed, revisions, Shape(3, 3, 2))
    found = measure_all(
        circuits(parts), *NOTHING, checkpoints({r: 10**i for i, r in enumerate(revisions, 1)}),
        settings=Circuits(theta=0.3, theta_ffn=0.3, theta_sweep=(), null_draws=20),
        intervals=INTERVALS,
    )  # fmt: skip
    role = {
        (r["revision"], r["scope"], r["layer"], r["index"]): r["role"]
        for r in found.roles.to_pylist()
        if r["kind"] == kind
    }
    places = sorted({key[2:] for key in role})
    name = "" if kind == "head" else f"{kind}_"
    for scope in ("overall", "r1"):
        for held in ("relation", "fact", "active"):
            for i, revision in enumerate(revisions):
                for against, other in (("last", 2), ("previous", i - 1)):
                    if other < 0:
                        continue
                    now, then = (
                        {p for p in places if _holds(role[r, scope, *p], held)}
                        for r in (revision, revisions[other])
                    )
                    e = get(found, f"{name}iou_{against}_{held}", revision, scope)
                    assert e.value == stats.iou(now, then)
                    assert e.n == len(now | then)
        moves = [
            (role[a, scope, *p], role[b, scope, *p])
            for a, b in itertools.pairwise(revisions)
            for p in places
        ]
        for t in found.transitions:
            if (t["kind"], t["scope"]) == (kind, scope):
                before, after = t["role_before"], t["role_after"]
                assert t["count"] == moves.count((before, after))
                out = sum(a == before for a, _ in moves)
                assert t.get("probability") == (t["count"] / out if out else None)
    if kind == "head":
        switches = sum(
            "inactive" not in pair and pair[0] != pair[1]
            for p in places
            if p[0] == 0
            for pair in itertools.pairwise(role[r, "overall", *p] for r in revisions)
        )
        assert get(found, "switches_early").value == pytest.approx(switches / 3)


def _holds(role: str, name: str) -> bool:
    return role != "inactive" if name == "active" else role == name


def test_the_same_tables_give_the_same_numbers() -> None:
    """Also when their rows come in another order."""
    _, parts = random_parts(8, ["s1", "s2"], Shape(2, 3))
    table, at = circuits(parts), checkpoints({"s1": 10, "s2": 100})
    order = np.random.default_rng(0).permutation(table.num_rows)
    results = [
        measure_all(t, *NOTHING, at, settings=Circuits(null_draws=20), intervals=INTERVALS)
        for t in (table, table.take(pa.array(order)))
    ]
    assert results[0].measured == results[1].measured
    assert results[0].transitions == results[1].transitions
    assert results[0].roles.equals(results[1].roles)


def test_a_track_that_was_not_run_has_no_rows() -> None:
    found = measure_all(
        CIRCUITS.from_rows([]), *NOTHING, checkpoints({"s1": 10}), settings=PLAIN,
        intervals=INTERVALS,
    )  # fmt: skip
    assert (found.measured, len(found.roles), found.transitions) == ([], 0, [])


def test_no_measured_fact_is_said() -> None:
    part = [{"revision": "s1", "stage": "main", "step": 1, "fact_id": "w", "relation": "a",
             "position": 0, "flags": [], "reason": "longer than the context"}]  # fmt: skip
    found = measure_all(
        circuits([part]), *NOTHING, checkpoints({"s1": 10}), settings=PLAIN, intervals=INTERVALS
    )
    assert (
        get(found, "active_head_share", "s1").reason == "no fact was measured at every checkpoint"
    )


def test_models_of_other_shapes_are_not_compared() -> None:
    heads = {("w", t): [0] for t in range(3)}
    parts = [rows("s1", FOUR, Shape(3, 2), heads), rows("s2", FOUR, Shape(2, 2), heads)]
    found = measure_all(
        circuits(parts), *NOTHING, checkpoints({"s1": 10, "s2": 100}), settings=PLAIN,
        intervals=INTERVALS,
    )  # fmt: skip
    for e in (get(found, "iou_last_general", "s1"), get(found, "switches_early")):
        assert e.value is None and e.reason is not None and "differ in their number" in e.reason


# ---- ablations -------------------------------------------------------------------------------


def ablation_rows(revision: str) -> list[dict[str, Any]]:
    """Facts w, x (relation a), y, z (b); general heads carry w and x, no head is a fact head."""
    out = []

    def add(role: str, condition: str, right: Sequence[float], nats: Sequence[float], draw: int = 0,
            n: int = 1) -> None:  # fmt: skip
        for fact, ok, value in zip("wxyz", right, nats, strict=True):
            out.append({
                "revision": revision, "stage": "main", "step": 1, "role": role,
                "condition": condition, "draw": draw, "fact_id": fact,
                "relation": FOUR[fact].relation, "n_ablated": n, "n_role": n,
                "logprob_sum_nats": value, "n_tokens": 1, "whole_answer": bool(ok),
            })  # fmt: skip

    add("none", "intact", (1, 1, 1, 0), (-1, -1, -1, -5), n=0)
    add("general", "role", (0, 0, 1, 0), (-9, -8, -1, -5))
    add("general", "control", (1, 1, 1, 0), (-1, -2, -1, -5), 0)
    add("general", "control", (1, 0, 1, 0), (-1, -4, -1, -5), 1)
    add("entity", "role", (1, 1, 1, 0), (-1, -1, -1, -5))
    add("entity", "control", (1, 1, 1, 0), (-1, -1, -1, -5))
    add("relation", "role", (1, 1, 0, 0), (-1, -1, -4, -5))
    add("circuit", "circuit_only", (1, 1, 0, 0), (-2, -1, -3, -6))
    add("circuit", "circuit_control", (0, 1, 0, 0), (-9, -1, -9, -9))
    add("circuit", "none_kept", (0, 0, 0, 0), (-9, -9, -9, -9))
    out.append({
        "revision": revision, "stage": "main", "step": 1, "role": "fact", "condition": "role",
        "draw": 0, "fact_id": "w", "relation": "a", "n_ablated": 0, "n_role": 0,
        "reason": "no head holds this role here",
    })  # fmt: skip
    return out


@pytest.fixture(scope="module")
def ablated() -> Found:
    return measure_all(
        circuits([rows("s1", FOUR, SHAPE, THREE["s1"])]), NOTHING[0],
        ABLATIONS.from_rows(ablation_rows("s1")), checkpoints({"s1": 10}), settings=PLAIN,
        intervals=INTERVALS,
    )  # fmt: skip


def test_drops_and_effects_worked_by_hand(ablated: Found) -> None:
    # general: intact right 3 of 4, ablated 1 of 4. Controls, mean of two draws: (1, .5, 1, 0).
    assert get(ablated, "ablation_drop_general", "s1").value == 0.5
    assert get(ablated, "ablation_effect_general", "s1").value == pytest.approx(1.5 / 4)
    # nats: intact minus ablated (8, 7, 0, 0); controls (-1, -3, -1, -5): (8, 5, 0, 0)
    assert get(ablated, "ablation_drop_nats_general", "s1").value == 15 / 4
    assert get(ablated, "ablation_effect_nats_general", "s1").value == 13 / 4
    assert get(ablated, "ablation_drop_general", "s1", "a").value == 1
    assert get(ablated, "ablation_drop_general", "s1", "b").value == 0
    nothing = get(ablated, "ablation_effect_entity", "s1")
    assert nothing.value == 0 and nothing.method == "wilson"
    assert nothing.ci_low is not None and nothing.ci_low < 0  # four facts without a change


def test_roles_without_heads_or_controls_are_null(ablated: Found) -> None:
    fact = get(ablated, "ablation_drop_fact", "s1")
    assert (fact.value, fact.reason) == (None, "no head holds this role here")
    assert get(ablated, "ablation_effect_fact", "s1").reason == "no head holds this role here"
    assert get(ablated, "ablation_drop_relation", "s1").value == 0.25
    effect = get(ablated, "ablation_effect_relation", "s1")
    assert (effect.value, effect.reason) == (None, "the role has no controls")


def test_faithfulness_worked_by_hand(ablated: Found) -> None:
    # intact recalls 3; circuits alone 2; random circuits 1; nothing 0
    assert get(ablated, "faithfulness", "s1").value == pytest.approx(2 / 3)
    assert get(ablated, "faithfulness_control", "s1").value == pytest.approx(1 / 3)
    none = get(ablated, "faithfulness_none", "s1")
    assert none.value == 0 and none.method == "wilson"
    assert none.ci_high is not None and 0.5 < none.ci_high < 0.6  # Wilson, 0 of 3: .561
    # nats: (1, 0, 2, 1)
    assert get(ablated, "circuit_only_drop_nats", "s1").value == 1


def test_no_recall_leaves_nothing_to_be_faithful_to() -> None:
    wrong = [r | {"whole_answer": False} if "whole_answer" in r else r for r in ablation_rows("s1")]
    found = measure_all(
        circuits([rows("s1", FOUR, SHAPE, THREE["s1"])]), NOTHING[0], ABLATIONS.from_rows(wrong),
        checkpoints({"s1": 10}), settings=PLAIN, intervals=INTERVALS,
    )  # fmt: skip
    e = get(found, "faithfulness", "s1")
    assert (e.value, e.reason) == (None, "the intact model recalls none of these facts")


def test_intervals_of_fact_heads_cover() -> None:
    """The bootstrap over facts within relations covers the mean of H_f in about 95 % of cases."""
    rng, covered = np.random.default_rng(9), 0
    for seed in range(150):
        sizes = rng.poisson(3.0, size=60).astype(float)
        resampler = Resampler.make([i % 4 for i in range(60)], 200, seed)
        e = stats.bootstrap_mean(sizes, resampler, support=(0.0, 20.0))
        assert e.ci_low is not None and e.ci_high is not None
        covered += e.ci_low <= 3.0 <= e.ci_high
    assert covered >= 133  # 142 expected; 133 is 3.5 standard deviations below
