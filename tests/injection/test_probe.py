"""Probing in one pass, rows shared, against the definition: each probe alone."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tiny import CONFIGS, random_model
from transformers import LlamaForCausalLM

from factlife.injection.probe import ProbePass, after_last_attention, shared_rows
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


# ---- only what is needed, and every core ------------------------------------------------------


@pytest.mark.parametrize("arch", sorted(CONFIGS))
def test_what_follows_the_last_attention_runs_on_target_positions_alone(arch: str) -> None:
    model, wanted = model_of(arch), nested()
    found, seen = ProbePass(wanted, 10**6, "cpu"), []
    modules = after_last_attention(model)
    assert len(modules) == 2
    handles = [
        m.register_forward_hook(lambda _m, args, _o: seen.append(tuple(args[0].shape[:2])))
        for m in modules
    ]
    model(input_ids=torch.tensor([[1, 2, 3]]))
    found(model)
    for handle in handles:
        handle.remove()
    (batch,) = found._batches
    assert batch.padded.ids.numel() > len(batch.rows)
    assert seen == [(1, 3)] * 2 + [(1, len(batch.rows))] * 2


class Own(LlamaForCausalLM):  # type: ignore[misc]
    """Code that is not the transformers library's: its wiring may be any."""


def test_code_that_is_not_known_runs_whole_and_in_one_thread() -> None:
    known, wanted = model_of("llama"), [t for seed in range(3) for t in nested(seed=seed)]
    own = Own(known.config).eval()
    own.load_state_dict(known.state_dict())
    assert after_last_attention(own) == ()
    threads: set[int] = set()
    handle = own.register_forward_pre_hook(lambda _m, _a: threads.add(threading.get_ident()))
    with threads_of_torch(2):
        got, fast = ProbePass(wanted, 64, "cpu")(own), ProbePass(wanted, 64, "cpu")(known)
    handle.remove()
    assert threads == {threading.get_ident()}
    assert np.allclose(got.logprob_sum, fast.logprob_sum, atol=1e-4)
    assert (got.first_rank == fast.first_rank).all() and (got.exact == fast.exact).all()


@contextmanager
def threads_of_torch(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("arch", ["gpt_neox", "olmoe", "olmo2"])
def test_batches_of_several_threads_give_the_same_bits(arch: str, precision: str) -> None:
    model, wanted = model_of(arch), [t for seed in range(4) for t in nested(seed=seed)]
    idents: set[int] = set()
    handle = model.register_forward_pre_hook(lambda _m, _a: idents.add(threading.get_ident()))
    found = ProbePass(wanted, 64, "cpu", precision)
    assert found.forwards >= 6
    with threads_of_torch(1):
        one = found(model)
    with threads_of_torch(3):
        several = [found(model) for _ in range(3)]
        assert torch.get_num_threads() == 3
    handle.remove()
    assert threading.get_ident() in idents and len(idents) > 1
    for got in several:
        assert got.logprob_sum.tobytes() == one.logprob_sum.tobytes()
        assert got.first_rank.tobytes() == one.first_rank.tobytes()
        assert got.exact.tobytes() == one.exact.tobytes()


def test_what_a_thread_raises_is_raised_and_the_threads_are_given_back() -> None:
    model = random_model("llama")
    found = ProbePass([t for seed in range(3) for t in nested(seed=seed)], 64, "cpu")

    def fails(*_: Any) -> None:
        raise MemoryError("no memory")

    with threads_of_torch(2):
        handle = model.register_forward_pre_hook(fails)
        with pytest.raises(MemoryError, match="no memory"):
            found(model)
        assert torch.get_num_threads() == 2
        handle.remove()
        assert np.isfinite(found(model).logprob_sum).all()  # no hook is left


def test_no_targets_at_all() -> None:
    assert ProbePass([], 512, "cpu")(model_of("llama")).logprob_sum.shape == (0,)
