"""The x-axis: log tokens with step 0 apart, else steps, else places."""

from __future__ import annotations

import math
from typing import Any

import pytest

from factlife.report.axis import make_axis


def checkpoints(
    tokens: list[int | None], steps: list[int | None] | None = None
) -> list[dict[str, Any]]:
    steps = steps or [None] * len(tokens)
    return [
        {"tokens": t, "step": s, "position": i}
        for i, (t, s) in enumerate(zip(tokens, steps, strict=True))
    ]


def test_step_0_has_a_slot_left_of_the_log_axis() -> None:
    axis = make_axis(checkpoints([0, 1000, 10_000, 100_000]))
    assert axis.kind == "tokens"
    assert axis.place(1000) == pytest.approx(3)
    # The slot takes 12 % of the axis: 5 - slot = (5 - 3) / 0.88, slot = 2.727.
    assert axis.slot == pytest.approx(5 - 2 / 0.88)
    assert axis.place(0) == axis.slot
    assert axis.domain[0] < axis.slot < axis.breaks[0] < 3 < 5 < axis.domain[1]
    assert axis.ticks == pytest.approx([axis.slot, 3, 4, 5])
    assert [axis.is_alone(v) for v in axis.values] == [True, False, False, False]


def test_without_step_0_the_axis_begins_at_the_first_checkpoint() -> None:
    axis = make_axis(checkpoints([1000, 10_000]))
    assert axis.slot is None
    assert axis.breaks == []
    assert axis.domain[0] == pytest.approx(3 - 0.04)
    widened = axis.with_slot()
    assert widened.slot is not None
    assert widened.slot < 3
    assert "step 0 apart" in widened.title
    assert "step 0 apart" not in axis.title


def test_steps_stand_in_where_tokens_are_not_known() -> None:
    axis = make_axis(checkpoints([0, None, 5], [0, 10, 100]))
    assert (axis.kind, axis.values) == ("step", (0, 10, 100))


@pytest.mark.parametrize("steps", [[None, None, None], [0, 10, 5], [0, 10, 10]])
def test_places_stand_in_where_steps_do_not_grow(steps: list[int | None]) -> None:
    axis = make_axis(checkpoints([None] * 3, steps))
    assert (axis.kind, axis.values, axis.slot) == ("position", (0, 1, 2), None)
    assert axis.ticks == [0, 1, 2]
    assert axis.with_slot() is axis
    assert axis.place(2) == 2


@pytest.mark.parametrize(
    "tokens",
    [[7], [0], [0, 5_000_000], [10**12, 2 * 10**12, 3 * 10**12], list(range(1, 41)), [5, 5, 6]],
)
def test_any_series_has_finite_ends_and_a_few_ticks_between_them(tokens: list[int | None]) -> None:
    axis = make_axis(checkpoints(tokens))
    low, high = axis.domain
    assert math.isfinite(low)
    assert low < high
    assert 1 <= len(axis.ticks) <= 9
    assert all(low <= t <= high for t in axis.ticks)
    assert all(low <= axis.place(v) <= high for v in axis.values)


def test_a_single_checkpoint_after_step_0_stands_alone() -> None:
    axis = make_axis(checkpoints([0, 100]))
    assert [axis.is_alone(v) for v in axis.values] == [True, True]
