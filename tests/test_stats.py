"""Statistics against hand-worked numbers, definitions written as loops, and known properties."""

from __future__ import annotations

import hashlib
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from factlife import stats
from factlife.stats import Estimate, Resampler

EXACT = settings(derandomize=True, database=None, deadline=None, max_examples=100)
PACKAGE = Path(stats.__file__).parent
Z2 = 1.959963984540054**2  # = 3.841459, of a 95 % interval


# ---- draws -----------------------------------------------------------------------------------

LABELS = ["b", "a", "b", "c", "a", "b", "b"]


def test_every_draw_keeps_the_size_of_every_stratum() -> None:
    counts = Resampler.make(LABELS, 500, seed=1).counts
    assert counts.shape == (500, 7) and counts.min() >= 0
    for label, size in (("a", 2), ("b", 4), ("c", 1)):
        assert (counts[:, np.array(LABELS) == label].sum(axis=1) == size).all()


def test_draws_are_with_replacement_and_fair() -> None:
    # one fact of m is drawn Binomial(m, 1/m) times: mean 1, variance 1 - 1/m = 0.75 for m = 4
    counts = Resampler.make(["r"] * 4, 20_000, seed=2).counts
    assert counts.mean(axis=0) == pytest.approx([1] * 4, abs=0.03)
    assert counts.var(axis=0) == pytest.approx([0.75] * 4, abs=0.03)


def test_one_seed_gives_one_set_of_draws_and_another_seed_another() -> None:
    first, again = (Resampler.make(LABELS, 50, seed=3).counts for _ in range(2))
    assert (first == again).all()
    assert (first != Resampler.make(LABELS, 50, seed=4).counts).any()


def test_draws_depend_on_which_facts_share_a_label_not_on_its_name() -> None:
    renamed = [{"a": "z", "b": "y", "c": "x"}[label] for label in LABELS]
    assert (Resampler.make(LABELS, 50, 0).counts == Resampler.make(renamed, 50, 0).counts).all()


