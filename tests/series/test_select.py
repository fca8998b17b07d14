"""Which checkpoints a profile measures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factlife.config import Selection
from factlife.series.local import Revision
from factlife.series.select import select

EXACT = settings(derandomize=True, database=None, deadline=None, max_examples=200)


def revision(i: int, tokens: int | None, step: int | None = None, stage: str = "main") -> Revision:
    return Revision(f"r{i}", "repo", Path(), stage, step, tokens, "user")


def chosen(
    tokens: Sequence[int | None], n: int, spacing: str = "log", steps: Sequence[int] | None = None
) -> list[int]:
    """Places of the chosen revisions."""
    places = steps or [None] * len(tokens)
    revisions = [revision(i, t, s) for i, (t, s) in enumerate(zip(tokens, places, strict=True))]
    return [int(r.name[1:]) for r in select(revisions, Selection(n, spacing))]


POWERS = [2**i for i in range(9)]


@pytest.mark.parametrize(
    ("tokens", "n", "places"),
    [
        (POWERS, 9, list(range(9))),  # no more than there are: all
        (POWERS, 20, list(range(9))),
        (POWERS, 1, [8]),
        (POWERS, 2, [0, 8]),
        (POWERS, 3, [0, 4, 8]),  # log2 goes 0…8: the middle is 4
        (POWERS, 5, [0, 2, 4, 6, 8]),
        # evenly spaced checkpoints 10…100: targets 10^(1 + 1/3) = 21.5 and 10^(1 + 2/3) = 46.4
        (list(range(10, 101, 10)), 4, [0, 1, 4, 9]),
        # step 0 is chosen beside the axis; 1, 10, 100, 1000 are one step apart on it
        ([0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000], 5, [0, 1, 4, 7, 10]),
        ([0, 1, 10, 100], 2, [0, 3]),
        ([0, 1, 10, 100], 3, [0, 1, 3]),
        # two checkpoints before the first token, as where a second stage starts
        ([0, 0, 1, 10, 100, 1000, 10_000], 4, [0, 2, 4, 6]),
    ],
)
def test_log_spacing_by_hand(tokens: list[int], n: int, places: list[int]) -> None:
    assert chosen(tokens, n) == places


def test_where_tokens_are_unknown_steps_stand_in_and_then_places() -> None:
    unknown: list[int | None] = [None, *POWERS[1:]]
    assert chosen(unknown, 3, steps=POWERS) == [0, 4, 8]
    # places 1…9: the middle of ln 1…ln 9 is ln 3, the third revision
    assert chosen(unknown, 3) == [0, 2, 8]
    assert chosen([0] * 9, 3) == [0, 2, 8]  # zero tokens throughout say nothing


def test_steps_of_several_stages_are_no_common_axis() -> None:
    steps = [100, 200, 300, 400, 500, 1, 2, 3, 4]
    revisions = [revision(i, None, s, f"stage{1 + i // 5}") for i, s in enumerate(steps)]
    found = [r.name for r in select(revisions, Selection(3, "log"))]
    assert found == ["r0", "r2", "r8"]  # by place, as above


def test_all_spacing_is_even_by_place() -> None:
    assert chosen(POWERS, 3, "all") == [0, 4, 8]
    assert chosen([1, 2, 3, 4, 1000], 3, "all") == [0, 2, 4]
    assert chosen(POWERS, 9, "all") == list(range(9))


COUNTS = st.lists(st.integers(0, 10**12), min_size=1, max_size=30)


@EXACT
@given(
    COUNTS.map(sorted) | COUNTS | st.lists(st.none() | st.integers(0, 99), min_size=1, max_size=30),
    st.integers(1, 30),
    st.sampled_from(["log", "all"]),
)
def test_the_choice_is_full_ordered_and_holds_the_ends(
    tokens: list[int | None], n: int, spacing: str
) -> None:
    found = chosen(tokens, n, spacing)
    assert len(found) == min(n, len(tokens))
    assert found == sorted(set(found))
    assert found[-1] == len(tokens) - 1
    assert n == 1 or found[0] == 0
    assert found == chosen(tokens, n, spacing)


@EXACT
@given(st.lists(st.integers(1, 10**6), min_size=3, max_size=20, unique=True), st.integers(2, 1000))
def test_the_unit_of_tokens_does_not_change_the_choice(tokens: list[int], unit: int) -> None:
    ordered = sorted(tokens)
    n = max(2, len(ordered) // 2)
    a, b = chosen(ordered, n), chosen([t * unit for t in ordered], n)
    # rounding may break a tie the other way: then both are as near to the same target
    assert len(set(a) ^ set(b)) <= 2
