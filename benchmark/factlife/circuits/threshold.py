"""Which contributions count: the threshold tau, and what survives it.

Shapes: L layers, B prompts, T tokens, H heads, E experts; heads[l, b, q, s, h] has query q, key s.

A part survives where its contribution c exceeds tau (strictly), in each (layer, query, step) by
itself; the survivors are then renormalised to sum 1 (the residual and biases among them).

- `per_head_key` (Ferrando & Voita 2024): every (key, head) by itself, before heads are summed.
  Attention that is spread over many keys or heads falls below tau and is lost.
- `per_edge`: the sum over heads of an edge (query, key). Inside a surviving edge a head is kept
  where c > tau / H: an edge above tau has at least one such head, and a head that carries less
  than an equal share of the weakest edge is no carrier of it.
- `self_edges = merged`: the residual and attention of a token to itself are one edge, whose c is
  their sum. The heads inside are kept by the same rule as elsewhere; what is not kept of them
  counts to the residual, so that the edge keeps its whole c.

Experts are thresholded in a group of their own, and only for the roles of experts: the FFN's edge
is the sum over experts, so that eight small ones do not vanish under tau.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from factlife.config import Circuits
from factlife.tracing import Contributions


@dataclass(frozen=True)
class Survivors:
    """What is above tau, in the shape of `Contributions`.

    Attributes:
        residual: of the attention group; with merged self edges, the whole self edge.
        mid: the residual past the FFN; None in a parallel block, which has one group.
        experts: None in a dense model.
    """

    heads: Bool[Tensor, "L B T T H"]
    residual: Bool[Tensor, "L B T"]
    attention_bias: Bool[Tensor, "L B T"]
    ffn: Bool[Tensor, "L B T"]
    mid: Bool[Tensor, "L B T"] | None
    ffn_bias: Bool[Tensor, "L B T"]
    experts: Bool[Tensor, "L B T E"] | None


def survivors(c: Contributions, tau: float, settings: Circuits) -> Survivors:
    """Parts whose contribution exceeds tau.

    Args:
        tau: 0 to 1; at 0 everything that contributes at all survives.
        settings: `threshold` and `self_edges` (see the module).
    """
    merged = settings.self_edges == "merged"
    residual = c.residual + _self_attention(c.heads) if merged else c.residual
    if settings.threshold == "per_edge":
        heads = (c.heads > tau / c.heads.shape[-1]) & _edges(c, tau, merged)[..., None]
    else:
        heads = c.heads > tau
    return Survivors(
        heads=heads,
        residual=residual > tau,
        attention_bias=c.attention_bias > tau,
        ffn=c.ffn > tau,
        mid=None if c.mid is None else c.mid > tau,
        ffn_bias=c.ffn_bias > tau,
        experts=None if c.experts is None else c.experts > tau,
    )


def _self_attention(heads: Float[Tensor, "L B T T H"]) -> Float[Tensor, "L B T"]:
    """Sum over heads of what each token gives to itself."""
    return heads.diagonal(dim1=2, dim2=3).sum(dim=2)  # diagonal: [L, B, H, T]


def _edges(c: Contributions, tau: float, merged: bool) -> Bool[Tensor, "L B T T"]:
    """Edges (query, key) whose sum over heads exceeds tau."""
    summed = c.heads.sum(dim=-1)
    if merged:
        summed.diagonal(dim1=2, dim2=3).add_(c.residual)
    return summed > tau


def renormalise(c: Contributions, alive: Survivors, settings: Circuits) -> Contributions:
    """Contributions of the survivors, each group scaled to sum 1 (or all 0 where none survives)."""
    heads = c.heads * alive.heads
    residual = c.residual
    if settings.self_edges == "merged":
        residual = residual + _self_attention(c.heads) - _self_attention(heads)
    residual = residual.clamp(min=0) * alive.residual
    attention_bias, ffn, ffn_bias = (
        c.attention_bias * alive.attention_bias,
        c.ffn * alive.ffn,
        c.ffn_bias * alive.ffn_bias,
    )
    attention = heads.sum(dim=(3, 4)) + residual + attention_bias
    if c.mid is None or alive.mid is None:
        attention = block = attention + ffn + ffn_bias
        mid = None
    else:
        mid = c.mid * alive.mid
        block = mid + ffn + ffn_bias
        mid = _share(mid, block)
    return replace(
        c,
        heads=_share(heads, attention[..., None, None]),
        residual=_share(residual, attention),
        attention_bias=_share(attention_bias, attention),
        ffn=_share(ffn, block),
        mid=mid,
        ffn_bias=_share(ffn_bias, block),
        experts=_expert_shares(c, alive),
    )


def _expert_shares(c: Contributions, alive: Survivors) -> Tensor | None:
    if c.experts is None or alive.experts is None:
        return None
    kept = c.experts * alive.experts
    return _share(kept, kept.sum(dim=-1, keepdim=True))


def _share(part: Tensor, whole: Tensor) -> Tensor:
    """part / whole, and 0 where the whole is 0."""
    return part / torch.where(whole > 0, whole, torch.ones_like(whole))