def test_draws_are_the_same_in_every_process() -> None:
    code = (
        "import hashlib; from factlife.stats import Resampler;"
        f"print(hashlib.sha256(Resampler.make({LABELS}, 50, 0).counts.tobytes()).hexdigest())"
    )
    here = hashlib.sha256(Resampler.make(LABELS, 50, 0).counts.tobytes()).hexdigest()
    for seed in ("1", "2"):  # the order of a set of strings would change with this
        env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(PACKAGE.parent)}
        done = subprocess.run(
            [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == here


def test_a_subset_sees_the_same_draws() -> None:
    full = Resampler.make(LABELS, 50, 0, level=0.9)
    keep = np.array([True, False, True, False, False, True, False])
    assert (full.subset(keep).counts == full.counts[:, [0, 2, 5]]).all()
    assert full.subset(keep).level == 0.9


def test_a_draw_without_any_weight_has_no_mean() -> None:
    r = Resampler(np.array([[0, 2], [1, 1], [2, 0]]), 0.95)
    # weights 1, 0: the first draw holds only the second fact
    assert r.means(np.array([3.0, 5.0]), np.array([1.0, 0.0]))[1:].tolist() == [3.0, 3.0]
    assert np.isnan(r.means(np.array([3.0, 5.0]), np.array([1.0, 0.0]))[0])


def test_the_percentile_interval_leaves_missing_draws_out_and_holds_the_value() -> None:
    r = Resampler(np.zeros((1, 1), dtype=np.int64), 0.5)
    draws = np.array([np.nan, 0.0, 1.0, 2.0, 3.0, 4.0])
    assert r.interval(draws, 2.0) == (1.0, 3.0)  # quartiles of 0…4
    assert r.interval(draws, 9.0) == (1.0, 9.0)
    assert r.interval(draws, -9.0) == (-9.0, 3.0)
    assert r.interval(np.array([np.nan]), 7.0) == (7.0, 7.0)


# ---- means -----------------------------------------------------------------------------------


def drawn_means(x: Any, labels: list[str], r: Resampler, macro: bool) -> list[float]:
    """Every draw's mean by the definition: write the drawn facts out, and average."""
    found = []
    for counts in r.counts:
        values = np.repeat(np.asarray(x, dtype=float), counts)
        names = np.repeat(np.asarray(labels), counts)
        means = [values[names == name].mean() for name in sorted(set(labels))]
        found.append(float(np.mean(means) if macro else values.mean()))
    return found


@pytest.mark.parametrize("macro", [False, True])
def test_the_interval_of_a_mean_is_the_one_of_the_definition(macro: bool) -> None:
    x = [1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0]
    r = Resampler.make(LABELS, 400, seed=5, level=0.9)
    e = stats.bootstrap_mean(x, r, stats.macro_weights(LABELS) if macro else None)
    # micro: 4 of 7; macro: mean of a 0/2, b 3/4, c 1/1
    assert e.value == pytest.approx((0 + 3 / 4 + 1) / 3 if macro else 4 / 7)
    low, high = np.quantile(drawn_means(x, LABELS, r, macro), [0.05, 0.95])
    assert (e.ci_low, e.ci_high) == pytest.approx((low, high))
    assert (e.n, e.method) == (7, "bootstrap of facts within relations")


def test_macro_weights_by_hand() -> None:
    # two relations, each half: "a" shares it among 2 facts, "b" has 1
    assert stats.macro_weights(["a", "a", "b"]).tolist() == [0.25, 0.25, 0.5]


@EXACT
@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(-5, 5)), min_size=1, max_size=20))
def test_macro_weights_make_the_mean_over_relations(facts: list[tuple[str, float]]) -> None:
    labels, values = [f[0] for f in facts], np.array([f[1] for f in facts])
    weights = stats.macro_weights(labels)
    means = [values[np.array(labels) == name].mean() for name in set(labels)]
    assert weights.sum() == pytest.approx(1)
    assert weights @ values == pytest.approx(np.mean(means))


@EXACT
@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from([0.0, 0.25, 1 / 3, 1.0])),
        min_size=1, max_size=25,
    ),
    st.booleans(),
    st.sampled_from([0.5, 0.95]),
)  # fmt: skip
def test_an_interval_of_shares_holds_its_value_stays_in_0_to_1_and_has_width(
    facts: list[tuple[str, float]], macro: bool, level: float
) -> None:
    labels, values = [f[0] for f in facts], [f[1] for f in facts]
    r = Resampler.make(labels, 100, seed=0, level=level)
    e = stats.bootstrap_mean(values, r, stats.macro_weights(labels) if macro else None)
    assert e.value is not None and e.ci_low is not None and e.ci_high is not None
    assert -1e-12 <= e.ci_low <= e.value <= e.ci_high <= 1 + 1e-12
    assert e.ci_high - e.ci_low > 1e-4


def test_a_higher_level_gives_a_wider_interval() -> None:
    x = [0.0, 1.0] * 20
    widths = []
    for level in (0.5, 0.9, 0.99):
        e = stats.bootstrap_mean(x, Resampler.make(["r"] * 40, 500, 0, level))
        assert e.ci_low is not None and e.ci_high is not None
        widths.append(e.ci_high - e.ci_low)
    assert widths == sorted(widths) and len(set(widths)) == 3


def test_no_facts_give_no_estimate() -> None:
    r = Resampler.make([], 100, 0)
    assert stats.bootstrap_mean([], r) == Estimate(None, None, None, 0, None, "no measured facts")


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [
        # nothing of n: [0, z²/(n + z²)] = [0, 3.841459 / 163.841459]; all of n: mirrored
        (0, 160, 0.0, 0.0234462),
        (160, 160, 0.9765538, 1.0),
        # centre (8 + z²/2) / (10 + z²) = 9.920729 / 13.841459 = 0.716740
        # half width z √(10 · 0.8 · 0.2 + z²/4) / (10 + z²) = 1.959964 · 1.600114 / 13.841459
        (8, 10, 0.490162, 0.943318),
    ],
)
def test_wilson_by_hand(k: int, n: int, low: float, high: float) -> None:
    assert stats.wilson(k, n) == pytest.approx((low, high), abs=1e-6)


