"""Scores and roles: worked by hand, and fast against the definition in plain sets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.circuits.tables import Prompt, Shape, checkpoints, circuits, random_parts, rows, sweep

from factlife.circuits.bits import unpack
from factlife.circuits.metrics import head_roles, measure_all
from factlife.circuits.metrics.activity import activity, measured_facts
from factlife.circuits.metrics.roles import scores, theta_of
from factlife.config import Circuits, Intervals, load_profile
from factlife.errors import IntegrityError, UsageError
from factlife.schema import ABLATIONS, ROLES

EXACT = settings(derandomize=True, database=None, deadline=None, max_examples=25)
INTERVALS = Intervals(draws=100)

# f1 has 4 tokens: BOS, subject (1), filler, answer (3), so T_a = {2}, T_e = {1, 2}.
# f2 has 6 tokens: subject (1, 2, 3), answer (5), so T_a = {4}, T_e = {1, 2, 3, 4}.
TWO = {"f1": Prompt("a", 4, (1,), (3,)), "f2": Prompt("b", 6, (1, 2, 3), (5,))}
# Five heads of one layer:
HEADS: dict[tuple[str, int], tuple[int, ...]] = {
    ("f1", 0): (0,), ("f1", 1): (0, 1), ("f1", 2): (0, 1, 2), ("f1", 3): (0,),
    ("f2", 0): (0,), ("f2", 1): (0,), ("f2", 2): (0,), ("f2", 3): (0,), ("f2", 4): (0, 3),
    ("f2", 5): (0,),
}  # fmt: skip
# c^g: head 0: 1; head 1: (2/4 + 0)/2 = .25; head 2: (1/4)/2 = .125; head 3: (1/6)/2 = .083.
# c^e averaged: head 1: (2/2 + 0)/2 = .5;  head 2: (1/2)/2 = .25;  head 3: (1/4)/2 = .125.
#     pooled:   head 1: 2/(2 + 4) = .333;  head 2: 1/6 = .167;      head 3: 1/6 = .167.
# c^r: relation a: heads 0, 1, 2 at 1; relation b: heads 0 and 3 at 1; the same for c^f.


def table(**ffns: Any) -> pa.Table:
    return circuits([rows("step1", TWO, Shape(1, 5), HEADS, **ffns)])


def test_roles_worked_by_hand() -> None:
    # theta .3: c^g head 0. c^e averaged: head 1. c^r: heads 2 and 3. Head 4 is never active.
    found = head_roles(table(), Circuits(theta=0.3))
    names = ("general", "entity", "relation", "relation", "inactive")
    assert found == {(0, i): name for i, name in enumerate(names)}


def test_pooled_scores_differ_from_averaged_ones() -> None:
    # theta .4: head 1 has c^e .5 averaged, but .333 pooled over the six tokens.
    averaged = head_roles(table(), Circuits(theta=0.4))
    pooled = head_roles(table(), Circuits(theta=0.4, scores="pooled"))
    assert averaged[0, 1] == "entity"
    assert pooled[0, 1] == "relation"


def test_the_published_profile_pools_and_counts_empty_unions_as_zero() -> None:
    published = load_profile("timecourse-2025").circuits
    assert (published.scores, published.empty_union) == ("pooled", "zero")
    assert published.theta == published.theta_ffn == 0.1
    assert head_roles(table(), replace(published, theta=0.4))[0, 1] == "relation"


def test_scores_worked_by_hand() -> None:
    t = table()
    facts = measured_facts(t, ["step1"])
    act = activity(t, facts, Circuits())
    s = scores(act, "head", facts, np.ones((1, 2)), "averaged")
    assert s.general[0] == pytest.approx([1, 0.25, 0.125, 1 / 12, 0])
    assert s.entity[0] == pytest.approx([1, 0.5, 0.25, 0.125, 0])
    assert s.relation[0].tolist() == [[1, 1, 1, 0, 0], [1, 0, 0, 1, 0]]
    assert s.fact.tolist() == [[1, 1, 1, 0, 0], [1, 0, 0, 1, 0]]
    pooled = scores(act, "head", facts, np.ones((1, 2)), "pooled")
    assert pooled.entity[0] == pytest.approx([1, 1 / 3, 1 / 6, 1 / 6, 0])
    assert pooled.general.tolist() == s.general.tolist()  # c^g is a mean over facts in both
    # at theta .6 the first three heads of relation a are J_r; only head 0 is in J_g or J_e
    assert s.only_this_fact(0.6).tolist() == [0, 0]  # J_f - J_r: one fact a relation


def test_fact_heads_hold_no_wider_role() -> None:
    # Relation a has two facts of 3 tokens (T_a = {1}); head 0 serves both answers, head 1 one.
    two = {f: Prompt("a", 3, (0,), (2,)) for f in ("f1", "f2")}
    t = circuits([rows("s1", two, Shape(1, 2), {("f1", 1): (0, 1), ("f2", 1): (0,)})])
    # c^r: head 0: 1, head 1: .5. theta .6: J_r = {0}, J_f(f1) = {0, 1}. c^g of head 1 = 1/6, c^e
    # = (1/2 + 0)/2 = .25.
    assert head_roles(t, Circuits(theta=0.6)) == {(0, 0): "relation", (0, 1): "fact"}
    facts = measured_facts(t, ["s1"])
    s = scores(activity(t, facts, Circuits()), "head", facts, np.ones((1, 2)), "averaged")
    assert s.only_this_fact(0.6).tolist() == [1, 0]  # H_f(f1) = {1}, H_f(f2) = {}


def test_a_score_that_equals_theta_is_not_above_it() -> None:
    # Three facts, head 0 active in one of ten tokens each: (.1 + .1 + .1)/3 is .1 but for rounding.
    ten = {f"f{i}": Prompt("a", 10, (1,), (9,)) for i in range(3)}
    t = circuits([rows("s1", ten, Shape(1, 1), {(f, 0): (0,) for f in ten})])
    assert head_roles(t, Circuits(theta=0.1)) == {(0, 0): "inactive"}
    assert head_roles(t, Circuits(theta=0.0999)) == {(0, 0): "general"}


def test_ffns_have_their_own_threshold() -> None:
    assert theta_of("ffn", Circuits(theta=0.1, theta_ffn=0.8)) == 0.8
    assert theta_of("expert", Circuits(theta=0.1, theta_ffn=0.8)) == 0.8
    assert theta_of("head", Circuits(theta=0.1, theta_ffn=0.8)) == 0.1


def test_facts_with_an_unmeasured_row_are_left_out_everywhere() -> None:
    one = rows("step1", TWO, Shape(1, 5), HEADS)
    two = rows("step2", TWO, Shape(1, 5), HEADS)
    dropped = {"revision": "step2", "stage": "main", "step": 2, "fact_id": "f2", "relation": "b",
               "position": 0, "flags": [], "reason": "longer than the context"}  # fmt: skip
    t = circuits([one, [r for r in two if r["fact_id"] == "f1"], [dropped]])
    assert measured_facts(t, ["step1", "step2"]).ids == ("f1",)
    assert measured_facts(t, ["step1"]).ids == ("f1", "f2")
    assert measured_facts(t, []).ids == ()


def test_roles_are_of_one_checkpoint() -> None:
    t = circuits([rows(r, TWO, Shape(1, 5), HEADS) for r in ("s1", "s2")])
    with pytest.raises(UsageError, match="holds 2"):
        head_roles(t, Circuits())
    assert head_roles(t.slice(0, 0), Circuits()) == {}


def test_broken_tables_are_refused() -> None:
    part = rows("s1", TWO, Shape(1, 5), HEADS)
    part[0]["n_heads"] = 4
    with pytest.raises(IntegrityError, match="differ inside s1"):
        head_roles(circuits([part]), Circuits())
    t = table()
    swept = sweep([rows("step1", TWO, Shape(1, 5), HEADS)[1:]], 0.02)
    with pytest.raises(IntegrityError, match="circuits_sweep"):
        activity(t, measured_facts(t, ["step1"]), Circuits(), swept)


# ---- the definition, in plain sets -----------------------------------------------------------

Active = Mapping[str, Mapping[int, set[int]]]


def definition(
    part: list[dict[str, Any]], kind: str, size: int, s: Circuits
) -> dict[tuple[str, int], str]:
    """(scope, component) -> role, from sections 4 and 5, one component and fact at a time."""
    column = {"head": "heads", "ffn": "ffns", "expert": "experts"}[kind]
    active: dict[str, dict[int, set[int]]] = {}
    sets: dict[str, dict[str, set[int]]] = {}
    relation = {}
    for row in part:
        f, t = row["fact_id"], row["position"]
        relation[f] = row["relation"]
        bits = unpack(pa.array([row[column]]), size)[0]
        active.setdefault(f, {})[t] = set(np.flatnonzero(bits).tolist())
        mine = sets.setdefault(f, {"g": set(), "s": set(), "a": set()})
        if s.answer_in_general or not row["in_answer"]:
            mine["g"].add(t)
        if row["in_subject"]:
            mine["s"].add(t + s.subject_offset)
        if row["predicts_answer"]:
            mine["a"].add(t)
    entity = {f: (m["s"] & set(active[f])) | m["a"] for f, m in sets.items()}
    theta = s.theta if kind == "head" else s.theta_ffn

    def m(c: int, f: str, tokens: set[int]) -> float:
        return sum(c in active[f][t] for t in tokens) / len(tokens)

    def score(c: int, facts: list[str], tokens: Mapping[str, set[int]], pooled: bool) -> float:
        if pooled:
            hits = sum(c in active[f][t] for f in facts for t in tokens[f])
            return hits / sum(len(tokens[f]) for f in facts)
        return sum(m(c, f, tokens[f]) for f in facts) / len(facts)

    pooled, facts = s.scores == "pooled", sorted(active)
    answers = {f: sets[f]["a"] for f in facts}
    general = {f: sets[f]["g"] for f in facts}
    components = range(size)
    limit = theta + 1e-9
    j_g = {c for c in components if score(c, facts, general, False) > limit}
    j_e = {c for c in components if score(c, facts, entity, pooled) > limit}
    by = {r: [f for f in facts if relation[f] == r] for r in relation.values()}
    j_r = {r: {c for c in components if score(c, fs, answers, pooled) > limit}
           for r, fs in by.items()}  # fmt: skip
    j_f = {f: {c for c in components if m(c, f, answers[f]) > limit} for f in facts}
    found = {}
    scopes = {"overall": (set().union(*j_r.values()), set().union(*j_f.values()))}
    scopes |= {r: (j_r[r], set().union(*(j_f[f] for f in fs))) for r, fs in by.items()}
    for scope, (r_set, f_set) in scopes.items():
        h = {"general": j_g, "entity": j_e - j_g, "relation": r_set - j_e - j_g}
        h["fact"] = f_set - r_set - j_e - j_g
        for c in components:
            roles = [name for name, members in h.items() if c in members]
            assert len(roles) <= 1  # disjoint
            found[scope, c] = roles[0] if roles else "inactive"
    return found


@EXACT
@given(
    seed=st.integers(0, 10_000),
    variant=st.sampled_from(["averaged", "pooled"]),
    theta=st.sampled_from([0.05, 0.1, 0.3, 0.5]),
    offset=st.integers(-2, 2),
    answer=st.booleans(),
    experts=st.sampled_from([0, 3]),
)
def test_fast_roles_equal_the_definition(
    seed: int, variant: str, theta: float, offset: int, answer: bool, experts: int
) -> None:
    s = Circuits(
        theta=theta, theta_ffn=theta + 0.1, scores=variant, subject_offset=offset,
        answer_in_general=answer, theta_sweep=(),
    )  # fmt: skip
    shape = Shape(2, 4, experts)
    _, (part,) = random_parts(seed, ["step1"], shape)
    found = measure_all(
        circuits([part]), sweep([], 0.02), ABLATIONS.from_rows([]), checkpoints({"step1": 10}),
        settings=s, intervals=INTERVALS,
    )  # fmt: skip
    rows_found = ROLES.check(found.roles).to_pylist()
    widths = {"head": 4, "ffn": 1} | ({"expert": 3} if experts else {})
    for kind, width in widths.items():
        expected = definition(part, kind, 2 * width, s)
        mine = {
            (r["scope"], r["layer"] * width + r["index"]): r["role"]
            for r in rows_found
            if r["kind"] == kind
        }
        assert mine == expected
    assert {r["kind"] for r in rows_found} == set(widths)


def test_role_rows_carry_the_scores() -> None:
    found = measure_all(
        table(), sweep([], 0.02), ABLATIONS.from_rows([]), checkpoints({"step1": 10}),
        settings=Circuits(theta=0.3), intervals=INTERVALS,
    )  # fmt: skip
    by_key = {(r["scope"], r["kind"], r["index"]): r for r in found.roles.to_pylist()}
    two = by_key["overall", "head", 2]
    assert (two["role"], two["score_relation"], two["score_fact"]) == ("relation", 1.0, 1.0)
    assert two["n_facts"] == 1
    inside_b = by_key["b", "head", 2]  # head 2 serves relation a only
    assert (inside_b["role"], inside_b["score_relation"], inside_b["n_facts"]) == ("inactive", 0, 0)
    assert inside_b["score_general"] == pytest.approx(0.125)  # c^g and c^e are over all facts
