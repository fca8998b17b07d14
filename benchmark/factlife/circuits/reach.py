"""Circuits by batched boolean reachability (Ferrando & Voita 2024).

Shapes: L layers, B prompts, T tokens, H heads, E experts, N sets of end positions.

The circuit of position t is everything that is reached backward from the last residual at t. R
holds the positions of the residual stream that are reached; block by block, from the last:

1. an FFN is in the circuit where R holds its position and its edge survives;
2. serial block: R_A, the positions reached between attention and FFN, are those of R whose FFN or
   residual past it survives (the FFN reads there too). Parallel block: R_A = R;
3. a head is in the circuit where it gives to a position of R_A, from any key;
4. R for the block before: the keys of those edges, the positions of R_A whose own residual
   survives and, in a parallel block, those whose FFN survives.

An expert is in the circuit where its FFN is and where it survives among the experts.

All prompts and positions are one matrix product a block: counts of paths in fp32, exact below
2^24, compared with 0. Beyond its result this holds one block's [B, N, T + H] at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from factlife.circuits.threshold import Survivors


@dataclass(frozen=True)
class Reached:
    """Components in the circuit of every end, and the positions it passes through.

    Attributes:
        stream: [L + 1, B, N, T] positions of the residual stream, before each block and at the end.
        middle: [L, B, N, T] positions that attention gives to (between attention and FFN).
    """

    heads: Bool[Tensor, "B N L H"]
    ffns: Bool[Tensor, "B N L"]
    experts: Bool[Tensor, "B N L E"] | None
    stream: Bool[Tensor, "L1 B N T"]
    middle: Bool[Tensor, "L B N T"]


def circuits(alive: Survivors) -> Reached:
    """The circuit of every position by itself: N = T, row t is that of position t.

    Padding is in no circuit and has none: none of its edges survives.
    """
    _, b, t = alive.residual.shape
    ends = torch.eye(t, dtype=torch.bool, device=alive.residual.device)
    return reach(alive, ends.expand(b, t, t))


def reach(alive: Survivors, ends: Bool[Tensor, "B N T"]) -> Reached:
    """Everything reached backward from sets of end positions (a union of circuits each)."""
    at = ends.float()
    stream, middle, heads, ffns, experts = [at > 0], [], [], [], []
    for layer in reversed(range(alive.residual.shape[0])):
        ffn = alive.ffn[layer]
        through = at if alive.mid is None else at * (ffn | alive.mid[layer])[:, None, :]
        ffns.append((at @ ffn.float()[..., None]).squeeze(-1) > 0)
        if alive.experts is not None:
            chosen = alive.experts[layer] & ffn[..., None]
            experts.append(at @ chosen.float() > 0)
        found = through @ torch.cat(_edges(alive, layer), dim=-1) > 0
        before, by_head = found.split([ends.shape[-1], found.shape[-1] - ends.shape[-1]], dim=-1)
        heads.append(by_head)
        middle.append(through > 0)
        stream.append(before)
        at = before.float()
    return Reached(
        heads=_stacked(heads, 2),
        ffns=_stacked(ffns, 2),
        experts=_stacked(experts, 2) if experts else None,
        stream=_stacked(stream, 0),
        middle=_stacked(middle, 0),
    )


def _edges(alive: Survivors, layer: int) -> tuple[Float[Tensor, "B T T"], Float[Tensor, "B T H"]]:
    """From each position of R_A: keys that it is reached from, and heads that give to it."""
    heads = alive.heads[layer]
    keys, stays = heads.any(dim=-1), alive.residual[layer]
    if alive.mid is None:
        stays = stays | alive.ffn[layer]
    keys.diagonal(dim1=1, dim2=2).logical_or_(stays)
    return keys.float(), heads.any(dim=2).float()


def _stacked(backward: list[Tensor], dim: int) -> Tensor:
    return torch.stack(backward[::-1], dim=dim)
