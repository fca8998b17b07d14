"""Packing loses nothing, doubles nothing and keeps order where it says so."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factlife.errors import UsageError
from factlife.training import pack, pack_whole

EOS, PAD = 0, 1
DOCUMENTS = st.lists(st.lists(st.integers(2, 50), max_size=20), max_size=40)


def test_a_stream_cut_by_hand() -> None:
    rows, rest = pack([[5, 6], [7], [8, 9, 9]], context=4, eos=EOS)
    # stream: 5 6 0 | 7 0 | 8 9 9 0
    assert rows.tolist() == [[5, 6, 0, 7], [0, 8, 9, 9]]
    assert rest.tolist() == [0]


def test_whole_documents_by_hand() -> None:
    rows = pack_whole([[5, 6, 7], [8, 8, 8], [9], [4, 4, 4, 4]], context=6, eos=EOS, pad=PAD)
    # 4 + 2 fill the first row with the third document; 4 + 5 do not fit, so one row each
    assert rows.tolist() == [[5, 6, 7, 0, 9, 0], [8, 8, 8, 0, 1, 1], [4, 4, 4, 4, 0, 1]]


def test_a_document_longer_than_a_row_is_cut_and_kept() -> None:
    rows = pack_whole([[2, 3, 4, 5, 6], [7]], context=4, eos=EOS, pad=PAD)
    assert rows.tolist() == [[2, 3, 4, 5], [6, 0, 7, 0]]


@given(DOCUMENTS, st.integers(2, 17))
def test_the_stream_is_the_documents(documents: list[list[int]], context: int) -> None:
    rows, rest = pack(documents, context, EOS)
    assert rows.flatten().tolist() + rest.tolist() == [t for d in documents for t in (*d, EOS)]
    assert rows.shape[1] == context
    assert len(rest) < context


@given(DOCUMENTS, st.integers(2, 17), st.integers(1, 8))
def test_whole_packing_loses_nothing(
    documents: list[list[int]], context: int, lookahead: int
) -> None:
    rows = pack_whole(documents, context, EOS, PAD, lookahead)
    found = Counter(t for row in rows.tolist() for t in row if t != PAD)
    assert found == Counter(t for d in documents for t in (*d, EOS))


@given(DOCUMENTS, st.integers(21, 64))
def test_whole_packing_keeps_documents_whole(documents: list[list[int]], context: int) -> None:
    """No document is longer than a row here, so each is found again between two ends."""
    rows = pack_whole(documents, context, EOS, PAD)
    found: Counter[tuple[int, ...]] = Counter()
    for row in rows.tolist():
        document: list[int] = []
        body = row[: len(row) - row.count(PAD)]
        assert PAD not in body
        assert body[-1] == EOS
        for token in body:
            if token == EOS:
                found[tuple(document)] += 1
                document = []
            else:
                document.append(token)
    assert found == Counter(tuple(d) for d in documents)


@given(DOCUMENTS)
def test_without_lookahead_the_order_is_kept(documents: list[list[int]]) -> None:
    rows = pack_whole(documents, 32, EOS, PAD, lookahead=1)
    stream = [t for row in rows.tolist() for t in row if t != PAD]
    assert stream == [t for d in documents for t in (*d, EOS)]


def test_nothing_packs_to_no_rows() -> None:
    assert pack([], 4, EOS)[0].shape == (0, 4)
    assert pack_whole([], 4, EOS, PAD).shape == (0, 4)


def test_too_short_a_context_is_refused() -> None:
    with pytest.raises(UsageError, match="at least 2 tokens"):
        pack([[1]], 1, EOS)
    with pytest.raises(UsageError, match="at least 2 tokens"):
        pack_whole([[1]], 1, EOS, PAD)
