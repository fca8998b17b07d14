"""Batches come in an order that can be taken up again anywhere."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from factlife.errors import UsageError
from factlife.training import NO_LOSS, Batch, RowSource
from factlife.training.batches import Ahead

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


# ---- a batch ahead ---------------------------------------------------------------------------


class _Counting:
    """Batches 0, 1, 2, … of one row, to an end; remembers how many were asked for."""

    def __init__(self, last: int = 10**9) -> None:
        self.at, self.last = 0, last

    def next_batch(self) -> Batch:
        if self.at > self.last:
            raise UsageError("no more")
        self.at += 1
        return Batch(torch.tensor([[self.at - 1]]))

    def position(self) -> dict[str, int]:
        return {"batch": self.at}

    def seek(self, position: Any) -> None:
        self.at = position["batch"]


def test_a_batch_made_ahead_does_not_count_in_the_position() -> None:
    source = Ahead(_Counting())
    assert source.position() == {"batch": 0}
    assert [int(source.next_batch().ids) for _ in range(3)] == [0, 1, 2]
    assert source.position() == {"batch": 3}
    source.seek({"batch": 7})
    assert source.position() == {"batch": 7}
    assert int(source.next_batch().ids) == 7
    source.seek({"batch": 1})
    assert [int(source.next_batch().ids) for _ in range(2)] == [1, 2]


def test_what_the_source_raises_comes_with_its_own_batch() -> None:
    """Text for exactly three batches serves three, although a fourth is asked for ahead."""
    source = Ahead(_Counting(last=2))
    assert [int(source.next_batch().ids) for _ in range(3)] == [0, 1, 2]
    for _ in range(2):
        with pytest.raises(UsageError, match="no more"):
            source.next_batch()
    assert source.position() == {"batch": 3}


@given(st.lists(st.one_of(st.none(), st.integers(0, 20)), max_size=12))
def test_ahead_hands_out_what_the_source_does(moves: list[int | None]) -> None:
    """None takes a batch, a number seeks."""
    ahead, plain = Ahead(_Counting()), _Counting()
    for move in moves:
        if move is None:
            assert torch.equal(ahead.next_batch().ids, plain.next_batch().ids)
        else:
            ahead.seek({"batch": move})
            plain.seek({"batch": move})
        assert ahead.position() == plain.position()


def test_training_from_batches_made_ahead_is_the_same() -> None:
    from tests.training.small import equal, tiny_trainer, weights

    one, two = tiny_trainer(), tiny_trainer()
    two.source = Ahead(two.source)
    for _ in range(4):
        assert one.advance().loss == two.advance().loss
    assert equal(weights(one), weights(two))
