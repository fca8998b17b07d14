"""Batches come in an order that can be taken up again anywhere."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from factlife.errors import UsageError
from factlife.training import NO_LOSS, RowSource

ROWS = torch.arange(14).reshape(7, 2)


def first_column(source: RowSource, batches: int) -> list[list[int]]:
    return [(source.next_batch().ids[:, 0] // 2).tolist() for _ in range(batches)]


def test_rows_come_in_order_and_begin_anew() -> None:
    # 7 rows make 3 full batches of 2; the seventh row waits for a shuffle
    assert first_column(RowSource(ROWS, 2), 4) == [[0, 1], [2, 3], [4, 5], [0, 1]]


def test_each_epoch_has_an_order_of_its_own() -> None:
    source = RowSource(ROWS, 7, shuffle_seed=3)
    first, second = first_column(source, 2)
    assert sorted(first) == sorted(second) == list(range(7))
    assert first != second
    assert first_column(RowSource(ROWS, 7, shuffle_seed=3), 2) == [first, second]
    assert first_column(RowSource(ROWS, 7, shuffle_seed=4), 2) != [first, second]


@given(st.integers(0, 12), st.integers(0, 12), st.sampled_from([None, 5]))
def test_a_saved_position_goes_on_where_it_was(done: int, more: int, seed: int | None) -> None:
    unbroken, broken = RowSource(ROWS, 3, seed), RowSource(ROWS, 3, seed)
    first_column(unbroken, done)
    broken.seek(unbroken.position())
    assert first_column(broken, more) == first_column(unbroken, more)


def test_padding_is_no_target() -> None:
    batch = RowSource(torch.tensor([[5, 6, 0, 1]]), 1, pad=1).next_batch()
    assert batch.labels is not None
    assert batch.labels.tolist() == [[5, 6, 0, NO_LOSS]]
    assert RowSource(ROWS, 1).next_batch().labels is None


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(UsageError, match="7 rows of text are too few for a batch of 8"):
        RowSource(ROWS, 8)