@pytest.mark.parametrize("right", [0.0, 1.0])
@pytest.mark.parametrize("macro", [False, True])
def test_all_right_and_all_wrong_have_the_interval_of_wilson(right: float, macro: bool) -> None:
    labels = ["a"] * 5 + ["b"] * 15
    r = Resampler.make(labels, 100, 0)
    e = stats.bootstrap_mean([right] * 20, r, stats.macro_weights(labels) if macro else None)
    low, high = stats.wilson(int(20 * right), 20)
    assert (e.value, e.n, e.method) == (right, 20, "wilson")
    assert (e.ci_low, e.ci_high) == pytest.approx((low, high))


def test_relations_that_are_each_all_right_or_all_wrong_leave_doubt() -> None:
    # No draw within relations can differ from 3 of 4, yet neither relation is known exactly:
    # the 3 right ones leave 3.841459 / 6.841459 = 0.561497 possible, the wrong one
    # 3.841459 / 4.841459 = 0.793451. Down 0.75 · 0.561497 = 0.421123, up 0.25 · 0.793451 = 0.198363
    r = Resampler.make(["a", "a", "a", "b"], 100, 0)
    e = stats.bootstrap_mean([1.0, 1.0, 1.0, 0.0], r)
    assert (e.value, e.method) == (0.75, "wilson")
    assert e.ci_low == pytest.approx(0.75 - 0.421123, abs=1e-6)
    assert e.ci_high == pytest.approx(0.75 + 0.198363, abs=1e-6)


def test_the_support_of_each_fact_scales_its_doubt() -> None:
    # Misses of -1/3 (K = 4) and -1 (K = 2), both all wrong: an exception gains 4/3 and 2.
    # Both lie at the lower end: 4 trials, 3.841459 / 7.841459 = 0.489891 possible.
    # up = 0.489891 · mean(4/3, 4/3, 2, 2) = 0.489891 · 5/3 = 0.816485
    x = np.array([-1 / 3, -1 / 3, -1.0, -1.0])
    e = stats.bootstrap_mean(x, Resampler.make(["a", "a", "b", "b"], 100, 0), support=(x, 1.0))
    assert (e.value, e.ci_low) == (pytest.approx(-2 / 3), pytest.approx(-2 / 3))
    assert e.ci_high == pytest.approx(-2 / 3 + 0.816485, abs=1e-6)


def test_without_a_support_an_interval_without_width_says_so() -> None:
    e = stats.bootstrap_mean([-2.5] * 3, Resampler.make(["a", "a", "b"], 100, 0), support=None)
    assert (e.value, e.ci_low, e.ci_high) == (-2.5, -2.5, -2.5)
    assert e.method == "none: no relation varies"
    # log-probabilities of exactly 0 are no share of facts: the interval must not rise above 0
    zero = stats.bootstrap_mean([0.0] * 3, Resampler.make(["a", "a", "b"], 100, 0), support=None)
    assert (zero.ci_low, zero.ci_high) == (0.0, 0.0)


SIZES = (14, 20, 19, 17, 14, 12, 17, 13, 17, 17)  # the relations of fact-probes


@pytest.mark.parametrize("macro", [False, True])
def test_the_95_percent_interval_covers_about_95_percent(macro: bool) -> None:
    rng = np.random.default_rng(0)
    labels = [f"r{i}" for i, size in enumerate(SIZES) for _ in range(size)]
    p = np.repeat(np.linspace(0.1, 0.9, 10), SIZES)  # each relation has its own difficulty
    weights = stats.macro_weights(labels) if macro else np.ones(len(p))
    truth = np.average(p, weights=weights)
    r = Resampler.make(labels, 300, seed=0)
    covered = 0
    for _ in range(300):
        e = stats.bootstrap_mean((rng.random(len(p)) < p).astype(float), r, weights)
        assert e.ci_low is not None and e.ci_high is not None
        covered += e.ci_low <= truth <= e.ci_high
    assert 0.90 <= covered / 300 <= 0.98


