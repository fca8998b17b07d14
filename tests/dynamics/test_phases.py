"""The phase detector on curves whose t1 and t2 are known."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factlife.dynamics.phases import (
    TOLERANCE,
    baseline,
    detect,
    empirical_entropy,
    evaluation_steps,
    first_lasting,
    smooth,
)

EXACT = settings(derandomize=True, database=None, deadline=None, max_examples=60)
B = 4.0
STEPS = evaluation_steps(4000, 60)


def curve(t1: float, t2: float, steps: list[int] = STEPS) -> np.ndarray:
    """Loss 9 nats until t1, then exactly B, then 1 nat from t2 on."""
    s = np.asarray(steps, dtype=float)
    return np.where(s < t1, 9.0, np.where(s < t2, B, 1.0))


def first_step(bound: float, steps: list[int] = STEPS) -> int:
    """The first evaluation at `bound` or later."""
    return next(s for s in steps if s >= bound)


def noisy(values: np.ndarray, seed: int) -> np.ndarray:
    """One evaluation in ten is 30 % too low or too high, never two neighbours; the others 1 %."""
    rng = np.random.default_rng(seed)
    factor = 1 + 0.01 * rng.uniform(-1, 1, len(values))
    factor[5::10] = rng.choice([0.7, 1.3], len(factor[5::10]))
    return values * factor


# ---- known times -----------------------------------------------------------------------------


@EXACT
@given(
    st.floats(2, 300), st.floats(2.5, 8), st.integers(0, 1000), st.booleans()
)  # fmt: skip
def test_known_times_are_found_with_and_without_noise(
    t1: float, factor: float, seed: int, noise: bool
) -> None:
    t2 = t1 * factor
    known, held = curve(t1, t2), np.where(np.asarray(STEPS) < t1, 9.0, B)
    if noise:
        known, held = noisy(known, seed), noisy(held, seed + 1)
    found = detect(STEPS, known, held, B)
    # An outlier beside a jump may move what the median sees by one evaluation.
    near = {first_step(t1), *_neighbours(first_step(t1))} if noise else {first_step(t1)}
    assert found.t1.step in near
    near = {first_step(t2), *_neighbours(first_step(t2))} if noise else {first_step(t2)}
    assert found.t2.step in near
    assert found.t_held.step is None and "stays at the baseline" in str(found.t_held.reason)


def _neighbours(step: int) -> tuple[int, int]:
    i = STEPS.index(step)
    return STEPS[max(i - 1, 0)], STEPS[min(i + 1, len(STEPS) - 1)]


def test_the_twin_needs_no_baseline() -> None:
    # Known and held-out people part at 700: L_heldout - L = 4 - 1 = 3 > 0.05 * 4.
    found = detect(STEPS, curve(20, 700), curve(20, math.inf), B)
    assert found.t2_twin.step == found.t2.step == first_step(700)


def test_a_chance_difference_before_training_is_not_the_twin() -> None:
    # Untrained, the held-out people's loss is 1 nat above the known ones'; at the plateau it is 0.
    held = np.where(np.asarray(STEPS) < 20, 10.0, B)
    assert detect(STEPS, curve(20, 700), held, B).t2_twin.step == first_step(700)
    never = detect(STEPS, curve(20, math.inf), held, B).t2_twin
    assert never.step is None and "have not parted" in str(never.reason)


def test_hallucination_begins_where_held_out_loss_rises() -> None:
    s = np.asarray(STEPS)
    held = np.where(s < 20, 9.0, np.where(s < 900, B, 1.06 * B))
    found = detect(STEPS, curve(20, 700), held, B)
    assert found.t_held.step == first_step(900)


def test_the_initial_loss_above_the_baseline_is_no_hallucination() -> None:
    # Held-out loss is 9 > 1.05 * 4 at every evaluation before t1, and B ever after.
    found = detect(STEPS, curve(300, 700), np.where(np.asarray(STEPS) < 300, 9.0, B), B)
    assert found.t_held.step is None
    assert found.t1.step == first_step(300)


def test_known_people_at_the_baseline_while_held_out_ones_never_come_down() -> None:
    # Held-out loss is above from the start: the onset is t1, not step 0.
    found = detect(STEPS, curve(300, 700), np.full(len(STEPS), 9.0), B)
    assert found.t_held.step == found.t1.step == first_step(300)


# ---- what is not reached is no number --------------------------------------------------------


def test_never_learned() -> None:
    found = detect(STEPS, curve(20, math.inf), curve(20, math.inf), B)
    assert found.t1.step == first_step(20)
    for moment in (found.t2, found.t2_twin, found.t_held):
        assert moment.step is None and str(moment.reason).startswith("not reached: ")
    assert "at step 4000, where the run ends" in str(found.t2.reason)
    assert found.ratio is None and found.plateau is None


def test_a_run_that_never_comes_down_has_no_phase() -> None:
    found = detect(STEPS, np.full(len(STEPS), 9.0), np.full(len(STEPS), 9.0), B)
    assert [m.step for m in (found.t1, found.t2, found.t2_twin, found.t_held)] == [None] * 4
    assert "no plateau to rise from" in str(found.t_held.reason)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_evaluations_to_agree(count: int) -> None:
    found = detect(STEPS[:count], [1.0] * count, [1.0] * count, B)
    assert found.t1.step is None and f"only {count} evaluations" in str(found.t1.reason)


def test_leaving_the_plateau_at_the_last_two_evaluations_is_not_enough() -> None:
    loss = np.full(len(STEPS), B)
    loss[-2:] = 1.0
    assert detect(STEPS, loss, loss, B).t2.step is None
    loss[-3:] = 1.0
    assert detect(STEPS, loss, loss, B).t2.step == STEPS[-3]


def test_without_a_plateau_t2_follows_t1_at_once() -> None:
    s = np.asarray(STEPS, dtype=float)
    loss = 9.0 * np.exp(-s / 100)
    found = detect(STEPS, loss, np.full(len(s), B), B)
    # 9 exp(-t/100) = 4.2 at t = 76.2; = 3.8 at t = 86.2: a ratio of 1.13.
    assert found.t1.step == first_step(76.2) and found.t2.step == first_step(86.2)
    assert found.plateau is False


def test_a_plateau_is_twice_as_long_as_the_way_to_it() -> None:
    found = detect([0, 10, 20, 30, 40, 50, 60], [9, 4, 1, 1, 1, 1, 1], [4] * 7, B)
    assert found.ratio == 2.0 and found.plateau is True
    found = detect([0, 10, 19, 30, 40, 50, 60], [9, 4, 1, 1, 1, 1, 1], [4] * 7, B)
    assert found.ratio == 1.9 and found.plateau is False
    at_once = detect([0, 10, 20, 30], [4, 4, 4, 4], [4] * 4, B)
    assert at_once.t1.step == 0 and at_once.ratio is None


@pytest.mark.parametrize(("share", "reached"), [(0.951, False), (0.949, True)])
def test_the_tolerance_is_five_per_cent(share: float, reached: bool) -> None:
    loss = np.full(10, share * B)
    assert (detect(range(10), loss, loss, B).t2.step == 0) is reached
    above = np.full(10, (2 - share) * B)  # 1.049 B is at the baseline, 1.051 B above it
    assert (detect(range(10), above, above, B).t1.step is None) is reached
    assert TOLERANCE == 0.05


# ---- pieces ----------------------------------------------------------------------------------


def test_a_median_of_three_removes_one_outlier_and_keeps_the_ends() -> None:
    assert smooth([5, 1, 9, 2, 2, 7]).tolist() == [5, 5, 2, 2, 2, 7]
    assert smooth([5, 1]).tolist() == [5, 1]


def test_three_in_a_row() -> None:
    holds = np.array([True, True, False, True, True, True, False])
    assert first_lasting(range(7), holds) == 3
    assert first_lasting(range(5), holds[:5]) is None


@EXACT
@given(st.integers(1, 20000), st.integers(8, 80))
def test_evaluations_span_the_run_and_are_log_spaced(last: int, count: int) -> None:
    steps = evaluation_steps(last, count)
    assert steps[0] == 0 and steps[-1] == last and steps == sorted(set(steps))
    assert len(steps) <= count
    # Neighbours are as far apart as the spacing says, but for rounding to whole steps.
    ratio = max(last, 1) ** (1 / (count - 2))
    assert all(b <= (a + 0.5) * ratio + 0.5 for a, b in pairwise(steps[1:]))


# ---- the baseline ----------------------------------------------------------------------------


def test_a_population_of_known_entropy() -> None:
    # Attribute 0: halves, ln 2. Attribute 1: 1/2, 1/4, 1/4: 1.5 ln 2. Attribute 2: all equal: 0.
    people = [[0, 7, 3], [0, 7, 3], [1, 8, 3], [1, 9, 3]]
    assert baseline(people) == pytest.approx((1 + 1.5 + 0) * math.log(2) / 3)


def test_even_values_have_the_entropy_of_their_number() -> None:
    assert empirical_entropy(np.arange(32).repeat(5)) == pytest.approx(math.log(32))


@EXACT
@given(st.lists(st.integers(0, 9), min_size=1, max_size=60))
def test_an_empirical_entropy_is_at_most_that_of_even_values(values: list[int]) -> None:
    found = empirical_entropy(values)
    assert 0 <= found <= math.log(len(set(values))) + 1e-12


def test_a_small_population_has_a_lower_baseline_than_its_lists() -> None:
    # Of n = 512 draws from 32 values the entropy falls short of ln 32 by about 31 / (2 * 512).
    draws = np.random.default_rng(0).integers(0, 32, (512, 4))
    assert math.log(32) - baseline(draws) == pytest.approx(31 / 1024, rel=0.5)
