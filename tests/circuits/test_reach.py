"""Batched reachability equals a search through an explicit graph."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.circuits.graph import Circuit, circuit, each_circuit, random_contributions
from tests.circuits.test_threshold import MODES
from tests.tiny import CONFIGS, VOCAB, random_model

from factlife.circuits.reach import Reached, circuits, reach
from factlife.circuits.threshold import survivors
from factlife.config import Circuits
from factlife.scoring.targets import pad
from factlife.tracing import Contributions, Layout, adapter_for, contributions


def assert_equal(reached: Reached, b: int, row: int, found: Circuit) -> None:
    def pairs(active: torch.Tensor) -> set[tuple[int, ...]]:
        return {tuple(p) for p in active[b, row].nonzero().tolist()}

    assert pairs(reached.heads) == found.heads
    assert pairs(reached.ffns) == {(layer,) for layer in found.ffns}
    if reached.experts is not None:
        assert pairs(reached.experts) == found.experts


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.sampled_from(["serial", "parallel", "moe", "parallel moe"]),
    tau=st.sampled_from([0.0, 0.01, 0.05, 0.15]),
    spread=st.sampled_from([1.0, 3.0]),
    mode=st.sampled_from(MODES),
)
def test_random_graphs(seed: int, shape: str, tau: float, spread: float, mode: Circuits) -> None:
    experts, parallel = 3 * ("moe" in shape), "parallel" in shape
    c = random_contributions(
        seed, (3, 5), n_experts=experts, parallel=parallel, spread=spread, zeros=0.3
    )
    reached = circuits(survivors(c, tau, mode))
    for b, n in enumerate((3, 5)):
        for t, found in enumerate(each_circuit(c, b, n, tau, mode)):
            assert_equal(reached, b, t, found)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), ends=st.sets(st.integers(0, 4), min_size=1))
def test_several_ends_reach_the_union(seed: int, ends: set[int]) -> None:
    c = random_contributions(seed, (5,), zeros=0.4)
    alive = survivors(c, 0.05, Circuits())
    mask = torch.zeros(1, 1, 5, dtype=torch.bool)
    mask[0, 0, list(ends)] = True
    union = reach(alive, mask)
    assert_equal(union, 0, 0, circuit(c, 0, sorted(ends), 0.05, Circuits()))
    each = circuits(alive)
    assert (union.heads[0, 0] == each.heads[0, list(ends)].any(dim=0)).all()


@pytest.mark.parametrize("arch", sorted(CONFIGS))
def test_traced_models_of_every_architecture(arch: str) -> None:
    """tau 0.05: some of a tiny model's components are in a circuit and some are not."""
    model = random_model(arch)
    generator = torch.Generator().manual_seed(1)
    rows = [torch.randint(2, VOCAB, (n,), generator=generator).tolist() for n in (5, 7)]
    padded = pad(rows, "right", torch.device("cpu"))
    c = contributions(model, adapter_for(model), padded)
    shares = []
    for mode in MODES:
        reached = circuits(survivors(c, 0.05, mode))
        shares.append(reached.heads.float().mean().item())
        for b, n in enumerate((5, 7)):
            for t, found in enumerate(each_circuit(c, b, n, 0.05, mode)):
                assert_equal(reached, b, t, found)
    assert 0.05 < np.mean(shares) < 0.95


def test_padding_is_in_no_circuit_and_has_none() -> None:
    c = random_contributions(3, (2, 6))
    reached = circuits(survivors(c, 0.0, Circuits()))
    assert not reached.heads[0, 2:].any()
    assert not reached.ffns[0, 2:].any()
    alone = circuits(survivors(random_contributions_of(c, 0, 2), 0.0, Circuits()))
    assert (reached.heads[0, :2] == alone.heads[0]).all()


def random_contributions_of(c: Contributions, b: int, n: int) -> Contributions:
    """The same contributions of one prompt, without its padding."""
    cut = {
        f.name: getattr(c, f.name)[:, b : b + 1, :n]
        for f in dataclasses.fields(c)
        if isinstance(getattr(c, f.name), torch.Tensor)
    }
    return dataclasses.replace(c, **cut | {"heads": cut["heads"][:, :, :, :n]})


def test_a_path_by_hand() -> None:
    """Two tokens, one head, two layers: position 1 <- head of layer 1 <- FFN of token 0.

    Layer 1: query 1 takes all from key 0 through its head and passes its FFN by. Layer 0: token 0
    keeps its residual and its FFN; token 1's FFN is alive, but nothing reads it.
    """
    heads = torch.zeros(2, 1, 2, 2, 1)
    heads[1, 0, 1, 0, 0] = 1.0
    residual = torch.tensor([[[1.0, 1.0]], [[1.0, 0.0]]])
    ffn = torch.tensor([[[0.5, 0.5]], [[0.0, 0.0]]])
    zeros = torch.zeros(2, 1, 2)
    c = Contributions(
        heads, residual, zeros, ffn, 1 - ffn, zeros, None, zeros.bool(), Layout(2, 1, 4, 0, False)
    )
    reached = circuits(survivors(c, 0.01, Circuits()))
    assert reached.heads[0, 1].tolist() == [[False], [True]]
    assert reached.ffns[0].tolist() == [[True, False], [True, False]]
    assert reached.stream[:, 0, 1].tolist() == [[True, False], [True, False], [False, True]]
    # Without token 0's own residual and FFN, the head leads nowhere but is still in the circuit.
    cut = dataclasses.replace(c, residual=residual * 0, ffn=ffn * 0, mid=c.mid)
    reached = circuits(survivors(cut, 0.01, Circuits()))
    assert reached.heads[0, 1].tolist() == [[False], [True]]
    assert not reached.ffns.any()