# ---- differences -----------------------------------------------------------------------------


def test_the_interval_of_a_difference_is_the_one_of_the_definition() -> None:
    x, y = np.array([1.0, 1.0, 0.0, 1.0]), np.array([0.0, 1.0, 0.0])
    full = Resampler.make(["a"] * 4 + ["b"] * 3, 300, seed=1)
    a, b = (full.subset(np.array([s] * 4 + [not s] * 3)) for s in (True, False))
    e = stats.difference(x, y, a, b)
    draws = [
        np.repeat(x, k).mean() - np.repeat(y, m).mean()
        for k, m in zip(a.counts, b.counts, strict=True)
    ]
    assert e.value == pytest.approx(3 / 4 - 1 / 3) and e.n == 7
    assert (e.ci_low, e.ci_high) == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])))


def both(m: int, n: int) -> tuple[Resampler, Resampler]:
    """Independent draws of two sets of facts."""
    return Resampler.make(["a"] * m, 200, 0), Resampler.make(["b"] * n, 200, 1)


def test_newcombe_by_hand_where_both_sides_are_degenerate() -> None:
    # 113 of 113: low 113 / 116.841459 = 0.967122; 0 of 47: high 3.841459 / 50.841459 = 0.075558
    # down = √((1 - 0.967122)² + 0.075558²) = √(0.00108099 + 0.00570901) = 0.082401; up = 0
    e = stats.difference(np.ones(113), np.zeros(47), *both(113, 47))
    assert (e.value, e.n, e.method) == (1.0, 160, "newcombe")
    assert (e.ci_low, e.ci_high) == pytest.approx((1 - 0.082401, 1.0), abs=2e-6)
    # equal sides: nothing is known to differ, and the interval is symmetric about 0
    same = stats.difference(np.ones(20), np.ones(20), *both(20, 20))
    edge = Z2 / (20 + Z2)
    assert (same.value, same.ci_low, same.ci_high) == pytest.approx((0.0, -edge, edge))


def test_one_degenerate_side_does_not_pass_for_exact() -> None:
    # 5 of 5 against 5 of 10: the first side alone leaves 3.841459 / 8.841459 = 0.434483 open
    y = np.array([0.0, 1.0] * 5)
    a, b = both(5, 10)
    e, side = stats.difference(np.ones(5), y, a, b), stats.bootstrap_mean(y, b)
    assert e.method == "newcombe" and e.value == 0.5
    assert side.ci_high is not None and side.ci_low is not None
    assert e.ci_low == pytest.approx(0.5 - math.hypot(0.434483, side.ci_high - 0.5), abs=1e-6)
    assert e.ci_high == pytest.approx(0.5 + (0.5 - side.ci_low))


@EXACT
@given(
    st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=12),
    st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=12),
)
def test_a_difference_lies_in_its_interval_and_turns_round_with_its_sides(
    x: list[float], y: list[float]
) -> None:
    a, b = both(len(x), len(y))
    e, r = stats.difference(x, y, a, b), stats.difference(y, x, b, a)
    assert e.value is not None and e.ci_low is not None and e.ci_high is not None
    assert -1 - 1e-9 <= e.ci_low <= e.value <= e.ci_high <= 1 + 1e-9 and e.ci_high > e.ci_low
    assert (r.value, r.ci_low, r.ci_high) == pytest.approx((-e.value, -e.ci_high, -e.ci_low))


def test_a_difference_needs_both_sides() -> None:
    e = stats.difference([], [1.0], *both(0, 1))
    assert (e.value, e.n, e.reason) == (None, 1, "one side has no measured facts")


