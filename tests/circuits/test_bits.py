"""Packed sets: the layout of the tables, and back."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factlife.circuits.bits import pack, unpack
from factlife.errors import IntegrityError


def test_component_k_is_bit_k_least_significant_first() -> None:
    active = np.zeros((2, 11), dtype=np.bool_)
    active[0, [0, 3, 9]] = True  # byte 0: 1 + 8 = 9; byte 1: 2 ** (9 - 8) = 2
    active[1, 10] = True  # byte 0: 0; byte 1: 2 ** (10 - 8) = 4
    assert pack(active).to_pylist() == [bytes([9, 2]), bytes([0, 4])]


@settings(deadline=None, derandomize=True)
@given(st.integers(0, 5), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_what_was_packed_comes_back(n: int, size: int, seed: int) -> None:
    active = np.random.default_rng(seed).random((n, size)) < 0.5
    column = pack(active)
    assert (unpack(column, size) == active).all()
    assert (unpack(pa.chunked_array([column, column]), size) == np.tile(active, (2, 1))).all()
    assert (unpack(column.take(pa.array(np.arange(n)[::-1])), size) == active[::-1]).all()


def test_a_null_is_an_empty_set() -> None:
    column = pa.concat_arrays([pack(np.ones((1, 9), np.bool_)), pa.nulls(1, pa.binary())])
    assert unpack(column, 9).sum(axis=1).tolist() == [9, 0]


def test_sets_of_another_width_are_refused() -> None:
    with pytest.raises(IntegrityError, match="9 components takes 2 bytes, found one of 1"):
        unpack(pack(np.ones((1, 8), np.bool_)), 9)
