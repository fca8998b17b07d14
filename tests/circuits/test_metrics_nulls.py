"""Nulls are what they say: exact where there is a formula, calibrated where nothing is there."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from tests.circuits.tables import Shape, circuits, random_parts

from factlife.circuits.metrics import halves, nulls
from factlife.circuits.metrics.activity import Activity, Facts, Layout, activity, measured_facts
from factlife.circuits.metrics.evolution import is_switch, members, overlap
from factlife.circuits.metrics.roles import scores
from factlife.config import Circuits
from factlife.stats import Ints

STRATA = np.repeat([0, 1], 4)


def sets(*members: int) -> np.typing.NDArray[np.bool_]:
    found = np.zeros(8, dtype=np.bool_)
    found[list(members)] = True
    return found


def test_overlap_null_worked_by_hand() -> None:
    # Layer 0: 1 and 1 of 4 components: they meet with p 1/4. Layer 1: 1 of 4, and none.
    # IoU is 1/(3 - 1) = .5 with p 1/4, else 0: mean .125.
    null = nulls.overlap_null(sets(0, 4), sets(1), STRATA)
    assert null is not None
    assert null.values.tolist() == [0, 0.5]
    assert null.p == pytest.approx([0.75, 0.25])
    assert null.mean == pytest.approx(0.125)
    assert null.quantiles(0.95) == (0, 0.5)
    assert null.quantiles(0.4) == (0, 0)  # 30 % and 70 %: both below 75 %
    assert nulls.overlap_null(sets(), sets(), STRATA) is None


def test_overlap_null_equals_every_permutation() -> None:
    a, b = sets(0, 1, 4, 5, 6), sets(1, 2, 3, 6)
    null = nulls.overlap_null(a, b, STRATA)
    assert null is not None
    seen = []
    for p in itertools.permutations(range(4)):
        for q in itertools.permutations(range(4, 8)):
            moved = b[[*p, *q]]
            seen.append((a & moved).sum() / (a | moved).sum())
    values, counts = np.unique(seen, return_counts=True)
    possible = null.p > 1e-15
    assert null.values[possible] == pytest.approx(values)
    assert null.p[possible] == pytest.approx(counts / counts.sum())


def test_overlap_null_draws_from_its_distribution() -> None:
    null = nulls.overlap_null(sets(0, 4), sets(1), STRATA)
    assert null is not None
    drawn = null.draw(np.random.default_rng(0), 4000)
    assert drawn.mean() == pytest.approx(0.125, abs=0.01)


def test_random_identities_lie_within_their_null() -> None:
    """On sets without any identity, the excess leaves out 0 in at most about 5 % of cases."""
    rng = np.random.default_rng(1)
    strata = np.repeat(np.arange(6), 16)
    outside, gaps = 0, []
    for _ in range(300):
        a, b = rng.random(96) < 0.3, rng.random(96) < 0.4
        null = nulls.overlap_null(a, b, strata)
        assert null is not None
        value = (a & b).sum() / (a | b).sum()
        e = nulls.excess(value, null.mean, *null.quantiles(0.95), 96, "null")
        assert e.ci_low is not None and e.ci_high is not None
        outside += not e.ci_low <= 0 <= e.ci_high
        gaps.append(value - null.mean)
    assert outside <= 24  # 5 % of 300 are 15; 24 is 2.4 standard deviations above
    assert np.mean(gaps) == pytest.approx(0, abs=0.01)


def test_sets_that_stay_are_beyond_their_null() -> None:
    a = np.random.default_rng(2).random(96) < 0.3
    null = nulls.overlap_null(a, a, np.repeat(np.arange(6), 16))
    assert null is not None
    assert null.quantiles(0.95)[1] < 0.5 < 1.0


# ---- changes of role -------------------------------------------------------------------------


def test_changes_worked_by_hand() -> None:
    # Three checkpoints of two components: 0 goes d, g, g; 1 goes r, f, d.
    codes = np.array([[0, 3], [1, 4], [1, 0]], dtype=np.int8)
    found = nulls.changes(codes, (1, 2))
    expected = np.zeros((2, 25), dtype=int)
    expected[0, [0 * 5 + 1, 1 * 5 + 1]] = 1
    expected[1, [3 * 5 + 4, 4 * 5 + 0]] = 1
    assert found.tolist() == expected.tolist()
    assert nulls.changes(codes, (2,)).sum() == 2


def test_switches_lead_from_an_active_role_to_another() -> None:
    names = [divmod(i, 5) for i in np.flatnonzero(is_switch())]
    assert len(names) == 12  # 4 active roles, 3 others each
    assert (0, 1) not in names and (1, 0) not in names and (2, 2) not in names


def test_expected_changes_are_the_mean_of_permuted_ones() -> None:
    rng = np.random.default_rng(3)
    codes = rng.integers(0, 5, size=(4, 12)).astype(np.int8)
    strata = np.repeat([0, 1, 2], 4)
    expected = nulls.expected_changes(codes, (1, 3), strata)
    drawn = nulls.permuted_changes(codes, (1, 3), strata, 4000, rng)
    assert expected.sum() == pytest.approx(24)  # two pairs of twelve components
    assert drawn.mean(axis=0) == pytest.approx(expected, abs=0.06)
    assert (drawn.sum(axis=(1, 2)) == 24).all()


def test_expected_changes_worked_by_hand() -> None:
    # One layer of four: 2 general before, 1 fact after: expected g -> f is 2 x 1 / 4.
    codes = np.array([[1, 1, 0, 0], [0, 0, 0, 4]], dtype=np.int8)
    (found,) = nulls.expected_changes(codes, (1,), np.zeros(4, dtype=np.int64))
    assert found[1 * 5 + 4] == 0.5
    assert found[0 * 5 + 0] == 2 * 3 / 4


def test_permuting_keeps_counts_and_layers_and_checkpoints_apart() -> None:
    # Layer 0 is always general, layer 1 always inactive: nothing may cross.
    codes = np.array([[1, 1, 0, 0]] * 3, dtype=np.int8)
    drawn = nulls.permuted_changes(
        codes, (1, 2), np.array([0, 0, 1, 1]), 50, np.random.default_rng(0)
    )
    assert (drawn[:, 0, 1 * 5 + 1] == 4).all() and (drawn[:, 1, 0] == 4).all()


# ---- relation labels -------------------------------------------------------------------------


def dealt(labels: Ints, hits: np.typing.NDArray[np.int32]) -> tuple[Activity, Facts]:
    """Facts with one answer token each, and what is active there."""
    n = len(labels)
    order = np.argsort(labels, kind="stable")
    facts = Facts(tuple(f"f{i}" for i in range(n)), tuple(f"r{r}" for r in labels[order]))
    one = np.ones(n, dtype=np.int64)
    none = np.zeros_like(hits)
    layout = Layout(1, hits.shape[1], 0)
    return Activity(
        layout,
        {"general": one * 10, "entity": one * 10, "answer": one},
        {"head": {"general": none, "entity": none, "answer": hits[order]}},
    ), facts


def relation_heads(act: Activity, facts: Facts, seed: int, variant: str) -> tuple[int, Ints]:
    s = scores(act, "head", facts, np.ones((1, len(facts.ids))), variant)
    found = int((s.relation[0] > 0.5).any(axis=0).sum())
    wider = np.zeros(act.layout.n_heads, dtype=np.bool_)
    rng = np.random.default_rng(seed)
    return found, nulls.permuted_relation_heads(act, facts, wider, 0.5, variant, 200, rng)


@pytest.mark.parametrize("variant", ["averaged", "pooled"])
def test_shuffled_labels_lie_within_the_null(variant: str) -> None:
    rng = np.random.default_rng(4)
    outside = 0
    for seed in range(60):
        hits = (rng.random((30, 40)) < 0.35).astype(np.int32)
        act, facts = dealt(rng.permutation(np.repeat(np.arange(5), 6)), hits)
        found, drawn = relation_heads(act, facts, seed, variant)
        low, high = np.quantile(drawn, [0.025, 0.975])
        outside += not low <= found <= high
    assert outside <= 8  # 5 % of 60 are 3


def test_planted_relation_heads_are_beyond_the_null() -> None:
    labels = np.repeat(np.arange(5), 6)
    hits = (labels[:, None] == np.arange(40) % 5).astype(np.int32)  # head h serves relation h % 5
    found, drawn = relation_heads(*dealt(labels, hits), 0, "averaged")
    assert found == 40
    assert np.quantile(drawn, 0.975) < 10


def test_wider_roles_are_no_relation_heads_under_the_null() -> None:
    hits = np.ones((10, 3), dtype=np.int32)
    act, facts = dealt(np.repeat([0, 1], 5), hits)
    wider = np.array([True, False, False])
    rng = np.random.default_rng(0)
    drawn = nulls.permuted_relation_heads(act, facts, wider, 0.5, "averaged", 20, rng)
    assert drawn.tolist() == [2] * 20


def test_permuting_facts_is_no_null_for_wide_scores_or_unions() -> None:
    """c^g, c^e and the union of J_f do not know the facts' labels (spec, section 6)."""
    _, (part,) = random_parts(5, ["s1"], Shape(2, 6))
    rng = np.random.default_rng(0)
    names = sorted({(r["fact_id"], r["relation"]) for r in part})
    dealt_anew = dict(
        zip((f for f, _ in names), rng.permutation([r for _, r in names]).tolist(), strict=True)
    )
    shuffled = [row | {"relation": dealt_anew[row["fact_id"]]} for row in part]
    found = []
    for rows in (part, shuffled):
        t = circuits([rows])
        facts = measured_facts(t, ["s1"])
        act = activity(t, facts, Circuits())
        found.append(scores(act, "head", facts, np.ones((1, len(facts.ids))), "averaged"))
    plain, moved = found
    assert moved.general == pytest.approx(plain.general)
    assert moved.entity == pytest.approx(plain.entity)
    assert ((moved.fact > 0.1).any(axis=0) == (plain.fact > 0.1).any(axis=0)).all()
    assert not np.allclose(moved.relation, plain.relation)