# ---- any statistic ---------------------------------------------------------------------------


def test_a_statistic_of_the_counts_has_the_interval_of_its_draws() -> None:
    r = Resampler.make(["a"] * 6, 200, 0)
    x = np.arange(6.0)
    e = stats.statistic(2.5, lambda c: float(c @ x / c.sum()), r, 6)
    low, high = np.quantile([np.repeat(x, c).mean() for c in r.counts], [0.025, 0.975])
    assert (e.value, e.n) == (2.5, 6)
    assert (e.ci_low, e.ci_high) == pytest.approx((low, high))


def test_draws_in_which_a_statistic_does_not_exist_are_left_out() -> None:
    r = Resampler.make(["a"] * 3, 200, 0)
    e = stats.statistic(1.0, lambda c: 1.0 if c[0] else None, r, 3)
    assert (e.ci_low, e.ci_high) == (1.0, 1.0)
    assert stats.statistic(None, lambda _: 1.0, r, 3, "why").reason == "why"
    assert stats.statistic(1.0, lambda _: None, r, 3).value is None


# ---- sets ------------------------------------------------------------------------------------


def test_overlap_of_sets_by_hand() -> None:
    assert stats.iou({1, 2, 3}, {2, 3, 4, 5}) == 2 / 5
    assert stats.iou({1}, {1}) == 1.0
    assert stats.iou({1}, set()) == 0.0
    assert stats.iou(set(), frozenset()) is None


# ---- curves ----------------------------------------------------------------------------------

E = math.e


@pytest.mark.parametrize(
    ("tokens", "values", "area"),
    [
        # ln tokens 0, 1, 2: trapezoids 0.5 and 1 over a length of 2
        ([1, E, E**2], [0, 1, 1], 0.75),
        # step 0 has no place on the axis, whatever its value
        ([0, 1, E, E**2], [1, 0, 1, 1], 0.75),
        ([0, 0, 1, E, E**2], [1, 1, 0, 1, 1], 0.75),
        # uneven steps: 0…1 at height 0.5 on average, 1…4 at height 1: (0.5 + 3) / 4
        ([1, E, E**4], [0, 1, 1], 3.5 / 4),
        # two checkpoints at one place are a step without area: 0 up to ln 1, then 1
        ([1, E, E, E**2], [0, 0, 1, 1], 0.5),
        ([5, 10], [0.25, 0.75], 0.5),
        # no curve: one point, one point after step 0, one place, branches that go back
        ([10], [1], None),
        ([0, 10], [0, 1], None),
        ([10, 10], [0, 1], None),
        ([1, 100, 10, 1000], [0, 1, 1, 1], None),
        ([100, 1], [0, 1], None),
        ([], [], None),
    ],
)
def test_area_over_log_tokens_by_hand(
    tokens: list[float], values: list[float], area: float | None
) -> None:
    assert stats.area_over_log_tokens(tokens, values) == pytest.approx(area)


POINTS = st.lists(
    st.tuples(st.integers(1, 10**12), st.floats(0, 1)), min_size=2, max_size=12,
    unique_by=lambda p: p[0],
).map(sorted)  # fmt: skip


@EXACT
@given(POINTS, st.integers(2, 1000))
def test_an_area_is_a_mean_height_that_no_unit_of_tokens_changes(
    points: list[tuple[int, float]], unit: int
) -> None:
    tokens, values = np.array([p[0] for p in points]), [p[1] for p in points]
    area = stats.area_over_log_tokens(tokens, values)
    assert area is not None
    assert min(values) - 1e-9 <= area <= max(values) + 1e-9
    assert stats.area_over_log_tokens(tokens * unit, values) == pytest.approx(area, abs=1e-6)


TOKENS = [0, 10, 20, 40, 80]


