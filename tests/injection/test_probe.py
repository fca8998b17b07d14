"""Probing in one pass, rows shared, against the definition: each probe alone."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tiny import CONFIGS, random_model

from factlife.injection.probe import ProbePass, shared_rows
from factlife.scoring import targets as scoring
from factlife.scoring.targets import Target


@functools.cache
def model_of(arch: str) -> Any:
    return random_model(arch)


@torch.no_grad()
def alone(model: Any, target: Target) -> tuple[float, int, bool]:
    """The definition: the whole sequence by itself, all logits, no padding."""
    logits = model(input_ids=torch.tensor([target.ids])).logits[0].double()
    before = logits[target.start - 1 : target.end - 1]
    wanted = torch.tensor(target.ids[target.start : target.end])
    chosen = torch.log_softmax(before, -1).gather(1, wanted[:, None])
    above = (before > before.gather(1, wanted[:, None])).sum(1)
    return float(chosen.sum()), int(above[0]), bool((above == 0).all())


def nested(count: int = 30, seed: int = 0) -> list[Target]:
    """Prefixes of a few long sequences, repeats, and the same prompt with other last tokens."""
    rng = np.random.default_rng(seed)
    long = [tuple(rng.integers(2, 600, 40).tolist()) for _ in range(3)]
    made = []
    for k in range(count):
        ids, n = long[k % 3], int(rng.integers(3, 41))
        start = int(rng.integers(1, n))
        made.append(Target(ids[:n], start, n))
        made.append(Target((*ids[: n - 1], int(rng.integers(2, 600))), n - 1, n))
    return [*made, made[0], Target(long[0][:9], 4, 7)]  # equal ones; a target that ends early


@pytest.mark.parametrize("arch", sorted(CONFIGS))
def test_shared_rows_give_what_each_probe_alone_gives(arch: str) -> None:
    """MoE, sliding windows (6 and 8 of 40 tokens) and learned positions among them."""
    model, wanted = model_of(arch), nested()
    found = ProbePass(wanted, 128, "cpu")
    assert sum(len(b.padded.ids) for b in found._batches) < len(wanted) / 2  # rows are shared
    got = found(model)
    for i, t in enumerate(wanted):
        total, rank, exact = alone(model, t)
        assert got.logprob_sum[i] == pytest.approx(total, abs=1e-4)
        assert (got.first_rank[i], got.exact[i]) == (rank, exact)


sequences = st.lists(st.lists(st.integers(2, 4), min_size=2, max_size=6), min_size=1, max_size=25)


@settings(deadline=None, max_examples=25)
@given(sequences, st.integers(1, 40), st.data())
def test_any_targets_few_tokens(ids: list[list[int]], batch: int, data: st.DataObject) -> None:
    """Three tokens only, so that sequences often begin one another, or are equal."""
    wanted = []
    for one in ids:
        end = data.draw(st.integers(2, len(one)))
        wanted.append(Target(tuple(one), data.draw(st.integers(1, end - 1)), end))
    model = model_of("llama")
    got = ProbePass(wanted, batch, "cpu")(model)
    for i, t in enumerate(wanted):
        total, rank, exact = alone(model, t)
        assert got.logprob_sum[i] == pytest.approx(total, abs=1e-4)
        assert (got.first_rank[i], got.exact[i]) == (rank, exact)


@given(st.lists(st.lists(st.integers(0, 2), max_size=5).map(tuple), max_size=30))
def test_rows_are_the_sequences_that_begin_no_other(needed: list[tuple[int, ...]]) -> None:
    """Against the definition: compare every pair."""
    rows, row_of = shared_rows(needed)
    wanted = {a for a in needed if not any(b != a and b[: len(a)] == a for b in needed)}
    assert sorted(rows) == sorted(wanted)
    assert all(rows[r][: len(a)] == a for a, r in zip(needed, row_of, strict=True))


def test_rows_by_hand() -> None:
    """(1) and (1 2) begin (1 2 3); (1 3) begins nothing; the second (1 2 3) is the first."""
    rows, row_of = shared_rows([(1,), (1, 2, 3), (1, 3), (1, 2), (1, 2, 3)])
    assert [rows[r] for r in row_of] == [(1, 2, 3), (1, 2, 3), (1, 3), (1, 2, 3), (1, 2, 3)]


def test_many_targets_of_one_row_are_taken_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted, model = nested(), model_of("gpt2")
    whole = ProbePass(wanted, 512, "cpu")(model)
    monkeypatch.setattr(scoring, "_CACHED", 3 * model.config.vocab_size)
    pieces = ProbePass(wanted, 512, "cpu")(model)
    assert np.allclose(whole.logprob_sum, pieces.logprob_sum, atol=1e-6)
    assert (whole.first_rank == pieces.first_rank).all() and (whole.exact == pieces.exact).all()


def test_no_targets_at_all() -> None:
    assert ProbePass([], 512, "cpu")(model_of("llama")).logprob_sum.shape == (0,)