# ---- halves ----------------------------------------------------------------------------------


def test_halves_are_complements_within_relations() -> None:
    relation = np.array([0, 0, 0, 0, 1, 1, 1])
    found = halves.samples(relation, 20, 0)
    assert found.shape == (41, 7)
    assert (found[0] == 1).all()
    assert (found[1::2] + found[2::2] == 1).all()
    assert (found[1:, :4].sum(axis=1) == 2).all()
    odd = found[1::2, 4:].sum(axis=1)
    assert set(odd.tolist()) == {1, 2}  # chance decides
    assert halves.samples(np.array([0]), 20, 0).tolist() == [[1]]


def test_spread_of_halves_covers_the_mean() -> None:
    """The spread over halves is that of the whole sample: 95 % intervals cover about 95 %."""
    rng = np.random.default_rng(6)
    n, covered = 80, 0
    samples = halves.samples(np.zeros(n, dtype=np.int64), 50, 0)
    for _ in range(200):
        x = (rng.random(n) < 0.4).astype(float)
        e = halves.spread(samples @ x / samples.sum(axis=1), 0.95, n)
        assert e.value == x.mean()
        assert e.ci_low is not None and e.ci_high is not None
        covered += e.ci_low <= 0.4 <= e.ci_high
    assert 178 <= covered <= 198  # 190 expected; a bootstrap's width halved would give 135