@pytest.mark.parametrize(
    ("accuracy", "share", "interval"),
    [
        ([0.0, 0.1, 0.3, 0.7, 0.8], 0.5, (20, 40)),  # half of 0.8 is 0.4: below at 20, above at 40
        ([0.0, 0.1, 0.3, 0.7, 0.8], 0.9, (40, 80)),  # 0.72: still below at 40
        ([0.0, 0.6, 0.2, 0.7, 0.8], 0.5, (20, 40)),  # rise, fall, rise: the LAST crossing counts
        ([0.0, 0.9, 0.9, 0.0, 0.8], 0.5, (40, 80)),
        ([0.5, 0.6, 0.7, 0.7, 0.8], 0.5, (0, 0)),  # never below: there by the first checkpoint
        ([0.0, 0.8, 0.8, 0.8, 0.8], 0.9, (0, 10)),  # plateau from the first one after step 0
        ([0.0, 0.4, 0.4, 0.4, 0.8], 0.5, (0, 10)),  # exactly the share is reached
        ([0.9, 0.9, 0.9, 0.9, 0.1], 0.5, (0, 0)),  # a curve that falls never was below the end
        ([0.0, 0.9, 0.5, 0.1, 0.0], 0.5, None),  # nothing is known at the end
        ([0.0, 0.0, 0.0, 0.0, 0.0], 0.5, None),
    ],
)
def test_emergence_by_hand(
    accuracy: list[float], share: float, interval: tuple[float, float] | None
) -> None:
    assert stats.emergence(TOKENS, accuracy, share) == interval


def test_emergence_of_one_checkpoint_of_none_and_of_branches() -> None:
    assert stats.emergence([50], [0.3], 0.5) == (0.0, 50.0)
    assert stats.emergence([50], [0.0], 0.5) is None
    assert stats.emergence([], [], 0.5) is None
    assert stats.emergence([10, 50, 20], [0.0, 0.5, 1.0], 0.5) is None
    assert stats.emergence([10, 20, 20], [0.0, 0.1, 1.0], 0.5) == (20.0, 20.0)


@EXACT
@given(st.lists(st.floats(0, 1), min_size=1, max_size=10), st.floats(0.1, 1))
def test_after_emergence_a_curve_never_is_below_and_just_before_it_was(
    accuracy: list[float], share: float
) -> None:
    assume(accuracy[-1] > 0)
    tokens = list(range(1, len(accuracy) + 1))
    found = stats.emergence(tokens, accuracy, share)
    assert found is not None
    before, by = int(found[0]), int(found[1])
    goal = share * accuracy[-1]
    assert by == before + 1
    assert all(a >= goal - 1e-9 for a in accuracy[by - 1 :])
    assert before == 0 or accuracy[before - 1] < goal


def test_flips_by_hand() -> None:
    known = [
        [0, 0, 1, 1],
        [1, 0, 0, 1],
        [1, 0, 1, 1],
        [1, 0, 0, 1],
    ]  # learned once; never; forgotten, relearned, forgotten; always
    assert stats.flips(known).tolist() == [1, 0, 3, 0]
    assert stats.flips([[1, 0]]).tolist() == [0, 0]


# ---- ranks -----------------------------------------------------------------------------------


def pairwise(p: list[float], q: list[float]) -> float:
    """AUROC by its definition: the share of pairs that are won, ties half."""
    return sum((a > b) + 0.5 * (a == b) for a in p for b in q) / (len(p) * len(q))


SCORES = st.lists(st.integers(0, 5).map(float), min_size=1, max_size=12)


@EXACT
@given(SCORES, SCORES)
def test_auroc_is_the_share_of_pairs_that_are_won(p: list[float], q: list[float]) -> None:
    found = stats.auroc(p, q)
    assert found == pytest.approx(pairwise(p, q))
    assert stats.auroc(q, p) == pytest.approx(1 - pairwise(p, q))


def test_auroc_by_hand() -> None:
    # 3 beats 1 and 2, ties with 3; 2 beats 1, ties with 2, loses to 3: (2.5 + 1.5) / 6
    assert stats.auroc([3, 2], [1, 2, 3]) == pytest.approx(4 / 6)
    assert stats.auroc([1, 1], [1, 1]) == 0.5
    assert stats.auroc([], [1]) is None and stats.auroc([1], []) is None


