"""What survives tau, by hand and by the slow definition."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.circuits.graph import (
    attention_parts,
    ffn_parts,
    random_contributions,
    renormalised,
)

from factlife.circuits.threshold import renormalise, survivors
from factlife.config import Circuits
from factlife.tracing import Contributions, Layout

MODES = [
    Circuits(threshold=threshold, self_edges=edges)
    for threshold in ("per_head_key", "per_edge")
    for edges in ("separate", "merged")
]


def one_query(
    heads: list[list[float]], residual: float, attention_bias: float = 0.0
) -> Contributions:
    """One layer and prompt; what query 1 of two tokens takes from (key, head)."""
    h = len(heads[0])
    by_head = torch.zeros(1, 1, 2, 2, h)
    by_head[0, 0, 1] = torch.tensor(heads)
    row = torch.zeros(1, 1, 2)

    def at_query(value: float) -> torch.Tensor:
        return row + torch.tensor([0.0, value])

    return Contributions(
        heads=by_head,
        residual=at_query(residual),
        attention_bias=at_query(attention_bias),
        ffn=at_query(0.3),
        mid=at_query(0.695),
        ffn_bias=at_query(0.005),
        experts=None,
        zero=row.bool(),
        layout=Layout(1, h, 4, 0, False),
    )


def test_each_head_and_key_by_itself() -> None:
    # tau 0.1: key 0 gives 0.25 and 0.08, itself 0.09 and 0.02; residual 0.5; bias 0.06.
    c = one_query([[0.25, 0.08], [0.09, 0.02]], residual=0.5, attention_bias=0.06)
    alive = survivors(c, 0.1, Circuits())
    assert alive.heads[0, 0, 1].tolist() == [[True, False], [False, False]]
    assert alive.residual[0, 0].tolist() == [False, True]
    assert not alive.attention_bias.any()
    # Left are 0.25 and 0.5 of 0.75: a third and two thirds.
    shares = renormalise(c, alive, Circuits())
    assert shares.heads[0, 0, 1, 0, 0].item() == pytest.approx(1 / 3)
    assert shares.residual[0, 0, 1].item() == pytest.approx(2 / 3)
    # FFN 0.3 and the residual past it 0.695 of 0.995; the bias 0.005 falls.
    assert shares.ffn[0, 0, 1].item() == pytest.approx(0.3 / 0.995)
    assert shares.mid is not None
    assert shares.mid[0, 0, 1].item() == pytest.approx(0.695 / 0.995)


def test_attention_spread_over_heads_survives_as_an_edge() -> None:
    # Key 0 gives 4 x 0.04 = 0.16 > 0.1; none alone exceeds 0.1, each exceeds 0.1 / 4 = 0.025.
    # Key 1 gives 0.05 + 0.02 = 0.07 < 0.1: no edge, although 0.05 > 0.025.
    c = one_query([[0.04] * 4, [0.05, 0.02, 0.0, 0.0]], residual=0.77)
    assert not survivors(c, 0.1, Circuits()).heads.any()
    alive = survivors(c, 0.1, Circuits(threshold="per_edge"))
    assert alive.heads[0, 0, 1].tolist() == [[True] * 4, [False] * 4]


def test_a_head_with_less_than_an_equal_share_of_the_weakest_edge_carries_none() -> None:
    # Edge 0.3 + 0.04 > 0.1, and 0.04 < 0.1 / 2.
    c = one_query([[0.3, 0.04], [0.0, 0.0]], residual=0.66)
    alive = survivors(c, 0.1, Circuits(threshold="per_edge"))
    assert alive.heads[0, 0, 1].tolist() == [[True, False], [False, False]]


def test_merged_self_edges_survive_by_their_sum() -> None:
    # To itself: residual 0.06, heads 0.03 + 0.03: none above 0.1, their sum 0.12 is.
    c = one_query([[0.44, 0.44], [0.03, 0.03]], residual=0.06)
    assert not survivors(c, 0.1, Circuits()).residual.any()
    merged = Circuits(self_edges="merged")
    alive = survivors(c, 0.1, merged)
    assert alive.residual[0, 0].tolist() == [False, True]
    assert not alive.heads[0, 0, 1, 1].any()
    # The edge keeps its whole c, 0.12 of 0.12 + 0.88.
    assert renormalise(c, alive, merged).residual[0, 0, 1].item() == pytest.approx(0.12)


def test_a_contribution_equal_to_tau_falls() -> None:
    c = one_query([[0.25, 0.25], [0.0, 0.0]], residual=0.5)
    assert not survivors(c, 0.25, Circuits()).heads.any()
    assert survivors(c, 0.0, Circuits()).heads.sum() == 2


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    parallel=st.booleans(),
    tau=st.sampled_from([0.0, 0.01, 0.05, 0.2]),
    mode=st.sampled_from(MODES),
)
def test_survivors_equal_the_slow_definition(
    seed: int, parallel: bool, tau: float, mode: Circuits
) -> None:
    c = random_contributions(seed, (3, 2), n_layers=2, parallel=parallel, spread=2.0)
    alive = survivors(c, tau, mode)
    shares = renormalise(c, alive, mode)
    for layer, b, q in ((x, y, z) for x in range(2) for y in range(2) for z in range(3)):
        attention = attention_parts(c, layer, b, q, tau, mode)
        ffn = ffn_parts(c, layer, b, q, tau)
        pairs = {k for k in attention if isinstance(k, tuple)}
        assert {tuple(p) for p in alive.heads[layer, b, q].nonzero().tolist()} == pairs
        assert alive.residual[layer, b, q].item() == ("residual" in attention)
        assert alive.attention_bias[layer, b, q].item() == ("attention_bias" in attention)
        assert alive.ffn[layer, b, q].item() == ("ffn" in ffn)
        wanted = (
            renormalised(attention | ffn)
            if parallel
            else renormalised(attention) | renormalised(ffn)
        )
        for key, share in wanted.items():
            if isinstance(key, tuple):
                got = shares.heads[layer, b, q][key].item()
            else:
                got = getattr(shares, key)[layer, b, q].item()
            assert got == pytest.approx(share, abs=1e-6)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), parallel=st.booleans(), mode=st.sampled_from(MODES))
def test_survivors_sum_to_one_or_nothing(seed: int, parallel: bool, mode: Circuits) -> None:
    c = random_contributions(seed, parallel=parallel, n_experts=3)
    shares = renormalise(c, survivors(c, 0.02, mode), mode)
    attention = shares.heads.sum((3, 4)) + shares.residual + shares.attention_bias
    block = shares.ffn + shares.ffn_bias
    assert shares.experts is not None
    groups = [shares.experts.sum(-1)]
    groups += [attention + block] if parallel else [attention, block + shares.mid]
    for total in groups:
        assert ((total - 1).abs().lt(1e-5) | (total == 0)).all()