def test_spread_of_halves_covers_unions_and_overlaps() -> None:
    """Shares of roles and their IoU: 95 % intervals cover the statistic's mean (about 93 %)."""
    rng = np.random.default_rng(7)
    n, heads = 60, 40
    labels = np.arange(n) * 4 // n
    samples = halves.samples(labels, 50, 0)
    likely = [rng.random((4, heads)) ** 2 * 0.5 for _ in range(2)]
    found: dict[str, list[tuple[float, float, float]]] = {"share": [], "iou": []}
    for _ in range(120):
        codes = []
        for p in likely:
            chance = p[labels] * rng.random((n, heads)) * 2
            act, facts = dealt(labels, (rng.random((n, heads)) < chance).astype(np.int32))
            codes.append(scores(act, "head", facts, samples, "averaged").overall(0.3))
        one, two = (members(c, "relation") for c in codes)
        for name, values in (("share", one.mean(axis=1)), ("iou", overlap(one, two, "zero")[0])):
            e = halves.spread(values, 0.95, heads)
            assert e.value is not None and e.ci_low is not None and e.ci_high is not None
            found[name].append((e.value, e.ci_low, e.ci_high))
    for drawn in found.values():
        value, low, high = np.transpose(drawn)
        assert value.std() > 0.01
        assert np.mean((low <= value.mean()) & (value.mean() <= high)) > 0.86


def test_spread_is_moved_onto_the_value_and_stays_inside_its_support() -> None:
    # Unions of halves are smaller: draws of .5 and .7 around a value of .95 become .85 and 1.05.
    e = halves.spread(np.array([0.95, 0.5, 0.7, np.nan]), 0.95, 10)
    assert e.ci_low == pytest.approx(0.95 - 0.1 * 0.95)  # quantiles 2.5 % and 97.5 % of two points
    assert e.ci_high == 1.0
    alone = halves.spread(np.array([0.3]), 0.95, 10)
    assert (alone.ci_low, alone.ci_high) == (0.3, 0.3)
    assert alone.method is not None and alone.method.startswith("none")