def test_spearman_by_hand() -> None:
    # rank differences 1, 1, 1, 1, 0: 1 - 6 · 4 / (5 · 24) = 0.8
    assert stats.spearman([1, 2, 3, 4, 5], [20, 10, 40, 30, 500]) == pytest.approx(0.8)
    # ties: ranks 1.5, 1.5, 3, 4 against 1…4: 4.5 / √(4.5 · 5)
    assert stats.spearman([1, 1, 2, 3], [1, 2, 3, 4]) == pytest.approx(4.5 / math.sqrt(22.5))
    assert stats.spearman([1, 2, 3], [9, 4, 1]) == pytest.approx(-1)
    assert stats.spearman([1, 2], [1, 2]) is None
    assert stats.spearman([1, 2, 3], [7, 7, 7]) is None


@pytest.mark.parametrize(
    ("observed", "alternative", "p"),
    [
        # null 0, 1, 2, 3 and the observed value itself: 5 in all
        (2, "greater", (1 + 2) / 5),
        (2, "less", (1 + 3) / 5),
        (2, "two-sided", 1.0),  # twice 3/5 is no probability
        (10, "greater", 1 / 5),
        (10, "two-sided", 2 / 5),
        (-1, "less", 1 / 5),
    ],
)
def test_permutation_p_by_hand(observed: float, alternative: str, p: float) -> None:
    assert stats.permutation_p(observed, [0, 1, 2, 3], alternative) == pytest.approx(p)
    assert stats.permutation_p(observed, [0, np.nan, 1, 2, 3], alternative) == pytest.approx(p)


@EXACT
@given(st.floats(-3, 3), st.lists(st.floats(-3, 3), max_size=20))
def test_permutation_p_is_never_0_nor_above_1(observed: float, null: list[float]) -> None:
    for alternative in ("greater", "less", "two-sided"):
        p = stats.permutation_p(observed, null, alternative)
        assert 1 / (1 + len(null)) <= p <= 1


def test_permutation_p_is_uniform_under_the_null() -> None:
    rng = np.random.default_rng(0)
    p = np.array([stats.permutation_p(d[0], d[1:]) for d in rng.normal(size=(2000, 20))])
    # one of 20 equally probable ranks: P(p <= k/20) = k/20, standard error at most 0.011
    for k in (1, 2, 5, 10, 15):
        assert np.mean(p <= k / 20 + 1e-9) == pytest.approx(k / 20, abs=0.04)


def test_no_hit_at_all_is_as_uncertain_as_wilson_says_whatever_chance_is() -> None:
    """40 facts, no right candidate, chance 1/4 in one relation and 1/20 in the other.

    Corrected values: -1/3 and -1/19, mean -(20/3 + 20/19)/40 = -0.1930. Wilson for 0 of 40 leaves
    z²/(40 + z²) = 3.8415/43.8415 = 0.0876 exceptions, each worth mean(1 - x) = 1.1930:
    upper end -0.1930 + 0.0876 x 1.1930 = -0.0885. Draws over a subset of facts vary through the
    relations' shares alone, and would give an interval that has nothing to do with the hits.
    """
    values = np.array([-1 / 3] * 20 + [-1 / 19] * 20)
    strata = ["a"] * 40 + ["b"] * 40
    inside = np.array(([True] * 20 + [False] * 20) * 2)
    sampler = Resampler.make(strata, 500, 0).subset(inside)
    estimate = stats.bootstrap_mean(values, sampler, support=(values, 1.0))
    assert estimate.method == "wilson"
    assert estimate.value == pytest.approx(-0.1930, abs=1e-4)
    assert estimate.ci_low == pytest.approx(-0.1930, abs=1e-4)
    assert estimate.ci_high == pytest.approx(-0.0885, abs=1e-4)
